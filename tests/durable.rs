//! A run with state: files that are read on, a journal that is full, a journal that is gone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster_program::Addresses;
use crate::oracle::{self, Counts};
use crate::rig::{Rig, Running, Server, random, side_by_side};

const STATE: &str = "--state state --format tsv --to out/c";

fn numbered(lines: u64) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("{n:011} {:03}\n", n % 1_000).into_bytes()).collect()
}

/// As many lines of few words: a long file that is counted fast.
fn repeating(lines: u64) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("{:011} {:03}\n", n % 997, n % 89).into_bytes()).collect()
}

fn words(text: &[u8]) -> Counts {
    oracle::count(text, oracle::words_python)
}

#[test]
fn file_is_counted_once_despite_crashes() {
    let ends = [
        "cut.before_complete:1",
        "cut.after_complete:2",
        "journal.before_epoch_end:2",
        "journal.after_epoch_end:2",
        "journal.after_sync:3",
        "output.before_marker:1",
        "output.after_marker:2",
        "journal.before_committed:1",
        "journal.after_committed:1",
        "recovery.after_clear:1",
    ];
    // Its last line has no end, and CR LF stands across every end of a chunk sooner or later.
    let mut text = numbered(150_000);
    text.extend_from_slice(b"cr\r\n".repeat(100_000).as_slice());
    text.extend_from_slice(b"the end");
    let expected = words(&text);
    side_by_side(vec![1, 2, 3, 4], |mut seed| {
        let rig = Rig::new();
        let file = rig.file("lines", &text);
        let run = format!("run --file {} --interval 20ms {STATE}", file.display());
        for _ in 0..5 {
            let end = ends[random(&mut seed) as usize % ends.len()];
            // Where it gets through in time it has finished, and the next begins anew: no more
            // lives.
            let ended = rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", end).start().end();
            if ended.to_string().contains("exit code Some(0)") {
                break;
            }
        }
        let output = rig.output("out/c");
        // The last run may have died after the last word, in an epoch without words.
        let is_short = words_of(&output.counts()) < words_of(&expected);
        if is_short || !output.uncommitted.is_empty() {
            rig.run(&run).expect(0);
        }
        let output = rig.output("out/c");
        assert!(output.uncommitted.is_empty(), "seed {seed}: {:?}", output.uncommitted);
        assert!(output.counts() == expected, "seed {seed}: not the words of the file");
    });
}

