//! Torture: the real program is killed, again and again, at every step and at any moment; what it
//! has published in the end is held against what its journal took, and that against what was sent.
//!
//! A chain is a directory, a source that sends numbered words for as long as anyone listens, and a
//! number of lives of the program. All that is random comes from a seed, which a failure shows.
//! `WORDTIDE_TORTURE=<chains>` runs more of them, `WORDTIDE_SEED=<seed>` begins with another.

/// A disk that loses power.
mod disk;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use wordtide::internals::crash_points::POINTS;
use wordtide::internals::journal::{Facts, Journal, JournalSettings, Record};

use crate::cluster_program::Addresses;
use crate::oracle::{self, Counts};
use crate::rig::{Output, Peer, Rig, Running, Server, random, side_by_side};
use disk::Disk;

const INTERVAL_MS: u64 = 60;
const PARTS: u32 = 3;
const JOURNAL_MAX: u64 = 6 << 20;

const WORDCOUNT: &str = "network_wordcount";
/// Definitions whose results hang on epochs that no journal has any more.
const WITH_MEMORY: [&str; 3] = [
    "running_totals",
    "running_totals --emit changes",
    "sliding_windows --window 240ms --slide 120ms",
];

/// The forms of objects. A chain has one of them.
const FORMS: [&str; 5] = [
    "--format tsv",
    "--format parquet --layout hive --time-zone Europe/Berlin",
    "--format tsv --compress zstd",
    "--format tsv --compress gzip --layout hive",
    "--format parquet",
];

/// How a life ends.
#[derive(Clone, Debug, Default)]
struct Life {
    /// `name:pass` of a crash point; killed from outside where none.
    point: Option<String>,
    /// How many processes live it; 0 is one.
    processes: usize,
    /// True if it sees many epochs.
    is_long: bool,
    /// True if the machine goes with it, and what was not yet on the disk.
    loses_power: bool,
}

/// A source that keeps no line it has sent.
struct Sender {
    server: Server,
    seed: u64,
    next: u64,
    /// The bytes that were sent on each connection; of the last write perhaps not all arrived.
    sent: Vec<Vec<u8>>,
}

impl Sender {
    fn accept(&mut self) -> Peer {
        self.sent.push(Vec::new());
        self.server.accept()
    }

    /// Sends some lines, and the beginning of one more.
    fn send(&mut self, peer: &mut Peer) -> bool {
        let log = self.sent.last_mut().expect("connected");
        let mut text = Vec::new();
        if log.last().is_some_and(|byte| *byte != b'\n') {
            // The rest of the line that was begun.
            text.extend_from_slice(b"e\n");
        }
        for _ in 0..random(&mut self.seed) % 800 {
            text.extend_from_slice(
                format!("{:011} {:011}\n", self.next, self.next % 97).as_bytes(),
            );
            self.next += 1;
        }
        text.extend_from_slice(format!("{:011}begun", self.next).as_bytes());
        self.next += 1;
        log.extend_from_slice(&text);
        peer.try_send(&text)
    }
}

struct Chain {
    definition: &'static str,
    /// The names and bytes of its objects.
    form: &'static str,
    rig: Rig,
    disk: Option<Disk>,
    sender: Sender,
    threads: usize,
    committed: BTreeMap<PathBuf, u64>,
}

impl Chain {
    fn new(seed: u64, definition: &'static str) -> Chain {
        let sender = Sender { server: Server::new(), seed, next: 0, sent: Vec::new() };
        let (rig, committed) = (Rig::new(), BTreeMap::new());
        let form = FORMS[random(&mut { seed }) as usize % FORMS.len()];
        Chain { definition, form, rig, disk: None, sender, threads: 1, committed }
    }

