//! The pauses before a source is tried again, and what of that is logged.
//!
//! A connection is *proven* by its first bytes, or by lasting for [`LASTING`]. Until one is proven,
//! pauses grow and each kind of trouble is logged once: a server that is down, or that accepts and
//! closes at once, costs a few lines however long that lasts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::{Backoff, BackoffPolicy};
use crate::lines::StreamEnd;
use crate::meters::SourceMeter;

/// A connection that lasts so long is proven without bytes.
const LASTING: Duration = Duration::from_secs(5);

/// A kind of trouble in making a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The name does not resolve any more.
    Resolve,
    /// No address answers.
    Connect,
}

/// The pauses and the log lines of one source.
#[derive(Debug)]
pub struct ReconnectPauses {
    /// The address, for messages.
    address: String,
    /// The pauses between attempts.
    backoff: Backoff,
    /// Kinds of trouble that were logged since a connection was proven.
    logged: Vec<Trouble>,
    /// Connections in a row that ended before they were proven.
    unproven: u64,
    /// The time at which the connection was made.
    opened: Instant,
    /// True if a connection has succeeded in this run.
    is_proven: bool,
    /// The figures of the source.
    meter: Arc<SourceMeter>,
}

impl ReconnectPauses {
    /// Nothing was tried yet.
    pub fn new(address: String, meter: Arc<SourceMeter>) -> ReconnectPauses {
        ReconnectPauses { meter, ..ReconnectPauses::with_backoff(address, BackoffPolicy::DEFAULT) }
    }

    /// Makes pauses by `policy`.
    pub fn with_backoff(address: String, policy: BackoffPolicy) -> ReconnectPauses {
        ReconnectPauses {
            address,
            meter: Arc::new(SourceMeter::unread()),
            backoff: policy.start(),
            logged: Vec::new(),
            unproven: 0,
            opened: Instant::now(),
            is_proven: false,
        }
    }

    /// Returns the pause before the next attempt. The one after it is longer.
    pub fn next_pause(&mut self) -> Duration {
        self.backoff.next_pause()
    }

    /// Called when a try has failed; logs the first failure of a kind.
    pub fn failed(&mut self, trouble: Trouble, message: impl FnOnce() -> String) {
        let message = message();
        self.meter.disconnected(&message);
        if self.logged.contains(&trouble) {
            tracing::debug!("{message}");
        } else {
            self.logged.push(trouble);
            tracing::warn!("{message}");
        }
    }

    /// Called when a connection stands. After one that came to nothing, it must first be proven.
    pub fn opened(&mut self) {
        self.opened = Instant::now();
        self.is_proven = false;
        self.meter.connected();
        if self.unproven == 0 {
            tracing::info!(event = "source_connected", "connected to {}", self.address);
        }
    }

    /// Resolves when the connection has lasted long enough to be proven; never if it is.
    pub async fn lasting(&self) {
        if self.is_proven {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LASTING.saturating_sub(self.opened.elapsed())).await;
    }

    /// Called when the connection has given bytes or has lasted: whatever was wrong has passed.
    pub fn proven(&mut self) {
        if std::mem::replace(&mut self.is_proven, true) {
            return;
        }
        if self.unproven > 0 {
            let ReconnectPauses { address, unproven, .. } = self;
            tracing::info!(
                event = "source_connected",
                "connected to {address}, after {unproven} connections that ended at once"
            );
        }
        self.unproven = 0;
        self.logged.clear();
        self.backoff.reset();
    }

    /// Called when the source has ended the connection; `is_last` if there will be no other.
    pub fn ended(&mut self, end: StreamEnd, is_last: bool) {
        if !self.is_proven {
            self.unproven += 1;
        }
        let (address, has_reset) = (&self.address, end == StreamEnd::Reset);
        if is_last {
            self.meter.ended();
        } else {
            let what = if has_reset { "reset" } else { "closed" };
            self.meter.disconnected(&format!("{address} {what} the connection"));
        }
        match self.unproven {
            0 | 1 if has_reset => tracing::warn!("{address} reset the connection"),
            0 | 1 if is_last => tracing::info!("{address} closed the connection"),
            0 | 1 => tracing::info!("{address} closed the connection; connecting again"),
            2 => tracing::warn!(
                "{address} accepts connections and ends them at once, without a line: trying less \
                 often until lines come; is it the right port?"
            ),
            _ => tracing::debug!("{address} ended the connection at once"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses() -> ReconnectPauses {
        ReconnectPauses::with_backoff("feed:9999".to_owned(), BackoffPolicy::DEFAULT)
    }

    #[test]
    fn pauses_grow_until_connection_is_proven() {
        let mut pauses = pauses();
        let mut taken = Vec::new();
        for _ in 0..10 {
            pauses.opened();
            pauses.ended(StreamEnd::Fin, false);
            taken.push(pauses.next_pause());
        }
        assert!(taken.is_sorted());
        assert_eq!((taken[0], taken[9]), (BackoffPolicy::DEFAULT.min, BackoffPolicy::DEFAULT.max));
        pauses.opened();
        pauses.proven();
        pauses.ended(StreamEnd::Fin, false);
        assert_eq!(pauses.next_pause(), BackoffPolicy::DEFAULT.min);
    }

    #[test]
    fn trouble_is_logged_anew_after_proven_connection() {
        let mut pauses = pauses();
        pauses.failed(Trouble::Connect, String::new);
        pauses.failed(Trouble::Connect, String::new);
        pauses.failed(Trouble::Resolve, String::new);
        assert_eq!(pauses.logged, [Trouble::Connect, Trouble::Resolve]);
        pauses.opened();
        pauses.proven();
        assert!(pauses.logged.is_empty());
    }
}
