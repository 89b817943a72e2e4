//! Rules that no compiler checks: layers, fences, circles, lengths, words. ARCHITECTURE.md has the
//! reasons.
//!
//! The checkers are plain functions from text to faults. Each has a test with a planted fault,
//! because a check that cannot fail is worth nothing. Checks of code skip comments and items under
//! `#[cfg(test)]`.

mod circles;
mod documents;
mod mutants;
mod planted;
mod prose;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first. A module names modules of its own layer or of lower ones; and within a
/// layer nothing goes round in circles.
const LAYERS: &[&[&str]] = &[
    &[
        "error",
        "epoch",
        "crash_points",
        "backoff",
        "file_lock",
        "loopback",
        "socket_activation",
        "tls",
        "bearer_token",
        "hex_varint",
        "random",
        "percent_encoding",
        "response_body",
        "durable_file",
        "named_values",
    ],
    &["settings", "epochs", "lines", "words", "feed", "liveness", "failure", "supervise", "meters"],
    &["operators", "store", "sources", "journal"],
    &["outputs", "state"],
    &["worker", "cluster", "testing", "trace"],
    &["job"],
    &["monitor"],
    &["dataflows"],
    &["cli", "main"],
];

/// The modules that may name the engine, whose interface breaks with each release.
const ENGINE: &[&str] = &[
    "operators",
    "outputs",
    "worker",
    "cluster",
    "testing",
    "trace",
    "dataflows",
    // A program that the bench compares with: it is written on the engine alone.
    "cli/bench/naive_program",
];

/// The modules that may name a crate. Any module may name what is not listed.
const FENCES: &[(&str, &[&str])] = &[
    ("clap", &["cli", "main"]),
    ("clap_complete", &["cli", "main"]),
    ("clap_mangen", &["cli", "main"]),
    ("tracing_subscriber", &["cli", "main"]),
    ("opendal", &["store"]),
    ("opendal_http_transport_reqwest", &["store"]),
    ("reqwest", &["store", "outputs", "cli"]),
    ("hyper", &["monitor", "sources", "response_body"]),
    ("http_body_util", &["sources", "response_body"]),
    ("hyper_util", &["monitor", "sources"]),
    ("prometheus_client", &["monitor"]),
    ("rusqlite", &["outputs"]),
    ("tokio_postgres", &["outputs"]),
    ("mysql_async", &["outputs"]),
    ("parquet", &["outputs"]),
    ("inotify", &["sources"]),
    ("sd_notify", &["cli", "main"]),
    ("listenfd", &["socket_activation"]),
    ("reqsign_core", &["store"]),
    ("reqsign_aliyun_oss", &["store"]),
    ("reqsign_aws_v4", &["store"]),
    ("reqsign_file_read_tokio", &["store"]),
    ("timely", ENGINE),
    ("differential_dataflow", ENGINE),
];

/// Calls that only one module may make. `std::process::exit` also has a lint, with its one reason.
const CALLS: &[(&str, &[&str])] = &[
    ("SystemTime::now", &["epoch"]),
    ("process::exit", &["cli"]),
    // A task that is not supervised dies silently.
    ("tokio::spawn", &["supervise"]),
    ("task::spawn", &["supervise"]),
    ("spawn_blocking(", &["supervise"]),
    ("thread::spawn", &["supervise"]),
    ("thread::Builder", &["supervise"]),
    ("runtime.spawn(", &["supervise"]),
    ("runtime().spawn(", &["supervise"]),
    ("scope.spawn(", &["supervise"]),
];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 100;

/// A source file, its path relative to the repository.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    /// The module of the first level that the file belongs to; `lib` for the crate's root.
    fn module(&self) -> Option<&str> {
        match self.path.strip_prefix("dataflows/") {
            // A program of its own, which stands there to be copied: see Cargo.toml.
            Some("custom.rs") => return Some("main"),
            Some(_) => return Some("dataflows"),
            None => {}
        }
        let inner = self.path.strip_prefix("src/")?;
        inner.split(['/', '.']).next()
    }

    /// Returns the lines of code, without comments and without items under `#[cfg(test)]`.
    fn code(&self) -> impl Iterator<Item = &str> {
        let mut lines = self.text.lines();
        std::iter::from_fn(move || {
            let mut line = lines.next()?;
            while line.trim() == "#[cfg(test)]" {
                skip_item(&mut lines);
                line = lines.next()?;
            }
            Some(without_comment(line))
        })
    }
}

/// Skips the item that follows an attribute. In formatted code an item ends with `;` on its first
/// line, or with a brace at the indentation of its first line.
fn skip_item<'a>(lines: &mut impl Iterator<Item = &'a str>) {
    let Some(first) = lines.find(|line| !line.trim_start().starts_with("#[")) else { return };
    let first = without_comment(first).trim_end();
    if first.ends_with(['}', ';']) {
        return;
    }
    let indent = &first[..first.len() - first.trim_start().len()];
    let closes = |line: &&str| matches!(line.strip_prefix(indent), Some("}" | ");" | "};"));
    lines.find(closes);
}

