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
