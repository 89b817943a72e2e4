//! Continues the states of earlier releases: `tests/data/state-<version>`.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::oracle::{self, Counts};
use crate::rig::Rig;

const TOTALS: &str =
    "run running_totals --stdin --interval 1s --state state --format tsv --to out/c";
const FILE: &str = "run --file lines --interval 10ms --state state --format tsv --to out/c";

/// The folder of the states of a version.
fn recorded(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("state-{version}"))
}

/// Copies what a run of `version` left in its working directory into a rig. Trailing zeros, which
/// the repository does not hold, are appended again.
fn left_by(version: &str, job: &str) -> Rig {
    let (rig, from) = (Rig::new(), recorded(version));
    copy(&from.join(job), &rig.path(""));
    for line in fs::read_to_string(from.join("LENGTHS")).expect("lengths").lines() {
        let (bytes, name) = line.split_once(' ').expect("a length and a name");
        let Some(name) = name.strip_prefix(job).and_then(|name| name.strip_prefix('/')) else {
            continue;
        };
        let file = File::options().write(true).open(rig.path(name)).expect("a recorded file");
        file.set_len(bytes.parse().expect("a length")).expect("room");
    }
    rig
}

/// Copies a folder with all below it. Files are readable by their owner only, as in a state.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("room");
    for entry in fs::read_dir(from).expect("a recorded folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(&target, fs::read(entry.path()).expect("a recorded file")).expect("room");
            fs::set_permissions(&target, Permissions::from_mode(0o600)).expect("own file");
        }
    }
}

/// The lines that `file` had read in part.
fn lines() -> Vec<u8> {
    (0..1_200_000).flat_map(|i| format!("{:011} {:03}\n", i % 997, i % 89).into_bytes()).collect()
}

fn counts(of: &[(&str, u64)]) -> Counts {
    of.iter().map(|(word, count)| (word.as_bytes().into(), *count)).collect()
}

#[test]
fn totals_of_first_version_continue() {
    for workers in ["-w 1", "-w 3", "-n 2"] {
        let rig = left_by("0.1.0", "totals");
        let before = rig.output("out/c");
        assert_eq!(before.epochs.len(), 3);
        rig.run(&format!("{TOTALS} {workers}")).expect(0);
        let after = rig.output("out/c");
        for (epoch, old) in &before.epochs {
            assert_eq!(after.epochs[epoch].parts, old.parts, "a committed epoch changed");
        }
        let expected = counts(&[
            ("the", 4),
            ("tide", 2),
            ("comes", 1),
            ("goes", 1),
            ("a", 2),
            ("wave", 3),
            ("and", 1),
            ("not", 1),
            ("committed", 1),
            ("yet", 1),
            ("open", 1),
            ("li", 1),
        ]);
        assert_eq!(after.newest().counts(), expected, "{workers}");
    }
}

#[test]
fn file_of_first_version_is_continued() {
    let rig = left_by("0.1.0", "file");
    let text = lines();
    rig.file("lines", &text);
    rig.run(&format!("{FILE} -w 2")).expect(0);
    let output = rig.output("out/c");
    assert!(output.uncommitted.is_empty(), "{:?}", output.uncommitted);
    assert!(output.counts() == oracle::count(&text, oracle::words_python), "not once each");
}

#[test]
fn open_line_of_first_version_is_continued() {
    let rig = left_by("0.1.0", "open-line");
    let before = rig.output("out/c").counts();
    let run = "run --stdin --interval 100ms --state state --format tsv --to out/c";
    rig.run(&format!("{run} --empty-epochs skip")).expect(0);
    let after = rig.output("out/c").counts();
    let expected = counts(&[
        ("whole", 1),
        ("line", 1),
        ("half", 1),
        ("of", 1),
        ("it", 1),
        ("and", 1),
        ("next", 1),
    ]);
    assert_eq!((before.len(), after), (6, expected));
}

/// Changes the number of a format in a file of JSON.
fn set_format(path: &Path, number: u32) {
    let text = fs::read_to_string(path).expect("a file");
    let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(value["format"].is_u64(), "{text}");
    value["format"] = number.into();
    fs::write(path, value.to_string()).expect("room");
}

#[test]
fn later_formats_are_refused_by_number() {
    let rig = left_by("0.1.0", "totals");
    set_format(&rig.path("state/state.json"), 4711);
    rig.file("state/identity.json", "{\"unknown\": 1}");
    rig.run(TOTALS).expect(78).says(&["format 4711", "--state"]);
    rig.run("state state").expect(78).says(&["format 4711"]);
    rig.run("state --remove state").expect(78).says(&["format 4711"]);
    let rig = left_by("0.1.0", "totals");
    let newest = *rig.output("out/c").epochs.keys().last().expect("an epoch");
    let before = rig.tree();
    set_format(&rig.path(format!("out/c-{newest}/_SUCCESS")), 4711);
    rig.run(TOTALS).expect(78).says(&["format 4711", "--to"]);
    let others = |names: Vec<String>| {
        names.into_iter().filter(|name| name.starts_with("out/c-")).collect::<Vec<_>>()
    };
    assert_eq!(others(rig.tree()), others(before), "something was published");
}

#[test]
fn opened_state_is_of_current_format() {
    let rig = left_by("0.1.0", "totals");
    rig.run(TOTALS).expect(0);
    let state = fs::read_to_string(rig.path("state/state.json")).expect("ids");
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    // Releases that know earlier formats only must not read what this one has written.
    assert_eq!(state["format"], 4);
}
