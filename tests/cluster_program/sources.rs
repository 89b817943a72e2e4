use std::process::Stdio;

use super::{Addresses, all_done, check_prefixes, flood, start};
use crate::oracle::{self, Counts};
use crate::rig::{Rig, Running, Server, write_and_close};

const LONG: &str = "--interval 24h --format tsv --no-state --to out/c";
const SHORT: &str = "--interval 50ms --format tsv --no-state --to out/c";

fn counts_of(text: &str) -> Counts {
    oracle::count(text.as_bytes(), oracle::words_python)
}

/// Waits until the process logs that it is connected to the server.
fn wait_for(process: &Running, server: &Server) {
    process.wait_for(&format!("connected to 127.0.0.1:{}", server.port()));
}

#[test]
fn sources_go_round_over_the_processes() {
    let rig = Rig::new();
    let servers: Vec<Server> = (0..5).map(|_| Server::new()).collect();
    let connect: Vec<String> = servers.iter().map(Server::flag).collect();
    let processes = start(&rig, 2, &format!("run --once {} {LONG}", connect.join(" ")));
    for (k, server) in servers.iter().enumerate() {
        wait_for(&processes[k % 2], server);
        server.accept().send(format!("all s{k}\n"));
    }
    all_done(processes);
    assert_eq!(rig.output("out/c").counts(), counts_of("all s0\nall s1\nall s2\nall s3\nall s4"));
}

#[test]
fn a_source_may_be_given_to_one_process() {
    let rig = Rig::new();
    let servers = [Server::new(), Server::new()];
    let [zero, one] = servers.each_ref().map(Server::port);
    let connect = format!("--connect 2=127.0.0.1:{zero} --connect 127.0.0.1:{one}");
    let processes = start(&rig, 3, &format!("run --once {connect} {LONG}"));
    wait_for(&processes[2], &servers[0]);
    wait_for(&processes[1], &servers[1]);
    servers.iter().for_each(|server| server.accept().send("a line\n"));
    let ended = all_done(processes);
    assert!(!ended[0].stderr.iter().any(|line| line.contains("connected to")), "{}", ended[0]);
    assert_eq!(rig.output("out/c").counts(), counts_of("a line\na line"));
}

#[test]
fn source_of_unknown_process_is_refused() {
    let rig = Rig::new();
    let refused = |arguments: &str| {
        let texts = ["--connect", "process 2", "-n/--processes"];
        rig.run(&format!("run {arguments} {LONG}")).expect(2).says(&texts);
    };
    refused("--connect 2=localhost:9");
    refused("--connect 2=localhost:9 -n 2");
    refused("--connect 2=localhost:9 -n 2 -p 0 --addresses a:1,b:2");
    rig.run(&format!("run --connect x=localhost:9 {LONG}")).expect(2).says(&["--connect"]);
}

#[test]
fn processes_without_a_source_hold_nothing_back() {
    let (rig, server) = (Rig::new(), Server::new());
    let connect = format!("--connect 1=127.0.0.1:{}", server.port());
    let processes = start(&rig, 3, &format!("run {connect} {SHORT}"));
    let mut peer = server.accept();
    for line in 1..=3 {
        peer.send("word\n");
        processes[0].wait_for_lines(line);
    }
    drop(peer);
    processes[1].signal(rustix::process::Signal::TERM);
    all_done(processes);
    assert_eq!(rig.output("out/c").counts(), counts_of("word\nword\nword"));
}

#[test]
fn file_named_by_all_is_read_once() {
    let (rig, addresses) = (Rig::new(), Addresses::new(2));
    rig.file("first", "a b\n");
    rig.file("second", "b c\n");
    let hosts = [Rig::new(), Rig::new()];
    hosts[0].file("first", "a b\n");
    hosts[1].file("second", "b c\n");
    let out = rig.path("out/c");
    let flags = format!("--interval 24h --format tsv --no-state --to {}", out.display());
    let start = |p: usize| {
        let flags = format!("{flags} {}", addresses.flags(p));
        hosts[p].wordtide(&format!("run --file first --file second {flags}")).start()
    };
    all_done(vec![start(0), start(1)]);
    assert_eq!(rig.output("out/c").counts(), counts_of("a b\nb c"));
}

#[test]
fn standard_input_is_that_of_process_0() {
    let (rig, addresses) = (Rig::new(), Addresses::new(2));
    let start = |p: usize| {
        let flags = addresses.flags(p);
        rig.wordtide(&format!("run --stdin {LONG} {flags}")).stdin(Stdio::piped()).start()
    };
    let mut processes = vec![start(0), start(1)];
    // Standard input of another process is not read.
    let unread = processes[1].stdin();
    write_and_close(processes[0].stdin(), b"one two\n");
    all_done(processes);
    drop(unread);
    assert_eq!(rig.output("out/c").counts(), counts_of("one two"));
}

#[test]
fn flooded_socket_feeds_all_without_loss() {
    let (rig, server) = (Rig::new(), Server::new());
    let processes = start(&rig, 3, &format!("run -v {} {SHORT} --parts 5", server.flag()));
    let peer = server.accept();
    let flooding = std::thread::spawn(move || flood(peer, 0));
    processes[0].wait_for_lines(200_000);
    processes[2].signal(rustix::process::Signal::TERM);
    let ended = all_done(processes);
    flooding.join().expect("it ends with the connection");
    let output = rig.output("out/c");
    let shipped = |line: &&String| line.contains(" blocks were shipped to process ");
    let shipped = ended[0].stderr.iter().filter(shipped);
    let none = |line: &String| line.contains(" 0 blocks");
    assert!(shipped.clone().count() == 2 && !shipped.clone().all(none), "{}", ended[0]);
    let lines = check_prefixes(&output.counts(), 1) as u64;
    assert_eq!((lines, lines), (output.total("lines"), ended[0].committed_lines()));
}

#[test]
fn mutual_floods_do_not_deadlock() {
    let rig = Rig::new();
    let servers = [Server::new(), Server::new()];
    let connect = servers.each_ref().map(Server::flag).join(" ");
    let processes = start(&rig, 2, &format!("run {connect} {SHORT} --parts 5"));
    for (source, server) in servers.iter().enumerate() {
        let peer = server.accept();
        std::thread::spawn(move || flood(peer, source));
    }
    processes[0].wait_for_lines(200_000);
    processes[1].signal(rustix::process::Signal::TERM);
    all_done(processes);
    let output = rig.output("out/c");
    assert_eq!(check_prefixes(&output.counts(), 2) as u64, output.total("lines"));
}

#[test]
fn shipped_uncommitted_lines_are_replayed_after_crash() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--interval 100ms --format tsv --state state --parts 5 --to out/c";
    let arguments = format!("run {} {flags}", server.flag());
    let mut processes = start(&rig, 2, &arguments);
    let peer = server.accept();
    std::thread::spawn(move || flood(peer, 0));
    processes[0].wait_for_lines(20_000);
    processes[1].signal(rustix::process::Signal::KILL);
    drop(processes.remove(1));
    processes.remove(0).end().expect(69);
    let processes = start(&rig, 2, &arguments);
    drop(server.accept());
    processes[0].wait_for("closed the connection");
    processes[0].signal(rustix::process::Signal::TERM);
    all_done(processes);
    let output = rig.output("out/c");
    // All of them are a prefix of what was sent: nothing that was read is lost or counted twice.
    assert!(check_prefixes(&output.counts(), 1) >= 20_000);
    assert_eq!(check_prefixes(&output.counts(), 1) as u64, output.total("lines"));
}
