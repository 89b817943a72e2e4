//! The settings of a listener, and its socket, which is bound before anything is written.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, ErrorKind, Result};
use crate::socket_activation::{self, SYSTEMD};
use crate::sources::log::SourceLog;
use crate::sources::open_file_limit;
use crate::tls::{self, TlsFiles};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Name of the socket that `--listen systemd` takes.
const SOCKET: &str = "listen";

/// An address and a port to listen on, or `systemd`: the socket named `listen` that the service
/// manager has opened. Port 0 stands for any that is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// The host, as it was given.
    host: String,
    /// The port; 0 for any.
    port: u16,
    /// True if the service manager passes the socket.
    is_passed: bool,
}

impl ListenAddress {
    /// Binds a socket to the address, for the flag with this name.
    ///
    /// # Errors
    ///
    /// `Configuration` if the address is not one of this host, is in use, or may not be used.
    pub(crate) fn bind(&self, flag: &str) -> Result<TcpListener> {
        if self.is_passed {
            return socket_activation::listener(SOCKET, flag);
        }
        let bound = self.addresses().and_then(|addresses| {
            let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in addresses {
                match bind(address) {
                    Ok(listener) => return Ok(listener),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        });
        bound.map_err(|error| {
            let message = format!("cannot listen on {self} ({flag}): {error}");
            let hint = bind_hint(&error, flag);
            Error::new(ErrorKind::Configuration, message).cause(error).hint(hint)
        })
    }

    /// Returns true if the socket comes from the service manager.
    pub(crate) fn is_passed(&self) -> bool {
        self.is_passed
    }

    /// Resolves the host.
    ///
    /// Fails if it has no address.
    fn addresses(&self) -> io::Result<impl Iterator<Item = SocketAddr> + use<>> {
        (self.host.as_str(), self.port).to_socket_addrs()
    }
}

/// Returns the way out where the address of a flag cannot be bound.
pub fn bind_hint(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program has this port: end it, or give another to {flag}")
        }
        io::ErrorKind::PermissionDenied => format!("give a port above 1023 to {flag}"),
        _ => format!("give an address of this host to {flag}"),
    }
}

/// Binds and listens, also where a former run's connections are still closing.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections are still closing can be used again at once.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl FromStr for ListenAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<ListenAddress> {
        let usage = |why: &str| {
            Error::new(ErrorKind::Usage, format!("{text:?} is not an address to listen on: {why}"))
                .hint(
                    "give --listen as ADDR:PORT, as in 0.0.0.0:9999 or [::]:9999; port 0 is any \
                     free one",
                )
        };
        if text == SYSTEMD {
            return Ok(ListenAddress { host: text.to_owned(), port: 0, is_passed: true });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| usage("it has no port"))?;
        let port = port.parse().map_err(|_| usage("its port is no number up to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(|| usage("a bracket is not closed"))?,
            None if host.contains(':') => {
                return Err(usage("an IPv6 address stands in brackets"));
            }
            None => host,
        };
        let is_odd = |c: char| c.is_whitespace() || c.is_control() || "/=,@".contains(c);
        if host.is_empty() || host.contains(is_odd) {
            return Err(usage("it has no host, or one with a wrong character"));
        }
        Ok(ListenAddress { host: host.to_owned(), port, is_passed: false })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenAddress { host, port, is_passed } = self;
        if *is_passed {
            return f.write_str(host);
        }
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A source that senders connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSettings {
    /// Where it listens.
    pub address: ListenAddress,
    /// Most senders at a time.
    pub connections_max: usize,
    /// The certificate and key, if the senders speak TLS.
    pub tls: Option<TlsFiles>,
    /// The socket, once it is bound.
    ready: ReadyListener,
}

impl ListenSettings {
    /// Most senders at a time, by default.
    pub const CONNECTIONS_MAX_DEFAULT: usize = 1024;
    /// Greatest number of senders at a time: the state of each has to fit into an EpochEnd record.
    pub const CONNECTIONS_MAX: usize = 8192;

    /// Settings with the default limit and without TLS.
    pub fn new(address: ListenAddress) -> ListenSettings {
        ListenSettings {
            address,
            connections_max: Self::CONNECTIONS_MAX_DEFAULT,
            tls: None,
            ready: ReadyListener::default(),
        }
    }

    /// Binds the socket and reads the certificate, once.
    ///
    /// # Errors
    ///
    /// `Configuration` if that cannot be, naming the flag.
    pub(crate) fn prepare(&self) -> Result<()> {
        let mut ready = self.ready.lock();
        if ready.is_none() {
            let tls = self.tls.as_ref().map(tls::server_config).transpose()?;
            *ready = Some((self.address.bind("--listen")?, tls));
        }
        Ok(())
    }

    /// Returns the bound socket and the acceptor of TLS.
    ///
    /// Fails with `Configuration` if the address is taken or the certificate cannot be used, and
    /// with `Failed` if it was called before.
    pub(crate) fn listener(&self) -> Result<(TcpListener, Option<TlsAcceptor>)> {
        self.prepare()?;
        let ready = self.ready.lock().take();
        let (listener, tls) = ready.ok_or_else(|| {
            Error::new(ErrorKind::Failed, format!("{} is listened on twice", self.address))
        })?;
        Ok((listener, tls.map(TlsAcceptor::from)))
    }

    /// Returns how many senders there may be: what was asked for, unless the limit of open files or
    /// the records of the journal allow less.
    pub(crate) fn senders_max(&self, log: &SourceLog) -> usize {
        let wanted = self.connections_max;
        let most = open_file_limit::senders_max(wanted).min(log.connections_max());
        if most < wanted {
            tracing::warn!(
                "{most} senders may be connected at a time, and not {wanted}: see `ulimit -n` and \
                 --journal-max"
            );
        }
        most
    }

    /// The error of a socket that was bound and cannot be used.
    pub(crate) fn refused(&self, error: &io::Error) -> Error {
        Error::new(ErrorKind::Failed, format!("cannot listen on {}: {error}", self.address))
    }
}

/// The socket and the configuration of TLS, between the checks of a start and the first accept.
type Prepared = (TcpListener, Option<Arc<ServerConfig>>);

/// Holds the socket. Clones share it, and all are equal.
#[derive(Clone, Default)]
struct ReadyListener(Arc<Mutex<Option<Prepared>>>);

impl ReadyListener {
    /// Locks the socket.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Prepared>> {
        // It is whole between two uses.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for ReadyListener {
    fn eq(&self, _other: &ReadyListener) -> bool {
        true
    }
}

impl Eq for ReadyListener {}

impl fmt::Debug for ReadyListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadyListener").field(&self.lock().is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_needs_host_and_port() {
        for (text, shown) in
            [("0.0.0.0:0", "0.0.0.0:0"), ("[::1]:7", "[::1]:7"), (SYSTEMD, SYSTEMD)]
        {
            let address: ListenAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), shown);
        }
        for text in ["9999", "host", "host:", "host:70000", ":9", "::1:9", "[::1:9", "a b:9"] {
            let error = text.parse::<ListenAddress>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
    }

    #[test]
    fn port_in_use_names_the_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let place = taken.local_addr().expect("bound").to_string();
        let settings = ListenSettings::new(place.parse().expect("an address"));
        let error = settings.prepare().expect_err("it is taken");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(&format!("{place} (--listen)")), "{error}");
    }
}
