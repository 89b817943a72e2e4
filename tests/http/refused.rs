use std::time::{Duration, Instant};

use super::{BRIEF, KEPT, counts_of, gzip};
use crate::rig::http::{Answer, Wire, ask, get, post, request};
use crate::rig::{Rig, Running, random};

/// Starts a run that keeps nothing, with more flags.
fn start(rig: &Rig, flags: &str) -> (Running, u16) {
    let program = rig.wordtide(&format!("run {BRIEF} {flags}")).start();
    let port = program.http_port();
    (program, port)
}

/// Returns the most memory that the program ever had, in bytes.
fn peak_bytes(program: &Running) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid()));
    let status = status.expect("the program runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a high-water mark");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok());
    kib.expect("a number of KiB") << 10
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let rig = Rig::new();
    let (program, port) = start(&rig, "");
    let long = "x".repeat(257);
    let bad = |answer: Answer, status: u16, reason: &str| {
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.error().contains(reason), "{answer:?}");
    };
    bad(get(port, "/"), 404, "/lines");
    bad(post(port, "/lines/", "a\n"), 404, "/lines");
    for method in ["PUT", "DELETE", "OPTIONS"] {
        let answer = ask(port, &request(method, "/lines", "", b"a\n"));
        assert_eq!(answer.header("allow"), Some("GET, HEAD, POST"), "{method}");
        bad(answer, 405, "POST");
    }
    for (target, reason) in [
        ("/lines?producer=p", "offset"),
        ("/lines?offset=0", "producer"),
        ("/lines?producer=&offset=0", "1 to 256"),
        (&format!("/lines?producer={long}&offset=0"), "1 to 256"),
        ("/lines?producer=p%00&offset=0", "control"),
        ("/lines?producer=a%ff&offset=0", "UTF-8"),
        ("/lines?producer=a&offset=0&tag=%C3", "UTF-8"),
        ("/lines?producer=%&offset=0", "%25"),
        ("/lines?producer=%2&offset=0", "%25"),
        ("/lines?producer=%+f&offset=0", "%25"),
        ("/lines?%ff=1", "UTF-8"),
        ("/lines?producer=p&offset=-1", "number"),
        ("/lines?producer=p&offset=1&offset=2", "twice"),
        ("/lines?producer=p&offset=18446744073709551615", "last possible"),
        ("/lines?producer=p&offset=0&end=now", "forget"),
        ("/lines?ofset=0", "ofset"),
        ("/lines?end=forget", "producer"),
    ] {
        bad(post(port, target, "a\n"), 400, reason);
    }
    for target in ["/lines", "/lines?producer=p&offset=0"] {
        bad(get(port, target), 400, "producer=ID");
    }
    bad(get(port, "/lines?producer=%fe"), 400, "UTF-8");
    let taken = "x".repeat(256);
    bad(post(port, &format!("/lines?producer={}&offset=0&tag=t", &taken[1..]), ""), 400, "255");
    let encoded = |coding: &str, body: &[u8]| {
        let headers = format!("content-encoding: {coding}\r\n");
        ask(port, &request("POST", "/lines", &headers, body))
    };
    bad(encoded("br", b"a\n"), 415, "gzip");
    bad(encoded("gzip", b"a\n"), 400, "decompressed");
    bad(encoded("gzip", &gzip(b"words\n")[..15]), 400, "decompressed");
    bad(encoded("zstd", b"a\n"), 400, "decompressed");
    let head = ask(port, &request("HEAD", "/lines?producer=p", "", b""));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    program.stop().expect(0);
    assert!(rig.output("out/c").counts().is_empty());
}

