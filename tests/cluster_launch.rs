//! The local launcher, with the shell as the program it starts.
//!
//! The shell's `$2` is the index and `$4` the addresses, since the launcher adds `-p I --addresses
//! …`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::sync::Mutex;
use std::time::Duration;

use wordtide::internals::cluster::launcher::{LaunchSettings, Launcher, LauncherStop};

fn launcher(processes: usize, script: &str) -> (Launcher, LauncherStop) {
    Launcher::new(settings(processes, script))
}

fn settings(processes: usize, script: &str) -> LaunchSettings {
    LaunchSettings {
        exe: "/bin/sh".into(),
        args: ["-c", script, "sh"].map(Into::into).to_vec(),
        processes,
        restart_wait_min: Duration::from_millis(1),
        restart_wait_max: Duration::from_millis(4),
        ..LaunchSettings::default()
    }
}

/// Runs to the end; the exit code and the lines of stderr with their indices, sorted.
fn run(launcher: Launcher) -> (i32, Vec<(usize, String)>) {
    let lines = Mutex::new(Vec::new());
    let code = launcher.run(&|index, line| {
        let line = String::from_utf8_lossy(line).into_owned();
        lines.lock().unwrap().push((index, line));
    });
    let mut lines = lines.into_inner().unwrap();
    lines.sort();
    (code.unwrap(), lines)
}

#[test]
fn child_lines_bear_index_and_share_addresses() {
    let (code, lines) = run(launcher(3, "echo $1 $2 $3 >&2; echo $4 >&2").0);
    assert_eq!(code, 0);
    assert_eq!(lines.len(), 6);
    let addresses = &lines[1].1;
    assert_eq!(addresses.split(',').count(), 3);
    for index in 0..3 {
        let told = lines.iter().filter(|(from, _)| *from == index).map(|(_, line)| line);
        let mut told: Vec<&String> = told.collect();
        told.sort();
        assert_eq!(told, [&format!("-p {index} --addresses"), addresses]);
    }
}

#[test]
fn children_share_key_outside_command_line() {
    let script = "case \"$*\" in *$WORDTIDE_MESH_KEY*) exit 9;; esac
        echo $WORDTIDE_MESH_KEY $WORDTIDE_GENERATION >&2";
    let (code, lines) = run(launcher(2, script).0);
    assert_eq!(code, 0);
    assert_eq!(lines[0].1, lines[1].1);
    let (key, generation) = lines[0].1.split_once(' ').unwrap();
    assert_eq!(key.len(), 64);
    assert!(generation.parse::<u64>().is_ok());
    let (_, again) = run(launcher(2, script).0);
    assert_ne!(again[0].1, lines[0].1);
}

#[test]
fn what_is_added_stands_before_a_double_dash() {
    let mut settings = settings(1, "echo $1 $5 $6 >&2");
    settings.args.extend(["--".into(), "x".into()]);
    let (_, lines) = run(Launcher::new(settings).0);
    assert_eq!(lines, [(0, "-p -- x".to_owned())]);
}

#[test]
fn code_is_that_of_first_failed_child() {
    let (code, _) = run(launcher(3, "[ $2 = 1 ] && exit 70; exit 69").0);
    assert_eq!(code, 70);
    let (code, _) = run(launcher(2, "[ $2 = 0 ] && kill -9 $$; exit 0").0);
    assert_eq!(code, 69);
}

#[test]
fn broken_cluster_restarts_as_whole_and_boundedly() {
    let script = "echo $WORDTIDE_GENERATION >&2; exit 75";
    let settings = LaunchSettings { restarts: 3, ..settings(2, script) };
    let (code, lines) = run(Launcher::new(settings).0);
    assert_eq!(code, 75);
    assert_eq!(lines.len(), 8);
    let generations: std::collections::BTreeSet<_> = lines.iter().map(|(_, line)| line).collect();
    assert_eq!(generations.len(), 4);
}

#[test]
fn cause_that_restart_keeps_ends_launcher() {
    for end in [0, 2, 74, 78] {
        let settings =
            LaunchSettings { restarts: 3, ..settings(1, &format!("echo x >&2; exit {end}")) };
        let (code, lines) = run(Launcher::new(settings).0);
        assert_eq!((code, lines.len()), (end, 1));
    }
}

