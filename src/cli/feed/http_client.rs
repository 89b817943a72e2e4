//! The HTTP client of `wordtide feed`: requests that are repeated until they are answered.

use std::error::Error as StdError;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode, Url};

use crate::backoff::{Backoff, BackoffPolicy};
use crate::bearer_token::Token;
use crate::error::{Error, ErrorKind, Result};
use crate::outputs::format::Compression;
use crate::tls;

/// Longest time to connect.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time for an answer, beside that of the body.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Least bytes a second at which a body is sent before the request is repeated.
const RATE_MIN: u64 = 16 << 10;
/// Longest wait that a server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How the server is reached.
#[derive(Debug)]
pub struct ClientSettings<'a> {
    /// The URL that was given.
    pub url: &'a str,
    /// The file with the bearer token.
    pub token_file: Option<&'a Path>,
    /// Certificates to trust in place of the system's.
    pub ca_file: Option<&'a PathBuf>,
    /// The compression of bodies.
    pub compression: Compression,
}

/// The answer about a producer's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Everything before this position is durable.
    Next(u64),
    /// The piece begins after this position, which comes next.
    Gap(u64),
    /// The piece is larger than the server takes.
    TooLarge,
}

/// The fate of the stream after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It goes on.
    Open,
    /// Its unfinished line ends.
    Line,
    /// Its unfinished line ends, and the server forgets the producer.
    Forget,
}

/// A client of one server.
#[derive(Debug)]
pub struct Client {
    /// The pool of connections.
    http: reqwest::Client,
    /// The URL that lines are posted to.
    url: Url,
    /// The bearer token. Marked as sensitive, so that nothing prints it.
    authorization: Option<HeaderValue>,
    /// The compression of bodies.
    compression: Compression,
    /// The pauses between attempts.
    backoff: Backoff,
    /// A failure was logged, and no success since.
    is_away: bool,
    /// The tag in the last answer.
    tag: Option<String>,
}

impl Client {
    /// Returns a client. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// `Usage` for a URL that cannot be one of a server, `Configuration` for a file that cannot be
    /// used.
    pub fn new(settings: &ClientSettings<'_>) -> Result<Client> {
        tls::install_provider();
        let url = parse(settings.url)?;
        let token = settings.token_file.map(Token::read).transpose()?;
        let header = |token: Token| HeaderValue::from_str(&token.authorization());
        let header = token.map(header).transpose().map_err(|error| unusable(&error))?;
        let authorization = header.map(|mut header| {
            header.set_sensitive(true);
            header
        });
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("wordtide/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            // A redirect would carry the lines and the token to another server.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIME_MAX)
            // The server closes an idle connection after 30 s.
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_keepalive(Duration::from_secs(30))
            .tcp_nodelay(true);
        let certificates = settings.ca_file.map(|path| certificates(path)).transpose()?;
        let own = certificates.unwrap_or_default();
        // Plain http needs no certificates, and this machine may have none.
        builder = if url.scheme() == "http" {
            builder.tls_certs_only(own)
        } else {
            builder.tls_certs_merge(own)
        };
        let http = builder.build().map_err(|error| unusable(&error))?;
        let backoff = BackoffPolicy::JITTERED.start();
        let compression = settings.compression;
        Ok(Client { http, url, authorization, compression, backoff, is_away: false, tag: None })
    }

    /// Returns the position that comes next in the stream of `producer`, and its tag.
    ///
    /// Fails only with a refusal: everything else is tried again.
    pub async fn next(&mut self, producer: &str) -> Result<(u64, Option<String>)> {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("producer", producer);
        let request = |client: &Client| {
            client.http.get(url.clone()).timeout(CONNECT_TIME_MAX + ANSWER_TIME_MAX)
        };
        match self.ask(request).await? {
            Answered::Next(next) => Ok((next, self.tag.take())),
            Answered::Gap(_) | Answered::TooLarge => Err(self.refused(StatusCode::CONFLICT, "")),
        }
    }

    /// Sends a piece of a producer's stream again and again until the server answers. A producer
    /// that is new gets the tag.
    ///
    /// # Errors
    ///
    /// `Configuration` if the server refuses it for good.
    pub async fn post(
        &mut self,
        (producer, tag): (&str, Option<&str>),
        offset: u64,
        piece: &[u8],
        end: End,
    ) -> Result<Answered> {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("producer", producer)
            .append_pair("offset", &offset.to_string());
        if let Some(tag) = tag {
            url.query_pairs_mut().append_pair("tag", tag);
        }
        match end {
            End::Open => {}
            End::Line => drop(url.query_pairs_mut().append_pair("end", "line")),
            End::Forget => drop(url.query_pairs_mut().append_pair("end", "forget")),
        }
        let (coding, body) = compressed(piece, self.compression)
            .map_err(|error| Error::new(ErrorKind::Failed, format!("cannot compress: {error}")))?;
        let body = bytes::Bytes::from(body);
        let time = ANSWER_TIME_MAX + Duration::from_secs(body.len() as u64 / RATE_MIN);
        let request = |client: &Client| {
            let request = client.http.post(url.clone()).timeout(time).body(body.clone());
            let request = request.header(CONTENT_TYPE, "text/plain");
            match coding {
                Some(coding) => request.header(CONTENT_ENCODING, coding),
                None => request,
            }
        };
        self.ask(request).await
    }

    /// Sends a request until it is answered.
    async fn ask(&mut self, request: impl Fn(&Client) -> RequestBuilder) -> Result<Answered> {
        loop {
            let mut request = request(self);
            if let Some(authorization) = &self.authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let pause = match request.send().await {
                Ok(response) => match self.read(response).await? {
                    Ok(answered) => {
                        self.reached();
                        return Ok(answered);
                    }
                    Err(pause) => pause,
                },
                Err(error) => {
                    self.away(&causes(&error));
                    None
                }
            };
            let own = self.backoff.next_pause();
            tokio::time::sleep(pause.unwrap_or(own)).await;
        }
    }

    /// Reads an answer; returns the pause that the server asks for if the request must be repeated.
    async fn read(&mut self, response: Response) -> Result<Result<Answered, Option<Duration>>> {
        let status = response.status();
        let pause = retry_after(&response);
        let body = match limited(response).await {
            Ok(body) => body,
            // The answer was lost on its way: a repeated request counts once.
            Err(error) => {
                self.away(&error);
                return Ok(Err(None));
            }
        };
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let next = answer.get("next").and_then(serde_json::Value::as_u64);
        let why = answer.get("error").and_then(serde_json::Value::as_str).unwrap_or_default();
        match (status, next) {
            (StatusCode::OK, Some(next)) => {
                let tag = answer.get("tag").and_then(serde_json::Value::as_str);
                self.tag = tag.map(str::to_owned);
                Ok(Ok(Answered::Next(next)))
            }
            (StatusCode::CONFLICT, Some(next)) => Ok(Ok(Answered::Gap(next))),
            (StatusCode::PAYLOAD_TOO_LARGE, _) => Ok(Ok(Answered::TooLarge)),
            (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS, _) => {
                self.away(&format!("{status} {why}"));
                Ok(Err(pause))
            }
            (status, _) if status.is_server_error() => {
                self.away(&format!("{status} {why}"));
                Ok(Err(pause))
            }
            (status, _) => Err(self.refused(status, why)),
        }
    }

    /// Logs, once until it is reached again, that the server is away.
    fn away(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_away, true) {
            tracing::warn!("{} does not take lines: {why}; sending is tried again", self.url);
        }
    }

