//! The cause of a cluster's end as text, and the panics of timely that only follow from it.

use std::fmt;
use std::io;
use std::time::Duration;

use super::settings::ClusterSettings;
use crate::error::{Error, ErrorKind};

/// Longest cause that is sent to peers, in bytes.
const CAUSE_BYTES_MAX: usize = 1024;

/// The first cause of a cluster's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The process that was lost or failed.
    pub process: usize,
    /// The process that reported the loss; the failed one itself if it could still send.
    pub reporter: usize,
    /// The cause, as the reporter saw it.
    pub cause: String,
    /// The whole message, from the point of view of this process.
    message: String,
}

impl Loss {
    /// Returns the loss of `process` as this process reports it. A long cause is cut.
    pub fn new(settings: &ClusterSettings, process: usize, reporter: usize, cause: &str) -> Loss {
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

/// Returns the text for the end of a link; `None` stands for a connection that was closed in order.
///
/// The text has the subject "it", because a message names the process before it.
pub fn cause_of(ended: Option<&io::Error>) -> String {
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

/// Returns a time in seconds, for messages.
pub fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Returns true if a panic with this message is timely's reaction to a lost peer and not itself a
/// cause.
///
/// The streams of [`allocators`](super::allocators) protect timely 0.32 from such panics, but one
/// can still follow the panic of a worker of this process. The cause is then the loss that
/// [`Control::cause_within`](super::Control::cause_within) returns in the next second, or else the
/// panic's own message.
pub fn follows_a_loss(message: &str) -> bool {
    /// The beginnings of the panics with which timely reports a broken socket.
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

/// Returns true if timely panics with this message because a peer has sent data that cannot be
/// decoded.
pub fn is_of_malformed_data(message: &str) -> bool {
    message.starts_with("bincode::deserialize() failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_names_process_address_and_cause() {
        let settings = ClusterSettings {
            processes: 3,
            process: 1,
            addresses: vec!["a:1".into(), "b:2".into(), "c:3".into()],
            ..ClusterSettings::default()
        };
        let text = |process, reporter| Loss::new(&settings, process, reporter, "x").to_string();
        assert_eq!(text(2, 1), "lost process 2 (c:3): x");
        assert_eq!(text(2, 0), "lost process 2 (c:3): x, as process 0 saw");
        assert_eq!(text(2, 2), "process 2 (c:3) failed: x");
        assert_eq!(text(1, 0), "process 0 (a:1) lost this process: x");
        let long = Loss::new(&settings, 2, 1, &"é".repeat(4000));
        assert!(long.cause.len() <= CAUSE_BYTES_MAX);
    }

    #[test]
    fn panics_that_follow_a_loss_are_recognised() {
        let socket = "timely communication error: reading data: socket closed";
        for text in [socket, "MergeQueue poisoned.", "Recv thread panic: Any { .. }"] {
            assert!(follows_a_loss(text), "{text}");
        }
        assert!(!follows_a_loss("index out of bounds: the len is 3") && !follows_a_loss(""));
        assert!(is_of_malformed_data("bincode::deserialize() failed: Io(Kind(UnexpectedEof))"));
    }
}
