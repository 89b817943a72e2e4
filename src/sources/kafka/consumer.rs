//! A consumer without a group: reads partitions wherever their leaders are.
//!
//! The [`Scout`] finds the leaders, a [`Fetcher`] for each of them fetches. The consumer assigns
//! the partitions that are wanted, takes back what a fetcher gives up, and assigns it again when
//! the scout has looked anew. Failures are reported once until all is well again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::super::host_port::HostPort;
use super::client_properties::ClientProperties;
use super::fetcher::{
    Assignment, EventSender, Fetched, Fetcher, GiveUp, ReadFrom, ReadUntil, WAITING_BYTES_MAX,
};
use super::find_leaders::{Scout, Scouted};
use super::requests::{TopicMetadata, TopicName};
use crate::error::{Error, ErrorKind, Result};
use crate::meters::SourceMeter;

/// Events that wait to be taken. Their lines have a bound of their own.
const EVENTS_MAX: usize = 256;

/// Partitions that wait to be taken by one fetcher.
const ASSIGNMENTS_MAX: usize = 4096;

/// A partition that is wanted.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// Where to begin.
    from: ReadFrom,
    /// Where to end: nowhere, unless the job reads once.
    until: ReadUntil,
    /// A fetcher has it.
    is_assigned: bool,
    /// True if records of the partition have come.
    has_begun: bool,
}

/// A kind of trouble, which is reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ConsumerTrouble {
    /// No broker can be reached.
    Unreachable,
    /// The topic is not there.
    NoTopic,
    /// The leader of a partition has moved.
    Moved,
    /// A broker refuses what is asked: rights, user or password.
    Refused,
    /// A batch cannot be read.
    Damaged,
}

/// A report of the consumer.
#[derive(Debug)]
pub enum Consumed {
    /// The topic is there, with these partitions.
    Topic { id: [u8; 16], partitions: Vec<i32> },
    /// The topic is not there.
    NoTopic,
    /// A report of a fetcher.
    Fetched(Fetched),
}

/// Reads partitions of one topic. All its tasks end when it is dropped.
#[derive(Debug)]
pub struct Consumer {
    /// The name of the topic, for reports.
    topic: String,
    /// The settings of the client.
    properties: ClientProperties,
    /// The partitions of this share that are not read to their end, each with where to go on.
    wanted: BTreeMap<i32, Wanted>,
    /// The newest known brokers and leaders.
    metadata: TopicMetadata,
    /// For each broker, by its node id, the queue of its fetcher.
    fetchers: BTreeMap<i32, mpsc::Sender<Assignment>>,
    /// The fetchers and the scout.
    tasks: JoinSet<()>,
    /// The sending end that each new fetcher gets.
    sender: EventSender,
    /// The events of all fetchers.
    events: mpsc::Receiver<Fetched>,
    /// The findings of the scout.
    scouted: mpsc::Receiver<Scouted>,
    /// Wakes the scout before its time.
    look_again: Arc<Notify>,
    /// The troubles that were reported and are not over, so that each is reported once.
    reported: BTreeSet<ConsumerTrouble>,
    /// A broker has answered.
    is_proven: bool,
    /// The figures of the source.
    meter: Arc<SourceMeter>,
}

impl Consumer {
    /// A consumer that looks for the topic and reads nothing yet.
    pub fn new(
        bootstrap: Vec<HostPort>,
        topic: String,
        properties: ClientProperties,
        meter: Arc<SourceMeter>,
    ) -> Consumer {
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let (found, scouted) = mpsc::channel(1);
        let look_again = Arc::new(Notify::new());
        let wanted = Arc::clone(&look_again);
        let scout = Scout::new(bootstrap, topic.clone(), properties.clone(), wanted, found);
        let mut tasks = JoinSet::new();
        tasks.spawn(scout.run());
        Consumer {
            topic,
            properties,
            wanted: BTreeMap::new(),
            metadata: TopicMetadata::default(),
            fetchers: BTreeMap::new(),
            tasks,
            sender: EventSender {
                events,
                room: Arc::new(Semaphore::new(WAITING_BYTES_MAX as usize)),
            },
            events: received,
            scouted,
            look_again,
            reported: BTreeSet::new(),
            is_proven: false,
            meter,
        }
    }

    /// Begins to read a partition, which must not be read at the moment.
    pub fn read(&mut self, partition: i32, from: ReadFrom, until: ReadUntil) {
        let wanted = Wanted { from, until, is_assigned: false, has_begun: false };
        self.wanted.insert(partition, wanted);
        self.assign();
    }

