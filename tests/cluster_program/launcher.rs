use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::{check_prefixes, flood};
use crate::oracle;
use crate::rig::{Rig, Running, Server, write_and_close};
use crate::store::oss_double::OssDouble;
use crate::store_program::{TO, oss, stored};

/// The process ids of the program's children.
fn children(program: &Running) -> Vec<Pid> {
    let tasks = format!("/proc/{}/task", program.pid());
    let tasks = std::fs::read_dir(tasks).expect("it runs").flatten();
    let children = tasks.filter_map(|task| {
        let children = std::fs::read_to_string(task.path().join("children")).ok()?;
        Some(children.split_whitespace().map(|pid| pid.parse().ok()).collect::<Vec<Option<i32>>>())
    });
    let mut children: Vec<i32> = children.flatten().flatten().collect();
    children.sort_unstable(); // in the order in which they were started
    children.into_iter().filter_map(Pid::from_raw).collect()
}

/// Starts `-n 2` on two flooded servers and waits until epochs are committed.
fn two_under_load(rig: &Rig, flags: &str) -> (Running, [Server; 2]) {
    let servers = [Server::new(), Server::new()];
    let connect = servers.each_ref().map(Server::flag).join(" ");
    let job = "--interval 50ms --format tsv --to out/c";
    let program = rig.wordtide(&format!("run {connect} -n 2 {job} {flags}")).start();
    serve(&servers);
    program.wait_for_lines(1_000);
    (program, servers)
}

fn serve(servers: &[Server; 2]) {
    for (source, server) in servers.iter().enumerate() {
        let peer = server.accept();
        std::thread::spawn(move || flood(peer, source));
    }
}

#[test]
fn launcher_prefixes_lines_with_process() {
    let rig = Rig::new();
    rig.file("input", "a b\nb\n");
    let flags = "--interval 24h --no-state --format tsv --to out/c";
    let ended = rig.run(&format!("run --file input -n 2 {flags}")).expect(0);
    let ended = ended.says(&["[0] 2 processes x 1 thread = 2 workers"]);
    let ended = ended.says(&["[0] epoch ", " committed: 2 lines, 3 words, 2 distinct"]);
    assert!(ended.stdout.is_empty(), "{ended}");
    let prefixed = |line: &String| line.starts_with("[0] ") || line.starts_with("[1] ");
    let own = ended.stderr.iter().filter(|line| !prefixed(line));
    assert!(own.clone().all(|line| line.contains("cores of this machine")), "{ended}");
    assert_eq!(rig.output("out/c").rows(), ["a\t1", "b\t2"]);
}

#[test]
fn process_0_has_standard_input_and_output() {
    let rig = Rig::new();
    let flags = "run --stdin -n 3 --interval 24h --to - --format tsv --parts 4";
    let mut program = rig.wordtide(flags).stdin(Stdio::piped()).start();
    write_and_close(program.stdin(), b"x y\nx\n");
    let ended = program.end().expect(0);
    let mut rows: Vec<&[u8]> = ended.stdout.split_inclusive(|byte| *byte == b'\n').collect();
    rows.sort();
    assert_eq!(rows, [b"x\t2\n", b"y\t1\n"]);
}

#[test]
fn failed_start_ends_all_with_its_code() {
    let rig = Rig::new();
    rig.file("file", "");
    let ended = rig.run("run --file file -n 3 --no-state --to file/below/c").expect(78);
    let ended = ended.says(&["[0] wordtide: error: ", "--to"]);
    assert!(!ended.stderr.iter().any(|line| line.contains("killed")), "{ended}");
}

#[test]
fn launcher_stop_stops_all_cleanly() {
    let rig = Rig::new();
    let (program, _servers) = two_under_load(&rig, "--no-state");
    let ended = program.stop().expect(0);
    let output = rig.output("out/c");
    assert_eq!(check_prefixes(&output.counts(), 2) as u64, output.total("lines"), "{ended}");
}

#[test]
fn launcher_death_stops_all() {
    let rig = Rig::new();
    let (program, _servers) = two_under_load(&rig, "--no-state");
    program.signal(Signal::KILL);
    // Both of its children hold its standard output open: it ends when they have.
    program.end();
    let output = rig.output("out/c");
    assert_eq!(check_prefixes(&output.counts(), 2) as u64, output.total("lines"));
    assert!(output.uncommitted.is_empty(), "{:?}", output.uncommitted);
}

#[test]
fn launcher_death_leaves_state_to_next_start() {
    for is_stopping in [false, true] {
        launcher_dies(is_stopping);
    }
}

