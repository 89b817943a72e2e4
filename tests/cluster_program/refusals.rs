use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use super::{Addresses, end};
use crate::rig::{Rig, Running};

/// Flags of a job that would wait for lines for ever.
const JOB: &str = "run --connect 127.0.0.1:9 --no-state --to out/c";

#[track_caller]
fn refused(arguments: &str, code: i32, texts: &[&str]) {
    let rig = Rig::new();
    rig.file("hosts.txt", "127.0.0.1:2101\n");
    rig.run(&format!("{JOB} {arguments}")).expect(code).says(texts);
}

#[test]
fn impossible_numbers_name_their_flag() {
    refused("-n 0", 2, &["-n/--processes"]);
    refused("-n 2 -p 2 --addresses a:1,b:2", 2, &["-p/--process is 2", "from 0 to 1"]);
    refused("-n 2 -p x --addresses a:1,b:2", 2, &["\"x\"", "-p/--process"]);
    refused("-n 2 --addresses a:1,b:2", 2, &["-p/--process"]);
    refused("-n 2 -p 0 --addresses a:1,b", 2, &["--addresses", "\"b\""]);
    refused("-n 3 -p 0 --addresses a:1,b:2", 2, &["2 addresses", "-n/--processes 3"]);
    refused("-p 0 --addresses a:1,b:2", 2, &["2 addresses", "-n/--processes 1"]);
    refused("-n 2 -p 0 --stall-timeout 900ms", 2, &["--stall-timeout", "at least 1s"]);
    refused("-w 0 -n 2 -p 0", 2, &["--threads"]);
}

#[test]
fn bad_hostfile_is_refused_by_name() {
    refused("-n 2 -p 0 -h hosts.txt", 78, &["hosts.txt", "addresses: 1", "-n/--processes is 2"]);
    refused("-n 2 -p 0 -h absent.txt", 78, &["absent.txt", "--hostfile"]);
}

#[test]
fn an_address_beyond_loopback_needs_a_key() {
    refused(
        "-n 2 -p 0 --addresses 127.0.0.1:1,192.0.2.1:2",
        78,
        &["process 1 (192.0.2.1:2)", "no mesh key", "--mesh-key-file"],
    );
}

#[test]
fn loopback_that_others_cannot_reach_is_reported() {
    let rig = Rig::new();
    let key = rig.file("mesh.key", "0123456789abcdef");
    std::fs::set_permissions(key, PermissionsExt::from_mode(0o600)).expect("our file");
    let addresses = Addresses::new(1);
    let own = addresses.of(0);
    let flags = "--mesh-key-file mesh.key -n 2 -p 0 --start-timeout 300ms";
    let ended = rig.run(&format!("{JOB} {flags} --addresses {own},192.0.2.1:2")).expect(69);
    ended.says(&["listens on loopback (127.0.0.1)", "process 1 (192.0.2.1:2)", "cannot reach it"]);
}

#[test]
fn key_file_open_to_others_is_refused() {
    let rig = Rig::new();
    let key = rig.file("mesh.key", "0123456789abcdef");
    std::fs::set_permissions(key, PermissionsExt::from_mode(0o644)).expect("our file");
    let flags = "-n 2 -p 0 --mesh-key-file mesh.key";
    rig.run(&format!("{JOB} {flags}")).expect(78).says(&["mesh.key", "chmod 600"]);
}

#[test]
fn unresolved_name_is_a_temporary_failure() {
    refused(
        "-n 2 -p 0 --start-timeout 600ms --addresses 127.0.0.1:1,no-such-host.invalid:2",
        75,
        &["no-such-host.invalid:2 of process 1: ", "tried for 0.6 s", "--hostfile"],
    );
}

#[test]
fn a_restart_that_nobody_would_make_is_told() {
    let flags = "-n 2 -p 1 --start-timeout 300ms --restart 3 --addresses 127.0.0.1:1,";
    let addresses = Addresses::new(1);
    refused(&format!("{flags}{}", addresses.of(0)), 69, &["--restart does nothing here"]);
}

#[test]
fn unshared_output_is_refused_by_all() {
    // Each runs in a directory of its own, so that the same path is another place.
    let (rigs, addresses) = ([Rig::new(), Rig::new()], Addresses::new(2));
    let start = |p: usize| rigs[p].wordtide(&format!("{JOB} {}", addresses.flags(p))).start();
    let (zero, one) = (start(0), start(1));
    let why = "out/c is not the directory that process 0 writes to";
    let one = one.end().expect(78).says(&[why, "--to"]);
    assert!(!one.stderr.iter().any(|line| line.contains("panicked")), "{one}");
    zero.end().expect(69).says(&["process 1 (", "failed: ", why]);
}

#[test]
fn a_taken_port_is_told_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let flags = format!("-n 2 -p 1 --addresses 127.0.0.1:1,{address}");
    refused(&flags, 78, &["cannot listen", &address.to_string(), "second process with this -p"]);
}

