//! The output of a run: its names, parts and markers. Committed objects never change.

use std::collections::BTreeMap;
use std::fs;

use crate::oracle;
use crate::rig::{Output, Rig, Server};

const TEXT: &str = "the tide comes in\n\nthe tide goes out\n";

/// Counts `TEXT` once more.
fn run(rig: &Rig, flags: &str) {
    rig.file("in.txt", TEXT);
    rig.run(&format!("run --file in.txt --no-state {flags}")).expect(0);
}

fn sorted(text: &[&str]) -> Vec<String> {
    let mut rows: Vec<String> = text.iter().map(|row| (*row).to_owned()).collect();
    rows.sort();
    rows
}

#[test]
fn restart_within_interval_opens_next_name() {
    let rig = Rig::new();
    let mut seen: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for runs in 1..=4 {
        run(&rig, "--interval 24h --to out/c");
        let output = rig.output("out/c");
        assert_eq!(output.epochs.len(), runs, "each run has an epoch of its own");
        for (epoch, parts) in &seen {
            assert_eq!(output.epochs[epoch].parts, *parts, "an epoch that was committed changed");
        }
        seen = output.epochs.into_iter().map(|(epoch, read)| (epoch, read.parts)).collect();
    }
    let names: Vec<u64> = seen.into_keys().collect();
    let steps: Vec<u64> = names.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(steps, [24 * 3_600_000; 3], "the names follow each other");
}

#[test]
fn leftovers_of_dead_run_are_not_mixed_in() {
    let rig = Rig::new();
    run(&rig, "--interval 24h --to out/c");
    let first = *rig.output("out/c").epochs.keys().next().expect("an epoch");
    let dead = first + 24 * 3_600_000;
    fs::create_dir(rig.path(format!("out/c-{dead}"))).expect("a new directory");
    rig.file(&format!("out/c-{dead}/part-00000"), "('stale', 1)\n");
    rig.file(&format!("out/c-{dead}/part-00007"), "('stale', 1)\n");
    run(&rig, "--interval 24h --to out/c");
    let output = rig.output("out/c");
    assert_eq!(output.epochs.len(), 2, "{:?}", output.epochs.keys());
    for epoch in output.epochs.values() {
        assert!(!epoch.rows().iter().any(|row| row.contains("stale")), "{:?}", epoch.rows());
    }
}

#[test]
fn empty_epochs_follow_their_flag() {
    for (what, epochs, parts) in [("marker", 1, 0), ("skip", 0, 0), ("write", 1, 3)] {
        let rig = Rig::new();
        let flags = "--parts 3 --interval 24h --no-state --to out/c";
        let ended = rig.run(&format!("run --stdin {flags} --empty-epochs {what}")).expect(0);
        assert_eq!(ended.committed_epochs(), 1, "{ended}");
        let output = rig.output("out/c");
        assert_eq!(output.epochs.len(), epochs, "{what}");
        assert!(output.uncommitted.is_empty(), "{what}: a directory without a marker");
        for epoch in output.epochs.values() {
            assert_eq!(epoch.parts, vec![Vec::<u8>::new(); parts], "{what}");
        }
    }
}

#[test]
fn epoch_with_rows_has_all_parts() {
    let rig = Rig::new();
    rig.file("in.txt", "one\n");
    rig.run("run --file in.txt --parts 5 --interval 24h --no-state --to out/c").expect(0);
    let output = rig.output("out/c");
    assert_eq!(output.only().parts.len(), 5);
    assert_eq!(output.only().rows(), ["('one', 1)"]);
}

#[test]
fn same_bytes_with_any_number_of_workers() {
    let mut seed = 7;
    let text: String = (0..20_000)
        .map(|n| format!("{}{}", crate::rig::random(&mut seed) % 5_000, [" ", "\n"][n % 2]))
        .collect();
    for flags in ["--parts 1", "--parts 3", "--parts 8 --sort word", "--parts 2 --format jsonl"] {
        let parts_with = |threads: usize| {
            let rig = Rig::new();
            rig.file("in.txt", &text);
            let flags = format!("{flags} -w {threads} --interval 24h --no-state --to out/c");
            rig.run(&format!("run --file in.txt {flags}")).expect(0);
            rig.output("out/c").only().parts.clone()
        };
        let one = parts_with(1);
        assert!(one.iter().all(|part| !part.is_empty()), "{flags}: every part has words");
        for threads in [2, 4] {
            assert!(parts_with(threads) == one, "{flags}: other bytes with -w {threads}");
        }
    }
}

