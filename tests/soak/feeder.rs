//! Senders of numbered words, and the judgement on which of them were counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::oracle::Counts;
use crate::rig::{Peer, Server, random};

/// Bytes of a whole word. Its last byte shows that it is whole.
const WORD_BYTES: usize = 18;

/// One connection, as its sender knows it.
#[derive(Clone, Debug, Default)]
struct Connection {
    /// Whole words that were given to the kernel, perhaps not all of the last write.
    words: u64,
    /// The life of the program in which it was accepted.
    life: u64,
    /// The program has read all of it and closed it.
    is_drained: bool,
    /// A later connection of the same life proves that the program went on after it.
    is_taken: bool,
}

/// A source of the job: one connection after another, each with words of its own.
pub(super) struct Feeder {
    source: usize,
    port: u16,
    life: Arc<AtomicU64>,
    has_ended: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<Connection>>>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    pub(super) fn start(source: usize, mut seed: u64) -> Feeder {
        let server = Server::new();
        let mut feeder = Feeder {
            source,
            port: server.port(),
            life: Arc::default(),
            has_ended: Arc::default(),
            connections: Arc::default(),
            thread: None,
        };
        let has_ended = Arc::clone(&feeder.has_ended);
        let (life, connections) = (Arc::clone(&feeder.life), Arc::clone(&feeder.connections));
        feeder.thread = Some(std::thread::spawn(move || {
            while !has_ended.load(Ordering::SeqCst) {
                let Some(peer) = server.try_accept(Duration::from_millis(20)) else { continue };
                let now = life.load(Ordering::SeqCst);
                let mut all = connections.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(last) = all.last_mut() {
                    last.is_taken = last.is_drained && last.life == now;
                }
                let index = all.len();
                all.push(Connection { life: now, ..Connection::default() });
                drop(all);
                let fed = feed(peer, source, index, &mut seed, &has_ended);
                let mut all = connections.lock().unwrap_or_else(PoisonError::into_inner);
                (all[index].words, all[index].is_drained) = fed;
            }
        }));
        feeder
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Called before a life of the program ends and before one begins.
    pub(super) fn note_another_life(&self) {
        self.life.fetch_add(1, Ordering::SeqCst);
    }

    /// Connections that came so far.
    pub(super) fn connections(&self) -> usize {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends the source and fails unless `counts` hold a beginning of each of its connections, each
    /// word once, and all words of those that the program has taken. Returns the number of words
    /// that were sent and that were counted.
    pub(super) fn judge(mut self, counts: &Counts) -> Result<(u64, u64), String> {
        self.has_ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| "a sender panicked".to_owned())?;
        }
        let all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
        let name = format!("s{:02}c", self.source);
        for (word, count) in counts.range(name.as_bytes().to_vec()..) {
            let Some(rest) = word.strip_prefix(name.as_bytes()) else { break };
            let shown = String::from_utf8_lossy(word);
            if *count != 1 {
                return Err(format!("{shown} was counted {count} times"));
            }
            let Some(connection) = rest.get(..4) else { continue };
            let number = std::str::from_utf8(connection).ok().and_then(|text| text.parse().ok());
            found.entry(number.ok_or(format!("{shown} was not sent"))?).or_default().push(word);
        }
        if let Some(alien) = found.keys().find(|&&index| index >= all.len()) {
            return Err(format!("words of a connection {alien} that never was"));
        }
        let mut totals = (0, 0);
        for (index, connection) in all.iter().enumerate() {
            let words = found.remove(&index).unwrap_or_default();
            let whole: Vec<_> = words.iter().filter(|word| word.len() == WORD_BYTES).collect();
            let is_beginning = (0..).zip(&whole).all(|(n, found)| {
                found.strip_suffix(b".").is_some_and(|_| **found == word(self.source, index, n))
            });
            let place = format!("source {} connection {index} {connection:?}", self.source);
            let counted = whole.len() as u64;
            if !is_beginning || counted > connection.words {
                return Err(format!("{place}: a gap or too much: {counted} words"));
            }
            if connection.is_taken && counted != connection.words {
                return Err(format!("{place}: {counted} words were counted of those taken"));
            }
            if words.len() > whole.len() + usize::from(!connection.is_taken) {
                return Err(format!("{place}: more words are cut than its end can cut"));
            }
            totals = (totals.0 + connection.words, totals.1 + counted);
        }
        Ok(totals)
    }
}

/// Lets time pass: the lengths of silences are what is tested, so no event ends them.
#[allow(clippy::disallowed_methods)]
pub(super) fn pause(length: Duration) {
    std::thread::sleep(length);
}

fn word(source: usize, connection: usize, number: u64) -> Vec<u8> {
    format!("s{source:02}c{connection:04}n{number:08}.").into_bytes()
}

/// Sends words until the connection has ended. Returns their number, and whether the program has
/// read all of them.
fn feed(
    mut peer: Peer,
    source: usize,
    connection: usize,
    seed: &mut u64,
    has_ended: &AtomicBool,
) -> (u64, bool) {
    let mut words = 0;
    while !has_ended.load(Ordering::SeqCst) {
        let (more, pause_ms) = match random(seed) % 20 {
            0 => (5_000, 0),
            1..=2 => (random(seed) % 1_000, 0),
            3..=4 => (0, random(seed) % 300),
            5..=6 => return (words, peer.ends_drained()),
            7 => {
                peer.reset();
                return (words, false);
            }
            _ => (random(seed) % 6, random(seed) % 30),
        };
        let mut text = Vec::new();
        for _ in 0..more {
            text.extend_from_slice(&word(source, connection, words));
            // The line that a pause leaves open goes on afterwards.
            text.push(if random(seed).is_multiple_of(3) { b'\n' } else { b' ' });
            words += 1;
        }
        if !peer.try_send(&text) {
            return (words, false);
        }
        pause(Duration::from_millis(pause_ms));
    }
    (words, false)
}
