//! Producers: senders whose bytes are numbered, so that a retry counts once.
//!
//! A producer is a lasting connection: it goes on after a stop or a crash. The number of its next
//! byte is how many of its bytes are in the log, so a body that was half written when the program
//! died needs no transaction.

use std::collections::BTreeMap;

use super::SourceLog;
use super::connection::Connection;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{
    Append, Durable, Journal, LASTING, PRODUCER_NAME_BYTES_MAX, Producer, Record,
};
use crate::lines::StreamEnd;

/// Most bytes that the producers of one log take in a record.
const PRODUCERS_BYTES_MAX: usize = 64 << 10;
/// Bytes that a producer takes beside its name.
const PRODUCER_BYTES: usize = 32;

/// Most bytes that the state of a connection takes in a record.
const CONNECTION_BYTES: usize = 32;

/// A producer as its source sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogProducer {
    /// Its lasting connection.
    pub connection: u64,
    /// The number of its next byte.
    pub next: u64,
    /// The epoch that was open when it sent last.
    pub last_epoch: Epoch,
}

/// The producers of a log.
#[derive(Debug, Default)]
pub struct Producers {
    /// By name, with what is appended.
    known: BTreeMap<Vec<u8>, LogProducer>,
    /// The names of all of them by connection.
    names: BTreeMap<u64, Vec<u8>>,
    /// The names by connection, of those whose records were split.
    split: BTreeMap<u64, Vec<u8>>,
    /// Bytes that were split where this run began.
    offsets: BTreeMap<u64, u64>,
}

impl Producers {
    /// Begins with the producers of a record.
    pub fn begin(producers: &[Producer]) -> Producers {
        let mut begun = Producers::default();
        for Producer { name, connection, next, last_epoch } in producers {
            let (connection, next, last_epoch) = (*connection, *next, *last_epoch);
            begun.open(name, LogProducer { connection, next, last_epoch });
            begun.split.insert(connection, name.clone());
            begun.offsets.insert(connection, next);
        }
        begun
    }

    /// Adds a producer.
    fn open(&mut self, name: &[u8], producer: LogProducer) {
        self.names.insert(producer.connection, name.to_vec());
        self.known.insert(name.to_vec(), producer);
    }

    /// Returns the offset at which a connection begins to be split.
    pub fn split_offset(&self, connection: u64) -> u64 {
        self.offsets.get(&connection).copied().unwrap_or(0)
    }

    /// Notes that the record of a new producer was split.
    pub fn split(&mut self, name: &[u8], connection: u64) {
        self.split.insert(connection, name.to_vec());
    }

    /// Notes that `bytes` bytes of a connection were appended in the epoch `open`.
    pub fn appended(&mut self, connection: u64, bytes: u64, open: Epoch) {
        if connection & LASTING == 0 {
            return;
        }
        let name = self.names.get(&connection);
        if let Some(producer) = name.and_then(|name| self.known.get_mut(name)) {
            producer.next += bytes;
            producer.last_epoch = open;
        }
    }

    /// Returns the producers at a cut, each with what was split of it.
    pub fn at_cut(&self, connections: &BTreeMap<u64, Connection>) -> Vec<Producer> {
        let at_cut = self.split.iter().filter_map(|(id, name)| {
            let known = self.known.get(name).filter(|known| known.connection == *id)?;
            let last_epoch = known.last_epoch;
            let split = connections.get(id).map(|connection| connection.fed);
            let next = split.unwrap_or_else(|| self.split_offset(*id));
            Some(Producer { name: name.clone(), connection: *id, next, last_epoch })
        });
        at_cut.collect()
    }

    /// Takes the entry of a producer away.
    fn forget(&mut self, name: &[u8]) -> Option<u64> {
        let LogProducer { connection, .. } = self.known.remove(name)?;
        self.names.remove(&connection);
        self.split.remove(&connection);
        self.offsets.remove(&connection);
        Some(connection)
    }

    /// Returns the bytes that a record of all producers takes.
    fn bytes(&self) -> usize {
        self.known.keys().map(|name| name.len() + PRODUCER_BYTES).sum()
    }
}

