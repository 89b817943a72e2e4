//! The answer to each path. It is made from the figures without waiting for anything.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | the page, or, without the token, the page that takes it |
//! | `/metrics` | the figures for Prometheus |
//! | `/health`, `/ready` | 200 or 503, with the reason |
//! | `/api/v1/status`, `/epochs`, `/top`, `/operators` | JSON |
//! | `/api/v1/events` | server-sent events, one an epoch |
//!
//! All of it is read only. Paths that show words are closed to other hosts without the token.

use std::sync::Arc;

use http::header::{ACCEPT, ALLOW, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use serde_json::json;

use super::authorize::AccessVerdict;
use super::event_stream;
use super::metrics::{self, MetricsFormat};
use super::page;
use super::response_headers::{Response, error, json, response};
use super::site::Site;
use super::status;
use crate::epoch::Epoch;
use crate::meters::{COMMITTED_MAX, Phase, TOP_MAX};
use crate::response_body;

/// Epochs that are listed where `last` is not given.
const LAST_DEFAULT: usize = 100;

/// Words that are listed where `k` is not given.
const TOP_DEFAULT: usize = 20;

/// Paths that show no words: probes and Prometheus read them from other hosts, too.
const OPEN_PATHS: [&str; 3] = ["/metrics", "/health", "/ready"];

/// Answers a request: judges who asks, then the method, then the path. A request with the token in
/// its query gets it back as a cookie, so that the links of the page work.
pub fn answer<B>(site: &Arc<Site>, request: &Request<B>) -> Response {
    let (uri, headers) = (request.uri(), request.headers());
    let path = uri.path();
    let is_open = OPEN_PATHS.contains(&path);
    let mut cookie = None;
    match site.access.judge(request.version(), uri, headers, is_open) {
        AccessVerdict::Allowed => {}
        AccessVerdict::AllowedWithCookie(given) => cookie = Some(given),
        AccessVerdict::ForeignHost => {
            let message = "this server answers under a name of its own host only";
            return error(StatusCode::FORBIDDEN, message);
        }
        AccessVerdict::NoHost => {
            return error(StatusCode::BAD_REQUEST, "the request must have one Host header");
        }
        AccessVerdict::Closed => {
            let message = "only /metrics, /health and /ready are open beyond loopback: give \
                           --token-file to open the rest";
            return error(StatusCode::FORBIDDEN, message);
        }
        AccessVerdict::Unknown => return unknown(path, headers),
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let mut answer = of_path(site, request);
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
        answer.headers_mut().insert(SET_COOKIE, cookie);
    }
    answer
}

/// Answers a request that may be answered: 404 for another path, 400 for a parameter out of range.
fn of_path<B>(site: &Arc<Site>, request: &Request<B>) -> Response {
    let (uri, meters) = (request.uri(), &site.meters);
    match uri.path() {
        "/" => page::page(),
        "/metrics" => metrics_in(site, request.headers()),
        "/health" => health(site),
        "/ready" => ready(site),
        "/api/v1/status" => json(StatusCode::OK, &status::report(meters)),
        "/api/v1/epochs" => match number(uri.query(), "last", LAST_DEFAULT, COMMITTED_MAX) {
            Ok(last) => {
                let epochs = meters.epochs().records(last, 0);
                let epochs: Vec<_> = epochs.iter().map(|record| &**record).collect();
                json(StatusCode::OK, &json!({ "epochs": epochs }))
            }
            Err(message) => error(StatusCode::BAD_REQUEST, &message),
        },
        "/api/v1/top" => match number(uri.query(), "k", TOP_DEFAULT, TOP_MAX) {
            Ok(k) => json(StatusCode::OK, &top(site, k)),
            Err(message) => error(StatusCode::BAD_REQUEST, &message),
        },
        "/api/v1/operators" => {
            json(StatusCode::OK, &json!({ "operators": meters.operators_of_all() }))
        }
        event_stream::PATH => stream(site, request),
        path => error(StatusCode::NOT_FOUND, &format!("there is no {path:?} here: see /")),
    }
}

/// Returns the health of the process: 200 while the run goes on, also while a store or a source is
/// away, because a restart would not help; 503 while it stops or after it has failed.
fn health(site: &Site) -> Response {
    let life = site.meters.life();
    match life.phase {
        Phase::Starting | Phase::Counting => json(StatusCode::OK, &json!({ "status": "ok" })),
        phase => {
            let body = json!({ "status": phase.name(), "reason": life.reason });
            json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// Returns the readiness of the process: 200 once its sources are connected and an epoch is open,
/// and 503 with what is missing.
fn ready(site: &Site) -> Response {
    match status::not_ready(&site.meters) {
        None => json(StatusCode::OK, &json!({ "status": "ready" })),
        Some(reason) => json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "reason": reason })),
    }
}

/// Returns the metrics in the format that the request asks for.
fn metrics_in(site: &Site, headers: &HeaderMap) -> Response {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = MetricsFormat::accepted(accepts);
    match metrics::encode(&site.meters, format) {
        Ok(text) => response(StatusCode::OK, format.content_type(), response_body::whole(text)),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded"),
    }
}

/// Returns the `k` most frequent words of the newest epoch with rows, the most frequent first.
fn top(site: &Site, k: usize) -> serde_json::Value {
    let (epoch, top) = site.meters.epochs().top();
    let words = top
        .iter()
        .take(k)
        .map(|(word, count)| json!({ "word": String::from_utf8_lossy(word), "count": count }));
    json!({ "epoch": (epoch > 0).then_some(epoch), "words": words.collect::<Vec<_>>() })
}

/// Returns the stream of events, after the epoch that the request names: epochs that were committed
/// since then come first, as far as they are remembered.
fn stream<B>(site: &Arc<Site>, request: &Request<B>) -> Response {
    let parse = |id: &str| id.trim().parse::<Epoch>().ok();
    let last = request.headers().get("last-event-id").and_then(|id| parse(id.to_str().ok()?));
    // A browser cannot set the header by itself; it sends it when it connects again.
    let asked = value(request.uri().query(), "after").next();
    if asked.is_some_and(|id| parse(id).is_none()) {
        return error(StatusCode::BAD_REQUEST, "give after as the number of an epoch");
    }
    let after = last.or_else(|| asked.and_then(parse));
    let body = if request.method() == Method::HEAD {
        response_body::empty()
    } else {
        match event_stream::stream(&site.events, after) {
            Some(stream) => response_body::stream(stream),
            None => {
                let message = "too many event streams are open";
                let mut full = error(StatusCode::SERVICE_UNAVAILABLE, message);
                full.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
                return full;
            }
        }
    };
    response(StatusCode::OK, "text/event-stream", body)
}

/// Returns the values of a parameter.
fn value<'a>(query: Option<&'a str>, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = query.unwrap_or_default().split('&');
    pairs.filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// Returns the number in a parameter, from 1 to `most`, or `default` where there is none.
fn number(query: Option<&str>, name: &str, default: usize, most: usize) -> Result<usize, String> {
    let mut given = value(query, name);
    let wrong = || format!("give {name} once, as a number from 1 to {most}");
    match (given.next(), given.next()) {
        (None, _) => Ok(default),
        (Some(text), None) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            let number = text.parse().ok().filter(|number| (1..=most).contains(number));
            number.ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// Answers a request without the token. A browser gets a page that takes it.
fn unknown(path: &str, headers: &HeaderMap) -> Response {
    let wants_page = headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    let mut answer = if path == "/" && wants_page {
        page::login(StatusCode::UNAUTHORIZED)
    } else {
        error(StatusCode::UNAUTHORIZED, "give the token as Authorization: Bearer TOKEN")
    };
    let scheme = HeaderValue::from_static("Bearer realm=\"wordtide\"");
    answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_from_one_to_the_limit() {
        let last = |query| number(query, "last", 100, 1000).ok();
        assert_eq!(last(None), Some(100));
        assert_eq!(last(Some("k=3&last=1000")), Some(1000));
        for wrong in [
            "last",
            "last=",
            "last=0",
            "last=1001",
            "last=-1",
            "last=+1",
            "last=1.5",
            "last=a",
            "last=1&last=2",
            "last=99999999999999999999999",
            "last=%31",
        ] {
            assert_eq!(last(Some(wrong)), None, "{wrong}");
        }
    }
}