/// A line up to `//`, be it in a string: a URL in a string is no name of a module.
fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// All Rust files of the repository below `folders`.
fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root).expect("below the root");
                let text = fs::read_to_string(&path).expect("source is text");
                found.push(Source::new(&relative.to_string_lossy(), &text));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The identifiers that follow `before` in the text: `crate::a` and, in braces, `crate::{a, b::c}`.
fn named_after(code: &str, before: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(before) {
        let rest = &code[at + before.len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(names_in_braces(list)),
            None => names.extend(identifier(rest)),
        }
    }
    names
}

/// The first identifiers of a list `a, b::c, d::{e, f}}`, read up to its closing brace.
fn names_in_braces(list: &str) -> Vec<String> {
    let (mut names, mut depth, mut fresh) = (Vec::new(), 0, true);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ if fresh && !character.is_whitespace() => {
                names.extend(identifier(&list[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The modules of the first level that a file names, itself not among them.
fn uses(source: &Source) -> BTreeSet<String> {
    let code = source.code().collect::<Vec<_>>().join("\n");
    let mut names = named_after(&code, "crate::");
    names.extend(named_after(&code, "wordtide::"));
    names.retain(|name| layer(name).is_some() && Some(&name[..]) != source.module());
    names
}

/// Modules that name higher ones, modules in no layer, and circles within a layer.
fn layering_faults(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let Some(module) = source.module().filter(|module| *module != "lib") else { continue };
        let Some(own) = layer(module) else {
            faults.push(format!("{}: module {module} is in no layer", source.path));
            continue;
        };
        for used in uses(source) {
            if layer(&used).is_some_and(|other| other > own) {
                faults.push(format!("{}: {module} names {used}, a layer above", source.path));
            }
            graph.entry(module.to_owned()).or_default().insert(used);
        }
    }
    faults.extend(circles(&graph));
    faults
}

/// Modules from which a way leads back to themselves.
fn circles(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let reached = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            for used in graph.get(module).into_iter().flatten() {
                if seen.insert(used) {
                    open.push(used);
                }
            }
        }
        seen
    };
    let in_circles = graph.keys().filter(|module| reached(module).contains(module));
    in_circles.map(|module| format!("{module} names itself through other modules")).collect()
}

/// Returns true if a path in `code` begins with `name`: `name::`, but not `my_name::`.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
    })
}

/// Crates and calls on the wrong side of their fence.
fn fence_faults(source: &Source) -> Vec<String> {
    let module = source.module().unwrap_or_default();
    // A fence can have a gate for one file.
    let file = source.path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut faults = Vec::new();
    for line in source.code() {
        let foreign = FENCES.iter().filter(|(name, _)| names_crate(line, name));
        let is_test = source.path.ends_with("tests.rs");
        let calls = CALLS.iter().filter(|(call, _)| !is_test && line.contains(call));
        for (name, allowed) in foreign.chain(calls) {
            if !allowed.contains(&module) && !allowed.contains(&file) {
                faults.push(format!("{}: {name} is for {allowed:?} only", source.path));
            }
        }
    }
    faults
}

/// Uses of private names in a definition, which could then not be copied into another crate.
fn definition_faults(source: &Source) -> Vec<String> {
    let reaches = |line: &&str| names_crate(line, "crate") || line.contains("super::super");
    let lines = source.text.lines().map(without_comment).filter(reaches);
    lines.map(|line| format!("{}: `{}`: say wordtide::", source.path, line.trim())).collect()
}

/// Files, functions and lines that are too long.
fn length_faults(source: &Source) -> Vec<String> {
    let path = &source.path;
    let mut faults = Vec::new();
    let lines: Vec<&str> = source.text.lines().collect();
    if lines.len() > FILE_LINES_MAX {
        faults.push(format!("{path}: {} lines", lines.len()));
    }
    for (number, line) in lines.iter().enumerate() {
        if without_string(line).chars().count() > LINE_CHARS_MAX {
            faults.push(format!("{path}:{}: a line of more than {LINE_CHARS_MAX}", number + 1));
        }
        let indent = line.len() - line.trim_start().len();
        if is_function(line.trim_start()) {
            // Formatted code closes a function where it began.
            let close = format!("{}}}", &line[..indent]);
            let length = lines[number..].iter().position(|line| *line == close).unwrap_or(0) + 1;
            if length > FUNCTION_LINES_MAX {
                faults.push(format!("{path}:{}: a function of {length} lines", number + 1));
            }
        }
    }
    faults
}

/// A line without the text of its strings: a message may be long, so that it can be searched for.
fn without_string(line: &str) -> String {
    let is_comment = line.trim_start().starts_with("//");
    match (line.find('"'), line.rfind('"')) {
        (Some(first), Some(last)) if !is_comment => {
            format!("{}{}", &line[..=first], &line[last..])
        }
        _ => line.to_owned(),
    }
}

