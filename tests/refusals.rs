//! Refusals of a start: the exit code is right, the message names the flag, and no file is left.

use rustix::process::Signal;

use crate::rig::server::Closed;
use crate::rig::{Rig, Server};

/// Runs `arguments` in a directory that holds a file called `file`; expects this exit code, one
/// line that holds all of `texts`, and nothing new in the directory.
#[track_caller]
fn refused(arguments: &str, code: i32, texts: &[&str]) {
    let rig = Rig::new();
    rig.file("file", "a line\n");
    rig.run(arguments).expect(code).says(texts);
    assert_eq!(rig.tree(), ["file"], "left behind by `wordtide {arguments}`");
}

#[test]
fn malformed_address_is_a_usage_error() {
    refused("localhost x", 2, &["\"x\"", "HOST PORT"]);
    refused("localhost 65536", 2, &["65536", "HOST PORT"]);
    refused("localhost 0", 2, &["localhost:0", "HOST:PORT"]);
    refused("localhost", 2, &["localhost", "HOST PORT"]);
    refused("run --connect localhost", 2, &["\"localhost\"", "--connect"]);
    refused("run --connect localhost:http", 2, &["localhost:http", "--connect"]);
}

#[test]
fn values_out_of_range_name_their_flag() {
    for interval in ["0s", "0ms", "9ms", "25h", "1441m"] {
        let arguments = format!("localhost 9 --interval {interval}");
        refused(&arguments, 2, &["--interval", "10ms to 24h"]);
    }
    refused("localhost 9 --interval 10", 2, &["--interval"]);
    refused("localhost 9 --parts 0", 2, &["--parts"]);
    refused("localhost 9 -w 0", 2, &["--threads"]);
    refused("localhost 9 --threads many", 2, &["--threads"]);
    refused("localhost 9 --epochs 0", 2, &["--epochs"]);
    refused("localhost 9 --format xml", 2, &["--format"]);
    refused("localhost 9 --sort length", 2, &["--sort"]);
    refused("localhost 9 --empty-epochs never", 2, &["--empty-epochs"]);
    refused("localhost 9 --split tabs", 2, &["--split"]);
    refused("localhost 9 --max-word-bytes 0", 2, &["--max-word-bytes"]);
    refused("localhost 9 --max-line-bytes 1KiB", 2, &["--max-line-bytes"]);
    refused("localhost 9 --stop-timeout soon", 2, &["--stop-timeout"]);
    refused("run top_k --stdin --k 0", 2, &["--k"]);
    refused("run running_totals --stdin --max-keys 0", 2, &["--max-keys"]);
    refused("run sliding_windows --stdin --window 5000000000000h", 2, &["--window"]);
}

#[test]
fn negative_value_names_its_flag() {
    refused("localhost -1", 2, &["\"-1\"", "HOST PORT"]);
    for (value, flag) in [
        ("-1", "-w"),
        ("-1", "--parts"),
        ("-1", "--epochs"),
        ("-5s", "--interval"),
        ("-1", "--max-line-bytes"),
        ("-1", "--restart"),
    ] {
        let name = if flag == "-w" { "--threads" } else { flag };
        refused(&format!("run --stdin {flag} {value}"), 2, &[value, name]);
    }
    refused("run top_k --stdin --k -1", 2, &["-1", "--k"]);
    refused("run field_count --stdin --field -1", 2, &["-1", "--field"]);
}

#[test]
fn suffix_with_a_slash_is_refused() {
    for suffix in ["a/b", "txt/", "/"] {
        refused(&format!("run --stdin --suffix {suffix}"), 2, &[suffix, "--suffix"]);
    }
}

#[test]
fn flag_without_source_is_not_the_demo() {
    for flags in ["-w 2", "--interval 1s", "--format tsv", "--no-state", "--lowercase -v"] {
        refused(flags, 2, &["--connect", "--file", "--stdin"]);
    }
}

#[test]
fn bad_expression_is_reported_on_one_line() {
    refused("run field_count --stdin --regex (", 2, &["--regex", "unclosed group"]);
}

#[test]
fn conflicting_and_unknown_flags_are_refused() {
    refused("run no_such_dataflow --stdin", 2, &["no_such_dataflow", "wordtide list"]);
    refused("run", 2, &["--connect", "--file", "--stdin"]);
    refused("run --stdin --state there --no-state", 2, &["--state", "--no-state"]);
    refused("localhost 9 --no-such-flag", 2, &["--no-such-flag"]);
    refused("no-such-command 9 9", 2, &["9"]);
    refused("run --stdin --to hdfs://name/path", 2, &["hdfs", "--to"]);
}

