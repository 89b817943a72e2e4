//! A task that panics ends the run with 70, whichever it is and wherever it stands.

use std::io::Write;
use std::process::Stdio;

use wordtide::internals::crash_points::TASKS;

use crate::cluster_program::Addresses;
use crate::rig::{Ended, Invocation, Rig, side_by_side};

/// The flags under which the task runs in a single process.
fn alone(task: &str) -> Option<&'static str> {
    Some(match task {
        "start" | "leader" | "write" | "commit" | "sync" | "results" => {
            "run --format tsv --to out/c"
        }
        "compact" => "run sliding_windows --window 100ms --slide 50ms --to out/c",
        _ => return None,
    })
}

/// The process of a cluster that has the task, where process 0 reads the only source.
fn of_cluster(task: &str) -> Option<usize> {
    match task {
        "leader" | "watch stop" | "ship" | "report commits" => Some(0),
        "follower" | "receive" | "report results" => Some(1),
        _ => None,
    }
}

fn panicking(program: Invocation, point: &str) -> Invocation {
    program.env("WORDTIDE_CRASH_POINT", point).env("WORDTIDE_CRASH_MODE", "panic")
}

fn run_alone(flags: &str, point: &str) -> Ended {
    let rig = Rig::new();
    let flags = format!("{flags} --interval 50ms --state state --stdin");
    let mut program = panicking(rig.wordtide(&flags).stdin(Stdio::piped()), point).start();
    // It stays open: epoch after epoch is cut and published.
    let mut lines = program.stdin();
    // A program that has ended already reads nothing.
    let _ = lines.write_all(b"a b\na\n");
    program.end()
}

#[test]
fn panic_of_any_task_is_exit_70() {
    side_by_side(TASKS.to_vec(), |task| {
        let Some(flags) = alone(task) else {
            assert!(of_cluster(task).is_some() || task == "replay", "{task} is tested nowhere");
            return;
        };
        let ended = run_alone(flags, &format!("task.{task}")).expect(70);
        ended.says(&[&format!("the task {task} panicked")]);
    });
}

#[test]
fn panic_within_a_step_is_exit_70() {
    let points =
        ["source.after_read", "journal.before_sync", "output.after_put", "changelog.after_put"];
    side_by_side(points.to_vec(), |point| {
        run_alone("run running_totals --to out/c", point).expect(70);
    });
}

#[test]
fn panic_in_a_cluster_ends_all() {
    side_by_side(TASKS.to_vec(), |task| {
        let Some(panics) = of_cluster(task) else { return };
        let (rig, addresses) = (Rig::new(), Addresses::new(2));
        let start = |process: usize| {
            let flags = "run --interval 50ms --no-state --to out/c";
            let cluster = addresses.flags(process);
            let program = rig.wordtide(&format!("{flags} --stdin {cluster}"));
            let program = program.stdin(Stdio::piped());
            let point = format!("task.{task}");
            if process == panics { panicking(program, &point).start() } else { program.start() }
        };
        let ended = [0, 1].map(start).map(|program| program.end());
        let codes = [0, 1].map(|process| if process == panics { 70 } else { 69 });
        let text = format!("the task {task} panicked");
        for (ended, code) in ended.into_iter().zip(codes) {
            ended.expect(code).says(&[&text]);
        }
    });
}

#[test]
fn panic_of_a_replay_is_exit_70() {
    let rig = Rig::new();
    let flags = "run --stdin --keep-journal --state state --to out/c";
    rig.run(flags).expect(0);
    let replay = rig.wordtide("replay state --to out/d");
    panicking(replay, "task.replay").start().end().expect(70);
}
