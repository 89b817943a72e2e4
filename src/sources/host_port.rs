//! Addresses as people write them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// Longest host name, and longest part of it between two dots, that DNS can hold.
const NAME_BYTES_MAX: usize = 253;
/// Longest part of a name between two dots.
const LABEL_BYTES_MAX: usize = 63;

/// A host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The host, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Checks a host and a port that were given apart, as in `wordtide localhost 9999`. An IPv6
    /// address may stand in brackets.
    ///
    /// # Errors
    ///
    /// `Usage` for text that can be neither a host name nor an address, or for port 0.
    pub fn new(host: &str, port: u16) -> Result<HostPort> {
        let usage = |message: String| {
            Error::new(ErrorKind::Usage, message)
                .hint("give HOST PORT, as in `wordtide localhost 9999`, or --connect HOST:PORT")
        };
        if port == 0 {
            return Err(usage(format!("\"{host}:0\" has no port")));
        }
        let bad = |why| usage(format!("{host:?} is not a host: {why}"));
        let plain = match host.strip_prefix('[') {
            Some(rest) => match rest.strip_suffix(']') {
                Some(address) if is_ipv6(address) => address,
                _ => return Err(bad("only an IPv6 address stands in brackets")),
            },
            None => host,
        };
        check(plain).map_err(bad)?;
        Ok(HostPort { host: plain.to_owned(), port })
    }

    /// Parses an address to listen on, the value of `flag`: port 0 stands for any free port.
    ///
    /// # Errors
    ///
    /// `Usage` for text that is no address, naming the flag.
    pub fn to_listen(text: &str, flag: &str) -> Result<HostPort> {
        let bad = |why: &str| {
            let message = format!("{flag} {text:?} is not an address to listen on: {why}");
            Error::new(ErrorKind::Usage, message)
                .hint(format!("give {flag} as ADDR:PORT, as in 127.0.0.1:9980 or [::]:9980"))
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
        let port: u16 = port.parse().map_err(|_| bad("its port is no number up to 65535"))?;
        let plain = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|address| is_ipv6(address)),
            None => Some(host).filter(|host| !host.contains(':')),
        };
        let plain = plain.ok_or_else(|| bad("only an IPv6 address stands in brackets"))?;
        check(plain).map_err(bad)?;
        Ok(HostPort { host: plain.to_owned(), port })
    }
}

/// Returns why `host` can be neither a name nor an address.
fn check(host: &str) -> Result<(), &'static str> {
    if is_ipv6(host) {
        return Ok(());
    }
    if host.is_empty() {
        return Err("it is empty");
    }
    if host.contains("://") {
        return Err("leave the scheme out");
    }
    if host.contains(char::is_whitespace) {
        return Err("it contains a blank");
    }
    if let Some((_, port)) = host.rsplit_once(':') {
        let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        return Err(if is_port { "it contains a port" } else { "it contains a colon" });
    }
    // Names that a resolver may know are not only those of DNS: underscores and letters beyond
    // ASCII stay.
    let is_odd = |c: char| c.is_control() || c.is_ascii_punctuation() && !"-_.".contains(c);
    if host.contains(is_odd) {
        return Err("it contains a character that no host name has");
    }
    if host.len() > NAME_BYTES_MAX {
        return Err("it is too long");
    }
    let labels = host.strip_suffix('.').unwrap_or(host).split('.');
    if labels.clone().any(|label| label.len() > LABEL_BYTES_MAX) {
        return Err("a part between two dots is too long");
    }
    let is_number =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit());
    if labels.clone().count() == 4
        && labels.clone().all(is_number)
        && labels.clone().any(|label| label.parse::<u8>().is_err())
    {
        return Err("it is no IPv4 address");
    }
    Ok(())
}

/// Returns true for an IPv6 address, which may name its zone (`fe80::1%eth0`).
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
    let is_zone = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.chars().all(is_zone)
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for HostPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(ErrorKind::Usage, format!("{text:?} is not a host and port"))
                .hint("give --connect as HOST:PORT, for example localhost:9999 or [::1]:9999")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        // Without brackets it is not clear where an IPv6 address ends and a port begins.
        if host.contains(':') && !host.starts_with('[') {
            return Err(bad());
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        HostPort::new(host, port).map_err(|error| bad().cause(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_were_given() {
        for text in ["localhost:9999", "10.0.0.1:1", "[::1]:65535", "[fe80::1%eth0]:1", "a_b.c.:1"]
        {
            assert_eq!(text.parse::<HostPort>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn bad_address_is_refused_with_its_flag() {
        for text in [
            "",
            "localhost",
            ":9999",
            "a:0",
            "a:65536",
            "::1:9999",
            "[::1:9",
            "a:b",
            "a b:1",
            "http://a:1",
            "[a]:1",
            "[]:1",
            "1.2.3.400:1",
            "a/b:1",
            " a:1",
        ] {
            let error = text.parse::<HostPort>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains("--connect"), "{error}");
        }
    }

    #[test]
    fn address_to_listen_on_may_have_port_0() {
        for text in ["127.0.0.1:0", "[::]:9980", "localhost:80"] {
            let address = HostPort::to_listen(text, "--listen-http").expect(text);
            assert_eq!(address.to_string(), text);
        }
        for text in ["", "9980", ":9980", "::1:9980", "[::1]", "a:65536", "a:b", "[a]:1"] {
            let error = HostPort::to_listen(text, "--listen-http").expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains("--listen-http"), "{error}");
        }
    }

    #[test]
    fn host_in_brackets_is_taken_without_them() {
        for (given, host) in [("[::1]", "::1"), ("::1", "::1"), ("localhost", "localhost")] {
            assert_eq!(HostPort::new(given, 9).expect(given).host, host);
        }
    }

    #[test]
    fn host_with_more_than_host_is_refused() {
        for (host, why) in [
            ("", "empty"),
            ("localhost:9999", "contains a port"),
            ("[::1]:9999", "brackets"),
            ("a b", "blank"),
            ("http://localhost", "scheme"),
            ("user@host", "character"),
            ("300.1.1.1", "IPv4"),
        ] {
            let error = HostPort::new(host, 9).expect_err(host);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
