use http::HeaderName;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

/// The example of RFC 6455 §1.3.
#[test]
fn the_answer_to_a_key_is_that_of_the_standard() {
    assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

fn handshake(changes: &[(&'static str, &'static str)]) -> Result<HeaderValue, Refused> {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "other, tunnel"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        let value = changes.iter().find(|(changed, _)| *changed == name).map_or(value, |(_, value)| value);
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    accept(&headers, "tunnel")
}

#[test]
fn a_handshake_is_taken_only_whole() {
    assert_eq!(handshake(&[]).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    for change in [
        ("connection", "close"),
        ("upgrade", "h2c"),
        ("sec-websocket-version", "8"),
        ("sec-websocket-protocol", "other"),
        ("sec-websocket-key", "c2hvcnQ="),
        ("sec-websocket-key", "no base64"),
    ] {
        assert!(handshake(&[change]).is_err(), "{change:?}");
    }
}

#[tokio::test]
async fn bytes_pass_in_both_directions_and_pings_are_answered() {
    let (near, far) = duplex(100);
    let (mut client, mut server) = (WebSocket::client(near), WebSocket::server(far));
    let (there, back) = (vec![1u8; 100_000], vec![2u8; 70_000]);
    let (sent, returned) = (there.clone(), back.clone());
    let other = tokio::spawn(async move {
        let mut got = vec![0; sent.len()];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, sent);
        server.write_all(&returned).await.unwrap();
        // A proxy on the way may ping.
        server.io.write_all(&[0x89, 2, b'h', b'i']).await.unwrap();
        server.write_all(b"x").await.unwrap();
        server
    });
    client.write_all(&there).await.unwrap();
    let mut got = vec![0; back.len() + 1];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(got[..back.len()], back);
    client.flush().await.unwrap();
    let mut server = other.await.unwrap();
    let mut pong = [0; 8];
    server.io.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, [0x8a, 0x82, 0, 0, 0, 0, b'h', b'i']);
}

#[tokio::test]
async fn what_a_stranger_masks_is_read() {
    let (mut near, far) = duplex(1000);
    let mut server = WebSocket::server(far);
    let mask = [7, 77, 177, 17];
    let text: Vec<u8> = (0..200u8).collect();
    let mut frame = vec![0x82, 0x80 | 126, 0, 200];
    frame.extend_from_slice(&mask);
    frame.extend(text.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    near.write_all(&frame).await.unwrap();
    let mut got = vec![0; 200];
    // In pieces, so that the mask has to be turned.
    for part in got.chunks_mut(33) {
        server.read_exact(part).await.unwrap();
    }
    assert_eq!(got, text);
}

#[test]
fn frames_that_cannot_be_are_refused() {
    for (bytes, what) in [
        (vec![0x81, 0x80, 0, 0, 0, 0], "text"),
        (vec![0xc2, 0x80, 0, 0, 0, 0], "reserved bits"),
        (vec![0x82, 0x00], "not masked"),
        (vec![0x89, 0x80 | 126, 0, 126, 0, 0, 0, 0], "a long ping"),
        (vec![0x09, 0x80, 0, 0, 0, 0], "a ping in pieces"),
        (vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "an endless frame"),
    ] {
        assert!(Header::decode(&bytes, true).is_err(), "{what}");
    }
}

proptest! {
    #[test]
    fn headers_survive(length in prop_oneof![0u64..300, 65_000u64..66_000, 0..(1u64 << 62)], masked: bool, mask: [u8; 4]) {
        let header = Header { opcode: BINARY, mask: if masked { mask } else { [0; 4] }, length, size: 0 };
        let (bytes, size) = header.encode(masked);
        for short in 0..size {
            prop_assert_eq!(Header::decode(&bytes[..short], masked), Ok(None));
        }
        let read = Header::decode(&bytes[..size], masked).unwrap().unwrap();
        prop_assert_eq!((read.length, read.mask, read.size), (length, header.mask, size));
    }

    #[test]
    fn garbage_is_refused_or_is_a_header(bytes in prop::collection::vec(any::<u8>(), 0..20), masked: bool) {
        if let Ok(Some(header)) = Header::decode(&bytes, masked) {
            prop_assert!(header.size <= bytes.len());
        }
    }
}
