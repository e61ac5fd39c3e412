//! Prometheus' text format, which every Prometheus reads and KubeFed served.
//!
//! The library writes OpenMetrics. The two differ, for what is used here, in that OpenMetrics names a counter's family without `_total`, and
//! ends with a mark.

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

pub(crate) fn text(registry: &Registry) -> String {
    let mut open = String::new();
    // Writing into a string does not fail; what a collector cannot tell is left out by itself.
    let _ = text::encode_registry(&mut open, registry);
    classic(&open)
}

fn classic(open: &str) -> String {
    let mut classic = String::with_capacity(open.len() + 256);
    let mut help: Option<&str> = None;
    for line in open.lines().filter(|line| *line != "# EOF") {
        // The help comes before the type that tells how the family is to be called.
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        let counter = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter"));
        if let Some(name) = counter {
            if let Some(text) = help.take().and_then(|help| help.strip_prefix("# HELP ")?.strip_prefix(name))
            {
                push(&mut classic, &["# HELP ", name, "_total", text]);
            }
            push(&mut classic, &["# TYPE ", name, "_total counter"]);
            continue;
        }
        if let Some(help) = help.take() {
            push(&mut classic, &[help]);
        }
        push(&mut classic, &[line]);
    }
    classic
}

fn push(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
    text.push('\n');
}