    /// Starts a life; the first process is the one that reads.
    fn start(&mut self, life: &Life) -> Vec<Running> {
        // Another number of workers at each start: the bytes must not depend on it.
        self.threads = 1 + self.threads % 3;
        let flags = format!(
            "--interval {INTERVAL_MS}ms --parts {PARTS} -w {} {} --to out/c --state state \
             --keep-journal --journal-max {JOURNAL_MAX}",
            self.threads, self.form
        );
        let run = format!("run {} {} {flags}", self.definition, self.sender.server.flag());
        let processes = life.processes.max(1);
        let addresses = Addresses::new(processes);
        let start = |process| {
            let place = if processes > 1 { addresses.flags(process) } else { String::new() };
            let arguments = format!("{run} {place}");
            let mut program = match &self.disk {
                Some(disk) => disk.wordtide(&self.rig, &arguments),
                None => self.rig.wordtide(&arguments),
            };
            if let Some(point) = &life.point {
                program = program.env("WORDTIDE_CRASH_POINT", point);
            }
            program.start()
        };
        (0..processes).map(start).collect()
    }

    /// One life that ends badly.
    fn live(&mut self, life: &Life) -> Result<(), String> {
        let mut programs = self.start(life);
        let program = &programs[0];
        let rounds = if life.is_long { 20 } else { 1 + random(&mut self.sender.seed) % 6 };
        // A slow machine cuts few epochs with lines, so a long life also waits for the merge.
        let most = if life.is_long { 10 * rounds } else { rounds };
        // It may die before it connects.
        if program.lives_until("connected to") {
            let mut peer = self.sender.accept();
            for round in 0..most {
                if round >= rounds && self.is_merged() {
                    break;
                }
                let sent = self.sender.send(&mut peer);
                let waits = life.is_long || !random(&mut self.sender.seed).is_multiple_of(3);
                if !sent || waits && !program.lives_until_commits(round as usize + 1) {
                    break;
                }
            }
        }
        let victim = random(&mut self.sender.seed) as usize % programs.len();
        let victim = programs.swap_remove(victim);
        match &self.disk {
            Some(disk) if life.loses_power => disk.lose_power(&self.rig, victim),
            _ => drop(victim), // kills it
        }
        for survivor in programs {
            survivor.end(); // by itself
        }
        self.look()
    }

    /// The last life, which ends well.
    fn finish(&mut self) -> Result<(), String> {
        let program = self.start(&Life::default()).swap_remove(0);
        if !program.lives_until("connected to") {
            return Err(format!("it did not start:\n{}", program.end()));
        }
        let mut peer = self.sender.accept();
        self.sender.send(&mut peer);
        if !program.lives_until_commits(2) {
            return Err(format!("it ended too early:\n{}", program.end()));
        }
        program.signal(Signal::TERM);
        let ended = program.end();
        let text = ended.to_string();
        if !text.contains("exit code Some(0)") {
            return Err(format!("it ended badly: {text}"));
        }
        if let Some(disk) = &self.disk {
            disk.take_out(&self.rig);
        }
        self.look()
    }

    /// Fails if anything that was committed has been touched since.
    fn look(&mut self) -> Result<(), String> {
        let found = committed_files(&self.rig.path("out"));
        for (path, file) in &self.committed {
            if found.get(path) != Some(file) {
                return Err(format!("{} was committed and has changed", path.display()));
            }
        }
        self.committed = found;
        Ok(())
    }

    fn verify(&self) -> Result<(), String> {
        let streams = self.journaled();
        let mut sent = self.sender.sent.iter();
        for stream in streams.values() {
            if !sent.any(|sent| sent.starts_with(stream)) {
                return Err(format!("{} bytes in the journal were not sent so", stream.len()));
            }
        }
        let mut expected = Counts::new();
        for stream in streams.values() {
            for (word, count) in oracle::count(stream, oracle::words_python) {
                *expected.entry(word).or_default() += count;
            }
        }
        let output = self.rig.output("out/c");
        if !output.uncommitted.is_empty() {
            return Err(format!("epochs without a marker: {:?}", output.uncommitted));
        }
        let counts = match self.definition {
            WORDCOUNT => output.counts(),
            "running_totals" => output.newest().counts(),
            // Only the replay can show that each epoch is right.
            _ => return Ok(()),
        };
        if !self.is_merged() {
            return Err("nothing was merged yet, so it proves little".to_owned());
        }
        let wrong = expected.iter().find(|(word, count)| counts.get(*word) != Some(count));
        let alien = counts.keys().find(|word| !expected.contains_key(*word));
        match (wrong, alien) {
            (None, None) => Ok(()),
            (Some((word, count)), _) => Err(format!(
                "{:?} is {:?} in the output, {count} in the journal",
                String::from_utf8_lossy(word),
                counts.get(word)
            )),
            (_, Some(word)) => Err(format!("{:?} was never read", String::from_utf8_lossy(word))),
        }
    }

