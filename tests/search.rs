//! An index of OpenSearch or Elasticsearch as the output, played by a double.

/// The double of a server.
mod double;

use serde_json::json;

use crate::limits::peak_bytes;
use crate::oracle::{self, Counts};
use crate::rig::{Invocation, Rig, Server};
use double::{SearchDouble, SearchFault};

/// A run whose output is the index `counts` of the double.
fn program(rig: &Rig, double: &SearchDouble, arguments: &str) -> Invocation {
    let to = format!("--to opensearch://{}/counts", double.address);
    rig.wordtide(&format!("{arguments} {to}"))
        .env("OPENSEARCH_USERNAME", "admin")
        .env("OPENSEARCH_PASSWORD", "secret")
}

/// The counts of all rows whose epoch has a marker.
fn counts(double: &SearchDouble) -> Counts {
    let (rows, epochs) = (double.index("counts").visible, double.index("counts-epochs").visible);
    let mut counts = Counts::new();
    for row in rows.values() {
        let marker = &epochs[&row["epoch"].to_string()];
        assert_eq!(marker["output"], "counts");
        let word = row["word"].as_str().expect("a word").as_bytes().to_vec();
        *counts.entry(word).or_default() += row["count"].as_u64().expect("a count");
    }
    for marker in epochs.values() {
        let of_epoch = rows.values().filter(|row| row["epoch"] == marker["epoch"]).count() as u64;
        assert_eq!(marker["rows"], of_epoch, "{marker}");
    }
    counts
}

#[test]
fn epochs_become_documents_and_markers() {
    let (rig, double) = (Rig::new(), SearchDouble::start());
    let text = b"a A \"a\" \xe2\x82\xac \xff a\n";
    rig.file("in.txt", text);
    for runs in 1..=2 {
        let run = format!("run --file in.txt --interval 24h --parts 2 -w {runs} --state s{runs}");
        program(&rig, &double, &run).start().end().expect(0);
        assert_eq!(double.index("counts-epochs").visible.len(), runs);
    }
    let mut expected = oracle::count(text, oracle::words_python);
    expected.values_mut().for_each(|count| *count *= 2);
    assert_eq!(counts(&double), expected);
    let fields = &double.index("counts").made_by["mappings"]["properties"];
    assert_eq!(fields["word"], json!({"type": "keyword", "ignore_above": 8191}));
    assert_eq!([&fields["epoch"]["type"], &fields["count"]["type"]], ["long", "long"]);
    assert_eq!(fields["@timestamp"]["type"], "date");
}

#[test]
fn faults_of_the_server_double_nothing() {
    for fault in [SearchFault::Items(429), SearchFault::Status(503), SearchFault::AnswerLost] {
        let (rig, double, server) = (Rig::new(), SearchDouble::start(), Server::new());
        let flags = "--interval 100ms --empty-epochs skip --once --no-state -w 2";
        let job = program(&rig, &double, &format!("run {} {flags}", server.flag())).start();
        let mut peer = server.accept();
        let mut requests = 0;
        double.script(move |_, _| {
            requests += 1;
            (requests % 3 == 0).then_some(fault)
        });
        let mut sent = String::new();
        for round in 0..3 {
            let lines: String = (0..100).map(|n| format!("a{round} b{n} c\n")).collect();
            peer.send(&lines);
            sent += &lines;
            job.wait_for_lines(100 * (round + 1));
        }
        peer.fin();
        let ended = job.end().expect(0);
        let expected = oracle::count(sent.as_bytes(), oracle::words_python);
        assert_eq!(counts(&double), expected, "{fault:?}\n{ended}");
    }
}

#[test]
fn killed_job_clears_what_has_no_marker() {
    let (rig, double) = (Rig::new(), SearchDouble::start());
    rig.file("in.txt", "a b a\n");
    let run = "run --file in.txt --interval 24h --parts 1 --state state";
    let dies = program(&rig, &double, run).env("WORDTIDE_CRASH_POINT", "output.before_marker:1");
    dies.start().end();
    assert_eq!(double.index("counts").documents.len(), 2);
    assert!(double.index("counts-epochs").documents.is_empty());
    program(&rig, &double, run).start().end().expect(0);
    assert_eq!(counts(&double), oracle::count(b"a b a", oracle::words_python));
}

