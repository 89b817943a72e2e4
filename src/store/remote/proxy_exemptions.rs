//! The hosts that `no_proxy` exempts from proxies.
//!
//! Entries are separated by commas or blanks: a name, which exempts the names below it, too, an
//! address, a range of addresses, or `*`. An entry `HOST:PORT` exempts one port of a host. The HTTP
//! client knows entries without a port only, so they are chosen by the server that it talks to.

/// The entries of `no_proxy` that count for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExemptHosts(Vec<String>);

impl ExemptHosts {
    /// Returns the entries of `no_proxy` for requests to `server`, which is HOST or HOST:PORT.
    ///
    /// Servers that give credentials are asked by the same client. Of a host other than that of
    /// `server` every port is exempt.
    pub fn of(no_proxy: &str, server: &str, is_plain: bool) -> ExemptHosts {
        let (host, port) = separate(server);
        let port = port.unwrap_or(if is_plain { 80 } else { 443 });
        let counts = |entry: &str| {
            let (name, only) = separate(entry);
            let is_ours = name == "*" || is_below(host, name);
            let is_exempt = only.is_none_or(|only| only == port || !is_ours);
            is_exempt.then(|| name.trim_start_matches("*.").to_owned())
        };
        let entries = no_proxy.split([',', ' ']).filter(|entry| !entry.is_empty());
        ExemptHosts(entries.filter_map(counts).collect())
    }

    /// Returns true if every host is exempt.
    pub fn is_all(&self) -> bool {
        self.0.iter().any(|entry| entry == "*")
    }

    /// Returns the list in the form that the HTTP client takes.
    pub fn list(&self) -> String {
        self.0.join(",")
    }
}

/// Returns true if `host` is `name` or a name below it.
fn is_below(host: &str, name: &str) -> bool {
    let name = name.trim_start_matches("*.").trim_start_matches('.');
    let at = host.len().checked_sub(name.len());
    let end = at.and_then(|at| Some((host.get(..at)?, host.get(at..)?)));
    end.is_some_and(|(above, end)| {
        end.eq_ignore_ascii_case(name) && (above.is_empty() || above.ends_with('.'))
    })
}

/// Separates the port from a host. An address of IPv6 has a port only after brackets.
fn separate(text: &str) -> (&str, Option<u16>) {
    if let Some((address, after)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return (address, after.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match text.split_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the list for a server that is reached by TLS.
    fn list(no_proxy: &str, server: &str) -> String {
        ExemptHosts::of(no_proxy, server, false).list()
    }

    #[test]
    fn star_exempts_every_host() {
        for (value, exempts) in [
            ("*", true),
            ("a, *", true),
            (" * ", true),
            ("", false),
            ("*.example.com", false),
            ("*:443", true),
            ("*:80", false),
        ] {
            assert_eq!(ExemptHosts::of(value, "host", false).is_all(), exempts, "{value}");
        }
    }

    #[test]
    fn entry_with_port_exempts_that_port_only() {
        for (entry, server, expected) in [
            ("minio:9000", "minio:9000", "minio"),
            ("minio:9000", "bucket.MINIO:9000", "minio"),
            ("minio:9000", "minio:9001", ""),
            ("minio:443", "minio", "minio"),
            ("minio:80", "minio", ""),
            ("minio:9000", "terminio:9001", "minio"),
            (".lan:9000 b", "a.lan:9001", "b"),
            ("127.0.0.1:9000", "127.0.0.1:9000", "127.0.0.1"),
            ("[::1]:9000", "[::1]:9000", "::1"),
            ("[::1]:9000", "[::1]:1", ""),
            ("sts.example.com:443", "minio:9000", "sts.example.com"),
        ] {
            assert_eq!(list(entry, server), expected, "{entry} for {server}");
        }
        assert_eq!(ExemptHosts::of("minio:80", "minio", true).list(), "minio");
    }

    #[test]
    fn entries_without_port_stand_as_they_are() {
        let entries = "a.b, .c  10.0.0.0/8,::1,fe80::/10,*.d,a:x";
        assert_eq!(list(entries, "a.b"), "a.b,.c,10.0.0.0/8,::1,fe80::/10,d,a:x");
    }
}
