//! Senders that connect: many at once, that end, break, flood, or are killed with the program.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::limits::peak_bytes;
use crate::oracle::{self, Counts};
use crate::rig::{Rig, Running, random, watched};

const SHORT: &str = "--interval 50ms --format tsv --to out/c --empty-epochs skip";
const LONG: &str = "--interval 24h --format tsv --no-state --to out/c";
const LISTEN: &str = "run --listen 127.0.0.1:0";

fn counts_of(text: &str) -> Counts {
    oracle::count(text.as_bytes(), oracle::words_python)
}

/// Returns the address on which a program logs that it listens.
fn place(program: &Running) -> String {
    let told = program.wait_for("listening on ");
    let place = told.rsplit_once("listening on ").expect("just found").1;
    place.split_whitespace().next().expect("an address").to_owned()
}

fn connect(place: &str) -> TcpStream {
    let stream = TcpStream::connect(place).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    stream
}

fn send(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("the program reads");
}

/// Waits until the program has closed the connection.
fn is_closed(mut stream: TcpStream) -> bool {
    !matches!(stream.read(&mut [0]), Ok(1))
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
}

#[test]
fn fin_ends_line_and_reset_drops_it() {
    let rig = Rig::new();
    let program = rig.wordtide(&format!("{LISTEN} {SHORT} --no-state")).start();
    let place = place(&program);
    let (kept, broken) = (connect(&place), connect(&place));
    send(&kept, "a line\nlast of");
    send(&broken, "whole\nunfinished");
    program.wait_for_lines(2);
    send(&kept, " one");
    drop(kept);
    reset(broken);
    program.wait_for("10 bytes of an unfinished line were dropped");
    program.wait_for_lines(3);
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of("a line\nlast of one\nwhole"));
}

#[test]
fn once_ends_when_all_senders_have_gone() {
    let rig = Rig::new();
    let program = rig.wordtide(&format!("{LISTEN} --once {LONG}")).start();
    let place = place(&program);
    let senders: Vec<_> = (0..20).map(|_| connect(&place)).collect();
    // The first half of each line, then the second: they are lines of their own all the same.
    for (k, sender) in senders.iter().enumerate() {
        send(sender, &format!("sender {k} be"));
    }
    for sender in &senders {
        send(sender, "gins\nand ends");
    }
    drop(senders);
    program.end().expect(0);
    let text: String = (0..20).map(|k| format!("sender {k} begins\nand ends\n")).collect();
    assert_eq!(rig.output("out/c").counts(), counts_of(&text));
}

#[test]
fn kill_keeps_half_lines_of_all_senders() {
    let rig = Rig::new();
    let run = format!("{LISTEN} {SHORT} --state state");
    let program = rig.wordtide(&run).start();
    let place = place(&program);
    let senders: Vec<_> = (0..8).map(|_| connect(&place)).collect();
    for (k, sender) in senders.iter().enumerate() {
        send(sender, &format!("line of {k}\nhalf{k}"));
    }
    program.wait_for_lines(8);
    for (k, sender) in senders.iter().enumerate() {
        send(sender, &format!("way\nopen{k}"));
    }
    program.wait_for_lines(16);
    program.insist(Signal::KILL);
    // A crash ends the lines that were open; no sender comes again.
    let program = rig.wordtide(&run).start();
    program.wait_for_lines(8);
    program.stop().expect(0);
    let text: String = (0..8).map(|k| format!("line of {k}\nhalf{k}way\nopen{k}\n")).collect();
    assert_eq!(rig.output("out/c").counts(), counts_of(&text));
}

#[test]
fn killed_senders_keep_their_whole_lines() {
    let rig = Rig::new();
    let program = rig.wordtide(&format!("{LISTEN} {SHORT} --state state -w 2")).start();
    let place = place(&program);
    let (mut senders, mut expected, mut dice) = (Vec::new(), String::new(), 7);
    for k in 0..100 {
        senders.push(connect(&place));
        expected.push_str(&format!("sender {k} says\nsomething more\n"));
    }
    for (k, sender) in senders.iter().enumerate() {
        send(sender, &format!("sender {k} says\nsome"));
    }
    for sender in &senders {
        send(sender, "thing more\nunfinished");
    }
    program.wait_for_lines(200);
    for sender in senders {
        if random(&mut dice).is_multiple_of(5) {
            reset(sender);
        } else {
            expected.push_str("unfinished\n");
        }
    }
    let kept = expected.lines().count() as u64;
    program.wait_for_lines(kept);
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of(&expected));
}

