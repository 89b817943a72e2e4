//! The launcher: runs a whole cluster on this machine, for `-n N` without `-p` and addresses.
//!
//! The launcher does no work of the job itself, so it outlives every process that it started and
//! can start all of them again (`--restart`). It reserves ports on loopback, passes one random mesh
//! key to the children, and copies their lines from standard error. The key goes through the
//! environment, because every user of the machine can read a command line.
//!
//! The launcher stops its children without signals. Each inherits the reading end of a pipe, its
//! *lifeline*. For a stop the launcher writes to all of them, and the children stop: as one
//! cluster, or each by itself before the cluster is complete. The launcher also requests a stop
//! after a child has failed, because a child that is not in the cluster yet would wait for that
//! one. At a second signal it requests that they end at once. Children that still run after a grace
//! time are killed. When the launcher dies, they read the end of the pipe, also after a stop, and
//! those whose state another start can go on from end at once.
//!
//! The exit code is that of the first child that failed by itself. A child that ends with 69
//! reports the loss of another one, so 69 counts only if no child has another code, and not after
//! process 0 has ended in order. Death by a signal counts as 69.
//!
//! Process 0 ends with [`EXIT_FINISHED`] when the job has finished in all processes and notes that.
//! From then on a start counts the input anew, so the launcher starts nothing again, even if
//! another process is killed as it ends.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, PipeReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::inherited::{GENERATION_NAME, KEY_NAME, LIFELINE_NAME, Lifelines};
pub use super::inherited::{Inherited, Lifeline, LifelineEvent};
pub use super::loopback_ports::Ports;
use super::loss_cause::seconds;
use crate::error::{Error, ErrorKind, Result};
use crate::hex_varint::hex;
use crate::random::random_bytes;
use crate::supervise;

/// Longest piece of a line of a child that is passed on as one line, in bytes.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Limit of requests to stop that wait for the launcher, in addition to the ends of the children.
const STOPS_MAX: usize = 8;

/// The exit code of a child that was killed after the grace time.
const EXIT_FAILED: i32 = 1;
/// The exit code of a process that has lost a peer.
const EXIT_PEER_LOST: i32 = 69;
/// The exit code by which process 0 reports to its launcher that the job has finished. The launcher
/// ends with 0 then.
pub const EXIT_FINISHED: u8 = 100;
/// How long the processes may take to end after a second signal. They name the epochs that are not
/// committed, and wait for nothing.
const GRACE_SECOND: Duration = Duration::from_secs(2);
/// Exit codes after which a restart does not help: success, usage, local disk, configuration,
/// second signal.
const EXITS_FOR_GOOD: [i32; 6] = [0, 2, 74, 78, 130, 143];

/// The settings of a launcher: the program, the restarts and the grace times.
#[derive(Clone, Debug)]
pub struct LaunchSettings {
    /// The program; usually this one.
    pub exe: PathBuf,
    /// Its arguments, without its name. `-p I --addresses …` is added for each child.
    pub args: Vec<OsString>,
    /// Number of children (`-n`).
    pub processes: usize,
    /// Limit of restarts of a broken cluster (`--restart`).
    pub restarts: u32,
    /// Wait before the first restart; it doubles with each restart.
    pub restart_wait_min: Duration,
    /// Longest wait before a restart. After a cluster has run for more than twice this time, the
    /// wait is the shortest again.
    pub restart_wait_max: Duration,
    /// Time in which the others must end after one has failed. After a stop it is a fifth of that:
    /// the stop began for all at the same time, and all have the same `--stop-timeout`.
    pub grace_failed: Duration,
    /// Time in which all must end after a stop, or after one has ended in order.
    pub grace_stopped: Duration,
    /// Variables that are set in the environment of the children, or removed from it.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// Raised by one when the children of a start run, and when they have ended.
    pub phase: Arc<AtomicUsize>,
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
            environment: Vec::new(),
            phase: Arc::default(),
        }
    }
}

/// Returns an error of kind `Failed` for a failed system call.
fn failed(what: &str, cause: io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("{what}: {cause}")).cause(cause)
}

