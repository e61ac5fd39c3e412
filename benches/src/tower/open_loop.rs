//! Requests at a fixed rate, whether or not answers come: a late answer does not excuse the requests after it, so the latency
//! counts from when a request was due.

use std::{
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

/// What the first connections take is not counted.
const WARM_UP: Duration = Duration::from_secs(1);

/// Sends `rate` requests a second, spread over `connections` connections that `connect` makes, for `time`; gives sorted latencies in
/// milliseconds.
pub fn run<S: Read + Write>(
    connect: impl Fn() -> S + Sync,
    request: &[u8],
    rate: u32,
    connections: u32,
    time: Duration,
) -> Vec<f64> {
    let interval = Duration::from_secs(1) / rate;
    let start = Instant::now() + Duration::from_millis(200);
    let mut latencies: Vec<f64> = thread::scope(|scope| {
        let senders: Vec<_> = (0..connections)
            .map(|number| {
                let connect = &connect;
                scope.spawn(move || {
                    let mut connection = connect();
                    let mut buffer = Vec::with_capacity(16 * 1024);
                    let mut latencies = Vec::new();
                    let mut due = start + interval * number;
                    while due < start + WARM_UP + time {
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        connection.write_all(request).unwrap();
                        answer(&mut connection, &mut buffer);
                        if due >= start + WARM_UP {
                            latencies.push(due.elapsed().as_secs_f64() * 1000.0);
                        }
                        due += interval * connections;
                    }
                    latencies
                })
            })
            .collect();
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    });
    latencies.sort_by(f64::total_cmp);
    latencies
}

/// Reads one answer to its end.
pub fn answer(connection: &mut impl Read, buffer: &mut Vec<u8>) {
    buffer.clear();
    loop {
        let filled = buffer.len();
        buffer.resize(filled + 8192, 0);
        let read = connection.read(&mut buffer[filled..]).unwrap();
        assert!(read > 0, "the connection was closed: {}", String::from_utf8_lossy(&buffer[..filled]));
        buffer.truncate(filled + read);
        if is_whole(buffer) {
            assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(buffer));
            return;
        }
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    match text.lines().find_map(|line| line.strip_prefix("content-length:")) {
        Some(length) => answer.len() >= head + 4 + length.trim().parse::<usize>().unwrap(),
        None => answer.ends_with(b"0\r\n\r\n"),
    }
}
