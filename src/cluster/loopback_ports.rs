//! Loopback ports for processes that are not started yet.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Socket, Type};

use crate::error::{Error, ErrorKind, Result};

/// Reserved loopback ports, for processes that will listen on them. The reservation ends when this
/// is dropped.
///
/// The sockets are bound and do not listen. The kernel lets another socket with `SO_REUSEADDR`,
/// which every listener has, bind the same port and listen. But it does not give the port to a
/// socket that asks for any free port.
#[derive(Debug)]
pub struct Ports {
    /// One address for each process.
    addresses: Vec<String>,
    /// Holds the ports until the children bind them.
    _reserved: Vec<Socket>,
}

impl Ports {
    /// Reserves `count` ports.
    ///
    /// # Errors
    /// `Failed` if the kernel has no free port.
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

    /// Returns `127.0.0.1:PORT` for each port.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_port_can_be_bound_once() {
        let ports = Ports::reserve(2).unwrap();
        let [one, other] = ports.addresses() else { panic!("two ports") };
        assert_ne!(one, other);
        let _listening = std::net::TcpListener::bind(one).unwrap();
        let again = std::net::TcpListener::bind(one).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }
}
