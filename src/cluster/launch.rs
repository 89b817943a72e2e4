//! A whole cluster on this machine: `-n N` without `-p` and addresses.
//!
//! The launcher does no work of the job itself, so that it outlives every process it started and
//! can start them all again (`--restart`). It picks ports on loopback, gives the children one
//! random mesh key through the environment (never the command line, which every user of the machine
//! can read), and passes on what they write to stderr.
//!
//! It stops them without signals: all inherit the reading end of a pipe, their *lifeline*. When the
//! launcher closes the other end, or dies in any way, they read the end of the pipe and stop, as
//! one cluster or, before they have found each other, each for itself. The launcher closes it also
//! when a child fails: who is already in the cluster knows better, and who is not would wait in
//! vain. What still runs after a grace time is killed.
//!
//! The exit code is that of the first child that failed by itself: one that ends with 69 only tells
//! that another was lost, and counts if there is no better answer. Death by a signal counts as 69.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, PipeReader, PipeWriter, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::cause::seconds;
pub use super::ports::Ports;
use super::settings::{MeshKey, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::supervise;

/// Environment names by which a launcher speaks to its children.
const KEY_NAME: &str = "WORDTIDE_MESH_KEY";
const GENERATION_NAME: &str = "WORDTIDE_GENERATION";
const LIFELINE_NAME: &str = "WORDTIDE_LIFELINE";

/// Longest piece of a child's stderr line that is passed on at once, in bytes.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Most things that may wait for the launcher beside the children's ends.
const STOPS_MAX: usize = 8;

const EXIT_FAILED: i32 = 1;
const EXIT_PEER_LOST: i32 = 69;
/// Ends that a restart does not mend: done, usage, local disk, configuration, second signal.
const EXITS_FOR_GOOD: [i32; 6] = [0, 2, 74, 78, 130, 143];

/// What to start, and how patient to be.
#[derive(Clone, Debug)]
pub struct LaunchSettings {
    /// The program; usually this one.
    pub exe: PathBuf,
    /// Its arguments without its name; each child gets `-p I --addresses …` added.
    pub args: Vec<OsString>,
    /// Children to start (`-n`).
    pub processes: usize,
    /// How often a broken cluster is started again (`--restart`).
    pub restarts: u32,
    /// Wait before the first restart; it doubles.
    pub restart_wait_min: Duration,
    /// Longest wait before a restart. A cluster that lived longer than twice this starts over with
    /// the shortest.
    pub restart_wait_max: Duration,
    /// How long the others may take to end after one failed.
    pub grace_failed: Duration,
    /// How long all may take to end after a stop, or after one ended in order.
    pub grace_stopped: Duration,
}

impl Default for LaunchSettings {
    fn default() -> Self {
        LaunchSettings {
            exe: PathBuf::new(),
            args: Vec::new(),
            processes: 1,
            restarts: 0,
            restart_wait_min: Duration::from_secs(1),
            restart_wait_max: Duration::from_secs(30),
            grace_failed: Duration::from_secs(15),
            grace_stopped: Duration::from_secs(75),
        }
    }
}

fn failed(what: &str, cause: io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("{what}: {cause}")).cause(cause)
}

/// What a child of a launcher finds in its environment.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The key of this cluster.
    pub mesh_key: Option<MeshKey>,
    /// Which start of the cluster this is.
    pub generation: u64,
    /// Ends when the launcher wants a stop or is gone.
    pub lifeline: Option<Lifeline>,
}

impl Inherited {
    /// Reads it; `lookup` is `|name| std::env::var(name).ok()` outside tests. Nothing there: the
    /// default.
    ///
    /// # Errors
    /// `Configuration` when a value is there but is not what a launcher writes.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Inherited> {
        let wrong = |name: &str| {
            let message = format!("{name} in the environment is not from a launcher");
            Error::new(ErrorKind::Configuration, message).hint("unset it")
        };
        let mesh_key = lookup(KEY_NAME).map(|secret| MeshKey::from_secret(secret.as_bytes()));
        let generation = lookup(GENERATION_NAME).map(|text| text.parse());
        Ok(Inherited {
            mesh_key: mesh_key.transpose()?,
            generation: generation.transpose().map_err(|_| wrong(GENERATION_NAME))?.unwrap_or(0),
            lifeline: lookup(LIFELINE_NAME).map(|path| Lifeline(path.into())),
        })
    }
}

/// The pipe that tells a process that its launcher wants a stop or is gone.
#[derive(Debug)]
pub struct Lifeline(PathBuf);

impl Lifeline {
    /// Returns when the launcher wants a stop or is gone. For a thread of its own.
    ///
    /// # Errors
    /// `Configuration` when the pipe is not there.
    pub fn wait(&self) -> Result<()> {
        let mut byte = [0];
        let read = std::fs::File::open(&self.0).and_then(|mut pipe| pipe.read(&mut byte));
        read.map(|_| ()).map_err(|cause| {
            let message = format!("cannot read the launcher's pipe {}: {cause}", self.0.display());
            Error::new(ErrorKind::Configuration, message).cause(cause)
        })
    }
}