#[test]
fn upsert_keeps_one_document_a_word() {
    let (rig, double) = (Rig::new(), SearchDouble::start());
    let long = "x".repeat(600);
    let mut requests = 0;
    double.script(move |_, path| {
        requests += 1;
        let is_bulk = path.ends_with("_bulk");
        match requests % 3 {
            0 if is_bulk => Some(SearchFault::Items(429)),
            1 if is_bulk => Some(SearchFault::AnswerLost),
            _ => None,
        }
    });
    let mut epochs = Vec::new();
    for (number, text) in [format!("a  b {long}\n"), format!("b c b {long}\n")].iter().enumerate() {
        rig.file("in.txt", text);
        let run = format!("run --file in.txt --interval 24h --parts 2 --state s{number}");
        if number > 0 {
            // It would delete what another job has committed.
            let refused = program(&rig, &double, &format!("{run} --write upsert")).start().end();
            refused.expect(78).says(&["another job's", "--take-over"]);
        }
        let run = format!("{run} --write upsert --take-over");
        program(&rig, &double, &run).start().end().expect(0);
        let rows = double.index("counts").visible;
        let mut found = Counts::new();
        for row in rows.values() {
            let word = row["word"].as_str().expect("a word").as_bytes().to_vec();
            found.insert(word, row["count"].as_u64().expect("a count"));
        }
        assert_eq!(found, oracle::count(text.as_bytes(), oracle::words_python));
        epochs.push(rows["b"]["epoch"].clone());
        assert!(rows.values().all(|row| row["epoch"] == epochs[number]));
    }
    assert_ne!(epochs[0], epochs[1]);
    assert_eq!(double.index("counts-epochs").visible.len(), 2);
    let ended = program(&rig, &double, "run --file in.txt --no-state").start().end();
    ended.expect(78).says(&["--write upsert", "--to"]);
}

#[test]
fn server_that_refuses_ends_the_start() {
    let (rig, double) = (Rig::new(), SearchDouble::start());
    rig.file("in.txt", "a\n");
    let run = "run --file in.txt --no-state";
    let wrong = program(&rig, &double, run).env("OPENSEARCH_PASSWORD", "wrong");
    wrong.start().end().expect(78).says(&["401", "environment"]);
    double.make("counts", json!({"word": {"type": "text"}}));
    let ended = program(&rig, &double, run).start().end();
    ended.expect(78).says(&["counts", "\"word\"", "text", "--to"]);
    assert!(double.index("counts").documents.is_empty());
    let ended = program(&rig, &double, "check").start().end();
    ended.expect(78).says(&["\"word\"", "--to"]);
    for (to, flags, code, said) in [
        ("opensearch://127.0.0.1:1/Counts", "", 78, "upper-case"),
        ("opensearch://me:secret@127.0.0.1:1/counts", "", 2, "OPENSEARCH_PASSWORD"),
        ("opensearch://127.0.0.1:1/counts", "--compress gzip", 2, "--compress"),
        ("elasticsearch://127.0.0.1:1/counts", "--layout hive", 2, "--layout"),
    ] {
        rig.run(&format!("{run} --to {to} {flags}")).expect(code).says(&[said, "--to"]);
    }
}

#[test]
fn second_job_on_an_index_is_refused() {
    let (rig, double, server) = (Rig::new(), SearchDouble::start(), Server::new());
    let run = format!("run {} --interval 50ms --no-state", server.flag());
    let first = program(&rig, &double, &run).start();
    let mut peer = server.accept();
    peer.send("mine\n");
    first.wait_for_lines(1);
    let owner = format!("process {} on", first.pid());
    rig.file("in.txt", "theirs\n");
    let second = program(&rig, &double, "run --file in.txt --no-state").start().end();
    second.expect(78).says(&[&owner, "--to"]);
    first.stop().expect(0);
    assert_eq!(counts(&double), oracle::count(b"mine", oracle::words_python));
}

#[test]
fn requests_of_a_part_overlap_in_little_memory() {
    const WORDS: usize = 4 * 8192;
    let (rig, double, server) = (Rig::new(), SearchDouble::start(), Server::new());
    let flags = "--interval 1s --empty-epochs skip --no-state --parts 1";
    let job = program(&rig, &double, &format!("run {} {flags}", server.flag())).start();
    let mut peer = server.accept();
    peer.send("a\n");
    job.wait_for_lines(1);
    let before = peak_bytes(&job);
    double.answer_bulks_together(4);
    let words: Vec<String> = (0..WORDS).map(|word| format!("word-{word:06}")).collect();
    let lines: Vec<String> = words.chunks(64).map(|words| words.join(" ") + "\n").collect();
    peer.send(lines.concat());
    job.wait_for_lines(1 + lines.len() as u64);
    let grown = peak_bytes(&job).saturating_sub(before) >> 10;
    // The requests have 6 MiB together, and the answers in JSON 1 MiB.
    assert!(grown < 22 << 10, "{grown} KiB more for {WORDS} rows");
    job.stop().expect(0);
    assert_eq!(counts(&double).len(), 1 + WORDS);
}
