//! Converts the answers of a server to typed values.
//!
//! An error answer may quote the access key and the string that was signed. Only its status and its
//! code are kept, as a [`RefusedRequest`], so that no layer above can log more. The typed value is
//! the source of the [`opendal::Error`] that passes through opendal; [`cause`] returns it.

use std::error::Error as StdError;
use std::fmt;
use std::future::ready;

use futures::stream::StreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, RANGE};
use http::request::Parts as RequestParts;
use http::response::Parts;
use http::{Method, StatusCode};
use opendal::{Buffer, Error, ErrorKind, HttpBody, Result};

/// The longest answer that is read, except for the bytes of an object. A listing of 1000 keys of
/// 1023 bytes each, all of them escaped, is shorter.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// The part of an error answer that is searched for the code.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// A request that the server has refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// The status code.
    pub status: StatusCode,
    /// The code in the answer's body. Empty if there is none.
    pub code: String,
}

impl fmt::Display for RefusedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code.as_str() {
            "" => write!(f, "HTTP {}", self.status.as_u16()),
            code => write!(f, "{code} (HTTP {})", self.status.as_u16()),
        }
    }
}

impl StdError for RefusedRequest {}

impl RefusedRequest {
    /// Converts this to an error of opendal. It is temporary if the same request may succeed when
    /// it is repeated.
    pub fn into_error(self) -> Error {
        let status = self.status.as_u16();
        let kind = match (status, self.code.as_str()) {
            (404, "NoSuchBucket") => ErrorKind::ConfigInvalid,
            (404, _) => ErrorKind::NotFound,
            (403, _) => ErrorKind::PermissionDenied,
            (429, _) => ErrorKind::RateLimited,
            _ => ErrorKind::Unexpected,
        };
        let error = Error::new(kind, self.to_string());
        let error = if self.is_transient() { error.set_temporary() } else { error };
        error.set_source(self)
    }

    /// Returns true if the store does not support the request, or a header of it.
    pub fn is_unsupported(&self) -> bool {
        self.status == StatusCode::NOT_IMPLEMENTED || self.code == "NotImplemented"
    }

    /// Returns true if the cause disappears without a change of settings.
    pub fn is_transient(&self) -> bool {
        /// Codes of errors that pass by themselves, whatever their status.
        const TRANSIENT: [&str; 6] = [
            "BadDigest",
            "InvalidDigest",
            "RequestTimeout",
            "OperationAborted",
            "ConditionalRequestConflict",
            "SlowDown",
        ];
        let status = self.status.as_u16();
        matches!(status, 408 | 425 | 429 | 499 | 500 | 502..=504)
            || TRANSIENT.contains(&self.code.as_str())
    }
}

/// An answer that does not come from an object store: from a web page, a proxy, another service.
#[derive(Debug)]
pub struct NotAStore {
    /// The status code.
    status: StatusCode,
    /// The part of the answer that no store would give.
    fault: &'static str,
}

impl fmt::Display for NotAStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotAStore { status, fault } = self;
        write!(f, "the answer is not one of an object store: HTTP {} {fault}", status.as_u16())
    }
}

impl StdError for NotAStore {}

impl NotAStore {
    /// Returns the error of opendal for an answer with this fault.
    fn error(status: StatusCode, fault: &'static str) -> Error {
        let answer = NotAStore { status, fault };
        Error::new(ErrorKind::Unexpected, answer.to_string()).set_source(answer)
    }
}

/// No source of credentials had a usable key.
#[derive(Debug)]
pub struct NoCredentials {
    /// The sources, each with the reason if it failed.
    pub tried: String,
}

impl fmt::Display for NoCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no usable credentials; tried {}", self.tried)
    }
}

impl StdError for NoCredentials {}

/// Returns the first cause of type `T` of `error`.
pub fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The source of an I/O error is the source of the error inside it, so that error itself
        // has to be asked for.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| cause(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The properties of a request by which its answer is checked.
pub struct SentRequest {
    /// The method of the request.
    method: Method,
    /// The longest body that the answer may have.
    bytes_max: u64,
    /// True for a listing, whose answer is XML.
    is_listing: bool,
}

impl SentRequest {
    /// Returns the properties of `request`.
    pub fn of(request: &RequestParts) -> SentRequest {
        let query = request.uri.query().unwrap_or_default();
        let range = request.headers.get(RANGE).and_then(|range| range.to_str().ok());
        SentRequest {
            method: request.method.clone(),
            bytes_max: range.and_then(range_bytes).unwrap_or(ANSWER_BYTES_MAX),
            is_listing: request.method == Method::GET && query.contains("list-type="),
        }
    }

