//! Where lines come from, and what becomes of them when that goes away.

use std::fs::File;
use std::process::Stdio;

use crate::oracle::{self, Counts};
use crate::rig::server::Closed;
use crate::rig::{Rig, Running, Server, write_and_close};

/// Epochs too long to end by themselves within a test.
const LONG: &str = "--interval 24h --format tsv --no-state --to out/c";
/// Epochs short enough to be waited for.
const SHORT: &str = "--interval 50ms --format tsv --no-state --to out/c --empty-epochs skip";

fn counts_of(text: &str) -> Counts {
    oracle::count(text.as_bytes(), oracle::words_python)
}

/// Runs the program on a server and stops it once `lines` lines are committed.
fn stop_after(rig: &Rig, program: Running, lines: u64) -> Counts {
    program.wait_for_lines(lines);
    program.stop().expect(0);
    rig.output("out/c").counts()
}

#[test]
fn split_line_belongs_to_epoch_of_its_end() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = rig.wordtide(&format!("run {} {SHORT}", server.flag())).start();
    let mut peer = server.accept();
    peer.send("whole line\nbeg");
    program.wait_for_lines(1);
    assert_eq!(rig.output("out/c").counts(), counts_of("whole line"));
    peer.send("in end\n");
    assert_eq!(stop_after(&rig, program, 2), counts_of("whole line\nbegin end"));
}

#[test]
fn close_ends_the_unfinished_line() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = rig.wordtide(&format!("run {} --once {LONG}", server.flag())).start();
    let mut peer = server.accept();
    peer.send("a b\nlast");
    peer.fin();
    program.end().expect(0).says(&["closed the connection"]);
    assert_eq!(rig.output("out/c").counts(), counts_of("a b\nlast"));
}

#[test]
fn reset_drops_unfinished_line_and_reports_it() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = rig.wordtide(&format!("run {} {SHORT}", server.flag())).start();
    let mut peer = server.accept();
    peer.send("kept\nunfinished");
    program.wait_for_lines(1);
    peer.reset();
    program.wait_for("10 bytes of an unfinished line were dropped");
    program.wait_for("reset the connection");
    server.accept().send("after\n");
    assert_eq!(stop_after(&rig, program, 2), counts_of("kept\nafter"));
}

#[test]
fn reset_ends_a_run_with_once() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = rig.wordtide(&format!("run {} --once {SHORT}", server.flag())).start();
    let mut peer = server.accept();
    peer.send("kept\n");
    program.wait_for_lines(1);
    peer.reset();
    program.end().expect(0).says(&["warning", "reset the connection"]);
    assert_eq!(rig.output("out/c").counts(), counts_of("kept"));
}

#[test]
fn absent_source_is_logged_once_then_read() {
    let (rig, port) = (Rig::new(), Closed::new());
    let number = port.port();
    let program = rig.wordtide(&format!("127.0.0.1 {number} --once {LONG}")).start();
    let told = program.wait_for("cannot connect");
    assert!(told.contains(&format!("127.0.0.1:{number}")), "{told}");
    assert!(told.contains(&format!("nc -lk {number}")), "{told}");
    let server = port.open();
    let mut peer = server.accept();
    program.wait_for("connected to");
    peer.send("at last\n");
    peer.fin();
    let ended = program.end().expect(0);
    let told = ended.stderr.iter().filter(|line| line.contains("cannot connect")).count();
    assert_eq!(told, 1, "{ended}");
    assert_eq!(rig.output("out/c").counts(), counts_of("at last"));
}

#[test]
fn several_connections_are_one_stream_of_lines() {
    let (rig, servers) = (Rig::new(), [Server::new(), Server::new(), Server::new()]);
    let flags = servers.each_ref().map(Server::flag).join(" ");
    let program = rig.wordtide(&format!("run {flags} --once {LONG} -w 2")).start();
    let mut peers = servers.each_ref().map(Server::accept);
    // A line of one connection may end while another's is unfinished.
    peers[0].send("a of");
    peers[1].send("b of one\nb");
    peers[0].send(" one\n");
    peers[2].send("c");
    peers.into_iter().for_each(|peer| peer.fin());
    let ended = program.end().expect(0);
    assert_eq!(ended.committed_lines(), 4, "{ended}");
    assert_eq!(rig.output("out/c").counts(), counts_of("a of one\nb of one\nb\nc"));
}

#[test]
fn a_source_that_closed_is_connected_to_again() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = rig.wordtide(&format!("run {} {SHORT}", server.flag())).start();
    for text in ["first", "second\n", "third"] {
        let mut peer = server.accept();
        peer.send(text);
        peer.fin();
    }
    assert_eq!(stop_after(&rig, program, 3), counts_of("first\nsecond\nthird"));
}

#[test]
fn all_files_are_read_then_run_ends() {
    let rig = Rig::new();
    let long = "some words of a file that is longer than a block \n".repeat(10_000);
    rig.file("one.txt", "one file\nwithout an end");
    rig.file("two.txt", &long);
    rig.file("empty.txt", "");
    let flags = "run --file one.txt --file two.txt --file empty.txt -w 2";
    let ended = rig.run(&format!("{flags} {LONG}")).expect(0);
    assert_eq!(ended.committed_lines(), 10_002, "{ended}");
    let expected = counts_of(&format!("one file\nwithout an end\n{long}"));
    assert_eq!(rig.output("out/c").counts(), expected);
}

