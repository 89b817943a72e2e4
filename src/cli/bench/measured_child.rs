//! One run of one program: its time and its resources.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::super::failed;
use super::child_log::{ChildLog, ChildNews, StageTimes, is_disk_full};
use super::programs::BenchProgram;
use super::scratch_folder::{Scratch, children};
use crate::error::{Error, ErrorKind, Result};

/// Time between two readings of a program's memory. Each reading is the peak that the kernel keeps.
const LOOK: Duration = Duration::from_millis(5);

/// Readings after which processes are looked for again once all that are expected were found.
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

/// Runs the command of a program to its end. `look` is called again and again meanwhile, with the
/// state of the program; its error ends the run, and the child with the scratch folder.
///
/// # Errors
///
/// `Failed` if the program fails, with its reason; `Usage` if this program refuses its flags.
pub fn measured(
    program: BenchProgram,
    mut command: Command,
    scratch: &Scratch,
    mut look: impl FnMut(&ChildNews) -> Result<()>,
) -> Result<ProgramRun> {
    let (before, stolen_before) = (ChildUsage::ended()?, stolen_seconds());
    let began = Instant::now();
    let mut child = scratch.start(command.stdin(Stdio::null()).stderr(Stdio::piped()))?;
    let unread = || Error::new(ErrorKind::Failed, "a child has no standard error");
    let log = ChildLog::read(child.stderr.take().ok_or_else(unread)?)?;
    let mut run = ProgramRun::default();
    let mut memory = PeakMemory::of(Pid::from_child(&child), program.processes());
    loop {
        run.peak_rss_kib = memory.read_kib();
        look(&log.news())?;
        if log.ends_within(LOOK) {
            break;
        }
    }
    let status = scratch.wait(&mut child)?;
    run.seconds = began.elapsed().as_secs_f64();
    let after = ChildUsage::ended()?;
    run.system_seconds = after.system_seconds - before.system_seconds;
    run.user_seconds = after.user_seconds - before.user_seconds;
    run.minor_faults = after.minor_faults - before.minor_faults;
    run.disk_bytes = after.disk_bytes - before.disk_bytes;
    run.stolen_seconds = stolen_seconds() - stolen_before;
    if !status.success() {
        let words = log.last_words();
        let message = format!("{} ended with {status}: {words}", shown(&command));
        let is_refusal = status.code() == Some(2) && matches!(program, BenchProgram::Wordtide(_));
        let kind = if is_refusal { ErrorKind::Usage } else { ErrorKind::Failed };
        let error = Error::new(kind, message);
        let hint = "free space on the disk of --scratch, or give --scratch another disk";
        return Err(if is_disk_full(&words) { error.hint(hint) } else { error });
    }
    run.stages = log.stages();
    Ok(run)
}

/// Returns a command as it is typed, without quotes.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
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
    /// The program and the processes that it has started, each with its peak so far.
    processes: Vec<(Pid, u64)>,
    /// Number of processes that it has once all are started.
    expected: usize,
    looks: u32,
}

impl PeakMemory {
    fn of(program: Pid, expected: usize) -> PeakMemory {
        PeakMemory { processes: vec![(program, 0)], expected, looks: 0 }
    }

    /// Returns the sum of the peaks of all its processes so far.
    fn read_kib(&mut self) -> u64 {
        // A short run has few readings: all processes must be among them.
        if self.processes.len() < self.expected || self.looks.is_multiple_of(LOOKS_A_SEARCH) {
            self.search();
        }
        self.looks += 1;
        for (process, peak) in &mut self.processes {
            *peak = (*peak).max(peak_rss_kib(*process));
        }
        self.processes.iter().map(|(_, peak)| peak).sum()
    }

    /// Looks for processes that were started since.
    fn search(&mut self) {
        let mut at = 0;
        while let Some((process, _)) = self.processes.get(at).copied() {
            for child in children(process) {
                if self.processes.iter().all(|(known, _)| *known != child) {
                    self.processes.push((child, 0));
                }
            }
            at += 1;
        }
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
    fn expected_process_is_found_at_next_reading() {
        let mut memory = PeakMemory::of(rustix::process::getpid(), 2);
        let alone = memory.read_kib();
        assert!(alone > 0);
        let mut child = Command::new("sleep").arg("60").spawn().expect("a process");
        memory.read_kib();
        let found = memory.processes.iter().any(|(it, _)| *it == Pid::from_child(&child));
        child.kill().and_then(|()| child.wait()).expect("its end");
        assert!(found, "{:?}", memory.processes);
        assert!(memory.read_kib() >= alone, "the peak of one that has ended counts");
    }
}
