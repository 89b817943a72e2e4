//! Lines that senders post.

/// The client, `wordtide feed`.
mod feed;
/// Requests that are refused, and clients that misbehave.
mod refused;

use std::io::{Read, Write};

use rustix::process::Signal;

use crate::listen::{tls, tls_file};
use crate::oracle::{self, Counts};
use crate::rig::http::{Wire, ask, get, post, request};
use crate::rig::server::Closed;
use crate::rig::{Rig, Running};

/// A run that keeps nothing, with one long epoch.
const BRIEF: &str = "--interval 24h --format tsv --no-state --to out/c --listen-http 127.0.0.1:0";
/// A run that keeps its state.
const KEPT: &str = "--format tsv --empty-epochs skip --state state --to out/c";

fn counts_of(text: impl AsRef<[u8]>) -> Counts {
    oracle::count(text.as_ref(), oracle::words_python)
}

/// Starts a run that keeps its state, on any port.
fn start_kept(rig: &Rig) -> (Running, u16) {
    let program =
        rig.wordtide(&format!("run {KEPT} --interval 50ms --listen-http 127.0.0.1:0")).start();
    let port = program.http_port();
    (program, port)
}

fn kill(program: Running) {
    program.signal(Signal::KILL);
    program.end();
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).and_then(|()| encoder.finish()).expect("memory takes it")
}

#[test]
fn posted_lines_are_counted_whatever_their_encoding() {
    let rig = Rig::new();
    let program = rig.wordtide(&format!("run {BRIEF}")).start();
    let port = program.http_port();
    assert_eq!(post(port, "/lines", "a b\nno line end").status, 204);
    assert_eq!(post(port, "/lines", "").status, 204);
    let encoded = |coding: &str, body: Vec<u8>| {
        let headers = format!("content-encoding: {coding}\r\ncontent-type: text/x-any\r\n");
        ask(port, &request("POST", "/lines", &headers, &body)).status
    };
    assert_eq!(encoded("gzip", [gzip(b"gz "), gzip(b"ip\n")].concat()), 204);
    assert_eq!(encoded("zstd", zstd::encode_all(&b"zs td\n"[..], 3).expect("memory")), 204);
    assert_eq!(encoded("identity", b"as it is\n".to_vec()), 204);
    // Several requests of one connection, the last one in chunks.
    let mut wire = Wire::new(port);
    wire.send(
        [request("POST", "/lines", "", b"one\n"), request("POST", "/lines", "", b"two\n")].concat(),
    );
    wire.send("POST /lines HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    wire.send("3\r\nthr\r\n3\r\nee\n\r\n0\r\n\r\n");
    for _ in 0..3 {
        assert_eq!(wire.answer().expect("an answer").status, 204);
    }
    program.stop().expect(0);
    let text = "a b\nno line end\ngz ip\nzs td\nas it is\none\ntwo\nthree\n";
    assert_eq!(rig.output("out/c").counts(), counts_of(text));
}

#[test]
fn acknowledged_lines_survive_kill() {
    let rig = Rig::new();
    let mut text = String::new();
    for life in 0..4 {
        let (program, port) = start_kept(&rig);
        for post_number in 0..=life {
            let line = format!("life{life} post{post_number}\n");
            assert_eq!(post(port, "/lines", &line).status, 204);
            text.push_str(&line);
        }
        kill(program);
    }
    let (program, _) = start_kept(&rig);
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of(text));
}

#[test]
fn pieces_count_once_despite_retries_and_gaps() {
    let rig = Rig::new();
    let program = rig.wordtide(&format!("run {BRIEF}")).start();
    let port = program.http_port();
    let piece = |offset: u64, body: &str| {
        let answer = post(port, &format!("/lines?producer=p%201&offset={offset}"), body);
        (answer.status, answer.next())
    };
    assert_eq!(get(port, "/lines?producer=p%201").next(), Some(0));
    assert_eq!(piece(0, "a b\nc"), (200, Some(5)));
    assert_eq!(piece(0, "a b\nc"), (200, Some(5)), "the same again");
    assert_eq!(piece(2, "b\nc d\n"), (200, Some(8)), "an overlap is trimmed");
    assert_eq!(piece(9, "lost\n"), (409, Some(8)), "a gap");
    assert_eq!(piece(1, " b"), (200, Some(8)), "old bytes");
    assert_eq!(piece(8, ""), (200, Some(8)));
    assert_eq!(get(port, "/lines?producer=p%201").next(), Some(8));
    assert_eq!(get(port, "/lines?producer=other").next(), Some(0));
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a b\nc d\n"));
}