#[test]
fn standard_input_may_be_pipe_file_or_empty() {
    let text = "a b a\r\nlast";
    let rig = Rig::new();
    let mut program = rig.wordtide(&format!("run --stdin {LONG}")).stdin(Stdio::piped()).start();
    write_and_close(program.stdin(), text.as_bytes());
    program.end().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of(text));

    let rig = Rig::new();
    let file = File::open(rig.file("in.txt", text)).expect("just made");
    rig.wordtide(&format!("run --stdin {LONG}")).stdin(file).start().end().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of(text));

    let rig = Rig::new();
    let ended = rig.run(&format!("run --stdin {LONG}")).expect(0);
    assert_eq!(ended.committed_lines(), 0, "{ended}");
    assert_eq!(rig.output("out/c").only().parts.len(), 0, "a marker alone");
}

#[test]
fn open_pipe_does_not_delay_stop() {
    let rig = Rig::new();
    let invocation = rig.wordtide(&format!("run --stdin {SHORT}")).stdin(Stdio::piped());
    let mut program = invocation.start();
    let mut pipe = program.stdin();
    std::io::Write::write_all(&mut pipe, b"first\nunfinished").expect("the program reads");
    program.wait_for_lines(1);
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("first\nunfinished"));
}

#[test]
fn run_with_epochs_ends_after_their_commit() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--epochs 3 --interval 50ms --format tsv --no-state --to out/c";
    let program = rig.wordtide(&format!("run {} {flags}", server.flag())).start();
    let mut peer = server.accept();
    peer.send("words\n");
    let ended = program.end().expect(0);
    assert_eq!(ended.committed_epochs(), 3, "{ended}");
    let output = rig.output("out/c");
    assert_eq!(output.epochs.len(), 3, "epochs without lines count: {:?}", output.epochs.keys());
    assert_eq!(output.counts(), counts_of("words"));
}

#[test]
fn flags_may_come_from_the_environment() {
    let (rig, server) = (Rig::new(), Server::new());
    let invocation = rig
        .wordtide("run --once --no-state --to out/c")
        .env("WORDTIDE_CONNECT", format!("127.0.0.1:{}", server.port()))
        .env("WORDTIDE_FORMAT", "scala")
        .env("WORDTIDE_INTERVAL", "1h")
        .env("WORDTIDE_LOWERCASE", "1");
    let program = invocation.start();
    let mut peer = server.accept();
    peer.send("A a\n");
    peer.fin();
    program.end().expect(0);
    assert_eq!(rig.output("out/c").rows(), ["(a,2)"]);
}

#[test]
fn source_that_closes_at_once_is_reported_once() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = rig.wordtide(&format!("run {} {SHORT}", server.flag())).start();
    for _ in 0..5 {
        server.accept().fin();
    }
    let mut peer = server.accept();
    peer.send("at last\n");
    program.wait_for_lines(1);
    let ended = program.stop().expect(0);
    let count = |text: &str| ended.stderr.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("closed the connection"), 1, "{ended}");
    assert_eq!(count("accepts connections and ends them at once"), 1, "{ended}");
    assert_eq!(count("after 5 connections that ended at once"), 1, "{ended}");
    assert_eq!(count("connected to"), 2, "{ended}");
    assert_eq!(rig.output("out/c").counts(), counts_of("at last"));
}

#[test]
fn host_in_brackets_is_connected_to() {
    let rig = Rig::new();
    let port = Closed::new().port();
    // No server is needed, and perhaps there is no IPv6: it resolves, and that is all.
    let program = rig.wordtide(&format!("[::1] {port} {LONG}")).start();
    program.wait_for(&format!("cannot connect to [::1]:{port}"));
    program.stop().expect(0);
}

#[test]
fn text_that_is_no_host_is_refused() {
    for (arguments, text) in [
        ("localhost:9999 9999", "contains a port"),
        ("http://localhost 9999", "scheme"),
        ("[::1 9999", "brackets"),
        ("run --connect http://localhost:9999", "--connect"),
        ("run --connect [localhost]:9999", "--connect"),
    ] {
        let rig = Rig::new();
        rig.run(arguments).expect(2).says(&["host", text]);
        assert!(rig.tree().is_empty(), "{arguments}");
    }
    let rig = Rig::new();
    rig.wordtide("").arg("").arg("9999").start().end().expect(2).says(&["it is empty"]);
    rig.wordtide("").arg("local host").arg("9999").start().end().expect(2).says(&["blank"]);
}

/// Runs `arguments` on 100 files under the limit of open files that `ulimit` sets.
fn run_on_many_files(ulimit: &str, arguments: &str) -> (Rig, crate::rig::Ended) {
    let rig = Rig::new();
    let file = |n: usize| {
        rig.file(&format!("file{n}"), format!("line {n}\n"));
        format!("--file file{n}")
    };
    let files: Vec<_> = (0..100).map(file).collect();
    let shell = format!("ulimit {ulimit}; exec \"$0\" \"$@\"");
    let arguments = format!("run {} --interval 24h {arguments}", files.join(" "));
    let ended = rig.wordtide_by(&["sh", "-c", &shell], &arguments).start().end();
    (rig, ended)
}

#[test]
fn many_files_need_few_descriptors() {
    let (_rig, ended) = run_on_many_files("-n 120", "--no-state --to out/c");
    assert_eq!(ended.expect(0).committed_lines(), 100);
}

#[test]
fn soft_limit_of_open_files_is_raised() {
    let (_rig, ended) = run_on_many_files("-S -n 64", "--state s --to out/c");
    assert_eq!(ended.expect(0).committed_lines(), 100);
}

#[test]
fn low_file_limit_is_refused_at_start() {
    let (rig, ended) = run_on_many_files("-n 256", "--state s --to out/c");
    ended.expect(78).says(&["100 sources", "ulimit -n", "256"]);
    assert!(!rig.path("s").exists() && !rig.path("out").exists(), "{:?}", rig.tree());
}