    /// Notes that the server has answered.
    fn reached(&mut self) {
        self.backoff.reset();
        if std::mem::take(&mut self.is_away) {
            tracing::info!("{} takes lines again", self.url);
        }
    }

    /// The error for an answer that a repeated request would get again.
    fn refused(&self, status: StatusCode, why: &str) -> Error {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let message = format!("{} refuses the lines: {status}{why}", self.url);
        Error::new(ErrorKind::Configuration, message).hint(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "check --token-file",
            _ => "give the URL of a run with --listen-http, as in http://HOST:PORT/lines",
        })
    }
}

/// Parses the URL of a server; a URL without a path gets that of the lines.
fn parse(text: &str) -> Result<Url> {
    let bad = |why: &dyn fmt::Display| {
        // The text is not repeated, since it may contain a password.
        Error::new(ErrorKind::Usage, format!("the URL cannot be used: {why}"))
            .hint("give http://HOST:PORT or https://HOST:PORT")
    };
    let mut url = Url::parse(text).map_err(|error| bad(&error))?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err(bad(&"it is not one of http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad(&"it has a password, which --token-file is for"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad(&"it has a query"));
    }
    if url.path() == "/" {
        url.set_path("/lines");
    }
    Ok(url)
}

/// Returns the certificates in a PEM file.
fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>> {
    let unusable = |error: &dyn fmt::Display| {
        let message = format!("--ca-file {} cannot be used: {error}", path.display());
        Error::new(ErrorKind::Configuration, message)
    };
    let pem = std::fs::read(path).map_err(|error| unusable(&error))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
    if found.is_empty() {
        return Err(unusable(&"no certificate in it"));
    }
    Ok(found)
}

/// Returns the error of settings with which no client can be made.
fn unusable(error: &dyn StdError) -> Error {
    let message = format!("the HTTP client cannot be set up: {}", causes(error));
    Error::new(ErrorKind::Configuration, message).hint("give --ca-file for a server with https")
}

/// Returns the text of the innermost cause, which names what happened.
fn causes(error: &dyn StdError) -> String {
    let mut inner = error;
    while let Some(cause) = inner.source() {
        inner = cause;
    }
    inner.to_string()
}

/// Returns the pause that the server asks for.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Reads the body of an answer up to a limit.
async fn limited(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| causes(&error))? {
        body.extend_from_slice(&bytes);
        if body.len() > ANSWER_BYTES_MAX {
            return Err("the answer is too long".to_owned());
        }
    }
    Ok(body)
}

/// Compresses a body; returns the name of its encoding, too.
fn compressed(
    piece: &[u8],
    compression: Compression,
) -> std::io::Result<(Option<&'static str>, Vec<u8>)> {
    match compression {
        _ if piece.is_empty() => Ok((None, Vec::new())),
        Compression::None => Ok((None, piece.to_vec())),
        Compression::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(piece)?;
            Ok((Some("gzip"), encoder.finish()?))
        }
        Compression::Zstd => Ok((Some("zstd"), zstd::encode_all(piece, 1)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_without_path_leads_to_lines() {
        for (text, url) in [
            ("http://localhost:9980", "http://localhost:9980/lines"),
            ("https://[::1]:9980/", "https://[::1]:9980/lines"),
            ("http://proxy/wordtide/lines", "http://proxy/wordtide/lines"),
        ] {
            assert_eq!(parse(text).expect(text).as_str(), url);
        }
    }

    #[test]
    fn unusable_url_is_refused_without_its_password() {
        for text in ["localhost:9980", "ftp://h/", "http://", "http://u:s3cret@h/", "http://h/?x"] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
