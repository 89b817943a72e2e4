//! Ends real processes at every named crash point and looks at what they left.
//!
//! ```text
//! cargo test --features crash-points --lib journal::kill_tests
//! ```
#![cfg(feature = "crash-points")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::crash_points::POINTS;
use crate::lines::StreamEnd;

const CHILD: &str = "WORDTIDE_JOURNAL_CHILD";

fn open(folder: &Path) -> (Journal, Recovery) {
    let settings = JournalSettings {
        journal_bytes_max: 8 * 16384,
        record_bytes_max: 700,
        ..JournalSettings::default()
    };
    let facts = Facts { source: "kill".to_owned(), parts: 1, interval_ms: 1000 };
    Journal::open(&folder.join("source"), settings, facts).unwrap()
}

/// The numbers in the Data of a journal, which must follow one another.
fn numbers(journal: &Journal, from: Position) -> Vec<u64> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut reader = journal.reader(from);
    while let Some(entry) = reader.next().unwrap() {
        if let Record::Data { bytes, .. } = entry.record {
            let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let follows = numbers.last().is_none_or(|last| last + 1 == number);
            assert!(follows, "{number} after {numbers:?}");
            numbers.push(number);
        }
    }
    numbers
}

fn acknowledged(folder: &Path) -> u64 {
    let acks = fs::read(folder.join("acks")).unwrap_or_default();
    let last = acks.chunks_exact(8).last();
    last.map_or(0, |last| u64::from_le_bytes(last.try_into().unwrap()))
}

/// Runs in the child until it is ended: 300 records in ten epochs, most of them committed.
fn run(folder: &Path) {
    let (mut journal, recovery) = open(folder);
    let found = numbers(&journal, recovery.first);
    let mut number = found.last().copied().unwrap_or(0).max(acknowledged(folder));
    let mut epoch = recovery.last_epoch_end.map_or(0, |mark| mark.epoch);
    let acks = fs::OpenOptions::new().create(true).append(true).open(folder.join("acks"));
    let mut acks = acks.unwrap();
    for round in 0..10 {
        let connection = recovery.next_connection + round;
        for _ in 0..30 {
            number += 1;
            let mut bytes = vec![7; 400];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            let taken = journal.append_data(connection, &bytes).unwrap();
            assert!(matches!(taken, Append::Stored { .. }), "the cap is large enough");
            acks.write_all(&number.to_le_bytes()).unwrap();
        }
        assert!(matches!(
            journal.append_stream_end(connection, StreamEnd::Fin),
            Ok(Append::Stored { .. })
        ));
        epoch += 1;
        let cut = journal.tail();
        let mark = EpochEnd { epoch, next_epoch: epoch + 1, cut, resume: Resume::at(cut) };
        assert!(matches!(journal.append_epoch_end(&mark), Ok(Append::Stored { .. })));
        journal.syncer().sync().unwrap();
        assert!(matches!(journal.append_synced(), Ok(Append::Stored { .. })));
        if epoch > 1 {
            assert!(journal.append_committed(epoch - 1).is_ok());
        }
        journal.syncer().sync().unwrap();
        while journal.syncer().tidy().unwrap() {}
    }
}

#[test]
#[ignore = "the child of the test below"]
fn child() {
    run(Path::new(&std::env::var_os(CHILD).expect("started by the test below")));
}

fn child_dies_at(folder: &Path, point: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "journal::kill_tests::child", "--ignored"])
        .env(CHILD, folder)
        .env("WORDTIDE_CRASH_POINT", point)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    std::os::unix::process::ExitStatusExt::signal(&status).is_some()
}

#[test]
fn process_that_dies_loses_and_doubles_nothing() {
    for point in POINTS.iter().filter(|point| point.starts_with("journal.")) {
        for (first, pass) in [("journal.mid_record:45", 1), ("journal.after_committed:3", 2)] {
            let folder = tempfile::tempdir().unwrap();
            assert!(child_dies_at(folder.path(), first));
            let died = child_dies_at(folder.path(), &format!("{point}:{pass}"));
            // Only the first history has a torn tail, and recovery is passed once a life.
            assert!(died || pass == 2 && point.contains("recovery"), "{point} was never passed");
            let (journal, recovery) = open(folder.path());
            let numbers = numbers(&journal, recovery.first);
            let last = numbers.last().copied().unwrap_or(0);
            let acknowledged = acknowledged(folder.path());
            assert!(last == acknowledged || last == acknowledged + 1, "{point}: {last}");
            // What is not committed is all there: marks without a gap up to the last one.
            let done = recovery.last_committed.map_or(0, |done| done.epoch);
            let open: Vec<u64> = recovery.open_epochs.iter().map(|mark| mark.epoch).collect();
            let newest = recovery.last_epoch_end.map_or(0, |mark| mark.epoch);
            assert_eq!(open, (done + 1..=newest).collect::<Vec<u64>>(), "{point}");
            let verdict = check(&folder.path().join("source"), &mut Vec::new()).unwrap();
            assert!(verdict.is_sound(), "{point}: {verdict:?}");
        }
    }
}