#[test]
fn strangers_neither_post_nor_read() {
    let rig = Rig::new();
    rig.file("token", "s3cret-token\n");
    let (program, port) = start(&rig, "--token-file token");
    let with = |headers: &str| ask(port, &request("POST", "/lines", headers, b"stolen\n"));
    for headers in ["", "authorization: Bearer wrong\r\n", "authorization: Basic czNjcmV0\r\n"] {
        let answer = with(headers);
        assert_eq!(answer.status, 401, "{headers}");
        assert!(answer.header("www-authenticate").is_some_and(|it| it.starts_with("Bearer")));
        assert!(answer.error().contains("--token-file"));
    }
    assert_eq!(get(port, "/lines?producer=p").status, 401);
    let good = request("POST", "/lines", "authorization: bearer s3cret-token\r\n", b"known\n");
    assert_eq!(ask(port, &good).status, 204);
    let foreign = String::from_utf8(good).expect("text").replace("localhost", "evil.example");
    assert_eq!(ask(port, foreign.as_bytes()).status, 403);
    let ended = program.stop().expect(0);
    assert!(!ended.to_string().contains("s3cret"), "{ended}");
    assert_eq!(rig.output("out/c").counts(), counts_of("known\n"));

    let rig = Rig::new();
    let (program, port) = start(&rig, "");
    let of_page = request("POST", "/lines", "origin: http://evil.example\r\n", b"posted\n");
    assert_eq!(ask(port, &of_page).status, 403);
    let named = |host: &str| {
        let request = request("POST", "/lines", "", b"ours\n");
        let request = String::from_utf8(request).expect("text").replace("localhost", host);
        ask(port, request.as_bytes()).status
    };
    assert_eq!([named("127.0.0.1:80"), named("[::1]:9"), named("LOCALHOST.")], [204; 3]);
    assert_eq!([named("evil.example"), named("127.0.0.1.evil"), named("10.0.0.1")], [403; 3]);
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("ours\nours\nours\n"));
}

#[test]
fn start_that_cannot_serve_is_refused() {
    let rig = Rig::new();
    let run = |flags: &str| rig.run(&format!("run --no-state --to out/c {flags}"));
    run("--listen-http 0.0.0.0:0").expect(2).says(&["--listen-http 0.0.0.0:0", "--token-file"]);
    run("--listen-http [::]:0").expect(2).says(&["--token-file"]);
    run("--listen-http 127.0.0.1").expect(2).says(&["--listen-http"]);
    run("--listen-http 127.0.0.1:0 --token-file none").expect(78).says(&["--token-file none"]);
    rig.file("token", "\n");
    run("--listen-http 127.0.0.1:0 --token-file token").expect(78).says(&["first line"]);
    run("--listen-http 127.0.0.1:0 --max-body-bytes 0").expect(2).says(&["--max-body-bytes"]);
    let other = Rig::new();
    let (program, port) = start(&other, "");
    run(&format!("--listen-http 127.0.0.1:{port}")).expect(78).says(&[
        "--listen-http",
        "in use",
        "give another to --listen-http",
    ]);
    program.stop().expect(0);
    assert!(!rig.path("out").exists());
}

#[test]
fn large_bodies_are_refused_within_memory() {
    let rig = Rig::new();
    let (program, port) = start(&rig, "--max-body-bytes 1MiB");
    assert_eq!(post(port, "/lines", "warm up\n").status, 204);
    let idle = peak_bytes(&program);
    let most = vec![b'x'; 1 << 20];
    assert_eq!(post(port, "/lines", &most).status, 204);
    let answer = post(port, "/lines", [&most[..], b"x"].concat());
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("--max-body-bytes"), "{answer:?}");
    let mut wire = Wire::new(port);
    wire.send("POST /lines HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10737418240\r\n\r\n");
    assert_eq!(wire.answer().expect("before the body").status, 413);
    // Zeros compress a thousand times, and again as much by zstd.
    let zeros = vec![0; 4 << 20];
    let bombs =
        [("gzip", gzip(&zeros)), ("zstd", zstd::encode_all(&zeros[..], 1).expect("memory"))];
    for (coding, bomb) in bombs {
        let headers = format!("content-encoding: {coding}\r\n");
        assert_eq!(ask(port, &request("POST", "/lines", &headers, &bomb)).status, 413, "{coding}");
    }
    let mut wire = Wire::new(port);
    wire.send("POST /lines HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..20 {
        wire.send([b"10000\r\n", &most[..1 << 16], b"\r\n"].concat());
    }
    assert_eq!(wire.answer().expect("in the middle").status, 413);
    let growth = peak_bytes(&program) - idle;
    assert!(growth < 40 << 20, "{} KiB", growth >> 10);
    program.stop().expect(0);
}