    /// Returns the length of the body that the answer declares, at most the bound.
    ///
    /// Fails if a success declares more than the bound.
    pub fn body_bytes(&self, answer: &Parts) -> Result<u64> {
        if self.method == Method::HEAD {
            return Ok(0);
        }
        let length = answer.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0);
        if answer.status.is_success() && length > self.bytes_max {
            return Err(NotAStore::error(answer.status, "with more bytes than were asked for"));
        }
        let is_success = answer.status.is_success();
        Ok(length.min(if is_success { self.bytes_max } else { ERROR_BYTES_MAX as u64 }))
    }

    /// Returns `body` as one that fails when it becomes longer than the bound.
    ///
    /// The body of an error has a bound of its own, since it is not what was asked for. It ends
    /// there and does not fail: the status decides.
    pub fn bounded(&self, status: StatusCode, body: HttpBody) -> HttpBody {
        if !status.is_success() {
            let mut left = ERROR_BYTES_MAX;
            return body.map_inner(|stream| {
                Box::new(stream.take_while(move |chunk| {
                    let is_wanted = left > 0;
                    left = left.saturating_sub(chunk.as_ref().map_or(0, Buffer::len));
                    ready(is_wanted)
                }))
            });
        }
        let mut left = self.bytes_max;
        body.map_inner(|stream| {
            Box::new(stream.map(move |chunk| {
                let chunk = chunk?;
                let rest = left.checked_sub(chunk.len() as u64);
                left = rest.ok_or_else(|| {
                    NotAStore::error(status, "with more bytes than were asked for")
                })?;
                Ok(chunk)
            }))
        })
    }

    /// Returns the body of the answer.
    ///
    /// Fails with [`RefusedRequest`] if the answer is no success, and with [`NotAStore`] if no
    /// object store answers so.
    pub fn checked(&self, answer: &Parts, body: Buffer) -> Result<Buffer> {
        let status = answer.status;
        if !status.is_success() {
            let text = body.to_bytes();
            let text = String::from_utf8_lossy(&text[..text.len().min(ERROR_BYTES_MAX)]);
            let code = element(&text, "Code").to_owned();
            return Err(RefusedRequest { status, code }.into_error());
        }
        let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if content_type.is_some_and(|value| value.to_ascii_lowercase().starts_with("text/html")) {
            return Err(NotAStore::error(status, "with a web page"));
        }
        if self.method == Method::PUT && !answer.headers.contains_key(ETAG) {
            return Err(NotAStore::error(status, "without an ETag for what was put"));
        }
        let is_xml = self.is_listing || self.method == Method::POST;
        let text = if is_xml { body.to_bytes() } else { bytes::Bytes::new() };
        let text = String::from_utf8_lossy(&text);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if is_xml && !text.starts_with('<') || text.to_ascii_lowercase().starts_with("<!doctype") {
            return Err(NotAStore::error(status, "without the XML of a store"));
        }
        // A store begins the answer to the end of an upload in parts, with its status, before it
        // knows the result.
        if self.method == Method::POST && text.contains("<Error>") {
            let code = element(text, "Code").to_owned();
            let status = match code.as_str() {
                "PreconditionFailed" => StatusCode::PRECONDITION_FAILED,
                "NoSuchUpload" => StatusCode::NOT_FOUND,
                "InternalError" => StatusCode::INTERNAL_SERVER_ERROR,
                _ => status,
            };
            return Err(RefusedRequest { status, code }.into_error());
        }
        Ok(body)
    }
}

/// Returns the length of the range in a header `bytes=FROM-TO`.
fn range_bytes(range: &str) -> Option<u64> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
    to.checked_sub(from)?.checked_add(1)
}

