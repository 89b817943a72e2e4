//! The inbox of a process: messages of the control links, and the end of the cluster.

use tokio::sync::mpsc;

use super::control_frames::Message;
use super::loss_cause::Loss;

/// An event of the control links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    /// A message, from another process or from this one to itself.
    Received {
        /// Index of the process that sent it.
        from: usize,
        /// The message.
        message: Message,
    },
    /// The cluster is over. Received once; later events do not count.
    Lost(Loss),
}

/// The queue of events of the control links.
///
/// It holds `inbox_messages_max` messages. A full inbox is a failure of this process and ends the
/// cluster, because a link that waited for its reader could not detect a loss.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<ControlEvent>);

impl Inbox {
    /// Wraps the receiving end of a queue.
    pub fn new(events: mpsc::Receiver<ControlEvent>) -> Inbox {
        Inbox(events)
    }

    /// Waits for the next event. Returns `None` after the control links are closed.
    pub async fn recv(&mut self) -> Option<ControlEvent> {
        self.0.recv().await
    }
}
