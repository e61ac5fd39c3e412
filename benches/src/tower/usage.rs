//! What processes use, those that they started included.

use std::fs;

/// In which the kernel counts processor time (`sysconf(_SC_CLK_TCK)`, 100 on every platform of today).
const TICKS_A_SECOND: f64 = 100.0;

/// Resident memory in MiB.
#[derive(Clone, Copy, Default)]
pub struct Resident {
    pub all: f64,
    /// What is the process's own and not of a file.
    pub anonymous: f64,
}

impl std::fmt::Display for Resident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} MiB ({:.1} of its own)", self.all, self.anonymous)
    }
}

/// Processor seconds used so far.
pub fn processor(process: u32) -> f64 {
    family(process).into_iter().map(|each| ticks(each) as f64).sum::<f64>() / TICKS_A_SECOND
}

/// Memory that is resident now.
pub fn resident(process: u32) -> Resident {
    let mut sum = Resident::default();
    for each in family(process) {
        let text = fs::read_to_string(format!("/proc/{each}/smaps_rollup")).unwrap_or_default();
        let kib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
        };
        sum.all += kib("Rss:") / 1024.0;
        sum.anonymous += kib("Anonymous:") / 1024.0;
    }
    sum
}

fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    fields.into_iter().flatten().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// The process and its children: sshd has one for each connection.
fn family(process: u32) -> Vec<u32> {
    let mut all = vec![process];
    let mut next = 0;
    while let Some(each) = all.get(next).copied() {
        let path = format!("/proc/{each}/task/{each}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        next += 1;
    }
    all
}
