use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;

use super::{KEPT, counts_of, kill, start_kept};
use crate::rig::http::{get, post};
use crate::rig::server::Closed;
use crate::rig::{Rig, Running, random, write_and_close};

/// Starts a client with these arguments.
fn feed(rig: &Rig, port: u16, arguments: &str) -> Running {
    let arguments = format!("feed http://127.0.0.1:{port} {arguments}");
    rig.wordtide(&arguments).stdin(Stdio::piped()).start()
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(path).expect("the file");
    file.write_all(text.as_bytes()).expect("the disk takes it");
}

fn numbered(lines: u64) -> String {
    (0..lines).map(|number| format!("number{number}\n")).collect()
}

#[test]
fn stdin_is_fed_to_its_end() {
    let rig = Rig::new();
    let (server, port) = start_kept(&rig);
    let text = numbered(4_000) + "last";
    for arguments in ["", "--compress gzip --batch-bytes 1KiB -v", "--compress zstd"] {
        let mut client = feed(&rig, port, arguments);
        write_and_close(client.stdin(), text.as_bytes());
        client.end().expect(0).says(&[&format!("{0} of {0} bytes", text.len())]);
    }
    server.stop().expect(0);
    assert!(rig.output("out/c").counts() == counts_of(format!("{text}\n").repeat(3)));
}

#[test]
fn named_stdin_is_resumed_not_repeated() {
    let rig = Rig::new();
    let (server, port) = start_kept(&rig);
    let text = numbered(1_000);
    for part in [&text[..5_003], &text] {
        let mut client = feed(&rig, port, "--producer numbers");
        write_and_close(client.stdin(), part.as_bytes());
        client.end().expect(0);
    }
    let next = get(port, "/lines?producer=numbers").next();
    assert_eq!(next, Some(text.len() as u64));
    let mut client = feed(&rig, port, "--producer numbers");
    write_and_close(client.stdin(), b"number");
    client.end().expect(0).says(&["ended after 6 bytes"]).says(&["6 of 6 bytes read"]);
    server.stop().expect(0);
    // The first stream ended in the middle of a line.
    let expected = format!("{}\n{}", &text[..5_003], &text[5_003..]);
    assert!(rig.output("out/c").counts() == counts_of(expected));
}

#[test]
fn file_once_goes_on_where_it_was() {
    let rig = Rig::new();
    rig.file("token", "abc\n");
    let run = format!("run {KEPT} --interval 50ms --listen-http 127.0.0.1:0 --token-file token");
    let server = rig.wordtide(&run).start();
    let port = server.http_port();
    let path = rig.file("lines", "one\ntwo\n");
    feed(&rig, port, "lines --once --token-file token").end().expect(0);
    append(&path, "three\n");
    feed(&rig, port, "lines --once --token-file token").end().expect(0);
    feed(&rig, port, "lines --once --token-file token").end().expect(0).says(&["from byte 14"]);
    feed(&rig, port, "lines --once").end().expect(78).says(&["401", "--token-file"]);
    feed(&rig, port, "missing --once --token-file token").end().expect(78).says(&["missing"]);
    rig.run("feed ftp://localhost lines").expect(2).says(&["URL"]);
    server.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("one\ntwo\nthree\n"));
}

#[test]
fn rotated_and_truncated_files_are_followed() {
    let rig = Rig::new();
    let (server, port) = start_kept(&rig);
    let client = feed(&rig, port, "log");
    client.wait_for("does not exist");
    let path = rig.file("log", "a1\na2\n");
    server.wait_for_lines(2);
    append(&path, "a3\n");
    server.wait_for_lines(3);
    fs::rename(&path, rig.path("log.1")).expect("renamed");
    append(&rig.path("log.1"), "a4 late\n");
    rig.file("log", "b1\n");
    client.wait_for("was rotated");
    server.wait_for_lines(5);
    File::create(&path).and_then(|mut file| file.write_all(b"c\n")).expect("truncated");
    client.wait_for("was truncated");
    server.wait_for_lines(6);
    client.signal(Signal::TERM);
    client.end().expect(0).says(&["2 of 2 bytes"]);
    // While it is not looked at, it is rotated again.
    fs::rename(&path, rig.path("log.2")).expect("renamed");
    rig.file("log", "d1\nd2\n");
    feed(&rig, port, "log --once").end().expect(0);
    server.stop().expect(0);
    let text = "a1\na2\na3\na4 late\nb1\nc\nd1\nd2\n";
    assert_eq!(rig.output("out/c").counts(), counts_of(text));
}

