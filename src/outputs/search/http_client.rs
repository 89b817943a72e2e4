//! Requests to a server, and what their answers mean.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::store::{
    Environment, SearchProduct, SearchTarget, StoreError, StoreErrorKind, StoreResult,
    StoreSettings, http_client,
};
use base64::prelude::{BASE64_STANDARD, Engine};

/// No answer for this long breaks a request. Bulk requests may wait for the server's disks.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time for a request that works on all rows of an epoch.
const LONG_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest answer that is read. A bulk request has up to 8,192 items, and the answer to an item
/// that is refused has a sentence or two.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// The longest part of an answer that a message repeats.
const REASON_CHARS_MAX: usize = 300;

/// A client of one server. Clones share its connections.
#[derive(Clone)]
pub struct SearchClient {
    /// The pool of connections.
    http: reqwest::Client,
    /// Scheme, host and port.
    base: Arc<str>,
    /// User and password, or a key. Marked as sensitive, so that nothing prints it.
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for SearchClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the credentials.
        f.debug_struct("SearchClient").field("base", &self.base).finish_non_exhaustive()
    }
}

/// The names of the variables with user, password and key.
fn variables(product: SearchProduct) -> (&'static str, &'static str, Option<&'static str>) {
    match product {
        SearchProduct::OpenSearch => ("OPENSEARCH_USERNAME", "OPENSEARCH_PASSWORD", None),
        SearchProduct::Elasticsearch => {
            ("ELASTIC_USERNAME", "ELASTIC_PASSWORD", Some("ELASTIC_API_KEY"))
        }
    }
}

impl SearchClient {
    /// Returns a client of the server of `target`, with the credentials of `environment`.
    ///
    /// # Errors
    ///
    /// `Configuration` if a certificate or the credentials cannot be used.
    pub fn new(
        target: &SearchTarget,
        settings: &StoreSettings,
        environment: &Environment,
    ) -> Result<SearchClient> {
        let authorization = authorization(target.product, environment)?;
        if authorization.is_some() && !target.tls && !target.is_loopback() && !settings.allow_http {
            let message = format!("credentials would go to {} unencrypted", target.host);
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("give --to with the scheme for TLS, opensearchs:// or elasticsearchs://, or --allow-http"));
        }
        let scheme = if target.tls { "https" } else { "http" };
        let host = format!("{}:{}", target.host, target.port);
        Ok(SearchClient {
            http: http_client(settings, environment, (!target.tls, &host), !target.is_loopback())?,
            base: format!("{scheme}://{host}").into(),
            authorization,
        })
    }

    /// Sends a request with a JSON body, or with none. Returns the JSON of the answer.
    ///
    /// # Errors
    ///
    /// `NotFound` for 404, `Exists` for 409, `Denied` for 401 and 403, `Unavailable` if the server
    /// is out of reach, overloaded or failed, `Invalid` for a request that it does not accept.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> StoreResult<Value> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        self.send_bytes(method, path, body, "application/json").await
    }

    /// Makes what was written to an index visible to searches.
    ///
    /// # Errors
    ///
    /// Those of [`SearchClient::send`].
    pub async fn refresh(&self, index: &str) -> StoreResult<()> {
        self.send(Method::POST, &format!("{index}/_refresh"), None).await.map(drop)
    }

    /// Deletes the documents of an index that `query` finds among those of the last refresh, and
    /// refreshes it. Waits up to [`LONG_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// `Unavailable` if a document could not be deleted; else those of [`SearchClient::send`].
    pub async fn delete_where(&self, index: &str, query: &Value) -> StoreResult<()> {
        let path = format!("{index}/_delete_by_query?refresh=true&conflicts=proceed");
        let body = Bytes::from(json!({"query": query}).to_string());
        let sent = (Some(body), "application/json");
        let done: Value = self.send_within(LONG_TIMEOUT, Method::POST, &path, sent).await?;
        if done["failures"].as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let message = format!("{} could not delete all documents of {index}", self.base);
        Err(StoreError::new(StoreErrorKind::Unavailable, message))
    }

    /// Sends a request with these bytes as its body. Returns the JSON of the answer, of which only
    /// the fields of `T` are kept.
    ///
    /// # Errors
    ///
    /// Those of [`SearchClient::send`].
    pub async fn send_bytes<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        content_type: &'static str,
    ) -> StoreResult<T> {
        self.send_within(REQUEST_TIMEOUT, method, path, (body, content_type)).await
    }

    /// Sends a request and waits for the answer up to `timeout`.
    async fn send_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        method: Method,
        path: &str,
        (body, content_type): (Option<Bytes>, &'static str),
    ) -> StoreResult<T> {
        let base = &self.base;
        let mut request = self.http.request(method, format!("{base}/{path}")).timeout(timeout);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, content_type).body(body);
        }
        let lost = |error: reqwest::Error| {
            let message = format!("{base} does not answer: {}", causes(&error));
            StoreError::new(StoreErrorKind::Unavailable, message).indeterminate()
        };
        let mut answer = request.send().await.map_err(lost)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(lost)? {
            if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
                let most = ANSWER_BYTES_MAX >> 20;
                let message = format!("{base} answered {path} with more than {most} MiB");
                return Err(StoreError::new(StoreErrorKind::Unavailable, message).indeterminate());
            }
            bytes.extend_from_slice(&piece);
        }
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| {
                let message = format!("{base} answered {path} with what is no JSON: {error}");
                StoreError::new(StoreErrorKind::Unavailable, message).indeterminate()
            });
        }
        Err(refused(base, path, status, &bytes))
    }

    /// Returns scheme, host and port.
    pub fn base(&self) -> &str {
        &self.base
    }
}

