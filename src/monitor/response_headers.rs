//! Responses with the headers that all have.

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::response_body::{self, ResponseBody};

/// An answer of the server.
pub type Response = http::Response<ResponseBody>;

/// Returns an error as JSON.
pub fn error(status: StatusCode, message: &str) -> Response {
    json(status, &json!({ "error": message }))
}

/// Returns a value as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => response(status, "application/json", response_body::whole(bytes)),
        Err(_) => {
            let text = "{\"error\":\"the answer cannot be encoded\"}";
            response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "application/json",
                response_body::whole(text),
            )
        }
    }
}

/// Returns a response with the headers that all have.
pub fn response(status: StatusCode, content_type: &'static str, body: ResponseBody) -> Response {
    /// Headers of every answer: no guessing of types, and no address of the page for other hosts.
    const HEADERS: [(&str, &str); 2] =
        [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")];
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}
