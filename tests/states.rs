//! `wordtide state`: lists states, and removes those that are not needed.

use std::path::PathBuf;
use std::time::Instant;

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

/// Leaves `states/job` with 14 bytes that are not committed, and returns the flags of its run.
fn killed_with_lines(rig: &Rig, server: &Server) -> String {
    let run = format!("run {} {}", server.flag(), RUN.replace("50ms", "1h"));
    let program = rig.wordtide(&run).start();
    let mut peer = server.accept();
    peer.send("not committed\n");
    let began = Instant::now();
    while survey(rig)["uncommitted_bytes"] != 14 {
        assert!(began.elapsed() < DEADLINE, "{}", survey(rig));
    }
    program.signal(Signal::KILL);
    program.end();
    run
}

/// The only folder in `states/job` whose name begins with this.
fn only(rig: &Rig, prefix: &str) -> PathBuf {
    let entries = std::fs::read_dir(rig.path("states/job")).expect("a state");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.retain(|name| name.starts_with(prefix));
    let [name] = &names[..] else { panic!("{prefix}: {names:?}") };
    rig.path("states/job").join(name)
}

/// The list of `states/job` for people.
fn listed(rig: &Rig) -> String {
    String::from_utf8(rig.run("state states/job").expect(0).stdout).expect("text")
}

#[test]
fn uncommitted_lines_keep_a_state() {
    let (rig, server) = (Rig::new(), Server::new());
    killed_with_lines(&rig, &server);
    assert_eq!(survey(&rig)["running"], false);
    let refused = rig.run("state --remove states/job").expect(78);
    refused.says(&["not committed", "14 bytes", "nothing was removed"]);
    assert!(rig.path("states/job/identity.json").exists());
}

#[test]
fn missing_journal_is_named_and_keeps_state() {
    let (rig, server) = (Rig::new(), Server::new());
    killed_with_lines(&rig, &server);
    let note = only(&rig, "known-");
    let id = note.to_string_lossy().rsplit_once("known-").expect("an id").1.to_owned();
    let journal = only(&rig, "journal-");
    std::fs::rename(&journal, rig.path("away")).expect("room");
    let text = listed(&rig);
    assert!(!text.contains("everything is committed"), "{text}");
    let way_out = format!("run with --abandon-journal {id}");
    assert!(["missing", "bring it back", &way_out].iter().all(|it| text.contains(it)), "{text}");
    let source = format!("127.0.0.1:{}", server.port());
    let missing = serde_json::json!([{"id": id, "source": source}]);
    assert_eq!(survey(&rig)["missing_journals"], missing);
    let refused = rig.run("state --remove states/job").expect(78);
    refused.says(&["misses journal", &id, &source, "--abandon-journal", "nothing was removed"]);
    std::fs::rename(rig.path("away"), journal).expect("room");
    assert_eq!(survey(&rig)["missing_journals"], serde_json::json!([]));
    let text = listed(&rig);
    assert!(text.contains("a start commits the rest"), "{text}");
}

#[test]
fn lines_set_aside_keep_a_state() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = killed_with_lines(&rig, &server);
    let note = only(&rig, "known-").to_string_lossy().into_owned();
    let id = note.rsplit_once("known-").expect("an id").1;
    let program = rig.wordtide(&format!("{run} --abandon-journal {id}")).start();
    server.accept().send("later\n");
    program.wait_for("connected to");
    program.stop().expect(0);
    let kept = only(&rig, "kept-1-journal-");
    let text = listed(&rig);
    assert!(text.contains("everything is committed but what is set aside"), "{text}");
    assert!(text.contains("14 bytes that no start commits"), "{text}");
    let name = kept.file_name().expect("a name").to_string_lossy().into_owned();
    let path = format!("states/job/{name}");
    let set_aside = serde_json::json!([{"path": path, "uncommitted_bytes": 14}]);
    assert_eq!(survey(&rig)["set_aside"], set_aside);
    let refused = rig.run("state --remove states/job").expect(78);
    refused.says(&[&name, "14 bytes", "wordtide replay", "by hand", "nothing was removed"]);
    // One that is damaged hides nothing, and may hold lines.
    let segment = kept.join(format!("{:020}.wtj", 0));
    std::fs::write(&segment, "damaged").expect("room");
    assert_eq!(survey(&rig)["set_aside"][0]["uncommitted_bytes"], Value::Null);
    rig.run("state --remove states/job").expect(78).says(&[&name, "cannot be read", "by hand"]);
    std::fs::remove_dir_all(kept).expect("a folder");
    rig.run("state --remove states/job").expect(0);
    assert!(!rig.path("states/job").exists());
}

