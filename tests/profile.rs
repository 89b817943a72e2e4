//! `--events` and `wordtide profile`: where the time of a run goes.

use std::fs;

use crate::rig::Rig;

/// A text with so many words that counting them takes time.
fn text() -> String {
    (0..20_000).map(|n| format!("word{} tide sea\n", n % 997)).collect()
}

#[test]
fn profile_names_operators_of_all_workers() {
    let rig = Rig::new();
    rig.file("in.txt", text());
    rig.run("run --file in.txt --to out/c --interval 24h -w 2 --events events.jsonl").expect(0);
    let first = fs::read_to_string(rig.path("events.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert!(
        line["t_us"].is_u64() && line["worker"].is_u64() && line["event"].is_string(),
        "{line}"
    );

    let table = rig.run("profile events.jsonl").expect(0).stdout;
    let table = String::from_utf8(table).unwrap();
    for operator in ["wordtide/Count words", "wordtide/Write parts", "wordtide/Commit"] {
        assert!(table.lines().any(|line| line.ends_with(operator)), "{operator}: {table}");
    }
    let folded = rig.run("profile --format folded events.jsonl").expect(0).stdout;
    let folded = String::from_utf8(folded).unwrap();
    for worker in ["worker_0;wordtide;", "worker_1;wordtide;"] {
        assert!(folded.contains(worker), "{folded}");
    }
    let is_folded =
        |line: &str| line.rsplit_once(' ').is_some_and(|(_, us)| us.parse::<u64>().is_ok());
    assert!(folded.lines().all(is_folded), "{folded}");
}

#[test]
fn each_process_writes_its_own_events() {
    let rig = Rig::new();
    rig.file("in.txt", text());
    rig.run("run --file in.txt --to out/c --interval 24h -n 2 --events events.jsonl").expect(0);
    let table = rig.run("profile events.jsonl events.jsonl.1").expect(0).stdout;
    let table = String::from_utf8(table).unwrap();
    let commit = table.lines().find(|line| line.ends_with("wordtide/Commit")).expect("a line");
    let seconds = commit.split_whitespace().filter(|word| word.contains('.')).count();
    assert_eq!(seconds, 4, "busy, share and one figure a worker: {commit}");
}

#[test]
fn unusable_event_files_are_refused() {
    let rig = Rig::new();
    rig.file("in.txt", "a\n");
    rig.file("bad.jsonl", "no event\n");
    let flags = "--to out/c --events none/events.jsonl";
    rig.run(&format!("run --file in.txt {flags}")).expect(78).says(&["--events", "none/events"]);
    assert_eq!(rig.tree(), ["bad.jsonl", "in.txt"], "nothing was written before");
    rig.run("profile bad.jsonl").expect(78).says(&["bad.jsonl", "line 1", "--events"]);
    rig.run("profile absent.jsonl").expect(78).says(&["absent.jsonl"]);
    rig.run("profile").expect(2);
}

#[test]
fn file_that_holds_no_events_is_kept() {
    let rig = Rig::new();
    rig.file("in.txt", "a b\n");
    let run = "run --file in.txt --to out/c --interval 24h --events";
    rig.run(&format!("{run} in.txt")).expect(78).says(&["--events", "in.txt", "something else"]);
    assert_eq!(fs::read_to_string(rig.path("in.txt")).unwrap(), "a b\n");
    // That of an earlier run is replaced.
    for _ in 0..2 {
        rig.run(&format!("{run} events.jsonl")).expect(0);
    }
}
