//! Totals and windows over several runs of one job: they go on where they were, and only then.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::oracle::Counts;
use crate::rig::{Rig, Server, side_by_side};
use crate::soak::place::Place;
use crate::store::oss_double::OssDouble;

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
    let mut before = Vec::new();
    for _ in 0..2 {
        rig.run(&format!("{TOTALS} --file in.txt --to out/c")).expect(0);
        let newest = rig.output("out/c").newest();
        assert_eq!(newest.counts(), counts(&[("a", 2), ("b", 1)]));
        let kept = kept(&rig);
        assert!(!kept.iter().any(|path| before.contains(path)), "{kept:?} after {before:?}");
        before = kept;
    }
}

#[test]
fn older_copy_of_state_keeps_later_totals() {
    let (rig, server) = (Rig::new(), Server::new());
    let (state, copy, later) = (rig.path("state"), rig.path("copy"), rig.path("later"));
    live(&rig, &server, "a\n", "--to out/c");
    copy_folder(&state, &copy);
    live(&rig, &server, "b\n", "--to out/c");
    fs::rename(&state, &later).expect("a state");
    fs::rename(&copy, &state).expect("a state");
    live(&rig, &server, "c\n", "--to out/c");
    fs::remove_dir_all(&state).expect("a state");
    fs::rename(&later, &state).expect("a state");
    live(&rig, &server, "d\n", "--to out/c");
    let all = counts(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
    assert_eq!(rig.output("out/c").newest().counts(), all);
}

/// Copies a folder and what is below it.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("a kind").is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).expect("room")),
        }
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
fn state_without_first_epoch_is_refused() {
    let (rig, server) = (Rig::new(), Server::new());
    live(&rig, &server, "a\n", "--to out/c");
    let begun = rig.path("state/begun");
    let kept = fs::read(&begun).expect("the job has begun");
    fs::remove_file(&begun).expect("a file");
    let run = format!("{TOTALS} {} --to out/c", server.flag());
    let text = String::from_utf8(kept.clone()).expect("a number");
    rig.run(&run).expect(74).says(&["state/begun is missing", text.trim(), "--state"]);
    fs::write(&begun, kept).expect("room");
    live(&rig, &server, "a\n", "--to out/c");
    assert_eq!(rig.output("out/c").newest().counts(), counts(&[("a", 2)]));
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

/// Returns the objects of the changelog, by their keys.
fn changelog(place: &Place, rig: &Rig) -> BTreeMap<String, Vec<u8>> {
    let mut objects = place.objects(rig);
    objects.retain(|key, _| key.ends_with(".change") || key.ends_with(".base"));
    objects
}

/// Sets or removes an object.
fn set(place: &Place, rig: &Rig, key: &str, bytes: Option<&[u8]>) {
    let path = rig.path("bucket").join(key);
    match (place.double(), bytes) {
        (Some(double), _) => double.set_object(key, bytes),
        (None, Some(bytes)) => fs::write(path, bytes).expect("room"),
        (None, None) => fs::remove_file(path).expect("a file"),
    }
}

/// Runs a job of totals whose words are in `epochs` epochs, each its own.
fn remembered(place: &Place, epochs: usize) -> (Rig, Server) {
    let (rig, server) = (Rig::new(), Server::new());
    let program = place.wordtide(&rig, &[], &format!("{TOTALS} {}", server.flag())).start();
    let mut peer = server.accept();
    for epoch in 0..epochs {
        peer.send("a b c\n");
        program.wait_for_lines(epoch as u64 + 1);
    }
    program.stop().expect(0);
    (rig, server)
}

#[test]
fn missing_or_replaced_changes_stop_the_start() {
    side_by_side(vec![Place::Local, Place::S3(OssDouble::start())], |place| {
        let (rig, server) = remembered(&place, 3);
        let start = |flags: &str| {
            let run = format!("{TOTALS} {} {flags}", server.flag());
            place.wordtide(&rig, &[], &run).start()
        };
        let whole = changelog(&place, &rig);
        assert!(whole.len() >= 3, "{whole:?}");
        // A part with an object in each epoch: the first, one in the middle and the last.
        let part = |name: &str| name.rsplit_once('/').map(|(part, _)| part.to_owned());
        let first = part(whole.keys().next().expect("an object"));
        let names: Vec<&String> = whole.keys().filter(|name| part(name) == first).collect();
        let flags = ["-w 1", "-w 3", "-n 2"];
        for (at, name) in names.iter().enumerate() {
            let file = name.rsplit('/').next().expect("a name");
            let other = &whole[names[(at + 1) % names.len()]];
            let half = &whole[*name][..whole[*name].len() / 2];
            for bytes in [None, Some(&b""[..]), Some(half), Some(&other[..])] {
                set(&place, &rig, name, bytes);
                let ended = start(flags[at % flags.len()]).end().expect(74);
                ended.says(&[file, "is damaged", "--state"]);
            }
            set(&place, &rig, name, Some(&whole[*name]));
        }
        whole.keys().for_each(|name| set(&place, &rig, name, None));
        start("-w 2").end().expect(74).says(&["is damaged"]);
        whole.iter().for_each(|(name, bytes)| set(&place, &rig, name, Some(bytes)));
        let program = start("-w 2");
        server.accept().send("a\n");
        program.wait_for_lines(1);
        program.stop().expect(0);
        let newest = place.output(&rig).newest().counts();
        assert_eq!(newest, counts(&[("a", 4), ("b", 3), ("c", 3)]));
    });
}
