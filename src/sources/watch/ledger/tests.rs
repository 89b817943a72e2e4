//! Ledgers on a real disk, also on one that is full.

use super::*;
use crate::sources::watch::found_file::FileFacts;

fn file(name: &str, version: u64) -> FoundFile {
    let (version, id) = (Version(version), FileId { inode: version, born_ns: 1 });
    let facts = FileFacts { version, id, bytes: 5, ..FileFacts::default() };
    FoundFile { name: name.into(), facts }
}

/// The file of this version, which had the name `from` and has the name `to`.
fn renamed(from: &str, to: &str, version: u64) -> RenamedFile {
    let (from, state) = (hash_of(from.as_bytes()), file(to, version).facts.state());
    RenamedFile { from, name: to.into(), state }
}

/// The versions of the known files among these.
fn versions<const N: usize>(ledger: &Ledger, names: [&str; N]) -> [Option<u64>; N] {
    names.map(|name| ledger.known.get(&hash_of(name.as_bytes())).map(|known| known.version.0))
}

fn names(ledger: &Ledger) -> Vec<&str> {
    let each = ledger.pending.iter();
    each.map(|begun| std::str::from_utf8(&begun.file.name).expect("text")).collect()
}

fn reopen(folder: &Path) -> Ledger {
    Ledger::open(folder).expect("it is whole").expect("it is there")
}

#[test]
fn ledger_reads_back_what_was_noted() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(Ledger::open(dir.path()).expect("no error").is_none());
    let mut ledger = Ledger::create(Some(dir.path()), &[file("old", 1)]).expect("created");
    assert_eq!(ledger.begin(file("a", 2)).expect("noted"), 0);
    assert_eq!(ledger.begin(file("b", 3)).expect("noted"), 1);
    ledger.forget(file("a", 2).hash()).expect("noted");
    let again = reopen(dir.path());
    assert_eq!(names(&again), ["a", "b"]);
    assert_eq!(again.known.len(), 2, "old and b");
    assert_eq!((again.known(), again.next_number()), (ledger.known(), 2));
}

#[test]
fn torn_end_is_cut_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut ledger = Ledger::create(Some(dir.path()), &[]).expect("created");
    ledger.begin(file("a", 2)).expect("noted");
    ledger.begin(file("b", 3)).expect("noted");
    let path = dir.path().join(FILE);
    let whole = fs::read(&path).expect("a ledger");
    fs::write(&path, &whole[..whole.len() - 1]).expect("torn");
    let mut again = reopen(dir.path());
    assert_eq!(names(&again), ["a"]);
    again.begin(file("c", 4)).expect("noted");
    assert_eq!(names(&reopen(dir.path())), ["a", "c"]);
    fs::write(&path, b"nonsense that is no ledger").expect("damaged");
    assert_eq!(Ledger::open(dir.path()).expect_err("damaged").kind(), ErrorKind::Disk);
}

#[test]
fn forgotten_files_can_be_found_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut ledger = Ledger::create(Some(dir.path()), &[]).expect("created");
    for (name, version) in [("a", 1), ("b", 2), ("c", 3)] {
        ledger.begin(file(name, version)).expect("noted");
    }
    ledger.forget_from(1).expect("rewritten");
    let again = reopen(dir.path());
    assert_eq!(names(&again), ["a"]);
    assert_eq!((again.known.len(), again.next_number()), (1, 3), "numbers are not used twice");
}

#[test]
fn exchanged_names_are_noted_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut ledger = Ledger::create(Some(dir.path()), &[file("old", 9)]).expect("created");
    for (name, version) in [("a", 1), ("b", 2)] {
        ledger.begin(file(name, version)).expect("noted");
    }
    ledger.rename(&[renamed("b", "a", 2), renamed("a", "b", 1)]).expect("noted");
    ledger.rename(&[renamed("old", "older", 9)]).expect("noted");
    for mut ledger in [reopen(dir.path()), ledger] {
        let now = versions(&ledger, ["a", "b", "old", "older"]);
        assert_eq!(now, [Some(2), Some(1), None, Some(9)]);
        assert_eq!(names(&ledger), ["b", "a"], "they are read again under these names");
        ledger.rewrite().expect("rewritten");
        assert_eq!(versions(&reopen(dir.path()), ["a", "b"]), [Some(2), Some(1)]);
    }
}

