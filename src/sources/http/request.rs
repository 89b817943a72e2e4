//! A request: the right to send it, and what it asks for.

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri};

use super::decode::Coding;
use super::producer_id::ProducerId;
use super::responses::Refusal;
use crate::bearer_token::Token;
use crate::loopback::{host_of, is_loopback_name};
use crate::percent_encoding::percent_decoded;

/// The rules that every request must obey.
#[derive(Debug)]
pub struct Guard {
    /// The token that senders must know.
    pub token: Option<Token>,
    /// The server is reachable from this machine only. A name of another host in a request then
    /// comes from a web page whose name was bound to this machine's address.
    pub is_loopback: bool,
}

impl Guard {
    /// Refuses requests without the right to send.
    pub fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
        let forbidden = |why: &str| Err(Refusal::new(StatusCode::FORBIDDEN, why));
        if self.is_loopback {
            let host = headers.get(HOST).map(|host| host.as_bytes());
            let named = host.or(uri.authority().map(|authority| authority.as_str().as_bytes()));
            if named.is_some_and(|host| !is_local(host)) {
                return forbidden("the Host of the request is not this machine's");
            }
        }
        if let Some(token) = &self.token {
            let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
            if !given.is_some_and(|given| token.authorizes(given)) {
                let message = "give the token of --token-file as Authorization: Bearer TOKEN";
                return Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
            }
        } else if headers.contains_key(ORIGIN) {
            // Any web page can have its visitors post text here.
            return forbidden("requests of web pages need a token (--token-file)");
        }
        Ok(())
    }
}

/// Returns true if the value of a `Host` header names this machine.
fn is_local(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    is_loopback_name(host_of(host))
}

/// A request to `/lines`.
#[derive(Debug, PartialEq, Eq)]
pub enum LinesRequest {
    /// Append lines without a producer.
    Lines { coding: Coding, ends: bool },
    /// Append a piece of a producer's stream.
    Piece { producer: ProducerId, offset: u64, coding: Coding, end: PieceEnd },
    /// Return the position that comes next in a producer's stream.
    Next { producer: String },
}

/// The fate of a producer's stream after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceEnd {
    /// It goes on: an unfinished line waits for the next piece.
    Open,
    /// Its unfinished line ends.
    Line,
    /// Its unfinished line ends, and the producer is forgotten.
    Forget,
}

impl LinesRequest {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// 404 for another path, 405 for another method, 415 for an encoding that is not supported, 400
    /// for parameters that are missing, unknown or out of range.
    pub fn of(parts: &Parts) -> Result<LinesRequest, Refusal> {
        if parts.uri.path() != "/lines" {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "there is only /lines here"));
        }
        let is_post = match parts.method {
            Method::POST => true,
            Method::GET | Method::HEAD => false,
            _ => {
                let message = "POST lines here, or GET the position of a producer";
                return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
            }
        };
        let Parameters { producer, offset, end, tag } = Parameters::of(&parts.uri)?;
        if !is_post {
            return match (producer, offset, end, tag) {
                (Some(producer), None, None, None) => {
                    let producer = ProducerId::new(producer, None)?.id().to_owned();
                    Ok(LinesRequest::Next { producer })
                }
                _ => Err(bad("give GET /lines?producer=ID")),
            };
        }
        let Some(coding) = Coding::of(&parts.headers) else {
            let message = "Content-Encoding may be gzip, zstd or identity";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        };
        match (producer, offset) {
            (None, None) if end == Some(PieceEnd::Forget) => {
                Err(bad("end=forget needs a producer"))
            }
            (None, None) if tag.is_some() => Err(bad("a tag needs a producer: give producer=ID")),
            (None, None) => Ok(LinesRequest::Lines { coding, ends: end.is_some() }),
            (None, Some(_)) => Err(bad("an offset needs a producer: give producer=ID")),
            (Some(_), None) => Err(bad("a producer needs the offset of its piece: give offset=N")),
            (Some(producer), Some(offset)) => {
                let producer = ProducerId::new(producer, tag)?;
                Ok(LinesRequest::Piece {
                    producer,
                    offset,
                    coding,
                    end: end.unwrap_or(PieceEnd::Open),
                })
            }
        }
    }
}

/// Returns the length that a request announces.
pub fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The parameters of the query.
#[derive(Debug, Default)]
struct Parameters {
    /// `producer`: the id of the sender.
    producer: Option<String>,
    /// `offset`: where the body stands in the sender's stream.
    offset: Option<u64>,
    /// `end`: what happens to the open line after the body.
    end: Option<PieceEnd>,
    /// `tag`: a second name, so that one id can have several streams.
    tag: Option<String>,
}

impl Parameters {
    /// Reads the query of a request.
    ///
    /// Refuses with 400 a name that is unknown or given twice, and a value that cannot be.
    fn of(uri: &Uri) -> Result<Parameters, Refusal> {
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let mut found = Parameters::default();
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            let is_first = match &*name {
                "producer" => found.producer.replace(value).is_none(),
                "tag" => found.tag.replace(value).is_none(),
                "offset" => {
                    let offset = value.parse().map_err(|_| bad("offset is not a number of bytes"));
                    found.offset.replace(offset?).is_none()
                }
                "end" => found.end.replace(piece_end(&value)?).is_none(),
                _ => {
                    let message =
                        format!("unknown parameter {name:?}: producer, offset, end or tag");
                    return Err(bad(message));
                }
            };
            if !is_first {
                return Err(bad(format!("{name} is given twice")));
            }
        }
        Ok(found)
    }
}

/// Decodes a name or a value of the query.
///
/// Refuses with 400 what is not the percent-encoding of UTF-8.
fn decoded(text: &str) -> Result<String, Refusal> {
    let message = "the parameters are not percent-encoded UTF-8; a % is written as %25";
    percent_decoded(&text.replace('+', " ")).ok_or_else(|| bad(message))
}

/// Reads the value of `end`.
fn piece_end(value: &str) -> Result<PieceEnd, Refusal> {
    match value {
        "line" | "" | "true" | "1" => Ok(PieceEnd::Line),
        "forget" => Ok(PieceEnd::Forget),
        "false" | "0" => Ok(PieceEnd::Open),
        _ => Err(bad("end is line or forget")),
    }
}

/// Returns a refusal with 400.
fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}
