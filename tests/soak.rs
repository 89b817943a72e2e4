//! Soak: a long random run of jobs with every fault at hand, all of it from one seed.
//!
//! A job is a directory, an output, one to three sources that send numbered words, and several
//! lives of the program with other `-w` and `-n`. In a life the store fails or is away, the disk
//! is full, the name of the sources does not resolve, standard error is not read, the program is
//! halted for a while, and a second job tries the same prefix. A life ends by a kill, at a crash
//! point, by a disk that fails a sync, or by signals. The last life of a job ends well. Then every
//! connection must be counted from its beginning without a gap, each word once.
//!
//! `WORDTIDE_SOAK=MINUTES` runs jobs one after another for so long, `WORDTIDE_SEED=N` begins with
//! another seed. Threads and processes take turns as they like, so a seed repeats the actions of a
//! job and not their times. The clock is not set: the program has no switch for that, and a test
//! of the library has a clock of its own.

/// Senders of numbered words.
mod feeder;
/// Where the epochs go.
pub(crate) mod place;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wordtide::internals::crash_points::POINTS;

use crate::rig::{DEADLINE, Invocation, Rig, Running, is_given, random, side_by_side};
use crate::stderr::full_pipe;
use feeder::Feeder;
use place::{CommittedObjects, Place, check_name};

/// The exit codes in the README's table for an end without a signal and without a usage error.
const CODES: [i32; 4] = [0, 69, 74, 75];
/// So many lives of a job may end by a signal before they handle any, although connections were
/// seen.
const UNBORN_MAX: usize = 2;
/// The name of the sources where it can be made to fail.
const NAME: &str = "feed.soak";
/// Runs the rest with the rig's `hosts` for a resolver and no name server.
const RESOLVER: &str = "mount --bind hosts /etc/hosts && mount --bind resolv /etc/resolv.conf && \
                        exec \"$0\" \"$@\"";

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Kill,
    /// One process of several; all of them where there is one.
    KillOne,
    Point,
    SyncFault,
    Stop(&'static [Signal]),
}

const STOPS: [&[Signal]; 5] = [
    &[Signal::TERM],
    &[Signal::TERM, Signal::TERM],
    &[Signal::INT],
    &[Signal::HUP, Signal::TERM],
    &[Signal::INT, Signal::INT, Signal::TERM],
];

struct Soak {
    seed: u64,
    rig: Rig,
    place: Place,
    feeders: Vec<Feeder>,
    /// True if the sources have a name, which a resolver of the test resolves.
    has_name: bool,
    parts: u64,
    interval_ms: u64,
    is_away: bool,
    /// The disk was full in the present life.
    was_full: bool,
    /// How long a stop may take, in seconds.
    stop_limit_s: u64,
    /// Connections before the present life.
    connected: usize,
    /// Lives that a signal ended before they handled any, although connections were seen.
    unborn: usize,
    /// The objects of committed epochs.
    committed: CommittedObjects,
    /// The actions so far, for the message of a failure.
    actions: Vec<String>,
}

