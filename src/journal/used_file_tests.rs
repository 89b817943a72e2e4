//! Tests of segments in files that were segments before: old records stand after the last one.

use std::sync::Arc;

use super::dump_and_check::inspect;
use super::model_disk::{Dice, End, ModelDisk};
use super::segment::{self, HEADER, Header};
use super::*;

/// Bytes of a Data record before the bytes of its connection.
const HEAD: u64 = 17;

fn settings() -> JournalSettings {
    let (journal_bytes_max, record_bytes_max) = (128 << 10, 1000);
    JournalSettings { journal_bytes_max, record_bytes_max, ..JournalSettings::default() }
}

fn open(disk: &ModelDisk) -> (Journal, Recovery) {
    let facts = Facts { source: "used".to_owned(), parts: 2, interval_ms: 1000 };
    let budget = Budget::new(&settings(), 1).unwrap();
    Journal::open_on(Arc::new(disk.clone()), settings(), facts, &budget).unwrap()
}

fn append(journal: &mut Journal, bytes: usize) -> u64 {
    match journal.append_data(1, &vec![b'x'; bytes]).unwrap() {
        Append::Stored { end, .. } => end.0,
        Append::Full(full) => panic!("full: {full:?}"),
    }
}

/// Returns the header of the newest segment, and its name.
fn newest(disk: &ModelDisk) -> (Header, String) {
    let name = disk.segment_names().pop().unwrap();
    let base = segment::base(&name).unwrap();
    let file = disk.open(&name).unwrap();
    (segment::read_header(&file, base).unwrap().unwrap(), name)
}

/// Returns a disk, and a journal that has just begun a segment in a file of old records. Nearly all
/// of them are of `bytes` bytes.
fn used(bytes: usize) -> (ModelDisk, Journal) {
    let disk = ModelDisk::default();
    let (mut journal, _) = open(&disk);
    let mut epoch = 0;
    for round in 0.. {
        append(&mut journal, bytes);
        if round % 50 == 49 {
            epoch += 1000;
            let cut = journal.tail();
            let end = EpochEnd { epoch, next_epoch: epoch + 1000, cut, resume: Resume::at(cut) };
            assert!(matches!(journal.append_epoch_end(&end), Ok(Append::Stored { .. })));
            journal.syncer().sync().unwrap();
            assert!(matches!(journal.append_committed(epoch), Ok(Some(Append::Stored { .. }))));
            journal.syncer().sync().unwrap();
            while journal.syncer().tidy().unwrap() {}
        }
        let (header, _) = newest(&disk);
        if header.holds_old && journal.tail().0 == header.base + HEAD + bytes as u64 {
            return (disk, journal);
        }
    }
    unreachable!("the loop has no end");
}

#[test]
fn kill_leaves_last_record_of_used_file() {
    for bytes in [1, 400, 900] {
        let (disk, mut journal) = used(bytes);
        // Ends of records within a page, at its end, and less than a frame before it.
        for added in [bytes, bytes + 1, 61, 983, 2, 1000, 77] {
            append(&mut journal, added);
            let disk = disk.after(End::Kill, &mut Dice(0));
            let verdict = inspect(&disk, false, &mut Vec::new()).unwrap();
            assert!(verdict.is_sound() && verdict.torn_bytes == 0, "{verdict:?}");
            let (_, recovery) = open(&disk);
            assert_eq!((recovery.tail, recovery.torn_bytes), (journal.tail(), 0));
        }
        for short in 0..12 {
            // The tail stands so many bytes before the end of a page.
            let offset = HEADER + journal.tail().0 - newest(&disk).0.base;
            let page_end = (offset + HEAD + 1 + short).next_multiple_of(4096);
            let mut left = page_end - short - offset;
            while left > 1000 {
                append(&mut journal, 400);
                left -= HEAD + 400;
            }
            append(&mut journal, (left - HEAD) as usize);
            let disk = disk.after(End::Kill, &mut Dice(0));
            let (_, recovery) = open(&disk);
            assert_eq!((recovery.tail, recovery.torn_bytes), (journal.tail(), 0), "{short}");
        }
    }
}

#[test]
fn torn_records_in_used_file_are_counted() {
    let (disk, mut journal) = used(100);
    let first = journal.tail();
    let second = append(&mut journal, 100);
    let last = append(&mut journal, 100);
    let (header, name) = newest(&disk);
    disk.tamper(&name, |bytes| bytes[(HEADER + first.0 - header.base) as usize + 30] ^= 1);
    let verdict = inspect(&disk, false, &mut Vec::new()).unwrap();
    assert_eq!(verdict.torn_bytes, second - first.0, "the check steps over the bad record");
    drop(journal);
    let (_, recovery) = open(&disk);
    assert_eq!((recovery.tail, recovery.torn_bytes), (first, last - first.0));
    assert_eq!(inspect(&disk, false, &mut Vec::new()).unwrap().torn_bytes, 0);
}

#[test]
fn record_after_lost_one_does_not_return() {
    let (disk, mut journal) = used(100);
    let first = journal.tail();
    let lost = append(&mut journal, 200);
    append(&mut journal, 100);
    let (header, name) = newest(&disk);
    disk.tamper(&name, |bytes| {
        let at = (HEADER + first.0 - header.base) as usize;
        bytes[at..at + 200].fill(0);
    });
    drop(journal);
    let (mut journal, recovery) = open(&disk);
    assert_eq!(recovery.tail, first);
    // It ends where the whole record after the lost one begins.
    let gap = lost - journal.tail().0 - HEAD;
    assert_eq!(append(&mut journal, gap as usize), lost);
    drop(journal);
    assert_eq!(open(&disk).1.tail.0, lost);
}
