//! One client for every server measured, so that only the servers differ.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures::future::join_all;
use hansa_transport::{Limits, Target, Transport, boxed};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

/// A transport for the first (or only) user of a kubeconfig.
pub fn transport(kubeconfig: &Path, context: Option<&str>) -> Transport {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let target = Target::from_kubeconfig(&text, context).unwrap();
    Transport::new(target, Limits { concurrency: 4096, ..Limits::default() }).unwrap()
}

/// Sends one request and reads its answer; any failure ends the measurement.
pub async fn send(transport: &Transport, method: Method, path: &str, body: &str) -> Vec<u8> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(boxed(Full::from(body.to_owned())))
        .unwrap();
    let response = transport.request(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&bytes));
    bytes.to_vec()
}

/// A ConfigMap of about a kibibyte.
pub fn config_map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": "x".repeat(900)}}).to_string()
}

pub async fn namespace(transport: &Transport, name: &str) {
    let body: Value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    send(transport, Method::POST, "/api/v1/namespaces", &body.to_string()).await;
}

/// Runs `operation` for numbers from 0 with `workers` at once for `time`; gives operations a second and sorted latencies in
/// milliseconds.
pub async fn load<F>(workers: usize, time: Duration, operation: impl Fn(usize) -> F + Sync) -> (f64, Vec<f64>)
where
    F: Future<Output = ()>,
{
    let next = std::sync::atomic::AtomicUsize::new(0);
    let started = Instant::now();
    let work = (0..workers).map(|_| async {
        let mut latencies = Vec::new();
        while started.elapsed() < time {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let begin = Instant::now();
            operation(number).await;
            latencies.push(begin.elapsed().as_secs_f64() * 1000.0);
        }
        latencies
    });
    let mut latencies: Vec<f64> = join_all(work).await.concat();
    let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    (rate, latencies)
}

/// The runtime of a measurement.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
