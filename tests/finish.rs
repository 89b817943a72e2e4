//! A job that has finished and dies as it puts its journals away starts again.

use crate::cluster_program::Addresses;
use crate::rig::Rig;

const JOB: &str = "run --file one --file two --format tsv --to out/c";

/// Runs both processes, each with a state of its own; one may die at `point`.
fn run(rig: &Rig, dies: Option<(usize, &str)>) -> [Option<i32>; 2] {
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

#[test]
fn job_killed_after_its_end_starts_again() {
    for point in ["recovery.before_put_away", "recovery.put_away"] {
        for dying in [0, 1] {
            let rig = Rig::new();
            rig.file("one", "a b\n");
            rig.file("two", "c\n");
            let died = run(&rig, Some((dying, point)));
            assert_eq!(died[dying], None, "{point} was not met");
            assert_eq!(run(&rig, None), [Some(0); 2], "killed at {point}, process {dying}");
        }
    }
}
