//! A stop commits what was received: all of it, once, and nothing else.

use std::fs;

use rustix::process::Signal;
use wordtide::internals::epoch::{Clock, SystemClock};

use crate::oracle::{self, Counts};
use crate::rig::{Peer, Rig, Running, Server, random, side_by_side};

/// A line is one numbered word of so many bytes, its end included.
const LINE_BYTES: usize = 64;

/// The first `bytes` bytes of the stream of numbered words, from line `first`.
fn numbered(first: usize, lines: usize) -> Vec<u8> {
    (first..first + lines).flat_map(|n| format!("{n:063}\n").into_bytes()).collect()
}

/// Sends numbered lines until the program closes the connection; after `bytes` of them, `then`.
fn flood(mut peer: Peer, bytes: usize, then: impl FnOnce()) {
    let mut then = Some(then);
    let mut lines = 0;
    loop {
        if lines * LINE_BYTES >= bytes {
            then.take().into_iter().for_each(|then| then());
        }
        if !peer.try_send(&numbered(lines, 100)) {
            return;
        }
        lines += 100;
    }
}

/// Fails unless `counts` are those of a prefix of the stream; returns how long it is.
fn check_prefix(counts: &Counts) -> usize {
    let whole = counts.keys().filter(|word| word.len() == LINE_BYTES - 1).count();
    // A stop ends the unfinished line as a line.
    let rest: usize = counts.keys().map(Vec::len).filter(|&bytes| bytes < LINE_BYTES - 1).sum();
    let received = &numbered(0, whole + 1)[..whole * LINE_BYTES + rest];
    let expected = oracle::count(received, oracle::words_python);
    let lost = expected.keys().find(|word| !counts.contains_key(*word));
    assert!(lost.is_none(), "lost: {:?}", lost.map(|word| String::from_utf8_lossy(word)));
    assert_eq!(*counts, expected, "something else than a prefix of what was sent");
    received.len()
}

/// Floods the program, stops it after about `bytes` bytes, and checks what is committed.
fn stop_under_load(bytes: usize, signal: Signal, interval_ms: u64, threads: usize) {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = format!("--interval {interval_ms}ms -w {threads} --format tsv --to out/c");
    let program = rig.wordtide(&format!("run {} {flags}", server.flag())).start();
    flood(server.accept(), bytes, || program.signal(signal));
    let ended = program.end().expect(0);
    let output = rig.output("out/c");
    let received = check_prefix(&output.counts());
    assert_eq!(received.div_ceil(LINE_BYTES) as u64, output.total("lines"), "{ended}");
    assert!(output.uncommitted.is_empty(), "{:?}\n{ended}", output.uncommitted);
}

#[test]
fn stop_commits_exactly_received_lines() {
    let mut seed = 2_026;
    let moments: Vec<_> = (0..20)
        .map(|n| {
            let bytes = random(&mut seed) as usize % (1 << (10 + n / 2));
            let signal = [Signal::INT, Signal::TERM, Signal::HUP][n % 3];
            (bytes, signal, [10, 50, 1_000, 3_600_000][n % 4], n % 3 + 1)
        })
        .collect();
    side_by_side(moments, |(bytes, signal, interval_ms, threads)| {
        stop_under_load(bytes, signal, interval_ms, threads);
    });
}

#[test]
fn arrived_bytes_are_read_before_end() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--interval 24h --format tsv --to out/c";
    let program = rig.wordtide(&format!("run {} {flags}", server.flag())).start();
    let mut peer = server.accept();
    program.wait_for("connected to");
    let sent = numbered(0, 500);
    peer.send(&sent);
    program.stop().expect(0);
    assert_eq!(check_prefix(&rig.output("out/c").counts()), sent.len());
}

#[test]
fn stop_before_first_connection_ends_well() {
    let (rig, port) = (Rig::new(), crate::rig::server::Closed::new());
    for signal in [Signal::TERM, Signal::INT] {
        let program = rig.wordtide(&format!("127.0.0.1 {} --once", port.port())).start();
        program.wait_for("cannot connect");
        program.signal(signal);
        program.end().expect(0).says(&["stopping"]);
    }
}

