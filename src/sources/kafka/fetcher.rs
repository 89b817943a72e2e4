//! One task per broker: fetches records of the partitions that the broker leads.
//!
//! A fetcher is given the partitions to read and where to begin, and sends what it finds, in order,
//! to the [`Consumer`](super::consumer::Consumer). It gives a partition back when the broker does
//! not lead it any more, and all of them when the connection is lost: after its last event the
//! consumer knows the position and may assign the partition elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::super::host_port::HostPort;
use super::batches::{Batches, Chunk};
use super::broker::BrokerConnection;
use super::client_properties::ClientProperties;
use super::error_kinds::{BrokerFailure, ErrorCode};
use super::requests::{FetchedPartition, PartitionPlace, TopicName, fetch, offset_at};

/// Bytes of lines that wait to be handed to the log, of all fetchers together. One longer value is
/// let through alone.
pub const WAITING_BYTES_MAX: u32 = 8 << 20;

/// The partition that a fetcher is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The number of the partition.
    pub partition: i32,
    /// Where to begin.
    pub from: ReadFrom,
    /// Where to end.
    pub until: ReadUntil,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// The record with this offset, or the next one that is left.
    Offset(i64),
    /// The first or the next record of the partition, as the broker states it.
    At(PartitionPlace),
}

/// Where reading ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadUntil {
    /// Not at all.
    Never,
    /// Before this offset.
    Offset(i64),
    /// At the high watermark of now.
    HighWatermark,
}

/// A report of a fetcher.
#[derive(Debug)]
pub enum Fetched {
    /// A partition begins here, and ends there if it ends.
    Began { partition: i32, next: i64, until: Option<i64> },
    /// Lines, with the share of the bound that they hold.
    Lines { partition: i32, chunk: Chunk, _held: OwnedSemaphorePermit },
    /// The partition was read to its end and is not read any more.
    Reached { partition: i32 },
    /// The position is not in the partition any more; it is not read any more.
    OutOfRange { partition: i32, earliest: i64, latest: i64 },
    /// The partition is not read any more because of this failure.
    GaveUp { partition: i32, failure: String, kind: GiveUp },
}

/// The kind of a failure, for what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// Another broker leads the partition, or the connection is lost.
    Moved,
    /// A retry cannot help unless a setting is changed.
    Refused,
    /// The records cannot be read.
    Damaged,
}

/// Sends events, within the bound of bytes.
#[derive(Clone, Debug)]
pub struct EventSender {
    /// The queue of events, which is bounded.
    pub events: mpsc::Sender<Fetched>,
    /// Room for the lines that wait in the queue, in bytes.
    pub room: Arc<Semaphore>,
}

/// The consumer is gone: the task ends.
#[derive(Debug)]
struct Gone;

impl EventSender {
    /// Sends an event without lines, and waits while the queue is full.
    async fn send(&self, event: Fetched) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }

    /// Sends lines, and waits until there is room for them.
    async fn lines(&self, partition: i32, chunk: Chunk) -> Result<(), Gone> {
        let bytes = u32::try_from(chunk.text.len()).unwrap_or(u32::MAX).min(WAITING_BYTES_MAX);
        let held = Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| Gone)?;
        self.send(Fetched::Lines { partition, chunk, _held: held }).await
    }

    /// Sends that the fetcher reads a partition no more, and why.
    async fn give_up(&self, partition: i32, failure: &BrokerFailure) -> Result<(), Gone> {
        let kind = match failure {
            BrokerFailure::Refused(_) => GiveUp::Refused,
            BrokerFailure::Code(code) if code.is_refusal() => GiveUp::Refused,
            BrokerFailure::Malformed(_) | BrokerFailure::TooLong(_) => GiveUp::Damaged,
            BrokerFailure::Lost(_) | BrokerFailure::Unresolved(_) | BrokerFailure::Code(_) => {
                GiveUp::Moved
            }
        };
        let failure = failure.to_string();
        self.send(Fetched::GaveUp { partition, failure, kind }).await
    }
}

