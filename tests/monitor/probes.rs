use rustix::process::Signal;

use crate::cluster_program::{self, end};
use crate::rig::server::Closed;
use crate::rig::watched::{EventStream, get, port};
use crate::rig::{Rig, Server};
use crate::store::oss_double::OssDouble;
use crate::store_program::{TO, oss};

/// Reads events until one shows a status that is wanted.
#[track_caller]
fn until(stream: &mut EventStream, is_wanted: impl Fn(&serde_json::Value) -> bool) {
    let found = std::iter::from_fn(|| stream.next())
        .any(|event| event.kind == "status" && is_wanted(&event.data));
    assert!(found, "the stream ended before");
}

/// Returns true if a status has a condition of this kind.
fn has(status: &serde_json::Value, kind: &str) -> bool {
    let conditions = status["conditions"].as_array().expect("a list");
    conditions.iter().any(|condition| condition["kind"] == kind)
}

#[test]
fn source_decides_readiness_and_not_health() {
    let (rig, closed) = (Rig::new(), Closed::new());
    let source = format!("127.0.0.1:{}", closed.port());
    let flags = format!("run --connect {source} --interval 100ms --no-state --to out/c");
    let program = rig.wordtide(&format!("{flags} --http 127.0.0.1:0")).start();
    let port = port(&program);
    let mut stream = EventStream::open(port, "");
    until(&mut stream, |status| has(status, "source_down"));
    get(port, "/health").expect(200);
    let reason = get(port, "/ready").expect(503).json()["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.contains(&source)), "{reason}");
    let metrics = get(port, "/metrics").body;
    assert!(metrics.contains(&format!("wordtide_source_connected{{source=\"{source}\"}} 0")));
    let server = closed.open();
    let peer = server.accept();
    until(&mut stream, |status| !has(status, "source_down") && status["phase"] == "counting");
    get(port, "/ready").expect(200);
    // No socket listens any more, so it stays away.
    drop((server, peer));
    until(&mut stream, |status| has(status, "source_down"));
    get(port, "/ready").expect(503);
    program.stop().expect(0);
}

#[test]
fn outage_is_shown_and_a_stop_waits() {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    let flags = format!("run {} --interval 100ms --no-state {TO}", server.flag());
    let program = oss(&rig, &double, &format!("{flags} --http 127.0.0.1:0")).start();
    let (port, mut peer) = (port(&program), server.accept());
    peer.send("before\n");
    program.wait_for_lines(1);
    let mut stream = EventStream::open(port, "");
    double.outage(true);
    peer.send("during\n");
    until(&mut stream, |status| has(status, "store_away"));
    get(port, "/health").expect(200);
    get(port, "/ready").expect(200);
    assert!(get(port, "/metrics").body.contains("\nwordtide_output_available 0\n"));
    program.signal(Signal::TERM);
    until(&mut stream, |status| status["phase"] == "stopping");
    assert_eq!(get(port, "/health").expect(503).json()["status"], "stopping");
    assert!(get(port, "/ready").expect(503).json()["reason"].is_string());
    double.outage(false);
    until(&mut stream, |status| !has(status, "store_away"));
    program.end().expect(0);
}

#[test]
fn start_without_store_is_shown() {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    double.outage(true);
    let flags = format!("run {} --interval 100ms --no-state {TO}", server.flag());
    let program = oss(&rig, &double, &format!("{flags} --http 127.0.0.1:0")).start();
    let port = port(&program);
    let mut stream = EventStream::open(port, "");
    until(&mut stream, |status| has(status, "store_away") && status["phase"] == "starting");
    assert!(get(port, "/metrics").body.contains("\nwordtide_output_available 0\n"));
    double.outage(false);
    until(&mut stream, |status| !has(status, "store_away") && status["phase"] == "counting");
    program.stop().expect(0);
}

#[test]
fn lost_peer_is_shown_before_the_end() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = format!("run {} --interval 100ms --no-state --to out/c", server.flag());
    let mut processes = cluster_program::start(&rig, 2, &format!("{flags} --http 127.0.0.1:0"));
    let port = port(&processes[0]);
    let _peer = server.accept();
    processes[0].lives_until_commits(1);
    let mut stream = EventStream::open(port, "");
    until(&mut stream, |status| status["processes"].as_array().map(Vec::len) == Some(2));
    processes[1].signal(Signal::KILL);
    until(&mut stream, |status| status["phase"] == "failed" && has(status, "peer_lost"));
    assert_eq!(get(port, "/health").expect(503).json()["status"], "failed");
    processes.remove(1).end();
    end(processes).remove(0).expect(69);
}
