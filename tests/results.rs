//! Results of closed epochs that wait for a store which is away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::cluster_program::Addresses;
use crate::rig::{Rig, Server};
use crate::store::oss_double::OssDouble;
use crate::store_program::{TO, oss, stored};

/// The files of results that wait in the state.
fn waiting(rig: &Rig) -> Vec<PathBuf> {
    let files = fs::read_dir(rig.path("state/results-0")).into_iter().flatten();
    files.map(|file| file.expect("a file").path()).collect()
}

#[test]
fn results_of_an_outage_wait_on_disk() {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    let flags = "--interval 50ms --state state --results-memory 1KiB";
    let program = oss(&rig, &double, &format!("run {} {flags} {TO}", server.flag())).start();
    let mut peer = server.accept();
    peer.send("before\n");
    program.wait_for_lines(1);
    double.outage(true);
    let mut lines = 1;
    // More epochs than are in flight otherwise: each has words that no other has.
    while waiting(&rig).len() < 50 {
        peer.send(format!("{lines}{}\n", "x".repeat(100)));
        lines += 1;
        std::thread::yield_now();
    }
    let mode = |path: &PathBuf| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert!(waiting(&rig).iter().all(|path| mode(path) == 0o600));
    double.outage(false);
    program.wait_for_lines(lines);
    program.stop().expect(0).says(&["results that wait", "state/results-0"]);
    assert_eq!(stored(&rig, &double).total("words"), lines);
    assert_eq!(waiting(&rig), Vec::<PathBuf>::new(), "removed when they are stored");
}

#[test]
fn start_waits_for_run_that_ends() {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    // The page is served to the end, so its port is in use until then.
    let http = Addresses::new(1);
    let http = format!("--http {}", http.of(0));
    let run = format!("run {} --interval 50ms --state state {http} {TO}", server.flag());
    let first = oss(&rig, &double, &run).start();
    let mut peer = server.accept();
    peer.send("before\n");
    first.wait_for_lines(1);
    double.outage(true);
    peer.send("during\n");
    first.signal(Signal::TERM);
    // Until the store is back its stop cannot end.
    first.wait_for("stopping: ");
    let without_http = run.replace(&http, "");
    let other = oss(&rig, &double, &without_http).start();
    other.wait_for("the run before this one is ending");
    other.stop().expect(0);
    let second = oss(&rig, &double, &run).start();
    second.wait_for("the run before this one may be ending");
    double.outage(false);
    let first = first.end().expect(0);
    let mut peer = server.accept();
    peer.send("after\n");
    second.wait_for_lines(1);
    let second = second.stop().expect(0);
    let lines = first.committed_lines() + second.committed_lines();
    assert_eq!(stored(&rig, &double).total("words"), lines as u64);
}

#[test]
fn results_without_state_stop_reading() {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    let flags = "--interval 50ms --no-state --results-memory 1KiB";
    let program = oss(&rig, &double, &format!("run {} {flags} {TO}", server.flag())).start();
    let mut peer = server.accept();
    double.outage(true);
    peer.send((0..2000).map(|n| format!("word{n}\n")).collect::<String>());
    program.wait_for("reading stops");
    peer.send("later\n");
    double.outage(false);
    program.wait_for_lines(2001);
    program.stop().expect(0).says(&["reading goes on"]);
    assert_eq!(stored(&rig, &double).total("words"), 2001);
}
