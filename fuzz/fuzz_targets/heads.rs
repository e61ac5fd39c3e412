//! Any bytes are a head or are refused; what is read is written again the same.
#![no_main]

use bytes::Bytes;
use hansa_tunnel::head::{decode_request, decode_response, encode_request, encode_response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(request) = decode_request(bytes.clone()) {
        let again = encode_request(&request).and_then(|bytes| Ok(decode_request(bytes)?)).unwrap();
        assert_eq!((request.method(), request.uri(), request.headers()), (again.method(), again.uri(), again.headers()));
    }
    if let Ok(response) = decode_response(bytes) {
        let again = encode_response(&response).and_then(|bytes| Ok(decode_response(bytes)?)).unwrap();
        assert_eq!((response.status(), response.headers()), (again.status(), again.headers()));
    }
});
