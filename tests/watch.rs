//! Files that appear in a folder or a bucket: each read once, whatever happens to it and to us.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::oracle::{self, Counts};
use crate::rig::{Rig, Running, random};
use crate::store::oss_double::OssDouble;
use crate::store::oss_double::s3::S3_REGION;
use crate::store_program::{oss, program};

/// Epochs short enough to be waited for.
const SHORT: &str = "--interval 50ms --format tsv --to out/c --empty-epochs skip";

fn counts_of(text: &str) -> Counts {
    oracle::count(text.as_bytes(), oracle::words_python)
}

/// A rig with an empty folder to be watched, and one on the same disk to rename from.
fn rig() -> Rig {
    let rig = Rig::new();
    for folder in ["in", "aside"] {
        fs::create_dir(rig.path(folder)).expect("a folder");
    }
    rig
}

/// Writes a file on the same disk, some time ago.
fn aside(rig: &Rig, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = rig.path("aside").join(name);
    let mut file = File::create(&path).expect("a file");
    file.write_all(content.as_ref()).expect("room");
    let written = file.metadata().and_then(|found| found.modified()).expect("own file");
    file.set_modified(written - Duration::from_secs(1)).expect("own file");
    path
}

/// Renames a finished file into the folder.
fn appear(rig: &Rig, name: &str, content: impl AsRef<[u8]>) {
    fs::rename(aside(rig, name, content), inside(rig, name)).expect("renamed");
}

/// Renames a file within the folder.
fn rename(rig: &Rig, from: &str, to: &str) {
    fs::rename(inside(rig, from), inside(rig, to)).expect("renamed");
}

fn inside(rig: &Rig, name: &str) -> PathBuf {
    rig.path("in").join(name)
}

fn start(rig: &Rig, flags: &str) -> Running {
    let program = rig.wordtide(&format!("run --watch in {SHORT} {flags}")).start();
    program.wait_for("watching in");
    program
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("in memory");
    encoder.finish().expect("in memory")
}

#[test]
fn new_files_are_read_and_no_others() {
    let rig = rig();
    fs::write(inside(&rig, "old"), "before\n").expect("a file");
    fs::create_dir(inside(&rig, "folder")).expect("a folder");
    let program = start(&rig, "--no-state -w 2");
    appear(&rig, ".hidden", "hidden\n");
    appear(&rig, "_hidden", "hidden\n");
    fs::write(inside(&rig, "folder").join("inner"), "inner\n").expect("a file");
    appear(&rig, "renamed", "one two\nlast");
    fs::write(inside(&rig, "written"), "three\nend").expect("a file");
    fs::hard_link(inside(&rig, "old"), inside(&rig, "linked")).expect("linked");
    appear(&rig, "empty", "");
    program.wait_for_lines(5);
    fs::rename(inside(&rig, "renamed"), inside(&rig, "renamed again")).expect("renamed");
    program.wait_for("is a file that was read before");
    let ended = program.stop().expect(0);
    assert_eq!(ended.committed_lines(), 5, "{ended}");
    let expected = counts_of("one two\nlast\nthree\nend\nbefore");
    assert_eq!(rig.output("out/c").counts(), expected, "{ended}");
}

#[test]
fn files_there_at_start_are_read_if_wanted() {
    let rig = rig();
    appear(&rig, "a", "a\n");
    appear(&rig, "b", "b");
    let program = start(&rig, "--watch-existing --watch-every 50ms --no-state");
    program.wait_for_lines(2);
    appear(&rig, "c", "c");
    program.wait_for_lines(3);
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a\nb\nc"));
}

