//! The rig: runs the real program in a directory of its own, and sees what comes of it.
//!
//! A test waits for events: for a line of the program, for a connection, for the end.
//! Every wait has a deadline, generous, whose only use is to turn a hang into a failure that shows
//! the command and all that was logged. Nothing sleeps, and nothing here shares code with what it
//! judges: names, markers and checksums of the output are read by [`output`]'s own rules.

pub(crate) mod http;
pub(crate) mod output;
pub(crate) mod server;
pub(crate) mod watched;

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

pub(crate) use output::Output;
pub(crate) use server::{Peer, Server};

/// How long anything may take before it counts as hung: nothing is slow enough to come near it,
/// even in a debug build on a machine that is busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Names the program to be run, if it is not the one that was built with the tests.
const PROGRAM: &str = "WORDTIDE_TEST_PROGRAM";

/// Returns true if the program was named, as a release is: it has no crash points and no faults.
pub(crate) fn is_given() -> bool {
    std::env::var_os(PROGRAM).is_some()
}

/// A directory of its own for a run, or for several one after the other.
pub(crate) struct Rig {
    dir: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig {
            dir: tempfile::Builder::new().prefix("wordtide-test-").tempdir().expect("a directory"),
        }
    }

    /// A path in the rig's directory, in which the program runs.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a file for the program to read.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a file in the rig");
        path
    }

    /// The names of all that lies in the directory, in any depth, directories with a slash.
    pub(crate) fn tree(&self) -> Vec<String> {
        output::tree(self.dir.path())
    }

    /// Prepares a run of the program with these arguments, parted at blanks.
    pub(crate) fn wordtide(&self, arguments: &str) -> Invocation {
        self.wordtide_by(&[], arguments)
    }

    /// Makes a command that another program runs: `by` is its name and arguments, to which ours are
    /// added.
    pub(crate) fn wordtide_by(&self, by: &[&str], arguments: &str) -> Invocation {
        // Another build of the program can be held against the same tests.
        let program = std::env::var(PROGRAM);
        let program = program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_wordtide"));
        let words = by.iter().copied().chain([program]);
        let mut words = words.chain(arguments.split_whitespace());
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Where the user's mesh key is, the same for all: it is not to be made in a real home.
        command.env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"));
        for (name, _) in std::env::vars_os() {
            // The tests must not depend on how the shell that runs them is set up.
            if name.to_string_lossy().starts_with("WORDTIDE_") {
                command.env_remove(name);
            }
        }
        Invocation { command }
    }

    /// Runs the program to its end without anything on its input.
    pub(crate) fn run(&self, arguments: &str) -> Ended {
        self.wordtide(arguments).start().end()
    }

    /// Runs something else here; true if it succeeds.
    pub(crate) fn by(&self, command: &[&str]) -> bool {
        let (name, arguments) = command.split_first().expect("a command");
        let mut command = Command::new(name);
        let ended = command.args(arguments).current_dir(self.dir.path()).output();
        ended.is_ok_and(|ended| ended.status.success())
    }

    /// Reads back the epochs below `prefix`, a path relative to the rig.
    pub(crate) fn output(&self, prefix: &str) -> Output {
        Output::read(self.dir.path(), prefix, None)
    }
}

/// A run that has not begun.
pub(crate) struct Invocation {
    command: Command,
}

impl Invocation {
    /// One more argument, blanks and all.
    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.arg(argument.into());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    /// Gives the program this for its standard error; what it writes there is not collected.
    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    pub(crate) fn start(mut self) -> Running {
        let shown = show(&self.command);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        // Its copies of the pipes that a test made must not keep them open.
        drop(self.command);
        let said = Said::default();
        if let Some(stderr) = child.stderr.take() {
            said.collect_lines(BufReader::new(stderr));
        }
        if let Some(stdout) = child.stdout.take() {
            said.collect_bytes(stdout);
        }
        Running { child, shown, said }
    }
}

fn show(command: &Command) -> String {
    let mut shown = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        shown.push(' ');
        shown.push_str(&argument.to_string_lossy());
    }
    shown
}

/// The lines of a program so far, filled by threads, awaited by tests.
#[derive(Clone, Default)]
struct Said {
    state: Arc<(Mutex<SaidState>, Condvar)>,
}

#[derive(Default)]
struct SaidState {
    stderr: Vec<String>,
    stdout: Vec<u8>,
    /// Pipes that may still have a writer.
    open: usize,
}

impl Said {
    fn update(&self, change: impl FnOnce(&mut SaidState)) {
        change(&mut self.state.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.state.1.notify_all();
    }

    fn collect_lines(&self, mut pipe: impl BufRead + Send + 'static) {
        self.update(|state| state.open += 1);
        let said = self.clone();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                said.update(|state| state.stderr.push(text));
                line.clear();
            }
            said.update(|state| state.open -= 1);
        });
    }

    fn collect_bytes(&self, mut pipe: impl Read + Send + 'static) {
        self.update(|state| state.open += 1);
        let said = self.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(bytes @ 1..) = pipe.read(&mut buffer) {
                said.update(|state| state.stdout.extend_from_slice(&buffer[..bytes]));
            }
            said.update(|state| state.open -= 1);
        });
    }

    /// Waits until `found` gives something; `None` when it cannot any more or the deadline passed.
    ///
    /// `found` is also called every 50 ms without a line, since it may look at something else.
    fn wait<T>(&self, found: impl FnMut(&SaidState) -> Option<T>) -> Option<T> {
        self.wait_for(DEADLINE, found)
    }

    /// Waits as above, with another time limit.
    fn wait_for<T>(
        &self,
        limit: Duration,
        mut found: impl FnMut(&SaidState) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = found(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.open == 0 || left.is_zero() {
                return None;
            }
            let waited = self.state.1.wait_timeout(state, left.min(LOOK_AGAIN));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn stderr(&self) -> String {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).stderr.join("\n")
    }
}

