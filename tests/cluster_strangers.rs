//! Unknown peers on the cluster's port while it starts: none may stop, delay or join it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use wordtide::internals::cluster::launcher::Ports;
use wordtide::internals::cluster::{ClusterSettings, connect, connect_until};

use crate::cluster_mesh::{complete, key, settings};

/// Starts process 0, runs `strangers` against it until they are done, then starts process 1; both
/// must come up. The connections that they return stay open until then.
fn comes_up_in_spite_of<T>(strangers: impl FnOnce(&str) -> T) {
    let ports = Ports::reserve(2).unwrap();
    let with_key = |index| ClusterSettings {
        mesh_key: key("known to the two processes"),
        // Patient with unknown peers, so that none of them goes away by itself.
        handshake_timeout: Duration::from_secs(600),
        ..settings(&ports, index)
    };
    std::thread::scope(|scope| {
        let zero = scope.spawn(|| connect(&with_key(0)));
        let kept = strangers(&ports.addresses()[0]);
        let one = scope.spawn(|| connect(&with_key(1)));
        complete([zero, one]);
        drop(kept);
    });
}

/// A connection to a listener that may be about to listen.
fn reach(address: &str) -> TcpStream {
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// Sends something and waits until the listener closes, whatever it answers.
fn say(address: &str, bytes: &[u8]) {
    let mut stream = reach(address);
    stream.write_all(bytes).ok();
    stream.shutdown(Shutdown::Write).ok();
    stream.read_to_end(&mut Vec::new()).ok();
}

#[test]
fn connect_and_close() {
    comes_up_in_spite_of(|address| (0..100).for_each(|_| drop(reach(address))));
}

#[test]
fn silent_connections_that_stay() {
    comes_up_in_spite_of(|address| (0..10).map(|_| reach(address)).collect::<Vec<_>>());
}

#[test]
fn more_silent_connections_than_are_questioned_at_once() {
    comes_up_in_spite_of(|address| (0..200).map(|_| reach(address)).collect::<Vec<_>>());
}

#[test]
fn a_silent_connection_is_closed_at_its_deadline() {
    let ports = Ports::reserve(2).unwrap();
    let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
    let short =
        ClusterSettings { handshake_timeout: Duration::from_millis(50), ..settings(&ports, 0) };
    std::thread::scope(|scope| {
        let until = async { cancelled.await.unwrap_or_default() };
        let zero = scope.spawn(|| connect_until(&short, until));
        reach(&ports.addresses()[0]).read_to_end(&mut Vec::new()).unwrap();
        cancel.send(()).unwrap();
        assert!(zero.join().unwrap().unwrap().is_none());
    });
}

#[test]
fn a_web_request() {
    comes_up_in_spite_of(|address| say(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
}

#[test]
fn eight_bytes_of_a_valid_index() {
    comes_up_in_spite_of(|address| {
        let mut stream = reach(address);
        stream.write_all(&1u64.to_be_bytes()).unwrap();
        stream
    });
}

#[test]
fn a_huge_length() {
    comes_up_in_spite_of(|address| {
        let mut header = [0; 48];
        header[32..40].copy_from_slice(&(u64::MAX - 47).to_be_bytes());
        say(address, &header);
        say(address, &[0xff; 4096]);
        say(address, &[b"wordtide".as_slice(), &[0xff; 200]].concat());
    });
}

#[test]
fn a_process_with_a_wrong_key_or_none() {
    comes_up_in_spite_of(|address| {
        for mesh_key in [key("not the one that they have"), None] {
            let other = Ports::reserve(2).unwrap();
            let mut stranger = settings(&other, 1);
            stranger.addresses[0] = address.to_owned();
            stranger.mesh_key = mesh_key;
            // Other settings too: unproven, they must not end the real one as a mismatch would.
            stranger.threads = 3;
            stranger.start_timeout = Duration::from_millis(200);
            connect(&stranger).unwrap_err();
        }
    });
}

#[test]
fn a_replayed_handshake() {
    comes_up_in_spite_of(|address| {
        let other = Ports::reserve(2).unwrap();
        let recorder = std::net::TcpListener::bind(&other.addresses()[0]).unwrap();
        let genuine = ClusterSettings {
            mesh_key: key("known to the two processes"),
            start_timeout: Duration::from_millis(300),
            ..settings(&other, 1)
        };
        let recorded = std::thread::scope(|scope| {
            scope.spawn(|| connect(&genuine).unwrap_err());
            let mut hello = [0; 124];
            recorder.accept().unwrap().0.read_exact(&mut hello).unwrap();
            hello
        });
        say(address, &[recorded.as_slice(), &[0; 32]].concat());
        say(address, &[recorded, recorded].concat());
    });
}

#[test]
fn ten_thousand_random_byte_strings() {
    comes_up_in_spite_of(|address| {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[42; 32]);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..300);
        for round in 0..10_000 {
            let mut bytes = bytes.new_tree(&mut runner).unwrap().current();
            // A third gets past the magic, another third past the format too.
            let known = [b"wordtide".as_slice(), b"wordtide\x02\0", b""][round % 3];
            let known = &known[..known.len().min(bytes.len())];
            bytes[..known.len()].copy_from_slice(known);
            say(address, &bytes);
        }
    });
}
