use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;

use super::{Addresses, all_done};
use crate::rig::{Rig, Running, random};

/// Memory that unknown peers may make a waiting process use, in KiB: that of a debug build, and
/// some.
const MEMORY_KIB: u64 = 64 << 10;

/// The most memory the process ever had, in KiB.
fn most_memory_kib(process: &Running) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Sends something and waits until the program closes, whatever it answers.
fn say(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(bytes).ok();
    stream.shutdown(Shutdown::Write).ok();
    stream.read_to_end(&mut Vec::new()).ok();
}

fn wait_until_it_listens(address: &str) {
    while TcpStream::connect(address).is_err() {
        std::thread::yield_now();
    }
}

/// All kinds of unknown peers at once; those that send nothing are kept.
fn bother(address: &str) -> Vec<TcpStream> {
    let mut kept: Vec<_> =
        (0..10).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    (0..100).for_each(|_| drop(TcpStream::connect(address)));
    say(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut index = TcpStream::connect(address).expect("it listens");
    index.write_all(&1u64.to_be_bytes()).expect("a new connection");
    kept.push(index);
    let mut header = [0; 48];
    header[32..40].copy_from_slice(&(u64::MAX - 47).to_be_bytes());
    say(address, &header);
    say(address, &[0xff; 4096]);
    let mut state = 1;
    for _ in 0..10_000 {
        let length = random(&mut state) as usize % 300;
        let mut bytes: Vec<u8> = (0..length).map(|_| random(&mut state) as u8).collect();
        let known = [b"wordtide".as_slice(), b"wordtide\x02\0", b""][length % 3];
        let known = &known[..known.len().min(length)];
        bytes[..known.len()].copy_from_slice(known);
        say(address, &bytes);
    }
    kept
}

#[test]
fn strangers_do_not_prevent_the_start() {
    let (rig, addresses) = (Rig::new(), Addresses::new(2));
    rig.file("input", "a b\n");
    for (name, secret) in [("mesh.key", "the key of the two"), ("other.key", "some other key")] {
        let path = rig.file(name, secret.repeat(2));
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("our file");
    }
    let job = "run --file input --interval 24h --format tsv --no-state --to out/c";
    let start = |p: usize, key: &str, more: &str| {
        let flags = format!("{} --mesh-key-file {key} {more}", addresses.flags(p));
        rig.wordtide(&format!("{job} {flags}")).start()
    };
    let zero = start(0, "mesh.key", "");
    wait_until_it_listens(addresses.of(0));
    let kept = bother(addresses.of(0));
    start(1, "other.key", "--start-timeout 1s").end().expect(69);
    let memory = most_memory_kib(&zero);
    assert!(memory < MEMORY_KIB, "{memory} KiB");
    let one = start(1, "mesh.key", "");
    let ended = all_done(vec![zero, one]);
    drop(kept);
    assert_eq!(rig.output("out/c").rows(), ["a\t1", "b\t1"]);
    let lines = ended[0].stderr.len();
    assert!(lines < 100, "{lines} lines about strangers\n{}", ended[0]);
}

/// Starts process 0 with the key of one user, lets process 1 of another user try, then the right
/// one.
#[test]
fn another_users_process_is_kept_out_of_loopback() {
    let (rig, addresses) = (Rig::new(), Addresses::new(2));
    rig.file("input", "a b\n");
    let homes = [rig.path("one"), rig.path("two")];
    homes.iter().for_each(|home| std::fs::create_dir(home).expect("a folder"));
    let job = "run --file input --interval 24h --format tsv --no-state --to out/c";
    let start = |p: usize, home: usize, more: &str| {
        let invocation = rig.wordtide(&format!("{job} {} {more}", addresses.flags(p)));
        invocation.env("XDG_STATE_HOME", &homes[home]).start()
    };
    let zero = start(0, 0, "");
    // Other flags too: unproven, they must not end the start as a mismatch would.
    let stranger = start(1, 1, "-w 2 --start-timeout 1s").end().expect(69);
    stranger.says(&["process 0", "another mesh key; see --mesh-key-file"]);
    zero.wait_for("did not prove the mesh key");
    let one = start(1, 0, "");
    all_done(vec![zero, one]);
    assert_eq!(rig.output("out/c").rows(), ["a\t1", "b\t1"]);
    let key = homes[0].join("wordtide/mesh-key");
    assert_eq!(key.metadata().expect("a key").permissions().mode() & 0o777, 0o600);
}
