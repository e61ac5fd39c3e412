//! The clients that load everything that is compared, which are nobody's own: wrk and curl.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// What wrk found.
pub struct Load {
    /// Answers.
    pub requests: f64,
    /// Answers a second.
    pub rate: f64,
    /// Latencies in milliseconds.
    pub p50: f64,
    pub p99: f64,
    /// Connections that broke and requests without an answer.
    pub failed: u64,
}

/// Where a program is; those of an administrator are found by everybody.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether what no measurement can do without is installed; says so if not.
pub fn are_there(part: &str) -> bool {
    let missing: Vec<&str> =
        ["nginx", "wrk", "curl", "openssl"].into_iter().filter(|name| program(name).is_none()).collect();
    if !missing.is_empty() {
        skipped(
            &format!("tower {part}"),
            &format!("there is no {}: apt-get install {0}", missing.join(" and no ")),
        );
    }
    missing.is_empty()
}

/// Says that something is not measured, so that nobody overlooks it.
pub fn skipped(what: &str, why: &str) {
    eprintln!("{0}\nSKIPPED: {what}: {why}\n{0}", "!".repeat(78));
}

/// Asks again and again on `connections` connections for some seconds.
pub fn wrk(url: &str, connections: usize, seconds: usize, headers: &[String]) -> Load {
    let mut command = Command::new(program("wrk").unwrap());
    command.args(["-t1", "--latency", "--timeout", "10s"]);
    command.arg(format!("-c{connections}")).arg(format!("-d{seconds}s"));
    for header in headers {
        command.args(["-H", header]);
    }
    let output = command.arg(url).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "wrk {url}: {text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("Non-2xx"), "wrk {url}: {text}");
    let after = |start: &str| {
        let line = text.lines().map(str::trim).find_map(|line| line.strip_prefix(start));
        line.unwrap_or_else(|| panic!("wrk {url}: {text}")).trim().to_owned()
    };
    let requests =
        text.lines().find_map(|line| line.split_once(" requests in ")).map(|(count, _)| count.trim());
    let errors = text.lines().find_map(|line| line.trim().strip_prefix("Socket errors:"));
    let errors = errors.into_iter().flat_map(|line| line.split([' ', ',']));
    Load {
        failed: errors.filter_map(|word| word.parse::<u64>().ok()).sum(),
        requests: requests
            .and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("wrk {url}: {text}")),
        rate: after("Requests/sec:").parse().unwrap(),
        p50: milliseconds(&after("50%")),
        p99: milliseconds(&after("99%")),
    }
}

fn milliseconds(text: &str) -> f64 {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap());
    let scale = match unit {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        _ => 6e4,
    };
    number.parse::<f64>().unwrap() * scale
}

/// Loads one URL; says how many megabytes (10⁶) a second. It may be cut off after some seconds.
pub fn curl(url: &str, seconds: Option<u32>) -> f64 {
    let mut command = Command::new(program("curl").unwrap());
    command.args(["-sk", "-o", "/dev/null", "-w", "%{http_code} %{size_download} %{time_total}"]);
    if let Some(seconds) = seconds {
        command.args(["-m", &seconds.to_string()]);
    }
    let output = command.arg(url).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let fields: Vec<f64> = text.split(' ').filter_map(|field| field.parse().ok()).collect();
    let [code, size, time] = fields.as_slice() else { panic!("curl {url}: {text}") };
    // 28: the time was over, as asked for.
    let in_time = output.status.success() || (seconds.is_some() && output.status.code() == Some(28));
    assert!(*code == 200.0 && in_time, "curl {url}: {text} {:?}", output.status);
    size / time / 1e6
}

/// The status code of an answer; 0 if there is none.
pub fn code(url: &str, header: &str) -> u16 {
    let mut command = Command::new(program("curl").unwrap());
    command.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "-m", "10", "-H", header]);
    let output = command.arg(url).output().unwrap();
    String::from_utf8_lossy(&output.stdout).parse().unwrap_or_default()
}

/// The openssl program, run to its end in `dir`.
pub fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new(program("openssl").unwrap()).current_dir(dir).args(args).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
