//! Standard error that is not read, closed or broken: epochs are published and stops obeyed.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};

use rustix::io::ioctl_fionbio;

use crate::rig::{Peer, Rig, Running, Server, side_by_side};

/// A pipe that takes no more byte until its reader reads.
pub(crate) fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().expect("a pipe");
    ioctl_fionbio(&writer, true).expect("a pipe can be non-blocking");
    for size in [4096, 1] {
        while writer.write(&vec![b'.'; size]).is_ok() {}
    }
    ioctl_fionbio(&writer, false).expect("a pipe can be blocking");
    (reader, writer)
}

const FLAGS: &str = "--interval 20ms --to - --format tsv --no-state";

/// Sends two lines, each after the one before was published.
fn send_and_see(program: &Running, peer: &mut Peer) {
    for epoch in 1..=2 {
        peer.send("word\n");
        program.wait_for_stdout(epoch * "word\t1\n".len());
    }
}

/// Runs the rest in a terminal of its own, whose output is standard output here.
const TERMINAL: &str = "exec script -qfec \"$0 $*\" /dev/null";

#[test]
fn terminal_has_one_line_that_follows() {
    let rig = Rig::new();
    if !rig.by(&["script", "--version"]) {
        return eprintln!("SKIPPED: there is no script(1), which opens a terminal");
    }
    rig.file("lines", "a b\n");
    let run = "run --file lines --no-state --to out/c --interval 10ms";
    let program = rig.wordtide_by(&["sh", "-c", TERMINAL], run).env("TERM", "xterm");
    let ended = program.start().end().expect(0);
    let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(shown.contains("\r\x1b[K") && shown.contains(" of 4 B, "), "{shown:?}");
    assert!(shown.ends_with("\r\x1b[K"), "the line is removed: {shown:?}");
    let quiet = rig.wordtide_by(&["sh", "-c", TERMINAL], &format!("{run} -q"));
    let ended = quiet.env("TERM", "xterm").start().end().expect(0);
    assert!(!ended.stdout.contains(&b'\x1b'), "{ended}");
}

#[test]
fn unread_stderr_holds_up_no_epoch_nor_stop() {
    side_by_side(vec!["", "-n 2", "-vv"], |flags| {
        let (rig, server) = (Rig::new(), Server::new());
        let (mut reader, writer) = full_pipe();
        let run = format!("run {} {FLAGS} {flags}", server.flag());
        let program = rig.wordtide(&run).stderr(writer).start();
        send_and_see(&program, &mut server.accept());
        let ended = program.stop().expect(0);
        assert_eq!(ended.stdout, b"word\t1\nword\t1\n");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("what was there before");
        let text = text.trim_start_matches('.');
        assert!(!text.contains("panicked"), "{text}");
    });
}

#[test]
fn late_reader_of_stderr_misses_no_line() {
    for blocking in [true, false] {
        let (rig, server) = (Rig::new(), Server::new());
        let (mut reader, writer) = full_pipe();
        // Another process that holds the pipe, too, may have made it non-blocking.
        ioctl_fionbio(&writer, !blocking).expect("a pipe");
        let program = rig.wordtide(&format!("run {} {FLAGS}", server.flag())).stderr(writer);
        let program = program.start();
        send_and_see(&program, &mut server.accept());
        let text = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        program.stop().expect(0);
        let text = text.join().expect("no panic").expect("text");
        let text = text.trim_start_matches('.');
        assert_eq!(text.matches(" committed: 1 lines, 1 words").count(), 2, "{text}");
        assert!(text.contains("connected to") && text.contains("stopping"), "{text}");
    }
}

#[test]
fn closed_and_broken_stderr_change_nothing() {
    let closed = ["sh", "-c", "exec \"$0\" \"$@\" 2>&-"];
    let full = ["sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"];
    let plain: [&str; 0] = [];
    side_by_side(vec![&closed[..], &full[..], &plain[..]], |by| {
        for flags in ["", "-n 2"] {
            let (rig, server) = (Rig::new(), Server::new());
            let (reader, writer) = pipe().expect("a pipe");
            drop(reader);
            let run = format!("run {} {FLAGS} {flags}", server.flag());
            let program = rig.wordtide_by(by, &run).stderr(writer).start();
            send_and_see(&program, &mut server.accept());
            program.stop().expect(0);
        }
    });
}
