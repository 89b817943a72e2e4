//! The bring-up between real sockets on loopback; the "processes" are threads of the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::thread::ScopedJoinHandle;
use std::time::Duration;

use wordtide::internals::cluster::launcher::Ports;
use wordtide::internals::cluster::{
    ClusterSettings, JobFingerprint, Mesh, MeshKey, connect, connect_until,
};
use wordtide::{Error, ErrorKind};

use crate::cluster_control::gather;

/// The fingerprint of a job with this number.
fn job(number: u32) -> JobFingerprint {
    JobFingerprint::of([""; JobFingerprint::THINGS].map(|_| ("its number", number.to_string())))
}

/// Settings of process `index` of a cluster on these ports, impatient enough for a test.
pub(crate) fn settings(ports: &Ports, index: usize) -> ClusterSettings {
    ClusterSettings {
        processes: ports.addresses().len(),
        process: index,
        addresses: ports.addresses().to_vec(),
        start_timeout: Duration::from_secs(60),
        heartbeat_interval: Duration::from_millis(50),
        mesh_key: key("the key of these tests"),
        fingerprint: job(7),
        ..ClusterSettings::default()
    }
}

pub(crate) fn key(secret: &str) -> Option<MeshKey> {
    Some(MeshKey::from_secret(secret.as_bytes()).unwrap())
}

/// Brings up all of them at once.
pub(crate) fn connect_all(all: Vec<ClusterSettings>) -> Vec<Result<Mesh, Error>> {
    std::thread::scope(|scope| {
        let each = all.iter().map(|settings| scope.spawn(|| connect(settings)));
        let each: Vec<_> = each.collect();
        each.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Waits until all of these starts have ended, and unwraps them.
///
/// No mesh is dropped before that. A process that leaves while another one still waits for a READY
/// counts as one that died during the start.
pub(crate) fn complete<const N: usize>(
    processes: [ScopedJoinHandle<'_, Result<Mesh, Error>>; N],
) -> [Mesh; N] {
    processes.map(|process| process.join().unwrap()).map(Result::unwrap)
}

/// A complete cluster of `n`.
pub(crate) fn cluster(n: usize) -> Vec<Mesh> {
    let ports = Ports::reserve(n).unwrap();
    let all = (0..n).map(|index| settings(&ports, index)).collect();
    connect_all(all).into_iter().map(Result::unwrap).collect()
}

#[test]
fn processes_get_sockets_to_others_in_order() {
    let meshes = cluster(3);
    for (index, mesh) in meshes.iter().enumerate() {
        let present: Vec<bool> = mesh.data.iter().map(Option::is_some).collect();
        let expected: Vec<bool> = (0..3).map(|peer| peer != index).collect();
        assert_eq!(present, expected);
    }
    assert!(meshes.iter().all(|mesh| mesh.is_one_host));
    let (there, here) = (&meshes[0].data[2], &meshes[2].data[0]);
    let far = there.as_ref().unwrap().peer_addr().unwrap();
    assert_eq!(far, here.as_ref().unwrap().local_addr().unwrap());
}

#[test]
fn a_single_process_needs_no_sockets() {
    let mesh = connect(&ClusterSettings::default()).unwrap();
    assert!(mesh.data.is_empty());
    assert_eq!(gather(&mesh.control, b"x".to_vec(), Duration::ZERO).unwrap(), [b"x"]);
    mesh.control.finish(Duration::ZERO).unwrap();
}

#[test]
fn processes_with_one_key_join() {
    let ports = Ports::reserve(2).unwrap();
    let with_key = |index| ClusterSettings {
        mesh_key: key("the same secret everywhere"),
        ..settings(&ports, index)
    };
    let meshes = connect_all(vec![with_key(0), with_key(1)]);
    assert!(meshes.iter().all(Result::is_ok));
}

#[test]
fn other_cluster_shape_is_named_by_both() {
    let ports = Ports::reserve(2).unwrap();
    let wide = ClusterSettings { threads: 2, ..settings(&ports, 1) };
    let results = connect_all(vec![settings(&ports, 0), wide]);
    let errors: Vec<Error> = results.into_iter().map(Result::unwrap_err).collect();
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::Configuration));
    let (zero, one) = (errors[0].to_string(), errors[1].to_string());
    assert!(zero.contains("peer runs -n 2 -w 2, this process -n 2 -w 1"), "{zero}");
    assert!(one.contains("peer runs -n 2 -w 1, this process -n 2 -w 2"), "{one}");
    assert!(zero.contains(&format!("process 1 ({})", ports.addresses()[1])), "{zero}");
}

#[test]
fn another_job_is_named_on_both_sides() {
    let ports = Ports::reserve(2).unwrap();
    let other = ClusterSettings { fingerprint: job(8), ..settings(&ports, 1) };
    for result in connect_all(vec![settings(&ports, 0), other]) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("another job"), "{error}");
    }
}

#[test]
fn hostfiles_in_different_order_are_named() {
    let ports = Ports::reserve(3).unwrap();
    let mut confused = settings(&ports, 2);
    confused.addresses.swap(0, 1);
    confused.start_timeout = Duration::from_secs(5);
    let results = connect_all(vec![settings(&ports, 1), confused]);
    for result in results {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("--hostfile"), "{error}");
    }
}

