//! Circles: modules of one folder that name each other.
//!
//! A path that begins with `super`, `self` or `crate` is resolved to the module that it leads to. A
//! name that the parent re-exports leads to the module that defines it.

use std::collections::{BTreeMap, BTreeSet};

use super::{CODE, Source, identifier, names_in_braces, none, sources};

/// Returns the path of a module: `["store", "local", "body"]` for `src/store/local/body.rs`.
fn module_path(source: &Source) -> Option<Vec<String>> {
    let inner = source.path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    Some(inner.split('/').filter(|name| *name != "lib").map(str::to_owned).collect())
}

/// Returns the paths that begin with `super::`, `self::` or `crate::` in the code of a module,
/// resolved to a module and the name in it.
fn uses(path: &[String], source: &Source) -> BTreeSet<(Vec<String>, String)> {
    let code = source.code().collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for (start, first) in ["super::", "self::", "crate::"]
        .iter()
        .flat_map(|first| code.match_indices(first).collect::<Vec<_>>())
    {
        let before = code[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':')) {
            continue;
        }
        let mut base = match first {
            "crate::" => Vec::new(),
            "self::" => path.to_vec(),
            _ => path[..path.len().saturating_sub(1)].to_vec(),
        };
        let mut rest = &code[start + first.len()..];
        while let Some(next) = rest.strip_prefix("super::") {
            base.pop();
            rest = next;
        }
        follow(&base, rest, &mut found);
    }
    found
}

/// Adds the names that `rest` leads to from `base`: one path, or a list in braces.
fn follow(base: &[String], rest: &str, found: &mut BTreeSet<(Vec<String>, String)>) {
    if let Some(list) = rest.strip_prefix('{') {
        found.extend(names_in_braces(list).into_iter().map(|name| (base.to_vec(), name)));
        return;
    }
    let Some(name) = identifier(rest) else { return };
    found.insert((base.to_vec(), name.clone()));
    if let Some(rest) = rest[name.len()..].strip_prefix("::") {
        let deeper = [base, &[name]].concat();
        follow(&deeper, rest, found);
    }
}

/// Returns the modules of each folder that reach themselves through others of the folder.
fn circle_faults(files: &[Source]) -> Vec<String> {
    let modules: BTreeMap<Vec<String>, &Source> =
        files.iter().filter_map(|file| Some((module_path(file)?, file))).collect();
    let mut reexports: BTreeMap<(Vec<String>, String), String> = BTreeMap::new();
    for (path, source) in &modules {
        for line in source.code().collect::<Vec<_>>().join(" ").split(';') {
            let Some((_, list)) = line.rsplit_once("use ") else { continue };
            let Some(child) = identifier(list.trim_start_matches("self::")) else { continue };
            let rest = list.trim_start_matches("self::")[child.len()..].trim_start_matches("::");
            let names = match rest.strip_prefix('{') {
                Some(names) => names_in_braces(names),
                None => identifier(rest).into_iter().collect(),
            };
            if modules.contains_key(&[&path[..], std::slice::from_ref(&child)].concat()) {
                names.into_iter().for_each(|name| {
                    reexports.insert((path.clone(), name), child.clone());
                });
            }
        }
    }
    let mut graphs: BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (path, source) in &modules {
        for (base, name) in uses(path, source) {
            let child = reexports.get(&(base.clone(), name.clone())).cloned().unwrap_or(name);
            let is_module =
                modules.contains_key(&[&base[..], std::slice::from_ref(&child)].concat());
            let is_inside = path.starts_with(&base) && path.len() > base.len();
            if !base.is_empty() && is_module && is_inside && path[base.len()] != child {
                let graph = graphs.entry(base.clone()).or_default();
                graph.entry(path[base.len()].clone()).or_default().insert(child);
            }
        }
    }
    let in_folder = |(folder, graph): (&Vec<String>, &BTreeMap<_, _>)| {
        let folder = folder.join("/");
        super::circles(graph).into_iter().map(move |circle| format!("{folder}/{circle}"))
    };
    graphs.iter().flat_map(|(folder, graph)| in_folder((folder, graph))).collect()
}

#[test]
fn modules_of_a_folder_form_no_circle() {
    none(circle_faults(&sources(CODE)));
}

#[test]
fn planted_circle_is_found() {
    let files = |a: &str, b: &str| {
        circle_faults(&[
            Source::new("src/x.rs", "mod a;\nmod b;\npub use b::{B, C};"),
            Source::new("src/x/a.rs", a),
            Source::new("src/x/b.rs", b),
        ])
        .len()
    };
    assert_eq!(files("use super::b::B;", "use super::a::A;"), 2);
    assert_eq!(files("use super::B;", "use super::a::A;"), 2, "through a re-export");
    assert_eq!(files("use crate::x::{b, y};", "fn f() { super::a::f() }"), 2);
    assert_eq!(files("use super::b::B;", "use super::X;"), 0);
    assert_eq!(files("use super::b::B;", "#[cfg(test)]\nmod tests {\n    use super::a::A;\n}"), 0);
}
