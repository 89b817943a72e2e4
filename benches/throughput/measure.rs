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
    Wordtide { threads: usize, processes: usize, journal: bool },
    Reference,
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
            Program::Reference => f.write_str("reference"),
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
    let (cpu_before, stolen_before) = (children_cpu_seconds()?, stolen_seconds());
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
    run.cpu_seconds = children_cpu_seconds()? - cpu_before;
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

/// Returns the processor time of all ended children and their children.
fn children_cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Fields are counted from the third, after the name, which may contain any byte.
    let (_, fields) = stat.rsplit_once(") ").ok_or("no stat of this process")?;
    let children: Vec<f64> = fields
        .split(' ')
        .skip(13)
        .take(2)
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    Ok(children.iter().sum::<f64>() / TICKS_PER_SECOND)
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
