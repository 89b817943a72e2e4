//! One run of one program: its time, its resources, and a check of its counts.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::Result;
use super::flags::Flags;
use super::sender::Sender;
use super::truth::Truth;

/// Time between two readings of a program's memory. Each reading is the peak that the kernel keeps.
const LOOK: Duration = Duration::from_millis(5);

/// The kernel's unit of processor time.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Wordtide {
        threads: usize,
        processes: usize,
        journal: bool,
    },
    /// Writes as often as epochs do; with `syncs`, its rows are durable before it goes on.
    Reference {
        syncs: bool,
    },
    Naive,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Program::Wordtide { threads, processes, journal } => {
                write!(f, "wordtide -w {threads}")?;
                if *processes > 1 {
                    write!(f, " -n {processes}")?;
                }
                f.write_str(if *journal { " --state" } else { "" })
            }
            Program::Reference { syncs: false } => f.write_str("reference"),
            Program::Reference { syncs: true } => f.write_str("reference-sync"),
            Program::Naive => f.write_str("naive"),
        }
    }
}

/// The measurements of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) words: u64,
    pub(crate) bytes: u64,
    /// From the start of the program to its end.
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    /// The part of `cpu_seconds` that the kernel took.
    pub(crate) system_seconds: f64,
    /// Pages that were touched for the first time.
    pub(crate) minor_faults: u64,
    /// Bytes that the kernel was given for the disk.
    pub(crate) disk_bytes: u64,
    /// Processor time that the host took from this machine meanwhile, for its disk and network.
    pub(crate) stolen_seconds: f64,
    /// Peak memory of all its processes together.
    pub(crate) peak_rss_kib: u64,
    /// From the end of each epoch to its marker, as the program logs it.
    pub(crate) commit_ms: Vec<u64>,
}

impl Run {
    pub(crate) fn words_per_second(&self) -> f64 {
        self.words as f64 / self.seconds
    }

    pub(crate) fn cpu_ns_per_word(&self) -> f64 {
        self.cpu_seconds * 1e9 / self.words as f64
    }

    pub(crate) fn stolen_ns_per_word(&self) -> f64 {
        self.stolen_seconds * 1e9 / self.words as f64
    }
}

/// Runs `program` on `text` and checks its output.
pub(crate) fn run(
    program: Program,
    text: &Arc<Vec<u8>>,
    truth: &Truth,
    flags: &Flags,
) -> Result<Run> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    let sender = Sender::at_once(Arc::clone(text))?;
    let mut run = watched(command(program, sender.port, &out, flags)?)?;
    sender.finish()?;
    run.words = truth.words;
    run.bytes = text.len() as u64;
    let written = Truth::written(&out)?;
    if !written.agrees(truth) {
        return Err(format!("{program} counted {written:?} where {truth:?} was due").into());
    }
    Ok(run)
}

/// Returns the command of `program` that counts the lines from `port`.
pub(crate) fn command(program: Program, port: u16, out: &Path, flags: &Flags) -> Result<Command> {
    let Program::Wordtide { threads, processes, journal } = program else {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(format!("--role={program}")).arg(port.to_string()).arg(out);
        command.arg(&flags.interval);
        return Ok(command);
    };
    fs::create_dir_all(out)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_wordtide"));
    command.args(["127.0.0.1", &port.to_string(), "--once", "--format", "tsv"]);
    if journal {
        command.arg("--state").arg(out.join("state"));
    } else {
        command.arg("--no-state");
    }
    command.arg("--to").arg(out.join("counts")).args(["--interval", &flags.interval]);
    command.args(["-w", &threads.to_string()]).args(&flags.extra);
    if processes > 1 {
        command.args(["-n", &processes.to_string()]);
    }
    Ok(command)
}

/// Runs a command to its end.
pub(crate) fn watched(mut command: Command) -> Result<Run> {
    let (before, stolen_before) = (Children::ended()?, stolen_seconds());
    let began = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take();
    let (ended, log) = mpsc::channel();
    thread::spawn(move || {
        let mut log = String::new();
        stderr.map(|mut stderr| stderr.read_to_string(&mut log));
        ended.send(log)
    });
    let mut run = Run::default();
    let log = loop {
        run.peak_rss_kib = run.peak_rss_kib.max(peak_rss_kib(&child));
        match log.recv_timeout(LOOK) {
            Ok(log) => break log,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(gone) => return Err(gone.into()),
        }
    };
    let status = child.wait()?;
    run.seconds = began.elapsed().as_secs_f64();
    let after = Children::ended()?;
    run.system_seconds = after.system_seconds - before.system_seconds;
    run.cpu_seconds = after.user_seconds - before.user_seconds + run.system_seconds;
    run.minor_faults = after.minor_faults - before.minor_faults;
    run.disk_bytes = after.disk_bytes - before.disk_bytes;
    run.stolen_seconds = stolen_seconds() - stolen_before;
    if !status.success() {
        return Err(format!("{command:?} ended with {status}: {log}").into());
    }
    run.commit_ms = log.lines().filter_map(commit_ms).collect();
    Ok(run)
}

/// Returns the milliseconds in `epoch … committed: … 12 ms`.
fn commit_ms(line: &str) -> Option<u64> {
    let (_, figures) = line.split_once(" committed: ")?;
    figures.strip_suffix(" ms")?.rsplit(' ').next()?.parse().ok()
}

/// The resources that all ended children and their children have used.
struct Children {
    user_seconds: f64,
    system_seconds: f64,
    minor_faults: u64,
    disk_bytes: u64,
}

impl Children {
    /// Reads what the children that have ended so far used.
    fn ended() -> Result<Children> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        // Fields are counted from the third, after the name, which may contain any byte.
        let (_, fields) = stat.rsplit_once(") ").ok_or("no stat of this process")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let field =
            |at: usize| -> Result<u64> { Ok(fields.get(at).ok_or("a short stat")?.parse()?) };
        // This process writes next to nothing itself. A kernel may keep no such account.
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(Children {
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

/// Returns the peak memory of a process and its descendants; 0 for a process that has ended.
fn peak_rss_kib(child: &Child) -> u64 {
    let mut pids = vec![child.id().to_string()];
    let mut sum = 0;
    while let Some(pid) = pids.pop() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        sum += peak
            .and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .unwrap_or_default();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        pids.extend(children.unwrap_or_default().split_whitespace().map(str::to_owned));
    }
    sum
}