/// The exit code for a child that cannot be waited for: that of a defect.
const EXIT_PANICKED: i32 = 70;

/// An event that the launcher waits for.
#[derive(Debug)]
enum LauncherEvent {
    /// A stop is requested.
    Stop,
    /// The child with this index has ended.
    Exited(usize, ExitStatus),
}

/// A handle that stops a launched cluster from another thread.
#[derive(Clone, Debug)]
pub struct LauncherStop(SyncSender<LauncherEvent>);

impl LauncherStop {
    /// Requests a clean stop. A second call ends the processes that still run, a third kills them.
    pub fn stop(&self) {
        // A full queue holds enough stops, and a launcher that is gone has nothing to stop.
        let _ = self.0.try_send(LauncherEvent::Stop);
    }
}

/// A cluster of local processes, not yet started.
#[derive(Debug)]
pub struct Launcher {
    /// The command and the limits of restarts.
    settings: LaunchSettings,
    /// The lines and the ends of children.
    events: Receiver<LauncherEvent>,
    /// Takes events; every child's threads have a clone.
    sender: SyncSender<LauncherEvent>,
}

/// A child process. One thread waits for it, and another may kill it.
#[derive(Debug)]
struct ChildProcess {
    /// The process id.
    pid: Pid,
    /// The handle; `None` once the child was waited for.
    child: Mutex<Option<Child>>,
}

impl ChildProcess {
    /// Waits for the end of the child. The first wait does not reap it, so its process id is not
    /// given to another process while `kill` may use it.
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

    /// Kills the child, unless it has been reaped.
    fn kill(&self) {
        if let Some(child) = &mut *self.child.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = child.kill(); // it may have ended already
        }
    }
}

impl Launcher {
    /// Prepares a cluster. [`Launcher::run`] starts it.
    pub fn new(settings: LaunchSettings) -> (Launcher, LauncherStop) {
        let (sender, events) = sync_channel(settings.processes + STOPS_MAX);
        let stop = LauncherStop(sender.clone());
        let launcher = Launcher { settings, events, sender };
        (launcher, stop)
    }

    /// Runs the cluster to its end, with its restarts, and returns its exit code.
    ///
    /// `line` is called from several threads with each line that a child writes to standard error:
    /// the index of the child, and the line without its end.
    ///
    /// # Errors
    /// `Failed` if a child cannot be started.
    pub fn run(self, line: &(dyn Fn(usize, &[u8]) + Sync)) -> Result<i32> {
        let settings = &self.settings;
        let mut wait = settings.restart_wait_min;
        let mut restarts = 0;
        loop {
            let began = Instant::now();
            settings.phase.fetch_add(1, Ordering::Relaxed);
            let ended = self.generation(line);
            settings.phase.fetch_add(1, Ordering::Relaxed);
            let (code, is_last) = ended?;
            if is_last || EXITS_FOR_GOOD.contains(&code) || restarts == settings.restarts {
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
            // A stop during the wait ends the launcher.
            match self.events.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return Ok(code),
            }
            wait = (wait * 2).min(settings.restart_wait_max);
        }
    }

