//! The library in another program: no command line, no logger, no signal handler.

use std::fs;
use std::path::Path;
use std::time::Duration;

use wordtide::dataflows::{network_wordcount, running_totals};
use wordtide::differential_dataflow::operators::iterate::Iterate;
use wordtide::internals::outputs::Layout;
use wordtide::operators::{Lines, Rows};
use wordtide::testing::{publish, rows_on};
use wordtide::{ErrorKind, Job, JobBuilder, Settings, Source, Target};

/// A job that counts a file into `dir/name-*`.
fn job_on(dir: &Path, name: &str, text: &str) -> JobBuilder {
    let input = dir.join(format!("{name}.txt"));
    fs::write(&input, text).expect("a file in a directory of our own");
    let settings = Settings { interval: Duration::from_secs(1), threads: 2, ..Settings::default() };
    Job::builder()
        .source(Source::File(input))
        .to(Target::Local { root: dir.to_owned(), prefix: name.to_owned() })
        .settings(settings)
}

/// All rows of an epoch, sorted.
fn rows(dir: &Path, name: &str, epoch: u64) -> Vec<String> {
    let at = dir.join(Layout::new(name, None).dir(epoch));
    assert!(at.join("_SUCCESS").exists(), "a committed epoch has its marker");
    let mut rows = Vec::new();
    for entry in fs::read_dir(at).expect("a directory for each epoch") {
        let path = entry.expect("a readable directory").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-")) {
            let text = fs::read_to_string(path).expect("a readable part");
            rows.extend(text.lines().map(str::to_owned));
        }
    }
    rows.sort();
    rows
}

#[test]
fn two_jobs_run_in_one_process() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    let first = job_on(dir, "first", "b a\na\n").dataflow("counts", network_wordcount::dataflow);
    let second = job_on(dir, "second", "x\nx\n").dataflow("totals", running_totals::dataflow(None));
    let (first, second) = (first.start().expect("a job"), second.start().expect("another job"));
    let (first, second) = (first.wait().expect("all counted"), second.wait().expect("all counted"));

    let last = |summary: &wordtide::job::Summary| summary.last.clone().expect("an epoch").epoch;
    assert_eq!(first.total.words, 3);
    let counted: Vec<String> = (0..)
        .map(|back| last(&first) - back * 1_000)
        .take(first.epochs as usize)
        .flat_map(|epoch| rows(dir, "first", epoch))
        .collect();
    assert_eq!(counted, ["('a', 2)", "('b', 1)"]);
    assert_eq!(rows(dir, "second", last(&second)), ["('x', 2)"]);
}

#[test]
fn committed_epochs_stream_from_first_to_last() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let job =
        job_on(dir.path(), "counts", "a\nb\n").dataflow("counts", network_wordcount::dataflow);
    let mut job = job.start().expect("a job");
    let commits = job.committed();
    let handle = job.handle();
    let reader = std::thread::spawn(move || commits.map(|c| c.tally.lines).collect::<Vec<_>>());
    let summary = job.wait().expect("all counted");
    let lines = reader.join().expect("the stream ends with the job");
    assert_eq!((lines.len() as u64, lines.iter().sum::<u64>()), (summary.epochs, 2));
    assert_eq!(handle.committed().count(), 0, "of an ended job nothing is to come");
}

/// Counts words by a category that a static table gives them: a join of plain differential.
fn by_category<'s>(lines: Lines<'s>) -> Rows<'s> {
    let table = [("cat", "animal"), ("dog", "animal"), ("oak", "tree"), ("dog", "friend")];
    let table = table.map(|(word, category)| (word.to_owned(), category.to_owned()));
    let table = lines.static_rows(table);
    let counts = lines.clone().words().per_epoch().count().as_collection();
    let joined =
        counts.join_map(table, |word, count, category| (format!("{category} {word}"), *count));
    Rows::from_collection(&lines, joined)
}

#[test]
fn stream_joins_static_table_without_delay() {
    let epochs: &[&[&str]] = &[&["cat dog", "dog sun"], &[], &["oak"], &["dog"]];
    for threads in [1, 2, 4] {
        let mut rows = rows_on(threads, by_category, epochs);
        rows.iter_mut().for_each(|rows| rows.sort());
        let expected = [
            vec!["animal cat\t1", "animal dog\t2", "friend dog\t2"],
            vec![],
            vec!["tree oak\t1"],
            vec!["animal dog\t1", "friend dog\t1"],
        ];
        assert_eq!(rows, expected, "{threads} threads");
    }
}

/// The nodes that can be reached from `start` over all edges so far, each a line `from to`.
fn reachable<'s>(lines: Lines<'s>) -> Rows<'s> {
    let start = lines.static_rows(["start".to_owned()]);
    let edges = lines
        .clone()
        .as_collection()
        .flat_map(|line| line.split_once(' ').map(|(from, to)| (from.to_owned(), to.to_owned())));
    let seeds = start.clone();
    let reached = start.iterate(move |scope, reached| {
        let (edges, seeds) = (edges.enter(scope), seeds.enter(scope));
        let steps = reached.map(|node| (node, ())).join_map(edges, |_, (), to| to.clone());
        steps.concat(seeds).distinct()
    });
    Rows::from_collection(&lines, reached)
}

#[test]
fn an_iteration_grows_with_the_stream() {
    let epochs: &[&[&str]] = &[&["b c", "start a"], &["a b"], &[], &["c start"]];
    for threads in [1, 2] {
        let mut rows = rows_on(threads, reachable, epochs);
        rows.iter_mut().for_each(|rows| rows.sort());
        let all = vec!["a", "b", "c", "start"];
        assert_eq!(rows, [vec!["a", "start"], all.clone(), all.clone(), all], "{threads} threads");
    }
}

#[test]
fn row_is_printed_as_often_as_counted() {
    let rows = rows_on(
        2,
        move |lines: Lines<'_>| Rows::from_collection(&lines, lines.clone().as_collection()),
        &[&["x", "y", "x"], &[], &["x"]],
    );
    let sorted = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    let rows: Vec<_> = rows.into_iter().map(sorted).collect();
    assert_eq!(rows, [vec!["x", "x", "y"], vec!["x", "x", "y"], vec!["x", "x", "x", "y"]]);
}

#[test]
fn negative_row_ends_job_and_is_named() {
    let epochs = [(1_000, vec![b"fine".to_vec()]), (2_000, vec![b"lost words".to_vec()])];
    let outcome = publish(
        2.into(),
        |lines| {
            let bad = lines.clone().as_collection().filter(|line| line.contains(' ')).negate();
            Rows::from_collection(&lines, bad)
        },
        &epochs,
    );
    let error = outcome.expect_err("a negative multiplicity");
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("\"lost words\" -1 times"), "{error}");
}
