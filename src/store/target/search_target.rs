//! Parses an index of OpenSearch or Elasticsearch: `opensearch(s)://HOST:PORT/INDEX`.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::loopback::is_loopback_name;

/// The port of both servers.
const DEFAULT_PORT: u16 = 9200;

/// The longest name of an index leaves room for the names that are made of it within 255 bytes.
const INDEX_BYTES_MAX: usize = 240;

/// The servers that have such an index. They differ in the variables that hold credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchProduct {
    /// OpenSearch.
    OpenSearch,
    /// Elasticsearch.
    Elasticsearch,
}

/// An index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchTarget {
    /// The server.
    pub product: SearchProduct,
    /// True if the server is reached by TLS.
    pub tls: bool,
    /// The host, an address of IPv6 in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name of the index.
    pub index: String,
}

impl SearchTarget {
    /// Parses the value of `--to`. Returns `None` for another kind of output.
    ///
    /// # Errors
    ///
    /// `Usage` if the value is not valid or contains credentials, `Configuration` if no server
    /// accepts the name of the index. No part of the value that may be a secret is repeated.
    pub fn parse(to: &str) -> Result<Option<SearchTarget>> {
        let Some((scheme, rest)) = to.split_once("://") else { return Ok(None) };
        let (product, tls) = match scheme {
            "opensearch" => (SearchProduct::OpenSearch, false),
            "opensearchs" => (SearchProduct::OpenSearch, true),
            "elasticsearch" => (SearchProduct::Elasticsearch, false),
            "elasticsearchs" => (SearchProduct::Elasticsearch, true),
            _ => return Ok(None),
        };
        let usage = |message: &str, hint: &str| {
            Error::new(ErrorKind::Usage, format!("the {scheme}:// output {message}")).hint(hint)
        };
        if rest.contains('@') {
            return Err(usage(
                "holds credentials, which every user of this machine can read",
                "take them out of --to and set OPENSEARCH_USERNAME and OPENSEARCH_PASSWORD, or \
                 ELASTIC_USERNAME and ELASTIC_PASSWORD, or ELASTIC_API_KEY",
            ));
        }
        let (authority, index) = match rest.split_once('/') {
            Some((authority, index)) if !authority.is_empty() && !index.is_empty() => {
                (authority, index)
            }
            _ => {
                let hint = "give --to as HOST:PORT/INDEX after the scheme";
                return Err(usage("names no host or no index", hint));
            }
        };
        let is_address = authority.ends_with(']');
        let (host, port) = match authority.rsplit_once(':').filter(|_| !is_address) {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)),
            None => (authority, Some(DEFAULT_PORT)),
        };
        let Some(port) = port.filter(|_| is_host(host)) else {
            return Err(usage("has no valid host and port", "give --to HOST:PORT/INDEX"));
        };
        check_index(index)?;
        let (host, index) = (host.to_owned(), index.to_owned());
        Ok(Some(SearchTarget { product, tls, host, port, index }))
    }

    /// Returns true if the host is this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback_name(&self.host)
    }
}

/// Returns whether `host` can be a host's name or its address.
fn is_host(host: &str) -> bool {
    let is_name = |host: &str| {
        host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
    };
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && is_name(host),
    }
}

/// Fails if a server would refuse the name of an index.
fn check_index(index: &str) -> Result<()> {
    /// Characters that no index may have.
    const REFUSED: &str = "\\/*?\"<>| ,#:";
    let fault = if index.len() > INDEX_BYTES_MAX {
        "is longer than 240 bytes"
    } else if index.starts_with(['-', '_', '+']) || matches!(index, "." | "..") {
        "begins with -, _ or +, or is . or .."
    } else if index.chars().any(|c| REFUSED.contains(c) || c.is_control()) {
        "holds a character that no index has: one of \\ / * ? \" < > | , # : or a blank"
    } else if index.chars().any(char::is_uppercase) {
        "has an upper-case letter"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Configuration, format!("the index {index:?} {fault}"))
        .hint("give --to the name of an index in lower case, as in …/word-counts"))
}

impl fmt::Display for SearchTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SearchTarget { product, tls, host, port, index } = self;
        let scheme = match product {
            SearchProduct::OpenSearch => "opensearch",
            SearchProduct::Elasticsearch => "elasticsearch",
        };
        let s = if *tls { "s" } else { "" };
        write!(f, "{scheme}{s}://{host}:{port}/{index}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_parsed_and_shown() {
        for (to, shown) in [
            ("opensearch://localhost/counts", "opensearch://localhost:9200/counts"),
            ("opensearchs://es.example.com:443/a.b-c", "opensearchs://es.example.com:443/a.b-c"),
            ("elasticsearch://[::1]:9201/counts", "elasticsearch://[::1]:9201/counts"),
            ("elasticsearchs://[::1]/counts", "elasticsearchs://[::1]:9200/counts"),
        ] {
            let target = SearchTarget::parse(to).expect(to).expect("an index");
            assert_eq!(target.to_string(), shown);
        }
        for to in ["out/counts", "s3://bucket/p", "opensearch:/x"] {
            assert_eq!(SearchTarget::parse(to).expect(to), None);
        }
    }

    #[test]
    fn unusable_indexes_are_refused() {
        for (to, kind) in [
            ("opensearch://", ErrorKind::Usage),
            ("opensearch://host", ErrorKind::Usage),
            ("opensearch://host:0/counts", ErrorKind::Usage),
            ("opensearch://host:x/counts", ErrorKind::Usage),
            ("opensearch://ho st/counts", ErrorKind::Usage),
            ("opensearch://me:sEcReT@host/counts", ErrorKind::Usage),
            ("opensearch://host/Counts", ErrorKind::Configuration),
            ("opensearch://host/_counts", ErrorKind::Configuration),
            ("opensearch://host/a/b", ErrorKind::Configuration),
            ("opensearch://host/a?x=y", ErrorKind::Configuration),
        ] {
            let error = SearchTarget::parse(to).expect_err(to);
            assert_eq!(error.kind(), kind, "{to}: {error}");
            let text = error.to_string();
            assert!(text.contains("--to") && !text.contains("sEcReT"), "{text}");
        }
    }
}