fn words_of(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// Returns true if a file was read to its end: the greatest bit of its offset states it.
fn has_ended(dump: &str) -> bool {
    let positions = dump.split(" positions=").skip(1);
    let greatest = positions.filter_map(|hex| u8::from_str_radix(hex.get(14..16)?, 16).ok());
    greatest.max().is_some_and(|byte| byte >= 0x80)
}

/// A job over a file of at least so many lines that died in the middle: some are committed, and
/// its end was not met.
fn dead_in_the_middle(mut lines: u64) -> (Rig, PathBuf, String, u64) {
    loop {
        let rig = Rig::new();
        let file = rig.file("lines", repeating(lines));
        let run = format!("run --file {} --interval 20ms {STATE}", file.display());
        // How much an epoch holds is the machine's affair: nothing at first, or even all of it.
        while rig.output("out/c").counts().is_empty() {
            rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", "output.after_marker").start().end();
        }
        if !has_ended(&dump(&rig)) {
            return (rig, file, run, lines);
        }
        lines *= 2;
    }
}

#[test]
fn changed_file_is_refused_grown_one_read() {
    let (rig, file, run, lines) = dead_in_the_middle(600_000);
    let mut changed = repeating(lines);
    changed[0] = b'x';
    fs::write(&file, &changed).expect("a file");
    rig.run(&run).expect(78).says(&["has changed", "--state"]);
    let grown = repeating(lines + 50_000);
    fs::write(&file, &grown).expect("a file");
    rig.run(&run).expect(0);
    assert!(rig.output("out/c").counts() == words(&grown));
}

#[test]
fn finished_job_restarts_and_stopped_one_resumes() {
    let rig = Rig::new();
    let file = rig.file("lines", "a b\n");
    let run = format!("run --file {} --interval 20ms {STATE}", file.display());
    rig.run(&run).expect(0);
    rig.run(&run).expect(0);
    let twice = words(b"a b\na b\n");
    assert_eq!(rig.output("out/c").counts(), twice);
}

#[test]
fn finished_job_restarts_after_crash_in_cleanup() {
    let rig = Rig::new();
    let file = rig.file("lines", "a b\n");
    let run = format!("run --file {} --interval 20ms {STATE}", file.display());
    rig.run(&run).expect(0);
    // The next start puts the journal of the finished job away.
    let dies = rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", "recovery.put_away");
    // Its last lines of the log may be lost.
    assert_eq!(dies.start().end().code(), None, "it is killed at the point");
    assert_eq!(rig.output("out/c").counts(), words(b"a b\n"));
    rig.run(&run).expect(0);
    rig.run(&run).expect(0);
    assert_eq!(rig.output("out/c").counts(), words(b"a b\na b\na b\n"));
}

#[test]
fn uncommitted_file_must_return_or_be_abandoned() {
    let rig = Rig::new();
    let (file, other) = (rig.file("lines", "a b\n"), rig.file("other", "c\n"));
    let run = |file: &PathBuf| format!("run --file {} --interval 20ms {STATE}", file.display());
    rig.wordtide(&run(&file)).env("WORDTIDE_CRASH_POINT", "cut.after_complete").start().end();
    let refused = rig.run(&run(&other)).expect(78);
    let refused = refused.says(&["lines", "not committed", "--file", "--abandon-journal"]);
    let text = refused.to_string();
    let id = &text.rsplit_once("--abandon-journal ").expect("the way out").1[..32];
    rig.run(&format!("{} --abandon-journal {id}", run(&other))).expect(0);
    assert_eq!(rig.output("out/c").counts(), words(b"c\n"));
    let ended = rig.run(&format!("{} --abandon-journal {id}", run(&file))).expect(0);
    ended.says(&[id, "there is no such journal"]);
    assert_eq!(rig.output("out/c").counts(), words(b"c\na b\n"), "it begins anew");
}

#[test]
fn failed_sync_ends_run_and_publishes_nothing() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 50ms {STATE}", server.flag());
    let fault = format!("disk.sync={}", rig.path("bad").display());
    let program = rig.wordtide(&run).env("WORDTIDE_FAULT", &fault).start();
    let mut peer = server.accept();
    peer.send("a\n");
    program.wait_for_lines(1);
    rig.file("bad", "");
    // It is refused if the sync of the commit has failed already.
    let _ = peer.try_send(b"b\n");
    program.end().expect(74).says(&["syncing", ".wtj"]);
    assert_eq!(rig.output("out/c").counts(), words(b"a\n"));
    fs::remove_file(rig.path("bad")).expect("the fault");
    let program = rig.wordtide(&run).start();
    // The run may have ended before it read b, so something must follow to be waited for.
    let mut peer = server.accept();
    peer.send("c\n");
    program.wait_for_lines(1);
    program.stop().expect(0);
    let counts = rig.output("out/c").counts();
    // What the failed sync was for may or may not have reached the journal; never twice. If it has,
    // c may come after the stop.
    let possible = [&b"a\nc\n"[..], b"a\nb\n", b"a\nb\nc\n"];
    assert!(possible.iter().any(|lines| counts == words(lines)), "{counts:?}");
}

#[test]
fn full_disk_pauses_reading() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 50ms --journal-max 5MiB {STATE}", server.flag());
    let fault = format!("disk.full={}", rig.path("full").display());
    let program = rig.wordtide(&run).env("WORDTIDE_FAULT", &fault).start();
    let mut peer = server.accept();
    peer.send("a\n");
    program.wait_for_lines(1);
    rig.file("full", "");
    let text = repeating(200_000);
    std::thread::scope(|scope| {
        scope.spawn(|| peer.send(&text));
        program.wait_for("the disk of the journal is full");
        fs::remove_file(rig.path("full")).expect("the fault");
    });
    program.wait_for_lines(200_001);
    program.stop().expect(0).says(&["the journal has room again"]);
    let expected = words(&[b"a\n", &text[..]].concat());
    assert!(rig.output("out/c").counts() == expected);
}

