//! Documents name files and modules that exist.

use std::fs;
use std::path::Path;

/// The documents for contributors, which name files.
const DOCUMENTS: &[&str] = &["ARCHITECTURE.md", "CONTRIBUTING.md"];

/// Returns the paths in backquotes that begin with one of the repository's folders of code.
fn paths_in(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let begins = ["src/", "tests/", "dataflows/", "scripts/", ".ci/"];
    let is_path = |quoted: &&str| begins.iter().any(|begin| quoted.starts_with(begin));
    quoted.filter(is_path).filter(|quoted| !quoted.contains([' ', '<', '*'])).collect()
}

/// Returns the modules in backquotes: `a::b`, of which the first is a module of the crate.
fn modules_in(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':';
    quoted.filter(|quoted| quoted.contains("::") && quoted.chars().all(is_name)).collect()
}

/// Returns the file or folder that a module of the crate can be in.
fn module_exists(root: &Path, module: &str) -> bool {
    let path = root.join("src").join(module.replace("::", "/"));
    path.is_dir() || path.with_extension("rs").is_file()
}

/// Returns what a document names that is not there. The definition that one adds is none yet.
fn faults_of(root: &Path, name: &str, text: &str) -> Vec<String> {
    let files = paths_in(text).into_iter().filter(|path| !path.contains("NAME"));
    let files = files.filter(|path| !root.join(path.trim_end_matches('/')).exists());
    let is_of_crate = |module: &&str| {
        let first = module.split("::").next().unwrap_or_default();
        module_exists(root, first)
    };
    let modules = modules_in(text).into_iter().filter(is_of_crate);
    let modules = modules.filter(|module| !module_exists(root, module));
    files.chain(modules).map(|missing| format!("{name}: there is no {missing}")).collect()
}

#[test]
fn named_files_and_modules_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &&str| {
        let text = fs::read_to_string(root.join(name)).expect("a document");
        assert!(!paths_in(&text).is_empty() || !modules_in(&text).is_empty(), "{name}");
        faults_of(root, name, &text)
    };
    super::none(DOCUMENTS.iter().flat_map(read).collect());
}

#[test]
fn planted_names_are_missed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = "`src/lib.rs`, `src/gone.rs`, `outputs::objects`, `outputs::gone`, `std::gone`";
    assert_eq!(
        faults_of(root, "x", text),
        ["x: there is no src/gone.rs", "x: there is no outputs::gone"]
    );
}
