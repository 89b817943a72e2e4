//! The patches of `tests/mutants` apply to the sources of today.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the path of a file of the repository.
fn path_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Returns the faults of a patch: hunks whose old side is not in the file that they change.
fn stale(patch: &str, read: impl Fn(&str) -> String) -> Vec<String> {
    let (mut faults, mut name) = (Vec::new(), "");
    for section in patch.split("\n--- a/").skip(1) {
        let mut hunks = section.split("\n@@ ");
        name = hunks.next().and_then(|head| head.lines().next()).unwrap_or(name);
        let text = read(name);
        for hunk in hunks {
            let old: String = hunk
                .lines()
                .skip(1)
                .take_while(|line| !line.starts_with("diff "))
                .filter(|line| !line.starts_with('+'))
                .map(|line| format!("{}\n", line.get(1..).unwrap_or("")))
                .collect();
            if !text.contains(&old) {
                faults.push(format!("{name} does not have the lines of {hunk}"));
            }
        }
    }
    faults
}

#[test]
fn every_mutant_applies_to_sources() {
    let folder = path_of("tests/mutants");
    let mut patches = 0;
    for entry in fs::read_dir(folder).expect("patches") {
        let path = entry.expect("an entry").path();
        let patch = fs::read_to_string(&path).expect("a patch");
        let read = |name: &str| fs::read_to_string(path_of(name)).unwrap_or_default();
        let faults = stale(&patch, read);
        assert!(faults.is_empty(), "{}: make it anew: {faults:#?}", path.display());
        assert!(patch.contains("\n+"), "{} changes nothing", path.display());
        patches += 1;
    }
    assert!(patches > 0, "no patches");
}

#[test]
fn planted_stale_patch_is_seen() {
    let patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n";
    assert!(stale(patch, |_| "a\nb\n".to_owned()).is_empty());
    assert_eq!(stale(patch, |_| "a\nd\n".to_owned()).len(), 1);
}