#[test]
fn unreadable_file_is_refused_at_start() {
    refused("run --file absent", 78, &["absent", "--file"]);
    refused("run --file file --file absent", 78, &["absent", "--file"]);
    refused("run --file .", 78, &["directory", "--file"]);
    refused("run --file file/below", 78, &["file/below", "--file"]);
}

#[test]
fn unwritable_output_is_refused_at_start() {
    refused("run --stdin --to file/below/counts", 78, &["file", "--to"]);
    refused("run --stdin --no-state --to file/counts", 78, &["file", "--to"]);
    refused("run --stdin --to /proc/none/counts", 78, &["/proc/none", "--to"]);
}

#[test]
fn unwritable_state_is_refused_at_start() {
    refused("run --stdin --state file", 78, &["file", "--state"]);
    refused("run --stdin --state /proc/none", 78, &["/proc/none", "--state"]);
}

#[test]
fn unknown_host_ends_run_after_retries() {
    let rig = Rig::new();
    // Two dots: no resolver has to be asked to know that this is no name.
    let ended = rig.run("no..such..host 9999").expect(75);
    ended.says(&["no..such..host", "--connect"]);
    // An epoch whose interval ends while names are retried is published without lines.
    let parts: Vec<_> = rig.tree().into_iter().filter(|name| name.contains("part-")).collect();
    assert!(parts.is_empty(), "{parts:?}");
}

#[test]
fn closed_port_is_retried_until_stop() {
    let (rig, port) = (Rig::new(), Closed::new());
    let program = rig.wordtide(&format!("localhost {} --once", port.port())).start();
    program.wait_for("nc -lk");
    program.stop().expect(0);
}

#[test]
fn state_of_another_job_is_refused() {
    let (rig, state) = (Rig::new(), "--state there --to out/c");
    rig.run(&format!("run --stdin {state}")).expect(0);
    let before = rig.tree();
    for (flag, name) in
        [("--format tsv", "format"), ("--lowercase", "words"), ("--parts 3", "parts")]
    {
        let ended = rig.run(&format!("run --stdin {state} {flag}")).expect(78);
        ended.says(&["there", name, "--state"]);
    }
    assert_eq!(rig.tree(), before, "left behind");
    rig.run(&format!("run --stdin {state}")).expect(0);
}

#[test]
fn state_in_use_is_refused() {
    let (rig, server) = (Rig::new(), Server::new());
    let arguments = format!("run {} --state there --to -", server.flag());
    let program = rig.wordtide(&arguments).start();
    let _peer = server.accept();
    rig.run("run --stdin --state there --to -").expect(78).says(&["another process", "--state"]);
    program.stop().expect(0);
    rig.run("run --stdin --state there --to -").expect(0);
}

#[test]
fn output_in_use_is_refused_with_pid() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = rig.wordtide(&format!("run {} --no-state --to out/c", server.flag())).start();
    let _peer = server.accept();
    let pid = format!("process {}", program.pid());
    rig.run("run --stdin --no-state --to out/c").expect(78).says(&[&pid, "--to"]);
    rig.run("run --stdin --no-state --to out/other").expect(0);
    // Killed, not stopped: the lock must go with the process.
    program.signal(Signal::KILL);
    drop(program);
    rig.run("run --stdin --no-state --to out/c").expect(0);
}

#[test]
fn help_and_lists_go_to_standard_output() {
    for (arguments, text) in [
        ("--help", "--interval"),
        ("-?", "--connect"),
        ("run --help", "--empty-epochs"),
        ("--version", "wordtide 0."),
        ("list", "network_wordcount"),
        ("completions bash", "wordtide"),
        ("man", ".TH wordtide"),
        ("list --help", "List the dataflows"),
        ("list -h", "List the dataflows"),
        ("completions -?", "SHELL"),
        ("man --help", "man page"),
        ("journal -h", "check"),
        ("journal check --help", "DIR"),
        ("replay --help", "DIR"),
        ("run top_k -h", "--k"),
        ("run sliding_windows -?", "--slide"),
    ] {
        let ended = Rig::new().run(arguments).expect(0);
        let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(stdout.contains(text), "{arguments}: {stdout}");
        assert!(ended.stderr.is_empty(), "{ended}");
    }
}

#[test]
fn demo_shows_words_and_their_place() {
    let rig = Rig::new();
    // Settings of other jobs do not concern it.
    let ended = rig.wordtide("").env("WORDTIDE_TO", "oss://key:secret@bucket/x").start().end();
    let ended = ended.expect(0);
    assert_eq!(ended.committed_epochs(), 5, "{ended}");
    let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(stdout.lines().count() == 10, "{stdout}");
    assert!(ended.stderr.iter().any(|line| line.contains("wordtide-out/")), "{ended}");
    assert_eq!(rig.output("wordtide-out/demo").epochs.len(), 5);
}
