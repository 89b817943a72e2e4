//! Answers: JSON bodies, status codes, and the reasons of a refusal.

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::json;

use crate::response_body::{self, ResponseBody};

/// Seconds after which a sender may try again.
const RETRY_AFTER_S: &str = "1";

/// The methods of `/lines`.
const METHODS: &str = "GET, HEAD, POST";

/// A request that is not done: its status code, and the sentence that explains it.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code of the answer.
    status: StatusCode,
    /// The reason, for the reader of the answer.
    message: String,
    /// The position that the answer names.
    next: Option<u64>,
}

impl Refusal {
    /// Returns a refusal with this status. `message` states what to do about it.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), next: None }
    }

    /// The sender may try again soon.
    pub fn later(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// Returns true if the sender may try again soon.
    pub fn is_later(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// The run is stopping.
    pub fn stopping() -> Refusal {
        Refusal::later("the run is stopping")
    }

    /// The piece of a producer begins after the position that comes next, `next`.
    pub fn gap(next: u64, offset: u64) -> Refusal {
        let message = format!("a gap: the piece begins at {offset}, and {next} comes next");
        Refusal { next: Some(next), ..Refusal::new(StatusCode::CONFLICT, message) }
    }

    /// Returns the answer to the sender.
    pub fn answer(self) -> Response<ResponseBody> {
        let Refusal { status, message, next } = self;
        let body = match next {
            Some(next) => json!({"error": message, "next": next}),
            None => json!({"error": message}),
        };
        let mut answer = json_answer(status, body.to_string());
        let header: Option<(HeaderName, &'static str)> = match status {
            StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, "Bearer realm=\"wordtide\"")),
            StatusCode::METHOD_NOT_ALLOWED => Some((ALLOW, METHODS)),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Some((RETRY_AFTER, RETRY_AFTER_S))
            }
            // The sender would go on sending what is not read.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                Some((CONNECTION, "close"))
            }
            _ => None,
        };
        if let Some((name, value)) = header {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }
}

/// Returns the answer to lines that are kept and belong to no producer.
pub fn kept() -> Response<ResponseBody> {
    let mut answer = Response::new(response_body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// Returns the position that comes next in the stream of a producer, and its tag.
pub fn next(next: u64, tag: Option<String>) -> Response<ResponseBody> {
    let body = match tag {
        Some(tag) => json!({"next": next, "tag": tag}),
        None => json!({"next": next}),
    };
    json_answer(StatusCode::OK, body.to_string())
}

/// Returns an answer with JSON.
fn json_answer(status: StatusCode, body: String) -> Response<ResponseBody> {
    let mut answer = Response::new(response_body::whole(body + "\n"));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}