/// A partition that is being read.
#[derive(Clone, Copy, Debug)]
struct FetchedRange {
    /// The number of the partition.
    partition: i32,
    /// The offset of the next record to fetch.
    next: i64,
    /// The offset to stop at; `None` for ever.
    until: Option<i64>,
}

/// Reads partitions from one broker.
#[derive(Debug)]
pub struct Fetcher {
    /// The broker.
    address: HostPort,
    /// The topic, by the name or the id that the broker wants.
    topic: TopicName,
    /// The settings of the client.
    properties: ClientProperties,
    /// Partitions that the fetcher is to read.
    assigned: mpsc::Receiver<Assignment>,
    /// Takes lines and the ends of partitions.
    events: EventSender,
    /// In the order of the next fetch: what had its turn goes to the end.
    reading: VecDeque<FetchedRange>,
}

impl Fetcher {
    /// Returns a fetcher of no partition yet.
    pub fn new(
        address: HostPort,
        topic: TopicName,
        properties: ClientProperties,
        assigned: mpsc::Receiver<Assignment>,
        events: EventSender,
    ) -> Fetcher {
        Fetcher { address, topic, properties, assigned, events, reading: VecDeque::new() }
    }

    /// Reads until the consumer has gone or the connection is lost; all partitions are given back
    /// then.
    pub async fn run(mut self) {
        let Err(failure) = self.serve().await else { return };
        self.assigned.close();
        while let Ok(assignment) = self.assigned.try_recv() {
            let (partition, next) = (assignment.partition, 0);
            self.reading.push_back(FetchedRange { partition, next, until: None });
        }
        for FetchedRange { partition, .. } in std::mem::take(&mut self.reading) {
            if self.events.give_up(partition, &failure).await.is_err() {
                return;
            }
        }
    }

    /// Connects and fetches; returns without an error when the consumer has gone.
    async fn serve(&mut self) -> Result<(), BrokerFailure> {
        let mut connection = BrokerConnection::open(&self.address, &self.properties).await?;
        loop {
            let assigned = if self.reading.is_empty() {
                match self.assigned.recv().await {
                    Some(assignment) => Some(assignment),
                    None => return Ok(()),
                }
            } else {
                match self.assigned.try_recv() {
                    Ok(assignment) => Some(assignment),
                    Err(mpsc::error::TryRecvError::Empty) => None,
                    Err(mpsc::error::TryRecvError::Disconnected) => return Ok(()),
                }
            };
            let served = match assigned {
                Some(assignment) => self.begin(&mut connection, assignment).await?,
                None => self.fetch(&mut connection).await?,
            };
            if served.is_err() {
                return Ok(());
            }
        }
    }

