//! One event as one line of JSON. docs/profiling.md describes the schema.

use std::borrow::Cow;
use std::time::Duration;

use differential_dataflow::logging::DifferentialEvent;
use serde::{Deserialize, Serialize};
use timely::logging::{ParkEvent, StartStop, TimelyEvent};

/// A line of an event file.
#[derive(Debug, Serialize, Deserialize)]
pub struct EventLine<'a> {
    /// Microseconds since the worker's start.
    pub t_us: u64,
    /// Index of the worker among all workers of the cluster.
    pub worker: usize,
    /// The event.
    #[serde(flatten)]
    pub event: LoggedEvent<'a>,
}

/// Returns true for a text that begins as every line does.
pub fn is_event_line(text: &[u8]) -> bool {
    text.starts_with(b"{\"t_us\":")
}

/// An event of timely or differential, as far as a profile can use it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LoggedEvent<'a> {
    /// An operator was built.
    Operates { id: usize, addr: Cow<'a, [usize]>, name: Cow<'a, str> },
    /// A channel was built, between two operators of one scope.
    Channel { id: usize, scope: Cow<'a, [usize]>, source: (usize, usize), target: (usize, usize) },
    /// An operator begins to run.
    Start { id: usize },
    /// An operator has run.
    Stop { id: usize },
    /// An operator is finished.
    Shutdown { id: usize },
    /// Records were put into a channel.
    Send { channel: usize, from: usize, to: usize, records: i64 },
    /// Records were taken from a channel.
    Receive { channel: usize, from: usize, to: usize, records: i64 },
    /// The worker waits for work.
    Park,
    /// The worker goes on.
    Unpark,
    /// The worker has used so much processor time since the last such event.
    Processor { us: u64 },
    /// An arrangement got a batch.
    Batch { operator: usize, length: usize },
    /// An arrangement merges batches; `complete` is the length of the result when it is done.
    Merge { operator: usize, length1: usize, length2: usize, complete: Option<usize> },
    /// An arrangement dropped a batch.
    Drop { operator: usize, length: usize },
    /// Events before this line could not be written.
    Dropped { events: u64 },
    /// An event that this version does not know.
    #[serde(other)]
    Other,
}

impl<'a> LoggedEvent<'a> {
    /// Returns the line's event for an event of timely, if a profile can use it.
    pub fn of_timely(event: &'a TimelyEvent) -> Option<LoggedEvent<'a>> {
        Some(match event {
            TimelyEvent::Operates(operates) => LoggedEvent::Operates {
                id: operates.id,
                addr: Cow::Borrowed(&operates.addr),
                name: Cow::Borrowed(&operates.name),
            },
            TimelyEvent::Channels(channel) => LoggedEvent::Channel {
                id: channel.id,
                scope: Cow::Borrowed(&channel.scope_addr),
                source: channel.source,
                target: channel.target,
            },
            TimelyEvent::Schedule(schedule) => match schedule.start_stop {
                StartStop::Start => LoggedEvent::Start { id: schedule.id },
                StartStop::Stop => LoggedEvent::Stop { id: schedule.id },
            },
            TimelyEvent::Shutdown(shutdown) => LoggedEvent::Shutdown { id: shutdown.id },
            TimelyEvent::Messages(message) => {
                let (channel, from, to) = (message.channel, message.source, message.target);
                let records = message.record_count;
                if message.is_send {
                    LoggedEvent::Send { channel, from, to, records }
                } else {
                    LoggedEvent::Receive { channel, from, to, records }
                }
            }
            TimelyEvent::Park(ParkEvent::Park(_)) => LoggedEvent::Park,
            TimelyEvent::Park(ParkEvent::Unpark) => LoggedEvent::Unpark,
            // Progress between operators, and what no profile asks for.
            _ => return None,
        })
    }

    /// Returns the line's event for an event of differential, if a profile can use it.
    pub fn of_differential(event: &DifferentialEvent) -> Option<LoggedEvent<'static>> {
        Some(match event {
            DifferentialEvent::Batch(batch) => {
                LoggedEvent::Batch { operator: batch.operator, length: batch.length }
            }
            DifferentialEvent::Merge(merge) => LoggedEvent::Merge {
                operator: merge.operator,
                length1: merge.length1,
                length2: merge.length2,
                complete: merge.complete,
            },
            DifferentialEvent::Drop(drop) => {
                LoggedEvent::Drop { operator: drop.operator, length: drop.length }
            }
            _ => return None,
        })
    }
}

/// Appends the line of an event to `text`.
pub fn write_line(text: &mut Vec<u8>, worker: usize, time: Duration, event: LoggedEvent<'_>) {
    let line = EventLine { t_us: time.as_micros() as u64, worker, event };
    // Numbers and names always have a JSON form, and a vector takes all that is written to it.
    if serde_json::to_writer(&mut *text, &line).is_ok() {
        text.push(b'\n');
    }
}