#[test]
fn finished_job_is_not_started_again() {
    // The other process is killed as it ends, before process 0 has ended or after.
    for late in [0, 1] {
        let script =
            format!("echo x >&2; [ $2 = {late} ] && sleep 0.1; [ $2 = 0 ] && exit 100; kill -9 $$");
        let settings = LaunchSettings { restarts: 3, ..settings(2, &script) };
        let (code, lines) = run(Launcher::new(settings).0);
        assert_eq!((code, lines.len()), (0, 2));
    }
}

#[test]
fn second_stop_asks_children_to_end() {
    let script = "echo up >&2; while read x; do echo $x >&2; [ $x = e ] && exit 143; done \
                  < $WORDTIDE_LIFELINE";
    let (launcher, stop) = launcher(2, script);
    let lines = Mutex::new(Vec::new());
    let code = launcher.run(&|_, line| {
        let mut lines = lines.lock().unwrap();
        lines.push(String::from_utf8_lossy(line).into_owned());
        if lines.iter().filter(|line| *line == "up").count() == 2 && line == b"up" {
            stop.stop();
        }
        if lines.iter().filter(|line| *line == "s").count() == 2 && line == b"s" {
            stop.stop();
        }
    });
    assert_eq!(code.unwrap(), 143);
    let lines = lines.into_inner().unwrap();
    assert_eq!(lines.iter().filter(|line| *line == "e").count(), 2, "{lines:?}");
}

#[test]
fn stop_reaches_process_0_by_lifeline() {
    let script = "trap 'exit 9' TERM INT HUP
        [ $2 = 0 ] || exit 0
        echo up >&2; read x < $WORDTIDE_LIFELINE; echo stopped >&2";
    let settings = LaunchSettings { restarts: 5, ..settings(2, script) };
    let (launcher, stop) = Launcher::new(settings);
    let lines = Mutex::new(Vec::new());
    let code = launcher.run(&|index, line| {
        if line == b"up" {
            stop.stop();
        }
        lines.lock().unwrap().push((index, line.to_vec()));
    });
    assert_eq!(code.unwrap(), 0);
    let lines = lines.into_inner().unwrap();
    assert_eq!(lines, [(0, b"up".to_vec()), (0, b"stopped".to_vec())]);
}

#[test]
fn stop_has_a_byte_for_each_child() {
    let script = "echo up >&2; head -c 1 $WORDTIDE_LIFELINE | wc -c >&2";
    let (launcher, stop) = launcher(3, script);
    let lines = Mutex::new(Vec::new());
    let code = launcher.run(&|_, line| {
        let mut lines = lines.lock().unwrap();
        lines.push(String::from_utf8_lossy(line).into_owned());
        if line == b"up" && lines.iter().filter(|line| *line == "up").count() == 3 {
            stop.stop();
        }
    });
    assert_eq!(code.unwrap(), 0);
    let lines = lines.into_inner().unwrap();
    assert_eq!(lines.iter().filter(|line| *line == "1").count(), 3, "{lines:?}");
}

#[test]
fn what_outlives_the_grace_time_is_killed() {
    let settings = LaunchSettings {
        grace_failed: Duration::from_millis(20),
        ..settings(2, "[ $2 = 0 ] && exit 70; exec sleep 1000")
    };
    assert_eq!(run(Launcher::new(settings).0).0, 70);
    // One that is halted is lost to its peer, and that is the cause.
    let settings = LaunchSettings {
        grace_failed: Duration::from_millis(20),
        ..self::settings(2, "[ $2 = 0 ] && exit 69; exec sleep 1000")
    };
    assert_eq!(run(Launcher::new(settings).0).0, 69);
}

#[test]
fn a_second_stop_kills() {
    let (launcher, stop) = launcher(2, "echo up >&2; exec sleep 1000");
    let code = launcher.run(&|_, _| stop.stop());
    assert_eq!(code.unwrap(), 1);
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    let settings = LaunchSettings { exe: "/nonexistent/program".into(), ..settings(2, "") };
    let error = Launcher::new(settings).0.run(&|_, _| {}).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/program"), "{error}");
}