#[test]
fn thousand_files_at_once_are_read_once() {
    let rig = rig();
    let program = start(&rig, "--no-state --watch-every 100ms -w 2");
    let mut text = String::new();
    for n in 0..1000 {
        let lines = format!("file{n}\nend");
        appear(&rig, &format!("f{n}"), &lines);
        text += &lines;
        text.push('\n');
    }
    program.wait_for_lines(2000);
    // Whatever was read twice would stand before this.
    appear(&rig, "last", "last");
    program.wait_for_lines(2001);
    let ended = program.stop().expect(0);
    assert_eq!(ended.committed_lines(), 2001, "{ended}");
    assert_eq!(rig.output("out/c").counts(), counts_of(&(text + "last")));
}

#[test]
fn open_file_is_read_when_closed() {
    let rig = rig();
    let program = start(&rig, "--no-state --watch-every 20ms");
    let mut growing = File::create(inside(&rig, "growing")).expect("a file");
    let mut read = 0;
    for part in ["first\n", "sec", "ond\n"] {
        growing.write_all(part.as_bytes()).expect("room");
        for _ in 0..5 {
            read += 1;
            // Some scans pass while these come and go.
            appear(&rig, &format!("other{read}"), "other");
            program.wait_for_lines(read);
        }
    }
    drop(growing);
    program.wait_for_lines(read + 2);
    let ended = program.stop().expect(0);
    let others = "other\n".repeat(read as usize);
    assert_eq!(
        rig.output("out/c").counts(),
        counts_of(&format!("{others}first\nsecond")),
        "{ended}"
    );
}

#[test]
fn file_that_changed_is_reported_once() {
    let rig = rig();
    let program = start(&rig, "--no-state --watch-every 20ms");
    appear(&rig, "a", "a\n");
    program.wait_for_lines(1);
    for round in 2..5 {
        let mut a = OpenOptions::new().append(true).open(inside(&rig, "a")).expect("it is there");
        a.write_all(b"more\n").expect("room");
        drop(a);
        appear(&rig, &format!("b{round}"), "b");
        program.wait_for_lines(round);
    }
    program.wait_for("in/a has changed after it was read");
    appear(&rig, "a", "another\n");
    program.wait_for_lines(5);
    fs::remove_file(inside(&rig, "a")).expect("removed");
    appear(&rig, "c", "c");
    program.wait_for_lines(6);
    appear(&rig, "a", "new\n");
    program.wait_for_lines(7);
    let ended = program.stop().expect(0);
    let told = ended.stderr.iter().filter(|line| line.contains("in/a has changed")).count();
    assert_eq!(told, 1, "{ended}");
    assert_eq!(rig.output("out/c").counts(), counts_of("a\nb\nb\nb\nanother\nc\nnew"), "{ended}");
}