#[test]
fn producer_goes_on_after_stop_and_kill() {
    let rig = Rig::new();
    let text = "first line\nand a line in three pieces\nlast\n";
    let target = |offset: usize| format!("/lines?producer=p&offset={offset}");
    let (program, port) = start_kept(&rig);
    assert_eq!(post(port, &target(0), &text[..18]).next(), Some(18));
    program.wait_for_lines(1);
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("first line\n"), "the rest waits");

    let (program, port) = start_kept(&rig);
    assert_eq!(get(port, "/lines?producer=p").next(), Some(18));
    assert_eq!(post(port, &target(10), &text[10..30]).next(), Some(30));
    kill(program);

    let (program, port) = start_kept(&rig);
    assert_eq!(get(port, "/lines?producer=p").next(), Some(30));
    assert_eq!(post(port, &target(0), text).next(), Some(text.len() as u64));
    program.wait_for_lines(2);
    kill(program);

    let (program, port) = start_kept(&rig);
    assert_eq!(post(port, &target(0), text).next(), Some(text.len() as u64));
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of(text));
}

#[test]
fn producers_stay_with_address_of_their_server() {
    let rig = Rig::new();
    let closed = [Closed::new(), Closed::new(), Closed::new()];
    let [first, second, third] = closed.map(|closed| closed.port());
    let start = |ports: &[u16]| {
        let servers = ports.iter().map(|port| format!(" --listen-http 127.0.0.1:{port}"));
        let run = format!("run {KEPT} --interval 50ms{}", servers.collect::<String>());
        let program = rig.wordtide(&run).start();
        for port in ports {
            program.wait_for(&format!("http://127.0.0.1:{port}/"));
        }
        program
    };
    let next = |port| get(port, "/lines?producer=p").next();
    let program = start(&[first]);
    assert_eq!(post(first, "/lines?producer=p&offset=0", "a b\nc").next(), Some(5));
    program.stop().expect(0);
    let program = start(&[second, first]);
    assert_eq!((next(first), next(second)), (Some(5), Some(0)), "one more before it");
    assert_eq!(post(second, "/lines?producer=p&offset=0", "e\n").next(), Some(2));
    kill(program);
    let program = start(&[first, second]);
    assert_eq!((next(first), next(second)), (Some(5), Some(2)), "in another order");
    kill(program);
    let program = start(&[second, third]);
    assert_eq!((next(third), next(second)), (Some(5), Some(2)), "at another address");
    assert_eq!(post(third, "/lines?producer=p&offset=5", " d\n").next(), Some(8));
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a b\nc d\ne\n"));
}

#[test]
fn ended_stream_ends_its_unfinished_line() {
    let rig = Rig::new();
    let (program, port) = start_kept(&rig);
    let ended = |target: &str, body: &str| post(port, target, body).next();
    assert_eq!(ended("/lines?producer=p&offset=0&end=line", "a b"), Some(3));
    assert_eq!(ended("/lines?producer=p&offset=0&end=line", "a b"), Some(3), "a retry");
    assert_eq!(ended("/lines?producer=p&offset=3", "c d"), Some(6));
    assert_eq!(ended("/lines?producer=p&offset=0&end=line", "a b"), Some(6), "an old end");
    assert_eq!(ended("/lines?producer=q&offset=0", "e f"), Some(3));
    assert_eq!(ended("/lines?producer=q&offset=3&end=forget", ""), Some(3));
    assert_eq!(ended("/lines?producer=q&offset=3&end=forget", ""), Some(3), "a retry");
    // A retry of it could not be separated from a new stream.
    let with_body = post(port, "/lines?producer=r&offset=0&end=forget", "twice\n");
    assert!(with_body.status == 400 && with_body.error().contains("end=forget"), "{with_body:?}");
    assert_eq!(get(port, "/lines?producer=q").next(), Some(0));
    kill(program);
    let (program, port) = start_kept(&rig);
    assert_eq!(get(port, "/lines?producer=p").next(), Some(6));
    assert_eq!(get(port, "/lines?producer=q").next(), Some(0));
    assert_eq!(post(port, "/lines?producer=p&offset=6", "e\n").next(), Some(8));
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a b\nc de\ne f\n"));
}

#[test]
fn tag_of_producer_stays_and_is_answered() {
    let rig = Rig::new();
    let (program, port) = start_kept(&rig);
    let tag = |port, id: &str| -> Option<String> {
        let answer: serde_json::Value =
            serde_json::from_str(&get(port, &format!("/lines?producer={id}")).body).expect("JSON");
        answer.get("tag").map(|tag| tag.as_str().expect("text").to_owned())
    };
    // An id that begins as another does is another.
    for (id, given) in [("p", "&tag=of%20p"), ("p!", ""), ("pp", "&tag=of-pp")] {
        let target = format!("/lines?producer={id}&offset=0{given}");
        assert_eq!(post(port, &target, format!("{id}\n")).next(), Some(id.len() as u64 + 1));
    }
    assert_eq!(post(port, "/lines?producer=p&offset=2&tag=other", "q\n").next(), Some(4));
    assert_eq!(post(port, "/lines?offset=0&tag=x", "none\n").status, 400);
    let long = format!("/lines?producer={}&offset=0&tag=0123456789", "p".repeat(250));
    assert_eq!(post(port, &long, "none\n").status, 400);
    kill(program);
    let (program, port) = start_kept(&rig);
    assert_eq!(tag(port, "p").as_deref(), Some("of p"));
    assert_eq!(tag(port, "pp").as_deref(), Some("of-pp"));
    assert_eq!((tag(port, "p!"), tag(port, "q")), (None, None));
    assert_eq!(post(port, "/lines?producer=p&offset=4&end=forget", "").next(), Some(4));
    assert_eq!(get(port, "/lines?producer=p").next(), Some(0));
    assert_eq!(get(port, "/lines?producer=pp").next(), Some(3));
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("p\np!\npp\nq\n"));
}

