//! Two jobs on one local prefix, readers that move epochs away, and names that are no times.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::rig::{Ended, Output, Rig, Running, Server};
use crate::windows::wait_for_journal;

/// Runs a job with this state until its source ends; crashes at `point` if one is given.
fn once(rig: &Rig, server: &Server, state: &str, text: &str, point: &str) -> Ended {
    let flags = "--interval 10m --once --format tsv --parts 2 --to out/counts";
    let run = format!("run {} {flags} --state {state}", server.flag());
    let program = rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", point).start();
    let accepted = program.lives_until("connected");
    if accepted {
        let mut peer = server.accept();
        peer.send(text);
        peer.fin();
    }
    program.end()
}

/// A job that goes on, on `out/counts`.
fn running(rig: &Rig, server: &Server, state: &str) -> Running {
    let flags = "--interval 50ms --format tsv --to out/counts";
    rig.wordtide(&format!("run {} {flags} --state {state}", server.flag())).start()
}

fn epoch_dirs(rig: &Rig) -> Vec<String> {
    let entries = fs::read_dir(rig.path("out")).into_iter().flatten();
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut dirs: Vec<_> = names.map(|name| name.into_string().expect("text")).collect();
    dirs.retain(|name| name.starts_with("counts-"));
    dirs.sort();
    dirs
}

fn words(output: &Output, word: &str) -> u64 {
    output.counts().get(word.as_bytes()).copied().unwrap_or(0)
}

#[test]
fn epoch_of_another_state_is_not_ours() {
    let (rig, server) = (Rig::new(), Server::new());
    // Cut and in the journal; nothing of it is in the output.
    once(&rig, &server, "a", "precious\n", "output.before_put");
    assert!(epoch_dirs(&rig).is_empty());
    // The same flags, the same interval, another state and other lines.
    once(&rig, &server, "b", "other\n", "").expect(0);
    let before = rig.tree();
    let refused = once(&rig, &server, "a", "", "").expect(78);
    refused.says(&["was written by job", "with state", "--to"]);
    let same = |tree: Vec<String>| -> Vec<String> {
        tree.into_iter().filter(|name| name.starts_with("out/counts-")).collect()
    };
    assert_eq!(same(rig.tree()), same(before), "nothing was cleared");
    assert_eq!(words(&rig.output("out/counts"), "other"), 1);
    // The lines are kept: they are published where the name is free.
    let [dir] = &epoch_dirs(&rig)[..] else { panic!("one epoch") };
    fs::rename(rig.path("out").join(dir), rig.path("elsewhere")).expect("room");
    once(&rig, &server, "a", "", "").expect(0);
    assert_eq!(words(&rig.output("out/counts"), "precious"), 1);
}

#[test]
fn refused_lines_are_set_aside_and_published_elsewhere() {
    let (rig, server) = (Rig::new(), Server::new());
    once(&rig, &server, "a", "precious\n", "output.before_put");
    once(&rig, &server, "b", "other\n", "").expect(0);
    let refused = once(&rig, &server, "a", "", "").expect(78).to_string();
    let id = &refused.rsplit_once("--abandon-journal ").expect("a way out").1[..32];
    rig.run("replay a --interval 10m --format tsv --to elsewhere/counts").expect(0);
    assert_eq!(words(&rig.output("elsewhere/counts"), "precious"), 1);
    let flags = format!("a --abandon-journal {id}");
    once(&rig, &server, &flags, "later\n", "").expect(0).says(&[id, "is kept in a/kept-1-"]);
    // A flag that stays on the command line abandons nothing more.
    once(&rig, &server, &flags, "latest\n", "").expect(0);
    let output = rig.output("out/counts");
    let found = ["other", "precious", "later", "latest"].map(|word| words(&output, word));
    assert_eq!(found, [1, 0, 1, 1]);
    // No program knows that the lines set aside were published: their owner says so.
    rig.run("state --remove a").expect(78).says(&["kept-1-", "9 bytes"]);
    assert!(rig.by(&["sh", "-c", "rm -r a/kept-1-journal-*"]));
    rig.run("state --remove a").expect(0);
    assert!(!rig.path("a").exists());
}

#[test]
fn replay_of_killed_run_publishes_its_open_epoch() {
    for committed in ["", "committed\n"] {
        let (rig, server) = (Rig::new(), Server::new());
        if !committed.is_empty() {
            once(&rig, &server, "a --keep-journal", committed, "").expect(0);
        }
        let flags = "--interval 10m --format tsv --parts 2 --to out/counts --state a";
        let run = format!("run {} {flags} --keep-journal", server.flag());
        let program = rig.wordtide(&run).start();
        server.accept().send("open\n");
        wait_for_journal(&rig.path("a"), "open");
        program.signal(Signal::KILL);
        program.end();
        rig.run("replay a --interval 10m --format tsv --to elsewhere/counts").expect(0);
        let output = rig.output("elsewhere/counts");
        let found = ["committed", "open"].map(|word| words(&output, word));
        assert_eq!(found, [u64::from(!committed.is_empty()), 1]);
    }
}

