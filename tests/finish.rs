//! A job that has finished, and dies at any step of its end: the next start reads nothing again.
//! Only the start after an end in order counts the input anew.

use std::fs;

use crate::cluster_program::Addresses;
use crate::oracle::Counts;
use crate::rig::Rig;

/// The steps of an end that all processes take, in their order.
const STEPS: [&str; 2] = ["finish.agreed", "recovery.before_put_away"];
/// The last step, which process 0 takes alone.
const LAST_STEP: &str = "finish.prepared";

fn counts(times: u64) -> Counts {
    ["a", "b", "c"].map(|word| (word.as_bytes().to_vec(), times)).into()
}

/// Runs both processes, each with a state of its own; one may die at `point`.
fn run(rig: &Rig, dies: Option<(usize, &str)>) -> [Option<i32>; 2] {
    const JOB: &str = "run --file one --file two --format tsv --to out/c";
    let addresses = Addresses::new(2);
    let start = |process: usize| {
        let flags = format!("{JOB} --state state-{process} {}", addresses.flags(process));
        let program = rig.wordtide(&flags);
        match dies.filter(|(dying, _)| *dying == process) {
            Some((_, point)) => program.env("WORDTIDE_CRASH_POINT", point).start(),
            None => program.start(),
        }
    };
    [0, 1].map(start).map(|program| program.end().code())
}

fn with_two_files() -> Rig {
    let rig = Rig::new();
    rig.file("one", "a b\n");
    rig.file("two", "c\n");
    rig
}

#[test]
fn process_killed_after_finish_reads_nothing_again() {
    let in_each = STEPS.into_iter().flat_map(|point| [(0, point), (1, point)]);
    for (dying, point) in in_each.chain([(0, LAST_STEP)]) {
        let rig = with_two_files();
        let died = run(&rig, Some((dying, point)));
        assert_eq!(died[dying], None, "{point} was not met");
        // What a crash has left in the state of another host goes, too.
        let left = rig.path("state-1/.known.3b3ada966d216a971d084c24f42df1f1.tmp");
        fs::write(&left, "").expect("room");
        assert_eq!(run(&rig, None), [Some(0); 2], "killed at {point}, process {dying}");
        assert_eq!(rig.output("out/c").counts(), counts(1), "killed at {point}, process {dying}");
        assert!(!left.exists());
    }
}

#[test]
fn finished_journals_are_put_away_despite_crashes() {
    for (dying, point) in [(0, "recovery.put_away"), (1, "recovery.put_away")] {
        let rig = with_two_files();
        assert_eq!(run(&rig, None), [Some(0); 2]);
        let died = run(&rig, Some((dying, point)));
        assert_eq!(died[dying], None, "{point} was not met");
        assert_eq!(rig.output("out/c").counts(), counts(1));
        assert_eq!(run(&rig, None), [Some(0); 2]);
        assert_eq!(rig.output("out/c").counts(), counts(2), "process {dying}");
    }
}

#[test]
fn totals_killed_after_finish_begin_anew_later() {
    for point in STEPS.into_iter().chain([LAST_STEP]) {
        let rig = Rig::new();
        rig.file("one", "a b\nc\n");
        let run = "run running_totals --file one --format tsv --interval 20ms --state s --to out/c";
        let died = rig.wordtide(run).env("WORDTIDE_CRASH_POINT", point).start().end();
        assert_eq!(died.code(), None, "{point} was not met");
        for words in [3, 6] {
            rig.run(run).expect(0);
            let output = rig.output("out/c");
            let found = (output.total("words"), output.newest().counts());
            assert_eq!(found, (words, counts(1)), "killed at {point}");
        }
    }
}

#[test]
fn upserted_totals_survive_kill_after_finish() {
    let rig = Rig::new();
    rig.file("one", "a b\nc\n");
    let run = "run running_totals --file one --state s --to sqlite:t.db --write upsert";
    let died = rig.wordtide(run).env("WORDTIDE_CRASH_POINT", LAST_STEP).start().end();
    assert_eq!(died.code(), None);
    for _ in 0..2 {
        rig.run(run).expect(0);
        let database = rusqlite::Connection::open(rig.path("t.db")).expect("a database");
        let sum = "SELECT sum(count) FROM counts";
        let sum: i64 = database.query_row(sum, [], |row| row.get(0)).expect("a number");
        assert_eq!(sum, 3);
    }
}

#[test]
fn totals_begin_anew_despite_kill_before_note() {
    let rig = Rig::new();
    rig.file("one", "a b\nc\n");
    let run = "run running_totals --file one --format tsv --interval 20ms --state s --to out/c";
    rig.run(run).expect(0);
    let killed = rig.wordtide(run).env("WORDTIDE_CRASH_POINT", "recovery.discarded").start();
    assert_eq!(killed.end().code(), None);
    rig.run(run).expect(0);
    assert_eq!(rig.output("out/c").newest().counts(), counts(1));
}

#[test]
fn launcher_restarts_finished_job_without_counting_again() {
    let rig = with_two_files();
    let job = "--file one --file two --format tsv --state state --to out/c";
    let program = rig.wordtide(&format!("run {job} -n 2 --restart 1"));
    // It dies there at each start.
    let program = program.env("WORDTIDE_CRASH_POINT", LAST_STEP).start();
    program.end().expect(69).says(&["is started again in 1 s"]);
    assert_eq!(rig.output("out/c").counts(), counts(1));
    // The same state with another number of processes.
    for times in [1, 2] {
        rig.run(&format!("run {job}")).expect(0);
        assert_eq!(rig.output("out/c").counts(), counts(times));
    }
}

#[test]
fn state_of_finished_job_can_be_removed() {
    for processes in [1, 2] {
        let rig = with_two_files();
        let job = format!("run --file one --file two --state state --to out/c -n {processes}");
        rig.run(&job).expect(0);
        let found = String::from_utf8(rig.run("state --format json state").expect(0).stdout);
        let found = found.expect("JSON");
        assert!(found.contains("\"epochs_in_flight\":0"), "{found}");
        rig.run("state --remove state").expect(0);
        assert!(!rig.path("state").exists());
    }
}
