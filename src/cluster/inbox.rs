//! The inbox of a process: messages of the control links, and the end of the cluster.

use tokio::sync::mpsc;

use super::cause::Loss;
use super::frame::Message;

/// An event of the control links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message, from another process or from this one to itself.
    Received {
        /// Index of the process that sent it.
        from: usize,
        /// The message.
        message: Message,
    },
    /// The cluster is over. Comes once, and events after it do not count.
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

    /// Waits for the next event; `None` once the control links are closed.
    pub async fn recv(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}
