//! How long a peer has been silent while this process was there to hear it.

use std::time::{Duration, Instant};

/// The silence of one peer, added up turn by turn.
///
/// A turn counts for `turn_max` at most. If this process itself was stopped, or its host paused,
/// the whole pause lies in one turn, and it says nothing about the peer: what the peer sent
/// meanwhile is still to be read.
#[derive(Debug)]
pub struct PeerSilence {
    /// The silence at the end of the last turn.
    lasted: Duration,
    /// The end of the last turn.
    turned: Instant,
    /// The most that one turn counts for.
    turn_max: Duration,
}

impl PeerSilence {
    /// Returns a silence that begins now.
    pub fn new(turn_max: Duration) -> PeerSilence {
        PeerSilence { lasted: Duration::ZERO, turned: Instant::now(), turn_max }
    }

    /// Ends a turn in which nothing was heard, and returns the silence so far.
    pub fn turn(&mut self) -> Duration {
        self.turn_at(Instant::now())
    }

    /// Ends a turn in which the peer was heard.
    pub fn end(&mut self) {
        *self = PeerSilence::new(self.turn_max);
    }

    fn turn_at(&mut self, now: Instant) -> Duration {
        self.lasted += now.saturating_duration_since(self.turned).min(self.turn_max);
        self.turned = now;
        self.lasted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_secs(1);

    #[test]
    fn silence_is_the_sum_of_its_turns() {
        let mut silence = PeerSilence::new(TURN);
        let start = silence.turned;
        assert_eq!(silence.turn_at(start + TURN / 2), TURN / 2);
        assert_eq!(silence.turn_at(start + TURN), TURN);
        silence.end();
        assert_eq!(silence.lasted, Duration::ZERO);
    }

    #[test]
    fn own_pause_counts_as_one_turn() {
        let mut silence = PeerSilence::new(TURN);
        let woken = silence.turned + Duration::from_secs(3600);
        assert_eq!(silence.turn_at(woken), TURN);
        assert_eq!(silence.turn_at(woken + TURN / 2), TURN * 3 / 2);
    }
}