#[test]
fn flood_above_limit_is_closed_and_told_once() {
    let rig = Rig::new();
    let run = format!("{LISTEN} --max-connections 3 --once {LONG}");
    let program = rig.wordtide(&run).start();
    let place = place(&program);
    let senders: Vec<_> = (0..3).map(|_| connect(&place)).collect();
    senders.iter().for_each(|sender| send(sender, "kept\n"));
    for _ in 0..50 {
        assert!(is_closed(connect(&place)), "a connection above the limit");
    }
    drop(senders);
    let ended = program.end().expect(0);
    let told = ended.stderr.iter().filter(|line| line.contains("--max-connections")).count();
    assert_eq!(told, 1, "{ended}");
    assert_eq!(rig.output("out/c").counts(), counts_of("kept\nkept\nkept"));
}

#[test]
fn flooding_sender_does_not_starve_quiet_one() {
    let rig = Rig::new();
    let program = rig.wordtide(&format!("{LISTEN} {SHORT} --state state")).start();
    let place = place(&program);
    let (flood, quiet) = (connect(&place), connect(&place));
    let flooding = std::thread::spawn(move || {
        let mut flood = &flood;
        let text = "flood ".repeat(10_000) + "\n";
        // What a debug build counts in a moment, and more than the kernel holds.
        (0..100).for_each(|_| flood.write_all(text.as_bytes()).expect("the program reads"));
    });
    send(&quiet, "quiet\n");
    program.wait_until("the quiet sender", |_| {
        rig.output("out/c").counts().contains_key(&b"quiet"[..]).then_some(())
    });
    flooding.join().expect("all of it is read");
    program.stop().expect(0);
    let output = rig.output("out/c");
    assert_eq!(output.counts()[&b"flood"[..]], 1_000_000);
    // A quiet sender that has no turn is read when the flood is over: in the last epoch of it.
    let holds = |word: &str| -> Vec<u64> {
        let of_word = |row: &String| row.split('\t').next() == Some(word);
        let epochs = output.epochs.iter().filter(|(_, epoch)| epoch.rows().iter().any(of_word));
        epochs.map(|(epoch, _)| *epoch).collect()
    };
    let (floods, heard) = (holds("flood"), holds("quiet")[0]);
    assert!(floods.len() < 3 || heard < floods[floods.len() - 1], "{heard} of {floods:?}");
}

#[test]
fn stop_counts_what_has_arrived() {
    let rig = Rig::new();
    let program = rig.wordtide(&format!("{LISTEN} {LONG}")).start();
    let place = place(&program);
    let senders: Vec<_> = (0..5).map(|_| connect(&place)).collect();
    senders.iter().for_each(|sender| send(sender, "it has arrived\nand this"));
    program.stop().expect(0);
    drop(senders);
    assert_eq!(rig.output("out/c").counts(), counts_of(&"it has arrived\nand this\n".repeat(5)));
}

#[test]
fn several_kinds_of_sources_in_one_run() {
    let rig = Rig::new();
    rig.file("lines", "of a file\n");
    let program =
        rig.wordtide(&format!("{LISTEN} --file lines --once {LONG} --listen [::1]:0")).start();
    let first = program.wait_for("listening on 127.0.0.1:");
    let second = program.wait_for("listening on [::1]:");
    for told in [first, second] {
        let place = told.rsplit_once("listening on ").expect("just found").1;
        send(&connect(place.trim()), "of a sender\n");
    }
    program.end().expect(0);
    let expected = counts_of("of a file\nof a sender\nof a sender");
    assert_eq!(rig.output("out/c").counts(), expected);
}

#[test]
fn port_in_use_is_refused() {
    let rig = Rig::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = taken.local_addr().expect("bound");
    let refused = rig.run(&format!("run --listen {place} --to out/c")).expect(78);
    refused.says(&["--listen", &place.to_string(), "in use"]);
    assert_eq!(rig.tree(), Vec::<String>::new());
}

pub(crate) fn tls_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
}

/// Trusts every certificate: the test is about the bytes.
#[derive(Debug)]
struct TrustAll;

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub(crate) fn tls(place: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    StreamOwned::new(session, connect(place))
}