/// A program that cannot commit: a file stands where its only epoch's directory should be.
fn stuck(rig: &Rig, server: &Server, flags: &str) -> Running {
    const DAY_MS: u64 = 24 * 3_600 * 1_000;
    let today = SystemClock::new().wall_ms() / DAY_MS;
    fs::create_dir(rig.path("out")).expect("a new directory");
    for day in [today + 1, today + 2] {
        rig.file(&format!("out/c-{}", day * DAY_MS), "in the way");
    }
    let flags = format!("--interval 24h --format tsv --to out/c {flags}");
    let program = rig.wordtide(&format!("run {} {flags}", server.flag())).start();
    server.accept().send("a line\n");
    program.wait_for("closed the connection");
    program
}

/// The epoch whose parts the program cannot store.
fn stuck_epoch(program: &Running) -> String {
    let told = program.wait_for("closed epochs are kept and retried");
    let (_, name) = told.split_once("out/c-").expect("the place is named");
    name.chars().take_while(char::is_ascii_digit).collect()
}

#[test]
fn second_signal_names_uncommitted_epochs_at_once() {
    for (second, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 143)] {
        let (rig, server) = (Rig::new(), Server::new());
        let program = stuck(&rig, &server, "");
        program.signal(Signal::TERM);
        let epoch = stuck_epoch(&program);
        let ended = program.insist(second).expect(code);
        ended.says(&["second signal", "not committed", &epoch]);
    }
}

#[test]
fn second_signal_to_launcher_names_uncommitted_epochs() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = stuck(&rig, &server, "-n 2");
    program.signal(Signal::TERM);
    let epoch = stuck_epoch(&program);
    let ended = program.insist(Signal::TERM).expect(143);
    ended.says(&[&format!("[0] wordtide: ended by a second signal; not committed: {epoch}")]);
}

#[test]
fn signals_within_a_second_are_one_stop() {
    let bursts = [
        vec![Signal::TERM; 2],
        vec![Signal::INT, Signal::TERM, Signal::HUP],
        vec![Signal::HUP, Signal::HUP, Signal::INT, Signal::TERM, Signal::TERM, Signal::INT],
    ];
    side_by_side(bursts.to_vec(), |burst: Vec<Signal>| {
        let (rig, server) = (Rig::new(), Server::new());
        let flags = "--interval 100ms --format tsv --no-state --to out/c";
        let program = rig.wordtide(&format!("run {} {flags}", server.flag())).start();
        let mut peer = server.accept();
        let sent = numbered(0, 500);
        peer.send(&sent[..LINE_BYTES]);
        program.wait_for_lines(1);
        peer.send(&sent[LINE_BYTES..]);
        burst.into_iter().for_each(|signal| program.signal(signal));
        let ended = program.end().expect(0);
        assert_eq!(check_prefix(&rig.output("out/c").counts()), sent.len(), "{ended}");
    });
}

#[test]
fn hangup_ignored_at_the_start_stays_ignored() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--interval 50ms --to - --no-state";
    let nohup = ["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""];
    let program = rig.wordtide_by(&nohup, &format!("run {} {flags}", server.flag())).start();
    let mut peer = server.accept();
    program.wait_for("connected to");
    program.signal(Signal::HUP);
    peer.send("a line\n");
    program.wait_for_lines(1);
    let ended = program.stop().expect(0);
    assert!(!ended.stdout.is_empty(), "{ended}");
}

#[test]
fn long_stop_ends_by_its_timeout() {
    for (flags, code) in [("", 75), ("--no-state", 1)] {
        let (rig, server) = (Rig::new(), Server::new());
        let program = stuck(&rig, &server, &format!("--stop-timeout 200ms {flags}"));
        program.stop().expect(code).says(&["--stop-timeout of 200ms", "not committed"]);
        assert!(rig.output("out/c").epochs.is_empty());
    }
}

#[test]
fn stop_waits_for_store_that_returns() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = stuck(&rig, &server, "");
    program.signal(Signal::TERM);
    let epoch = stuck_epoch(&program);
    fs::remove_file(rig.path(format!("out/c-{epoch}"))).expect("it stands there");
    program.end().expect(0).says(&["takes objects again"]);
    let counts = Counts::from([(b"a".to_vec(), 1), (b"line".to_vec(), 1)]);
    assert_eq!(rig.output("out/c").counts(), counts);
}
