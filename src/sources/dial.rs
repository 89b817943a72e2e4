//! Making a TCP connection: resolve the name, then try its addresses.
//!
//! The addresses of a name are tried as RFC 8305 has it: both families in turn, the next one
//! [`ATTEMPT_DELAY`] after the last or as soon as that has failed, and the first that answers wins.
//! A host that drops packets costs its own attempt [`CONNECT_TIMEOUT`], and the others nothing.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::host_port::HostPort;
use super::reconnect_pauses::{ReconnectPauses, Trouble};
use crate::error::{Error, ErrorKind, Result};

/// Longest wait for one address to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an address has the line to itself before the next one is tried beside it.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Most failed look-ups of a name that has never resolved: it is most likely misspelt. A name that
/// has resolved once is looked up until it resolves again.
const RESOLVE_TRIES: u32 = 4;

/// Looks up the addresses of a host. Dropping the future does not wait for the look-up.
type Resolver =
    Arc<dyn Fn(&HostPort) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Connects to one host and port, again and again.
pub struct Dialer {
    /// The host and the port.
    address: HostPort,
    /// Resolves the name.
    resolver: Resolver,
    /// True if the name had an address in this run: a later failure of DNS is transient.
    has_resolved: bool,
    /// Look-ups that failed since one succeeded.
    unresolved: u32,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Dialer {
    /// A dialer that asks the system's resolver.
    pub fn new(address: HostPort) -> Dialer {
        Dialer::by(address, Arc::new(system_resolver))
    }

    /// Makes a dialer with a resolver of its own, for tests.
    fn by(address: HostPort, resolver: Resolver) -> Dialer {
        Dialer { address, resolver, has_resolved: false, unresolved: 0 }
    }

    /// Tries until a connection stands, with the pauses of `retry`, which also reports failures.
    /// Safe to cancel.
    ///
    /// # Errors
    ///
    /// `Temporary` if the name does not resolve and never has.
    pub async fn connect(&mut self, pauses: &mut ReconnectPauses) -> Result<TcpStream> {
        loop {
            if let Some(addresses) = self.resolve(pauses).await? {
                match connect_any(addresses, CONNECT_TIMEOUT).await {
                    Ok(stream) => return Ok(stream),
                    Err(cause) => {
                        let (address, port) = (&self.address, self.address.port);
                        pauses.failed(Trouble::Connect, || {
                            format!(
                                "cannot connect to {address}: {cause}; trying until it answers \
                                 (to serve lines there: nc -lk {port})"
                            )
                        });
                    }
                }
            }
            tokio::time::sleep(pauses.next_pause()).await;
        }
    }

    /// Resolves the name; `None` if that is to be tried again.
    ///
    /// Fails with `Temporary` for a name that has not had an address in [`RESOLVE_TRIES`] attempts.
    async fn resolve(&mut self, pauses: &mut ReconnectPauses) -> Result<Option<Vec<SocketAddr>>> {
        let host = &self.address.host;
        let cause = match (self.resolver)(&self.address).await {
            Ok(addresses) if !addresses.is_empty() => {
                self.has_resolved = true;
                self.unresolved = 0;
                return Ok(Some(addresses));
            }
            Ok(_) => io::Error::new(io::ErrorKind::NotFound, "it has no address"),
            Err(cause) => cause,
        };
        self.unresolved += 1;
        if !self.has_resolved && self.unresolved >= RESOLVE_TRIES {
            let message = format!("host {host:?} does not resolve: {cause}");
            let hint = "check the name given to --connect";
            return Err(Error::new(ErrorKind::Temporary, message).cause(cause).hint(hint));
        }
        if self.has_resolved {
            pauses.failed(Trouble::Resolve, || {
                format!("host {host:?} does not resolve any more: {cause}; trying until it does")
            });
        }
        Ok(None)
    }
}

/// Looks up the addresses of a host, at least one.
pub async fn resolve(address: &HostPort) -> io::Result<Vec<SocketAddr>> {
    let found = system_resolver(address).await?;
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
    }
    Ok(found)
}

