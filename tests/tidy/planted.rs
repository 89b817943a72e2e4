//! Planted faults: each checker finds the fault that it is for.

use super::*;

#[test]
fn planted_upward_name_is_found() {
    let names = |path: &str, text: &str| layering_faults(&[Source::new(path, text)]).len();
    assert_eq!(names("src/outputs/write_parts.rs", "use crate::job::Job;"), 1);
    assert_eq!(names("src/words.rs", "use crate::{error::Error, store::{a, b}, epoch};"), 1);
    assert_eq!(names("src/lines/mod.rs", "fn f() { crate::cli::main() }"), 1);
    assert_eq!(names("dataflows/top_k.rs", "use wordtide::cli::Cli;"), 1);
    assert_eq!(names("src/extra.rs", ""), 1, "a module in no layer");
    assert_eq!(names("src/outputs.rs", "use crate::{\n    outputs::a,\n    store::b,\n};"), 0);
    assert_eq!(names("src/words.rs", "/// [job](crate::job)\n// crate::job"), 0);
    assert_eq!(names("src/words.rs", "#[cfg(test)]\nmod tests { use crate::job; }"), 0);
    let skipped = "#[cfg(test)]\nmod tests {\n    use crate::job;\n}\nuse crate::cli;";
    assert_eq!(names("src/words.rs", skipped), 1, "code after an item of the tests");
    assert_eq!(names("src/words.rs", "#[cfg(test)]\nmod tests;\nuse crate::cli;"), 1);
}

#[test]
fn modules_that_name_each_other_are_found() {
    let two = [
        Source::new("src/feed.rs", "use crate::failure::Failure;"),
        Source::new("src/failure.rs", "use crate::feed::Wake;"),
    ];
    assert_eq!(layering_faults(&two).len(), 2);
}

#[test]
fn planted_foreign_crate_is_found() {
    let names = |path: &str, text: &str| fence_faults(&Source::new(path, text)).len();
    assert_eq!(names("src/outputs.rs", "use clap::Parser;"), 1);
    assert_eq!(names("src/job.rs", "let now = std::time::SystemTime::now();"), 1);
    assert_eq!(names("src/job.rs", "fn f(x: timely::Data) {}"), 1);
    assert_eq!(names("src/sources.rs", "use reqwest::Client;"), 1);
    assert_eq!(names("src/cli/flags.rs", "use clap::Parser;"), 0);
    assert_eq!(names("src/outputs.rs", "self.runtime.spawn(task);"), 1);
    assert_eq!(names("src/lines/tests.rs", "std::thread::spawn(work);"), 0);
    assert_eq!(names("src/job.rs", "use my_clap::Parser; use crate::timely::x; // clap::x"), 0);
}

#[test]
fn a_definition_that_reaches_inside_is_found() {
    let names = |text: &str| definition_faults(&Source::new("dataflows/x.rs", text)).len();
    assert_eq!(names("use crate::operators::Lines;"), 1);
    assert_eq!(names("use wordtide::operators::Lines;\n/// crate::x"), 0);
}

#[test]
fn text_that_is_too_long_is_found() {
    let faults = |text: &str| length_faults(&Source::new("src/x.rs", text)).len();
    let function =
        |lines: usize| format!("    pub(super) fn f() {{\n{}    }}\n", "a;\n".repeat(lines - 2));
    assert_eq!((faults(&function(70)), faults(&function(71))), (0, 1));
    assert_eq!((faults(&"é".repeat(100)), faults(&"é".repeat(101))), (0, 1));
    assert_eq!(faults(&format!("{:>99}\"{:>99}\",", "a", "a")), 1);
    assert_eq!(faults(&format!("    \"{:>99}\",", "a")), 0);
    assert_eq!(faults(&format!("    // \"{:>99}\",", "a")), 1);
    assert_eq!((faults(&"a\n".repeat(500)), faults(&"a\n".repeat(501))), (0, 1));
}

#[test]
fn leftovers_and_empty_names_are_found() {
    let leftover = format!("// {}{}: later", "TO", "DO");
    assert_eq!(leftover_faults(&Source::new("src/x.rs", &leftover)).len(), 1);
    assert_eq!(name_faults(&Source::new("src/store/utils.rs", "")).len(), 1);
    assert_eq!(
        name_faults(&Source::new("src/x.rs", concat!("    fn ", "handle_error() {"))).len(),
        1
    );
}

#[test]
fn a_file_that_nothing_leads_to_is_found() {
    let files = [
        Source::new(
            "src/lib.rs",
            "pub mod a;\n#[path = \"../dataflows/mod.rs\"]\npub mod d;\n// mod e;",
        ),
        Source::new("src/a.rs", "mod b;"),
        Source::new("src/a/b.rs", ""),
        Source::new("dataflows/mod.rs", "pub mod c;"),
        Source::new("dataflows/c.rs", ""),
        Source::new("src/e.rs", ""),
    ];
    assert_eq!(unreachable_faults(&files, &["src/lib.rs"]), ["src/e.rs: no `mod` leads here"]);
}