    /// Returns the next event. Safe to cancel.
    ///
    /// # Errors
    ///
    /// `Temporary` if no name of a broker resolves; `Configuration` if the first broker that
    /// answers refuses; `Panicked` if a task panicked.
    pub async fn next(&mut self) -> Result<Consumed> {
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => {
                    if let Some(event) = self.noted(event) {
                        return Ok(Consumed::Fetched(event));
                    }
                }
                Some(scouted) = self.scouted.recv() => {
                    if let Some(event) = self.scouted(scouted)? {
                        return Ok(event);
                    }
                }
                Some(ended) = self.tasks.join_next() => {
                    ended.map_err(|error| {
                        let message = format!("a task that reads topic {} panicked", self.topic);
                        Error::new(ErrorKind::Panicked, message).cause(error)
                    })?;
                }
            }
        }
    }

    /// Returns the next lines or other events that are there already.
    pub fn try_next(&mut self) -> Option<Fetched> {
        loop {
            let event = self.events.try_recv().ok()?;
            if let Some(event) = self.noted(event) {
                return Some(event);
            }
        }
    }

    /// Follows the position of a partition; returns the event unless it is dealt with.
    fn noted(&mut self, event: Fetched) -> Option<Fetched> {
        match &event {
            Fetched::Began { partition, next, until } => {
                if let Some(wanted) = self.wanted.get_mut(partition) {
                    wanted.from = ReadFrom::Offset(*next);
                    wanted.until = until.map_or(ReadUntil::Never, ReadUntil::Offset);
                    wanted.has_begun = true;
                }
                self.report_recovery();
            }
            Fetched::Lines { partition, chunk, .. } => {
                if let Some(wanted) = self.wanted.get_mut(partition) {
                    wanted.from = ReadFrom::Offset(chunk.next);
                }
            }
            Fetched::Reached { partition } | Fetched::OutOfRange { partition, .. } => {
                self.wanted.remove(partition);
            }
            Fetched::GaveUp { partition, failure, kind } => {
                let (trouble, what) = match kind {
                    GiveUp::Moved => (ConsumerTrouble::Moved, "looking for its leader"),
                    GiveUp::Refused => (ConsumerTrouble::Refused, "trying again until it is let"),
                    GiveUp::Damaged => (ConsumerTrouble::Damaged, "trying again"),
                };
                let topic = self.topic.clone();
                let at = match self.wanted.get_mut(partition) {
                    Some(wanted) => {
                        (wanted.is_assigned, wanted.has_begun) = (false, false);
                        wanted.from
                    }
                    None => ReadFrom::Offset(0),
                };
                let at = match at {
                    ReadFrom::Offset(offset) => format!(" at offset {offset}"),
                    ReadFrom::At(_) => String::new(),
                };
                self.report(trouble, || {
                    format!(
                        "partition {partition} of {topic} cannot be read{at}: {failure}; {what}"
                    )
                });
                self.look_again.notify_one();
                return None;
            }
        }
        Some(event)
    }

    /// Takes what the scout has found: gives partitions to the fetchers of their leaders, or
    /// reports a trouble.
    fn scouted(&mut self, scouted: Scouted) -> Result<Option<Consumed>> {
        let topic = self.topic.clone();
        match scouted {
            Scouted::Topic(metadata) => {
                self.is_proven = true;
                let partitions = metadata.partitions.iter().map(|known| known.partition).collect();
                let id = metadata.topic_id;
                self.metadata = metadata;
                self.assign();
                self.report_recovery();
                return Ok(Some(Consumed::Topic { id, partitions }));
            }
            Scouted::NoTopic => {
                self.is_proven = true;
                self.report(ConsumerTrouble::NoTopic, || {
                    format!("topic {topic} is not there: waiting until it is created")
                });
                return Ok(Some(Consumed::NoTopic));
            }
            Scouted::Unreachable { address, failure } => {
                self.report(ConsumerTrouble::Unreachable, || {
                    format!("cannot reach Kafka at {address}: {failure}; trying until it answers")
                });
            }
            Scouted::Unresolved { address, failure } => {
                let message = format!("cannot reach Kafka at {address}: {failure}");
                return Err(Error::new(ErrorKind::Temporary, message)
                    .hint("check the names given to --kafka"));
            }
            Scouted::Refused { address, failure } if !self.is_proven => {
                let message = format!("cannot read topic {topic} at {address}: {failure}");
                return Err(Error::new(ErrorKind::Configuration, message)
                    .hint("see --kafka and --kafka-config"));
            }
            Scouted::Refused { address, failure } => {
                self.report(ConsumerTrouble::Refused, || {
                    format!("cannot read topic {topic} at {address}: {failure}; trying again")
                });
            }
        }
        Ok(None)
    }

    /// Gives the partitions without a fetcher to the fetchers of their leaders.
    fn assign(&mut self) {
        for (&partition, wanted) in &mut self.wanted {
            if wanted.is_assigned {
                continue;
            }
            let mut known = self.metadata.partitions.iter();
            let leader = known.find(|known| known.partition == partition).map(|known| known.leader);
            let brokers = &self.metadata.brokers;
            let Some((node, address)) = brokers.iter().find(|(node, _)| Some(*node) == leader)
            else {
                continue;
            };
            let assignment = Assignment { partition, from: wanted.from, until: wanted.until };
            let present = self.fetchers.get(node);
            let sent = present.map(|fetcher| fetcher.try_send(assignment));
            if let Some(Err(mpsc::error::TrySendError::Full(_))) = sent {
                // It is assigned when the scout has looked again.
                continue;
            }
            // A fetcher whose connection was lost takes nothing any more.
            if !matches!(sent, Some(Ok(()))) {
                let (give, assigned) = mpsc::channel(ASSIGNMENTS_MAX);
                // It cannot fail: the queue is empty, and this function holds the other end.
                let _ = give.try_send(assignment);
                let topic = TopicName { name: self.topic.clone(), id: self.metadata.topic_id };
                let properties = self.properties.clone();
                let sender = self.sender.clone();
                let fetcher = Fetcher::new(address.clone(), topic, properties, assigned, sender);
                self.tasks.spawn(fetcher.run());
                self.fetchers.insert(*node, give);
            }
            wanted.is_assigned = true;
        }
    }

    /// Logs a kind of trouble unless it was logged since all was well.
    fn report(&mut self, trouble: ConsumerTrouble, message: impl FnOnce() -> String) {
        let message = message();
        self.meter.disconnected(&message);
        if self.reported.insert(trouble) {
            tracing::warn!("{message}");
        } else {
            tracing::debug!("{message}");
        }
    }

    /// Logs that all is well again once every partition is read.
    fn report_recovery(&mut self) {
        if !self.wanted.values().all(|wanted| wanted.has_begun) {
            return;
        }
        self.meter.connected();
        if !self.reported.is_empty() {
            self.reported.clear();
            tracing::info!("topic {} is read again", self.topic);
        }
    }
}
