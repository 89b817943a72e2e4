//! A line source: what `nc -lk` would be, led by the test.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use super::DEADLINE;

/// A port of its own on the loopback device.
pub(crate) struct Server {
    listener: TcpListener,
}

/// A port that is taken and refuses connections until it is opened.
pub(crate) struct Closed {
    socket: Socket,
}

impl Closed {
    pub(crate) fn new() -> Closed {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&SockAddr::from(any_port)).expect("a loopback port");
        Closed { socket }
    }

    pub(crate) fn port(&self) -> u16 {
        let address = self.socket.local_addr().expect("bound");
        address.as_socket().expect("an IP address").port()
    }

    pub(crate) fn open(self) -> Server {
        self.socket.listen(16).expect("a bound socket");
        Server { listener: self.socket.into() }
    }
}

impl Server {
    pub(crate) fn new() -> Server {
        Closed::new().open()
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().expect("bound").port()
    }

    /// `--connect 127.0.0.1:PORT`
    pub(crate) fn flag(&self) -> String {
        format!("--connect 127.0.0.1:{}", self.port())
    }

    /// Waits for the next connection.
    pub(crate) fn accept(&self) -> Peer {
        self.try_accept(DEADLINE).expect("nobody connects")
    }

    /// Waits for the next connection, no longer than `limit`.
    pub(crate) fn try_accept(&self, limit: Duration) -> Option<Peer> {
        let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
        let limit = Timespec::try_from(limit).expect("short");
        if poll(&mut fds, Some(&limit)) != Ok(1) {
            return None;
        }
        let (stream, _) = self.listener.accept().expect("a connection waits");
        stream.set_write_timeout(Some(DEADLINE)).expect("a socket");
        Some(Peer { stream })
    }
}

/// One connection, seen from the side that sends.
pub(crate) struct Peer {
    stream: TcpStream,
}

impl Peer {
    /// Sends all of it. For text that fits into the kernel's buffers this means: it has arrived.
    pub(crate) fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).expect("the program reads");
    }

    /// Sends what it can; false once the program has closed the connection.
    pub(crate) fn try_send(&mut self, text: &[u8]) -> bool {
        self.stream.write_all(text).is_ok()
    }

    /// Waits until the program has closed the connection, or has gone.
    pub(crate) fn wait_until_closed(mut self) {
        self.stream.read_to_end(&mut Vec::new()).ok();
    }

    /// Ends the stream in good order.
    pub(crate) fn fin(self) {
        drop(self);
    }

    /// Ends the stream in good order. Returns true if the other side has read all of it and then
    /// closed the connection.
    pub(crate) fn ends_drained(mut self) -> bool {
        let is_sent = self.stream.shutdown(Shutdown::Write).is_ok();
        let is_closed = self.stream.read_to_end(&mut Vec::new()).is_ok();
        // One that was closed with bytes unread has an error.
        is_sent && is_closed && matches!(self.stream.take_error(), Ok(None))
    }

    /// Breaks the connection.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    }
}