    /// Returns true if the changelog has a base, or the definition has no changelog.
    fn is_merged(&self) -> bool {
        let is_base = |name: &String| name.ends_with(".base");
        self.definition == WORDCOUNT || self.rig.tree().iter().any(is_base)
    }

    /// Runs the kept journal again: every epoch must come out byte for byte.
    fn replay(&self) -> Result<(), String> {
        let state = self.rig.path("state");
        // In one process and in two by turns, not as it was.
        let processes = 1 + self.threads % 2;
        let flags =
            format!("--interval {INTERVAL_MS}ms -w 2 -n {processes} {} --to again/c", self.form);
        let ended =
            self.rig.run(&format!("replay {} {} {flags}", state.display(), self.definition));
        let (first, again) = (self.rig.output("out/c"), self.rig.output("again/c"));
        let parts = |output: &Output| -> Vec<_> {
            output.epochs.iter().map(|(epoch, of)| (*epoch, of.stored.clone())).collect()
        };
        if parts(&first) == parts(&again) {
            Ok(())
        } else {
            Err(format!("replayed otherwise\n{ended}"))
        }
    }

    /// The bytes that the journal took, by connection. Nothing of it was deleted.
    fn journaled(&self) -> BTreeMap<u64, Vec<u8>> {
        let state = std::fs::read_dir(self.rig.path("state")).expect("a state");
        let folder = state
            .map(|entry| entry.expect("an entry").path())
            .find(|path| path.join("lock").exists())
            .expect("a journal");
        let facts = Facts {
            source: format!("127.0.0.1:{}", self.sender.server.port()),
            parts: PARTS,
            interval_ms: INTERVAL_MS,
        };
        let settings = JournalSettings { keep_journal: true, ..JournalSettings::default() };
        let (journal, found) = Journal::open(&folder, settings, facts).expect("a sound journal");
        let mut reader = journal.reader(found.first);
        let mut streams: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        while let Some(entry) = reader.next().expect("a sound record") {
            if let Record::Data { connection, bytes } = entry.record {
                streams.entry(connection).or_default().extend_from_slice(bytes);
            }
        }
        streams
    }
}

/// The files of committed epochs; a file that was written again is another one.
fn committed_files(out: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    let mut folders = vec![out.to_owned()];
    while let Some(folder) = folders.pop() {
        let is_committed = folder.join("_SUCCESS").exists();
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let entry = entry.expect("an entry");
            let metadata = entry.metadata().expect("a file");
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if is_committed {
                files.insert(entry.path(), metadata.ino());
            }
        }
    }
    files
}

/// Runs a chain of lives and then one that ends well; returns what is wrong with the result.
fn run(seed: u64, definition: &'static str, lives: &[Life]) -> Result<(), String> {
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let mut chain = Chain::new(seed, definition);
        if lives.iter().any(|life| life.loses_power) {
            chain.disk = Some(Disk::new(&chain.rig)?);
        }
        lives.iter().try_for_each(|life| chain.live(life))?;
        chain.finish()?;
        chain.verify()?;
        chain.replay()
    }));
    judged.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
    })
}

fn pass(seed: u64, definition: &'static str, lives: &[Life]) {
    if let Err(wrong) = run(seed, definition, lives) {
        panic!("WORDTIDE_SEED={seed} {definition}: {wrong}\nlives: {lives:#?}");
    }
}

