//! `--http`: the answer of each path, to whom, and over the whole life of a run.

/// Metrics against what is stored.
mod metrics;
/// Health and readiness from the start to the end.
mod probes;
/// Requests of unknown clients, on loopback and beyond.
mod strangers;

use serde_json::Value;

use crate::rig::watched::{EventStream, ask, get, port, send};
use crate::rig::{Peer, Rig, Running, Server};

/// A run that counts lines of a connection, in short epochs.
fn counting(rig: &Rig, server: &Server, flags: &str) -> (Running, Peer, u16) {
    let flags = format!("run {} --interval 100ms --format tsv {flags}", server.flag());
    let program = rig.wordtide(&format!("{flags} --http 127.0.0.1:0")).start();
    let port = port(&program);
    let peer = server.accept();
    (program, peer, port)
}

#[test]
fn every_path_answers_as_documented() {
    let (rig, server) = (Rig::new(), Server::new());
    let (program, mut peer, port) = counting(&rig, &server, "--no-state --to out/c");
    peer.send("sea tide sea\nsea \n");
    program.wait_for_lines(2);

    let page = get(port, "/").expect(200);
    assert!(page.header("content-security-policy").contains("default-src"));
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("access-control-allow-origin"), "");
    assert!(page.body.len() <= 100 << 10 && page.body.contains("data-wt=\"state\""));
    assert_eq!(get(port, "/health").expect(200).json()["status"], "ok");
    get(port, "/ready").expect(200);
    let operators = get(port, "/api/v1/operators").expect(200).json();
    let operators = operators["operators"].as_array().expect("a list").clone();
    let count = operators.iter().find(|operator| operator["name"] == "Count words");
    let count = count.expect("the operator that counts");
    assert!(count["busy_seconds"].as_f64() > Some(0.0) && count["records"] != 0, "{count}");

    let epochs = get(port, "/api/v1/epochs?last=1000").expect(200).json();
    let epochs = epochs["epochs"].as_array().expect("a list").clone();
    let counted = epochs.iter().filter(|epoch| epoch["lines"] != 0).collect::<Vec<_>>();
    let total = |name: &str| counted.iter().map(|epoch| epoch[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((total("lines"), total("words")), (2, 5));
    let path = counted[0]["path"].as_str().expect("a path");
    assert!(rig.path(path).join("_SUCCESS").exists(), "{path}");
    let one = get(port, "/api/v1/epochs?last=1").json();
    assert_eq!(one["epochs"].as_array().map(Vec::len), Some(1));

    let top = get(port, "/api/v1/top?k=1").expect(200).json();
    assert_eq!(top["words"][0]["word"], "sea");
    let marked = rig.output("out/c").epochs.keys().any(|epoch| top["epoch"] == *epoch);
    assert!(marked, "{top}");

    let wrong = ["epochs?last=0", "epochs?last=1001", "epochs?last=x", "top?k=0", "top?k="];
    for wrong in wrong.into_iter().chain(["events?after=x", "events?after="]) {
        let answer = get(port, &format!("/api/v1/{wrong}")).expect(400);
        assert!(answer.json()["error"].is_string());
    }
    assert!(get(port, "/favicon.ico").expect(404).json()["error"].is_string());
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let refused = ask(port, &format!("{method} /api/v1/status"), "").expect(405);
        assert_eq!(refused.header("allow"), "GET, HEAD");
    }
    for path in ["/", "/metrics", "/api/v1/events"] {
        let head = ask(port, &format!("HEAD {path}"), "").expect(200);
        assert_eq!(head.body, "", "{path}");
    }
    for path in ["/", "/metrics", "/health", "/nothing"] {
        let foreign = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n");
        send(port, &foreign).expect(403);
    }
    status_is_complete(&get(port, "/api/v1/status").expect(200).json());
    drop(peer);
    program.stop().expect(0);
}

#[track_caller]
fn status_is_complete(status: &Value) {
    let names = "version dataflow job started phase sentence interval_ms output open_epoch \
                 committed_epoch epochs_in_flight bytes lines words memory_bytes conditions \
                 sources processes workers journal";
    for name in names.split_whitespace() {
        assert!(status.get(name).is_some(), "{name} in {status}");
    }
    assert_eq!(
        (&status["phase"], &status["dataflow"]),
        (&"counting".into(), &"network_wordcount".into())
    );
    assert_eq!(
        (&status["lines"], &status["words"], &status["bytes"]),
        (&2.into(), &5.into(), &18.into())
    );
    let source = &status["sources"][0];
    assert_eq!((&source["kind"], &source["connected"]), (&"connect".into(), &true.into()));
    assert!(source["error"].is_null() && status["workers"][0]["busy_seconds"].is_number());
}

#[test]
fn stream_resumes_where_it_broke_off() {
    let (rig, server) = (Rig::new(), Server::new());
    let (program, _peer, port) = counting(&rig, &server, "--no-state --to out/c");
    let mut stream = EventStream::open(port, "");
    let before = stream.epochs(3);
    drop(stream);
    program.lives_until_commits(8);
    let last = before[2];
    let mut stream = EventStream::open(port, &format!("Last-Event-ID: {last}\r\n"));
    let after = stream.epochs(3);
    program.stop().expect(0);
    // The last event of the run is sent before the stream ends.
    let rest = stream.epochs(usize::MAX);
    let seen: Vec<u64> = [before, after, rest].concat();
    let stored: Vec<u64> = rig.output("out/c").epochs.into_keys().collect();
    let first = stored.iter().position(|epoch| *epoch == seen[0]).expect("a stored epoch");
    assert_eq!(seen, stored[first..]);
}

#[test]
fn taken_port_is_refused_by_name() {
    let (rig, taken) = (Rig::new(), Server::new());
    let flags = format!("run --stdin --http 127.0.0.1:{}", taken.port());
    rig.run(&flags).expect(78).says(&["--http", "in use"]);
    assert!(!rig.path("wordtide-out").exists(), "nothing was begun");
    rig.run("run --stdin --http nowhere").expect(2).says(&["--http", "ADDR:PORT"]);
    rig.run("run --stdin -n 2 --http 127.0.0.1:65535").expect(2).says(&["--http"]);
}