#[test]
fn file_that_cannot_be_read_harms_no_other() {
    let rig = rig();
    let program = start(&rig, "--no-state --watch-every 20ms");
    std::os::unix::fs::symlink("nowhere", inside(&rig, "dangling")).expect("a link");
    std::os::unix::fs::symlink("loop", inside(&rig, "loop")).expect("a link");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        inside(&rig, "pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .expect("a pipe");
    appear(&rig, "bad.gz", "no gzip at all\n");
    let whole = gzip(&"many lines\n".repeat(30_000));
    appear(&rig, "cut.gz", &whole[..whole.len() - 9]);
    appear(&rig, "good.gz", [gzip("one\n"), gzip(""), gzip("two")].concat());
    appear(&rig, "good.zst", zstd::encode_all(&b"three\nfour"[..], 1).expect("in memory"));
    for text in ["in/dangling is not read", "in/loop is not read", "in/pipe is not read"] {
        program.wait_for(text);
    }
    program.wait_for("in/bad.gz is damaged after 0 bytes");
    program.wait_for("in/cut.gz is damaged after");
    program.wait_for_lines(30_004);
    let ended = program.stop().expect(0);
    let many = "many lines\n".repeat(30_000);
    let expected = counts_of(&format!("{many}one\ntwo\nthree\nfour"));
    assert_eq!(rig.output("out/c").counts(), expected, "{ended}");
}

#[test]
fn folder_that_vanishes_is_waited_for() {
    let rig = rig();
    rig.run(&format!("run --watch nowhere {SHORT}")).expect(78).says(&["nowhere", "--watch"]);
    rig.file("file", "");
    rig.run(&format!("run --watch file {SHORT}")).expect(78).says(&["not a folder"]);
    let program = start(&rig, "--state s --watch-every 20ms");
    appear(&rig, "a", "a\n");
    program.wait_for_lines(1);
    fs::rename(rig.path("in"), rig.path("away")).expect("renamed");
    program.wait_for("cannot list in");
    fs::rename(rig.path("away"), rig.path("in")).expect("renamed");
    program.wait_for("in can be listed again");
    appear(&rig, "b", "b\n");
    program.wait_for_lines(2);
    let ended = program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a\nb"), "{ended}");
}

#[test]
fn once_reads_what_is_new_each_time() {
    let rig = rig();
    let run = format!("run --watch in --once --watch-every 20ms {SHORT} --state s");
    appear(&rig, "a", "a\n");
    assert_eq!(rig.run(&run).expect(0).committed_lines(), 1);
    assert_eq!(rig.run(&run).expect(0).committed_lines(), 0);
    appear(&rig, "b", "b");
    assert_eq!(rig.run(&run).expect(0).committed_lines(), 1);
    assert_eq!(rig.output("out/c").counts(), counts_of("a\nb"));
}

#[test]
fn restart_reads_what_came_meanwhile() {
    let rig = rig();
    appear(&rig, "old", "old\n");
    let program = start(&rig, "--state s");
    program.stop().expect(0);
    appear(&rig, "a", "a\n");
    let program = start(&rig, "--state s --watch-every 20ms -n 2");
    program.wait_for_lines(1);
    fs::remove_file(inside(&rig, "a")).expect("removed");
    appear(&rig, "b", "b\n");
    program.wait_for_lines(2);
    program.stop().expect(0);
    appear(&rig, "a", "a again\n");
    let program = start(&rig, "--state s --watch-every 20ms -w 2");
    program.wait_for_lines(1);
    let ended = program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a\nb\na again"), "{ended}");
}

#[test]
fn name_reused_while_down_is_new_file() {
    let rig = rig();
    let program = start(&rig, "--state s");
    for name in ["a", "b", "c"] {
        appear(&rig, name, name);
    }
    program.wait_for_lines(3);
    program.stop().expect(0);
    // One has left the folder, two have rotated, and all names are taken by new files.
    fs::rename(inside(&rig, "c"), rig.path("aside/c")).expect("renamed");
    for (from, to) in [("b", "c"), ("a", "b")] {
        rename(&rig, from, to);
    }
    appear(&rig, "a", "x");
    let program = start(&rig, "--state s --watch-every 20ms");
    program.wait_for_lines(1);
    rename(&rig, "a", "d");
    appear(&rig, "a", "y");
    appear(&rig, "b", "z");
    program.wait_for_lines(3);
    let ended = program.stop().expect(0);
    assert!(!ended.stderr.iter().any(|line| line.contains("has changed")), "{ended}");
    assert_eq!(rig.output("out/c").counts(), counts_of("a\nb\nc\nx\ny\nz"), "{ended}");
}

#[test]
fn renamed_files_are_not_read_twice() {
    let rig = rig();
    let program = start(&rig, "--state s --watch-every 20ms");
    for name in ["a", "b", "c"] {
        appear(&rig, name, name);
    }
    let linked = aside(&rig, "linked", "linked");
    fs::hard_link(&linked, inside(&rig, "linked")).expect("linked");
    program.wait_for_lines(4);
    for _ in 0..20 {
        for (from, to) in
            [("a", "a2"), ("a2", "a3"), ("a3", "a"), ("b", "t"), ("c", "b"), ("t", "c")]
        {
            rename(&rig, from, to);
        }
    }
    rename(&rig, "linked", "renamed");
    program.wait_for("in/renamed is a file that was read before");
    // Whatever was read twice would stand before this.
    appear(&rig, "last", "last");
    program.wait_for_lines(5);
    program.signal(Signal::KILL);
    program.end();
    rename(&rig, "renamed", "linked");
    rename(&rig, "b", "a2");
    let program = start(&rig, "--state s --watch-every 20ms");
    program.wait_for("in/linked is a file that was read before");
    fs::remove_file(linked).expect("removed");
    rename(&rig, "linked", "renamed");
    program.wait_for("in/renamed is a file that was read before");
    appear(&rig, "end", "end");
    program.wait_until("all lines", |_| (rig.output("out/c").total("lines") >= 6).then_some(()));
    let ended = program.stop().expect(0);
    let expected = counts_of("a\nb\nc\nlinked\nlast\nend");
    assert_eq!(rig.output("out/c").counts(), expected, "{ended}");
}

/// The content of the n-th file: some are compressed, and some are longer than a piece of text.
fn content(n: u64) -> (String, Vec<u8>, &'static str) {
    let lines = if n.is_multiple_of(40) { 30_000 } else { n % 7 };
    let mut text: String = (0..lines).map(|k| format!("file{n} line {k}\n")).collect();
    text += "end";
    match n % 5 {
        0 => (text.clone(), gzip(&text), ".gz"),
        _ => (text.clone(), text.into_bytes(), ""),
    }
}

#[test]
fn killed_run_reads_each_file_once() {
    let rig = rig();
    let (mut seed, mut text, mut files) = (7, String::new(), 0);
    let workers = ["-w 1", "-w 2", "-n 2", "-w 3"];
    for life in 0..8 {
        let flags = format!("--state s --watch-every 50ms --parts 2 {}", workers[life % 4]);
        let program = start(&rig, &flags);
        let until = files + 30;
        let kill_at = files + random(&mut seed) % 30;
        while files < until {
            if files == kill_at {
                // Some of what was found is read, and some of that is committed.
                program.ends_within(Duration::from_millis(random(&mut seed) % 120));
                program.signal(Signal::KILL);
            }
            let (lines, stored, suffix) = content(files);
            appear(&rig, &format!("f{files}{suffix}"), stored);
            text += &(lines + "\n");
            files += 1;
        }
        program.end();
    }
    let program = start(&rig, "--state s --watch-every 50ms --parts 2 -w 2");
    let expected = counts_of(&text);
    let lines = text.lines().count() as u64;
    program
        .wait_until("all lines", |_| (rig.output("out/c").total("lines") >= lines).then_some(()));
    let ended = program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), expected, "{ended}");
}

