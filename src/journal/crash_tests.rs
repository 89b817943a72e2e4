//! Random histories on the model disk: whatever is lost, torn or flipped, recovery yields a prefix
//! that holds everything synced. `WORDTIDE_JOURNAL_CASES` sets the number of cases.

use std::sync::Arc;

use proptest::prelude::*;

use super::model_disk::{Dice, End, ModelDisk};
use super::record::CommitNote;
use super::segment::HEADER;
use super::*;
use crate::journal::dump_and_check::inspect;
use crate::lines::StreamEnd;

fn cases() -> u32 {
    let given = std::env::var("WORDTIDE_JOURNAL_CASES").ok();
    given.map_or(2_000, |cases| cases.parse().unwrap())
}

/// The main property has all the cases, the others a quarter of them.
fn config(share: u32) -> ProptestConfig {
    ProptestConfig {
        cases: cases().div_ceil(share),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn settings(sync: SyncPolicy) -> JournalSettings {
    JournalSettings {
        journal_bytes_max: 8 * 8192,
        sync,
        record_bytes_max: 700,
        ..JournalSettings::default()
    }
}

fn open(disk: Arc<ModelDisk>, sync: SyncPolicy) -> Result<(Journal, Recovery)> {
    let budget = Budget::new(&settings(sync), 1)?;
    Journal::open_on(disk, settings(sync), facts(), &budget)
}

fn facts() -> Facts {
    Facts { source: "model".to_owned(), parts: 2, interval_ms: 1000 }
}

#[derive(Clone, Debug)]
enum Action {
    Data(u64, usize),
    Eos(u64),
    LineCut(u64),
    Repeat(u64, usize),
    Producer(u64),
    Mark,
    Sync,
    Tidy,
    SyncRecord,
    /// Commits this many of the open epochs.
    Done(usize),
    Crash(bool, u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        10 => (0..3u64, 1..700usize).prop_map(|(c, n)| Action::Data(c, n)),
        1 => (0..3u64).prop_map(Action::Eos),
        1 => (0..3u64).prop_map(Action::LineCut),
        1 => (0..3u64, 1..700usize).prop_map(|(c, n)| Action::Repeat(c, n)),
        1 => (0..3u64).prop_map(|c| Action::Producer(c | LASTING)),
        3 => Just(Action::Mark),
        3 => Just(Action::Sync),
        3 => Just(Action::Tidy),
        1 => Just(Action::SyncRecord),
        2 => (1..3usize).prop_map(Action::Done),
        1 => (any::<bool>(), any::<u64>()).prop_map(|(power, seed)| Action::Crash(power, seed)),
    ]
}

/// A record as the oracle remembers it.
#[derive(Clone, Debug, PartialEq)]
enum Kept {
    Data(u64, Vec<u8>),
    Eos(u64, StreamEnd),
    LineCut(u64),
    Repeat(u64, u64, Vec<u8>),
    Producer(u64, Vec<u8>),
    EpochEnd(EpochEnd),
    Sync,
    Committed(CommitNote),
}

fn keep(record: &Record<'_>) -> Kept {
    match record {
        Record::Data { connection, bytes } => Kept::Data(*connection, bytes.to_vec()),
        Record::StreamEnd { connection, kind } => Kept::Eos(*connection, *kind),
        Record::LineCut { connection } => Kept::LineCut(*connection),
        Record::Repeat { connection, offset, bytes } => {
            Kept::Repeat(*connection, *offset, bytes.to_vec())
        }
        Record::Producer { connection, name } => Kept::Producer(*connection, name.to_vec()),
        Record::EpochEnd { end, .. } => Kept::EpochEnd(end.clone()),
        Record::Synced { .. } => Kept::Sync,
        Record::Committed { note, .. } => Kept::Committed(note.clone()),
    }
}

/// The journal under test and, beside it, a list of all that was ever appended.
struct Run {
    disk: ModelDisk,
    sync: SyncPolicy,
    journal: Option<Journal>,
    log: Vec<(u64, u64, Kept)>,
    tail: u64,
    /// As `sync` has returned it.
    synced: u64,
    /// The synced positions that records state, with the ends of these records.
    promises: Vec<(u64, u64)>,
    epoch: u64,
    fill: u8,
}

impl Run {
    fn new(sync: SyncPolicy) -> Run {
        let disk = ModelDisk::default();
        let opened = open(Arc::new(disk.clone()), sync).unwrap();
        assert!(opened.1.created);
        Run {
            disk,
            sync,
            journal: Some(opened.0),
            log: Vec::new(),
            tail: 0,
            synced: 0,
            promises: Vec::new(),
            epoch: 1000,
            fill: 0,
        }
    }

    fn note(&mut self, appended: Append, kept: Kept) {
        if let Append::Stored { position, end } = appended {
            assert_eq!(position.0, self.tail);
            self.tail = end.0;
            if matches!(kept, Kept::EpochEnd(_) | Kept::Sync | Kept::Committed(_)) {
                // What this process knows, not what an earlier one has learned.
                let journal = self.journal.as_ref().unwrap();
                let synced = journal.syncer().synced_through().0;
                self.promises.push((end.0, synced));
            }
            self.log.push((position.0, end.0, kept));
            if self.sync == SyncPolicy::Always {
                self.synced = self.tail;
            }
        }
    }

    fn act(&mut self, action: &Action) {
        let journal = self.journal.as_mut().unwrap();
        match *action {
            Action::Data(connection, bytes) => {
                self.fill = self.fill.wrapping_add(1);
                let bytes = vec![self.fill; bytes];
                let appended = journal.append_data(connection, &bytes).unwrap();
                self.note(appended, Kept::Data(connection, bytes));
            }
            Action::Eos(connection) => {
                let appended = journal.append_stream_end(connection, StreamEnd::Fin).unwrap();
                self.note(appended, Kept::Eos(connection, StreamEnd::Fin));
            }
            Action::LineCut(connection) => {
                let appended = journal.append_line_cut(connection).unwrap();
                self.note(appended, Kept::LineCut(connection));
            }
            Action::Repeat(connection, bytes) => {
                let bytes = vec![7; bytes];
                let appended = journal.append_repeat(connection, 9, &bytes).unwrap();
                self.note(appended, Kept::Repeat(connection, 9, bytes));
            }
            Action::Producer(connection) => {
                let appended = journal.append_producer(connection, b"host").unwrap();
                self.note(appended, Kept::Producer(connection, b"host".to_vec()));
            }
            Action::Mark => {
                let cut = journal.tail();
                let mark = EpochEnd {
                    epoch: self.epoch,
                    next_epoch: self.epoch + 1000,
                    cut,
                    resume: Resume::at(cut),
                };
                let appended = journal.append_epoch_end(&mark).unwrap();
                if let Append::Stored { .. } = appended {
                    self.epoch += 1000;
                }
                self.note(appended, Kept::EpochEnd(mark));
            }
            Action::Sync => {
                let synced = journal.syncer().sync().unwrap().0;
                assert!(self.sync == SyncPolicy::Never || synced == self.tail);
                self.synced = synced;
            }
            Action::Tidy => drop(journal.syncer().tidy().unwrap()),
            Action::SyncRecord => {
                let appended = journal.append_synced().unwrap();
                self.note(appended, Kept::Sync);
            }
            Action::Done(count) => {
                let open = open_epochs(&self.log);
                if let Some(mark) = open.get(count.min(open.len()).wrapping_sub(1)) {
                    let done = CommitNote { epoch: mark.epoch, resume: mark.resume.clone() };
                    let appended = journal.append_committed(mark.epoch).unwrap().unwrap();
                    self.note(appended, Kept::Committed(done));
                }
            }
            Action::Crash(power, seed) => {
                let end = if power { End::PowerLoss } else { End::Kill };
                self.crash(end, &mut Dice(seed));
            }
        }
        assert!(self.disk.bytes_held() <= settings(self.sync).journal_bytes_max);
    }

    /// Ends the run and starts the next one, which must find a prefix with everything synced.
    fn crash(&mut self, end: End, dice: &mut Dice) {
        self.journal = None;
        self.disk = self.disk.after(end, dice);
        let disk = Arc::new(self.disk.clone());
        let (journal, recovery) = open(disk, self.sync).unwrap();
        let tail = recovery.tail.0;
        assert!(tail >= self.synced, "synced through {}, found {tail}", self.synced);
        assert!(end == End::PowerLoss || tail == self.tail, "a kill lost something");
        self.cut_oracle(&recovery);
        self.check(&journal, &recovery);
        for &connection in &recovery.crashed_connections {
            let (position, eos) = (self.tail, Kept::Eos(connection, StreamEnd::Crash));
            let end = position + 9 + 4 + 8 + 1;
            self.log.push((position, end, eos));
            self.tail = end;
        }
        assert_eq!(journal.tail().0, self.tail);
        self.journal = Some(journal);
    }

    fn cut_oracle(&mut self, recovery: &Recovery) {
        let tail = recovery.tail.0;
        self.log.retain(|(_, end, _)| *end <= tail);
        let boundary = self.log.last().map_or(0, |(_, end, _)| *end);
        assert_eq!(boundary, tail, "the tail is not the end of a record");
        self.tail = tail;
        let last = self.log.iter().rev().find_map(|(_, _, kept)| match kept {
            Kept::EpochEnd(mark) => Some(mark.epoch),
            _ => None,
        });
        self.epoch = last.unwrap_or(0) + 1000;
        self.promises.retain(|(end, _)| *end <= tail);
    }

    /// Everything from the resume position on is what was appended, and the marks and Committed
    /// record are known.
    fn check(&self, journal: &Journal, recovery: &Recovery) {
        assert_eq!(recovery.open_epochs, open_epochs(&self.log));
        assert_eq!(recovery.last_committed, last_committed(&self.log));
        assert_eq!(recovery.crashed_connections, open_connections(&self.log));
        let resume = recovery.resume.position.0;
        let mut reader = journal.reader(recovery.resume.position);
        for (position, end, kept) in self.log.iter().filter(|(p, ..)| *p >= resume) {
            let entry = reader.next().unwrap().expect("a record that was appended");
            assert_eq!((entry.position.0, entry.end.0), (*position, *end));
            assert_eq!(keep(&entry.record), *kept);
        }
        for &connection in &recovery.crashed_connections {
            let entry = reader.next().unwrap().unwrap();
            assert_eq!(keep(&entry.record), Kept::Eos(connection, StreamEnd::Crash));
        }
        assert!(reader.next().unwrap().is_none());
    }
}

fn last_committed(log: &[(u64, u64, Kept)]) -> Option<CommitNote> {
    log.iter().rev().find_map(|(_, _, kept)| match kept {
        Kept::Committed(done) => Some(done.clone()),
        _ => None,
    })
}

fn open_epochs(log: &[(u64, u64, Kept)]) -> Vec<EpochEnd> {
    let done = last_committed(log).map_or(0, |done| done.epoch);
    let marks = log.iter().filter_map(|(_, _, kept)| match kept {
        Kept::EpochEnd(mark) if mark.epoch > done => Some(mark.clone()),
        _ => None,
    });
    marks.collect()
}

fn open_connections(log: &[(u64, u64, Kept)]) -> Vec<u64> {
    let mut open = Vec::new();
    for (_, _, kept) in log {
        match kept {
            Kept::Data(connection, _) if !open.contains(connection) => open.push(*connection),
            Kept::Eos(connection, _) => open.retain(|c| c != connection),
            _ => {}
        }
    }
    open.sort_unstable();
    open
}

/// A loss of power may leave a segment shorter that was never synced. Bytes in it that are synced
/// later must not make it count as truncated.
#[test]
fn short_segment_gets_its_length_back() {
    let mut run = Run::new(SyncPolicy::Epoch);
    let mut count = 0;
    while run.disk.segment_names().len() < 2 {
        run.act(&Action::Data(0, 600));
        count += 1;
        assert!(count < 100, "no second segment");
    }
    let name = run.disk.segment_names().pop().unwrap();
    run.journal = None;
    // The header and the first record are there, and room for more; the length is not.
    run.disk.tamper(&name, |bytes| bytes.truncate(HEADER as usize + 2_000));
    run.crash(End::Kill, &mut Dice(1));
    for action in [Action::Sync, Action::Mark] {
        run.act(&action);
    }
    run.crash(End::Kill, &mut Dice(2));
    run.crash(End::PowerLoss, &mut Dice(3));
}

proptest! {
    #![proptest_config(config(1))]

    #[test]
    fn crashed_log_is_prefix_with_all_synced(
        always in any::<bool>(),
        actions in prop::collection::vec(action(), 1..120),
        seed in any::<u64>(),
    ) {
        let sync = if always { SyncPolicy::Always } else { SyncPolicy::Epoch };
        let mut run = Run::new(sync);
        for action in &actions {
            run.act(action);
        }
        run.crash(End::PowerLoss, &mut Dice(seed));
        run.crash(End::PowerLoss, &mut Dice(seed ^ 1));
    }

}

proptest! {
    #![proptest_config(config(4))]

    #[test]
    fn without_syncs_a_killed_process_still_loses_nothing(
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let mut run = Run::new(SyncPolicy::Never);
        for action in &actions {
            match action {
                Action::Crash(_, seed) => run.crash(End::Kill, &mut Dice(*seed)),
                other => run.act(other),
            }
        }
        run.crash(End::Kill, &mut Dice(0));
    }

    #[test]
    fn flipped_bit_is_never_taken_for_data(
        actions in prop::collection::vec(action(), 1..120),
        seed in any::<u64>(),
    ) {
        let mut run = Run::new(SyncPolicy::Epoch);
        for action in &actions {
            run.act(action);
        }
        run.journal = None;
        let mut dice = Dice(seed);
        let disk = run.disk.after(End::Kill, &mut dice);
        let names = disk.segment_names();
        let name = &names[dice.below(names.len())];
        disk.tamper(name, |bytes| {
            let bit = dice.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        });
        inspect(&disk, true, &mut Vec::new()).ok();
        let opened = open(Arc::new(disk), SyncPolicy::Epoch);
        let (journal, recovery) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::Disk);
                return Ok(());
            }
        };
        let promised = run.promises.iter().map(|(_, synced)| *synced).max().unwrap_or(0);
        prop_assert!(recovery.tail.0 >= promised, "what was promised is gone, and nobody said so");
        let mut reader = journal.reader(recovery.resume.position);
        let from = recovery.resume.position.0;
        let held = |at: &u64| (from..recovery.tail.0).contains(at);
        for (position, _, kept) in run.log.iter().filter(|(at, ..)| held(at)) {
            match reader.next() {
                Ok(entry) => {
                    let entry = entry.expect("a record below the tail");
                    prop_assert_eq!(entry.position.0, *position);
                    prop_assert_eq!(&keep(&entry.record), kept);
                }
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::Disk);
                    return Ok(());
                }
            }
        }
    }

    #[test]
    fn no_hostile_file_makes_recovery_panic(
        actions in prop::collection::vec(action(), 1..60),
        garbage in prop::collection::vec(any::<u8>(), 0..3000),
        at in any::<prop::sample::Index>(),
        kind in 0..4u8,
    ) {
        let mut run = Run::new(SyncPolicy::Epoch);
        for action in &actions {
            run.act(action);
        }
        run.journal = None;
        let disk = run.disk.after(End::Kill, &mut Dice(0));
        let names = disk.segment_names();
        disk.tamper(&names[at.index(names.len())], |bytes| {
            let from = at.index(bytes.len());
            match kind {
                0 => bytes.truncate(from),
                1 => bytes.fill(0),
                2 => bytes.splice(..0, garbage.iter().copied()).for_each(drop),
                _ => {
                    let end = (from + garbage.len()).min(bytes.len());
                    bytes[from..end].copy_from_slice(&garbage[..end - from]);
                }
            }
        });
        inspect(&disk, true, &mut Vec::new()).ok();
        let opened = open(Arc::new(disk), SyncPolicy::Epoch);
        if let Ok((journal, recovery)) = opened {
            let mut reader = journal.reader(recovery.first);
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