impl Soak {
    fn new(mut seed: u64) -> Soak {
        let (rig, place) = (Rig::new(), Place::at_random(&mut seed));
        let sources = 1 + random(&mut seed) as usize % 3;
        let feeders = (0..sources).map(|n| Feeder::start(n, random(&mut seed))).collect();
        rig.file("hosts", hosts(true));
        rig.file("resolv", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
        let is_possible = || rig.by(&["unshare", "--mount", "sh", "-ec", RESOLVER, "true"]);
        let has_name = matches!(place, Place::Local) && is_possible();
        let parts = 1 + random(&mut seed) % 4;
        let interval_ms = [30, 60, 200][random(&mut seed) as usize % 3];
        Soak {
            seed,
            rig,
            place,
            feeders,
            has_name,
            parts,
            interval_ms,
            is_away: false,
            was_full: false,
            stop_limit_s: 2,
            connected: 0,
            unborn: 0,
            committed: CommittedObjects::default(),
            actions: Vec::new(),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        random(&mut self.seed) % limit
    }

    fn act(&mut self, action: impl Into<String>) {
        self.actions.push(action.into());
    }

    /// Prepares a run of the job with this state folder.
    fn wordtide(&mut self, state: &str, processes: u64) -> Invocation {
        let host = if self.has_name { NAME } else { "127.0.0.1" };
        let connect: String =
            self.feeders.iter().map(|f| format!("--connect {host}:{} ", f.port())).collect();
        let (parts, interval_ms, stop_limit_s) = (self.parts, self.interval_ms, self.stop_limit_s);
        let threads = 1 + self.below(4);
        let arguments = format!(
            "run {connect} --interval {interval_ms}ms --parts {parts} --format tsv \
             --state {state} --journal-max 24MiB --sync-every 100ms --stop-timeout {stop_limit_s}s \
             -w {threads} -n {processes}"
        );
        self.act(format!("{state}: -w {threads} -n {processes}"));
        let by = ["unshare", "--mount", "sh", "-ec", RESOLVER];
        let by = if self.has_name { &by[..] } else { &[] };
        self.place.wordtide(&self.rig, by, &arguments)
    }

    /// One life, with faults on the way to its end.
    fn live(&mut self, end: End) -> Result<(), String> {
        let processes = 1 + self.below(3);
        let fault = if end == End::SyncFault { "sync" } else { "full" };
        let fault = format!("disk.{fault}={}", self.rig.path("fault").display());
        let mut program = self.wordtide("state", processes).env("WORDTIDE_FAULT", &fault);
        if end == End::Point {
            let point = POINTS[self.below(POINTS.len() as u64) as usize];
            let pass = 1 + self.below(6);
            self.act(format!("crash at {point}:{pass}"));
            program = program.env("WORDTIDE_CRASH_POINT", format!("{point}:{pass}"));
        }
        let mut unread = None;
        if self.below(4) == 0 {
            self.act("stderr is not read");
            let (reader, writer) = full_pipe();
            (unread, program) = (Some(reader), program.stderr(writer));
        }
        self.note_another_life();
        (self.connected, self.was_full) = (self.connections(), false);
        let program = program.start();
        for _ in 0..1 + self.below(4) {
            self.step(&program, end, unread.is_none())?;
        }
        let ended = self.end(program, end);
        drop(unread);
        self.set_outage(false);
        ended?;
        self.look()
    }

    /// One fault, or some epochs without.
    fn step(&mut self, program: &Running, end: End, is_read: bool) -> Result<(), String> {
        let pause = Duration::from_millis(20 + self.below(400));
        match self.below(9) {
            0 => {
                self.set_outage(true);
                program.ends_within(pause);
                let stays = self.below(3) == 0;
                self.set_outage(stays);
            }
            1 => {
                let (percent, seed) = (self.below(30), random(&mut self.seed));
                self.act(format!("{percent} % of requests fail"));
                self.place.set_faults(percent, seed);
            }
            2 if end != End::SyncFault => {
                self.act("disk full");
                self.was_full = true;
                self.rig.file("fault", "");
                program.ends_within(pause);
                self.remove_fault();
            }
            3 if self.has_name => {
                self.act("no name");
                self.rig.file("hosts", hosts(false));
                program.ends_within(pause);
                self.rig.file("hosts", hosts(true));
            }
            4 => {
                self.act("halted");
                if program.halt() {
                    feeder::pause(pause);
                    program.signal(Signal::CONT);
                }
            }
            // A program that is about to abort may leave the prefix unheld.
            5 if is_read && end != End::Point && !self.is_away => return self.rival(program),
            _ => {
                let more = 1 + self.below(3) as usize;
                self.wait_for_epochs(program, more);
            }
        }
        Ok(())
    }

    /// A second job with the same flags on the same prefix is refused and changes nothing.
    fn rival(&mut self, program: &Running) -> Result<(), String> {
        if !program.lives_until("connected to") || !self.wait_for_epochs(program, 1) {
            return Ok(());
        }
        self.place.set_faults(0, 0);
        let ended = self.wordtide("rival", 1).start().end();
        let (code, text) = (ended.code(), ended.to_string());
        let is_owned = !program.ends_within(Duration::ZERO);
        if code != Some(78) && is_owned {
            return Err(format!("a second job on the prefix ended otherwise: {text}"));
        }
        self.look()
    }

    /// Connections of all sources so far.
    fn connections(&self) -> usize {
        self.feeders.iter().map(Feeder::connections).sum()
    }

    /// Ends a life and fails if it does not end as such a life does.
    fn end(&mut self, program: Running, end: End) -> Result<(), String> {
        self.act(format!("{end:?}, store away: {}", self.is_away));
        self.note_another_life();
        let is_remote_away = self.is_away;
        let allowed: &[Option<i32>] = match end {
            // A start that meets a full disk is refused, whatever was to end it.
            _ if self.was_full && self.connections() == self.connected => {
                &[None, Some(0), Some(69), Some(74), Some(75)]
            }
            // It may not be so far that it handles signals.
            End::Stop(_) if self.connections() == self.connected => &[None, Some(0), Some(75)],
            // A slow machine or store may need longer than the limit; the next life finishes.
            End::Stop(_) if self.stop_limit_s < 60 => &[Some(0), Some(75)],
            End::Stop(_) => &[Some(0)],
            End::SyncFault => &[Some(74), Some(69)],
            // It may never meet the point, or another process does.
            _ => &[None, Some(69)],
        };
        let ended = match end {
            End::Stop(signals) => {
                for signal in signals {
                    program.signal(*signal);
                }
                if is_remote_away && self.below(2) == 0 {
                    program.ends_within(Duration::from_millis(300));
                    self.set_outage(false);
                }
                program.end()
            }
            End::SyncFault => {
                self.rig.file("fault", "");
                let ended = program.end();
                self.remove_fault();
                ended
            }
            End::KillOne => {
                let children = children(program.pid());
                match children.get(self.below(children.len().max(1) as u64) as usize) {
                    Some(child) => _ = kill_process(*child, Signal::KILL),
                    None => program.signal(Signal::KILL),
                }
                program.end()
            }
            _ => {
                program.signal(Signal::KILL);
                program.end()
            }
        };
        let code = ended.code();
        // A start that does not reach the store ends so.
        let is_unreached = is_remote_away && code == Some(75);
        // A connection of the life before may be seen late, in one that handles no signals yet: at
        // most one of each source, and rarely.
        let is_late = self.connections() <= self.connected + self.feeders.len();
        let is_unborn = code.is_none()
            && matches!(end, End::Stop(_))
            && ended.stderr.is_empty()
            && !allowed.contains(&code)
            && is_late
            && self.unborn < UNBORN_MAX;
        self.unborn += usize::from(is_unborn);
        if (is_unreached || is_unborn || allowed.contains(&code))
            && code.is_none_or(|code| CODES.contains(&code))
        {
            return Ok(());
        }
        Err(format!("{end:?} ended otherwise: {ended}"))
    }

    /// A life without faults, until all that was sent on some connection was taken.
    fn finish(&mut self) -> Result<(), String> {
        self.place.set_faults(0, 0);
        self.stop_limit_s = 60;
        self.connected = 0;
        let processes = 1 + self.below(3);
        let program = self.wordtide("state", processes);
        self.note_another_life();
        let program = program.start();
        let before: Vec<_> = self.feeders.iter().map(Feeder::connections).collect();
        let end = Instant::now() + DEADLINE;
        let more = |feeders: &[Feeder]| {
            feeders.iter().zip(&before).all(|(feeder, before)| feeder.connections() > before + 2)
        };
        while !more(&self.feeders) && Instant::now() < end {
            if program.ends_within(Duration::from_millis(20)) {
                return Err(format!("the last life ended early: {}", program.end()));
            }
        }
        if !self.wait_for_epochs(&program, 2) {
            return Err(format!("the last life ended early: {}", program.end()));
        }
        let ended = self.end(program, End::Stop(&[Signal::TERM]));
        ended.and_then(|()| self.look())
    }

    /// Waits until so many epochs more are committed; false if the program ends before, or cannot
    /// commit any.
    fn wait_for_epochs(&self, program: &Running, more: usize) -> bool {
        let (end, enough) = (Instant::now() + DEADLINE, self.place.markers(&self.rig) + more);
        while !self.is_away && Instant::now() < end {
            if self.place.markers(&self.rig) >= enough {
                return true;
            }
            if program.ends_within(Duration::from_millis(10)) {
                return false;
            }
        }
        assert!(self.is_away, "no epoch is committed for {DEADLINE:?}: {}", program.stderr());
        false
    }

    fn set_outage(&mut self, is_away: bool) {
        if is_away != self.is_away && self.place.set_outage(is_away) {
            self.is_away = is_away;
            self.act(format!("store away: {is_away}"));
        }
    }

    fn remove_fault(&self) {
        std::fs::remove_file(self.rig.path("fault")).expect("made before");
    }

    fn note_another_life(&self) {
        self.feeders.iter().for_each(Feeder::note_another_life);
    }

    /// Fails if an object of a committed epoch has changed or is gone.
    fn look(&mut self) -> Result<(), String> {
        self.committed.look(self.place.objects(&self.rig))
    }

    /// Holds the output against what was sent. Returns the words that were sent and counted.
    fn verify(&mut self) -> Result<(u64, u64), String> {
        let objects = self.place.objects(&self.rig);
        objects.keys().try_for_each(|key| check_name(key))?;
        let left = self.rig.tree().into_iter().find(|name| name.contains(".tmp"));
        if let Some(left) = left {
            return Err(format!("{left} was left"));
        }
        let output = self.place.output(&self.rig);
        if !output.uncommitted.is_empty() {
            return Err(format!("epochs without a marker: {:?}", output.uncommitted));
        }
        let counts = output.counts();
        let mut totals = (0, 0);
        for feeder in self.feeders.drain(..) {
            let (sent, counted) = feeder.judge(&counts)?;
            totals = (totals.0 + sent, totals.1 + counted);
        }
        Ok(totals)
    }

    fn run(&mut self, lives: u64) -> Result<(u64, u64), String> {
        for _ in 0..lives {
            let end = match self.below(6) {
                0 => End::Kill,
                1 => End::KillOne,
                2 => End::Point,
                // A release has no disk that fails on request.
                3 if !is_given() => End::SyncFault,
                3 => End::Kill,
                _ => End::Stop(STOPS[self.below(STOPS.len() as u64) as usize]),
            };
            self.live(end)?;
        }
        self.finish()?;
        self.verify()
    }
}

/// Returns the contents of the resolver's file.
fn hosts(is_known: bool) -> String {
    let name = if is_known { NAME } else { "other.soak" };
    format!("127.0.0.1 localhost\n127.0.0.1 {name}\n")
}

/// The processes that a launcher has started.
fn children(pid: u32) -> Vec<Pid> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    let is_ours = |pid: &&str| {
        // Until the program begins, its shell mounts what it needs.
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim_end() == "wordtide")
    };
    let ours = list.split_whitespace().filter(is_ours);
    ours.filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Runs the job of a seed and returns a line on it.
fn job(seed: u64, lives: u64) -> Result<String, String> {
    let mut soak = Soak::new(seed);
    let judged = catch_unwind(AssertUnwindSafe(|| soak.run(lives)));
    let actions = std::mem::take(&mut soak.actions);
    let judged = judged.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
    });
    match judged {
        Ok((sent, counted)) => Ok(format!("seed {seed}: {sent} words sent, {counted} counted")),
        Err(wrong) => Err(format!("seed {seed}: {wrong}\nactions: {actions:#?}")),
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn jobs_survive_every_fault_and_count_once() {
    let first = number("WORDTIDE_SEED").unwrap_or(1);
    let Some(minutes) = number("WORDTIDE_SOAK") else {
        side_by_side((first..first + 3).collect(), |seed| {
            if let Err(wrong) = job(seed, 4) {
                panic!("WORDTIDE_SEED={wrong}");
            }
        });
        return;
    };
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut failed = 0;
    for seed in first.. {
        if Instant::now() >= end {
            break;
        }
        let judged = job(seed, 3 + seed % 6);
        failed += u32::from(judged.is_err());
        eprintln!("{}", judged.unwrap_or_else(|wrong| format!("FAILED {wrong}")));
    }
    assert_eq!(failed, 0, "jobs failed");
}