    /// Runs the cluster once. Returns its exit code, and true if it is not to be started again: a
    /// stop was requested, or the job has finished.
    fn generation(&self, line: &(dyn Fn(usize, &[u8]) + Sync)) -> Result<(i32, bool)> {
        let ports = Ports::reserve(self.settings.processes)?;
        let start = |cause| failed("cannot start a process of the cluster", cause);
        let command = ChildCommands::new(&self.settings, &ports)?;
        let mut lifelines = Lifelines::default();
        let mut processes = Vec::new();
        let mut outputs = Vec::new();
        for index in 0..self.settings.processes {
            let (reader, lifeline) = io::pipe().map_err(start)?;
            lifelines.add(lifeline);
            match command.start(index, reader) {
                Ok((process, output)) => {
                    processes.push(process);
                    outputs.push(output);
                }
                Err(cause) => {
                    for process in &processes {
                        process.kill();
                        let _ = process.wait(); // the cause to report is the failed start
                    }
                    let exe = self.settings.exe.display();
                    return Err(failed(&format!("cannot start {exe}"), cause));
                }
            }
        }
        std::thread::scope(|scope| {
            for (index, output) in outputs.into_iter().enumerate() {
                let work = move || {
                    output.into_iter().for_each(|output| pass_on(output, index, line));
                    Ok(())
                };
                // A failure loses lines of one child, which does not end the cluster.
                supervise::scoped(scope, "pass on", |error| tracing::error!("{error}"), work);
            }
            for (index, process) in processes.iter().enumerate() {
                let (exited, lost) = (self.sender.clone(), self.sender.clone());
                let work = move || {
                    let status = process.wait().map_err(|cause| failed("cannot wait", cause))?;
                    // The receiver is part of this launcher, so it is there.
                    let _ = exited.send(LauncherEvent::Exited(index, status));
                    Ok(())
                };
                let fail = move |error| {
                    tracing::error!("process {index}: {error}");
                    let status = ExitStatus::from_raw(EXIT_PANICKED << 8);
                    let _ = lost.send(LauncherEvent::Exited(index, status)); // as above
                };
                supervise::scoped(scope, "wait", fail, work);
            }
            Ok(self.oversee(&processes, lifelines))
        })
    }

    /// Waits for all children, stops them on request or after a failure, and kills them after the
    /// grace time. Returns the exit code, and true if a stop was requested or the job has finished.
    fn oversee(&self, processes: &[ChildProcess], mut lifelines: Lifelines) -> (i32, bool) {
        let settings = &self.settings;
        let mut running = processes.len();
        let mut deadline: Option<Instant> = None;
        let mut codes = Vec::new();
        let (mut stopped, mut ending, mut killed, mut killed_late) = (false, false, false, false);
        while running > 0 {
            // After the kill only ends of children remain, which need no deadline.
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
                    lifelines.stop();
                    settings.grace_stopped
                }
                Some(LauncherEvent::Stop) if !ending => {
                    ending = true;
                    tracing::warn!(
                        "a second signal: the processes that still run end at once ({running})"
                    );
                    lifelines.end_now();
                    GRACE_SECOND
                }
                Some(LauncherEvent::Exited(index, status)) => {
                    running -= 1;
                    let code = status.code().unwrap_or(EXIT_PEER_LOST);
                    if let (Some(signal), false) = (status.signal(), killed) {
                        // A child that ends with a code has logged the reason itself.
                        tracing::warn!("process {index} was ended by signal {signal}");
                    }
                    killed_late |= killed;
                    codes.extend((!killed).then_some((index, code)));
                    if code == 0 || has_finished(&[(index, code)]) {
                        settings.grace_stopped
                    } else {
                        lifelines.stop();
                        if stopped { settings.grace_failed / 5 } else { settings.grace_failed }
                    }
                }
                late => {
                    killed = true;
                    let why = if late.is_some() { "a third signal" } else { "they took too long" };
                    tracing::warn!("{why}: the processes that still run are killed ({running})");
                    processes.iter().for_each(ChildProcess::kill);
                    continue;
                }
            };
            let until = Instant::now() + grace;
            deadline = Some(deadline.map_or(until, |earlier| earlier.min(until)));
        }
        // A peer that was halted is killed after those that have reported its loss.
        let (code, has_finished) = (cluster_code(&codes), has_finished(&codes));
        let is_late = code == 0 && killed_late && !has_finished;
        (if is_late { EXIT_FAILED } else { code }, stopped || has_finished)
    }
}

/// Returns true if process 0 has reported that the job has finished.
fn has_finished(codes: &[(usize, i32)]) -> bool {
    codes.contains(&(0, EXIT_FINISHED.into()))
}

