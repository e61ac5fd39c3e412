//! Cold start of `hansa up --sandbox 2` until both members are ready, as the program itself says.

use tempfile::TempDir;

use crate::{
    figure, percentile,
    support::{embedded::Embedded, free_port},
};

pub fn run() {
    let mut cold = Vec::new();
    let mut warm = Vec::new();
    for _ in 0..5 {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        let listen = format!("127.0.0.1:{}", free_port());
        for times in [&mut cold, &mut warm] {
            let mut up = Embedded::start_in(&data, &listen, 2);
            times.push(said(&up.process.output()));
            up.process.interrupt();
        }
    }
    for (name, times) in
        [("cold start to both members Ready", &mut cold), ("start on existing state", &mut warm)]
    {
        times.sort_by(f64::total_cmp);
        figure(
            "startup",
            name,
            &format!("median {:.2} s (max {:.2})", percentile(times, 0.5), percentile(times, 1.0)),
        );
    }
}

/// The last "Hansa is up in 1.23 s" of an output.
fn said(output: &str) -> f64 {
    let (_, rest) = output.rsplit_once("Hansa is up in ").expect("the program says how long it took");
    rest.split(' ').next().unwrap().parse().unwrap()
}