#[test]
fn missing_processes_are_named_at_deadline() {
    let ports = Ports::reserve(4).unwrap();
    let hurried = ClusterSettings { start_timeout: Duration::from_secs(2), ..settings(&ports, 1) };
    let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
    let one = std::thread::scope(|scope| {
        let until = async { cancelled.await.unwrap_or_default() };
        scope.spawn(|| connect_until(&settings(&ports, 2), until).unwrap());
        let one = connect(&hurried).unwrap_err();
        cancel.send(()).unwrap();
        one
    });
    assert_eq!(one.kind(), ErrorKind::PeerLost);
    let address = |index: usize| ports.addresses()[index].clone();
    let text = one.to_string();
    assert!(text.starts_with("missing after 2 s: process 0 ("), "{text}");
    assert!(text.contains(&format!("process 0 ({}): Connection refused", address(0))), "{text}");
    assert!(text.contains(&format!("process 3 ({})", address(3))), "{text}");
    assert!(!text.contains("process 2"), "{text}");
}

#[test]
fn taken_port_is_reported_at_once() {
    let ports = Ports::reserve(2).unwrap();
    let _other = std::net::TcpListener::bind(&ports.addresses()[1]).unwrap();
    let error = connect(&settings(&ports, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn foreign_address_is_reported_at_once() {
    let ports = Ports::reserve(2).unwrap();
    let mut elsewhere = settings(&ports, 1);
    elsewhere.addresses[1] = "192.0.2.1:2101".into();
    elsewhere.mesh_key = key("some secret of enough bytes");
    let error = connect(&elsewhere).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("does not have that address"), "{error}");
}

#[test]
fn address_beyond_loopback_requires_key() {
    let ports = Ports::reserve(2).unwrap();
    let mut open = settings(&ports, 0);
    open.addresses[1] = "192.0.2.1:2101".into();
    open.mesh_key = None;
    let error = connect(&open).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let text = error.to_string();
    assert!(text.contains("process 1 (192.0.2.1:2101)"), "{text}");
    assert!(text.contains("--mesh-key-file"), "{text}");
}

#[test]
fn a_name_that_does_not_resolve_is_temporary() {
    let ports = Ports::reserve(2).unwrap();
    let mut unknown = settings(&ports, 0);
    unknown.addresses[1] = "nowhere.invalid:2101".into();
    unknown.start_timeout = Duration::from_millis(300);
    let error = connect(&unknown).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Temporary);
    assert!(error.to_string().contains("nowhere.invalid:2101"), "{error}");
    assert!(error.to_string().contains("--start-timeout"), "{error}");
}

#[test]
fn wrong_key_keeps_process_out_by_name() {
    let ports = Ports::reserve(2).unwrap();
    let with_key = |index, secret| ClusterSettings {
        mesh_key: key(secret),
        start_timeout: Duration::from_millis(500),
        ..settings(&ports, index)
    };
    let all = vec![with_key(0, "one secret of the two"), with_key(1, "the other of the two")];
    let mut results = connect_all(all);
    let one = results.remove(1).unwrap_err();
    assert_eq!(one.kind(), ErrorKind::PeerLost);
    assert!(one.to_string().contains("another mesh key; see --mesh-key-file"), "{one}");
    assert!(results.remove(0).unwrap_err().to_string().contains("missing"));
}

#[test]
fn processes_of_different_starts_do_not_join() {
    let ports = Ports::reserve(2).unwrap();
    let of = |index, generation| ClusterSettings {
        generation,
        start_timeout: Duration::from_millis(400),
        ..settings(&ports, index)
    };
    let mut results = connect_all(vec![of(0, 2), of(1, 1)]);
    let one = results.remove(1).unwrap_err();
    assert!(one.to_string().contains("another start of the cluster"), "{one}");
}

#[test]
fn process_that_dies_while_starting_may_return() {
    let ports = Ports::reserve(3).unwrap();
    std::thread::scope(|scope| {
        let zero = scope.spawn(|| connect(&settings(&ports, 0)));
        // The first life of process 1 joins process 0, misses process 2 and ends.
        let first =
            ClusterSettings { start_timeout: Duration::from_millis(500), ..settings(&ports, 1) };
        assert!(connect(&first).unwrap_err().to_string().contains("process 2"));
        let one = scope.spawn(|| connect(&settings(&ports, 1)));
        let two = scope.spawn(|| connect(&settings(&ports, 2)));
        complete([zero, one, two]);
    });
}

#[test]
fn second_process_with_taken_index_is_refused() {
    let ports = Ports::reserve(4).unwrap();
    std::thread::scope(|scope| {
        let started = |index| {
            let settings = settings(&ports, index);
            scope.spawn(move || connect(&settings))
        };
        let (zero, one) = (started(0), started(1));
        // On its own address, as on another host; it gives up before the others are complete.
        let elsewhere = Ports::reserve(1).unwrap();
        let mut twin = settings(&ports, 1);
        twin.addresses[1] = elsewhere.addresses()[0].clone();
        twin.start_timeout = Duration::from_millis(700);
        connect(&twin).unwrap_err();
        let (two, three) = (started(2), started(3));
        complete([zero, one, two, three]);
    });
}

#[test]
fn a_start_can_be_cancelled() {
    let ports = Ports::reserve(2).unwrap();
    let mesh = connect_until(&settings(&ports, 0), std::future::ready(())).unwrap();
    assert!(mesh.is_none());
}