/// Returns the text of the first element called `name`, or nothing if it is not a plain name.
pub fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let start = xml.split_once(&format!("<{name}>"));
    let inner = start.and_then(|(_, rest)| rest.split_once('<'));
    let plain = |text: &&str| {
        text.len() <= 64
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    inner.map(|(text, _)| text).filter(plain).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)]) -> Parts {
        let mut answer = http::Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        answer.body(()).unwrap().into_parts().0
    }

    fn asked(method: Method, uri: &str, range: Option<&str>) -> SentRequest {
        let mut request = http::Request::builder().method(method).uri(uri);
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        SentRequest::of(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn refusals_keep_the_code_only() {
        let body = "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code>\
            <Message>planted</Message><RequestId>5C3D-1</RequestId>\
            <OSSAccessKeyId>planted</OSSAccessKeyId><StringToSign>planted</StringToSign></Error>";
        let put = asked(Method::PUT, "http://h/k", None);
        let error = put.checked(&answer(403, &[]), Buffer::from(body)).unwrap_err();
        let refusal: &RefusedRequest = cause(&error).unwrap();
        assert_eq!(refusal.to_string(), "SignatureDoesNotMatch (HTTP 403)");
        assert!(!format!("{error:?}").contains("planted"), "{error:?}");
        let error = put.checked(&answer(502, &[]), Buffer::from("<html>planted")).unwrap_err();
        assert!(error.is_temporary() && !format!("{error:?}").contains("planted"), "{error:?}");
        assert_eq!(element("<Code>a b</Code>", "Code"), "");
    }

    #[test]
    fn pages_that_answer_anything_are_recognized() {
        let html = [("content-type", "Text/HTML; charset=utf-8")];
        let put = asked(Method::PUT, "http://h/k", None);
        for (asked, headers, body) in [
            (&put, &html[..], ""),
            (&put, &[][..], "ok"),
            (&asked(Method::GET, "http://h/?list-type=2", None), &[][..], "{}"),
            (&asked(Method::GET, "http://h/?list-type=2", None), &[][..], "<!DOCTYPE html>"),
            (&asked(Method::POST, "http://h/k?uploads", None), &[][..], "hello"),
            (&asked(Method::HEAD, "http://h/k", None), &html[..], ""),
        ] {
            let error = asked.checked(&answer(200, headers), Buffer::from(body)).unwrap_err();
            assert!(cause::<NotAStore>(&error).is_some(), "{error:?}");
        }
        let stored = [("etag", "\"1\"")];
        put.checked(&answer(200, &stored), Buffer::new()).unwrap();
    }

    #[test]
    fn completions_can_fail_after_their_status() {
        let post = asked(Method::POST, "http://h/k?uploadId=1", None);
        let body = "<Error><Code>PreconditionFailed</Code></Error>";
        let error = post.checked(&answer(200, &[]), Buffer::from(body)).unwrap_err();
        assert_eq!(cause::<RefusedRequest>(&error).unwrap().status, 412);
    }

    #[test]
    fn announced_lengths_are_bounded() {
        let read = asked(Method::GET, "http://h/k", Some("bytes=10-29"));
        let long = [("content-length", "18446744073709551615")];
        assert_eq!(read.body_bytes(&answer(206, &[("content-length", "20")])).unwrap(), 20);
        assert!(read.body_bytes(&answer(206, &[("content-length", "21")])).is_err());
        let of_error = read.body_bytes(&answer(500, &long)).unwrap();
        assert_eq!(of_error, ERROR_BYTES_MAX as u64);
        let head = asked(Method::HEAD, "http://h/k", None);
        assert_eq!(head.body_bytes(&answer(200, &long)).unwrap(), 0);
        assert!(asked(Method::GET, "http://h/", None).body_bytes(&answer(200, &long)).is_err());
    }

    #[tokio::test]
    async fn long_errors_keep_their_status_and_code() {
        let read = asked(Method::GET, "http://h/k", Some("bytes=0-3"));
        let code = "<Error><Code>SlowDown</Code></Error>".to_owned();
        let mut long = vec![" ".repeat(ERROR_BYTES_MAX); 200];
        long.insert(0, code.clone());
        for chunks in [vec![code], long] {
            let chunks = chunks.into_iter().map(|chunk| Ok(Buffer::from(chunk)));
            let body = HttpBody::new(futures::stream::iter(chunks.collect::<Vec<_>>()), None);
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let body = read.bounded(status, body).to_buffer().await.unwrap();
            let error = read.checked(&answer(503, &[]), body).unwrap_err();
            assert_eq!(cause::<RefusedRequest>(&error).unwrap().code, "SlowDown");
        }
    }

    #[tokio::test]
    async fn bodies_without_a_length_are_bounded() {
        let read = asked(Method::GET, "http://h/k", Some("bytes=0-3"));
        for (chunks, fits) in [(vec!["ab", "cd"], true), (vec!["ab", "cde"], false)] {
            let chunks = chunks.into_iter().map(|chunk| Ok(Buffer::from(chunk)));
            let body = HttpBody::new(futures::stream::iter(chunks.collect::<Vec<_>>()), None);
            let read = read.bounded(StatusCode::OK, body).to_buffer().await;
            assert_eq!(read.is_ok(), fits);
        }
    }
}