/// Returns true if a line begins a function whose body has more lines.
fn is_function(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().take_while(|word| *word != "fn").collect();
    let qualifier = |word: &&str| {
        matches!(*word, "pub" | "async" | "const" | "unsafe" | "extern" | "\"C\"")
            || word.starts_with("pub(")
    };
    line.split_whitespace().any(|word| word == "fn")
        && words.iter().all(qualifier)
        && !line.ends_with(['}', ';'])
}

/// Words that have no place in finished code. In two pieces here, or this file would be at fault.
const LEFTOVERS: &[(&str, &str)] = &[
    ("TO", "DO"),
    ("FIX", "ME"),
    ("XX", "X"),
    ("todo", "!"),
    ("dbg", "!"),
    ("unimplemented", "!"),
    ("thread::", "sleep"),
];

fn leftover_faults(source: &Source) -> Vec<String> {
    let leftovers = LEFTOVERS.iter().map(|(a, b)| format!("{a}{b}"));
    // A soak test lets time pass: the lengths of its silences are tested, and no event ends them.
    let may_sleep = source.path.starts_with("tests/soak/");
    let is_allowed = |leftover: &str| may_sleep && leftover.ends_with("sleep");
    let found = leftovers.filter(|leftover| source.text.contains(leftover));
    let faults = found.filter(|leftover| !is_allowed(leftover));
    faults.map(|leftover| format!("{}: {leftover}", source.path)).collect()
}

/// Names that do not describe what is inside.
fn name_faults(source: &Source) -> Vec<String> {
    let vague = ["utils", "util", "helpers", "helper", "common", "misc", "manager"];
    let parts = source.path.split(['/', '.']).filter(|part| vague.contains(part));
    let mut faults: Vec<String> =
        parts.map(|part| format!("{}: {part} says nothing", source.path)).collect();
    if source.text.lines().map(without_comment).any(|line| line.contains(concat!("fn ", "handle_")))
    {
        faults.push(format!("{}: handle_ says nothing", source.path));
    }
    faults
}

/// Files that no `mod` leads to: the compiler never sees them.
fn unreachable_faults(sources: &[Source], roots: &[&str]) -> Vec<String> {
    let texts: BTreeMap<&str, &str> = sources.iter().map(|s| (&s.path[..], &s.text[..])).collect();
    let (mut seen, mut open) =
        (BTreeSet::new(), roots.iter().map(|r| r.to_string()).collect::<Vec<_>>());
    while let Some(path) = open.pop() {
        let Some(text) = texts.get(&path[..]).filter(|_| seen.insert(path.clone())) else {
            continue;
        };
        open.extend(modules_of(&path, text));
    }
    let unseen = texts.keys().filter(|path| !seen.contains(**path));
    unseen.map(|path| format!("{path}: no `mod` leads here")).collect()
}

/// Where the modules that a file declares may be.
fn modules_of(path: &str, text: &str) -> Vec<String> {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = file.trim_end_matches(".rs");
    let own = match stem {
        "lib" | "main" | "mod" => folder.to_owned(),
        _ => format!("{folder}/{stem}"),
    };
    let (mut found, mut said) = (Vec::new(), None);
    for line in text.lines().map(str::trim) {
        if let Some(path) = line.strip_prefix("#[path = \"../") {
            said = Some(path.trim_end_matches("\"]").to_owned());
        }
        let declared = line.strip_suffix(';').and_then(|line| line.rsplit_once("mod "));
        let Some((_, name)) = declared.filter(|_| !line.starts_with("//")) else { continue };
        match said.take() {
            Some(path) => found.push(path),
            None => found.extend([format!("{own}/{name}.rs"), format!("{own}/{name}/mod.rs")]),
        }
    }
    found
}

#[track_caller]
fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn each(sources: &[Source], check: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    sources.iter().flat_map(check).collect()
}

const CODE: &[&str] = &["src", "dataflows"];
const PROGRAMS: &[&str] = &["src/lib.rs", "src/main.rs", "dataflows/custom.rs"];
const ALL: &[&str] = &["src", "dataflows", "tests", "benches"];

#[test]
fn modules_name_only_their_layer_and_below() {
    none(layering_faults(&sources(CODE)));
}

#[test]
fn foreign_crates_stay_inside_their_fences() {
    none(each(&sources(CODE), fence_faults));
}

#[test]
fn definitions_use_public_names_only() {
    let definitions = sources(&["dataflows"]);
    assert!(definitions.len() >= 2, "the definitions have moved");
    none(each(&definitions, definition_faults));
}

#[test]
fn files_functions_and_lines_are_short() {
    none(each(&sources(ALL), length_faults));
}

#[test]
fn nothing_unfinished_is_left() {
    none(each(&sources(ALL), leftover_faults));
    none(each(&sources(ALL), name_faults));
}

#[test]
fn every_file_is_compiled() {
    none(unreachable_faults(&sources(CODE), PROGRAMS));
    none(unreachable_faults(&sources(&["tests"]), &["tests/main.rs"]));
}