/// The exit code of a process whose end could not be seen: that of a defect.
const PANICKED: i32 = 70;

#[derive(Debug)]
enum LauncherEvent {
    Stop,
    Exited(usize, ExitStatus),
}

/// Ends a launched cluster from another thread.
#[derive(Clone, Debug)]
pub struct Stop(SyncSender<LauncherEvent>);

impl Stop {
    /// Asks for a clean stop; a second call kills what still runs.
    pub fn stop(&self) {
        // Full of stops: it knows.
        self.0.try_send(LauncherEvent::Stop).ok();
    }
}

/// Runs a cluster of local processes.
#[derive(Debug)]
pub struct Launcher {
    settings: LaunchSettings,
    events: Receiver<LauncherEvent>,
    sender: SyncSender<LauncherEvent>,
}

/// One child, which is waited for in one thread and may be killed from another.
#[derive(Debug)]
struct ChildProcess {
    pid: Pid,
    child: Mutex<Option<Child>>,
}

impl ChildProcess {
    /// Waits without reaping first, so that the process id stays the child's while `kill` may use
    /// it.
    fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            match waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        child.map_or(Err(io::ErrorKind::NotFound.into()), |mut child| child.wait())
    }

    fn kill(&self) {
        if let Some(child) = &mut *self.child.lock().unwrap_or_else(PoisonError::into_inner) {
            child.kill().ok();
        }
    }
}

impl Launcher {
    /// Prepares; nothing is started before [`Launcher::run`].
    pub fn new(settings: LaunchSettings) -> (Launcher, Stop) {
        let (sender, events) = sync_channel(settings.processes + STOPS_MAX);
        let stop = Stop(sender.clone());
        let launcher = Launcher { settings, events, sender };
        (launcher, stop)
    }

    /// Runs the cluster to its end, with its restarts, and returns its exit code. `line` gets each
    /// line the children write to stderr, with the child's index and without its end; from several
    /// threads.
    ///
    /// # Errors
    /// `Failed` when a child cannot be started.
    pub fn run(self, line: &(dyn Fn(usize, &[u8]) + Sync)) -> Result<i32> {
        let settings = &self.settings;
        let mut wait = settings.restart_wait_min;
        let mut restarts = 0;
        loop {
            let began = Instant::now();
            let (code, stopped) = self.generation(line)?;
            if stopped || EXITS_FOR_GOOD.contains(&code) || restarts == settings.restarts {
                return Ok(code);
            }
            if began.elapsed() > 2 * settings.restart_wait_max {
                wait = settings.restart_wait_min;
            }
            restarts += 1;
            let (of, after) = (settings.restarts, seconds(wait));
            tracing::warn!(
                "the cluster ended with code {code}; it is started again in {after} s \
                 (--restart: {restarts} of {of})"
            );
            match self.events.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return Ok(code),
            }
            wait = (wait * 2).min(settings.restart_wait_max);
        }
    }

    /// One life of the cluster: its exit code, and whether it was asked to stop.
    fn generation(&self, line: &(dyn Fn(usize, &[u8]) + Sync)) -> Result<(i32, bool)> {
        let ports = Ports::reserve(self.settings.processes)?;
        let start = |cause| failed("cannot start a process of the cluster", cause);
        let (reader, lifeline) = io::pipe().map_err(start)?;
        let command = ChildCommands::new(&self.settings, &ports, reader)?;
        let mut processes = Vec::new();
        let mut outputs = Vec::new();
        for index in 0..self.settings.processes {
            match command.start(index) {
                Ok((process, output)) => {
                    processes.push(process);
                    outputs.push(output);
                }
                Err(cause) => {
                    for process in &processes {
                        process.kill();
                        process.wait().ok();
                    }
                    let exe = self.settings.exe.display();
                    return Err(failed(&format!("cannot start {exe}"), cause));
                }
            }
        }
        drop(command);
        std::thread::scope(|scope| {
            for (index, output) in outputs.into_iter().enumerate() {
                let work = move || {
                    output.into_iter().for_each(|output| pass_on(output, index, line));
                    Ok(())
                };
                // Its lines are lost then, and nothing else.
                supervise::scoped(scope, "pass on", |error| tracing::error!("{error}"), work);
            }
            for (index, process) in processes.iter().enumerate() {
                let (exited, lost) = (self.sender.clone(), self.sender.clone());
                let work = move || {
                    let status = process.wait().map_err(|cause| failed("cannot wait", cause))?;
                    exited.send(LauncherEvent::Exited(index, status)).ok();
                    Ok(())
                };
                let fail = move |error| {
                    tracing::error!("process {index}: {error}");
                    lost.send(LauncherEvent::Exited(index, ExitStatus::from_raw(PANICKED << 8)))
                        .ok();
                };
                supervise::scoped(scope, "wait", fail, work);
            }
            Ok(self.oversee(&processes, lifeline))
        })
    }

    fn oversee(&self, processes: &[ChildProcess], lifeline: PipeWriter) -> (i32, bool) {
        let settings = &self.settings;
        let mut lifeline = Some(lifeline);
        let mut running = processes.len();
        let mut deadline: Option<Instant> = None;
        let mut codes = Vec::new();
        let (mut stopped, mut killed) = (false, false);
        let kill_all = || processes.iter().for_each(ChildProcess::kill);
        while running > 0 {
            let event = match deadline.filter(|_| !killed) {
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.events.recv_timeout(left).ok()
                }
                None => self.events.recv().ok(),
            };
            let grace = match event {
                Some(LauncherEvent::Stop) if !stopped => {
                    stopped = true;
                    drop(lifeline.take());
                    settings.grace_stopped
                }
                Some(LauncherEvent::Exited(index, status)) => {
                    running -= 1;
                    let code = status.code().unwrap_or(EXIT_PEER_LOST);
                    if let (Some(signal), false) = (status.signal(), killed) {
                        // Who ends with a code has said why.
                        tracing::warn!("process {index} was ended by signal {signal}");
                    }
                    codes.push(if killed { EXIT_FAILED } else { code });
                    if code == 0 {
                        settings.grace_stopped
                    } else {
                        drop(lifeline.take());
                        settings.grace_failed
                    }
                }
                late => {
                    killed = true;
                    let why = if late.is_some() { "a second signal" } else { "they took too long" };
                    tracing::warn!("{why}: the processes that still run are killed ({running})");
                    kill_all();
                    continue;
                }
            };
            let until = Instant::now() + grace;
            deadline = Some(deadline.map_or(until, |earlier| earlier.min(until)));
        }
        (first_failure(&codes), stopped)
    }
}

