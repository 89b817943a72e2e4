use rustix::process::Signal;

use super::{all_done, check_prefixes, end, flood, start};
use crate::oracle::Counts;
use crate::rig::{Ended, Rig, Running, Server, side_by_side};

/// Starts three processes, each with a flooded source of its own, and waits until they commit.
pub(super) fn three_under_load(rig: &Rig, flags: &str) -> Vec<Running> {
    let servers: Vec<Server> = (0..3).map(|_| Server::new()).collect();
    let connect: Vec<String> = servers.iter().map(Server::flag).collect();
    let arguments = format!(
        "run {} {flags} --interval 50ms --format tsv --parts 5 --no-state --to out/c",
        connect.join(" ")
    );
    let processes = start(rig, 3, &arguments);
    for (source, server) in servers.iter().enumerate() {
        let peer = server.accept();
        std::thread::spawn(move || flood(peer, source));
    }
    processes[0].wait_for_lines(1_000);
    processes
}

/// Fails unless it ended with 69 and reported in exactly one line that `lost` was lost.
#[track_caller]
pub(super) fn told_once(ended: Ended, lost: usize) -> Ended {
    let ended = ended.expect(69);
    let names = format!("process {lost} (");
    let told = ended.stderr.iter().filter(|line| line.contains("error: ")).count();
    assert_eq!(told, 1, "errors\n{ended}");
    let told = ended.stderr.iter().filter(|line| line.contains(&names)).count();
    assert_eq!(told, 1, "lines that name process {lost}\n{ended}");
    ended.says(&["lost", &names])
}

#[test]
fn killed_process_is_reported_once_by_each() {
    side_by_side(vec![0, 1, 2], |victim| {
        let rig = Rig::new();
        let mut processes = three_under_load(&rig, "");
        processes[victim].signal(Signal::KILL);
        let killed = processes.remove(victim);
        for ended in end(processes) {
            told_once(ended, victim);
        }
        killed.end();
        let counts = rig.output("out/c").counts();
        assert!(check_prefixes(&counts, 3) >= 1_000, "committed epochs stay");
    });
}

#[test]
fn stopped_process_is_detected_by_silence() {
    let timeouts =
        [("5s", "silent for 5 s (stopped, or"), ("7s", "silent for 7 s though its host")];
    side_by_side(timeouts.to_vec(), |(timeout, told)| {
        let rig = Rig::new();
        let mut processes = three_under_load(&rig, &format!("--stall-timeout {timeout}"));
        processes[1].signal(Signal::STOP);
        let stopped = processes.remove(1);
        for ended in end(processes) {
            told_once(ended, 1).says(&[told]);
        }
        stopped.signal(Signal::CONT);
        let ended = stopped.end().expect(69);
        ended.says(&["lost this process"]);
    });
}

#[test]
fn pause_below_stall_timeout_is_survived() {
    let rig = Rig::new();
    let processes = three_under_load(&rig, "");
    processes[2].signal(Signal::STOP);
    // The epoch that is open now cannot be committed without it, later ones neither.
    let before = processes[0].wait_until("a line", |lines| Some(lines.len()));
    processes[2].signal(Signal::CONT);
    processes[0].wait_until("more epochs", |lines| (lines.len() > before + 10).then_some(()));
    processes[1].signal(Signal::TERM);
    all_done(processes);
    let output = rig.output("out/c");
    assert_eq!(check_prefixes(&output.counts(), 3) as u64, output.total("lines"));
}

#[test]
fn lost_lines_are_in_no_committed_epoch() {
    let rig = Rig::new();
    let server = Server::new();
    let flags = "--interval 24h --format tsv --no-state --to out/c";
    let mut processes = start(&rig, 2, &format!("run {} {flags}", server.flag()));
    server.accept().send("never committed\n");
    processes[0].wait_for("closed the connection");
    processes.remove(0).signal(Signal::KILL);
    told_once(processes.remove(0).end(), 0);
    assert_eq!(rig.output("out/c").counts(), Counts::new());
}
