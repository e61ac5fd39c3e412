//! A WebSocket, as server and as client, whose peer says anything.
#![no_main]

use hansa_tunnel::websocket::{WebSocket, accept};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.get(1..).unwrap_or_default()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let _ = accept(&headers, "tunnel");

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for server in [true, false] {
            let (near, mut far) = duplex(1 << 20);
            let mut socket = if server { WebSocket::server(near) } else { WebSocket::client(near) };
            far.write_all(data).await.unwrap();
            far.shutdown().await.unwrap();
            let mut read = Vec::new();
            let _ = socket.read_to_end(&mut read).await;
            assert!(read.len() <= data.len());
            let _ = socket.flush().await;
        }
    });
});
