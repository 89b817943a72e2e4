//! Where the control links' messages, and the end of the cluster, arrive.

use tokio::sync::mpsc;

use super::cause::Loss;
use super::frame::Message;

/// What comes out of the control links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message, from another process or from this one to itself.
    Received {
        /// Index of the process that sent it.
        from: usize,
        /// What it says.
        message: Message,
    },
    /// The cluster is over. Comes once, and nothing that comes later counts.
    Lost(Loss),
}

/// Where the events of the control links arrive; from a thread or from a task.
///
/// It holds `inbox_messages_max` messages. Not reading it is a failure of this process, which ends
/// the cluster: a link that waited for its reader could not notice a loss.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Event>);

impl Inbox {
    pub(super) fn new(events: mpsc::Receiver<Event>) -> Inbox {
        Inbox(events)
    }

    /// Waits for the next event; `None` once the control links are closed. Not within async code.
    pub fn recv_blocking(&mut self) -> Option<Event> {
        self.0.blocking_recv()
    }

    /// Waits for the next event; `None` once the control links are closed.
    pub async fn recv(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}
