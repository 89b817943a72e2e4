//! Schedules: two jobs that want one prefix, at random, from one seed.
//!
//! Each job has a state, a source and lines of numbered words. They start together or one after the
//! other, with `--take-over` or without; the owner is halted, killed or stopped, and starts again,
//! or the other does. The one that loses the prefix must end with 78 and name the owner. In the end
//! the lines of both are finished. Then no epoch holds words of both jobs, no committed object has
//! changed, and of each connection a beginning was published, each word once.
//!
//! `WORDTIDE_SCHEDULES=COUNT` runs more of them, `WORDTIDE_SEED=N` begins with another seed,
//! `WORDTIDE_TEST_PROGRAM=PATH` takes another program than that which was built with the tests.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rustix::process::Signal;

use crate::rig::{Ended, Output, Peer, Rig, Running, Server, random, side_by_side};
use crate::soak::place::{CommittedObjects, Place};
use crate::store::oss_double::{Conditions, OssDouble};

/// How the store treats two that create one object.
const PLACES: [&str; 5] = ["local", "oss", "s3", "s3 that ignores", "s3 that lacks"];

/// One connection of a job's source.
#[derive(Debug, Default)]
struct Connection {
    /// Words that were given to the kernel.
    sent: u64,
    /// All of them must be published: the program was stopped in good order after they came.
    is_finished: bool,
}

/// One of the two jobs.
struct Contender {
    name: &'static str,
    server: Server,
    peer: Option<Peer>,
    program: Option<Running>,
    connections: Vec<Connection>,
    /// Journals that were given up, after their lines were published elsewhere.
    abandoned: Vec<String>,
    /// Lines of this job may wait in its journal.
    is_unfinished: bool,
}

impl Contender {
    fn new(name: &'static str) -> Contender {
        Contender {
            name,
            server: Server::new(),
            peer: None,
            program: None,
            connections: Vec::new(),
            abandoned: Vec::new(),
            is_unfinished: false,
        }
    }

    fn word(&self, connection: usize, number: u64) -> String {
        format!("{}{connection:03}-{number:05}", self.name)
    }

    /// Takes the connection of a program that has reported it.
    fn accept(&mut self) {
        self.peer = Some(self.server.accept());
        self.connections.push(Connection::default());
        self.is_unfinished = true;
    }

    /// Sends so many lines and returns the last word.
    fn send(&mut self, lines: u64) -> String {
        let at = self.connections.len() - 1;
        let sent = self.connections[at].sent;
        let words: Vec<String> = (sent..sent + lines).map(|n| self.word(at, n)).collect();
        if let Some(peer) = &mut self.peer {
            peer.send(words.iter().map(|word| format!("{word}\n")).collect::<String>());
        }
        self.connections[at].sent += lines;
        words.last().cloned().unwrap_or_default()
    }

    fn running(&self) -> &Running {
        self.program.as_ref().expect("it runs")
    }
}

struct Schedule {
    seed: u64,
    kind: usize,
    rig: Rig,
    place: Place,
    jobs: [Contender; 2],
    /// The job that owns the prefix.
    owner: usize,
    committed: CommittedObjects,
    actions: Vec<String>,
}

