//! `cargo xtask bench`: the figures of the design, each beside the same operation on a real `etcd` and `kube-apiserver` or
//! beside the bare operation, in one run. Machines are noisy: read the ratios and the medians.

#[path = "../../tests/support/mod.rs"]
mod support;

mod client;
mod controllers;
mod federation;
mod fleet;
mod gateway;
mod memory;
mod propagation;
mod real_federation;
mod server;
mod startup;
mod tower;

use std::env;

/// As `hansa` has it, so that the ends of the tunnel are measured as they are shipped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Prints one figure and the command that repeats it.
fn figure(part: &str, name: &str, value: &str) {
    println!("{name:<58} {value:<40} cargo xtask bench {part}");
}

/// The `p`-th percentile of sorted samples, in milliseconds.
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64) * p).round() as usize).copied().unwrap_or(f64::NAN)
}

fn main() {
    let parts: &[(&str, fn())] = &[
        ("startup", startup::run),
        ("server", server::run),
        ("gateway", gateway::run),
        ("propagation", propagation::run),
        ("federation", federation::run),
        ("memory", memory::run),
        ("tower", || tower::run(&[])),
    ];
    let wanted: Vec<String> = env::args().skip(1).collect();
    // The bare loop runs in a process of its own, as the controllers that it is compared with do.
    if let [part, plan] = wanted.as_slice()
        && part == fleet::BARE
    {
        return fleet::bare(std::path::Path::new(plan));
    }
    if tower::role(&wanted) {
        return;
    }
    // This part has parts of its own.
    if let [part, rest @ ..] = wanted.as_slice()
        && part == "tower"
    {
        return tower::run(rest);
    }
    if let Some(unknown) = wanted.iter().find(|w| !parts.iter().any(|(name, _)| name == w)) {
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no part {unknown:?}; there are: {}", names.join(", "));
        std::process::exit(2);
    }
    for (name, run) in parts {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            run();
        }
    }
}
