//! `--to -`: stdout carries rows, whole epochs of them, and nothing else.

use std::io::Read;
use std::process::Stdio;

use crate::oracle;
use crate::rig::{Rig, Server, write_and_close};

const TEXT: &str = "b \"a\",\tb\nit's b\n";

fn rows_of(rig: &Rig, text: &str, flags: &str) -> Vec<String> {
    rig.file("in.txt", text);
    let ended = rig.run(&format!("run --file in.txt --to - --interval 24h {flags}")).expect(0);
    oracle::sorted_lines(ended.stdout)
}

#[test]
fn every_format_is_written_to_standard_output() {
    let word = "\"a\",\tb";
    for (format, rows) in [
        ("python", ["('\"a\",\\tb', 1)", "('b', 2)", "(\"it's\", 1)"]),
        ("scala", [&format!("({word},1)")[..], "(b,2)", "(it's,1)"]),
        ("tsv", [&format!("{word}\t1")[..], "b\t2", "it's\t1"]),
        ("csv", ["\"\"\"a\"\",\tb\",1", "b,2", "it's,1"]),
        (
            "jsonl",
            [
                r#"{"word":"\"a\",\tb","count":1}"#,
                r#"{"word":"b","count":2}"#,
                r#"{"word":"it's","count":1}"#,
            ],
        ),
    ] {
        let rig = Rig::new();
        let mut expected = rows.map(str::to_owned);
        expected.sort();
        assert_eq!(rows_of(&rig, TEXT, &format!("--format {format}")), expected, "{format}");
        assert_eq!(rig.tree(), ["in.txt"], "neither output nor state on the disk");
    }
}

#[test]
fn parts_are_printed_in_order() {
    let text: String = (0..2_000).map(|n| format!("word{n}\n")).collect();
    let whole = |flags: &str| {
        let rig = Rig::new();
        rig.file("in.txt", &text);
        rig.run(&format!("run --file in.txt --to - --interval 24h {flags}")).expect(0).stdout
    };
    let one = whole("");
    assert_eq!(oracle::sorted_lines(one.clone()).len(), 2_000);
    assert_eq!(whole("-w 4 --parts 7"), one, "hash order goes through the parts");
}

#[test]
fn epochs_are_written_as_they_are_committed() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--to - --format tsv --interval 50ms --once";
    let program = rig.wordtide(&format!("run {} {flags}", server.flag())).start();
    let mut peer = server.accept();
    peer.send("first\n");
    program.wait_for_stdout("first\t1\n".len());
    peer.send("second\n");
    peer.fin();
    assert_eq!(program.end().expect(0).stdout, b"first\t1\nsecond\t1\n");
}

#[test]
fn stdout_rows_without_reader_are_printed_again() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--to - --format tsv --state state --interval 50ms";
    let run = || rig.wordtide(&format!("run {} {flags}", server.flag()));
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let program = run().stdout(writer).start();
    let mut peer = server.accept();
    peer.send("read\n");
    let mut first = [0; "read\t1\n".len()];
    reader.read_exact(&mut first).expect("the first epoch");
    program.wait_for_lines(1);
    drop(reader);
    peer.send("unread\n");
    let ended = program.end().expect(75).says(&["standard output", "--state"]);
    assert_eq!(ended.committed_lines(), 1, "{ended}");

    let program = run().start();
    let _peer = server.accept();
    program.wait_for_lines(1);
    assert_eq!(program.stop().expect(0).stdout, b"unread\t1\n");
}

#[test]
fn stdout_without_reader_and_state_fails() {
    let rig = Rig::new();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut program =
        rig.wordtide("run --stdin --to -").stdin(Stdio::piped()).stdout(writer).start();
    // More than a pipe holds: once its rows have begun to come, the others are stuck.
    let lines: String = (0..100_000).map(|n| format!("{n}\n")).collect();
    write_and_close(program.stdin(), lines.as_bytes());
    reader.read_exact(&mut [0]).expect("a row");
    drop(reader);
    let ended = program.end().expect(1);
    let ended = ended.says(&["standard output has gone", "nothing is written again"]);
    assert!(!ended.to_string().contains("same --state"), "{ended}");
}

#[test]
fn stdout_that_is_closed_is_refused() {
    let rig = Rig::new();
    rig.file("in.txt", "words\n");
    for (redirection, reason) in [(">&-", "closed"), ("<in.txt", "reading only")] {
        let script = format!("exec \"$0\" \"$@\" 1{redirection}");
        let program = rig.wordtide_by(&["sh", "-c", &script], "run --file in.txt --to -");
        let ended = program.start().end().expect(78).says(&["standard output", reason, "--to -"]);
        assert_eq!(ended.committed_epochs(), 0, "{ended}");
    }
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").expect("a device");
    rig.wordtide("run --file in.txt --to -").stdout(null).start().end().expect(0);
}

#[test]
fn help_for_closed_pipe_is_no_failure() {
    for arguments in ["--help", "list", "man", "completions bash"] {
        let (rig, (reader, writer)) = (Rig::new(), std::io::pipe().expect("a pipe"));
        drop(reader);
        rig.wordtide(arguments).stdout(writer).start().end().expect(0);
    }
}

#[test]
fn a_full_disk_behind_standard_output_is_told() {
    let rig = Rig::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
    let invocation = rig.wordtide("run --stdin --to -").stdin(Stdio::piped()).stdout(full);
    let mut program = invocation.start();
    write_and_close(program.stdin(), b"words\n");
    program.end().expect(74).says(&["standard output", "--to"]);
}

#[test]
fn blocked_reader_delays_stop_until_timeout() {
    let rig = Rig::new();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let flags = "--to - --interval 50ms --stop-timeout 100ms";
    let server = Server::new();
    let program = rig.wordtide(&format!("run {} {flags}", server.flag())).stdout(writer).start();
    let mut peer = server.accept();
    program.wait_for("connected to");
    // More than a pipe holds: once its row has begun to come, it is stuck.
    peer.send(format!("{}\n", "stuck".repeat(100_000)));
    reader.read_exact(&mut [0]).expect("a pipe");
    // Without state nothing can be finished later: that is a failure, not a matter of a restart.
    program.stop().expect(1).says(&["--stop-timeout of 100ms", "not committed"]);
}
