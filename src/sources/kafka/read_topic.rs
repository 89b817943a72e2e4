//! The task that owns the log of a share of a topic: records become lines of it, in the order in
//! which they come, and positions state at each cut how far every partition was read.
//!
//! A start first reads what ends of epochs of a former run promised: each partition up to the
//! recorded position and no further, end by end. Then it reads on from there.
//!
//! Lines are handed over in pieces of at most [`CHUNK_BYTES`], each of which is on one side of a
//! cut. Only a longer value can lie on both: its first bytes are noted in the positions as taken.

mod value;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::log::SourceLog;
use super::batches::{CHUNK_BYTES, Chunk};
use super::client_properties::ClientProperties;
use super::consumer::{Consumed, Consumer};
use super::fetcher::{Fetched, ReadFrom, ReadUntil};
use super::positions::{PartitionPosition, Positions, Ranges, is_of_share};
use super::requests::PartitionPlace;
use super::{KafkaStart, KafkaTopic};
use crate::error::Result;
use value::RestOfValue;

/// The connection of the log that all lines belong to.
const CONNECTION: u64 = 0;

/// Most bytes of lines that are handed over at once.
const HAND_OVER_BYTES: usize = 4 * CHUNK_BYTES;

/// Reads a share of a topic until a stop, or with `once` up to the high watermarks of the start.
///
/// # Errors
///
/// `Temporary` if no name of a broker resolves; `Configuration` if the first broker that answers
/// refuses; those of the log.
pub async fn read(topic: KafkaTopic, once: bool, log: &mut SourceLog) -> Result<()> {
    let properties = topic.properties.check()?;
    let mut reading = TopicReading::begin(topic, properties, log)?;
    reading.resume_value().await?;
    reading.pass_recorded_ends().await?;
    if reading.topic.is_recovery_only {
        return reading.finish_value().await;
    }
    reading.take_over();
    reading.read_on(once).await?;
    reading.finish_value().await
}

/// A share of a topic that is being read.
struct TopicReading<'a> {
    /// The topic, and the positions from which it is read.
    topic: KafkaTopic,
    /// The settings of the client, checked.
    properties: ClientProperties,
    /// The log that the lines of the records go into.
    log: &'a mut SourceLog,
    /// Reads the partitions of this share.
    consumer: Consumer,
    /// The position as the cuts record it.
    positions: Arc<Mutex<Positions>>,
    /// The rest of a value that a former run had cut; it comes before all else of its partition.
    rest: Option<RestOfValue>,
    /// An event that came after lines.
    held_back: Option<Fetched>,
    /// Nothing was ever read: partitions that are met first begin as the settings have it.
    is_first_look: bool,
}

