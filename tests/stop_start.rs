//! A stop of a job that has not begun to read: it ends at once, with exit code 0.

use std::sync::mpsc::{Receiver, channel};

use rustix::process::Signal;

use crate::cluster_program::Addresses;
use crate::rig::{Rig, Server};
use crate::store::oss_double::{Fault, OssDouble};
use crate::store_program::{TO, oss};

/// Leaves every request with a path that contains `part` unanswered; the first is reported.
fn stall(double: &OssDouble, part: &'static str) -> Receiver<()> {
    let (asked, heard) = channel();
    double.script(move |_, path| {
        path.contains(part).then(|| {
            // Nothing listens after the first.
            let _ = asked.send(());
            Fault::Stall
        })
    });
    heard
}

#[test]
fn stop_during_store_probe_reads_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
        let asked = stall(&double, "");
        let program = oss(&rig, &double, &format!("run {} {TO}", server.flag())).start();
        asked.recv().expect("a request");
        program.signal(signal);
        program.end().expect(0).says(&["nothing was read"]);
    }
}

#[test]
fn stop_of_one_ends_the_start_of_all() {
    for stopped in [0, 1] {
        let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
        let (asked, addresses) = (stall(&double, ""), Addresses::new(2));
        let start = |process: usize| {
            let flags = format!("run {} {TO} {}", server.flag(), addresses.flags(process));
            oss(&rig, &double, &flags).start()
        };
        let programs = [0, 1].map(start);
        asked.recv().expect("a request");
        programs[stopped].signal(Signal::TERM);
        for ended in programs.map(|program| program.end()) {
            ended.expect(0).says(&["nothing was read"]);
        }
    }
}