/// Connects to the first of `addresses` that answers, without a second attempt.
pub async fn connect_once(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let connected = connect_any(addresses, CONNECT_TIMEOUT).await;
    connected.map_err(|failure| io::Error::other(failure.to_string()))
}

/// Resolves a name as the system does.
fn system_resolver(address: &HostPort) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    let HostPort { host, port } = address.clone();
    Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
}

/// Connects to the first of `addresses` that answers.
async fn connect_any(
    addresses: Vec<SocketAddr>,
    timeout: Duration,
) -> Result<TcpStream, ConnectFailure> {
    let mut waiting = interleaved(addresses).into_iter().peekable();
    let mut attempts = FuturesUnordered::new();
    let mut failure = ConnectFailure::default();
    attempts.extend(waiting.next().map(|address| attempt(address, timeout)));
    while !attempts.is_empty() {
        tokio::select! {
            Some((address, ended)) = attempts.next() => match ended {
                Ok(stream) => return Ok(stream),
                Err(error) => failure.0.push((address, error.to_string())),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.peek().is_some() => {}
        }
        attempts.extend(waiting.next().map(|address| attempt(address, timeout)));
    }
    Err(failure)
}

/// Connects to one address within `timeout`.
async fn attempt(address: SocketAddr, timeout: Duration) -> (SocketAddr, io::Result<TcpStream>) {
    let connected = tokio::time::timeout(timeout, TcpStream::connect(address)).await;
    let connected = connected.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {timeout:?}")))
    });
    (address, connected.and_then(accept_as_source))
}

/// Refuses a connection of a socket to itself, and has the others watched.
///
/// On a port of the ephemeral range without listener, the system may give a socket the very
/// port that it connects to; TCP then connects it to itself.
fn accept_as_source(stream: TcpStream) -> io::Result<TcpStream> {
    if stream.local_addr()? == stream.peer_addr()? {
        // Closed by a reset, so that the port is free at once for the server that is to come.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        let message = "nobody listens there (the connection came back to itself)";
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, message));
    }
    keep_alive(&stream);
    Ok(stream)
}

/// Makes the loss of a host that sends no reset known within a minute.
pub fn keep_alive(stream: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "no keepalive on the source's socket");
    }
}

/// Each address once, both families in turn, beginning with the resolver's first choice.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return order;
        }
        for address in pair.into_iter().flatten() {
            if !order.contains(&address) {
                order.push(address);
            }
        }
    }
}

