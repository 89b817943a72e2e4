//! Sockets that a service manager has opened for this process: socket activation, by the protocol
//! of sd_listen_fds(3).
//!
//! The value `systemd` of a flag stands for such a socket instead of an address. Each socket has a
//! name, which `FileDescriptorName=` of the socket unit gives it, and is taken once.

use std::net::TcpListener;
use std::sync::{Mutex, OnceLock, PoisonError};

use listenfd::ListenFd;

use crate::error::{Error, ErrorKind, Result};

/// The value of a flag that takes a socket of the service manager.
pub const SYSTEMD: &str = "systemd";

/// The variable with the names of the sockets, separated by colons.
const NAMES: &str = "LISTEN_FDNAMES";

/// The variable with the number of the process that the sockets are for.
const PROCESS: &str = "LISTEN_PID";

/// The sockets of the process that are not taken yet.
static SOCKETS: OnceLock<Mutex<PassedSockets>> = OnceLock::new();

/// Takes the listening TCP socket with this name, for `flag`. It does not block.
///
/// # Errors
///
/// `Configuration` if the service manager has passed no such socket, or it was taken before.
pub fn listener(name: &str, flag: &str) -> Result<TcpListener> {
    let sockets = SOCKETS.get_or_init(|| Mutex::new(PassedSockets::of_process()));
    sockets.lock().unwrap_or_else(PoisonError::into_inner).take(name, flag)
}

/// The sockets that were passed, with their names.
struct PassedSockets {
    /// The name of each socket.
    names: Vec<String>,
    /// The sockets, taken one by one.
    sockets: ListenFd,
}

impl PassedSockets {
    /// Reads the description of the sockets in the environment.
    fn of_process() -> PassedSockets {
        // Without the number of a process the variables are those of another one.
        let is_addressed = std::env::var_os(PROCESS).is_some();
        let sockets = if is_addressed { ListenFd::from_env() } else { ListenFd::empty() };
        let names = std::env::var(NAMES).unwrap_or_default();
        // A variable that was meant for another process names sockets that are not here.
        let names = names.split(':').take(sockets.len()).map(str::to_owned).collect();
        PassedSockets { names, sockets }
    }

    /// Takes the listening socket with this name.
    ///
    /// Fails with `Configuration` if there is none, or it is of another kind.
    fn take(&mut self, name: &str, flag: &str) -> Result<TcpListener> {
        let refused = |why: String, hint: String| {
            let message = format!("cannot listen on {SYSTEMD} ({flag}): {why}");
            Error::new(ErrorKind::Configuration, message).hint(hint)
        };
        let passed = match &*self.names {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let missing = || {
            let why = format!("no socket named {name} was passed by the service manager");
            let hint = format!(
                "set FileDescriptorName={name} in a socket unit of this service, or give {flag} \
                 an address (passed: {passed})"
            );
            refused(why, hint)
        };
        let at = self.names.iter().position(|passed| passed == name).ok_or_else(missing)?;
        if self.names[at + 1..].iter().any(|passed| passed == name) {
            // No source would read what the kernel takes on the other.
            let why = format!("several sockets named {name} were passed by the service manager");
            return Err(refused(why, "give the socket unit one ListenStream=".to_owned()));
        }
        let wrong = |cause: std::io::Error| {
            let why = format!("the socket named {name} is not one that listens for TCP: {cause}");
            refused(why, "set ListenStream=ADDR:PORT in the socket unit".to_owned()).cause(cause)
        };
        let taken = self.sockets.take_tcp_listener(at).map_err(wrong)?;
        let listener = taken.ok_or_else(|| {
            let why = format!("the socket named {name} is in use by this process");
            refused(why, format!("give {flag} {SYSTEMD} once"))
        })?;
        match rustix::net::sockopt::socket_acceptconn(&listener) {
            Ok(true) => {}
            Ok(false) => return Err(wrong(std::io::ErrorKind::NotConnected.into())),
            Err(errno) => return Err(wrong(errno.into())),
        }
        listener.set_nonblocking(true).map_err(wrong)?;
        Ok(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_socket_names_unit_and_flag() {
        let error = listener("http", "--http").expect_err("the tests get no sockets");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.contains("--http") && text.contains("no socket named http"), "{text}");
    }
}
