//! Named pipes, and standard input under a file's name: streams like any other.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use crate::oracle::{self, Counts};
use crate::rig::{Rig, write_and_close};

const STATE: &str = "--format tsv --state state --to out/c";

fn counts_of(text: &str) -> Counts {
    oracle::count(text.as_bytes(), oracle::words_python)
}

fn fifo(rig: &Rig, name: &str) -> PathBuf {
    let path = rig.path(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a named pipe");
    path
}

/// Opens a named pipe for writing: it waits until the program reads.
fn writer(path: &PathBuf) -> File {
    OpenOptions::new().write(true).open(path).expect("a named pipe")
}

#[test]
fn pipes_without_writers_hold_nothing_up() {
    let rig = Rig::new();
    let pipes = [0, 1, 2].map(|n| fifo(&rig, &format!("pipe{n}")).display().to_string());
    rig.file("lines", "a file\n");
    let flags = format!("run --file {} --file lines --interval 50ms", pipes.join(" --file "));
    let program = rig.wordtide(&format!("{flags} {STATE}")).start();
    program.wait_for_lines(1);
    program.stop().expect(0);
    let ended = rig.run(&format!("{flags} --epochs 2 --no-state --to out/d")).expect(0);
    assert_eq!(ended.committed_epochs(), 2, "{ended}");
    assert_eq!(rig.output("out/c").counts(), counts_of("a file"));
}

#[test]
fn pipe_with_silent_writer_obeys_stop() {
    let rig = Rig::new();
    let path = fifo(&rig, "pipe");
    let program = rig.wordtide(&format!("run --file pipe --interval 50ms {STATE}")).start();
    let mut writer = writer(&path);
    writer.write_all(b"first\nunfinished").expect("the program reads");
    program.wait_for_lines(1);
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("first\nunfinished"));
}

#[test]
fn pipe_ends_with_its_last_writer() {
    let rig = Rig::new();
    let path = fifo(&rig, "pipe");
    let program = rig.wordtide(&format!("run --file pipe --interval 24h {STATE}")).start();
    let mut writers = [writer(&path), writer(&path)];
    for (n, writer) in writers.iter_mut().enumerate() {
        writer.write_all(format!("of {n}\n").as_bytes()).expect("the program reads");
    }
    drop(writers);
    program.end().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("of 0\nof 1"));
}

#[test]
fn pipe_that_was_read_survives_kill() {
    let rig = Rig::new();
    let path = fifo(&rig, "pipe");
    let run = format!("run --file pipe --interval 24h {STATE}");
    let dies = rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", "source.before_push").start();
    writer(&path).write_all(b"a b\na\nopen").expect("the program reads");
    assert_eq!(dies.end().committed_epochs(), 0);
    let program = rig.wordtide(&run).start();
    // A stop before everything is fed again must not lose it either.
    let again = writer(&path);
    program.signal(Signal::TERM);
    program.end().expect(0);
    drop(again);
    assert_eq!(rig.output("out/c").counts(), counts_of("a b\na\nopen"));
}

#[test]
fn standard_input_by_path_survives_kill() {
    for name in ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"] {
        let rig = Rig::new();
        let run = format!("run --file {name} --interval 24h {STATE}");
        let dies = rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", "source.before_push");
        let mut dies = dies.stdin(Stdio::piped()).start();
        write_and_close(dies.stdin(), b"a b\na\n");
        assert_eq!(dies.end().committed_epochs(), 0, "{name}");
        let mut program = rig.wordtide(&run).stdin(Stdio::piped()).start();
        write_and_close(program.stdin(), b"more\n");
        program.end().expect(0);
        assert_eq!(rig.output("out/c").counts(), counts_of("a b\na\nmore"), "{name}");
    }
}

#[test]
fn regular_file_as_standard_input_stays_file() {
    let rig = Rig::new();
    let file = File::open(rig.file("in.txt", "a b\n")).expect("just made");
    let run = rig.wordtide(&format!("run --file /dev/stdin --interval 24h {STATE}"));
    run.stdin(file).start().end().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a b"));
}

#[test]
fn socket_as_standard_input_is_read_by_path() {
    let (near, mut far) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let rig = Rig::new();
    let run = rig.wordtide(&format!("run --file /dev/stdin --interval 24h {STATE}"));
    let program = run.stdin(std::os::fd::OwnedFd::from(near)).start();
    far.write_all(b"over a socket\n").expect("the program reads");
    drop(far);
    program.end().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("over a socket"));
}

#[test]
fn compressed_input_is_named_with_way_out() {
    let rig = Rig::new();
    rig.file("lines.xz", b"\xfd7zXZ\0not really\n");
    rig.file("plain", b"\x04\x22\x4d\x18\n");
    rig.file("lines.gz", b"\x1f\x8b\x08\x00not really\n");
    let files = "--file lines.xz --file plain --file lines.gz";
    let ended = rig.run(&format!("run {files} --interval 24h {STATE}")).expect(0);
    let ended = ended.says(&["warning", "lines.xz", "xz", "xzcat lines.xz | wordtide"]);
    let ended = ended.says(&["warning", "plain", "lz4", "lz4cat plain | wordtide run --stdin"]);
    ended.says(&["warning", "lines.gz is damaged after 0 bytes of text"]);
    let program = rig.wordtide("run --stdin --no-state --to out/d").stdin(Stdio::piped());
    let mut program = program.start();
    write_and_close(program.stdin(), b"\x1f\x8b\x08\x00\n");
    program.end().expect(0).says(&["warning", "standard input", "gzip", "zcat"]);
}
