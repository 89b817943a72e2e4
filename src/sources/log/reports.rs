//! Reports of a source log to the user: discards of the limits, and a full journal.

use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::journal::FullCause;
use crate::lines::LineStats;

/// Bytes that resets drop are reported at most this often: many senders may break at once.
const DROPPED_PAUSE: Duration = Duration::from_secs(1);

/// The beginning of the report that the disk of a journal is full.
pub const DISK_FULL: &str = "the disk of the journal is full";
/// The beginning of the report that reading goes on.
pub const ROOM_AGAIN: &str = "the journal has room again";

/// Discards that were not reported yet, and reports that were made once.
#[derive(Debug, Default)]
pub struct Reports {
    /// Discards that are not reported yet.
    unreported: LineStats,
    /// When dropped bytes were last reported.
    dropped_at: Option<Instant>,
    /// True if a full journal was reported and is full still.
    full: bool,
    /// True if a cut of one line was reported.
    line_cut: bool,
    /// True if cuts of several lines were reported.
    lines_cut: bool,
}

impl Reports {
    /// Adds what the splitter of a connection has discarded since this was called last.
    pub fn discarded(&mut self, connection: &mut Connection) {
        let (now, before) = (connection.splitter.stats(), connection.reported);
        self.unreported.oversized_words += now.oversized_words - before.oversized_words;
        self.unreported.dropped_lines += now.dropped_lines - before.dropped_lines;
        self.unreported.dropped_bytes += now.dropped_bytes - before.dropped_bytes;
        connection.reported = now;
    }

    /// Reports what was discarded, which could not be seen otherwise.
    pub fn report(&mut self) {
        if self.unreported == LineStats::default() {
            return;
        }
        let now = Instant::now();
        let is_burst = self.dropped_at.is_some_and(|at| now < at + DROPPED_PAUSE);
        if is_burst && self.unreported.dropped_bytes > 0 {
            return;
        }
        self.report_all();
    }

    /// Reports the rest, too, that is held back in a burst.
    pub fn report_all(&mut self) {
        let LineStats { oversized_words, dropped_lines, dropped_bytes } =
            std::mem::take(&mut self.unreported);
        if oversized_words > 0 {
            tracing::warn!("{oversized_words} words longer than --max-word-bytes were not counted");
        }
        if dropped_lines > 0 {
            tracing::warn!("{dropped_lines} lines longer than --max-line-bytes were dropped");
        }
        if dropped_bytes > 0 {
            self.dropped_at = Some(Instant::now());
            tracing::warn!(
                "the connection was reset: {dropped_bytes} bytes of an unfinished line were dropped"
            );
        }
    }

    /// Reports once why reading stops.
    pub fn full(&mut self, cause: FullCause) {
        if std::mem::replace(&mut self.full, true) {
            return;
        }
        match cause {
            FullCause::Disk => {
                tracing::warn!("{DISK_FULL}: reading stops until there is room again");
            }
            FullCause::Cap => tracing::warn!(
                "the journal is full: reading stops until an epoch is committed; see --journal-max"
            ),
        }
    }

    /// Reports that `bytes` bytes which were read found no room in the journal at a stop.
    pub fn unkept(&self, bytes: usize) {
        tracing::warn!(
            "the journal is full and the run ends: the last {bytes} bytes that were read are in \
             no journal; they are counted in the last epoch, and lost if that is not committed"
        );
    }

    /// Reports that reading goes on, if it was reported that it stops; returns true then.
    pub fn has_room(&mut self) -> bool {
        let was_full = std::mem::take(&mut self.full);
        if was_full {
            tracing::info!("{ROOM_AGAIN}: reading goes on");
        }
        was_full
    }

    /// Reports once that lines were cut since all together held more than `most` bytes of memory.
    pub fn lines_cut(&mut self, most: usize) {
        if !std::mem::replace(&mut self.lines_cut, true) {
            tracing::warn!(
                "the unfinished lines of all senders take more than {most} bytes: the longest is \
                 cut at a space, as one above --max-line-bytes is"
            );
        }
    }

    /// Reports once that a line was cut since it kept more than `most` bytes of the journal.
    pub fn line_cut(&mut self, most: u64) {
        if !std::mem::replace(&mut self.line_cut, true) {
            tracing::warn!(
                "a line takes more than {most} bytes of the journal: it is cut at a space, as one \
                 above --max-line-bytes is; see --journal-max"
            );
        }
    }
}