/// Returns the exit code of the cluster, from the codes of the children in order of time, each with
/// its index.
///
/// Process 0 ends in order only if all epochs are committed, or after a stop. Another process that
/// is lost after that loses nothing. One that is lost before that may have been the reason of the
/// stop, unless process 0 reports that the job has finished in all of them.
fn cluster_code(codes: &[(usize, i32)]) -> i32 {
    let end = if has_finished(codes) {
        0
    } else {
        codes.iter().position(|child| *child == (0, 0)).unwrap_or(codes.len())
    };
    let is_in_order = |code: i32| [0, EXIT_FINISHED.into()].contains(&code);
    let lost = codes[..end].iter().find(|(_, code)| !is_in_order(*code));
    let own = codes.iter().find(|(_, code)| !is_in_order(*code) && *code != EXIT_PEER_LOST);
    own.or(lost).map_or(0, |(_, code)| *code)
}

/// Calls `line` with each line of `output`; long lines come in pieces.
fn pass_on(output: impl Read, index: usize, line: &(dyn Fn(usize, &[u8]) + Sync)) {
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    while let Ok(1..) = (&mut output).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes) {
        line(index, bytes.trim_ascii_end());
        bytes.clear();
    }
}

/// The commands that start the children of one generation.
struct ChildCommands<'a> {
    /// The command and the limits of restarts.
    settings: &'a LaunchSettings,
    /// The addresses of all processes, as a flag takes them.
    addresses: String,
    /// The key of the mesh, passed in the environment.
    key: String,
    /// The number of the start, from which the incarnation is made.
    generation: u64,
}

impl<'a> ChildCommands<'a> {
    /// Chooses a key and a generation.
    fn new(settings: &'a LaunchSettings, ports: &Ports) -> Result<Self> {
        let key = hex(&random_bytes::<32>()?);
        Ok(ChildCommands {
            settings,
            addresses: ports.addresses().join(","),
            key,
            generation: u64::from_le_bytes(random_bytes()?),
        })
    }

    /// Starts the child with this index, which inherits the reading end of its lifeline. Returns it
    /// with its standard error.
    fn start(
        &self,
        index: usize,
        lifeline: PipeReader,
    ) -> io::Result<(ChildProcess, Option<std::process::ChildStderr>)> {
        // It is closed here when the child has it, before another child is started.
        rustix::io::fcntl_setfd(&lifeline, rustix::io::FdFlags::empty())?;
        let mut command = Command::new(&self.settings.exe);
        command
            .args(self.args(index))
            .env(KEY_NAME, &self.key)
            .env(GENERATION_NAME, self.generation.to_string())
            .env(LIFELINE_NAME, format!("/dev/fd/{}", lifeline.as_raw_fd()))
            .stderr(Stdio::piped());
        for (name, value) in &self.settings.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if index > 0 {
            command.stdin(Stdio::null());
        }
        // Ctrl-C at the terminal must reach only the launcher, so children have process groups of
        // their own. But a process that reads the terminal must stay in the foreground group, or
        // the kernel stops it.
        if index > 0 || !io::stdin().is_terminal() {
            command.process_group(0);
        }
        let mut child = command.spawn()?;
        let output = child.stderr.take();
        let process = ChildProcess { pid: Pid::from_child(&child), child: Mutex::new(Some(child)) };
        Ok((process, output))
    }

    /// Returns the arguments of a child. The added ones stand before `--`, because no argument
    /// after it is a flag.
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
    fn exit_code_prefers_own_failures() {
        assert_eq!(cluster_code(&[(1, 0), (0, 0)]), 0);
        assert_eq!(cluster_code(&[(0, 69), (1, 70), (2, 75)]), 70);
        assert_eq!(cluster_code(&[(1, 0), (0, 69)]), 69);
        assert_eq!(cluster_code(&[(0, 0), (1, 69)]), 0, "all was committed");
        assert_eq!(cluster_code(&[(1, 69), (0, 0)]), 69, "it was stopped since the other was lost");
        assert_eq!(cluster_code(&[(1, 74), (0, 0)]), 74);
        let finished = (0, EXIT_FINISHED.into());
        assert_eq!(cluster_code(&[finished, (1, 0)]), 0);
        assert_eq!(cluster_code(&[(1, 69), finished]), 0, "it was killed as it ended");
        assert_eq!(cluster_code(&[finished, (1, 74)]), 74);
        assert_eq!(cluster_code(&[]), 0);
    }
}
