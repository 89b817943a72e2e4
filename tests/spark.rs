//! The cases of a real Spark, through the real program: socket in, files out.

use crate::oracle::{Case, cases};
use crate::rig::{Rig, Server, side_by_side};

/// Runs one case and compares all rows of all its epochs.
fn check(case: &Case, format: &str, expected: &[String], threads: usize) {
    let (rig, server) = (Rig::new(), Server::new());
    let flags =
        format!("--once --interval 24h --format {format} -w {threads} --no-state --to out/c");
    let program = rig.wordtide(&format!("run {} {flags}", server.flag())).start();
    let mut peer = server.accept();
    peer.send(&case.input);
    peer.fin();
    program.end().expect(0);
    let output = rig.output("out/c");
    assert_eq!(output.rows(), expected, "case {} as {format} with -w {threads}", case.name);
    for epoch in output.epochs.values() {
        let parts = epoch.parts.len();
        assert!(parts == threads || epoch.rows().is_empty(), "{parts} parts with -w {threads}");
    }
    assert!(output.uncommitted.is_empty(), "left behind: {:?}", output.uncommitted);
}

fn check_all(threads: usize) {
    let cases = cases();
    let python = cases.iter().map(|case| (case, "python", &case.python));
    let scala = cases.iter().map(|case| (case, "scala", &case.scala));
    side_by_side(python.chain(scala).collect(), |(case, format, expected)| {
        check(case, format, expected, threads);
    });
}

#[test]
fn rows_equal_spark_with_one_worker() {
    check_all(1);
}

#[test]
fn rows_equal_spark_with_two_workers() {
    check_all(2);
}

#[test]
fn rows_equal_spark_with_four_workers() {
    check_all(4);
}
