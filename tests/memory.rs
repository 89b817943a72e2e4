//! Totals and windows over several runs of one job: they go on where they were, and only then.

use std::fs;
use std::path::PathBuf;

use crate::oracle::Counts;
use crate::rig::{Rig, Server};

const TOTALS: &str = "run running_totals --format tsv --state state --interval 50ms --parts 3";

fn counts(of: &[(&str, u64)]) -> Counts {
    of.iter().map(|(word, count)| (word.as_bytes().into(), *count)).collect()
}

/// Returns the objects of the changelog that a finished or stopped job keeps.
fn kept(rig: &Rig) -> Vec<PathBuf> {
    let objects = rig.tree().into_iter().map(PathBuf::from);
    let is_kept = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "change");
    objects.filter(is_kept).collect()
}

/// One run that commits `lines` and is then asked to stop.
fn live(rig: &Rig, server: &Server, lines: &str, flags: &str) {
    let program = rig.wordtide(&format!("{TOTALS} {} {flags}", server.flag())).start();
    let mut peer = server.accept();
    peer.send(lines);
    program.wait_for_lines(lines.lines().count() as u64);
    program.stop().expect(0);
}

#[test]
fn totals_resume_with_other_workers_and_processes() {
    let (rig, server) = (Rig::new(), Server::new());
    for (flags, words) in
        [("-w 1", "a b\n"), ("-n 2", "b c\n"), ("-n 3 -w 2", "a\n"), ("-w 2", "a\n")]
    {
        live(&rig, &server, words, &format!("{flags} --to out/c"));
    }
    let newest = rig.output("out/c").newest();
    assert_eq!(newest.counts(), counts(&[("a", 3), ("b", 2), ("c", 1)]));
}

#[test]
fn a_job_that_has_finished_begins_anew() {
    let rig = Rig::new();
    rig.file("in.txt", "a b a\n");
    for _ in 0..2 {
        rig.run(&format!("{TOTALS} --file in.txt --to out/c")).expect(0);
        let newest = rig.output("out/c").newest();
        assert_eq!(newest.counts(), counts(&[("a", 2), ("b", 1)]));
        assert_eq!(kept(&rig), Vec::<PathBuf>::new(), "what it remembered went with it");
    }
}

#[test]
fn new_state_ignores_old_changelog() {
    let (rig, server) = (Rig::new(), Server::new());
    live(&rig, &server, "a\n", "--to out/c");
    fs::remove_dir_all(rig.path("state")).expect("a state");
    live(&rig, &server, "b\n", "--to out/c");
    assert_eq!(rig.output("out/c").newest().counts(), counts(&[("b", 1)]));
}

#[test]
fn without_state_nothing_is_kept() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = TOTALS.replace("--state state", "--no-state");
    let program = rig.wordtide(&format!("{run} {} --to out/c", server.flag())).start();
    server.accept().send("a\n");
    program.wait_for_lines(1);
    program.stop().expect(0);
    assert!(!rig.tree().iter().any(|name| name.contains("_wordtide")), "{:?}", rig.tree());
}

#[test]
fn what_is_printed_is_remembered_in_the_state() {
    let (rig, server) = (Rig::new(), Server::new());
    live(&rig, &server, "a\n", "--to -");
    let program = rig.wordtide(&format!("{TOTALS} {} --to -", server.flag())).start();
    let mut peer = server.accept();
    peer.send("a\n");
    program.wait_for_lines(1);
    let printed = program.stop().expect(0).stdout;
    let printed = String::from_utf8(printed).expect("rows are text");
    assert!(printed.ends_with("a\t2\n"), "{printed:?}");
    assert!(kept(&rig).iter().all(|path| path.starts_with("state")), "{:?}", kept(&rig));
}

#[test]
fn damaged_changelog_is_refused_by_name() {
    let (rig, server) = (Rig::new(), Server::new());
    live(&rig, &server, "a\n", "--to out/c");
    let path = kept(&rig).pop().expect("a change");
    let mut bytes = fs::read(rig.path(&path)).expect("it is a file");
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    fs::write(rig.path(&path), bytes).expect("it can be written");
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let ended = rig.run(&format!("{TOTALS} {} --to out/c", server.flag()));
    ended.expect(74).says(&[&name, "damaged", "--state"]);
}
