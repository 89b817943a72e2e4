use rustix::process::Signal;

use super::loss::three_under_load;
use super::{all_done, check_prefixes, start};
use crate::rig::{Rig, Server, side_by_side};

#[test]
fn stop_of_one_commits_on_all() {
    side_by_side(
        vec![(0, Signal::TERM), (1, Signal::INT), (2, Signal::TERM)],
        |(process, signal)| {
            let rig = Rig::new();
            let processes = three_under_load(&rig, "");
            processes[process].signal(signal);
            let ended = all_done(processes);
            let output = rig.output("out/c");
            let lines = check_prefixes(&output.counts(), 3) as u64;
            assert_eq!(lines, output.total("lines"));
            assert_eq!(lines, ended[0].committed_lines(), "{}", ended[0]);
            assert!(output.uncommitted.is_empty(), "{:?}", output.uncommitted);
        },
    );
}

#[test]
fn simultaneous_stops_end_as_one() {
    let rig = Rig::new();
    let processes = three_under_load(&rig, "");
    processes.iter().for_each(|process| process.signal(Signal::TERM));
    all_done(processes);
    let output = rig.output("out/c");
    assert_eq!(check_prefixes(&output.counts(), 3) as u64, output.total("lines"));
}

#[test]
fn stop_during_start_ends_with_message() {
    let (rig, server) = (Rig::new(), Server::new());
    let addresses = super::Addresses::new(2);
    let flags = addresses.flags(0);
    let program = rig.wordtide(&format!("run {} --no-state {flags} -v", server.flag())).start();
    program.wait_for("2 processes x 1 thread = 2 workers");
    let told = "stopped before all processes of the cluster had come: nothing was read";
    program.stop().expect(0).says(&[told]);
}

#[test]
fn epochs_limit_holds_on_all_processes() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--interval 20ms --epochs 5 --no-state --to out/c";
    let ended = all_done(start(&rig, 3, &format!("run {} {flags}", server.flag())));
    assert_eq!(ended[0].committed_epochs(), 5, "{}", ended[0]);
    assert_eq!(rig.output("out/c").epochs.len(), 5);
}
