//! `process_*`, as every Prometheus client library has them, read when somebody asks.

use std::fmt::Error;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The kernel counts time in these, on every architecture that Linux runs on today.
const TICKS_A_SECOND: f64 = 100.0;
const PAGE: f64 = 4096.0;

/// What the kernel says of this process. Where there is no `/proc` it says nothing.
#[derive(Debug, Default)]
pub(crate) struct Process;

#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    started: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

/// The fields of `/proc/self/stat` (proc_pid_stat(5)) that are told. The name of the program, the second field, may contain anything but is in
/// parentheses.
fn stat(text: &str, booted: f64) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The first of these is the third field of the page.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Stat {
        cpu_seconds: (field(14)? + field(15)?) / TICKS_A_SECOND,
        started: booted + field(22)? / TICKS_A_SECOND,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * PAGE,
    })
}

fn booted() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let read = fs::read_to_string("/proc/self/stat").ok();
        let Some(stat) = read.and_then(|text| stat(&text, booted().unwrap_or_default())) else {
            return Ok(());
        };
        ConstCounter::new(stat.cpu_seconds).encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "CPU time spent, by user and system",
            None,
            MetricType::Counter,
        )?)?;
        let mut gauge = |name: &str, help: &str, value: f64| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        gauge("process_start_time_seconds", "When the process began, in Unix time", stat.started)?;
        gauge("process_virtual_memory_bytes", "Virtual memory", stat.virtual_bytes)?;
        gauge("process_resident_memory_bytes", "Resident memory", stat.resident_bytes)?;
        let open = fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or_default();
        gauge("process_open_fds", "Open file descriptors", f64::from(u32::try_from(open).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read_whatever_the_program_is_called() {
        let text =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 4 0 3000 8192 2 18446744073709551615";
        let expected =
            Stat { cpu_seconds: 4.0, started: 130.0, virtual_bytes: 8192.0, resident_bytes: 8192.0 };
        assert_eq!(stat(text, 100.0), Some(expected));
        for broken in ["", "7 (a", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 4194560 1 0 0 0 x y"] {
            assert_eq!(stat(broken, 0.0), None, "{broken}");
        }
    }
}
