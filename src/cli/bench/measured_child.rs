//! One run of one program: its time and its resources.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;

use super::super::failed;
use super::scratch_folder::{Scratch, children};
use crate::error::{Error, ErrorKind, Result};
use crate::supervise;

/// Time between two readings of a program's memory. Each reading is the peak that the kernel keeps.
const LOOK: Duration = Duration::from_millis(5);

/// Readings after which processes are looked for that the program has started.
const LOOKS_A_SEARCH: u32 = 20;

/// The kernel's unit of processor time.
const TICKS_PER_SECOND: f64 = 100.0;

/// The measurements of one run.
#[derive(Clone, Debug, Default)]
pub struct ProgramRun {
    /// Words counted.
    pub words: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// From the start of the program to its end.
    pub seconds: f64,
    /// Processor time outside the kernel.
    pub user_seconds: f64,
    /// Processor time inside the kernel.
    pub system_seconds: f64,
    /// Pages that were touched for the first time.
    pub minor_faults: u64,
    /// Bytes that the kernel was given for the disk.
    pub disk_bytes: u64,
    /// Processor time that the host took from this machine meanwhile, for its disk and network.
    pub stolen_seconds: f64,
    /// Peak memory of all its processes together.
    pub peak_rss_kib: u64,
    /// The times of the stages of each epoch, as the program logs them.
    pub stages: Vec<StageTimes>,
    /// From the end of each epoch to the name of its marker, without the last epoch, which ends
    /// with the text.
    pub marker_ms: Vec<f64>,
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

impl ProgramRun {
    /// Returns words a second.
    pub fn words_per_second(&self) -> f64 {
        self.words as f64 / self.seconds
    }

    /// Returns this many seconds as nanoseconds a word.
    pub fn ns_per_word(&self, seconds: f64) -> f64 {
        seconds * 1e9 / self.words as f64
    }
}

/// Runs a command to its end. `look` is called again and again meanwhile.
///
/// # Errors
///
/// `Failed` if the program fails, with its last line.
pub fn measured(
    mut command: Command,
    scratch: &Scratch,
    mut look: impl FnMut(),
) -> Result<ProgramRun> {
    let (before, stolen_before) = (ChildUsage::ended()?, stolen_seconds());
    let began = Instant::now();
    let mut child = scratch.start(command.stdin(Stdio::null()).stderr(Stdio::piped()))?;
    let (end, ended) = sync_channel(1);
    let stderr = child.stderr.take();
    let read = move || {
        let mut log = Vec::new();
        // What was read so far is of use where the pipe breaks.
        let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut log));
        let _ = end.send(log);
        Ok(())
    };
    supervise::thread("bench-log", |error: Error| tracing::debug!("{error}"), read)?;
    let mut run = ProgramRun::default();
    let mut memory = PeakMemory::of(Pid::from_child(&child));
    let log = loop {
        run.peak_rss_kib = run.peak_rss_kib.max(memory.read_kib());
        look();
        match ended.recv_timeout(LOOK) {
            Ok(log) => break log,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break Vec::new(),
        }
    };
    let status = scratch.wait(&mut child)?;
    run.seconds = began.elapsed().as_secs_f64();
    let (after, log) = (ChildUsage::ended()?, String::from_utf8_lossy(&log));
    run.system_seconds = after.system_seconds - before.system_seconds;
    run.user_seconds = after.user_seconds - before.user_seconds;
    run.minor_faults = after.minor_faults - before.minor_faults;
    run.disk_bytes = after.disk_bytes - before.disk_bytes;
    run.stolen_seconds = stolen_seconds() - stolen_before;
    if !status.success() {
        let message = format!("{} ended with {status}: {}", shown(&command), last_words(&log));
        return Err(Error::new(ErrorKind::Failed, message));
    }
    run.stages = log.lines().filter_map(stages).collect();
    Ok(run)
}

/// Returns a command as it is typed, without quotes.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Returns the error in a log, or its last line.
fn last_words(log: &str) -> String {
    let message = |line: &str| {
        let line: Value = serde_json::from_slice(line.as_bytes()).ok()?;
        (line["level"] == "error").then(|| line["message"].as_str().map(str::to_owned)).flatten()
    };
    let last = || log.lines().next_back().unwrap_or("it wrote nothing").to_owned();
    log.lines().filter_map(message).next_back().unwrap_or_else(last)
}

/// Returns the stages in the line of a committed epoch.
fn stages(line: &str) -> Option<StageTimes> {
    let line: Value = serde_json::from_slice(line.as_bytes()).ok()?;
    let ms = |name: &str| line[name].as_f64();
    let is_epoch = line["event"] == "epoch_committed";
    is_epoch.then_some(())?;
    Some(StageTimes { count: ms("count_ms")?, write: ms("write_ms")?, commit: ms("commit_ms")? })
}

/// The resources that all ended children and their children have used.
struct ChildUsage {
    /// Processor time of the programs.
    user_seconds: f64,
    system_seconds: f64,
    minor_faults: u64,
    disk_bytes: u64,
}

impl ChildUsage {
    /// Reads what the children that have ended so far used.
    fn ended() -> Result<ChildUsage> {
        let stat = fs::read_to_string("/proc/self/stat");
        let stat = stat.map_err(|error| failed("cannot read /proc/self/stat", error))?;
        // Fields are counted from the third, after the name, which may contain any byte.
        let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |at: usize| -> Result<u64> {
            let field = fields.get(at).and_then(|field| field.parse().ok());
            field.ok_or_else(|| Error::new(ErrorKind::Failed, "/proc/self/stat is too short"))
        };
        // This process writes next to nothing itself. A kernel may keep no such account.
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(ChildUsage {
            user_seconds: field(13)? as f64 / TICKS_PER_SECOND,
            system_seconds: field(14)? as f64 / TICKS_PER_SECOND,
            minor_faults: field(8)?,
            disk_bytes: written.and_then(|bytes| bytes.parse().ok()).unwrap_or_default(),
        })
    }
}

/// Returns the processor time that the host gave to others since the boot of this machine; 0 if the
/// host does not report it.
fn stolen_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let stolen = stat.split_whitespace().nth(8).and_then(|ticks| ticks.parse::<f64>().ok());
    stolen.unwrap_or_default() / TICKS_PER_SECOND
}

/// The memory of a program. Reading takes little time of the processor that the program needs.
struct PeakMemory {
    program: Pid,
    /// The program and the processes that it has started.
    processes: Vec<Pid>,
    looks: u32,
}

impl PeakMemory {
    fn of(program: Pid) -> PeakMemory {
        PeakMemory { program, processes: Vec::new(), looks: 0 }
    }

    /// Returns the peaks of all its processes so far; 0 for one that has ended.
    fn read_kib(&mut self) -> u64 {
        if self.looks.is_multiple_of(LOOKS_A_SEARCH) {
            self.processes = vec![self.program];
            let mut at = 0;
            while let Some(process) = self.processes.get(at).copied() {
                self.processes.extend(children(process));
                at += 1;
            }
        }
        self.looks += 1;
        self.processes.iter().map(|process| peak_rss_kib(*process)).sum()
    }
}

/// Returns the peak memory of a process; 0 if it has ended.
fn peak_rss_kib(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_pid()));
    let status = status.unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or_default()
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
}