impl<'a> TopicReading<'a> {
    /// Prepares the reading of a share from the positions in `log`.
    ///
    /// Fails with `Disk` if the positions in the log cannot be read.
    fn begin(
        topic: KafkaTopic,
        properties: ClientProperties,
        log: &'a mut SourceLog,
    ) -> Result<TopicReading<'a>> {
        log.open_connection_as(CONNECTION);
        let began_at = Positions::decode(log.began_at())?;
        let is_first_look = began_at.is_none() && log.recorded_end().is_none();
        let positions = Arc::new(Mutex::new(began_at.unwrap_or_default()));
        let at_cut = Arc::clone(&positions);
        log.set_positions(move || Ok(locked(&at_cut).encode()));
        let consumer = Consumer::new(
            topic.brokers.clone(),
            topic.topic.clone(),
            properties.clone(),
            Arc::clone(log.meter()),
        );
        let (rest, held_back) = (None, None);
        Ok(TopicReading {
            topic,
            properties,
            log,
            consumer,
            positions,
            rest,
            held_back,
            is_first_look,
        })
    }

    /// Changes the positions. No cut lies between this and what was handed over before it.
    fn change<T>(&self, change: impl FnOnce(&mut Positions) -> T) -> T {
        change(&mut locked(&self.positions))
    }

    /// Reads what recorded ends of epochs promised, end by end, so that each record comes into the
    /// epoch that it was in before a restart.
    async fn pass_recorded_ends(&mut self) -> Result<()> {
        while let Some((_, recorded)) = self.log.recorded_end() {
            if let Some(end) = Positions::decode(recorded)? {
                self.read_to(&end).await?;
            }
            self.log.pass_recorded_end()?;
        }
        Ok(())
    }

    /// Reads each partition up to its position in `end`, and no further. An end that was recorded
    /// while others were ahead may hold positions that are passed already: nothing goes back.
    async fn read_to(&mut self, end: &Positions) -> Result<()> {
        let open = end.open.filter(|open| self.next_of(open.partition) <= open.offset);
        if let Some(rest) = &self.rest {
            let place = (rest.partition, rest.next);
            let same = end.open.filter(|open| (open.partition, open.offset + 1) == place);
            let most = same.map_or(usize::MAX, |open| open.taken as usize);
            self.feed_rest(most).await?;
        }
        let ranges = self.change(|positions| positions.ranges_to(end));
        self.read_ranges(ranges).await?;
        self.change(|positions| {
            for (partition, recorded) in &end.partitions {
                let known = positions.partitions.entry(*partition).or_insert(*recorded);
                if known.next < recorded.next {
                    *known = *recorded;
                }
            }
        });
        if let Some(open) = open.filter(|_| self.rest.is_none()) {
            self.fetch_value(open, 0).await?;
            self.feed_rest(open.taken as usize).await?;
        }
        Ok(())
    }

    /// Reads ranges of partitions that a former run has read, all at the same time. Records that
    /// the topic does not hold any more are reported and passed over.
    async fn read_ranges(&mut self, mut ranges: Ranges) -> Result<()> {
        for (&partition, &(from, until)) in &ranges {
            self.consumer.read(partition, ReadFrom::Offset(from), ReadUntil::Offset(until));
        }
        while !ranges.is_empty() {
            match self.next_event().await? {
                Consumed::Topic { id, .. } if self.is_other_topic(id) => {
                    let lost: i64 = ranges
                        .iter()
                        .map(|(partition, (from, until))| {
                            until - self.next_of(*partition).max(*from)
                        })
                        .sum();
                    tracing::warn!(
                        "{} was deleted and created again: {lost} records that were read and not \
                         committed are lost",
                        self.topic
                    );
                    self.restart_consumer();
                    return Ok(());
                }
                Consumed::Topic { .. } | Consumed::NoTopic => {}
                Consumed::Fetched(Fetched::Lines { partition, chunk, .. }) => {
                    self.feed(partition, chunk).await?;
                }
                Consumed::Fetched(Fetched::Reached { partition }) => {
                    ranges.remove(&partition);
                }
                Consumed::Fetched(Fetched::OutOfRange { partition, earliest, latest }) => {
                    let Some((_, until)) = ranges.get(&partition).copied() else { continue };
                    let next = self.report_lost(partition, earliest, latest).min(until);
                    self.move_to(partition, next);
                    if next < until {
                        let from = ReadFrom::Offset(next);
                        self.consumer.read(partition, from, ReadUntil::Offset(until));
                    } else {
                        ranges.remove(&partition);
                    }
                }
                Consumed::Fetched(Fetched::Began { .. } | Fetched::GaveUp { .. }) => {}
            }
        }
        Ok(())
    }

    /// Takes over the positions that the shares of a former run have recorded, which may have been
    /// others. Those of this share are among them.
    fn take_over(&mut self) {
        let Some(mut known) = self.topic.known.take() else { return };
        let (share, of) = self.topic.share;
        self.is_first_look = false;
        known.keep_share(share, of);
        known.begin();
        self.change(|positions| *positions = Positions { open: positions.open, ..known });
    }

    /// Reads until a stop or, with `once`, to the high watermarks of the start.
    ///
    /// A partition that is added to the topic is met in a later list of the brokers and begun at
    /// its first record. Fails with the error of the log, and with that of a broker which refuses
    /// the settings.
    async fn read_on(&mut self, once: bool) -> Result<()> {
        let stop = self.log.stop().clone();
        self.feed_rest(usize::MAX).await?;
        // The partitions that are read, and with `once` those that are not at their ends.
        let mut read: BTreeSet<i32> = BTreeSet::new();
        let mut unread: Option<BTreeSet<i32>> = None;
        loop {
            if unread.as_ref().is_some_and(BTreeSet::is_empty) && once {
                return Ok(());
            }
            let event = tokio::select! {
                biased;
                () = stop.stopped() => return Ok(()),
                event = self.next_event() => event?,
            };
            match event {
                Consumed::Topic { id, partitions } => {
                    if self.is_other_topic(id) {
                        self.begin_topic_anew();
                        read.clear();
                        unread = None;
                        continue;
                    }
                    if once && unread.is_some() {
                        continue;
                    }
                    let fresh = self.begin_partitions(id, &partitions, &read, once);
                    unread.get_or_insert_default().extend(&fresh);
                    read.extend(fresh);
                    self.is_first_look = false;
                }
                Consumed::NoTopic => self.is_first_look = false,
                Consumed::Fetched(Fetched::Began { partition, next, .. }) => {
                    self.change(|positions| {
                        let known = positions.partitions.get(&partition).copied();
                        let began = known.filter(|known| known.has_begun());
                        let position = began.unwrap_or(PartitionPosition::at(next));
                        positions.partitions.insert(partition, position);
                    });
                }
                Consumed::Fetched(Fetched::Lines { partition, chunk, .. }) => {
                    self.feed(partition, chunk).await?;
                }
                Consumed::Fetched(Fetched::Reached { partition }) => {
                    if let Some(unread) = &mut unread {
                        unread.remove(&partition);
                    }
                }
                Consumed::Fetched(Fetched::OutOfRange { partition, earliest, latest }) => {
                    let next = self.report_lost(partition, earliest, latest);
                    self.move_to(partition, next);
                    let until = if once { ReadUntil::HighWatermark } else { ReadUntil::Never };
                    self.consumer.read(partition, ReadFrom::Offset(next), until);
                }
                Consumed::Fetched(Fetched::GaveUp { .. }) => {}
            }
        }
    }

    /// Begins to read the partitions of this share that are not read yet; returns them. Each is
    /// read from its known position, and one without from where `--kafka-start` says.
    fn begin_partitions(
        &mut self,
        id: [u8; 16],
        partitions: &[i32],
        read: &BTreeSet<i32>,
        once: bool,
    ) -> Vec<i32> {
        let (share, of) = self.topic.share;
        let own = partitions.iter().copied().filter(|id| is_of_share(*id, share, of));
        let fresh: Vec<i32> = own.filter(|id| !read.contains(id)).collect();
        // A job that reads once reads what is there.
        let default = if once { KafkaStart::Earliest } else { KafkaStart::Latest };
        let start = match (self.is_first_look, self.topic.start.unwrap_or(default)) {
            (true, KafkaStart::Latest) => PartitionPlace::Latest,
            // Whatever stands in a partition that came later was written after the start.
            _ => PartitionPlace::Earliest,
        };
        let until = if once { ReadUntil::HighWatermark } else { ReadUntil::Never };
        for &partition in &fresh {
            let known = self.change(|positions| {
                if id != [0; 16] {
                    positions.topic_id = id;
                }
                let known = positions.partitions.get(&partition).copied();
                if known.is_none() && start == PartitionPlace::Latest {
                    positions.partitions.insert(partition, PartitionPosition::AT_LATEST);
                }
                known
            });
            let from = match known {
                Some(known) if known.has_begun() => ReadFrom::Offset(known.next),
                Some(_) => ReadFrom::At(PartitionPlace::Latest),
                None => ReadFrom::At(start),
            };
            self.consumer.read(partition, from, until);
        }
        if !fresh.is_empty() {
            tracing::info!(
                "reading {} of {} partitions of {}",
                fresh.len(),
                partitions.len(),
                self.topic
            );
        }
        fresh
    }

    /// Begins with a topic that was deleted and created again, from the beginning of each
    /// partition. It is known by its id, which brokers give since Kafka 2.8.
    fn begin_topic_anew(&mut self) {
        tracing::warn!(
            "{} was deleted and created again: it is read from its beginning; records of the old \
             one that were not read are lost",
            self.topic
        );
        self.restart_consumer();
        self.change(|positions| *positions = Positions::default());
        self.is_first_look = false;
    }

    /// Forgets all records that are on the way, and connects anew.
    pub fn restart_consumer(&mut self) {
        let (brokers, topic) = (self.topic.brokers.clone(), self.topic.topic.clone());
        let meter = Arc::clone(self.log.meter());
        self.consumer = Consumer::new(brokers, topic, self.properties.clone(), meter);
        self.held_back = None;
    }

    /// Returns true if the topic of this id is not the one that was read.
    pub fn is_other_topic(&self, id: [u8; 16]) -> bool {
        let known = self.change(|positions| positions.topic_id);
        known != [0; 16] && id != [0; 16] && known != id
    }

    /// Returns the offset of the next record of `partition` that is not in the log yet.
    fn next_of(&self, partition: i32) -> i64 {
        self.change(|positions| positions.partitions.get(&partition).map_or(0, |at| at.next))
    }

    /// Notes that all records of `partition` below `next` are in the log.
    fn move_to(&self, partition: i32, next: i64) {
        self.change(|positions| {
            let at = positions.partitions.entry(partition).or_insert(PartitionPosition::at(next));
            at.next = next;
            // A partition that was cut short goes back.
            at.began = at.began.min(next);
        });
    }

    /// Reports what is lost where the position is not in a partition any more; returns where to
    /// read on.
    fn report_lost(&self, partition: i32, earliest: i64, latest: i64) -> i64 {
        let (at, topic) = (self.next_of(partition), &self.topic);
        if at < earliest {
            tracing::warn!(
                "{} records of partition {partition} of {topic} are lost: offsets {at} to {} were \
                 removed by retention before they were read; reading on at {earliest}",
                earliest - at,
                earliest - 1
            );
            earliest
        } else if at > latest {
            tracing::warn!(
                "partition {partition} of {topic} ends at offset {latest}, before {at}, up to \
                 which it was read: it was truncated; reading on at its end"
            );
            latest
        } else {
            at
        }
    }

    /// Waits for the next event of the consumer. Cuts and commits happen meanwhile.
    async fn next_event(&mut self) -> Result<Consumed> {
        if let Some(event) = self.held_back.take() {
            return Ok(Consumed::Fetched(event));
        }
        self.log.serve_during(self.consumer.next()).await?
    }

    /// Hands the lines of a partition to the log, with those of others that are there already.
    async fn feed(&mut self, partition: i32, chunk: Chunk) -> Result<()> {
        if chunk.text.len() > CHUNK_BYTES {
            self.report_skipped(partition, &chunk);
            let (text, next) = (chunk.text, chunk.next);
            self.rest = Some(RestOfValue { partition, text, at: 0, next });
            return self.feed_rest(usize::MAX).await;
        }
        if chunk.text.is_empty() {
            self.report_skipped(partition, &chunk);
            self.move_to(partition, chunk.next);
            return Ok(());
        }
        self.log.ready(CONNECTION).await?;
        let mut moved = vec![self.copy(partition, &chunk)];
        let mut bytes = chunk.text.len();
        while self.held_back.is_none()
            && bytes + CHUNK_BYTES <= HAND_OVER_BYTES
            && self.log.spare(CONNECTION).len() >= CHUNK_BYTES
        {
            match self.consumer.try_next() {
                Some(Fetched::Lines { partition, chunk, .. })
                    if chunk.text.len() <= CHUNK_BYTES =>
                {
                    bytes += chunk.text.len();
                    moved.push(self.copy(partition, &chunk));
                }
                Some(other) => self.held_back = Some(other),
                None => break,
            }
        }
        self.log.hand_over(CONNECTION).await?;
        for (partition, next) in moved {
            self.move_to(partition, next);
        }
        Ok(())
    }

    /// Copies lines to where the log takes them from; returns the position after them.
    fn copy(&mut self, partition: i32, chunk: &Chunk) -> (i32, i64) {
        self.report_skipped(partition, chunk);
        let bytes = chunk.text.len();
        self.log.spare(CONNECTION)[..bytes].copy_from_slice(&chunk.text);
        self.log.filled(CONNECTION, bytes);
        (partition, chunk.next)
    }

    /// Warns of values that are longer than the limit, which are not counted.
    fn report_skipped(&self, partition: i32, chunk: &Chunk) {
        if let Some((count, last)) = chunk.skipped {
            tracing::warn!(
                "{count} records of partition {partition} of {} were not counted, the last at \
                 offset {last}: their values are longer than {} bytes, see --kafka-config \
                 receive.message.max.bytes",
                self.topic,
                self.properties.fetch.message_bytes_max
            );
        }
    }
}

/// Locks the positions. Each change of them is whole, so a panic leaves nothing half done.
fn locked(positions: &Mutex<Positions>) -> std::sync::MutexGuard<'_, Positions> {
    positions.lock().unwrap_or_else(PoisonError::into_inner)
}
