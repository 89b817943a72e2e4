//! The word when to stop reading.

use tokio::sync::watch;

/// The signal to stop reading. Clones share it.
#[derive(Clone, Debug)]
pub struct Stop {
    /// True once a stop was asked for.
    stopped: watch::Sender<bool>,
}

impl Stop {
    /// Not stopped.
    pub fn new() -> Self {
        Stop { stopped: watch::Sender::new(false) }
    }

    /// Asks all that look to stop; asking twice is the same.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Returns true if a stop was asked for.
    pub fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Resolves once it is asked for.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // The sender lives as long as `self`: waiting cannot end without a stop.
        stopped.wait_for(|stopped| *stopped).await.map(drop).unwrap_or_default();
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}