#[test]
fn rows_sorted_by_word_are_in_byte_order() {
    let rig = Rig::new();
    rig.file("in.txt", "b a Z z é 10 9 \u{1f30a} ~ a b");
    let flags = "--sort word --format tsv --interval 24h --no-state --to out/c";
    rig.run(&format!("run --file in.txt {flags}")).expect(0);
    let rows = rig.output("out/c").only().rows();
    let expected =
        ["10\t1", "9\t1", "Z\t1", "a\t2", "b\t2", "z\t1", "~\t1", "é\t1", "\u{1f30a}\t1"];
    assert_eq!(rows, expected);
}

#[test]
fn directories_are_named_as_spark_names_them() {
    let expected = sorted(&[
        "('', 1)",
        "('comes', 1)",
        "('goes', 1)",
        "('in', 1)",
        "('out', 1)",
        "('the', 2)",
        "('tide', 2)",
    ]);
    for (to, suffix) in [
        ("out/StreamingTest/", Some("txt")),
        ("out/counts", Some("txt")),
        ("out/counts", None),
        ("out/counts", Some(".txt")),
        ("counts", Some("txt")),
        ("out/counts", Some("")),
        ("deep/er/and/deeper/", None),
    ] {
        let rig = Rig::new();
        rig.file("in.txt", TEXT);
        let mut invocation =
            rig.wordtide(&format!("run --file in.txt --interval 24h --no-state --to {to}"));
        if let Some(suffix) = suffix {
            invocation = invocation.arg("--suffix").arg(suffix);
        }
        invocation.start().end().expect(0);
        let output = Output::read(&rig.path(""), to, suffix);
        assert_eq!(output.rows(), expected, "--to {to} --suffix {suffix:?}: {:?}", rig.tree());
        assert_eq!(output.epochs.keys().next().map(|epoch| epoch % 3_600_000), Some(0));
    }
}

#[test]
fn the_marker_says_what_the_epoch_holds() {
    let rig = Rig::new();
    run(&rig, "--interval 24h --to out/c");
    let output = rig.output("out/c");
    let marker = &output.only().marker;
    let figures = ["lines", "words", "rows"].map(|figure| marker[figure].as_u64());
    assert_eq!(figures, [Some(3), Some(9), Some(7)], "{marker}");
    assert!(marker["job"].as_str().is_some_and(|job| !job.is_empty()), "{marker}");
}

#[test]
fn number_of_parts_survives_restarts() {
    let rig = Rig::new();
    rig.file("in.txt", TEXT);
    for threads in [2, 1, 4] {
        let flags = format!("-w {threads} --interval 24h --to out/c");
        rig.run(&format!("run --file in.txt {flags}")).expect(0);
    }
    let output = rig.output("out/c");
    let parts: Vec<usize> = output.epochs.values().map(|epoch| epoch.parts.len()).collect();
    assert_eq!(parts, [2, 2, 2]);
}

#[test]
fn words_are_split_and_lowered_as_asked() {
    for (flags, expected) in [
        ("--split whitespace", &["('A', 1)", "('a', 1)", "('b!', 1)"][..]),
        ("--split unicode-words --lowercase", &["('a', 2)", "('b', 1)"]),
        ("--lowercase", &["('', 1)", "('a\\ta', 1)", "('b!', 1)"]),
    ] {
        let rig = Rig::new();
        rig.file("in.txt", "A\ta  b!\n");
        let flags = format!("{flags} --interval 24h --no-state --to out/c");
        rig.run(&format!("run --file in.txt {flags}")).expect(0);
        assert_eq!(rig.output("out/c").rows(), sorted(expected), "{flags}");
    }
}

#[test]
fn totals_of_short_epochs_equal_whole_text() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--interval 10ms -w 2 --format tsv --once --no-state --to out/c";
    let program = rig.wordtide(&format!("run {} {flags}", server.flag())).start();
    let mut peer = server.accept();
    let mut sent = String::new();
    for n in 0..300 {
        let text = format!("word{} again and again {n}\nline", n % 7);
        peer.send(&text);
        sent.push_str(&text);
        if n % 50 == 0 {
            // Wherever the epochs' borders fall, they must fall into the stream.
            program.wait_for_lines(n + 1);
        }
    }
    peer.fin();
    let ended = program.end().expect(0);
    let output = rig.output("out/c");
    assert!(output.epochs.len() >= 6, "{ended}");
    assert_eq!(output.counts(), oracle::count(sent.as_bytes(), oracle::words_python));
    assert_eq!(output.total("lines"), 301);
}
