//! What the tower itself answers.

use hansa_access::answer;
use hansa_machinery::Status;
use hansa_transport::Body;
use hansa_tunnel::Error;
use http::{HeaderValue, Response, header};
use serde::Serialize;

/// An object as JSON that nobody on the way keeps.
pub(crate) fn json(object: &impl Serialize) -> Result<Response<Body>, Status> {
    let mut response = answer::text(&serde_json::to_string(object).map_err(Status::internal)?);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// 502: the agent or its API server failed.
pub(crate) fn bad_gateway(cluster: &str, why: &str) -> Status {
    Status::new(502, "BadGateway", format!("cluster {cluster:?} could not be asked: {why}"))
}

/// 504: there is no answer yet, and it may still have been done.
pub(crate) fn timed_out(cluster: &str) -> Status {
    Status::new(
        504,
        "Timeout",
        format!("cluster {cluster:?} did not answer in time; whether it did what was asked is not known"),
    )
}

/// What a caller is told of a request that did not get through.
pub(crate) fn failed(cluster: &str, error: &Error) -> Status {
    match error {
        Error::Draining => {
            Status { retry_after_seconds: 1, ..answer::unavailable(cluster, &error.to_string()) }
        }
        Error::Busy(_) => answer::unavailable(cluster, &error.to_string()),
        Error::Unsayable(_) => Status::bad_request(error.to_string()),
        Error::Lost(_) | Error::Silent(_) | Error::Violation(_) | Error::Reset(_) => {
            bad_gateway(cluster, &error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_never_a_success_nor_a_word_of_the_member() {
        for (error, code) in [
            (Error::Lost("x".into()), 502),
            (Error::Silent(std::time::Duration::from_secs(9)), 502),
            (Error::Reset("the API server refuses connections".into()), 502),
            (Error::Draining, 503),
            (Error::Busy(9), 503),
            (Error::Unsayable("x"), 400),
        ] {
            let status = failed("m1", &error);
            assert_eq!(status.code, code, "{error}");
            assert_eq!(status.retry_after_seconds > 0, code == 503);
        }
        // A 404 would say that an object is not there, when nobody has looked.
        assert_eq!((timed_out("m1").code, bad_gateway("m1", "x").code), (504, 502));
    }
}