fn seed() -> u64 {
    std::env::var("WORDTIDE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

fn chains(short: u64) -> u64 {
    std::env::var("WORDTIDE_TORTURE").ok().and_then(|chains| chains.parse().ok()).unwrap_or(short)
}

fn at(point: &str, pass: u64) -> Life {
    Life { point: Some(format!("{point}:{pass}")), ..Life::default() }
}

#[test]
fn kill_at_any_moment_loses_nothing() {
    let seeds = (0..chains(6)).map(|chain| seed() + 1_000 * chain).collect();
    side_by_side(seeds, |seed| pass(seed, WORDCOUNT, &vec![Life::default(); 5]));
}

#[test]
fn kill_of_one_process_loses_nothing() {
    let seeds = (0..chains(2)).map(|chain| seed() + 1_000 * chain).collect();
    let lives = [3, 2, 1, 3].map(|processes| Life { processes, ..Life::default() });
    side_by_side(seeds, |seed| pass(seed, WORDCOUNT, &lives));
}

#[test]
fn power_loss_takes_only_unpublished_lines() {
    if let Err(why) = Disk::new(&Rig::new()) {
        eprintln!("SKIPPED: cannot mount a file system of our own here: {why}");
        return;
    }
    let lives = vec![Life { loses_power: true, ..Life::default() }; 5];
    let seeds = (0..chains(2)).map(|chain| seed() + 1_000 * chain).collect();
    side_by_side(seeds, |seed| pass(seed, WORDCOUNT, &lives));
}

#[test]
fn end_at_every_step_loses_nothing() {
    let mut seed = seed();
    let mut chains = Vec::new();
    for points in POINTS.chunks(3) {
        let mut lives = Vec::new();
        for point in points {
            lives.push(at(point, 1 + random(&mut seed) % 4));
            let recovery = POINTS[random(&mut seed) as usize % POINTS.len()];
            lives.push(at(recovery, 1));
        }
        chains.push((random(&mut seed), lives));
    }
    side_by_side(chains, |(seed, lives)| pass(seed, WORDCOUNT, &lives));
}

#[test]
fn totals_and_windows_survive_any_end() {
    let mut seed = seed();
    let points = POINTS.iter().filter(|point| point.starts_with("changelog.")).chain([
        &"output.before_marker",
        &"output.after_marker",
        &"journal.before_committed",
        &"recovery.after_clear",
    ]);
    let points: Vec<_> = points.collect();
    let chain = |definition| {
        // What is kept is merged after some epochs only.
        let mut lives = vec![Life { is_long: true, ..Life::default() }];
        for point in &points {
            let is_long = point.contains("base") || point.contains("forget");
            let pass = if is_long { 1 } else { 1 + random(&mut seed) % 9 };
            lives.push(Life { is_long, ..at(point, pass) });
        }
        (random(&mut seed), definition, lives)
    };
    let chains = WITH_MEMORY.map(chain).to_vec();
    side_by_side(chains, |(seed, definition, lives)| pass(seed, definition, &lives));
}

/// The ends that show a broken rule, each with a definition. `.ci/mutants` breaks one rule after
/// the other and expects a test to fail.
const REVEALING: [(&str, &str); 5] = [
    ("cut.after_complete:2", WORDCOUNT),
    ("output.before_marker:2", WORDCOUNT),
    ("output.after_marker:2", WORDCOUNT),
    ("journal.after_append:3", WORDCOUNT),
    ("journal.after_committed:2", WORDCOUNT),
];

#[test]
fn same_end_again_and_again_loses_nothing() {
    let chains = REVEALING.into_iter().chain([("output.before_marker:2", WITH_MEMORY[0])]);
    side_by_side(chains.collect(), |(point, definition)| {
        // Totals are merged after some epochs only.
        let first = Life { is_long: definition != WORDCOUNT, ..Life::default() };
        let life = Life { point: Some(point.to_owned()), ..Life::default() };
        pass(seed(), definition, &[first, life.clone(), life.clone(), life]);
    });
}