/// The lines of [`numbered`] that are counted: the first so many, and perhaps a part of another.
fn first_counted(rig: &Rig) -> u64 {
    let counts = rig.output("out/c").counts();
    let lines = counts.keys().filter(|word| word.len() == 11).count() as u64;
    let once = |n: u64| counts.get(format!("{n:011}").as_bytes()) == Some(&1);
    assert!((0..lines).all(once), "{lines} lines, and not the first ones, once each");
    lines
}

#[test]
fn stop_on_a_full_disk_ends_at_once() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 1h --stop-timeout 1h {STATE}", server.flag());
    let fault = format!("disk.full={}", rig.path("full").display());
    let program = rig.wordtide(&run).env("WORDTIDE_FAULT", &fault).start();
    let mut peer = server.accept();
    rig.file("full", "");
    let text = numbered(300_000);
    std::thread::scope(|scope| {
        // What is not read is not counted: sending it fails.
        scope.spawn(|| peer.try_send(&text));
        program.wait_for("the disk of the journal is full");
        program.stop().expect(0).says(&["are in no journal", "counted in the last epoch"]);
    });
    let lines = first_counted(&rig);
    assert!(lines > 50_000, "{lines} lines, and the first segment of the journal holds more");
    fs::remove_file(rig.path("full")).expect("the fault");
    let program = rig.wordtide(&run).start();
    drop(server.accept());
    program.stop().expect(0);
    assert_eq!(first_counted(&rig), lines);
}

#[test]
fn full_journal_pauses_reading_without_loss() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 300ms --journal-max 5MiB {STATE}", server.flag());
    let program = rig.wordtide(&run).start();
    let mut peer = server.accept();
    let text = repeating(400_000);
    peer.send(&text);
    peer.fin();
    program.wait_for_lines(400_000);
    program.signal(Signal::TERM);
    let ended = program.end().expect(0).says(&["the journal is full", "--journal-max"]);
    ended.says(&["the journal has room again"]);
    assert!(rig.output("out/c").counts() == words(&text));
}

#[test]
fn missing_journal_stops_start_until_abandoned() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 50ms {STATE}", server.flag());
    let program = rig.wordtide(&run).start();
    let mut peer = server.accept();
    peer.send("a\n");
    program.wait_for_lines(1);
    drop(program);
    fs::remove_dir_all(journal(&rig)).expect("a journal");
    let refused = rig.run(&run).expect(78).says(&["is missing", "--abandon-journal"]);
    let text = refused.to_string();
    let id = text.rsplit_once("--abandon-journal ").expect("the way out").1[..32].to_owned();
    let program = rig.wordtide(&format!("{run} --abandon-journal {id}")).start();
    server.accept().send("b\n");
    program.wait_for_lines(1);
    program.stop().expect(0).says(&[&id, "is abandoned"]);
    assert_eq!(rig.output("out/c").counts(), words(b"a\nb\n"));
}

/// Two processes as if on two hosts, each with a state of its own; the first source belongs to the
/// first of them, the second to the second.
fn two_hosts(rig: &Rig, servers: [&Server; 2], states: [&str; 2]) -> [Running; 2] {
    let addresses = Addresses::new(2);
    let sources = servers.map(Server::flag).join(" ");
    let run = format!("run {sources} --interval 50ms --parts 2 --format tsv --to out/c");
    [0, 1].map(|process| {
        let place = format!("{} --state {}", addresses.flags(process), states[process]);
        rig.wordtide(&format!("{run} {place}")).start()
    })
}