#[test]
fn a_process_that_never_comes_is_named() {
    let (rig, addresses) = (Rig::new(), Addresses::new(3));
    let start = |p| {
        let flags = addresses.flags(p);
        rig.wordtide(&format!("{JOB} {flags} --start-timeout 3s")).start()
    };
    let missing = format!("process 1 ({}", addresses.of(1));
    let mut named_alone = 0;
    for ended in end(vec![start(0), start(2)]) {
        // The process that gives up last misses the one before it, too.
        let ended = ended.expect(69).says(&["missing after 3 s: ", &missing, "--start-timeout"]);
        let errors = ended.stderr.iter().filter(|line| line.contains("error: "));
        assert_eq!(errors.count(), 1, "{ended}");
        let alone = format!("missing after 3 s: {missing}");
        named_alone += usize::from(ended.to_string().contains(&alone));
    }
    assert!(named_alone > 0, "each of the two misses the other");
}

/// Starts process 0 and 1 with flags of their own and expects both to be refused.
#[track_caller]
fn mismatched(flags: [&str; 2], texts: [&[&str]; 2]) {
    let (rig, addresses) = (Rig::new(), Addresses::new(2));
    let start =
        |p: usize| rig.wordtide(&format!("{JOB} {} {}", addresses.flags(p), flags[p])).start();
    let running: Vec<Running> = vec![start(0), start(1)];
    for (ended, texts) in end(running).into_iter().zip(texts) {
        ended.expect(78).says(texts).says(&["same command line but for -p"]);
    }
}

#[test]
fn other_cluster_shape_is_reported_by_both() {
    mismatched(
        ["-w 1", "-w 2"],
        [
            &["peer runs -n 2 -w 2, this process -n 2 -w 1"],
            &["peer runs -n 2 -w 1, this process -n 2 -w 2"],
        ],
    );
}

#[test]
fn another_job_is_named_on_both_sides() {
    let differ = |flags, thing: &str| {
        let told = format!("peer runs another job: it differs in {thing} (process ");
        mismatched(flags, [&[&told], &[&told]]);
    };
    differ(["--interval 1s", "--interval 2s"], "--interval");
    differ(["top_k --k 3", "top_k --k 4"], "the definition or its parameters");
    differ(["--suffix a", "--suffix b"], "--to or --suffix");
    differ(["--lowercase", ""], "--split, --lowercase, --max-word-bytes or --max-line-bytes");
    differ(["--connect 127.0.0.1:10", ""], "the number, kinds or places of sources");
    differ(["--sort word", "--parts 7"], "--parts");
    differ(
        ["--sort word", ""],
        "--format, --sort, --empty-epochs or another flag that shapes the output",
    );
}

#[test]
fn other_process_count_is_reported_by_both() {
    let (rig, addresses) = (Rig::new(), Addresses::new(3));
    let two = format!("-n 2 -p 0 --addresses {},{}", addresses.of(0), addresses.of(1));
    let zero = rig.wordtide(&format!("{JOB} {two}")).start();
    let one = rig.wordtide(&format!("{JOB} {}", addresses.flags(1))).start();
    zero.end().expect(78).says(&["peer runs -n 3 -w 1, this process -n 2 -w 1"]);
    one.end().expect(78).says(&["peer runs -n 2 -w 1, this process -n 3 -w 1"]);
}

#[test]
fn equal_indices_on_different_hosts_are_distinguished() {
    let (rig, addresses, other) = (Rig::new(), Addresses::new(2), Addresses::new(1));
    // The second one has its own idea of where process 1 is.
    let elsewhere = format!("-n 2 -p 1 --addresses {},{}", addresses.of(0), other.of(0));
    let server = crate::rig::Server::new();
    let job = format!("run {} --no-state --to out/c", server.flag());
    let zero = rig.wordtide(&format!("{job} {}", addresses.flags(0))).start();
    let first = rig.wordtide(&format!("{job} {}", addresses.flags(1))).start();
    let peer = server.accept();
    let second = rig.wordtide(&format!("{job} {elsewhere} --start-timeout 2s")).start();
    second.end().expect(69).says(&["missing after 2 s: process 0"]);
    drop(peer);
    zero.stop().expect(0);
    first.end().expect(0);
}

/// Starts process 0 with one key and process 1 with another, or none.
fn keys_differ(second: &str) {
    let (rig, addresses) = (Rig::new(), Addresses::new(2));
    for (name, secret) in [("a.key", "the secret of the cluster"), ("b.key", "not that secret")] {
        let path = rig.file(name, secret.repeat(2));
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("our file");
    }
    let start = |p: usize, key: &str| {
        let flags = format!("{} {key} --start-timeout 2s", addresses.flags(p));
        rig.wordtide(&format!("{JOB} {flags}")).start()
    };
    let (zero, one) = (start(0, "--mesh-key-file a.key"), start(1, second));
    let zero = zero.end().expect(69).says(&["missing after 2 s: process 1"]);
    let zero = zero.says(&["refused a connection", "did not prove the mesh key"]);
    let one = one.end().expect(69).says(&["process 0", "another mesh key; see --mesh-key-file"]);
    for line in zero.stderr.iter().chain(&one.stderr) {
        assert!(!line.contains("secret"), "a key is shown: {line}");
    }
}

#[test]
fn process_with_other_key_learns_the_reason() {
    keys_differ("--mesh-key-file b.key");
    keys_differ("");
}
