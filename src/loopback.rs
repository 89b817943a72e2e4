//! Decides whether an address or the name of a host is on the loopback device.
//!
//! Every rule that trusts this machine more than others asks here: what may be read without a
//! token, which text may be sent unencrypted, which processes need no key.

use std::net::IpAddr;

/// Returns true for an address of the loopback device, also in its IPv6 form `::ffff:127.0.0.1`.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Returns true for a name or an address of the loopback device. An IPv6 address may stand in
/// brackets. No name is resolved: `localhost` and the names below it are loopback by RFC 6761.
pub fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').unwrap_or_default(),
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_below = || name.len() > 10 && name.is_char_boundary(name.len() - 10);
    name.parse().is_ok_and(is_loopback)
        || name.eq_ignore_ascii_case("localhost")
        || is_below() && name[name.len() - 10..].eq_ignore_ascii_case(".localhost")
}

/// Returns the host in `host:port`, with its brackets if it has them. A port is not needed.
pub fn host_of(authority: &str) -> &str {
    let end = match authority.find(']') {
        Some(bracket) if authority.starts_with('[') => Some(bracket + 1),
        _ => authority.find(':'),
    };
    let (host, rest) = authority.split_at(end.unwrap_or(authority.len()));
    // What follows a bracket is a port or nothing; else the whole is no host.
    if rest.is_empty() || rest.starts_with(':') { host } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_many_spellings() {
        for host in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
            "[::ffff:127.0.0.1]",
            "localhost",
            "LocalHost.",
            "a.localhost",
        ] {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in [
            "",
            "[",
            "[::1",
            "0.0.0.0",
            "::",
            "10.0.0.1",
            "::ffff:10.0.0.1",
            "127.0.0.1.nip.io",
            "127.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            ".localhost",
            "éé.localhos",
        ] {
            assert!(!is_loopback_name(host), "{host}");
        }
    }

    #[test]
    fn host_stands_before_the_port() {
        let hosts = ["a:1", "a", "[::1]:9", "[::1]", "[::1]x", "[::1", ""].map(host_of);
        assert_eq!(hosts, ["a", "a", "[::1]", "[::1]", "", "[", ""]);
    }
}