#[test]
fn replaced_content_begins_anew_whatever_its_length() {
    let rig = Rig::new();
    let (server, port) = start_kept(&rig);
    let path = rig.file("log", "first\na1\na2\n");
    // In one write, so that no reader meets a shorter file.
    let replace = |text: &str| {
        let file = OpenOptions::new().write(true).open(&path).expect("the file");
        file.write_at(text.as_bytes(), 0).expect("the disk takes it");
    };
    let client = feed(&rig, port, "log");
    server.wait_for_lines(3);
    replace("first\nb1\nb2\n");
    server.wait_for_lines(6);
    replace("first\nc1\nc2\nc3\n");
    server.wait_for_lines(10);
    client.wait_for("was truncated");
    client.signal(Signal::TERM);
    client.end().expect(0).says(&["15 of 15 bytes"]);
    // While it is not looked at.
    replace("first\nd1\nd2\nd3\nd4\n");
    feed(&rig, port, "log --once").end().expect(0).says(&["rotated or truncated"]);
    feed(&rig, port, "log --once").end().expect(0).says(&["from byte 18"]);
    server.stop().expect(0);
    let text = "first\na1\na2\nfirst\nb1\nb2\nfirst\nc1\nc2\nc3\nfirst\nd1\nd2\nd3\nd4\n";
    assert_eq!(rig.output("out/c").counts(), counts_of(text));
}

#[test]
fn named_file_rotated_unseen_begins_anew() {
    let rig = Rig::new();
    let (server, port) = start_kept(&rig);
    let path = rig.file("log", "a1\nun");
    let named = "log --once --producer web";
    feed(&rig, port, named).end().expect(0).says(&["from byte 0 as producer web"]);
    append(&path, "finished\n");
    feed(&rig, port, named).end().expect(0).says(&["from byte 5 as producer web"]);
    fs::rename(&path, rig.path("log.1")).expect("renamed");
    rig.file("log", "b1\nb2\nb3\nb4\nb5\n");
    feed(&rig, port, named).end().expect(0).says(&["rotated or truncated", "14 bytes"]);
    append(&path, "b6\n");
    feed(&rig, port, named).end().expect(0).says(&["from byte 15 as producer web:"]);
    assert_eq!(get(port, "/lines?producer=web").next(), Some(14));
    server.stop().expect(0);
    let text = "a1\nun\nfinished\nb1\nb2\nb3\nb4\nb5\nb6\n";
    assert_eq!(rig.output("out/c").counts(), counts_of(text));
}

#[test]
fn files_rotated_during_outage_are_all_read() {
    let rig = Rig::new();
    let port = Closed::new().port();
    let run = format!("run {KEPT} --interval 50ms --listen-http 127.0.0.1:{port}");
    let server = rig.wordtide(&run).start();
    server.http_port();
    let path = rig.file("log", "a1\n");
    let rename = |from: &str, to: &str| fs::rename(rig.path(from), rig.path(to)).expect("renamed");
    let client = feed(&rig, port, "log");
    server.wait_for_lines(1);
    kill(server);
    append(&path, "a2\n");
    client.wait_for("does not take lines");
    rename("log", "log.1");
    rig.file("log", "b1\nb2\n");
    rename("log.1", "log.2");
    rename("log", "log.1");
    rig.file("log", "c1\n");
    rename("log", "log-c");
    rig.file("log", "d without an end");
    rename("log", "log-d");
    rig.file("log", "");
    rename("log", "log-empty");
    rig.file("log", "e1\n");
    let server = rig.wordtide(&run).start();
    server.wait_for_lines(6);
    client.signal(Signal::TERM);
    client.end().expect(0).says(&["3 of 3 bytes"]);
    server.stop().expect(0);
    let text = "a1\na2\nb1\nb2\nc1\nd without an end\ne1\n";
    assert_eq!(rig.output("out/c").counts(), counts_of(text));
}

#[test]
fn files_rotated_at_once_are_all_read() {
    let rig = Rig::new();
    let (server, port) = start_kept(&rig);
    rig.file("log", "a1\n");
    let client = feed(&rig, port, "log");
    server.wait_for_lines(1);
    let mut text = "a1\n".to_owned();
    for number in 1..=40 {
        fs::rename(rig.path("log"), rig.path(format!("log.{number}"))).expect("renamed");
        let line = format!("line{number}\n");
        rig.file("log", &line);
        text.push_str(&line);
    }
    server.wait_for_lines(41);
    client.signal(Signal::TERM);
    client.end().expect(0);
    server.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of(text));
}

#[test]
fn rest_of_rotated_file_is_fed_once() {
    let rig = Rig::new();
    let (server, port) = start_kept(&rig);
    let path = rig.file("app.log", "a1\na2\n");
    let client = feed(&rig, port, "app.log");
    server.wait_for_lines(2);
    client.signal(Signal::TERM);
    let ended = client.end().expect(0);
    append(&path, "a3\n");
    fs::rename(&path, rig.path("app.log.1")).expect("renamed");
    rig.file("app.log", "b1\n");
    feed(&rig, port, "app.log --once").end().expect(0).says(&["from byte 0"]);
    feed(&rig, port, "app.log.1 --once").end().expect(0).says(&["from byte 6"]);
    // Where the new name does not lead to the old one.
    append(&rig.path("app.log.1"), "a4\n");
    fs::rename(rig.path("app.log.1"), rig.path("old")).expect("renamed");
    let last = ended.stderr.last().expect("a line");
    let producer = last.rsplit_once(" as producer ").expect("an id").1;
    let old = format!("old --once --producer {producer}");
    feed(&rig, port, &old).end().expect(0).says(&["from byte 9"]);
    server.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a1\na2\na3\na4\nb1\n"));
}

