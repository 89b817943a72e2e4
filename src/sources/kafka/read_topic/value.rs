//! Values that are longer than what is handed over at once, and may lie on both sides of a cut.
//!
//! A value is handed over in pieces that end at fixed places, so that a replay cuts an over-long
//! line where the first run did. The positions note how many of its bytes the log has taken.

use super::super::batches::CHUNK_BYTES;
use super::super::consumer::Consumed;
use super::super::fetcher::{Fetched, ReadFrom, ReadUntil};
use super::super::positions::OpenValue;
use super::{CONNECTION, TopicReading};
use crate::error::Result;
use crate::lines::StreamEnd;

/// A value of which the log has taken a part.
#[derive(Debug)]
pub struct RestOfValue {
    /// The partition of the value.
    pub partition: i32,
    /// The bytes of the value that are not in the log.
    pub text: Vec<u8>,
    /// Bytes that were handed over.
    pub at: usize,
    /// The position after it.
    pub next: i64,
}

impl TopicReading<'_> {
    /// Takes up the value of which a former run had read the beginning.
    pub async fn resume_value(&mut self) -> Result<()> {
        let Some(open) = self.change(|positions| positions.open) else { return Ok(()) };
        let states = self.log.connections_at_begin();
        let unfinished = states.first().map_or(0, |(_, state)| state.unfinished_bytes);
        self.fetch_value(open, open.taken.saturating_sub(unfinished)).await?;
        self.feed_rest(open.taken as usize).await
    }

    /// Fetches a value of which the first `at` bytes are not needed any more.
    ///
    /// The line is dropped, with a warning, if the record is gone from the topic.
    ///
    /// Fails with `Disk` if the log cannot take it, and with the error of the topic if that cannot
    /// be read.
    pub async fn fetch_value(&mut self, open: OpenValue, at: u64) -> Result<()> {
        let OpenValue { partition, offset, taken } = open;
        self.consumer.read(partition, ReadFrom::Offset(offset), ReadUntil::Offset(offset + 1));
        loop {
            match self.next_event().await? {
                Consumed::Fetched(Fetched::Lines { chunk, .. })
                    if chunk.text.len() as u64 > taken =>
                {
                    let (text, next, at) = (chunk.text, chunk.next, at as usize);
                    self.rest = Some(RestOfValue { partition, text, at, next });
                }
                Consumed::Fetched(Fetched::Reached { .. } | Fetched::OutOfRange { .. }) => break,
                Consumed::Topic { id, .. } if self.is_other_topic(id) => {
                    self.restart_consumer();
                    break;
                }
                _ => {}
            }
        }
        if self.rest.is_none() {
            tracing::warn!(
                "{}: the record at offset {offset} of partition {partition} is gone, of which \
                 {taken} bytes were read before the restart",
                self.topic
            );
            self.log.end_connection(CONNECTION, StreamEnd::Reset)?;
            self.change(|positions| positions.open = None);
        }
        Ok(())
    }

    /// Hands over what is left of a value, in pieces that end at fixed places, until `most` bytes
    /// of it are taken.
    pub async fn feed_rest(&mut self, most: usize) -> Result<()> {
        while let Some(mut rest) = self.rest.take() {
            let most = most.min(rest.text.len());
            if rest.at >= most {
                self.rest = Some(rest);
                break;
            }
            self.log.ready(CONNECTION).await?;
            let spare = self.log.spare(CONNECTION);
            let piece_end = (rest.at / CHUNK_BYTES + 1) * CHUNK_BYTES;
            let bytes = spare.len().min(piece_end.min(most) - rest.at);
            spare[..bytes].copy_from_slice(&rest.text[rest.at..rest.at + bytes]);
            self.log.filled(CONNECTION, bytes);
            self.log.hand_over(CONNECTION).await?;
            rest.at += bytes;
            let RestOfValue { partition, next, at, .. } = rest;
            if at == rest.text.len() {
                self.change(|positions| positions.open = None);
                self.move_to(partition, next);
                break;
            }
            self.change(|positions| {
                let known = positions.open.map_or(0, |open| open.taken);
                let taken = known.max(at as u64);
                positions.open = Some(OpenValue { partition, offset: next - 1, taken });
            });
            self.rest = Some(rest);
        }
        Ok(())
    }

    /// Hands over the rest of a value of which the log has taken a part.
    pub async fn finish_value(&mut self) -> Result<()> {
        self.feed_rest(usize::MAX).await
    }
}