#[test]
fn clients_that_misbehave_disturb_nobody() {
    let rig = Rig::new();
    let (program, port) = start(&rig, "--max-connections 40");
    let (mut seed, mut slow) = (5, Vec::new());
    for number in 0..300 {
        let Some(mut wire) = Wire::try_new(port) else { continue };
        match number % 6 {
            0 => {
                let bytes = (0..random(&mut seed) % 400).map(|_| random(&mut seed) as u8);
                wire.send(bytes.collect::<Vec<_>>());
            }
            1 => wire.send("POST /lines HTTP/1.1\r\nhost: local"),
            2 => {
                wire.send("POST /lines HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nsto")
            }
            3 => {
                wire.send("POST /lines HTTP/1.1\r\nhost: localhost\r\n");
                wire.send("transfer-encoding: chunked\r\n\r\n5\r\nstolen\r\n0\r\n\r\n");
            }
            4 => {
                wire.send("POST /lines HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 7\r\n\r\n")
            }
            _ => wire.send(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
        }
        if number % 3 < 2 {
            slow.push(wire);
        }
    }
    // The connections are all taken by clients that send nothing more.
    let posted = (0..).find(|_| {
        let mut wire = Wire::new(port);
        wire.send(request("POST", "/lines", "", b"served\n"));
        wire.answer().is_some_and(|answer| answer.status == 204)
    });
    assert!(posted.is_some());
    drop(slow);
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("served\n"));
}

#[test]
fn stop_refuses_body_that_is_still_sent() {
    let rig = Rig::new();
    let (program, port) = start(&rig, "");
    let mut wire = Wire::new(port);
    wire.send("POST /lines HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nhalf");
    assert_eq!(post(port, "/lines", "whole\n").status, 204);
    let begun = Instant::now();
    let ended = program.stop().expect(0);
    assert!(begun.elapsed() < Duration::from_secs(60), "{ended}");
    let answer = wire.answer().expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(rig.output("out/c").counts(), counts_of("whole\n"));
}

#[test]
fn full_journal_refuses_bodies_as_a_whole() {
    let rig = Rig::new();
    let run = format!("run {KEPT} --interval 24h --journal-max 8MiB --listen-http 127.0.0.1:0");
    let program = rig.wordtide(&run).start();
    let port = program.http_port();
    let text = "some words of a line\n".repeat(10_000);
    let mut taken = 0;
    let refused = loop {
        let answer = post(port, "/lines", &text);
        if answer.status != 204 {
            break answer;
        }
        taken += 1;
        assert!(taken < 1000, "never full");
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(refused.error().contains("--journal-max"), "{refused:?}");
    let mut wire = Wire::new(port);
    wire.send("POST /lines HTTP/1.1\r\nhost: localhost\r\ncontent-length: 200000\r\n\r\n");
    assert_eq!(wire.answer().expect("before the body").status, 503);
    assert_eq!(get(port, "/lines?producer=p").next(), Some(0));
    program.stop().expect(0);
    assert!(rig.output("out/c").counts() == counts_of(text.repeat(taken)));
}

#[test]
fn full_disk_refuses_bodies_and_answers_gets() {
    let text: String = (0..300_000).map(|n| format!("{n:011}\n")).collect();
    for posts_to in ["/lines", "/lines?producer=p&offset=0"] {
        let rig = Rig::new();
        let run = format!("run {KEPT} --interval 24h --listen-http 127.0.0.1:0");
        let fault = format!("disk.full={}", rig.path("full").display());
        let program = rig.wordtide(&run).env("WORDTIDE_FAULT", &fault).start();
        let port = program.http_port();
        rig.file("full", "");
        let refused = post(port, posts_to, &text);
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        assert!(refused.error().contains("disk is full"), "{refused:?}");
        program.wait_for("the disk of the journal is full");
        assert_eq!(get(port, "/lines?producer=p").next(), Some(0));
        let mut wire = Wire::new(port);
        wire.send("POST /lines HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000\r\n\r\n");
        assert_eq!(wire.answer().expect("before the body").status, 503);
        std::fs::remove_file(rig.path("full")).expect("the fault");
        assert!(matches!(post(port, posts_to, &text).status, 200 | 204), "there is room again");
        program.stop().expect(0);
        assert!(rig.output("out/c").counts() == counts_of(&text), "each line once");
    }
}
