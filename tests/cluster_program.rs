//! Many processes of the real program: one computation, one fate.
//!
//! Timing is not tested here (see the rig): that a loss is noticed *at all*, by whom and in which
//! words, is. `bench/` has no part in it either; how fast the survivors end is measured by hand.

/// The local launcher.
mod launcher;
/// A process, or the way to it, is lost.
mod loss;
/// Two network namespaces, joined by a router that can drop everything.
mod netns;
/// A worker that panics ends all processes.
mod panic;
/// A process that cannot join is refused, with the reason on both sides.
mod refusals;
/// The same input gives the same bytes.
mod same;
/// The sources of each process.
mod sources;
/// A stop of one is a stop of all.
mod stop;
/// Unknown peers on the port of a process that waits for the others.
mod strangers;

use wordtide::internals::cluster::launcher::Ports;

use crate::oracle::{self, Counts};
use crate::rig::{Ended, Peer, Rig, Running};

/// Addresses for the processes of a cluster, held free for them.
pub(crate) struct Addresses(Ports);

impl Addresses {
    pub(crate) fn new(processes: usize) -> Addresses {
        Addresses(Ports::reserve(processes).expect("free ports"))
    }

    pub(crate) fn of(&self, process: usize) -> &str {
        &self.0.addresses()[process]
    }

    /// `-n N -p I --addresses …`
    pub(crate) fn flags(&self, process: usize) -> String {
        let all = self.0.addresses();
        format!("-n {} -p {process} --addresses {}", all.len(), all.join(","))
    }
}

/// Starts all processes of a cluster with the same `arguments`.
pub(crate) fn start(rig: &Rig, processes: usize, arguments: &str) -> Vec<Running> {
    let addresses = Addresses::new(processes);
    let each = 0..processes;
    let line = |p| format!("{arguments} {}", addresses.flags(p));
    let started = each.map(|p| rig.wordtide(&line(p)).start()).collect();
    // Held as long as the tests run: the processes may not have bound their ports yet, and a socket
    // of another test could get one.
    std::mem::forget(addresses);
    started
}

/// Waits for the end of each.
pub(crate) fn end(processes: Vec<Running>) -> Vec<Ended> {
    processes.into_iter().map(Running::end).collect()
}

/// Fails unless all have ended with code 0 and nothing of theirs is on stdout.
#[track_caller]
pub(crate) fn all_done(processes: Vec<Running>) -> Vec<Ended> {
    let done = end(processes).into_iter().map(|ended| ended.expect(0));
    let done: Vec<_> = done.collect();
    assert!(done.iter().all(|ended| ended.stdout.is_empty()), "stdout is for data: {}", done[0]);
    done
}

/// A line of a numbered stream, its end included.
const LINE_BYTES: usize = 32;

/// Lines `first..first + lines` of the stream of `source`: one word each, its name and its number.
pub(crate) fn numbered(source: usize, first: usize, lines: usize) -> Vec<u8> {
    let line = |n| format!("{source:02}-{n:028}\n").into_bytes();
    (first..first + lines).flat_map(line).collect()
}

/// Lines of a flood: more than a test needs, and not so many that it takes long to check them.
const FLOOD_LINES: usize = 300_000;

/// Sends the stream of `source`, then holds the connection, until the program closes it.
pub(crate) fn flood(mut peer: Peer, source: usize) {
    let mut lines = 0;
    while lines < FLOOD_LINES && peer.try_send(&numbered(source, lines, 100)) {
        lines += 100;
    }
    peer.wait_until_closed();
}

/// Fails unless `counts` are those of a prefix of each source's stream; returns how many lines.
#[track_caller]
pub(crate) fn check_prefixes(counts: &Counts, sources: usize) -> usize {
    let names: Vec<_> = (0..sources).map(|source| format!("{source:02}-").into_bytes()).collect();
    // An unfinished line may be too short to show its source: a line all the same.
    let is_stump =
        |word: &[u8]| !word.is_empty() && names.iter().any(|n| n.starts_with(word) && n != word);
    let is_named = |word: &[u8]| names.iter().any(|name| word.starts_with(name));
    let alien = counts.keys().find(|word| !is_stump(word) && !is_named(word));
    assert_eq!(alien, None, "a word that no source sent");
    let stumps = counts.iter().filter(|(word, _)| is_stump(word));
    let mut lines = stumps.map(|(_, count)| *count as usize).sum();
    for (source, name) in names.iter().enumerate() {
        let of_source = counts.iter().filter(|(word, _)| word.starts_with(name));
        let counts: Counts = of_source.map(|(word, count)| (word.clone(), *count)).collect();
        let whole = counts.keys().filter(|word| word.len() == LINE_BYTES - 1).count();
        // A stop ends the unfinished line as a line.
        let rest: usize = counts.keys().map(Vec::len).filter(|&n| n < LINE_BYTES - 1).sum();
        let received = &numbered(source, 0, whole + 1)[..whole * LINE_BYTES + rest];
        assert_eq!(counts, oracle::count(received, oracle::words_python), "source {source}");
        lines += received.len().div_ceil(LINE_BYTES);
    }
    lines
}
