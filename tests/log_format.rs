//! `--log-format json`: every line on standard error is one JSON object.

use serde_json::Value;

use crate::rig::{Ended, Rig};

/// The lines on standard error as objects; fails if one is none.
fn objects(ended: &Ended) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    let objects: Vec<Value> = ended.stderr.iter().map(parse).collect();
    for object in &objects {
        for field in ["ts", "level", "event", "message"] {
            assert!(object[field].is_string(), "{field}: {object}");
        }
        let ts = object["ts"].as_str().unwrap();
        assert!(ts.len() == 24 && ts.ends_with('Z') && &ts[10..11] == "T", "{ts}");
    }
    objects
}

fn of<'a>(objects: &'a [Value], event: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["event"] == event).collect()
}

#[test]
fn committed_epoch_is_an_object_with_figures() {
    let rig = Rig::new();
    rig.file("in.txt", "the tide\nthe sea\n");
    let ended = rig.run("run --file in.txt --to out/c --interval 24h --log-format json").expect(0);
    let objects = objects(&ended);
    let committed = of(&objects, "epoch_committed");
    assert_eq!(committed.len(), 1, "{ended}");
    for (field, figure) in [("lines", 2), ("words", 4), ("distinct", 3), ("process", 0)] {
        assert_eq!(committed[0][field], figure, "{field}");
    }
    assert!(committed[0]["epoch"].is_u64() && committed[0]["level"] == "info");
    assert_eq!(of(&objects, "stopped").len(), 1, "{ended}");
}

#[test]
fn launched_processes_write_objects_without_prefix() {
    let rig = Rig::new();
    rig.file("in.txt", "the tide\n");
    let flags = "--to out/c --interval 24h --log-format json -n 2";
    let ended = rig.run(&format!("run --file in.txt {flags}")).expect(0);
    let objects = objects(&ended);
    assert_eq!(of(&objects, "epoch_committed")[0]["process"], 0, "{ended}");
    assert!(objects.iter().any(|object| object["process"] == 1), "{ended}");
}

#[test]
fn errors_and_warnings_are_objects_too() {
    let rig = Rig::new();
    let ended = rig.run("run --file absent --log-format json").expect(78);
    let objects = objects(&ended);
    let failed = of(&objects, "failed");
    assert_eq!(failed[0]["level"], "error", "{ended}");
    let message = failed[0]["message"].as_str().unwrap();
    assert!(message.contains("absent") && !message.starts_with("wordtide"), "{message}");
}

#[test]
fn text_lines_do_not_show_fields() {
    let rig = Rig::new();
    rig.file("in.txt", "the tide\n");
    let ended = rig.run("run --file in.txt --to out/c --interval 24h").expect(0);
    let line = ended.stderr.iter().find(|line| line.contains("committed")).expect("a line");
    assert!(line.ends_with(" ms") && !line.contains('='), "{line}");
}
