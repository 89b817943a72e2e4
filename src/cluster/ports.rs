//! Loopback ports for processes that are yet to be started.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Socket, Type};

use crate::error::{Error, ErrorKind, Result};

/// Loopback ports that nobody else gets while this lives, for processes that will listen on them.
///
/// The sockets are bound and do not listen. The kernel lets another socket with `SO_REUSEADDR`,
/// which every listener has, bind the same port and listen; but it gives the port to no one who
/// asks for any.
#[derive(Debug)]
pub struct Ports {
    addresses: Vec<String>,
    _reserved: Vec<Socket>,
}

impl Ports {
    /// Reserves `count` ports.
    ///
    /// # Errors
    /// `Failed` when the kernel has no more.
    pub fn reserve(count: usize) -> Result<Ports> {
        let reserve = || -> io::Result<(String, Socket)> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
            let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
            Ok((address.to_string(), socket))
        };
        let all = (0..count).map(|_| reserve()).collect::<io::Result<Vec<_>>>();
        let all = all.map_err(|cause| {
            let message = format!("cannot reserve a loopback port: {cause}");
            Error::new(ErrorKind::Failed, message).cause(cause)
        })?;
        let (addresses, reserved) = all.into_iter().unzip();
        Ok(Ports { addresses, _reserved: reserved })
    }

    /// `127.0.0.1:PORT` of each.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_can_be_listened_on_once() {
        let ports = Ports::reserve(2).unwrap();
        let [one, other] = ports.addresses() else { panic!("two ports") };
        assert_ne!(one, other);
        let _listening = std::net::TcpListener::bind(one).unwrap();
        let again = std::net::TcpListener::bind(one).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }
}