#[test]
fn moved_journal_is_found_or_reported_missing() {
    let (rig, servers) = (Rig::new(), [Server::new(), Server::new()]);
    let [a, b] = [&servers[0], &servers[1]];
    let processes = two_hosts(&rig, [a, b], ["one", "two"]);
    let (mut first, mut second) = (a.accept(), b.accept());
    first.send("a\n");
    second.send("b\n");
    processes[0].wait_for_lines(2);
    drop(processes);
    // The sources have changed places: the process that finds a journal brings it back, and reads
    // the other.
    let processes = two_hosts(&rig, [b, a], ["one", "two"]);
    a.accept().send("c\n");
    b.accept().send("d\n");
    processes[0].wait_for_lines(2);
    drop(processes);
    let [first, second] = two_hosts(&rig, [a, b], ["one", "gone"]);
    let refused = first.end().expect(78);
    refused.says(&["is missing", "--abandon-journal"]);
    second.end().expect(78);
    let [first, second] = two_hosts(&rig, [a, b], ["one", "two"]);
    first.wait_for("connected to");
    second.wait_for("connected to");
    first.signal(Signal::TERM);
    first.end().expect(0);
    second.end().expect(0);
    assert_eq!(rig.output("out/c").counts(), words(b"a\nb\nc\nd\n"));
}

#[test]
fn a_journal_can_be_looked_at() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 50ms {STATE}", server.flag());
    let program = rig.wordtide(&run).start();
    let mut peer = server.accept();
    peer.send("a\n");
    program.wait_for_lines(1);
    drop(program);
    let (dir, dumped) = (journal(&rig).display().to_string(), dump(&rig));
    assert!(dumped.contains("DATA connection=0 bytes=2"), "{dumped}");
    assert!(dumped.contains("MARK epoch="), "{dumped}");
    let checked = rig.run(&format!("journal check {dir}")).expect(0);
    assert!(String::from_utf8_lossy(&checked.stdout).starts_with("sound: "));
}

fn dump(rig: &Rig) -> String {
    let dumped = rig.run(&format!("journal dump {}", journal(rig).display())).expect(0);
    String::from_utf8_lossy(&dumped.stdout).into_owned()
}

fn journal(rig: &Rig) -> PathBuf {
    let state = fs::read_dir(rig.path("state")).expect("a state");
    let paths = state.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_dir()).min().expect("a journal")
}

/// Ends of the journal's last record of lines and of what a record states to be on disk.
fn lines_and_stated(dumped: &str) -> (u64, u64) {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (mut lines, mut stated) = (0, 0);
    for record in dumped.lines() {
        let mut fields = record.split(' ');
        let position = fields.next().unwrap_or_default();
        if fields.next() == Some("DATA") {
            let bytes = record.rsplit_once("bytes=").expect("a length").1;
            lines = number(position) + 17 + number(bytes);
        } else if let Some((_, synced)) = record.rsplit_once("synced_through=") {
            stated = stated.max(number(synced.split(' ').next().unwrap_or_default()));
        }
    }
    (lines, stated)
}

#[test]
fn burst_then_silence_is_synced_and_stated() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 1h --sync-every 200ms {STATE}", server.flag());
    let program = rig.wordtide(&run).start();
    let mut peer = server.accept();
    let text = numbered(50_000);
    program.wait_for("connected to");
    // The first burst may be synced since the program has just started, the second cannot.
    for bursts in 1..=2 {
        peer.send(&text);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (lines, stated) = lines_and_stated(&dump(&rig));
            if lines > (bursts * text.len()) as u64 && stated >= lines {
                break;
            }
            assert!(Instant::now() < deadline, "{lines} bytes of records, {stated} stated");
        }
    }
    drop(program);
    let segment = journal(&rig).join("00000000000000000000.wtj");
    let mut bytes = fs::read(&segment).expect("a segment");
    bytes[4096 + text.len() / 2] ^= 1;
    fs::write(&segment, bytes).expect("a segment");
    let damaged = rig.run(&run).expect(74);
    let damaged = damaged.says(&["is damaged at byte", "00000000000000000000.wtj"]).to_string();
    // As the message proposes: its lines are lost, the job goes on.
    let id = &damaged.rsplit_once("--abandon-journal ").expect("a way out").1[..32];
    // The refused start may have connected.
    while server.try_accept(Duration::ZERO).is_some() {}
    let program = rig.wordtide(&format!("{run} --abandon-journal {id}")).start();
    server.accept().send("after\n");
    program.wait_for("connected to");
    program.stop().expect(0).says(&[id, "is kept in"]);
    assert_eq!(rig.output("out/c").counts(), words(b"after\n"));
}

