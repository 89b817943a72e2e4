//! The value of `--http`: an address of this host and a port, or a socket of the service manager.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::socket_activation::{self, SYSTEMD};

/// Name of the socket that `--http systemd` takes.
const SOCKET: &str = "http";

/// A place of this host to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpAddress {
    /// An address. Port 0 is any free port.
    Bind(SocketAddr),
    /// The socket named `http` that the service manager passes.
    Passed,
}

impl HttpAddress {
    /// Any free port of the loopback device.
    pub const LOOPBACK: HttpAddress =
        HttpAddress::Bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));

    /// Returns the address of process `index` of processes that one command starts: the ports
    /// follow each other. Port 0 stays, so each process has a port of its own.
    ///
    /// # Errors
    ///
    /// `Usage` if there is no such port, or one socket for several processes.
    pub fn of_process(self, index: usize) -> Result<HttpAddress> {
        let address = match self {
            HttpAddress::Bind(address) => address,
            HttpAddress::Passed if index == 0 => return Ok(self),
            HttpAddress::Passed => {
                let message =
                    format!("--http {SYSTEMD} is one socket, and -n starts more processes");
                return Err(Error::new(ErrorKind::Usage, message)
                    .hint("give --http ADDR:PORT, or start each process as a service of its own"));
            }
        };
        let port = address.port();
        if port == 0 {
            return Ok(self);
        }
        let next = u16::try_from(index).ok().and_then(|index| port.checked_add(index));
        let Some(next) = next else {
            let message = format!("process {index} has no port after {port}");
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("give --http a lower port: process I listens at PORT + I"));
        };
        Ok(HttpAddress::Bind(SocketAddr::new(address.ip(), next)))
    }

    /// Listens. The socket does not block.
    ///
    /// # Errors
    ///
    /// `Configuration` if the address cannot be listened on, or no such socket was passed.
    pub fn listen(&self) -> Result<TcpListener> {
        let address = match self {
            HttpAddress::Bind(address) => address,
            HttpAddress::Passed => return socket_activation::listener(SOCKET, "--http"),
        };
        let refused = |cause| self.refused(cause);
        let listener = TcpListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        Ok(listener)
    }

    /// Returns the error of an address that cannot be listened on.
    pub fn refused(&self, cause: std::io::Error) -> Error {
        let hint = if cause.kind() == std::io::ErrorKind::AddrInUse {
            "give --http another port, or 0 for a free one"
        } else {
            "give --http an address of this host"
        };
        let message = format!("cannot listen at {self} for --http: {cause}");
        Error::new(ErrorKind::Configuration, message).cause(cause).hint(hint)
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpAddress::Bind(address) => write!(f, "{address}"),
            HttpAddress::Passed => f.write_str(SYSTEMD),
        }
    }
}

impl FromStr for HttpAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<HttpAddress> {
        let text = text.trim();
        if text == SYSTEMD {
            return Ok(HttpAddress::Passed);
        }
        let localhost = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        localhost.as_deref().unwrap_or(text).parse().map(HttpAddress::Bind).map_err(|_| {
            Error::new(ErrorKind::Usage, format!("{text:?} is not an address and a port"))
                .hint("give --http as ADDR:PORT, for example 127.0.0.1:9090 or [::1]:9090")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["127.0.0.1:9090", "0.0.0.0:0", "[::1]:80", "systemd"] {
            let address: HttpAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
        let local: HttpAddress = "localhost:9".parse().expect("the name of this host");
        assert_eq!(local.to_string(), "127.0.0.1:9");
        for text in ["", "9090", ":9090", "host:9090", "127.0.0.1", "127.0.0.1:70000", "::1:9"] {
            let error = text.parse::<HttpAddress>().expect_err(text);
            assert!(error.to_string().contains("--http"), "{error}");
        }
    }

    #[test]
    fn ports_of_processes_follow_each_other() {
        let first: HttpAddress = "127.0.0.1:9000".parse().expect("an address");
        assert_eq!(
            first.of_process(2).map(|it| it.to_string()).ok().as_deref(),
            Some("127.0.0.1:9002")
        );
        let last: HttpAddress = "127.0.0.1:65535".parse().expect("an address");
        assert!(last.of_process(0).is_ok() && last.of_process(1).is_err());
        let passed = HttpAddress::Passed;
        assert!(passed.of_process(0).is_ok() && passed.of_process(1).is_err());
        assert_eq!(HttpAddress::LOOPBACK.of_process(70_000).ok(), Some(HttpAddress::LOOPBACK));
    }
}
