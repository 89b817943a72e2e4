//! The log of a measured program. It is read while the program runs, so that a program that waits
//! is seen, with the reason that it gives.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::sources::{DISK_FULL, ROOM_AGAIN};
use crate::supervise;

/// Parts of the warnings of a disk without room, as the program and the system write them.
const FULL: [&str; 3] = [DISK_FULL, "No space left", "quota exceeded"];
/// Parts of the lines that follow when there is room.
const ROOM: [&str; 2] = [ROOM_AGAIN, "takes objects again"];

/// The log of one program.
pub struct ChildLog {
    state: Arc<Mutex<LogState>>,
    /// Gets a message when the log has ended.
    ended: Receiver<()>,
}

#[derive(Debug, Default)]
struct LogState {
    text: String,
    news: ChildNews,
}

/// The state of a program, by its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChildNews {
    /// Committed epochs that have lines. One without lines is no progress.
    pub epochs: u64,
    /// The last warning.
    pub warning: Option<String>,
    /// True while a disk has no room.
    pub is_disk_full: bool,
}

/// The times of the stages of an epoch, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageTimes {
    /// From the cut until all rows are known.
    pub count: f64,
    /// Until all parts are durable.
    pub write: f64,
    /// Until the marker is stored.
    pub commit: f64,
}

impl ChildNews {
    /// Takes a line of the log.
    fn take(&mut self, line: &str) {
        let line: Value = serde_json::from_slice(line.as_bytes()).unwrap_or_default();
        let message = line["message"].as_str().unwrap_or_default();
        let has_room = || ROOM.iter().any(|part| message.contains(part));
        if line["event"] == "epoch_committed" && line["lines"].as_u64() > Some(0) {
            self.epochs += 1;
            self.is_disk_full = false;
        } else if line["level"] == "warn" {
            self.is_disk_full |= is_disk_full(message);
            self.warning = Some(message.to_owned());
        } else if has_room() {
            self.is_disk_full = false;
        }
    }
}

impl ChildLog {
    /// Reads a log to its end, on a thread of its own.
    ///
    /// # Errors
    ///
    /// `Failed` if there is no thread.
    pub fn read(stderr: impl Read + Send + 'static) -> Result<ChildLog> {
        let state = Arc::<Mutex<LogState>>::default();
        let (end, ended) = sync_channel(1);
        let shared = Arc::clone(&state);
        let read = move || {
            let (mut stderr, mut line) = (BufReader::new(stderr), Vec::new());
            // What was read so far is of use where the pipe breaks.
            while stderr.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line);
                let mut state = lock(&shared);
                state.news.take(&text);
                state.text.push_str(&text);
                drop(state);
                line.clear();
            }
            let _ = end.send(());
            Ok(())
        };
        supervise::thread("bench-log", |error: Error| tracing::debug!("{error}"), read)?;
        Ok(ChildLog { state, ended })
    }

    /// Waits for the end of the log for so long. Returns true if it has ended.
    pub fn ends_within(&self, time: Duration) -> bool {
        self.ended.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }

    /// Returns the state of the program.
    pub fn news(&self) -> ChildNews {
        lock(&self.state).news.clone()
    }

    /// Returns the reason of a failure, in one line: that of the log's last error, or the error of
    /// a program that has no log yet, or the last line.
    pub fn last_words(&self) -> String {
        last_words(&lock(&self.state).text)
    }

    /// Returns the times of the stages of all epochs.
    pub fn stages(&self) -> Vec<StageTimes> {
        lock(&self.state).text.lines().filter_map(stages).collect()
    }
}

/// Returns true for a message about a disk without room.
pub fn is_disk_full(message: &str) -> bool {
    FULL.iter().any(|part| message.contains(part))
}