/// Bytes of the files in the journal's folder, and the access that others than the owner have
/// there and in the rest of the state.
fn size_and_access(rig: &Rig) -> (u64, u32) {
    let folder = journal(rig);
    let access = |path: &PathBuf| fs::metadata(path).expect("it is there").mode() & 0o077;
    let (mut bytes, mut others) = (0, access(&folder));
    for entry in fs::read_dir(rig.path("state")).expect("a state") {
        others |= access(&entry.expect("an entry").path());
    }
    for entry in fs::read_dir(folder).expect("a journal") {
        let path = entry.expect("an entry").path();
        others |= access(&path);
        bytes += fs::metadata(path).expect("a file").len();
    }
    (bytes, others)
}

#[test]
fn journal_of_quiet_source_is_small_and_private() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 50ms {STATE}", server.flag());
    let program = rig.wordtide(&run).start();
    server.accept().send("a\n");
    program.wait_for_lines(1);
    assert!(size_and_access(&rig).0 <= 4 << 20, "{} bytes", size_and_access(&rig).0);
    assert_eq!(size_and_access(&rig).1, 0);
    program.stop().expect(0);
    // An older release made them readable by all.
    for entry in fs::read_dir(journal(&rig)).expect("a journal") {
        let path = entry.expect("an entry").path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("its owner");
    }
    fs::set_permissions(journal(&rig), fs::Permissions::from_mode(0o755)).expect("its owner");
    let program = rig.wordtide(&run).start();
    program.wait_for("connected to");
    assert_eq!(size_and_access(&rig).1, 0);
    program.stop().expect(0);
}

#[test]
fn line_longer_than_journal_is_counted_exactly() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--interval 100ms --journal-max 5MiB";
    let program = rig.wordtide(&format!("run {} {flags} {STATE}", server.flag())).start();
    let mut peer = server.accept();
    let text: Vec<u8> = repeating(600_000).iter().map(|byte| b" "[0].max(*byte)).collect();
    peer.send(&text);
    peer.send("end\nnext\n");
    program.wait_for_lines(2);
    program.stop().expect(0).says(&["--journal-max", "cut"]);
    let expected = words(&[&text[..], b"end\nnext\n"].concat());
    assert!(rig.output("out/c").counts() == expected);
}

#[test]
fn shorter_segment_is_refused_until_it_is_whole() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} --interval 50ms {STATE}", server.flag());
    let program = rig.wordtide(&run).start();
    let mut peer = server.accept();
    for (line, lines) in [("first\n", 1), ("second\n", 2)] {
        peer.send(line);
        program.wait_for_lines(lines);
    }
    program.signal(Signal::KILL);
    program.end();
    let segment = journal(&rig).join(format!("{:020}.wtj", 0));
    let whole = fs::read(&segment).expect("a segment");
    // A segment keeps its length, so a shorter one is no torn tail.
    fs::write(&segment, &whole[..whole.len() - 1]).expect("room");
    rig.run(&run).expect(74).says(&["the file was truncated", "--abandon-journal"]);
    let checked = rig.run(&format!("journal check {}", journal(&rig).display())).expect(74);
    assert!(String::from_utf8_lossy(&checked.stdout).contains("the file was truncated"));
    // Where the disk has turned the end into zeros, no record states a sync any more.
    let lost = whole.windows(7).position(|bytes| bytes == b"second\n").expect("a record");
    let mut zeros = whole.clone();
    zeros[lost..].fill(0);
    fs::write(&segment, zeros).expect("room");
    rig.run(&run).expect(74).says(&["has lost its end", "was committed", "--abandon-journal"]);
    fs::write(&segment, &whole).expect("room");
    let program = rig.wordtide(&run).start();
    drop(server.accept());
    program.stop().expect(0);
    assert_eq!(rig.output("out/c").counts(), words(b"first\nsecond\n"));
}
