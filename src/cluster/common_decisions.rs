//! Rounds of common decisions: every process sends facts to process 0, which sends its answer to
//! all.
//!
//! Each process counts the rounds itself, since all make the same decisions in the same order. A
//! peer can be at most one round ahead of process 0 and is never ahead of the answers, so the
//! memory is bounded. This module keeps the state of a round; `control_links` sends and receives
//! the frames.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};

/// The decision of process 0, or the kind and message of an error for all.
pub type RoundOutcome = std::result::Result<Vec<u8>, (u8, String)>;

/// The facts and the answer that have arrived for open rounds.
#[derive(Debug, Default)]
pub struct Rounds {
    /// The round that this process takes part in next.
    pub round: u32,
    /// The facts of each round and process that have come.
    facts: BTreeMap<(u32, usize), Vec<u8>>,
    /// The answer of process 0 to the current round.
    answer: Option<RoundOutcome>,
}

impl Rounds {
    /// Keeps the facts of process `from`, as process 0 does.
    ///
    /// Fails if their round cannot be open.
    pub fn take_facts(
        &mut self,
        from: usize,
        round: u32,
        bytes: Vec<u8>,
    ) -> std::result::Result<(), String> {
        if round != self.round && Some(round) != self.round.checked_add(1) {
            return Err(format!("it sent facts for round {round} out of turn"));
        }
        self.facts.insert((round, from), bytes);
        Ok(())
    }

    /// Keeps the answer of process 0.
    ///
    /// Fails if it is for another round, or if the round has an answer.
    pub fn take_answer(
        &mut self,
        round: u32,
        outcome: RoundOutcome,
    ) -> std::result::Result<(), String> {
        if round != self.round || self.answer.is_some() {
            return Err(format!("it sent an answer for round {round} out of turn"));
        }
        self.answer = Some(outcome);
        Ok(())
    }

    /// Returns true if the answer of the open round has arrived.
    pub fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// Returns true if the facts of this many peers have arrived for the open round.
    pub fn has_facts_of(&self, peers: usize) -> bool {
        self.facts.keys().filter(|(round, _)| *round == self.round).count() == peers
    }

    /// Ends the open round and returns the answer of process 0.
    ///
    /// Fails with the error of process 0, and with `Failed` if it has not answered.
    pub fn end_with_answer(&mut self) -> Result<Vec<u8>> {
        self.round += 1;
        match self.answer.take() {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err((kind, message))) => Err(Error::new(kind_of(kind), message)),
            None => Err(Error::new(ErrorKind::Failed, "process 0 has not answered")),
        }
    }

    /// Ends the open round and returns the facts of all peers, in order of index.
    pub fn end_with_facts(&mut self) -> Vec<Vec<u8>> {
        self.round += 1;
        // Facts of a peer that is one round ahead stay.
        let later = self.facts.split_off(&(self.round, 0));
        std::mem::replace(&mut self.facts, later).into_values().collect()
    }
}

/// Returns the outcome in the form in which it is sent.
pub fn outcome_of(decided: &Result<Vec<u8>>) -> RoundOutcome {
    match decided {
        Ok(bytes) => Ok(bytes.clone()),
        Err(error) => Err((code_of(error.kind()), error.to_string())),
    }
}

/// The kinds of error that can be sent. The position of a kind is its code.
const KINDS: [ErrorKind; 8] = [
    ErrorKind::Failed,
    ErrorKind::Usage,
    ErrorKind::PeerLost,
    ErrorKind::Panicked,
    ErrorKind::Disk,
    ErrorKind::Temporary,
    ErrorKind::Configuration,
    ErrorKind::Stopped,
];

/// Returns the code of a kind; that of `Failed` for a kind that is not sent.
fn code_of(kind: ErrorKind) -> u8 {
    KINDS.iter().position(|one| *one == kind).unwrap_or(0) as u8
}

/// Returns the kind with this code, or `Failed`.
fn kind_of(code: u8) -> ErrorKind {
    KINDS.get(usize::from(code)).copied().unwrap_or(ErrorKind::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_kinds_survive_the_wire() {
        for kind in KINDS {
            assert_eq!(kind_of(code_of(kind)), kind);
        }
    }

    #[test]
    fn facts_and_answers_out_of_turn_are_refused() {
        let mut rounds = Rounds::default();
        rounds.take_facts(1, 0, b"now".to_vec()).unwrap();
        rounds.take_facts(1, 1, b"next".to_vec()).unwrap();
        assert!(rounds.take_facts(1, 2, Vec::new()).is_err());
        assert!(rounds.take_facts(1, u32::MAX, Vec::new()).is_err());
        assert!(rounds.has_facts_of(1));
        assert_eq!(rounds.end_with_facts(), [b"now".to_vec()]);
        assert!(rounds.take_facts(1, 0, Vec::new()).is_err());
        assert!(rounds.take_answer(0, Ok(Vec::new())).is_err());
        rounds.take_answer(1, Ok(b"yes".to_vec())).unwrap();
        assert!(rounds.take_answer(1, Ok(b"no".to_vec())).is_err());
        assert_eq!(rounds.end_with_answer().unwrap(), b"yes");
    }
}
