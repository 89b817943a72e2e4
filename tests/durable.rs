//! A run with state: files that are read on, a journal that is full, a journal that is gone.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::oracle::{self, Counts};
use crate::rig::{Rig, Server, random, side_by_side};

const STATE: &str = "--state state --format tsv --to out/c";

fn numbered(lines: u64) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("{n:011} {:03}\n", n % 1_000).into_bytes()).collect()
}

/// As many lines of few words: a long file that is counted fast.
fn repeating(lines: u64) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("{:011} {:03}\n", n % 997, n % 89).into_bytes()).collect()
}

fn words(text: &[u8]) -> Counts {
    oracle::count(text, oracle::words_python)
}

#[test]
fn a_file_is_counted_exactly_once_wherever_its_reader_dies() {
    let ends = [
        "border.before_complete:1",
        "border.after_complete:2",
        "journal.before_mark:2",
        "journal.after_mark:2",
        "journal.after_sync:3",
        "sink.before_marker:1",
        "sink.after_marker:2",
        "journal.before_done:1",
        "journal.after_done:1",
        "recovery.after_clear:1",
    ];
    // Its last line has no end, and CR LF stands across every border of a chunk sooner or later.
    let mut text = numbered(150_000);
    text.extend_from_slice(b"cr\r\n".repeat(100_000).as_slice());
    text.extend_from_slice(b"the end");
    let expected = words(&text);
    side_by_side(vec![1, 2, 3, 4], |mut seed| {
        let rig = Rig::new();
        let file = rig.file("lines", &text);
        let run = format!("run --file {} --interval 20ms {STATE}", file.display());
        for _ in 0..5 {
            let end = ends[random(&mut seed) as usize % ends.len()];
            // Where it gets through in time it has finished, and the next begins anew: no more
            // lives.
            let ended = rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", end).start().end();
            if ended.to_string().contains("exit code Some(0)") {
                break;
            }
        }
        let output = rig.output("out/c");
        if words_of(&output.counts()) < words_of(&expected) {
            rig.run(&run).expect(0);
        }
        let output = rig.output("out/c");
        assert!(output.uncommitted.is_empty(), "seed {seed}: {:?}", output.uncommitted);
        assert!(output.counts() == expected, "seed {seed}: not the words of the file");
    });
}

fn words_of(counts: &Counts) -> u64 {
    counts.values().sum()
}

#[test]
fn a_file_that_changed_under_a_run_is_refused_and_one_that_grew_is_read_on() {
    let rig = Rig::new();
    // Long enough that it is not at its end when the first epoch is: an end that was met counts.
    let file = rig.file("lines", repeating(600_000));
    let run = format!("run --file {} --interval 20ms {STATE}", file.display());
    let point = "border.after_complete:1";
    rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", point).start().end();
    let mut changed = repeating(600_000);
    changed[0] = b'x';
    fs::write(&file, &changed).expect("a file");
    rig.run(&run).expect(78).says(&["has changed", "--state"]);
    fs::write(&file, repeating(650_000)).expect("a file");
    rig.run(&run).expect(0);
    assert!(rig.output("out/c").counts() == words(&repeating(650_000)));
}

#[test]
fn a_finished_job_begins_anew_and_a_stopped_one_goes_on() {
    let rig = Rig::new();
    let file = rig.file("lines", "a b\n");
    let run = format!("run --file {} --interval 20ms {STATE}", file.display());
    rig.run(&run).expect(0);
    rig.run(&run).expect(0);
    let twice = words(b"a b\na b\n");
    assert_eq!(rig.output("out/c").counts(), twice);
}

#[test]
fn a_full_journal_stops_the_reading_and_loses_nothing() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 300ms --journal-max 5MiB {STATE}", server.flag());
    let program = rig.wordtide(&run).start();
    let mut peer = server.accept();
    let text = repeating(400_000);
    peer.send(&text);
    peer.fin();
    program.wait_for_lines(400_000);
    program.signal(Signal::TERM);
    let ended = program.end().expect(0).says(&["the journal is full", "--journal-max"]);
    ended.says(&["the journal has room again"]);
    assert!(rig.output("out/c").counts() == words(&text));
}

#[test]
fn a_journal_that_is_gone_stops_the_start_until_it_is_abandoned() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 50ms {STATE}", server.flag());
    let program = rig.wordtide(&run).start();
    let mut peer = server.accept();
    peer.send("a\n");
    program.wait_for_lines(1);
    drop(program);
    fs::remove_dir_all(journal(&rig)).expect("a journal");
    let refused = rig.run(&run).expect(78).says(&["is missing", "--abandon-journal"]);
    let text = refused.to_string();
    let id = text.rsplit_once("--abandon-journal ").expect("the way out").1[..32].to_owned();
    let program = rig.wordtide(&format!("{run} --abandon-journal {id}")).start();
    server.accept().send("b\n");
    program.wait_for_lines(1);
    program.stop().expect(0).says(&[&id, "is abandoned"]);
    assert_eq!(rig.output("out/c").counts(), words(b"a\nb\n"));
}

#[test]
fn a_journal_can_be_looked_at() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 50ms {STATE}", server.flag());
    let program = rig.wordtide(&run).start();
    let mut peer = server.accept();
    peer.send("a\n");
    program.wait_for_lines(1);
    drop(program);
    let dir = journal(&rig).display().to_string();
    let dumped = rig.run(&format!("journal dump {dir}")).expect(0);
    let dumped = String::from_utf8_lossy(&dumped.stdout).into_owned();
    assert!(dumped.contains("DATA connection=0 bytes=2"), "{dumped}");
    assert!(dumped.contains("MARK epoch="), "{dumped}");
    let checked = rig.run(&format!("journal check {dir}")).expect(0);
    assert!(String::from_utf8_lossy(&checked.stdout).starts_with("sound: "));
}

fn journal(rig: &Rig) -> PathBuf {
    let state = fs::read_dir(rig.path("state")).expect("a state");
    let paths = state.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_dir()).min().expect("a journal")
}