#[test]
fn replay_publishes_line_that_a_crash_ended() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--interval 50ms --format tsv --parts 2 --to out/counts --state a";
    let run = format!("run {} {flags} --keep-journal", server.flag());
    let program = rig.wordtide(&run).start();
    server.accept().send("first\nopen");
    program.wait_for_lines(1);
    program.signal(Signal::KILL);
    program.end();
    // The open epoch holds no bytes, only the end of the line that was open at its cut.
    rig.run("replay a --interval 50ms --format tsv --to elsewhere/counts").expect(0);
    let output = rig.output("elsewhere/counts");
    assert_eq!(["first", "open"].map(|word| words(&output, word)), [1, 1]);
}

#[test]
fn copied_marker_commits_no_other_epoch() {
    let (rig, server) = (Rig::new(), Server::new());
    once(&rig, &server, "a", "first\n", "").expect(0);
    let [dir] = &epoch_dirs(&rig)[..] else { panic!("one epoch") };
    let marker = fs::read(rig.path("out").join(dir).join("_SUCCESS")).expect("a marker");
    once(&rig, &server, "a", "second\n", "output.before_marker");
    let dirs = epoch_dirs(&rig);
    fs::write(rig.path("out").join(&dirs[1]).join("_SUCCESS"), marker).expect("room");
    once(&rig, &server, "a", "", "").expect(78).says(&["is the marker of epoch", "copied"]);
}

#[test]
fn marker_too_long_is_another_programs() {
    let (rig, server) = (Rig::new(), Server::new());
    once(&rig, &server, "a", "precious\n", "output.before_marker");
    let [dir] = &epoch_dirs(&rig)[..] else { panic!("one epoch") };
    let marker = fs::File::create(rig.path("out").join(dir).join("_SUCCESS")).expect("room");
    marker.set_len(1 << 32).expect("a sparse file");
    let refused = once(&rig, &server, "a", "", "").expect(78);
    refused.says(&["another program", "nothing was changed", "--to"]);
}

#[test]
fn epoch_moved_before_its_note_is_published_once() {
    for (point, moved) in [("output.after_marker", true), ("output.before_marker", false)] {
        let (rig, server) = (Rig::new(), Server::new());
        once(&rig, &server, "a", "word\n", point);
        let [dir] = &epoch_dirs(&rig)[..] else { panic!("one epoch") };
        if moved {
            fs::rename(rig.path("out").join(dir), rig.path("taken")).expect("room");
        }
        once(&rig, &server, "a", "more\n", "").expect(0);
        let output = rig.output("out/counts");
        assert_eq!(words(&output, "word"), u64::from(!moved), "{point}");
        assert_eq!(words(&output, "more"), 1, "{point}");
        assert!(output.uncommitted.is_empty(), "{point}");
    }
}

#[test]
fn names_are_never_used_twice_within_an_interval() {
    let (rig, server) = (Rig::new(), Server::new());
    let mut names = Vec::new();
    for text in ["one\n", "two\n", "three\n"] {
        once(&rig, &server, "a", text, "").expect(0);
        let [dir] = &epoch_dirs(&rig)[..] else { panic!("one epoch") };
        fs::rename(rig.path("out").join(dir), rig.path(text.trim_end())).expect("room");
        assert!(!names.contains(dir), "{dir} again");
        names.push(dir.clone());
    }
}

#[test]
fn names_far_from_now_are_reported_and_ignored() {
    let (rig, server) = (Rig::new(), Server::new());
    let planted = ["9300000000000000000", "18446744073709540000", "4102444800000"];
    for name in planted {
        fs::create_dir_all(rig.path(format!("out/counts-{name}"))).expect("room");
    }
    let ended = once(&rig, &server, "a", "word\n", "").expect(0).says(&["warning", "ignored"]);
    let told = ended.stderr.iter().filter(|line| line.contains("ignored")).count();
    assert_eq!(told, 1, "{ended}");
    let output = rig.output("out/counts");
    assert_eq!(output.epochs.len(), 1, "{:?}", epoch_dirs(&rig));
    assert!(output.epochs.keys().all(|epoch| *epoch < 4_102_444_800_000));
}

/// Ends the run's right by `take_away`; fails unless it ends with 78 and a second job can go on.
fn loses(take_away: impl Fn(&Path)) {
    let (rig, first, second) = (Rig::new(), Server::new(), Server::new());
    let a = running(&rig, &first, "a");
    let mut peer = first.accept();
    peer.send("mine\n");
    a.wait_for_lines(1);
    take_away(&rig.path("out"));
    let b = running(&rig, &second, "b");
    second.accept().send("theirs\n");
    b.wait_for_lines(1);
    peer.send("late\n");
    a.end().expect(78).says(&["out/.counts.wordtide.lock", "--to"]);
    b.stop().expect(0);
    // Reading checks every marker against its parts.
    let output = rig.output("out/counts");
    assert_eq!((words(&output, "theirs"), words(&output, "late")), (1, 0));
}

#[test]
fn lock_or_output_removed_ends_the_run() {
    let lock = |out: &Path| out.join(".counts.wordtide.lock");
    loses(|out| fs::remove_file(lock(out)).expect("a lock"));
    loses(|out| fs::rename(out, out.with_file_name("old")).expect("a folder"));
}

#[test]
fn second_job_is_refused_by_the_lock() {
    let (rig, server) = (Rig::new(), Server::new());
    let first = running(&rig, &server, "a");
    let _peer = server.accept();
    first.wait_for("committed");
    let pid = format!("process {}", first.pid());
    running(&rig, &server, "b").end().expect(78).says(&[&pid, "--to"]);
    first.stop().expect(0);
}