#[test]
fn committed_journal_set_aside_keeps_no_state() {
    let rig = Rig::new();
    let run = |text: &str| {
        let stdin = std::fs::File::open(rig.file("lines", text)).expect("a file");
        let run = rig.wordtide(&format!("run --stdin --keep-journal {RUN}"));
        run.stdin(stdin).start().end().expect(0);
    };
    run("a\n");
    // The second start puts the journal of the first one aside.
    run("b\n");
    let text = listed(&rig);
    assert!(text.contains("stopped; everything is committed\n"), "{text}");
    assert!(text.contains("nothing uncommitted"), "{text}");
    rig.run("state --remove states/job").expect(0);
    assert!(!rig.path("states/job").exists());
}

/// Makes states of jobs that have finished.
fn finished(rig: &Rig, states: &[&str]) {
    rig.file("lines", "a\n");
    for state in states {
        let to = state.replace('/', "-");
        rig.run(&format!("run --file lines --state {state} --to out/{to}")).expect(0);
    }
}

#[test]
fn bad_states_hide_no_others() {
    let rig = Rig::new();
    finished(&rig, &["s/a", "s/b", "s/c", "s/d", "s/e"]);
    rig.file("s/b/state.json", r#"{"format": 4711, "id": "x"}"#);
    rig.file("s/c/identity.json", "{");
    std::fs::remove_file(rig.path("s/d/identity.json")).expect("a file");
    let paths = |ended: &Ended| -> Vec<String> {
        let paths = surveys(ended).into_iter().map(|found| found["path"].to_string());
        paths.map(|path| path.trim_matches('"').to_owned()).collect()
    };
    let all = "s/a s/b s/c s/d s/none s/e";
    let ended = rig.run(&format!("state --format json {all}")).expect(78);
    assert_eq!(paths(&ended), ["s/a", "s/e"]);
    assert_eq!(ended.stderr.len(), 4, "{ended}");
    let ended = ended.says(&["s/b", "format 4711"]).says(&["s/c/identity.json"]);
    ended.says(&["s/d", "identity.json"]).says(&["s/none"]);
    // The first failure decides the code; a folder that holds states is no other case.
    rig.run("state s/c s/b s/a").expect(74);
    std::fs::rename(rig.path("s/b"), rig.path("b")).expect("room");
    let ended = rig.run("state --format json s").expect(74);
    assert_eq!(paths(&ended), ["s/a", "s/e"]);
    let ended = rig.run(&format!("state --remove {all}")).expect(78);
    let removed = String::from_utf8(ended.stdout.clone()).expect("text");
    assert_eq!(removed, "removed s/a\nremoved s/e\n");
    assert_eq!(ended.stderr.len(), 4, "{ended}");
    let left = ["a", "b", "c", "d", "e"].map(|name| rig.path("s").join(name).exists());
    assert_eq!(left, [false, false, true, true, false]);
}

#[test]
fn link_to_a_state_removes_nothing() {
    let rig = Rig::new();
    finished(&rig, &["states/job"]);
    std::os::unix::fs::symlink("states/job", rig.path("link")).expect("a link");
    let before = rig.tree();
    for link in ["link", "link/", "link/.", "./link"] {
        let refused = rig.run(&format!("state --remove {link}")).expect(78);
        refused.says(&["link is a symbolic link", "nothing was removed", "states/job"]);
    }
    assert_eq!(rig.tree(), before);
    // A folder may be named in any other way.
    rig.run("state --remove states/job/.").expect(0);
    assert!(!rig.path("states/job").exists());
}

#[test]
fn journal_check_of_state_names_the_form() {
    let rig = Rig::new();
    finished(&rig, &["states/job"]);
    let form = "STATE/journal-…";
    for command in ["check", "dump"] {
        let refused = rig.run(&format!("journal {command} states/job")).expect(78);
        refused.says(&["states/job", "holds no journal", form]);
        let help = rig.run(&format!("journal {command} --help")).expect(0).stdout;
        assert!(String::from_utf8_lossy(&help).contains(form));
    }
    // Damage stays damage.
    let journal = only(&rig, "journal-");
    std::fs::write(journal.join(format!("{:020}.wtj", 0)), "damaged").expect("room");
    rig.run(&format!("journal check {}", journal.display())).expect(74).says(&["header"]);
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