#[test]
fn objects_that_appear_are_read_once() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    let flags = format!("--s3-region {S3_REGION} --s3-endpoint http://{}", double.address);
    let run = format!("run --watch s3://demo/in/ --watch-every 20ms {SHORT} --state s {flags}");
    double.plant("in/old", b"old\n");
    let running = program(&rig, &run).start();
    running.wait_for("watching s3://demo/in/");
    double.plant("in/_hidden", b"hidden\n");
    double.plant("in/folder/", b"");
    double.plant("in/a", b"a\nb");
    double.plant("in/2026/c.gz", &gzip("c\nd"));
    running.wait_for_lines(4);
    double.outage(true);
    running.wait_for("cannot list s3://demo/in/");
    double.outage(false);
    running.wait_for("s3://demo/in/ can be listed again");
    double.plant("in/a", b"changed\n");
    running.wait_for("s3://demo/in/a has changed after it was read");
    running.signal(Signal::KILL);
    running.end();
    double.plant("in/0", "many words \n".repeat(800_000).as_bytes());
    let running = program(&rig, &format!("{run} -w 2")).start();
    running.wait_for_lines(800_000);
    double.plant("in/e", b"e");
    running.wait_for_lines(800_001);
    let ended = running.stop().expect(0);
    let expected = counts_of(&format!("a\nb\nc\nd\ne\n{}", "many words \n".repeat(800_000)));
    assert_eq!(rig.output("out/c").counts(), expected, "{ended}");
}