impl Schedule {
    fn new(seed: u64) -> Schedule {
        let kind = seed as usize % PLACES.len();
        let place = match kind {
            0 => Place::Local,
            1 => Place::Oss(OssDouble::start()),
            _ => Place::S3(OssDouble::start()),
        };
        let conditions = [Conditions::Honour, Conditions::Ignore, Conditions::Lack];
        if let Some(double) = place.double().filter(|_| kind >= 2) {
            double.conditions(conditions[kind - 2]);
        }
        Schedule {
            seed,
            kind,
            rig: Rig::new(),
            place,
            jobs: [Contender::new("a"), Contender::new("b")],
            owner: 0,
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

    /// Returns whether the store refuses to create what exists.
    fn is_strict(&self) -> bool {
        self.kind < 3
    }

    fn is_local(&self) -> bool {
        self.kind == 0
    }

    fn spawn(&mut self, job: usize, take_over: bool) -> Running {
        let contender = &self.jobs[job];
        let abandoned = contender.abandoned.iter().map(|id| format!(" --abandon-journal {id}"));
        let arguments = format!(
            "run {} --interval 50ms --format tsv --parts 2 --state {}{}{}",
            contender.server.flag(),
            contender.name,
            if take_over { " --take-over" } else { "" },
            abandoned.collect::<String>(),
        );
        self.actions.push(format!("start {}, take over: {take_over}", contender.name));
        self.place.wordtide(&self.rig, &[], &arguments).start()
    }

    /// Starts a job that must get the prefix. Lines that are refused here are published elsewhere.
    fn begin(&mut self, job: usize, take_over: bool) -> Result<(), String> {
        loop {
            let program = self.spawn(job, take_over);
            if program.lives_until("connected to") {
                if !self.is_strict() && !program.stderr().contains("cannot keep a second job") {
                    return Err("a store that cannot tell two jobs apart is not reported".into());
                }
                self.jobs[job].program = Some(program);
                self.jobs[job].accept();
                self.owner = job;
                return Ok(());
            }
            let text = program.end().expect(78).to_string();
            let Some((_, rest)) = text.rsplit_once("--abandon-journal ") else {
                return Err(format!("it did not start: {text}"));
            };
            let (name, id) = (self.jobs[job].name, rest[..32].to_owned());
            self.act(format!("{name} publishes elsewhere"));
            let number = self.jobs[job].abandoned.len();
            let to = format!("elsewhere/{name}{number}");
            self.rig
                .run(&format!("replay {name} --interval 50ms --format tsv --to {to}"))
                .expect(0);
            self.jobs[job].abandoned.push(id);
        }
    }

    /// A job that is not the owner starts and must be refused, with the name of the owner.
    fn rival(&mut self) -> Result<(), String> {
        let other = 1 - self.owner;
        // A local prefix has a lock, which cannot be taken from a running process.
        let take_over = self.is_local() && self.below(2) == 0;
        let ended = self.spawn(other, take_over).end();
        self.is_refused(&ended, self.owner)
    }

    /// Fails unless a program ended with 78 and named the process of `owner`.
    fn is_refused(&self, ended: &Ended, owner: usize) -> Result<(), String> {
        let pid = format!("process {}", self.jobs[owner].running().pid());
        let text = ended.to_string();
        if ended.code() == Some(78) && text.contains(&pid) { Ok(()) } else { Err(text) }
    }

    /// The other job takes the prefix from the owner, which may be halted meanwhile.
    fn take_over(&mut self, is_halted: bool, is_forced: bool) -> Result<(), String> {
        let (old, new) = (self.owner, 1 - self.owner);
        self.act(format!("taken over, halted: {is_halted}, forced: {is_forced}"));
        let is_halted = is_halted && self.jobs[old].running().halt();
        if is_halted {
            // These wait in the kernel, or are lost with the process.
            self.jobs[old].send(1);
        }
        self.begin(new, is_forced)?;
        let program = self.jobs[old].program.take().expect("it runs");
        if is_halted {
            program.signal(Signal::CONT);
        }
        self.jobs[old].peer = None;
        self.is_refused(&program.end(), new)
    }

    /// The owner ends by `signal`; then it starts again, or the other does.
    fn restart(&mut self, signal: Signal) -> Result<(), String> {
        let old = self.owner;
        self.end(signal)?;
        let new = if self.below(2) == 0 { old } else { 1 - old };
        let is_forced = self.below(4) == 0;
        self.begin(new, is_forced)
    }

    fn end(&mut self, signal: Signal) -> Result<(), String> {
        self.act(format!("{} gets {signal:?}", self.jobs[self.owner].name));
        let job = &mut self.jobs[self.owner];
        let program = job.program.take().expect("it runs");
        program.signal(signal);
        let ended = program.end();
        job.peer = None;
        if signal == Signal::KILL {
            return Ok(());
        }
        if let Some(last) = job.connections.last_mut() {
            last.is_finished = true;
        }
        job.is_unfinished = false;
        if ended.code() == Some(0) { Ok(()) } else { Err(ended.to_string()) }
    }

    /// The owner sends some lines, and the last is published or not yet.
    fn feed(&mut self) -> Result<(), String> {
        let (lines, waits) = (1 + self.below(4), self.below(3) > 0);
        let word = self.jobs[self.owner].send(lines);
        let mut epochs = 0;
        while waits && !self.publishes(&word) {
            epochs += 1;
            if !self.jobs[self.owner].running().lives_until_commits(epochs) {
                return Err(format!("{word} is never published"));
            }
        }
        Ok(())
    }

    fn publishes(&self, word: &str) -> bool {
        let row = format!("{word}\t1\n");
        let has_row = |bytes: &Vec<u8>| bytes.windows(row.len()).any(|part| part == row.as_bytes());
        self.place.objects(&self.rig).values().any(has_row)
    }

    /// One thing that happens to the prefix.
    fn step(&mut self) -> Result<(), String> {
        self.feed()?;
        match self.below(8) {
            0 => self.rival()?,
            1 | 2 if !self.is_local() => self.take_over(false, true)?,
            // What an owner had sent before it was halted may replace an object afterwards, where
            // the store does not refuse that. The program warns of it.
            3 | 4 if !self.is_local() && self.is_strict() => {
                let is_forced = self.below(2) == 0;
                self.take_over(true, is_forced)?;
            }
            5 => {
                self.act("halted for a moment");
                let pause = Duration::from_millis(self.below(300));
                let owner = self.jobs[self.owner].running();
                if owner.halt() {
                    owner.ends_within(pause);
                    owner.signal(Signal::CONT);
                }
            }
            6 => self.restart(Signal::TERM)?,
            _ => self.restart(Signal::KILL)?,
        }
        self.look()
    }

    /// Fails if an object of a committed epoch has changed or is gone.
    fn look(&mut self) -> Result<(), String> {
        self.committed.look(self.place.objects(&self.rig))
    }

    /// Starts both jobs, at once where the store can separate them.
    fn open(&mut self) -> Result<(), String> {
        if !self.is_strict() || self.below(2) == 0 {
            self.begin(0, false)?;
            self.feed()?;
            return self.rival();
        }
        let [first, second] = [0, 1].map(|job| self.spawn(job, false));
        let is_first = first.lives_until("connected to");
        let (program, other) = if is_first { (first, second) } else { (second, first) };
        // A connection that is not reported yet may be given up by a stop, with what it was sent.
        if !program.lives_until("connected to") {
            return Err(format!("neither got the prefix: {}", program.end()));
        }
        self.owner = usize::from(!is_first);
        self.jobs[self.owner].program = Some(program);
        self.jobs[self.owner].accept();
        self.is_refused(&other.end(), self.owner)
    }

    fn run(&mut self) -> Result<(), String> {
        self.open()?;
        for _ in 0..3 + self.below(4) {
            self.step()?;
        }
        self.end(Signal::TERM)?;
        for job in 0..2 {
            if self.jobs[job].is_unfinished {
                self.begin(job, true)?;
                self.end(Signal::TERM)?;
            }
        }
        self.look()?;
        self.verify()
    }

    /// Holds what was published against what was sent.
    fn verify(&self) -> Result<(), String> {
        let output = self.place.output(&self.rig);
        // Parts of an epoch whose journal was given up stay; no marker makes them count.
        let gave_up = self.jobs.iter().any(|job| !job.abandoned.is_empty());
        if !output.uncommitted.is_empty() && !gave_up {
            return Err(format!("epochs without a marker: {:?}", output.uncommitted));
        }
        for (epoch, rows) in &output.epochs {
            let names: BTreeSet<_> = rows.rows().iter().map(|row| row[..1].to_owned()).collect();
            if names.len() > 1 {
                return Err(format!("epoch {epoch} is a mix: {:?}", rows.rows()));
            }
        }
        let counts = output.counts();
        if let Some((word, count)) = counts.iter().find(|(_, count)| **count != 1) {
            return Err(format!("{} was counted {count} times", String::from_utf8_lossy(word)));
        }
        let mut published: BTreeSet<Vec<u8>> = counts.into_keys().collect();
        for job in &self.jobs {
            for number in 0..job.abandoned.len() {
                let name = format!("{}{number}", job.name);
                let elsewhere = Output::read(&self.rig.path("elsewhere"), &name, None);
                published.extend(elsewhere.counts().into_keys());
            }
        }
        let total = published.len();
        let mut found = 0;
        for job in &self.jobs {
            for (at, connection) in job.connections.iter().enumerate() {
                let is_there = |n: &u64| published.contains(job.word(at, *n).as_bytes());
                let counted = (0..connection.sent).filter(is_there).count() as u64;
                let place = format!("job {} connection {at} {connection:?}", job.name);
                if (0..connection.sent).take_while(is_there).count() as u64 != counted {
                    return Err(format!("{place}: a gap"));
                }
                if connection.is_finished && counted != connection.sent {
                    return Err(format!("{place}: only {counted} words are published"));
                }
                found += counted as usize;
            }
        }
        if found == total { Ok(()) } else { Err(format!("{} words were not sent", total - found)) }
    }
}

/// Runs the schedule of a seed; fails with what is wrong and what was done.
fn schedule(seed: u64) -> Result<(), String> {
    let mut schedule = Schedule::new(seed);
    let judged = catch_unwind(AssertUnwindSafe(|| schedule.run()));
    let judged = judged.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
    });
    let (kind, actions) = (PLACES[schedule.kind], &schedule.actions);
    judged.map_err(|wrong| format!("WORDTIDE_SEED={seed} on {kind}: {wrong}\n{actions:#?}"))
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn two_jobs_never_mix_whatever_the_schedule() {
    let (first, count) = (number("WORDTIDE_SEED", 0), number("WORDTIDE_SCHEDULES", 2));
    let failed = std::sync::Mutex::new(Vec::new());
    side_by_side((first..first + count).collect(), |seed| {
        let judged = schedule(seed);
        if let Err(wrong) = &judged {
            eprintln!("FAILED {wrong}");
            failed.lock().expect("no thread panicked").push(seed);
        }
    });
    let failed = failed.into_inner().expect("no thread panicked");
    assert!(failed.is_empty(), "schedules failed: {failed:?}");
}