/// Kills a launcher, which may have got a signal to stop before, and starts the same again.
fn launcher_dies(is_stopping: bool) {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    // A stop would wait for the store.
    let flags = "-n 2 --format tsv --interval 50ms --state state --stop-timeout 1h";
    let run = format!("run {} {flags} {TO}", server.flag());
    let first = oss(&rig, &double, &run).start();
    let mut peer = server.accept();
    peer.send("before\n");
    first.wait_for_lines(1);
    double.outage(true);
    peer.send("during\n");
    first.wait_for("nothing is lost");
    if is_stopping {
        first.signal(Signal::TERM);
        peer.wait_until_closed();
    }
    first.signal(Signal::KILL);
    let first = first.end();
    double.outage(false);
    let second = oss(&rig, &double, &run).start();
    let mut peer = server.accept();
    peer.send("after\n");
    let output = second.wait_until("its line", |_| {
        let output = stored(&rig, &double);
        output.counts().contains_key(&b"after"[..]).then_some(output)
    });
    let second = second.stop().expect(0);
    assert!(output.counts().contains_key(&b"before"[..]), "{first}");
    let lines = first.committed_lines() + second.committed_lines();
    assert_eq!(stored(&rig, &double).total("words"), lines as u64, "{second}");
}

#[test]
fn launcher_death_during_start_stops_all() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = rig.wordtide(&format!("run {} -n 2 --no-state -v", server.flag())).start();
    program.wait_for("[0] 2 processes");
    program.signal(Signal::KILL);
    program.end();
}

#[test]
fn a_killed_child_ends_the_launcher_with_69() {
    let rig = Rig::new();
    let (program, _servers) = two_under_load(&rig, "--no-state");
    kill_process(children(&program)[1], Signal::KILL).expect("it runs");
    program.end().expect(69).says(&["[0] wordtide: error: lost process 1 ("]);
}

#[test]
fn second_signal_kills_all_with_its_code() {
    for (second, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let rig = Rig::new();
        let (program, _servers) = two_under_load(&rig, "--no-state");
        // Without it the last epoch cannot be committed.
        kill_process(children(&program)[1], Signal::STOP).expect("it runs");
        program.signal(Signal::TERM);
        program.wait_for("stopping all processes; a second signal ends them at once");
        let ended = program.insist(second).expect(code);
        ended.says(&["a second signal: the processes that still run"]);
    }
}

#[test]
fn signals_to_all_at_once_are_one_stop() {
    let rig = Rig::new();
    let (program, _servers) = two_under_load(&rig, "--no-state");
    // As a service manager does: the launcher and each child, and the launcher once more.
    program.signal(Signal::TERM);
    children(&program).iter().for_each(|child| {
        kill_process(*child, Signal::TERM).expect("it runs");
    });
    program.signal(Signal::HUP);
    program.signal(Signal::INT);
    let ended = program.end().expect(0);
    let output = rig.output("out/c");
    assert_eq!(check_prefixes(&output.counts(), 2) as u64, output.total("lines"), "{ended}");
    assert!(output.uncommitted.is_empty(), "{:?}", output.uncommitted);
}

#[test]
fn one_process_alone_is_started_again_too() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--restart 1 --interval 50ms --no-state --to out/c";
    let program = rig.wordtide(&format!("run {} {flags}", server.flag())).start();
    let peer = server.accept();
    kill_process(children(&program)[0], Signal::KILL).expect("it runs");
    program.wait_for("process 0 was ended by signal 9");
    program.wait_for("is started again in 1 s (--restart: 1 of 1)");
    drop(peer);
    server.accept().send("a line\n");
    program.wait_for_lines(1);
    program.stop().expect(0);
}

#[test]
fn all_restart_and_resume_after_loss() {
    let rig = Rig::new();
    let (program, servers) = two_under_load(&rig, "--restart 2 --no-state");
    let before = children(&program);
    kill_process(before[0], Signal::KILL).expect("it runs");
    program.wait_for("the cluster ended with code 69; it is started again in 1 s");
    let closed = program.wait_until("a second start", |lines| {
        let started = lines.iter().filter(|line| line.contains("2 processes x 1 thread")).count();
        (started == 2).then_some(lines.len())
    });
    let peers = servers.each_ref().map(Server::accept);
    let sent = "again\n".repeat(1_000);
    for mut peer in peers {
        peer.send(&sent);
    }
    program.wait_until("lines of the second generation", |lines| {
        let told = lines[closed..].iter().any(|line| line.contains(" committed: "));
        told.then_some(())
    });
    assert!(children(&program).iter().all(|pid| !before.contains(pid)));
    let ended = program.stop().expect(0);
    let counts = rig.output("out/c").counts();
    let again = oracle::count(sent.repeat(2).as_bytes(), oracle::words_python);
    assert_eq!(counts.get(b"again".as_slice()), again.get(b"again".as_slice()), "{ended}");
}