fn lock(state: &Mutex<LogState>) -> MutexGuard<'_, LogState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the error in a log, or its last line.
fn last_words(log: &str) -> String {
    let message = |line: &str| {
        let line: Value = serde_json::from_slice(line.as_bytes()).ok()?;
        (line["level"] == "error").then(|| line["message"].as_str().map(str::to_owned)).flatten()
    };
    let last = || log.lines().next_back().unwrap_or("it wrote nothing").to_owned();
    let in_json = log.lines().filter_map(message).next_back();
    in_json.or_else(|| refusal(log)).unwrap_or_else(last)
}

/// Returns the error of a log that is text. A refusal of the parser goes on until an empty line,
/// and more lines follow which say nothing of it.
fn refusal(log: &str) -> Option<String> {
    let mut lines = log.lines().skip_while(|line| !line.contains("error: "));
    let (_, first) = lines.next()?.split_once("error: ")?;
    let others = lines.take_while(|line| !line.trim().is_empty() && line.starts_with(' '));
    let words: Vec<&str> = std::iter::once(first).chain(others).map(str::trim).collect();
    Some(words.join(" "))
}

/// Returns the stages in the line of a committed epoch.
fn stages(line: &str) -> Option<StageTimes> {
    let line: Value = serde_json::from_slice(line.as_bytes()).ok()?;
    let ms = |name: &str| line[name].as_f64();
    let is_epoch = line["event"] == "epoch_committed";
    is_epoch.then_some(())?;
    Some(StageTimes { count: ms("count_ms")?, write: ms("write_ms")?, commit: ms("commit_ms")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read_from_the_log() {
        let line = r#"{"event":"epoch_committed","count_ms":3,"write_ms":2,"commit_ms":1}"#;
        assert_eq!(stages(line), Some(StageTimes { count: 3.0, write: 2.0, commit: 1.0 }));
        assert_eq!(stages(r#"{"event":"stopped"}"#), None);
        assert_eq!(stages("epoch 1 committed"), None);
    }

    #[test]
    fn error_of_a_program_is_its_last_words() {
        let log = "{\"level\":\"error\",\"message\":\"no disk\"}\n{\"level\":\"info\"}\n";
        assert_eq!(last_words(log), "no disk");
        assert_eq!(last_words("one\ntwo\n"), "two");
        assert_eq!(last_words(""), "it wrote nothing");
    }

    #[test]
    fn refusal_of_the_parser_is_its_error() {
        let log = "error: unexpected argument '--x' found\n\nUsage: y\n\nFor more, try '--help'.\n";
        assert_eq!(last_words(log), "unexpected argument '--x' found");
        let log = "error: these were not provided:\n  --to <PREFIX>\n\nUsage: y\n";
        assert_eq!(last_words(log), "these were not provided: --to <PREFIX>");
        assert_eq!(last_words("wordtide: error: no port; give one\n"), "no port; give one");
    }

    #[test]
    fn full_disk_is_news_until_there_is_room() {
        let mut news = ChildNews::default();
        let full = r#"{"level":"warn","message":"the disk of the journal is full: it stops"}"#;
        let room = r#"{"level":"info","message":"the journal has room again: reading goes on"}"#;
        let epoch = |lines| format!(r#"{{"event":"epoch_committed","lines":{lines}}}"#);
        news.take(full);
        news.take(&epoch(0));
        assert!(news.is_disk_full && news.epochs == 0, "an empty epoch makes no room");
        news.take(room);
        assert!(!news.is_disk_full);
        news.take(full);
        news.take(&epoch(1));
        assert_eq!((news.is_disk_full, news.epochs), (false, 1));
        let warning = news.warning.as_deref();
        assert_eq!(warning, Some("the disk of the journal is full: it stops"));
    }

    #[test]
    fn log_is_read_to_its_end() {
        let log = ChildLog::read(&b"one\nerror: two"[..]).expect("a thread");
        assert!(log.ends_within(Duration::from_secs(60)));
        assert_eq!((log.last_words(), log.news()), ("two".to_owned(), ChildNews::default()));
    }
}
