//! The messages that the processes of a job send each other, and their bytes.
//!
//! Beside the ticks of [`cluster`](crate::cluster) there are four control messages: an epoch is
//! committed, an epoch is encoded, reading is to stop, reading has ended.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cluster::Message;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};

/// How long a process waits for the decision of others: for as long as they are alive, which the
/// control links find out. One may have much to read back, another a slow store to ask.
pub const WHILE_ALIVE: Duration = Duration::MAX;

/// A message of the job to its other processes, beside ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlMessage {
    /// From process 0: this epoch and all before it are committed.
    Committed(Epoch),
    /// To process 0: the sender has encoded its results of this epoch and of all before it.
    Encoded(Epoch),
    /// From process 0: stop reading, and report when all that was read is handed over.
    StopReading,
    /// To process 0: the sources of the sender have ended.
    ReadingEnded,
}

impl ControlMessage {
    /// Returns the message as the control links carry it.
    pub fn encode(self) -> Result<Message> {
        encode(&self).map(Message::Other)
    }

    /// Reads a message; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<ControlMessage> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Returns the bytes of a message to another process.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(message).map_err(|error| {
        Error::new(ErrorKind::Failed, format!("a message cannot be encoded: {error}")).cause(error)
    })
}

/// Reads a message that [`encode`] wrote in another process.
///
/// Fails with `Failed` for other bytes: the processes run different releases.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("another process sent what cannot be read: {error}");
        Error::new(ErrorKind::Failed, message).cause(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_read_back() {
        use ControlMessage::{Committed, Encoded, ReadingEnded, StopReading};
        for sent in [Committed(7), Encoded(8), StopReading, ReadingEnded] {
            let Ok(Message::Other(bytes)) = sent.encode() else { panic!("not sent: {sent:?}") };
            assert_eq!(ControlMessage::decode(&bytes), Some(sent));
        }
        assert_eq!(ControlMessage::decode(b"\"Sing\""), None);
    }
}