/// A program that runs. It is killed with the value, should the test end before it.
pub(crate) struct Running {
    child: Child,
    shown: String,
    said: Said,
}

impl Running {
    /// Waits for a line on stderr that holds `text`, also one of the past; returns the line.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |lines| lines.iter().find(|line| line.contains(text)).cloned())
    }

    /// Waits until the lines on stderr give something; `what` names it in the failure.
    pub(crate) fn wait_until<T>(
        &self,
        what: &str,
        mut found: impl FnMut(&[String]) -> Option<T>,
    ) -> T {
        self.said.wait(|state| found(&state.stderr)).unwrap_or_else(|| {
            panic!("never came: {what}\n$ {}\n{}", self.shown, self.said.stderr())
        })
    }

    /// Waits until so many epochs are logged as committed; false if the program ended before.
    pub(crate) fn lives_until_commits(&self, epochs: usize) -> bool {
        let told = |line: &&String| line.contains(" committed: ");
        let enough = |said: &SaidState| said.stderr.iter().filter(told).count() >= epochs;
        self.said.wait(|said| enough(said).then_some(())).is_some()
    }

    /// Waits for a line on stderr that holds `text`; false if the program ended before.
    pub(crate) fn lives_until(&self, text: &str) -> bool {
        let found = |said: &SaidState| said.stderr.iter().any(|line| line.contains(text));
        self.said.wait(|said| found(said).then_some(())).is_some()
    }

    /// Waits until so many lines in all are logged as committed.
    pub(crate) fn wait_for_lines(&self, lines: u64) {
        self.wait_until(&format!("{lines} lines committed"), |said| {
            (committed_lines(said) >= lines).then_some(())
        });
    }

    /// Waits until stdout holds so many bytes.
    pub(crate) fn wait_for_stdout(&self, bytes: usize) {
        let written = self.said.wait(|state| (state.stdout.len() >= bytes).then_some(()));
        assert!(written.is_some(), "no {bytes} bytes on stdout\n$ {}", self.shown);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("started with a pipe")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.process(), signal).expect("the program runs");
    }

    /// Sends the signal again and again until the program ends: the first ones may still count as
    /// part of an earlier wish to stop.
    pub(crate) fn insist(self, signal: Signal) -> Ended {
        let again = Duration::from_millis(100);
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end
            && self.said.wait_for(again, |state| (state.open == 0).then_some(())).is_none()
        {
            self.signal(signal);
        }
        self.end()
    }

    /// Halts it and waits until none of its threads does anything more; false if it has ended.
    pub(crate) fn halt(&self) -> bool {
        // A child that has ended and was not waited for can still be sent signals.
        self.signal(Signal::STOP);
        let until = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.process()), until), Ok(Some(status)) if status.stopped())
    }

    fn process(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process")
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.end()
    }

    /// Waits no longer than `limit` for the end; false if it runs on.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        self.said.wait_for(limit, |state| (state.open == 0).then_some(())).is_some()
    }

    /// The lines of standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.said.stderr()
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Ended {
        let done = self.said.wait(|state| (state.open == 0).then_some(()));
        assert!(done.is_some(), "does not end\n$ {}\n{}", self.shown, self.said.stderr());
        let status = self.child.wait().expect("our child");
        let state = std::mem::take(&mut *self.said.state.0.lock().expect("no thread panicked"));
        let SaidState { stderr, stdout, .. } = state;
        Ended { shown: self.shown.clone(), code: status.code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It fails where the program has ended, as it should have.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    shown: String,
    /// `None` if a signal killed it.
    code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<String>,
}

impl Ended {
    /// The exit code; `None` if a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.code
    }

    /// Fails unless it ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "exit code\n{self}");
        self
    }

    /// Fails unless one line on stderr holds all of `texts`.
    #[track_caller]
    pub(crate) fn says(self, texts: &[&str]) -> Ended {
        let said = self.stderr.iter().any(|line| texts.iter().all(|text| line.contains(text)));
        assert!(said, "no line with {texts:?}\n{self}");
        self
    }

    /// Lines that were logged as committed.
    pub(crate) fn committed_lines(&self) -> u64 {
        committed_lines(&self.stderr)
    }

    /// Epochs that were logged as committed.
    pub(crate) fn committed_epochs(&self) -> usize {
        self.stderr.iter().filter(|line| line.contains(" committed: ")).count()
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ended { shown, code, stderr, .. } = self;
        write!(f, "$ {shown}\nexit code {code:?}\n{}", stderr.join("\n"))
    }
}

fn committed_lines(stderr: &[String]) -> u64 {
    let told = |line: &String| {
        let (_, figures) = line.split_once(" committed: ")?;
        figures.split_once(" lines")?.0.parse::<u64>().ok()
    };
    stderr.iter().filter_map(told).sum()
}

/// Gives each of `items` to `each`, a few at a time: as many as there are cores, and one more,
/// since a run also waits for the disk.
pub(crate) fn side_by_side<T: Send>(items: Vec<T>, each: impl Fn(T) + Sync) {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let items = Mutex::new(items.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..=cores {
            scope.spawn(|| {
                loop {
                    let next = items.lock().unwrap_or_else(PoisonError::into_inner).next();
                    match next {
                        Some(item) => each(item),
                        None => return,
                    }
                }
            });
        }
    });
}

/// Writes all of `text` to a pipe and closes it; a reader that has gone is no failure.
pub(crate) fn write_and_close(mut pipe: ChildStdin, text: &[u8]) {
    pipe.write_all(text).ok();
}

/// SplitMix64: a seed is enough to repeat a test.
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
