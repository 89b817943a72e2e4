//! Why a cluster ended: the first cause, in words, and which panics are only its echo.

use std::fmt;
use std::io;
use std::time::Duration;

use super::settings::ClusterSettings;
use crate::error::{Error, ErrorKind};

/// Longest cause that is passed on, in bytes.
const CAUSE_BYTES_MAX: usize = 1024;

/// The first cause of a cluster's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The process that was lost or failed.
    pub process: usize,
    /// The process that saw it; the failed one itself when it could still speak.
    pub reporter: usize,
    /// What was seen.
    pub cause: String,
    message: String,
}

impl Loss {
    pub(super) fn new(
        settings: &ClusterSettings,
        process: usize,
        reporter: usize,
        cause: &str,
    ) -> Loss {
        let mut end = cause.len().min(CAUSE_BYTES_MAX);
        while !cause.is_char_boundary(end) {
            end -= 1;
        }
        let cause = cause[..end].to_owned();
        let own = settings.process;
        let shown = settings.shown(process);
        let message = if process == reporter {
            format!("{shown} failed: {cause}")
        } else if process == own {
            format!("{} lost this process: {cause}", settings.shown(reporter))
        } else if reporter == own {
            format!("lost {shown}: {cause}")
        } else {
            format!("lost {shown}: {cause}, as process {reporter} saw")
        };
        Loss { process, reporter, cause, message }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Loss> for Error {
    fn from(loss: Loss) -> Error {
        Error::new(ErrorKind::PeerLost, loss.message)
            .hint("restart every process of the cluster; what was committed stays valid")
    }
}

/// Returns how a link ended, in words; `None` stands for a connection that was closed in order.
pub(super) fn cause_of(ended: Option<&io::Error>) -> String {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, WouldBlock};
    match ended {
        None => "its connection closed".to_owned(),
        Some(cause) => match cause.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset => {
                "its connection was reset".to_owned()
            }
            TimedOut => "its host acknowledges nothing".to_owned(),
            WouldBlock => "it takes no more control messages".to_owned(),
            _ => cause.to_string(),
        },
    }
}

pub(super) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Returns true if a panic with this message is the engine's answer to a lost peer, and not a
/// cause.
///
/// The streams of [`allocators`](super::allocators) keep timely 0.32 from such panics; one can
/// still follow a panic of a worker of this process. The cause is the one that
/// [`Control::cause_within`](super::Control::cause_within) gives in the next second; only if there
/// is none, the message itself.
pub fn follows_a_loss(message: &str) -> bool {
    const STARTS: [&str; 8] = [
        "timely communication error:",
        "Clean shutdown followed by data",
        "MergeQueue ",
        "Failed to receive MergeQueue",
        "Failed to receive push queue",
        "Send thread panic",
        "Recv thread panic",
        "Worker panic",
    ];
    STARTS.iter().any(|start| message.starts_with(start))
}

/// Returns true if a panic with this message is timely's way to say that a peer has sent a message
/// which cannot be read.
pub fn is_of_malformed_data(message: &str) -> bool {
    message.starts_with("bincode::deserialize() failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_names_the_process_its_address_and_the_cause_from_every_point_of_view() {
        let settings = ClusterSettings {
            processes: 3,
            process: 1,
            addresses: vec!["a:1".into(), "b:2".into(), "c:3".into()],
            ..ClusterSettings::default()
        };
        let told = |process, reporter| Loss::new(&settings, process, reporter, "x").to_string();
        assert_eq!(told(2, 1), "lost process 2 (c:3): x");
        assert_eq!(told(2, 0), "lost process 2 (c:3): x, as process 0 saw");
        assert_eq!(told(2, 2), "process 2 (c:3) failed: x");
        assert_eq!(told(1, 0), "process 0 (a:1) lost this process: x");
        let long = Loss::new(&settings, 2, 1, &"é".repeat(4000));
        assert!(long.cause.len() <= CAUSE_BYTES_MAX);
    }

    #[test]
    fn panics_of_the_engine_are_told_from_others() {
        let socket = "timely communication error: reading data: socket closed";
        for text in [socket, "MergeQueue poisoned.", "Recv thread panic: Any { .. }"] {
            assert!(follows_a_loss(text), "{text}");
        }
        assert!(!follows_a_loss("index out of bounds: the len is 3") && !follows_a_loss(""));
        assert!(is_of_malformed_data("bincode::deserialize() failed: Io(Kind(UnexpectedEof))"));
    }
}
