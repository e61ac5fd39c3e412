//! The heads of requests and answers as they travel: lengths and bytes, no compression, so that both ends keep no state.
//!
//! A request is its method, its path with the query, and its headers; an answer is its status and its headers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};

use crate::Error;
use crate::frame::{MAX_HEAD, Violation};

/// The most headers of a message.
const MAX_HEADERS: usize = 4096;

/// Writes the head of a request.
///
/// # Errors
/// When it is larger than [`MAX_HEAD`] or has no path.
pub fn encode_request<B>(request: &Request<B>) -> Result<Bytes, Error> {
    let path = request.uri().path_and_query().ok_or(Error::Unsayable("the request has no path"))?.as_str();
    let mut out = BytesMut::with_capacity(512);
    let method = request.method().as_str();
    let length = u8::try_from(method.len()).map_err(|_| Error::Unsayable("its method is too long"))?;
    out.put_u8(length);
    out.put_slice(method.as_bytes());
    let length = u32::try_from(path.len()).map_err(|_| Error::Unsayable("its path is too long"))?;
    out.put_u32(length);
    out.put_slice(path.as_bytes());
    encode_headers(request.headers(), &mut out)?;
    Ok(out.freeze())
}

/// Writes the head of an answer.
///
/// # Errors
/// When it is larger than [`MAX_HEAD`].
pub fn encode_response<B>(response: &Response<B>) -> Result<Bytes, Error> {
    let mut out = BytesMut::with_capacity(512);
    out.put_u16(response.status().as_u16());
    encode_headers(response.headers(), &mut out)?;
    Ok(out.freeze())
}

fn encode_headers(headers: &HeaderMap, out: &mut BytesMut) -> Result<(), Error> {
    let too_large = || Error::Unsayable("its head is larger than half a megabyte");
    if headers.len() > MAX_HEADERS {
        return Err(too_large());
    }
    out.put_u16(headers.len() as u16);
    for (name, value) in headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        if out.len() + name.len() + value.len() + 6 > MAX_HEAD {
            return Err(too_large());
        }
        out.put_u16(name.len() as u16);
        out.put_slice(name);
        out.put_u32(value.len() as u32);
        out.put_slice(value);
    }
    Ok(())
}

/// Reads the head of a request. Its target is a path (RFC 9112 §3.2.1).
///
/// # Errors
/// When it does not parse.
pub fn decode_request(mut bytes: Bytes) -> Result<Request<()>, Violation> {
    let wrong = Violation::Head;
    let length = usize::from(bytes.try_get_u8().map_err(|_| wrong("it is cut short"))?);
    let method = Method::from_bytes(&take(&mut bytes, length)?).map_err(|_| wrong("its method"))?;
    let length = bytes.try_get_u32().map_err(|_| wrong("it is cut short"))? as usize;
    let path = take(&mut bytes, length)?;
    if path.first() != Some(&b'/') {
        return Err(wrong("its target is not a path"));
    }
    let uri = Uri::from_maybe_shared(path).map_err(|_| wrong("its path"))?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = decode_headers(bytes)?;
    Ok(request)
}

/// Reads the head of an answer.
///
/// # Errors
/// When it does not parse.
pub fn decode_response(mut bytes: Bytes) -> Result<Response<()>, Violation> {
    let wrong = Violation::Head;
    let status = bytes.try_get_u16().map_err(|_| wrong("it is cut short"))?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| wrong("its status"))?;
    *response.headers_mut() = decode_headers(bytes)?;
    Ok(response)
}

fn decode_headers(mut bytes: Bytes) -> Result<HeaderMap, Violation> {
    let wrong = Violation::Head;
    let count = usize::from(bytes.try_get_u16().map_err(|_| wrong("it is cut short"))?);
    if count > MAX_HEADERS {
        return Err(wrong("it has too many headers"));
    }
    let mut headers = HeaderMap::with_capacity(count.min(bytes.len() / 6));
    for _ in 0..count {
        let length = usize::from(bytes.try_get_u16().map_err(|_| wrong("it is cut short"))?);
        let name =
            HeaderName::from_bytes(&take(&mut bytes, length)?).map_err(|_| wrong("the name of a header"))?;
        let length = bytes.try_get_u32().map_err(|_| wrong("it is cut short"))? as usize;
        let value = HeaderValue::from_maybe_shared(take(&mut bytes, length)?)
            .map_err(|_| wrong("the value of a header"))?;
        headers.append(name, value);
    }
    if bytes.is_empty() { Ok(headers) } else { Err(wrong("something follows it")) }
}

fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, Violation> {
    if length > bytes.len() {
        return Err(Violation::Head("it is cut short"));
    }
    Ok(bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        let request = Request::builder()
            .method("PATCH")
            .uri("/api/v1/pods?watch=true")
            .header("accept", "application/json")
            .header("impersonate-group", "a")
            .header("impersonate-group", "b")
            .body(())
            .unwrap();
        let read = decode_request(encode_request(&request).unwrap()).unwrap();
        assert_eq!(
            (read.method(), read.uri(), read.headers()),
            (request.method(), request.uri(), request.headers())
        );
    }

    #[test]
    fn a_target_that_is_no_path_is_refused() {
        for target in ["https://elsewhere/api", "*", "elsewhere:443", ""] {
            let mut out = BytesMut::new();
            out.put_u8(3);
            out.put_slice(b"GET");
            out.put_u32(target.len() as u32);
            out.put_slice(target.as_bytes());
            out.put_u16(0);
            assert!(decode_request(out.freeze()).is_err(), "{target}");
        }
    }

    #[test]
    fn a_head_that_is_too_large_is_not_sent() {
        let request = Request::builder().header("a", "x".repeat(MAX_HEAD)).body(()).unwrap();
        assert!(matches!(encode_request(&request), Err(Error::Unsayable(_))));
    }

    proptest! {
        #[test]
        fn an_answer_arrives_as_it_was_sent(
            status in 100u16..1000,
            headers in prop::collection::vec(("[a-z][a-z0-9-]{0,20}", "[ -~]{0,100}"), 0..20),
        ) {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in &headers {
                response.headers_mut().append(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                );
            }
            let read = decode_response(encode_response(&response).unwrap()).unwrap();
            prop_assert_eq!(read.status(), response.status());
            prop_assert_eq!(read.headers(), response.headers());
        }

        #[test]
        fn garbage_is_refused_or_is_a_head(garbage in prop::collection::vec(any::<u8>(), 0..600)) {
            let bytes = Bytes::from(garbage);
            let _ = decode_request(bytes.clone());
            let _ = decode_response(bytes);
        }
    }
}
