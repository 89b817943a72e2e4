use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::{Addresses, all_done, start};
use crate::oracle;
use crate::rig::{Rig, Server, random, side_by_side};

/// Epochs too long to end by themselves.
pub(super) const ONE_EPOCH: &str = "--interval 24h --format tsv --no-state --to out/c";

/// Text of all sorts: frequent and rare words, empty ones, long lines, bytes that are no text.
pub(super) fn text() -> Vec<u8> {
    let mut state = 7;
    let mut text = Vec::new();
    for line in 0..3_000 {
        for _ in 0..random(&mut state) % 12 {
            let bits = random(&mut state);
            let word = (bits >> 32) % (1 << (bits % 12));
            write!(text, "{word} ").expect("memory");
        }
        text.extend_from_slice([b"\n".as_slice(), b"\r\n", b"\xff\xc3\n", b"  x\n"][line % 4]);
    }
    text.extend_from_slice(&b"long ".repeat(100_000));
    text
}

/// The parts of the only epoch, and its marker without the epoch's name and whose run wrote it.
pub(super) fn objects(rig: &Rig) -> (Vec<Vec<u8>>, Value) {
    let output = rig.output("out/c");
    let epoch = output.only();
    let mut marker = epoch.marker.clone();
    for of_the_run in ["epoch", "state", "started"] {
        marker[of_the_run] = Value::Null;
    }
    (epoch.parts.clone(), marker)
}

/// Runs the program in one of its shapes over the file `input`.
fn run_shape(rig: &Rig, shape: &str, arguments: &str) {
    match *shape.split_whitespace().collect::<Vec<_>>() {
        ["-w", _] => {
            rig.run(&format!("{arguments} {shape}")).expect(0);
        }
        ["launcher", ..] => {
            rig.run(&format!("{arguments} {}", shape.trim_start_matches("launcher"))).expect(0);
        }
        ["-n", n, "-w", _] => {
            let processes = n.parse().expect("a number");
            all_done(start(rig, processes, &format!("{arguments} {}", &shape[4..])));
        }
        ["hostfile", "-n", n, ..] => {
            let processes: usize = n.parse().expect("a number");
            let addresses = Addresses::new(processes);
            let lines: Vec<_> = (0..processes).map(|p| addresses.of(p).to_owned()).collect();
            rig.file("hosts.txt", format!("# all on loopback\n{}\n", lines.join("\n")));
            let each = (0..processes)
                .map(|p| rig.wordtide(&format!("{arguments} -n {n} -p {p} -h hosts.txt")).start());
            all_done(each.collect());
        }
        _ => panic!("no shape: {shape}"),
    }
}

#[test]
fn same_bytes_for_any_threads_and_processes() {
    let input = text();
    let reference = Rig::new();
    reference.file("input", &input);
    let arguments = format!("run --file input --parts 5 {ONE_EPOCH}");
    run_shape(&reference, "-w 1", &arguments);
    let expected = objects(&reference);
    let counts = reference.output("out/c").counts();
    assert_eq!(counts, oracle::count(&input, oracle::words_python));
    let shapes = ["-w 2", "-w 4", "-n 2 -w 1", "-n 3 -w 2", "hostfile -n 2", "launcher -n 2 -w 2"];
    side_by_side(shapes.to_vec(), |shape| {
        let rig = Rig::new();
        rig.file("input", &input);
        run_shape(&rig, shape, &arguments);
        assert!(objects(&rig) == expected, "{shape} writes other bytes than -w 1");
    });
}

#[test]
fn words_above_one_message_reach_owners() {
    // Each process owns 50,000 of them: several pieces of a run.
    let input: Vec<u8> = (0..100_000).flat_map(|n| format!("{n:020}\n").into_bytes()).collect();
    let rig = Rig::new();
    rig.file("input", &input);
    all_done(start(&rig, 2, &format!("run --file input --parts 2 {ONE_EPOCH}")));
    let output = rig.output("out/c");
    assert!(output.only().parts.iter().all(|part| part.len() > 1 << 20));
    assert_eq!(output.counts(), oracle::count(&input, oracle::words_python));
}

#[test]
fn rare_words_cross_processes_without_loss() {
    // Enough of them to outgrow the table at which words are listed; in a socket's bytes, so that
    // one process has all of the text and the other takes part.
    let lines = (0..1_600_000u64).map(|n| format!("w{:07} x\n", n * 7_919 % 800_000));
    let input: Vec<u8> = lines.flat_map(String::into_bytes).collect();
    let rig = Rig::new();
    let server = Server::new();
    let run = format!("run {} --once --parts 2 {ONE_EPOCH}", server.flag());
    let processes = start(&rig, 2, &run);
    let mut peer = server.accept();
    peer.send(&input);
    peer.fin();
    all_done(processes);
    assert!(rig.output("out/c").counts() == oracle::count(&input, oracle::words_python));
}

#[test]
fn shared_key_is_used_and_never_shown() {
    let rig = Rig::new();
    rig.file("input", "a b\n");
    let secret = "correct-horse-battery-staple";
    let key = rig.file("mesh.key", secret);
    std::fs::set_permissions(key, PermissionsExt::from_mode(0o600)).expect("our file");
    let arguments = format!("run -vv --file input {ONE_EPOCH} --mesh-key-file mesh.key");
    for ended in all_done(start(&rig, 2, &arguments)) {
        assert!(!ended.stderr.iter().any(|line| line.contains(secret)), "{ended}");
    }
    assert_eq!(rig.output("out/c").rows(), ["a\t1", "b\t1"]);
}

#[test]
fn limit_of_totals_may_differ_between_processes() {
    let rig = Rig::new();
    rig.file("in.txt", "a b a\nc\n");
    let addresses = Addresses::new(2);
    let run = format!("run running_totals --file in.txt {ONE_EPOCH}");
    let start = |process, limit| {
        rig.wordtide(&format!("{run} {} {limit}", addresses.flags(process))).start()
    };
    all_done(vec![start(0, "--max-keys 5"), start(1, "")]);
    assert_eq!(rig.output("out/c").counts().values().sum::<u64>(), 4);
}
