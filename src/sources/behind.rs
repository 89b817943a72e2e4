//! The feeder when it is behind the reader: records come back from the journal.

use super::track::{Shared, Track};
use crate::crash;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::journal::{Entry, EosKind, Position, Reader, Record};
use crate::lines::{LineSplitter, SplitterState, StreamEnd};

/// Most bytes brought back in one step, so that the source gets its turn to read.
const STEP_BYTES: u64 = 512 << 10;

/// Where the feeder is, when that is not the tail.
#[derive(Debug)]
pub(super) struct Behind {
    reader: Reader,
    /// Bytes still to be skipped: they belong to lines that are done with.
    skip: u64,
    /// Bytes of a line that was open at the border where this began: fed before anything is taken.
    unfinished: u64,
    /// Bytes of the next record that the splitter has already.
    fed: usize,
    /// A former run's records are brought back.
    at_start: bool,
}

/// The result of one step.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Epochs whose end was passed.
    pub(super) passed: Vec<Epoch>,
    /// Everything is with the workers; so many borders had been passed then.
    pub(super) at_tail: Option<u64>,
}

impl Behind {
    /// At a start with records that are not done with; `None` where there are none.
    pub(super) fn at_start(track: &Track, state: SplitterState) -> Option<Behind> {
        let shared = track.lock();
        if shared.at_tail {
            return None;
        }
        let reader = shared.reader()?;
        let unfinished = state.unfinished_bytes;
        Some(Behind {
            reader,
            skip: u64::from(shared.begin_skip),
            unfinished,
            fed: 0,
            at_start: true,
        })
    }

    /// From the tail on, where the feeder is now and will not be when the reader goes on.
    pub(super) fn from_here(track: &Track) -> Option<Behind> {
        let mut shared = track.lock();
        let reader = shared.reader()?;
        shared.at_tail = false;
        Some(Behind { reader, skip: 0, unfinished: 0, fed: 0, at_start: false })
    }

    /// Feeds records while there is room for blocks. The splitter is ready.
    pub(super) fn step(&mut self, track: &Track, splitter: &mut LineSplitter) -> Result<Step> {
        let mut step = Step::default();
        let mut bytes = 0;
        while bytes < STEP_BYTES {
            let mut shared = track.lock();
            let at = self.reader.position();
            let Some(entry) = self.reader.next()? else {
                // Nobody appends while the lock is held.
                shared.at_tail = true;
                step.at_tail = Some(shared.borders);
                break;
            };
            let Entry { position, end, record } = entry;
            match record {
                Record::Data { bytes: data, .. } => {
                    let skipped = (data.len() as u64).min(self.skip);
                    let fresh = &data[skipped as usize..];
                    let Some(()) = feed(fresh, &mut self.fed, splitter) else {
                        self.reader.seek(at);
                        return Ok(step);
                    };
                    self.skip -= skipped;
                    let fed = fresh.len() as u64;
                    bytes += fed;
                    let was_open = self.unfinished > 0;
                    self.unfinished = self.unfinished.saturating_sub(fed);
                    let block = if was_open { None } else { splitter.take() };
                    shared.place.advance((position, end), (skipped, fed), splitter.state());
                    let is_tail = self.at_start && shared.next_border().is_none();
                    shared.push(block.filter(|_| !is_tail || !crash::is_mutant("drop_tail")));
                }
                Record::Eos { kind: EosKind::Crash, .. } if crash::is_mutant("glue") => {}
                Record::Eos { kind, .. } => {
                    let block = splitter.end(stream_end(kind));
                    shared.push(block);
                    shared.place.advance((position, end), (0, 0), splitter.state());
                }
                Record::LineCut { .. } => {
                    let block = splitter.cut_open_line();
                    shared.push(block);
                    shared.place.advance((position, end), (0, 0), splitter.state());
                }
                Record::Mark { mark, .. } => {
                    // A mark that was passed before may stand behind the beginning of an open line.
                    if shared.next_border().is_some_and(|(epoch, _)| epoch == mark.epoch) {
                        step.passed.extend(pass(&mut shared, splitter, (position, end)));
                    }
                }
                Record::Sync { .. } | Record::Done { .. } => {}
            }
            if !splitter.try_ready() {
                break;
            }
        }
        Ok(step)
    }
}

fn pass(
    shared: &mut Shared,
    splitter: &mut LineSplitter,
    (position, end): (Position, Position),
) -> Option<Epoch> {
    splitter.settle();
    shared.place.advance((position, position), (0, 0), splitter.state());
    let epoch = shared.pass();
    shared.place.advance((position, end), (0, 0), splitter.state());
    epoch
}

/// Feeds what is left of a record, of which `fed` bytes were fed before; `None` when there is no
/// room.
fn feed(bytes: &[u8], fed: &mut usize, splitter: &mut LineSplitter) -> Option<()> {
    while *fed < bytes.len() {
        if !splitter.try_ready() {
            return None;
        }
        let left = &bytes[*fed..];
        let spare = splitter.spare();
        let now = left.len().min(spare.len());
        spare[..now].copy_from_slice(&left[..now]);
        splitter.filled(now);
        *fed += now;
    }
    *fed = 0;
    Some(())
}

fn stream_end(kind: EosKind) -> StreamEnd {
    match kind {
        EosKind::Fin => StreamEnd::Fin,
        EosKind::Reset => StreamEnd::Reset,
        EosKind::Stop => StreamEnd::Stop,
        EosKind::Crash => StreamEnd::Crash,
    }
}