/// Returns the header with the credentials of the environment, if there are any.
fn authorization(product: SearchProduct, environment: &Environment) -> Result<Option<HeaderValue>> {
    let (user, password, key) = variables(product);
    let (user_name, password_name) = (user, password);
    let value = match key.and_then(|key| environment.var(key)) {
        Some(key) => format!("ApiKey {key}"),
        None => match (environment.var(user), environment.var(password)) {
            (Some(user), Some(password)) => {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
            }
            (None, None) => return Ok(None),
            _ => {
                let message = format!("only one of {user_name} and {password_name} is set");
                return Err(
                    Error::new(ErrorKind::Configuration, message).hint("set both, or neither")
                );
            }
        },
    };
    let mut header = HeaderValue::from_str(&value).map_err(|_| {
        let message = "the credentials hold a character that no header can";
        Error::new(ErrorKind::Configuration, message).hint(format!("see {user_name}"))
    })?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// Returns the error of an answer with this status.
fn refused(base: &str, path: &str, status: StatusCode, body: &[u8]) -> StoreError {
    let reason = reason(body);
    let message = format!("{base} answered {path} with {}: {reason}", status.as_u16());
    let (kind, hint) = match status.as_u16() {
        404 => (StoreErrorKind::NotFound, None),
        409 => (StoreErrorKind::Exists, None),
        401 => (
            StoreErrorKind::Denied,
            Some("see user and password, or the key, in the environment: docs/outputs.md"),
        ),
        403 => (
            StoreErrorKind::Denied,
            Some("see the rights of the user on the index in --to: docs/outputs.md"),
        ),
        408 | 429 | 500.. => (StoreErrorKind::Unavailable, None),
        _ => (StoreErrorKind::Invalid, Some("see the index in --to")),
    };
    let error = StoreError::new(kind, message);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Returns the reason in the body of an answer, shortened.
fn reason(body: &[u8]) -> String {
    let parsed = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let text = match &parsed["error"]["reason"] {
        Value::String(reason) => reason.clone(),
        _ => match &parsed["error"] {
            Value::String(reason) => reason.clone(),
            _ => String::from_utf8_lossy(body).into_owned(),
        },
    };
    shortened(&text)
}

/// Returns the beginning of a text in one line, for a message.
pub fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(REASON_CHARS_MAX).collect()
}

/// Returns an error with all its causes, because the outermost one is too general.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::store::Target;

    #[test]
    fn statuses_have_their_meaning() {
        let kind = |status| {
            let status = StatusCode::from_u16(status).expect("a status");
            refused("http://h", "counts/_bulk", status, b"{}").kind
        };
        assert_eq!(kind(401), StoreErrorKind::Denied);
        assert_eq!(kind(403), StoreErrorKind::Denied);
        assert_eq!(kind(404), StoreErrorKind::NotFound);
        assert_eq!(kind(409), StoreErrorKind::Exists);
        assert_eq!([429, 500, 503].map(kind), [StoreErrorKind::Unavailable; 3]);
        assert_eq!(kind(400), StoreErrorKind::Invalid);
        let body = br#"{"error":{"type":"x","reason":"no  such\nthing"},"status":400}"#;
        assert_eq!(reason(body), "no such thing");
    }

    #[tokio::test]
    async fn answer_without_end_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        // Ends when the client hangs up, which is not waited for.
        let _server = thread::spawn(move || {
            let (mut peer, _) = listener.accept()?;
            let _ = peer.read(&mut [0; 4096])?;
            peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")?;
            loop {
                peer.write_all(&[b' '; 1 << 16])?;
            }
            #[allow(unreachable_code, reason = "names the type of the error")]
            Ok::<(), io::Error>(())
        });
        let to = format!("opensearch://127.0.0.1:{port}/counts");
        let Ok(Target::Search(target)) = Target::parse(&to) else { panic!("a target") };
        let (settings, environment) = (StoreSettings::default(), Environment::default());
        let client = SearchClient::new(&target, &settings, &environment).expect("a client");
        let error = client.send(Method::GET, "", None).await.expect_err("no end");
        assert!(error.message.contains("more than 32 MiB"), "{error}");
    }
}