/// The code that tells most, of the codes in order of time.
fn first_failure(codes: &[i32]) -> i32 {
    let failed = |code: &&i32| **code != 0;
    let own = codes.iter().filter(failed).find(|code| **code != EXIT_PEER_LOST);
    own.or_else(|| codes.iter().find(failed)).copied().unwrap_or(0)
}

fn pass_on(output: impl Read, index: usize, line: &(dyn Fn(usize, &[u8]) + Sync)) {
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    while let Ok(1..) = (&mut output).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes) {
        line(index, bytes.trim_ascii_end());
        bytes.clear();
    }
}

/// Makes the children of one generation.
struct ChildCommands<'a> {
    settings: &'a LaunchSettings,
    addresses: String,
    key: String,
    generation: u64,
    /// Passed to all children, then closed here.
    lifeline: PipeReader,
}

impl<'a> ChildCommands<'a> {
    fn new(settings: &'a LaunchSettings, ports: &Ports, lifeline: PipeReader) -> Result<Self> {
        rustix::io::fcntl_setfd(&lifeline, rustix::io::FdFlags::empty())
            .map_err(|cause| failed("cannot prepare the children's pipe", cause.into()))?;
        let key = random_bytes::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(ChildCommands {
            settings,
            addresses: ports.addresses().join(","),
            key,
            generation: u64::from_le_bytes(random_bytes()?),
            lifeline,
        })
    }

    fn start(&self, index: usize) -> io::Result<(ChildProcess, Option<std::process::ChildStderr>)> {
        let mut command = Command::new(&self.settings.exe);
        command
            .args(self.args(index))
            .env(KEY_NAME, &self.key)
            .env(GENERATION_NAME, self.generation.to_string())
            .env(LIFELINE_NAME, format!("/dev/fd/{}", self.lifeline.as_raw_fd()))
            .stderr(Stdio::piped());
        if index > 0 {
            command.stdin(Stdio::null());
        }
        // Ctrl-C at the terminal is for the launcher. But a process that reads the terminal must
        // stay in its foreground group, or the kernel stops it.
        if index > 0 || !io::stdin().is_terminal() {
            command.process_group(0);
        }
        let mut child = command.spawn()?;
        let output = child.stderr.take();
        let process = ChildProcess { pid: Pid::from_child(&child), child: Mutex::new(Some(child)) };
        Ok((process, output))
    }

    /// The arguments of a child: what is added stands before `--`, behind which nothing is a flag.
    fn args(&self, index: usize) -> Vec<OsString> {
        let given = &self.settings.args;
        let end = given.iter().position(|arg| arg == "--").unwrap_or(given.len());
        let mut args = given[..end].to_vec();
        args.extend(["-p".into(), index.to_string().into()]);
        args.extend(["--addresses".into(), self.addresses.as_str().into()]);
        args.extend_from_slice(&given[end..]);
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_first_failure_that_is_no_echo() {
        assert_eq!(first_failure(&[0, 0]), 0);
        assert_eq!(first_failure(&[69, 70, 75]), 70);
        assert_eq!(first_failure(&[0, 69]), 69);
        assert_eq!(first_failure(&[]), 0);
    }

    #[test]
    fn the_environment_of_a_child_is_read_and_checked() {
        let nothing = Inherited::read(|_| None).unwrap();
        assert!(nothing.mesh_key.is_none() && nothing.generation == 0);
        let bad = |name: &str| (name == GENERATION_NAME).then(|| "x".to_owned());
        let error = Inherited::read(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(GENERATION_NAME));
    }
}
