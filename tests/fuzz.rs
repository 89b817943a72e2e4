//! Bytes of strangers: random ones and changed requests, some hundred from a seed.
//!
//! Each must be answered or closed, none may end the run, and what is sent in good order beside
//! them is counted. `WORDTIDE_FUZZ=COUNT` sends more, `WORDTIDE_SEED=N` begins with another seed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::limits::peak_bytes;
use crate::rig::http::{post, request};
use crate::rig::{Rig, random};

/// Far more than the program needs for such senders, and far less than what they name.
const PEAK_BYTES_MAX: usize = 1 << 30;
const RUN: &str = "--interval 100ms --empty-epochs skip --format tsv --state state --to out/c \
                   --max-line-bytes 64KiB --max-word-bytes 1KiB --max-connections 64";

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

/// A source of inputs.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        random(&mut self.0) as usize % limit
    }

    fn bytes(&mut self, limit: usize) -> Vec<u8> {
        let length = self.below(limit);
        (0..length).map(|_| random(&mut self.0) as u8).collect()
    }

    /// Flips, inserts, removes and repeats some bytes.
    fn change(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.below(6) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 => drop(bytes.splice(at..at, self.bytes(40)).collect::<Vec<_>>()),
                2 => bytes.truncate(at),
                3 => drop(bytes.drain(at..(at + self.below(20)).min(bytes.len()))),
                4 => bytes.extend_from_within(at..),
                _ => bytes.insert(at, b"\r\n\0:; 9"[self.below(7)]),
            }
        }
        bytes
    }
}

/// Sends bytes as one of several kinds of sender; true if the program took part in a good end.
fn send(port: u16, bytes: &[u8], dice: &mut Dice) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    let cut = dice.below(bytes.len() + 1);
    // A program that has seen enough may close at any moment.
    let sent = stream.write_all(&bytes[..cut]).and_then(|()| stream.write_all(&bytes[cut..]));
    match dice.below(4) {
        0 => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket"),
        1 if sent.is_ok() => {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            let ended = stream.read_to_end(&mut answer);
            let is_late = ended.is_err_and(|error| {
                matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                )
            });
            assert!(!is_late, "neither an answer nor an end");
        }
        _ => {}
    }
}

#[test]
fn senders_of_anything_end_no_listener() {
    let rig = Rig::new();
    let program = rig.wordtide(&format!("run --listen 127.0.0.1:0 {RUN}")).start();
    let told = program.wait_for("listening on ");
    let port = told.rsplit(':').next().and_then(|rest| rest.split_whitespace().next());
    let port: u16 = port.and_then(|port| port.parse().ok()).expect("a port");
    let mut dice = Dice(number("WORDTIDE_SEED", 1));
    for _ in 0..number("WORDTIDE_FUZZ", 300) {
        let mut bytes = match dice.below(4) {
            0 => dice.bytes(3_000),
            1 => vec![b"\0x\n\r \xff\xfe\xef"[dice.below(8)]; dice.below(300_000)],
            2 => "wörter und ＡＢ \u{1f980}\r\n".repeat(dice.below(200)).into_bytes(),
            _ => b"GET / HTTP/1.1\r\n\x16\x03\x01\x02\x00\x01\n".to_vec(),
        };
        bytes = dice.change(bytes);
        send(port, &bytes, &mut dice);
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens still");
    stream.write_all(b"\nthe-last-line-of-all\n").expect("it reads still");
    drop(stream);
    let counted = || rig.output("out/c").counts().contains_key(&b"the-last-line-of-all"[..]);
    let mut epochs = 0;
    while !counted() {
        epochs += 1;
        assert!(program.lives_until_commits(epochs), "{}", program.stderr());
    }
    assert!(peak_bytes(&program) < PEAK_BYTES_MAX);
    let ended = program.stop().expect(0);
    assert!(!ended.to_string().contains("panicked"), "{ended}");
}

/// Requests that are right, to be changed.
fn requests() -> Vec<Vec<u8>> {
    let gzipped = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"zipped words\n").and_then(|()| encoder.finish()).expect("memory")
    };
    let zstd = zstd::encode_all(&b"more zipped words\n"[..], 3).expect("memory");
    let chunked = b"POST /lines HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n\
        3\r\nthr\r\n3\r\nee\n\r\n0\r\n\r\n";
    vec![
        request("POST", "/lines", "", b"plain words\n"),
        request("POST", "/lines", "content-encoding: gzip\r\n", &gzipped),
        request("POST", "/lines", "content-encoding: zstd\r\n", &zstd),
        request("POST", "/lines?producer=p&offset=0", "", b"numbered\n"),
        request("POST", "/lines?producer=%ff%00&offset=18446744073709551615", "", b"far\n"),
        request("GET", "/lines?producer=p", "", b""),
        request("POST", "/lines", "expect: 100-continue\r\n", b"expected\n"),
        request("POST", "/lines", "content-length: 99999999999999999999\r\n", b"long\n"),
        chunked.to_vec(),
        [request("POST", "/lines", "", b"a\n"), request("POST", "/lines", "", b"b\n")].concat(),
    ]
}

#[test]
fn changed_requests_end_no_server() {
    let rig = Rig::new();
    let listen = "--listen-http 127.0.0.1:0 --max-body-bytes 256KiB";
    let program = rig.wordtide(&format!("run {listen} {RUN}")).start();
    let port = program.http_port();
    let (requests, mut dice) = (requests(), Dice(number("WORDTIDE_SEED", 2)));
    for _ in 0..number("WORDTIDE_FUZZ", 300) {
        let bytes = match dice.below(8) {
            0 => dice.bytes(2_000),
            _ => requests[dice.below(requests.len())].clone(),
        };
        let bytes = dice.change(bytes);
        send(port, &bytes, &mut dice);
    }
    assert_eq!(post(port, "/lines", "the-last-line-of-all\n").status, 204);
    assert!(peak_bytes(&program) < PEAK_BYTES_MAX);
    let ended = program.stop().expect(0);
    assert!(!ended.to_string().contains("panicked"), "{ended}");
    assert!(rig.output("out/c").counts().contains_key(&b"the-last-line-of-all"[..]));
}
