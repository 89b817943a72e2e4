//! Reads event files back: where the time went, as a table or as folded stacks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::event_line::{EventLine, LoggedEvent};
use super::recorder::Recorder;
use crate::error::{Error, ErrorKind, Result};

/// The forms in which a profile is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileFormat {
    /// One line an operator, the busiest first.
    Table,
    /// One line a stack with its time in microseconds, as flame graph programs read it.
    Folded,
}

/// The figures of one operator at all workers.
#[derive(Debug, Default)]
struct ProfileRow {
    /// Number of activations.
    activations: u64,
    /// The time in them.
    busy: Duration,
    /// Number of records that were sent.
    records: u64,
    /// The time of each worker.
    by_worker: Vec<Duration>,
}

/// Where the time of a run went.
#[derive(Debug, Default)]
pub struct Profile {
    /// The sums of each worker.
    workers: BTreeMap<usize, Recorder>,
    /// Events that were dropped, so that sums are too small.
    dropped: u64,
}

impl Profile {
    /// Reads the event files of one run, one a process.
    ///
    /// # Errors
    ///
    /// `Configuration` if a file cannot be read or has a line that is no event. A last line without
    /// its end is ignored, because a run that was killed leaves one.
    pub fn read(paths: &[PathBuf]) -> Result<Profile> {
        let mut profile = Profile::default();
        paths.iter().try_for_each(|path| profile.add(path))?;
        Ok(profile)
    }

    /// Adds the events of a file.
    ///
    /// Fails if it cannot be read or is no event file.
    fn add(&mut self, path: &Path) -> Result<()> {
        let unreadable = |error: std::io::Error| {
            let message = format!("cannot read {}: {error}", path.display());
            Error::new(ErrorKind::Configuration, message)
                .cause(error)
                .hint("give the file that --events has written")
        };
        let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
        let mut text = Vec::new();
        for number in 1.. {
            text.clear();
            file.read_until(b'\n', &mut text).map_err(unreadable)?;
            if !text.ends_with(b"\n") {
                break;
            }
            let line: EventLine<'_> = serde_json::from_slice(&text).map_err(|error| {
                let message = format!("line {number} of {} is no event: {error}", path.display());
                Error::new(ErrorKind::Configuration, message)
                    .hint("give the file that --events has written")
            })?;
            match line.event {
                LoggedEvent::Dropped { events } => self.dropped += events,
                event => {
                    let time = Duration::from_micros(line.t_us);
                    self.workers.entry(line.worker).or_default().add(time, event);
                }
            }
        }
        Ok(())
    }

    /// Returns the number of events that the files lack.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns the profile in the given form.
    pub fn to_text(&self, format: ProfileFormat) -> String {
        match format {
            ProfileFormat::Table => self.table(),
            ProfileFormat::Folded => self.folded(),
        }
    }

    /// One line an operator, summed over the workers.
    fn table(&self) -> String {
        // The same definition is built at every worker, so addresses are the same.
        let mut rows: BTreeMap<(&[usize], String), ProfileRow> = BTreeMap::new();
        for (place, recorder) in self.workers.values().enumerate() {
            for sums in recorder.operators() {
                let path = recorder.path(sums).join("/");
                let row = rows.entry((&sums.addr, path)).or_default();
                row.activations += sums.activations;
                row.busy += sums.busy();
                row.records += sums.records;
                row.by_worker.resize(place, Duration::ZERO);
                row.by_worker.push(sums.busy());
            }
        }
        let total: Duration = rows.values().map(|row| row.busy).sum();
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.busy));
        let mut text =
            "    busy s   share  activations      records  by worker s      operator\n".to_owned();
        for ((_, path), row) in rows {
            let share = 100.0 * row.busy.as_secs_f64() / total.as_secs_f64().max(1e-9);
            let seconds = |busy: &Duration| format!("{:.2}", busy.as_secs_f64());
            let by_worker: Vec<_> = row.by_worker.iter().map(seconds).collect();
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{:>10.3} {share:>6.1}% {:>12} {:>12}  {:<15}  {path}",
                row.busy.as_secs_f64(),
                row.activations,
                row.records,
                by_worker.join(" "),
            );
        }
        text
    }

    /// One line an operator of a worker: its stack, and the time in it.
    fn folded(&self) -> String {
        let mut text = String::new();
        for (worker, recorder) in &self.workers {
            for sums in recorder.operators().filter(|sums| !sums.busy().is_zero()) {
                // The separators of the format.
                let name = |name: &&str| name.replace([';', ' '], "_");
                let stack: Vec<_> = recorder.path(sums).iter().map(name).collect();
                let (stack, us) = (stack.join(";"), sums.busy().as_micros());
                let _ = writeln!(text, "worker_{worker};{stack} {us}");
            }
        }
        text
    }
}
