//! Memory has a bound, whatever comes: lines without an end, words without an end, a flood.
//!
//! The bound is measured from outside, as the kernel's high-water mark of the program's resident
//! memory. What is sent is many times the bound, so that a program which keeps it cannot pass.
//! CONTRIBUTING has how to run the same with half a gigabyte: `WORDTIDE_TEST_MIB=512`.

use std::fs;

use crate::oracle::Counts;
use crate::rig::{Peer, Rig, Running, Server};

const MIB: usize = 1 << 20;
/// By how much memory may grow, buffers of the kernel apart. The line limit in these tests is 1 MiB
/// and the pool of blocks 8 MiB; an allocator that holds on to what was freed has the rest.
const GROWTH_MAX_BYTES: usize = 40 * MIB;

/// How much is sent: 64 MiB, or as many MiB as the environment has.
fn sent_bytes() -> usize {
    let mib = std::env::var("WORDTIDE_TEST_MIB").ok();
    mib.map_or(64, |mib| mib.parse().expect("a number of MiB")) * MIB
}

/// The most memory the program ever had resident.
pub(crate) fn peak_bytes(program: &Running) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", program.pid()));
    let status = status.expect("the program runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a high-water mark");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok());
    kib.expect("a number of KiB") << 10
}

/// Sends what `flood` sends, then a line; returns the counts of all, and what was logged. Fails if
/// memory grew beyond its bound meanwhile.
fn run(flags: &str, lines: u64, flood: impl FnOnce(&mut Peer)) -> (Counts, Vec<String>) {
    let (rig, server) = (Rig::new(), Server::new());
    let fixed = "--interval 50ms --format tsv --empty-epochs skip --no-state --to out/c";
    let program = rig.wordtide(&format!("run {} {fixed} {flags}", server.flag())).start();
    let mut peer = server.accept();
    peer.send("warm up\n");
    program.wait_for_lines(1);
    let idle = peak_bytes(&program);
    flood(&mut peer);
    peer.send("\nthe next line\n");
    program.wait_for_lines(lines + 2);
    let growth = peak_bytes(&program).saturating_sub(idle);
    eprintln!(
        "{} MiB sent, memory grew by {} KiB over {} KiB",
        sent_bytes() / MIB,
        growth >> 10,
        idle >> 10
    );
    assert!(growth <= GROWTH_MAX_BYTES, "grew by {} KiB", growth >> 10);
    peer.fin();
    let ended = program.stop().expect(0);
    let mut counts = rig.output("out/c").counts();
    for word in ["warm", "up", "the", "next", "line"] {
        assert_eq!(counts.remove(word.as_bytes()), Some(1), "{word}\n{ended}");
    }
    (counts, ended.stderr)
}

const LIMITS: &str = "--max-line-bytes 1MiB --max-word-bytes 64KiB";

/// Sends the same text again and again; gives how often.
fn repeat(peer: &mut Peer, text: &str) -> u64 {
    let times = (64 << 10) / text.len();
    let chunk = text.repeat(times);
    let chunks = sent_bytes() / chunk.len();
    (0..chunks).for_each(|_| peer.send(&chunk));
    (chunks * times) as u64
}

#[test]
fn endless_line_is_counted_in_bounded_memory() {
    let mut times = 0;
    // How the line is cut shows in the figure of lines alone, which is at least one.
    let (counts, _) = run(LIMITS, 1, |peer| times = repeat(peer, "words but no end "));
    let each = ["words", "but", "no", "end"].map(|word| (word.as_bytes().to_vec(), times));
    let mut expected = Counts::from(each);
    expected.insert(Vec::new(), 1); // what follows the last space
    assert_eq!(counts, expected);
}

#[test]
fn endless_word_is_dropped_and_reported() {
    let (counts, said) = run(LIMITS, 0, |peer| _ = repeat(peer, "x"));
    assert!(counts.is_empty(), "{} words", counts.len());
    let told = said.iter().find(|line| line.contains("--max-word-bytes"));
    assert!(told.is_some_and(|line| line.contains("1 words")), "{said:?}");
}

#[test]
fn a_flood_of_short_lines_meets_back_pressure() {
    let mut times = 0;
    let mib = sent_bytes() / MIB;
    let lines = (mib * ((64 << 10) / 8) * 16) as u64;
    let (counts, _) = run("-w 2", lines, |peer| times = repeat(peer, "a flood\n"));
    // `run` ends what it was given with a line end: here that is an empty line.
    let expected =
        [("", 1), ("a", times), ("flood", times)].map(|(word, n)| (word.as_bytes().to_vec(), n));
    assert_eq!(counts, Counts::from(expected));
}