#[test]
fn objects_of_oss_are_read_in_order() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    // More than a page of keys, and the greatest come last.
    for n in 0..1100 {
        double.plant(&format!("in-{n:04}"), format!("file{n}").as_bytes());
    }
    let run = format!("run --watch oss://demo/in- --once {SHORT} --state s");
    oss(&rig, &double, &run).start().end().expect(0);
    let text: String = (0..1100).map(|n| format!("file{n}\n")).collect();
    assert_eq!(rig.output("out/c").counts(), counts_of(&text));
    double.plant("in-2000", b"last");
    double.plant("other", b"other");
    let ended = oss(&rig, &double, &run).start().end().expect(0);
    assert_eq!(ended.committed_lines(), 1, "{ended}");
    assert_eq!(rig.output("out/c").counts(), counts_of(&(text + "last")));
}

#[test]
fn file_lost_before_its_commit_is_reported() {
    let rig = rig();
    let run = format!("run --watch in --once --watch-every 20ms {SHORT} --state s");
    appear(&rig, "a", "a\n".repeat(100));
    appear(&rig, "b", "b\n".repeat(100));
    // The epoch with the lines of the first file is recorded, and its marker is not stored.
    let died = rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", "output.after_put").start().end();
    assert_eq!(died.code(), None, "{died}");
    fs::remove_file(inside(&rig, "a")).expect("removed");
    let ended = rig.run(&run).expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of(&"b\n".repeat(100)), "{ended}");
    ended.says(&["error", "in/a was read before the restart and is not what it was"]);
}

#[test]
fn file_renamed_before_its_commit_is_read_again() {
    let rig = rig();
    let run = format!("run --watch in --once --watch-every 20ms {SHORT} --state s");
    appear(&rig, "a", "a\n".repeat(100));
    let died = rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", "output.after_put").start().end();
    assert_eq!(died.code(), None, "{died}");
    rename(&rig, "a", "_b");
    appear(&rig, "a", "c\n");
    let ended = rig.run(&run).expect(0);
    assert!(!ended.stderr.iter().any(|line| line.contains("error")), "{ended}");
    let expected = counts_of(&("a\n".repeat(100) + "c\n"));
    assert_eq!(rig.output("out/c").counts(), expected, "{ended}");
}

#[test]
fn refused_bucket_and_own_output_end_the_start() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    let flags = format!("--s3-region {S3_REGION} --s3-endpoint http://{}", double.address);
    let run = |place: &str, to: &str| {
        program(&rig, &format!("run --watch {place} --to {to} {flags}")).start().end()
    };
    run("s3://nowhere/in/", "out/c").expect(78).says(&["nowhere"]);
    run("s3://demo/in/", "s3://demo/in/counts").expect(2).says(&["--to", "--watch"]);
}

#[test]
fn compressed_file_goes_on_after_kill() {
    let rig = Rig::new();
    let text: String = (0..400_000).map(|n| format!("word{} line {n}\n", n % 1000)).collect();
    rig.file("lines.gz", [gzip(&text[..text.len() / 2]), gzip(&text[text.len() / 2..])].concat());
    let run = format!("run --file lines.gz {SHORT} --state s");
    let mut kills = 0;
    for _ in 0..3 {
        let program = rig.wordtide(&run).start();
        if program.lives_until_commits(1) {
            kills += 1;
        }
        program.signal(Signal::KILL);
        program.end();
    }
    rig.run(&run).expect(0);
    assert!(kills > 0);
    assert_eq!(rig.output("out/c").counts(), counts_of(&text));
}
