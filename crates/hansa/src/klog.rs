//! How KubeFed's programs are called (`spec/kubefed.md §0 (14), §2`): by the name of a link, with Go's flags, among them those of klog.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

/// klog's flags without a value. They choose files and formats of logs, of which there is one here: lines on stderr.
const SWITCHES: [&str; 6] =
    ["add-dir-header", "alsologtostderr", "logtostderr", "one-output", "skip-headers", "skip-log-headers"];
/// klog's flags with a value; of these `v` says how much is logged.
const VALUES: [&str; 8] = [
    "log-backtrace-at",
    "log-dir",
    "log-file",
    "log-file-max-size",
    "log-flush-frequency",
    "stderrthreshold",
    "v",
    "vmodule",
];
/// The commands that take Go's flags.
const PROGRAMS: [&str; 2] = ["controller-manager", "webhook"];

/// What was said on the command line, in our own terms.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// For the parser of our own flags.
    pub(crate) rest: Vec<OsString>,
    /// klog's `-v`.
    pub(crate) verbosity: Option<u32>,
}

/// Reads a command line. One that is for none of KubeFed's programs stays as it is.
pub(crate) fn arguments(given: impl IntoIterator<Item = OsString>) -> Arguments {
    let mut rest: Vec<OsString> = given.into_iter().collect();
    let called = rest.first().map(Path::new).and_then(Path::file_stem).and_then(OsStr::to_str);
    let program = match called {
        Some("controller-manager" | "kubefed-controller-manager") => Some(PROGRAMS[0]),
        Some("webhook" | "kubefed-webhook") => Some(PROGRAMS[1]),
        _ => None,
    };
    if let Some(program) = program.filter(|program| rest.get(1).is_none_or(|first| first != *program)) {
        rest.insert(1, program.into());
    }
    if !rest.get(1).is_some_and(|first| PROGRAMS.iter().any(|program| first == program)) {
        return Arguments { rest, verbosity: None };
    }
    let mut flags = rest.split_off(2).into_iter();
    let mut verbosity = None;
    while let Some(argument) = flags.next() {
        let text = argument.to_str().unwrap_or_default();
        let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
            rest.push(argument);
            continue;
        };
        if text == "--" {
            rest.push(argument);
            rest.extend(flags.by_ref());
            break;
        }
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let name = name.replace('_', "-");
        if let Some(level) = name.strip_prefix('v').and_then(|level| level.parse().ok()) {
            verbosity = Some(level);
        } else if VALUES.contains(&name.as_str()) {
            let value = value.map_or_else(|| flags.next().unwrap_or_default(), OsString::from);
            if name == "v" {
                verbosity = value.to_str().and_then(|level| level.parse().ok()).or(verbosity);
            }
        } else if !SWITCHES.contains(&name.as_str()) {
            // Go takes a long flag after one dash; a single letter is one of ours.
            let dashes = if name.len() == 1 { "-" } else { "--" };
            let value = value.map(|value| format!("={value}")).unwrap_or_default();
            rest.push(format!("{dashes}{name}{value}").into());
        }
    }
    Arguments { rest, verbosity }
}

/// What is logged at a verbosity: klog's messages at 4 and above are for those who look for a mistake.
pub(crate) fn filter(verbosity: u32) -> &'static str {
    match verbosity {
        0..=3 => "info",
        4..=6 => "info,hansa=debug,hansa_cluster=debug,hansa_federation=debug,hansa_transport=debug",
        7..=9 => "debug",
        _ => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (String, Option<u32>) {
        let Arguments { rest, verbosity } = arguments(line.split(' ').map(OsString::from));
        let rest: Vec<_> = rest.iter().map(|argument| argument.to_str().unwrap()).collect();
        (rest.join(" "), verbosity)
    }

    #[test]
    fn flags_are_taken_as_go_takes_them() {
        for (line, rest, verbosity) in [
            (
                "/hyperfed/controller-manager --v=2 --logtostderr -kubeconfig=f --kubefed-namespace ns",
                "/hyperfed/controller-manager controller-manager --kubeconfig=f --kubefed-namespace ns",
                Some(2),
            ),
            (
                "hyperfed controller-manager -v 4 --log_dir /tmp --vmodule=a=1 --stderrthreshold 2",
                "hyperfed controller-manager",
                Some(4),
            ),
            (
                "hansa controller-manager -v7 --rest_config_qps=5",
                "hansa controller-manager --rest-config-qps=5",
                Some(7),
            ),
            ("hansa controller-manager -h -- -x", "hansa controller-manager -h -- -x", None),
            ("webhook --secure-port=1 --v=1", "webhook webhook --secure-port=1", Some(1)),
            ("controller-manager", "controller-manager controller-manager", None),
            ("controller-manager controller-manager -v=x", "controller-manager controller-manager", None),
            // What is for others is not touched.
            ("hansa get clusters -o json -v 4", "hansa get clusters -o json -v 4", None),
            ("hansa", "hansa", None),
        ] {
            assert_eq!(read(line), (rest.to_owned(), verbosity), "{line}");
        }
        assert_eq!(arguments([]), Arguments { rest: vec![], verbosity: None });
    }
}