/// The reasons for which none of the addresses could be connected to.
#[derive(Debug, Default)]
struct ConnectFailure(Vec<(SocketAddr, String)>);

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("it has no address"),
            [(_, cause), rest @ ..] if rest.iter().all(|(_, other)| other == cause) => {
                f.write_str(cause)
            }
            causes => {
                let texts = causes.iter().map(|(address, cause)| format!("{address}: {cause}"));
                f.write_str(&texts.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::TcpListener;
    use std::sync::Mutex;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::backoff::BackoffPolicy;

    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

    fn any_port() -> SocketAddr {
        SocketAddr::from((LOOPBACK, 0))
    }

    /// A dialer whose look-ups end so, in this order, and then with the last answer for ever.
    fn dialer(answers: Vec<Option<SocketAddr>>) -> Dialer {
        let answers = Mutex::new(VecDeque::from(answers));
        let resolver = move |_: &HostPort| -> BoxFuture<'static, _> {
            let mut answers = answers.lock().expect("no panic");
            let answer =
                if answers.len() > 1 { answers.pop_front() } else { answers.front().copied() };
            let failed = || io::Error::other("Temporary failure in name resolution");
            let found = answer.flatten().map(|address| vec![address]).ok_or_else(failed);
            Box::pin(std::future::ready(found))
        };
        let address = "feed.example:9999".parse().expect("an address");
        Dialer::by(address, Arc::new(resolver))
    }

    fn fast() -> ReconnectPauses {
        let policy = BackoffPolicy::doubling(Duration::ZERO, Duration::ZERO);
        ReconnectPauses::with_backoff("feed.example:9999".to_owned(), policy)
    }

    /// A port that does not answer: its queue of connections is full.
    fn silent() -> (Socket, Vec<Socket>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&any_port().into()).expect("a port");
        listener.listen(0).expect("a bound socket");
        let address = listener.local_addr().expect("bound");
        let fill = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            // It is under way, and may never end.
            socket.connect(&address).err();
            socket
        };
        let queue = (0..4).map(|_| fill()).collect();
        (listener, queue)
    }

    fn address_of(socket: &Socket) -> SocketAddr {
        socket.local_addr().expect("bound").as_socket().expect("an IP address")
    }

    #[tokio::test]
    async fn name_that_never_resolved_is_given_up() {
        let error = dialer(vec![None]).connect(&mut fast()).await.expect_err("no such host");
        assert_eq!(error.kind(), ErrorKind::Temporary);
        assert!(error.to_string().contains("--connect"), "{error}");
    }

    #[tokio::test]
    async fn name_that_resolved_once_is_looked_up_again() {
        let listener = TcpListener::bind(any_port()).expect("a port");
        let there = listener.local_addr().expect("bound");
        let failures = std::iter::repeat_n(None, 3 * RESOLVE_TRIES as usize);
        let answers = [Some(there)].into_iter().chain(failures).chain([Some(there)]).collect();
        let mut dialer = dialer(answers);
        dialer.connect(&mut fast()).await.expect("it resolves");
        dialer.connect(&mut fast()).await.expect("it resolves again");
        assert_eq!(dialer.unresolved, 0);
    }

    #[tokio::test]
    async fn silent_address_does_not_delay_the_next() {
        let (silent, _queue) = silent();
        let listener = TcpListener::bind(any_port()).expect("a port");
        let there = listener.local_addr().expect("bound");
        let addresses = vec![address_of(&silent), there];
        // Far longer than any test may take: only the second address can answer.
        let stream = connect_any(addresses, Duration::from_secs(3_600)).await.expect("an answer");
        assert_eq!(stream.peer_addr().expect("connected"), there);
    }

    #[tokio::test]
    async fn silent_address_is_given_up_and_reported() {
        let (silent, _queue) = silent();
        let timeout = Duration::from_millis(20);
        let failure = connect_any(vec![address_of(&silent)], timeout).await.expect_err("silence");
        assert_eq!(failure.to_string(), "no answer within 20ms");
    }

    #[tokio::test]
    async fn connection_to_itself_is_refused() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&any_port().into()).expect("a port");
        let address = address_of(&socket);
        socket.connect(&address.into()).expect("TCP connects a socket to itself");
        socket.set_nonblocking(true).expect("a socket");
        let stream = TcpStream::from_std(socket.into()).expect("a connection");
        let error = accept_as_source(stream).expect_err("its own end");
        assert!(error.to_string().contains("nobody listens there"), "{error}");
        // The port is free at once for a server that does not ask to share it.
        let server = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        server.bind(&address.into()).expect("the port is free");
    }

    #[test]
    fn addresses_alternate_between_families() {
        let parse = |text: &str| text.parse::<SocketAddr>().expect(text);
        let given = ["[::1]:1", "[::2]:1", "[::1]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"];
        let order = ["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "10.0.0.3:1"];
        assert_eq!(interleaved(given.map(parse).to_vec()), order.map(parse));
    }

    #[test]
    fn failures_of_addresses_are_named_once() {
        let (a, b) = (SocketAddr::from((LOOPBACK, 1)), SocketAddr::from((LOOPBACK, 2)));
        let failure = |x: &str, y: &str| {
            ConnectFailure(vec![(a, x.to_owned()), (b, y.to_owned())]).to_string()
        };
        assert_eq!(failure("refused", "refused"), "refused");
        assert_eq!(failure("refused", "lost"), "127.0.0.1:1: refused, 127.0.0.1:2: lost");
    }
}
