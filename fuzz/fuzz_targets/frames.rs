//! Any bytes, cut anywhere, are frames or a violation; nothing is kept beyond what arrived.
#![no_main]

use bytes::BytesMut;
use hansa_tunnel::frame::Decoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, wire)) = data.split_first() else { return };
    let (mut decoder, mut buffer, mut seen) = (Decoder::default(), BytesMut::new(), 0);
    for part in wire.chunks(usize::from(*cut) + 1) {
        buffer.extend_from_slice(part);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(piece)) => seen += piece.payload.len(),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(seen + buffer.len() <= wire.len());
});
