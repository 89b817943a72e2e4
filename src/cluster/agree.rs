//! One decision for all processes: facts go to process 0, its answer goes to everybody.
//!
//! Rounds are counted by each process for itself, since all of them make the same decisions in the
//! same order. A peer can be at most one round ahead of process 0 and never ahead of the answers,
//! which bounds what is kept.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use super::cause::seconds;
use super::control::{Links, State, encode};
use super::frame::Frame;
use crate::error::{Error, ErrorKind, Result};

/// What process 0 decided, or the kind and message of an error for all.
type Outcome = Result<Vec<u8>, (u8, String)>;

/// What has arrived for decisions that are open.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    round: u32,
    facts: BTreeMap<(u32, usize), Vec<u8>>,
    answer: Option<(u32, Outcome)>,
}

impl Links {
    pub(super) fn agree(
        &self,
        facts: Vec<u8>,
        timeout: Duration,
        merge: impl FnOnce(Vec<Vec<u8>>) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let round = self.state().rounds.round;
        if self.settings.process != 0 {
            self.transmit(0, &encode(&Frame::Facts { round, bytes: facts })?);
            let answered =
                |state: &State| matches!(&state.rounds.answer, Some((r, _)) if *r == round);
            return self.wait(timeout, answered, |state| {
                state.rounds.round += 1;
                match state.rounds.answer.take() {
                    Some((_, Ok(bytes))) => Ok(bytes),
                    Some((_, Err((kind, message)))) => Err(Error::new(kind_of(kind), message)),
                    None => Err(Error::new(ErrorKind::Failed, "an answer went missing")),
                }
            })?;
        }
        let peers = self.peers().count();
        let complete =
            |state: &State| state.rounds.facts.range((round, 0)..(round + 1, 0)).count() == peers;
        let all = self.wait(timeout, complete, |state| {
            state.rounds.round += 1;
            let later = state.rounds.facts.split_off(&(round + 1, 0));
            let mut all = vec![facts];
            all.extend(std::mem::replace(&mut state.rounds.facts, later).into_values());
            all
        })?;
        let merged = merge(all);
        let outcome = match &merged {
            Ok(bytes) => Ok(bytes.clone()),
            Err(error) => Err((code_of(error.kind()), error.to_string())),
        };
        let bytes = encode(&Frame::Answer { round, outcome })?;
        self.peers().for_each(|peer| self.transmit(peer, &bytes));
        merged
    }

    fn wait<T>(
        &self,
        timeout: Duration,
        ready: impl Fn(&State) -> bool,
        then: impl FnOnce(&mut State) -> T,
    ) -> Result<T> {
        let waiting = |state: &mut State| state.cause.is_none() && !ready(state);
        let waited = self.changed().wait_timeout_while(self.state(), timeout, waiting);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if ready(&state) {
            return Ok(then(&mut state));
        }
        Err(match &state.cause {
            Some(loss) => loss.clone().into(),
            None => {
                let message = format!("the processes did not agree in {} s", seconds(timeout));
                Error::new(ErrorKind::PeerLost, message).hint("see --start-timeout")
            }
        })
    }

    pub(super) fn take_facts(&self, from: usize, round: u32, bytes: Vec<u8>) -> Result<(), String> {
        let mut state = self.state();
        let open = state.rounds.round..=state.rounds.round + 1;
        if self.settings.process != 0 || !open.contains(&round) {
            return Err(format!("it sent facts for round {round} out of turn"));
        }
        state.rounds.facts.insert((round, from), bytes);
        self.changed().notify_all();
        Ok(())
    }

    pub(super) fn take_answer(
        &self,
        from: usize,
        round: u32,
        outcome: Outcome,
    ) -> Result<(), String> {
        let mut state = self.state();
        if from != 0 || round != state.rounds.round {
            return Err(format!("it sent an answer for round {round} out of turn"));
        }
        state.rounds.answer = Some((round, outcome));
        self.changed().notify_all();
        Ok(())
    }
}

/// The kinds that mean the same in every process.
const KINDS: [ErrorKind; 7] = [
    ErrorKind::Failed,
    ErrorKind::Usage,
    ErrorKind::PeerLost,
    ErrorKind::Panicked,
    ErrorKind::Disk,
    ErrorKind::Temporary,
    ErrorKind::Configuration,
];

fn code_of(kind: ErrorKind) -> u8 {
    KINDS.iter().position(|one| *one == kind).unwrap_or(0) as u8
}

fn kind_of(code: u8) -> ErrorKind {
    KINDS.get(usize::from(code)).copied().unwrap_or(ErrorKind::Failed)
}

/// Several byte strings as one: each with its length (`u32`, little endian) before it.
pub(super) fn join(all: &[Vec<u8>]) -> Vec<u8> {
    let mut joined = Vec::new();
    for bytes in all {
        joined.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        joined.extend_from_slice(bytes);
    }
    joined
}

/// The byte strings that [`join`] made one of.
pub(super) fn split(mut joined: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while !joined.is_empty() {
        let (length, rest) = joined.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        all.push(bytes.to_vec());
        joined = rest;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_byte_strings_come_apart_and_cut_ones_do_not() {
        let all = vec![b"a".to_vec(), Vec::new(), vec![7; 300]];
        let joined = join(&all);
        assert_eq!(split(&joined), Some(all));
        assert_eq!(split(&joined[..joined.len() - 1]), None);
    }

    #[test]
    fn an_error_keeps_its_kind_on_the_wire() {
        for kind in KINDS {
            assert_eq!(kind_of(code_of(kind)), kind);
        }
    }
}
