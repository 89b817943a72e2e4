//! `wordtide state`: lists states, and removes those that are not needed.

use rustix::process::Signal;
use serde_json::Value;

use crate::rig::{DEADLINE, Ended, Rig, Server};

const RUN: &str = "--interval 50ms --state states/job --to out/c";

/// The objects that `wordtide state --format json` prints, one a line.
fn surveys(ended: &Ended) -> Vec<Value> {
    let text = String::from_utf8(ended.stdout.clone()).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn survey(rig: &Rig) -> Value {
    let mut found = surveys(&rig.run("state --format json states").expect(0));
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn running_state_is_listed_and_not_removed() {
    let (rig, server) = (Rig::new(), Server::new());
    let program = rig.wordtide(&format!("run {} {RUN}", server.flag())).start();
    server.accept().send("a b\n");
    program.wait_for_lines(1);
    let found = survey(&rig);
    assert_eq!((&found["running"], &found["pid"]), (&true.into(), &program.pid().into()));
    assert_eq!(
        (&found["dataflow"], &found["path"]),
        (&"network_wordcount".into(), &"states/job".into())
    );
    assert_eq!(found["output"], "out/c");
    assert!(found["last_committed"].is_u64() && found["format"].is_u64(), "{found}");
    let pid = program.pid().to_string();
    rig.run("state --remove states/job").expect(78).says(&["in use", &pid, "nothing was removed"]);
    program.stop().expect(0);
    let newest = *rig.output("out/c").epochs.keys().last().expect("an epoch");
    let found = survey(&rig);
    assert_eq!((&found["running"], &found["pid"]), (&false.into(), &Value::Null));
    assert_eq!((&found["uncommitted_bytes"], &found["epochs_in_flight"]), (&0.into(), &0.into()));
    assert!(found["last_committed"].as_u64() >= Some(newest), "{found}");
    let text = String::from_utf8(rig.run("state states/job").expect(0).stdout).expect("text");
    assert!(text.contains("everything is committed"), "{text}");
    rig.run("state --remove states/job").expect(0);
    assert!(!rig.path("states/job").exists());
}

#[test]
fn uncommitted_lines_keep_a_state() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = format!("run {} {}", server.flag(), RUN.replace("50ms", "1h"));
    let program = rig.wordtide(&run).start();
    let mut peer = server.accept();
    peer.send("not committed\n");
    let began = std::time::Instant::now();
    while survey(&rig)["uncommitted_bytes"] != 14 {
        assert!(began.elapsed() < DEADLINE, "{}", survey(&rig));
    }
    program.signal(Signal::KILL);
    program.end();
    assert_eq!(survey(&rig)["running"], false);
    let refused = rig.run("state --remove states/job").expect(78);
    refused.says(&["not committed", "14 bytes", "nothing was removed"]);
    assert!(rig.path("states/job/identity.json").exists());
}

#[test]
fn removal_spares_what_no_job_has_made() {
    let rig = Rig::new();
    rig.file("lines", "a\n");
    rig.run(&format!("run --file lines {RUN}")).expect(0);
    rig.file("states/job/notes.txt", "mine");
    rig.run("state --remove states/job").expect(78).says(&["notes.txt"]);
    assert!(rig.path("states/job/notes.txt").exists());
    std::fs::remove_file(rig.path("states/job/notes.txt")).expect("a file");
    for mine in [".env", "commits-2025.txt", "lock.txt"] {
        let path = rig.file(&format!("states/job/{mine}"), "mine");
        rig.run("state --remove states/job").expect(78).says(&[mine]);
        std::fs::remove_file(path).expect("it was spared");
    }
    for nothing in ["state --remove states", "state nowhere", "state --format json nowhere"] {
        rig.run(nothing).expect(78);
    }
    rig.run("state --remove").expect(2).says(&["--remove DIR"]);
}