impl SourceLog {
    /// Reads what was appended after the last committed epoch, so that the producers are those of
    /// the end of the log. A source of producers calls it before it serves any.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub fn recover_producers(&mut self) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let mut reader = journal.reader(self.split_before);
        let open = self.epochs.open();
        while let Some(entry) = reader.next()? {
            match entry.record {
                Record::Data { connection, bytes } => {
                    self.producers.appended(connection, bytes.len() as u64, open);
                }
                Record::Producer { connection, name } => {
                    let producer = LogProducer { connection, next: 0, last_epoch: open };
                    self.producers.open(name, producer);
                }
                Record::StreamEnd { connection, kind }
                    if connection & LASTING != 0 && kind != StreamEnd::Stop =>
                {
                    if let Some(name) = self.producers.names.remove(&connection) {
                        self.producers.known.remove(&name);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the producers, by name.
    pub fn producers(&self) -> impl Iterator<Item = (&[u8], &LogProducer)> {
        self.producers.known.iter().map(|(name, producer)| (name.as_slice(), producer))
    }

    /// Returns the producer called `name`.
    pub fn producer(&self, name: &[u8]) -> Option<&LogProducer> {
        self.producers.known.get(name)
    }

    /// Returns the first producer whose name is not less than `name`, and its name.
    pub fn producer_from(&self, name: &[u8]) -> Option<(&[u8], &LogProducer)> {
        let (name, known) = self.producers.known.range(name.to_vec()..).next()?;
        Some((name.as_slice(), known))
    }

    /// Opens the lasting connection of a producer; `None` if there is no room for one more. One
    /// that is known keeps its connection.
    ///
    /// # Errors
    /// `Disk` if the journal fails; `Failed` for a name that is too long.
    pub fn open_producer(&mut self, name: &[u8]) -> Result<Option<u64>> {
        if let Some(known) = self.producer(name) {
            return Ok(Some(known.connection));
        }
        if name.len() > PRODUCER_NAME_BYTES_MAX {
            let message = format!("a producer's name of {} bytes", name.len());
            return Err(Error::new(ErrorKind::Failed, message));
        }
        let bytes_max = PRODUCERS_BYTES_MAX.min(self.control_bytes_max() / 4);
        if self.producers.bytes() + name.len() + PRODUCER_BYTES > bytes_max {
            return Ok(None);
        }
        let connection = self.open_connection() | LASTING;
        if let Some(journal) = &mut self.journal {
            let Append::Stored { end, .. } = journal.append_producer(connection, name)? else {
                return Ok(None);
            };
            if self.lagging.is_none() {
                self.split = end;
            }
        }
        if self.lagging.is_none() {
            self.producers.split(name, connection);
        }
        let last_epoch = self.epochs.open();
        let producer = LogProducer { connection, next: 0, last_epoch };
        self.producers.open(name, producer);
        Ok(Some(connection))
    }

    /// Forgets a producer and ends its unfinished line.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub fn forget_producer(&mut self, name: &[u8]) -> Result<()> {
        match self.producers.forget(name) {
            Some(connection) => self.end_connection(connection, StreamEnd::Fin),
            None => Ok(()),
        }
    }

    /// Forgets all producers and ends their unfinished lines: nothing more comes. In a replay they
    /// stay as they are. The producers were recovered when the run began: what they sent then may
    /// have left the journal.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub fn forget_producers(&mut self) -> Result<()> {
        if self.epochs.is_replay() {
            return Ok(());
        }
        let names: Vec<Vec<u8>> = self.producers.known.keys().cloned().collect();
        names.iter().try_for_each(|name| self.forget_producer(name))
    }

    /// Ends the unfinished line of a producer, which goes on with its next byte.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub fn end_producer_line(&mut self, name: &[u8]) -> Result<()> {
        match self.producer(name).map(|known| known.connection) {
            Some(connection) => self.end_connection(connection, StreamEnd::Stop),
            None => Ok(()),
        }
    }

    /// Returns the epoch that is open.
    pub fn open_epoch(&self) -> Epoch {
        self.epochs.open()
    }

    /// Returns what resolves when everything that was appended before is on disk, and asks for
    /// that; `None` without a journal.
    pub fn durable(&self) -> Option<Durable> {
        let durable = self.journal.as_ref().map(Journal::durable)?;
        self.events.write_due();
        Some(durable)
    }

    /// Returns how many connections may be open, so that the state of each fits into a record.
    pub fn connections_max(&self) -> usize {
        self.control_bytes_max() / CONNECTION_BYTES
    }

    /// Returns the longest control record that the journal takes.
    fn control_bytes_max(&self) -> usize {
        self.journal.as_ref().map_or(usize::MAX, Journal::control_bytes_max)
    }
}