#[test]
fn encrypted_senders_count_and_plain_one_harms_nobody() {
    let rig = Rig::new();
    let (cert, key) = (tls_file("cert.pem"), tls_file("key.pem"));
    let flags = format!("--tls-cert {} --tls-key {}", cert.display(), key.display());
    let program = rig.wordtide(&format!("{LISTEN} {flags} --once {LONG}")).start();
    let place = place(&program);
    let mut first = tls(&place);
    first.write_all(b"secret lines\nand one un").expect("it reads");
    let plain = connect(&place);
    send(&plain, "GET / HTTP/1.1\r\n\r\n");
    // It may be sent an alert before; then the end, or a reset.
    let mut plain = plain;
    drop(plain.read_to_end(&mut Vec::new()));
    let silent = connect(&place);
    let mut second = tls(&place);
    second.write_all(b"another sender").expect("it reads");
    first.write_all(b"finished").expect("it reads");
    first.conn.send_close_notify();
    first.flush().expect("it reads");
    first.sock.shutdown(Shutdown::Write).expect("it stands");
    drop((first, second, silent));
    program.end().expect(0).says(&["TLS handshake failed"]);
    let expected = counts_of("secret lines\nand one unfinished\nanother sender");
    assert_eq!(rig.output("out/c").counts(), expected);
}

#[test]
fn stop_counts_encrypted_lines_that_arrived() {
    let rig = Rig::new();
    let (cert, key) = (tls_file("cert.pem"), tls_file("key.pem"));
    let flags = format!("--tls-cert {} --tls-key {}", cert.display(), key.display());
    let program = rig.wordtide(&format!("{LISTEN} {flags} {LONG}")).start();
    let place = place(&program);
    let mut standing = tls(&place);
    standing.write_all(b"first\n").expect("it reads");
    program.wait_for("a sender has connected");
    // This one has the server's part of the handshake, and keeps back its own.
    let mut shaking = tls(&place);
    shaking.conn.write_tls(&mut shaking.sock).expect("it reads");
    while shaking.conn.is_handshaking() {
        shaking.conn.read_tls(&mut shaking.sock).expect("an answer");
        shaking.conn.process_new_packets().expect("a handshake");
    }
    // Else what follows the handshake would wait in this kernel for an acknowledgement.
    shaking.sock.set_nodelay(true).expect("a socket");
    program.signal(Signal::STOP);
    let text = "some of many lines\n".repeat(3_000);
    standing.write_all(text.as_bytes()).expect("the kernel takes it");
    shaking.write_all(b"shaken\n").expect("the kernel takes it");
    program.signal(Signal::TERM);
    program.signal(Signal::CONT);
    program.end().expect(0);
    assert_eq!(rig.output("out/c").counts(), counts_of(&(text + "first\nshaken\n")));
}

#[test]
fn unfinished_lines_are_bounded_when_read_back() {
    let rig = Rig::new();
    // No epoch ends before the kill, so the second run reads all records back.
    let run = format!("{LISTEN} {} --state state --http 127.0.0.1:0", SHORT.replace("50ms", "24h"));
    let program = rig.wordtide(&run).start();
    let (place, http) = (place(&program), watched::port(&program));
    let senders: Vec<_> = (0..300).map(|_| connect(&place)).collect();
    // Each takes a buffer of 256 KiB; together they are above the bound of 32 MiB.
    let text = |k: usize| format!("sender{k}-{} ", "x".repeat(1_000)).repeat(66);
    senders.iter().enumerate().for_each(|(k, sender)| send(sender, &text(k)));
    let sent: usize = (0..300).map(|k| text(k).len()).sum();
    program.wait_until("all bytes to be read", |_| {
        (watched::get(http, "/api/v1/status").json()["bytes"] == sent).then_some(())
    });
    program.insist(Signal::KILL);
    // All records are read back, and the same lines are cut at the same places.
    let program = rig.wordtide(&run).start();
    program.wait_for("unfinished lines of all senders");
    let peak = peak_bytes(&program);
    assert!(peak < 90 << 20, "{peak} bytes of memory");
    program.stop().expect(0);
    let text: String = (0..300).map(|k| text(k) + "\n").collect();
    assert!(rig.output("out/c").counts() == counts_of(&text));
}

#[test]
fn bad_certificate_is_refused() {
    let rig = Rig::new();
    rig.file("empty.pem", "");
    let (cert, key) = (tls_file("cert.pem"), tls_file("key.pem"));
    let (cert, key) = (cert.display(), key.display());
    for (flags, says) in [
        (format!("--tls-cert missing.pem --tls-key {key}"), ["--tls-cert", "missing.pem"]),
        (format!("--tls-cert {cert} --tls-key missing.pem"), ["--tls-key", "missing.pem"]),
        (format!("--tls-cert empty.pem --tls-key {key}"), ["--tls-cert", "empty.pem"]),
        (format!("--tls-cert {cert} --tls-key {cert}"), ["--tls-key", "cert.pem"]),
    ] {
        rig.run(&format!("{LISTEN} {flags} --to out/c")).expect(78).says(&says);
    }
    rig.run(&format!("{LISTEN} --tls-cert {cert} --to out/c")).expect(2).says(&["--tls-key"]);
}