#[test]
fn file_is_the_same_by_other_paths() {
    let rig = Rig::new();
    let (server, port) = start_kept(&rig);
    fs::create_dir(rig.path("logs")).expect("a folder");
    std::os::unix::fs::symlink("logs", rig.path("link")).expect("a link");
    let path = rig.file("logs/log", "a1\n");
    let whole = path.display().to_string();
    for spelled in ["logs/log", "link/log", "logs/../logs/log", "./logs//log", &whole] {
        feed(&rig, port, &format!("{spelled} --once")).end().expect(0);
    }
    server.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a1\n"));
}

#[test]
fn unfinished_first_line_goes_on_when_grown() {
    let rig = Rig::new();
    let (server, port) = start_kept(&rig);
    let path = rig.file("log", "abc");
    let once = |place: &str| drop(feed(&rig, port, "log --once").end().expect(0).says(&[place]));
    once("from byte 0");
    append(&path, "def");
    once("from byte 3");
    append(&path, "ghi\nz\n");
    once("from byte 6");
    once("from byte 12");
    server.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("abc\ndef\nghi\nz\n"));
}

#[test]
fn kills_of_either_side_neither_lose_nor_double() {
    let rig = Rig::new();
    let port = Closed::new().port();
    let run = format!("run {KEPT} --interval 50ms --listen-http 127.0.0.1:{port}");
    let text = numbered(60_000);
    rig.file("lines", &text);
    let lines = "lines --batch-bytes 20KiB --batch-every 10ms";
    let (mut server, mut client) = (rig.wordtide(&run).start(), feed(&rig, port, lines));
    let mut seed = 11;
    for _ in 0..6 {
        // An acknowledged byte more each time, so that the kills are in the middle.
        let producer = producer_of(&client);
        server.http_port();
        let begun = position(port, &producer);
        while position(port, &producer) == begun && begun < text.len() as u64 {}
        if random(&mut seed).is_multiple_of(2) {
            kill(server);
            server = rig.wordtide(&run).start();
        } else {
            kill(client);
            client = feed(&rig, port, lines);
        }
    }
    kill(client);
    feed(&rig, port, "lines --once").end().expect(0);
    server.stop().expect(0);
    assert!(rig.output("out/c").counts() == counts_of(&text));
}

fn producer_of(client: &Running) -> String {
    let line = client.wait_for(" as producer ");
    line.rsplit_once(" as producer ").expect("an id").1.to_owned()
}

fn position(port: u16, producer: &str) -> u64 {
    get(port, &format!("/lines?producer={producer}")).next().expect("a position")
}

#[test]
fn absent_server_is_waited_for_and_told_once() {
    let rig = Rig::new();
    let port = Closed::new().port();
    let mut client = feed(&rig, port, "");
    let mut pipe = client.stdin();
    pipe.write_all(b"a b\n").expect("the client reads");
    client.wait_for("does not take lines");
    let server =
        rig.wordtide(&format!("run {KEPT} --interval 50ms --listen-http 127.0.0.1:{port}")).start();
    server.wait_for_lines(1);
    client.wait_for("takes lines again");
    pipe.write_all(b"unfinished").expect("the client reads");
    while position(port, &producer_of_stream(&client)) < 14 {}
    client.signal(Signal::TERM);
    let ended = client.end().expect(0).says(&["14 of 14 bytes"]);
    let told = ended.stderr.iter().filter(|line| line.contains("does not take lines")).count();
    assert_eq!(told, 1, "{ended}");
    server.wait_for_lines(2);
    server.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a b\nunfinished\n"));
}

fn producer_of_stream(client: &Running) -> String {
    let line = client.wait_for("is fed as producer ");
    line.rsplit_once(' ').expect("an id").1.to_owned()
}

#[test]
fn server_that_lost_bytes_is_reported() {
    let rig = Rig::new();
    let (server, port) = start_kept(&rig);
    let mut client = feed(&rig, port, "");
    let mut pipe = client.stdin();
    pipe.write_all(b"a\n").expect("the client reads");
    let producer = producer_of_stream(&client);
    while position(port, &producer) < 2 {}
    assert_eq!(
        post(port, &format!("/lines?producer={producer}&offset=2&end=forget"), "").status,
        200
    );
    pipe.write_all(b"b\n").expect("the client reads");
    client.end().expect(1).says(&["has lost bytes 0 to 2"]);
    server.stop().expect(0);
}