    /// Begins to read a partition.
    async fn begin(
        &mut self,
        connection: &mut BrokerConnection,
        Assignment { partition, from, until }: Assignment,
    ) -> Result<Result<(), Gone>, BrokerFailure> {
        // A lost connection gives this one back with the others.
        self.reading.push_back(FetchedRange { partition, next: 0, until: None });
        let found = self.find(connection, partition, from, until).await;
        let index = self.reading.len() - 1;
        match found {
            Ok((next, until)) => {
                self.reading[index] = FetchedRange { partition, next, until };
                if until.is_some_and(|until| next > until) {
                    // The partition was cut short, or created again.
                    return self.out_of_range(connection, index).await;
                }
                let began = self.events.send(Fetched::Began { partition, next, until }).await;
                if began.is_ok() && until.is_some_and(|until| next >= until) {
                    self.reading.remove(index);
                    return Ok(self.events.send(Fetched::Reached { partition }).await);
                }
                Ok(began)
            }
            Err(failure @ BrokerFailure::Code(_)) => {
                self.reading.remove(index);
                Ok(self.events.give_up(partition, &failure).await)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Returns the offsets that an assignment means.
    async fn find(
        &self,
        connection: &mut BrokerConnection,
        partition: i32,
        from: ReadFrom,
        until: ReadUntil,
    ) -> Result<(i64, Option<i64>), BrokerFailure> {
        let until = match until {
            ReadUntil::Never => None,
            ReadUntil::Offset(offset) => Some(offset),
            ReadUntil::HighWatermark => Some(
                offset_at(connection, &self.topic.name, partition, PartitionPlace::Latest).await?,
            ),
        };
        let next = match from {
            ReadFrom::Offset(offset) => offset,
            ReadFrom::At(place) => {
                offset_at(connection, &self.topic.name, partition, place).await?
            }
        };
        Ok((next, until))
    }

    /// Fetches once, and sends what came.
    async fn fetch(
        &mut self,
        connection: &mut BrokerConnection,
    ) -> Result<Result<(), Gone>, BrokerFailure> {
        let wanted: Vec<(i32, i64)> =
            self.reading.iter().map(|reading| (reading.partition, reading.next)).collect();
        let answers = fetch(connection, &self.topic, &wanted, &self.properties.fetch).await?;
        for answer in answers {
            let partition = answer.partition;
            let Some(index) = self.reading.iter().position(|at| at.partition == partition) else {
                continue;
            };
            let taken = match answer.code {
                ErrorCode(0) => self.take(index, answer).await,
                ErrorCode::OFFSET_OUT_OF_RANGE => self.out_of_range(connection, index).await?,
                code => {
                    self.reading.remove(index);
                    self.events.give_up(partition, &BrokerFailure::Code(code)).await
                }
            };
            if taken.is_err() {
                return Ok(Err(Gone));
            }
        }
        Ok(Ok(()))
    }

    /// Sends the lines of one partition's answer.
    async fn take(&mut self, index: usize, answer: FetchedPartition) -> Result<(), Gone> {
        let FetchedRange { partition, next, until } = self.reading[index];
        if !answer.records.is_empty() {
            // The others have the first turn next time.
            let turned = self.reading.remove(index);
            self.reading.extend(turned);
        }
        let value_bytes_max = self.properties.fetch.message_bytes_max;
        let mut batches =
            Batches::new(answer.records, next, until, answer.aborted, value_bytes_max);
        let failure = loop {
            match batches.next_chunk() {
                Ok(Some(chunk)) => self.events.lines(partition, chunk).await?,
                Ok(None) => break None,
                Err(failure) => break Some(failure),
            }
            // A batch may hold very much: other tasks of the thread have their turn.
            tokio::task::yield_now().await;
        };
        let Some(index) = self.reading.iter().position(|at| at.partition == partition) else {
            return Ok(());
        };
        self.reading[index].next = batches.position();
        if let Some(failure) = failure {
            self.reading.remove(index);
            return self.events.give_up(partition, &failure).await;
        }
        if until.is_some_and(|until| batches.position() >= until) {
            self.reading.remove(index);
            return self.events.send(Fetched::Reached { partition }).await;
        }
        Ok(())
    }

    /// Finds out where a partition begins and ends that does not hold the position.
    async fn out_of_range(
        &mut self,
        connection: &mut BrokerConnection,
        index: usize,
    ) -> Result<Result<(), Gone>, BrokerFailure> {
        let partition = self.reading[index].partition;
        let event = match self.bounds(connection, partition).await {
            Ok((earliest, latest)) => Fetched::OutOfRange { partition, earliest, latest },
            Err(failure @ BrokerFailure::Code(_)) => {
                self.reading.remove(index);
                return Ok(self.events.give_up(partition, &failure).await);
            }
            Err(failure) => return Err(failure),
        };
        self.reading.remove(index);
        Ok(self.events.send(event).await)
    }

    /// Returns the offset of the oldest record of a partition, and the one after the newest.
    async fn bounds(
        &self,
        connection: &mut BrokerConnection,
        partition: i32,
    ) -> Result<(i64, i64), BrokerFailure> {
        let earliest =
            offset_at(connection, &self.topic.name, partition, PartitionPlace::Earliest).await?;
        let latest =
            offset_at(connection, &self.topic.name, partition, PartitionPlace::Latest).await?;
        Ok((earliest, latest))
    }
}
