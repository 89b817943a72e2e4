//! Windows whose slides were skipped, over several runs of one job on a clock of the test.
//!
//! A job that is away when a window ends publishes nothing for it. What counts as changed later is
//! the difference from the last result that there was.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wordtide::internals::outputs::format::Format;
use wordtide::job::StatePlace;
use wordtide::operators::{Lines, Rows, Window};
use wordtide::{Job, Settings, Source, Target};

use crate::clock::HandClock;
use crate::rig::{DEADLINE, Output, Rig, Server};

const SECOND: Duration = Duration::from_secs(1);
const SLIDE_MS: u64 = 3_000;
/// A time at which windows end.
const END_MS: u64 = 1_795_345_209_000;

/// A job of windows that end every three seconds.
struct WindowJob<F> {
    dir: tempfile::TempDir,
    server: Server,
    clock: HandClock,
    definition: F,
    /// True if the job says when its windows end.
    is_declared: bool,
}

impl<F> WindowJob<F>
where
    F: for<'s> Fn(Lines<'s>) -> Rows<'s> + Copy + Send + Sync + 'static,
{
    /// Returns the job, which begins so long after [`END_MS`].
    fn new(begins_ms: i64, definition: F) -> WindowJob<F> {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = HandClock::at(END_MS as i64 + begins_ms);
        WindowJob { dir, server: Server::new(), clock, definition, is_declared: false }
    }

    /// Runs the job from now on. Each line is committed in an epoch of its own, and time goes by
    /// for one second after it. Returns the epochs, in seconds after [`END_MS`].
    fn live(&self, lines: &[&str]) -> Vec<i64> {
        let address = format!("127.0.0.1:{}", self.server.port());
        let mut job = Job::builder();
        if self.is_declared {
            job = job.windows_end_every(Duration::from_millis(SLIDE_MS));
        }
        let mut job = job
            .source(Source::Connect(address.parse().expect("an address")))
            .dataflow_rows("windows", self.definition)
            .to(Target::Local { root: self.dir.path().join("out"), prefix: "c".to_owned() })
            .format(Format::Tsv)
            .state(StatePlace::Dir(self.dir.path().join("state")))
            .settings(Settings { interval: SECOND, ..Settings::default() })
            .clock(Arc::new(self.clock.clone()))
            .start()
            .expect("a job");
        let (mut commits, mut peer) = (job.committed(), self.server.accept());
        let mut epochs = Vec::new();
        for line in lines {
            peer.send(format!("{line}\n"));
            wait_for_journal(&self.dir.path().join("state"), line);
            self.clock.pass(1_000);
            epochs.extend(commits.next());
        }
        job.stop();
        job.wait().expect("all committed");
        epochs.extend(commits);
        let after = |epoch: u64| (epoch as i64 - END_MS as i64) / 1_000;
        epochs.into_iter().map(|committed| after(committed.epoch)).collect()
    }

    /// Returns the rows of the epoch so many seconds after [`END_MS`], sorted.
    fn rows(&self, after_s: u64) -> Vec<String> {
        let output = Output::read(self.dir.path(), "out/c", None);
        let epoch = output.epochs.get(&(END_MS + 1_000 * after_s)).expect("a result");
        let mut rows = epoch.rows();
        rows.sort();
        rows
    }
}

/// Waits until a journal holds the text.
pub(crate) fn wait_for_journal(state: &Path, text: &str) {
    let holds = |path: &Path| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|at| at == text.as_bytes()))
    };
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        let folders = fs::read_dir(state).into_iter().flatten().flatten();
        let mut files = folders.flat_map(|folder| fs::read_dir(folder.path())).flatten().flatten();
        if files.any(|file| holds(&file.path())) {
            return;
        }
        std::thread::yield_now();
    }
    panic!("no journal holds {text}");
}

/// Returns the changes of windows of so many slides.
fn changes(lines: Lines<'_>, slides: u64) -> Rows<'_> {
    let slide = Duration::from_millis(SLIDE_MS);
    lines.words().sliding(Window::new(slide * slides as u32, slide)).count().changes()
}

#[test]
fn changes_since_last_result_survive_skipped_slides() {
    let job = WindowJob::new(300, |lines| changes(lines, 20));
    assert_eq!(job.live(&["first-line"]), [1, 2]);
    job.clock.jump(2_000);
    // The window that ends at 3 s is skipped.
    assert_eq!(job.live(&["second-line"]), [4, 5]);
    job.clock.jump(1_000);
    assert_eq!(job.live(&["third-line"])[0], 6);
    assert_eq!(job.rows(6), ["first-line\t1", "second-line\t1", "third-line\t1"]);
}

#[test]
fn words_leave_windows_after_skipped_slides() {
    let job = WindowJob::new(-1_700, |lines| changes(lines, 1));
    assert_eq!(job.live(&["early-line", "again-line"]), [-1, 0, 1]);
    assert_eq!(job.rows(0), ["again-line\t1", "early-line\t1"]);
    job.clock.jump(1_500);
    assert_eq!(job.live(&["lost-line"]), [2, 3]);
    job.clock.jump(3_500);
    // The windows that end at 6 s and 9 s are skipped, between several restarts.
    assert_eq!(job.live(&["skipped-line"]), [7, 8]);
    job.clock.jump(2_000);
    assert_eq!(job.live(&["late-line"]), [10, 11]);
    job.clock.jump(1_000);
    assert_eq!(job.live(&["last-line"])[0], 12);
    assert_eq!(job.rows(3), ["again-line\t0", "early-line\t0", "lost-line\t1"]);
    assert_eq!(job.rows(12), ["last-line\t1", "late-line\t1", "lost-line\t0"]);
}

#[test]
fn declared_window_ends_between_two_runs() {
    let mut job = WindowJob::new(300, |lines| changes(lines, 1));
    job.is_declared = true;
    assert_eq!(job.live(&["first-line"]), [1, 2]);
    job.clock.jump(4_000);
    let epochs = job.live(&["second-line"]);
    assert_eq!((epochs[0], epochs.contains(&4)), (3, false), "{epochs:?}");
    assert!(job.rows(3).contains(&"first-line\t1".to_owned()));
}

#[test]
fn window_ends_when_sources_have_ended() {
    let rig = Rig::new();
    rig.file("log", "a b a\n");
    let run = "run sliding_windows --window 10h --slide 10h --file log --once --no-state --to -";
    let ended = rig.run(run).expect(0);
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "('a', 2)\n('b', 1)\n");
}

#[test]
fn collection_keeps_last_result_between_slides() {
    let job = WindowJob::new(1_300, |lines| {
        let slide = Duration::from_millis(SLIDE_MS);
        let counts = lines.clone().words().sliding(Window::new(slide * 20, slide)).count();
        Rows::from_collection(&lines, counts.as_collection())
    });
    assert_eq!(job.live(&["first-line", "second-line"]), [2, 3, 4]);
    assert_eq!(job.rows(4), ["first-line\t1", "second-line\t1"]);
    job.clock.jump(500);
    assert_eq!(job.live(&["third-line"]), [5, 6]);
    assert_eq!(job.rows(5), ["first-line\t1", "second-line\t1"]);
    assert_eq!(job.rows(6), ["first-line\t1", "second-line\t1", "third-line\t1"]);
}