#[test]
fn renamed_file_whose_reading_is_lost_is_forgotten() {
    let mut ledger = Ledger::create(None, &[file("old", 9)]).expect("in memory");
    ledger.begin(file("a", 1)).expect("noted");
    ledger.rename(&[renamed("a", "b", 1), renamed("old", "a", 9)]).expect("noted");
    ledger.forget_from(0).expect("in memory");
    assert_eq!(versions(&ledger, ["a", "b"]), [Some(9), None]);
}

#[test]
fn ledger_stays_short_while_files_come_and_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut ledger = Ledger::create(Some(dir.path()), &[]).expect("created");
    for number in 0..8_000 {
        let file = file(&format!("{number}-{}", "x".repeat(240)), number);
        let hash = file.hash();
        ledger.begin(file).expect("noted");
        ledger.forget(hash).expect("noted");
        ledger.committed(number).expect("rewritten");
    }
    let bytes = fs::metadata(dir.path().join(FILE)).expect("a ledger").len();
    assert!(bytes <= REWRITE_BYTES_MIN + 1000, "{bytes} bytes");
    assert_eq!(reopen(dir.path()).next_number(), 8_000);
}

/// Finds no room for a rewrite of the ledger.
fn full(_: &Path, _: &[u8]) -> io::Result<File> {
    Err(io::ErrorKind::StorageFull.into())
}

#[test]
fn full_disk_puts_rewrite_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut ledger = Ledger::create(Some(dir.path()), &[]).expect("created");
    let length = || fs::metadata(dir.path().join(FILE)).expect("a ledger").len();
    let mut number = 0;
    let mut until = |ledger: &mut Ledger, bytes| {
        while length() < bytes {
            let file = file(&format!("{number}-{}", "x".repeat(240)), number);
            let hash = file.hash();
            ledger.begin(file).expect("noted");
            ledger.forget(hash).expect("noted");
            number += 1;
        }
        number
    };
    let begun = until(&mut ledger, REWRITE_BYTES_MIN);
    ledger.replace = full;
    ledger.committed(begun).expect("put off");
    assert!(length() >= REWRITE_BYTES_MIN, "the old one is kept");
    assert_eq!(reopen(dir.path()).next_number(), begun);
    ledger.replace = replace_file;
    ledger.committed(begun).expect("not tried");
    assert!(length() >= REWRITE_BYTES_MIN, "not tried again at once");
    let begun = until(&mut ledger, REWRITE_BYTES_MIN + REWRITE_AGAIN_BYTES + 1000);
    ledger.committed(begun).expect("there is room");
    assert!(length() < REWRITE_BYTES_MIN);
    assert_eq!(reopen(dir.path()).next_number(), begun);
}

#[test]
fn files_stay_forgotten_after_full_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut ledger = Ledger::create(Some(dir.path()), &[]).expect("created");
    for (name, version) in [("a", 1), ("b", 2)] {
        ledger.begin(file(name, version)).expect("noted");
    }
    ledger.replace = full;
    assert!(is_full(&ledger.forget_from(1).expect_err("full")));
    ledger.replace = replace_file;
    ledger.forget_from(1).expect("there is room");
    assert_eq!(names(&reopen(dir.path())), ["a"]);
}

#[test]
fn device_is_kept_and_no_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut ledger = Ledger::create(Some(dir.path()), &[file("a", 1)]).expect("created");
    assert_eq!(ledger.device(), None);
    ledger.know_device(7).expect("noted");
    ledger.begin(file("b", 2)).expect("noted");
    assert_eq!((reopen(dir.path()).device(), ledger.known().len()), (Some(7), 2));
    ledger.forget_from(0).expect("rewritten");
    let again = reopen(dir.path());
    assert_eq!((again.device(), again.known().len()), (Some(7), 1));
}
