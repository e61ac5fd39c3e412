//! The tunnel alone beside its peers, and the tower as a product (`spec/tunnel.md` has the method and the figures of other systems).
//!
//! Loopback with shared processors is the worst case for a tunnel: every hop is paid for by the same processors as the load. So
//! whatever is compared runs in turn, round after round, and the figures are medians.

mod agents;
mod bulk;
mod clients;
mod delayed;
mod line;
mod nginx;
mod open_loop;
mod product;
mod roles;
mod shaped;
mod site;
mod small;
mod stalled;
mod streams;
mod tunnels;
mod usage;
mod within;

use crate::figure;

const PARTS: &[(&str, fn())] = &[
    ("bulk", bulk::run),
    ("small", small::run),
    ("stalled", stalled::run),
    ("delay", delayed::run),
    ("shaped", shaped::run),
    ("streams", streams::run),
    ("agents", agents::run),
    ("product", product::run),
];

/// How often what is compared is measured.
const ROUNDS: usize = 3;

/// Measures the named parts, or all of them.
pub fn run(wanted: &[String]) {
    if let Some(unknown) = wanted.iter().find(|w| !PARTS.iter().any(|(name, _)| name == w)) {
        let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no part \"tower {unknown}\"; there are: {}", names.join(", "));
        std::process::exit(2);
    }
    for (name, part) in PARTS {
        if (wanted.is_empty() || wanted.iter().any(|w| w == name)) && clients::are_there(name) {
            part();
        }
    }
}

/// Is one of the programs that a measurement consists of, if that is what was asked for.
pub fn role(args: &[String]) -> bool {
    roles::run(args) || within::run(args)
}

/// Prints a figure of a part.
fn say(part: &str, name: &str, value: &str) {
    figure(&format!("tower {part}"), name, value);
}

/// The middle one.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    crate::percentile(&sorted, 0.5)
}
