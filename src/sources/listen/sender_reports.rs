//! Reports of a listener about its senders. Any program can connect, so what may happen a thousand
//! times a second is reported once a burst.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::lines::StreamEnd;

/// A burst ends when nothing of its kind happened for so long.
const BURST_ENDS: Duration = Duration::from_secs(60);
/// A burst that does not end is reported again after so long.
const BURST_REPORTED: Duration = Duration::from_secs(600);

/// Events of one kind that are reported once a burst.
#[derive(Debug, Default)]
struct Burst {
    /// The time of the last event.
    last: Option<Instant>,
    /// The time of the last line about such events.
    reported: Option<Instant>,
    /// Events since the last report.
    unreported: u64,
}

impl Burst {
    /// Notes an event; returns how many were not reported before it if it is to be reported.
    fn note(&mut self, now: Instant) -> Option<u64> {
        let since = |then: Option<Instant>| then.map(|then| now.saturating_duration_since(then));
        let is_new = since(self.last).is_none_or(|quiet| quiet > BURST_ENDS)
            || since(self.reported).is_none_or(|quiet| quiet > BURST_REPORTED);
        self.last = Some(now);
        if !is_new {
            self.unreported += 1;
            return None;
        }
        self.reported = Some(now);
        Some(std::mem::take(&mut self.unreported))
    }
}

/// The reports of a listener.
#[derive(Debug, Default)]
pub struct ConnectionReports {
    /// Senders that connected.
    came: Burst,
    /// Senders that were closed at once, because there are too many.
    refused: Burst,
    /// Senders whose handshake failed.
    no_tls: Burst,
    /// Connections that were reset.
    reset: Burst,
    /// Connections that failed otherwise.
    failed: Burst,
}

impl ConnectionReports {
    /// Called when a sender has come.
    pub fn came(&mut self, from: SocketAddr) {
        match self.came.note(Instant::now()) {
            Some(_) => tracing::info!("a sender has connected from {from}"),
            None => tracing::debug!("a sender has connected from {from}"),
        }
    }

    /// Called when a sender has gone.
    pub fn gone(&mut self, from: SocketAddr, end: StreamEnd) {
        if end == StreamEnd::Reset
            && let Some(before) = self.reset.note(Instant::now())
        {
            tracing::warn!("the sender {from} reset the connection{}", and_before(before));
        } else {
            tracing::debug!(?end, "the sender {from} has gone");
        }
    }

    /// Called when a connection was closed since there are `most` already.
    pub fn refused(&mut self, from: SocketAddr, most: usize) {
        if let Some(before) = self.refused.note(Instant::now()) {
            tracing::warn!(
                "a connection from {from} was closed: {most} senders are connected, and \
                 --max-connections allows no more{}",
                and_before(before)
            );
        }
    }

    /// Called when a TLS handshake came to nothing.
    pub fn no_tls(&mut self, from: SocketAddr, cause: &str) {
        match self.no_tls.note(Instant::now()) {
            Some(before) => tracing::warn!(
                "a connection from {from} was closed: its TLS handshake failed: {cause}{}",
                and_before(before)
            ),
            None => tracing::debug!("the TLS handshake of {from} failed: {cause}"),
        }
    }

    /// Called when a connection cannot be accepted.
    pub fn accept_failed(&mut self, error: &io::Error) {
        if let Some(before) = self.failed.note(Instant::now()) {
            tracing::warn!(
                "cannot accept a connection: {error}; trying again (see `ulimit -n`){}",
                and_before(before)
            );
        }
    }
}

/// Returns a clause about the events that were not reported.
fn and_before(count: u64) -> String {
    match count {
        0 => String::new(),
        count => format!(" (and {count} more before)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_reported_once_until_it_ends() {
        let (mut burst, start) = (Burst::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(burst.note(at(0)), Some(0));
        assert!((1..60).all(|second| burst.note(at(second)).is_none()));
        assert_eq!(burst.note(at(200)), Some(59), "a new burst");
        let again = (201..1_000).filter_map(|second| burst.note(at(second)));
        assert_eq!(again.collect::<Vec<_>>(), [600], "one that does not end");
    }
}
