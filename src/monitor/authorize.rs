//! Decides if a request may be answered.
//!
//! A server on loopback answers every user of this host, but only under a name of this host: a page
//! of another site must not reach it by a name that resolves to loopback (DNS rebinding). A server
//! that other hosts can reach shows words only with the token. A browser gives the token
//! once and gets a cookie that scripts cannot read and other sites cannot send.

use std::net::SocketAddr;

use http::header::{AUTHORIZATION, COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Uri, Version};

use crate::bearer_token::Token;
use crate::loopback::{host_of, is_loopback, is_loopback_name};

/// Context of the key derivation, so that the cookie is of use nowhere else.
const COOKIE_CONTEXT: &str = "wordtide 2026 cookie of the page";

/// Context of the derivation of the cookie's name.
const NAME_CONTEXT: &str = "wordtide 2026 name of the cookie of the page";

/// Digits in the name of a cookie.
const NAME_DIGITS: usize = 8;

/// The right that a request has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessVerdict {
    /// The request is answered.
    Allowed,
    /// The request is answered, and the browser gets this cookie.
    AllowedWithCookie(String),
    /// The request names another host.
    ForeignHost,
    /// The request has no `Host`, or several.
    NoHost,
    /// The path is closed to other hosts, since there is no token.
    Closed,
    /// The token is missing or wrong.
    Unknown,
}

/// The rules of a server that listens at one address.
#[derive(Clone, Debug)]
pub struct Access {
    /// True if the server can be reached from this machine only.
    is_loopback: bool,
    /// The token, and the cookie that stands for it.
    token: Option<(Token, Cookie)>,
}

/// A cookie that stands for a token.
#[derive(Clone, Debug)]
struct Cookie {
    /// Its name. A browser gives the cookies of one host to the servers at all its ports, so jobs
    /// with different tokens have different names.
    name: String,
    /// Its value.
    value: String,
}

impl Cookie {
    /// Returns the cookie of a token.
    fn of(token: &Token) -> Cookie {
        let name = format!("wordtide_{}", &token.derived(NAME_CONTEXT)[..NAME_DIGITS]);
        Cookie { name, value: token.derived(COOKIE_CONTEXT) }
    }
}

impl Access {
    /// Returns the rules for a server at `address`.
    pub fn new(address: SocketAddr, token: Option<Token>) -> Access {
        let token = token.map(|token| {
            let cookie = Cookie::of(&token);
            (token, cookie)
        });
        Access { is_loopback: is_loopback(address.ip()), token }
    }

    /// Returns true if a request can be answered with words.
    pub fn shows_words(&self) -> bool {
        self.is_loopback || self.token.is_some()
    }

    /// Judges a request. `is_open` is true for paths that show no words.
    pub fn judge(
        &self,
        version: Version,
        uri: &Uri,
        headers: &HeaderMap,
        is_open: bool,
    ) -> AccessVerdict {
        if self.is_loopback {
            return judge_host(version, uri, headers);
        }
        if is_open {
            return AccessVerdict::Allowed;
        }
        let Some((token, Cookie { name, value })) = &self.token else {
            return AccessVerdict::Closed;
        };
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        if given.is_some_and(|given| token.authorizes(given)) {
            let attributes = "Path=/; HttpOnly; SameSite=Strict";
            return AccessVerdict::AllowedWithCookie(format!("{name}={value}; {attributes}"));
        }
        // Hashes are compared in constant time.
        let known = blake3::hash(value.as_bytes());
        if cookies(headers, name).any(|given| blake3::hash(given.as_bytes()) == known) {
            return AccessVerdict::Allowed;
        }
        AccessVerdict::Unknown
    }
}

/// Judges the host that a request names.
fn judge_host(version: Version, uri: &Uri, headers: &HeaderMap) -> AccessVerdict {
    let mut given = headers.get_all(HOST).iter();
    let host = match (given.next(), given.next()) {
        (Some(host), None) => host.to_str().ok(),
        // No browser of today sends a request without it.
        (None, _) if version < Version::HTTP_11 => Some("localhost"),
        _ => return AccessVerdict::NoHost,
    };
    let authority = uri.authority().map(http::uri::Authority::as_str);
    // The port does not matter: it may be that of a tunnel.
    let is_own = |authority: &str| is_loopback_name(host_of(authority));
    if host.is_some_and(is_own) && authority.is_none_or(is_own) {
        AccessVerdict::Allowed
    } else {
        AccessVerdict::ForeignHost
    }
}

/// Returns the values of the cookies with this name.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let headers = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = headers.flat_map(|value| value.split(';'));
    pairs.filter_map(move |pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(access: &Access, is_open: bool, headers: &[(&str, &str)]) -> AccessVerdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().expect("a name");
            map.append(name, value.parse().expect("a value"));
        }
        access.judge(Version::HTTP_11, &Uri::from_static("/"), &map, is_open)
    }

    #[test]
    fn loopback_answers_under_own_names_only() {
        let access = Access::new(([127, 0, 0, 1], 9).into(), None);
        for host in ["localhost", "LOCALHOST.:80", "127.0.0.1:1", "[::1]:9", "a.localhost"] {
            assert_eq!(judge(&access, false, &[("host", host)]), AccessVerdict::Allowed, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "", "127.0.0.1.nip.io"] {
            assert_eq!(
                judge(&access, true, &[("host", host)]),
                AccessVerdict::ForeignHost,
                "{host}"
            );
        }
        assert_eq!(judge(&access, true, &[]), AccessVerdict::NoHost);
        let two = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(judge(&access, true, &two), AccessVerdict::NoHost);
        let absolute = Uri::from_static("http://evil.example/");
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        let verdict = access.judge(Version::HTTP_11, &absolute, &headers, true);
        assert_eq!(verdict, AccessVerdict::ForeignHost);
    }

    #[test]
    fn words_need_the_token_beyond_loopback() {
        let closed = Access::new(([0, 0, 0, 0], 9).into(), None);
        assert_eq!(judge(&closed, true, &[]), AccessVerdict::Allowed);
        assert_eq!(judge(&closed, false, &[("authorization", "Bearer x")]), AccessVerdict::Closed);
        let access = Access::new(([0, 0, 0, 0], 9).into(), Some(Token::new("secret".to_owned())));
        assert_eq!(judge(&access, false, &[]), AccessVerdict::Unknown);
        for wrong in ["Bearer secre", "Basic secret", "secret", "Bearer "] {
            assert_eq!(judge(&access, false, &[("authorization", wrong)]), AccessVerdict::Unknown);
        }
        let AccessVerdict::AllowedWithCookie(cookie) =
            judge(&access, false, &[("authorization", "bearer secret")])
        else {
            panic!("the token is right")
        };
        assert!(!cookie.contains("secret"), "{cookie}");
        let pair = cookie.split(';').next().expect("a pair");
        let both = format!("a=b; {pair}");
        assert_eq!(judge(&access, false, &[("cookie", &both)]), AccessVerdict::Allowed);
        let (name, _) = pair.split_once('=').expect("a value");
        let wrong = format!("{name}=x");
        assert_eq!(judge(&access, false, &[("cookie", &wrong)]), AccessVerdict::Unknown);
        let other = Access::new(([0, 0, 0, 0], 9).into(), Some(Token::new("another".to_owned())));
        let AccessVerdict::AllowedWithCookie(other) =
            judge(&other, false, &[("authorization", "Bearer another")])
        else {
            panic!("the token is right")
        };
        assert_ne!(other.split_once('=').expect("a value").0, name, "one host may run both");
    }
}