#[test]
fn encrypted_posts_count_and_plain_ones_do_not() {
    let rig = Rig::new();
    let (cert, key) = (tls_file("cert.pem"), tls_file("key.pem"));
    let flags = format!("--tls-cert {} --tls-key {}", cert.display(), key.display());
    let program = rig.wordtide(&format!("run {BRIEF} {flags}")).start();
    let line = program.wait_for("listening for lines on https://");
    let (place, _) = line.split_once("https://").expect("a URL").1.split_once('/').expect("a path");
    let port = place.rsplit_once(':').expect("a port").1.parse().expect("a number");
    let mut plain = Wire::new(port);
    plain.send(request("POST", "/lines", "", b"plain\n"));
    assert!(plain.answer().is_none(), "no answer in clear");
    let mut client = tls(place);
    let posted = request("POST", "/lines", "connection: close\r\n", b"secret\n");
    client.write_all(&posted).expect("it reads");
    let mut answer = Vec::new();
    // The server may close without a notice of its end.
    drop(client.read_to_end(&mut answer));
    assert!(answer.starts_with(b"HTTP/1.1 204 "), "{}", String::from_utf8_lossy(&answer));
    program.stop().expect(0).says(&["TLS handshake failed"]);
    assert_eq!(rig.output("out/c").counts(), counts_of("secret\n"));
    let missing = format!("run {BRIEF} --tls-cert {0} --tls-key {0}", cert.display());
    rig.run(&missing).expect(78).says(&["--tls-key"]);
}

#[test]
fn once_ends_after_its_journal_moved_on() {
    let rig = Rig::new();
    let run = format!("run {KEPT} --interval 50ms --once --journal-max 8MiB");
    let program = rig.wordtide(&format!("{run} --listen-http 127.0.0.1:0")).start();
    let port = program.http_port();
    let text = "some words of a line\n".repeat(30_000);
    let mut taken = 0;
    while taken < 30 {
        match post(port, "/lines", &text).status {
            204 => taken += 1,
            status => assert_eq!(status, 503),
        }
    }
    assert_eq!(post(port, "/lines?end=line", "").status, 204);
    program.end().expect(0);
    assert!(rig.output("out/c").counts() == counts_of(text.repeat(taken)));
}

#[test]
fn source_that_is_gone_ends_its_lines() {
    let rig = Rig::new();
    let (program, port) = start_kept(&rig);
    assert_eq!(post(port, "/lines?producer=p&offset=0", "a b\nc d").next(), Some(7));
    program.stop().expect(0);
    rig.run(&format!("run {KEPT} --interval 50ms --stdin")).expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a b\nc d\n"));
}

#[test]
fn posts_of_one_producer_take_turns() {
    let rig = Rig::new();
    let program = rig.wordtide(&format!("run {BRIEF}")).start();
    let port = program.http_port();
    let text: String = (0..20_000).map(|n| format!("line{n}\n")).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut at = 0;
                while at < text.len() {
                    let end = (at + 9_999).min(text.len());
                    let target = format!("/lines?producer=p&offset={at}");
                    let next = post(port, &target, &text[at..end]).next().expect("a position");
                    assert!(next >= end as u64, "{next} after {end}");
                    at = next as usize;
                }
            });
        }
    });
    program.stop().expect(0);
    assert!(rig.output("out/c").counts() == counts_of(&text));
}

#[test]
fn once_ends_when_all_streams_have_ended() {
    let rig = Rig::new();
    let program = rig.wordtide(&format!("run {BRIEF} --once")).start();
    let port = program.http_port();
    assert_eq!(post(port, "/lines", "plain\n").status, 204);
    assert_eq!(post(port, "/lines?producer=p&offset=0", "of p").status, 200);
    assert_eq!(post(port, "/lines?producer=q&offset=0", "of q").status, 200);
    assert_eq!(post(port, "/lines?producer=q&offset=4&end=forget", "").status, 200);
    assert_eq!(post(port, "/lines?producer=p&offset=4&end=line", "").status, 200);
    program.end().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("plain\nof p\nof q\n"));
}
