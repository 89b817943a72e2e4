//! The control links of complete clusters on loopback: messages, decisions, and the first cause.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use timely::communication::allocator::zero_copy::bytes_exchange::{BytesPush, MergeQueue};
use timely::communication::allocator::zero_copy::tcp::recv_loop;
use timely::communication::buzzer::Buzzer;
use timely::communication::initialize::Hooks;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Exchange, Input, Probe};
use wordtide::internals::cluster::launcher::Ports;
use wordtide::internals::cluster::{
    Allocators, ClusterSettings, Control, ControlEvent, Inbox, Loss, MESSAGE_BYTES_MAX, Mesh,
    Message, follows_a_loss,
};
use wordtide::{Error, ErrorKind};

use crate::cluster_mesh::{cluster, connect_all, settings};

/// Long enough that only a hang reaches it.
const LONG: Duration = Duration::from_secs(60);

fn links(n: usize) -> (Vec<Control>, Vec<Inbox>) {
    let parts = cluster(n).into_iter().map(|mesh| (mesh.control, mesh.inbox));
    parts.unzip()
}

/// Exchanges facts: returns those of all processes, in order of index, to every process.
pub(crate) fn gather(
    control: &Control,
    facts: Vec<u8>,
    timeout: Duration,
) -> Result<Vec<Vec<u8>>, Error> {
    let all = control.agree(facts, timeout, |all| Ok(serde_json::to_vec(&all).unwrap()))?;
    Ok(serde_json::from_slice(&all).unwrap())
}

fn on_all<T: Send>(all: &[Control], act: impl Fn(usize, &Control) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let act = &act;
        let each = all.iter().enumerate();
        let each: Vec<_> = each.map(|(index, one)| scope.spawn(move || act(index, one))).collect();
        each.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Waits for the next event.
fn next(inbox: &mut Inbox) -> Option<ControlEvent> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(inbox.recv())
}

/// The parts for timely, and those that a job keeps.
fn parts(mut mesh: Mesh) -> (Allocators, Control, Inbox) {
    let allocators = mesh.allocators().unwrap();
    (allocators, mesh.control, mesh.inbox)
}

fn losses(mut inbox: Inbox) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(event) = next(&mut inbox) {
        if let ControlEvent::Lost(loss) = event {
            found.push(loss.to_string());
        }
    }
    found
}

#[test]
fn messages_arrive_in_order_with_their_sender() {
    let (controls, mut inboxes) = links(3);
    let tick = |epoch| Message::Tick { epoch, next: epoch + 1 };
    controls[0].broadcast(tick(1)).unwrap();
    controls[0].broadcast(tick(2)).unwrap();
    for inbox in &mut inboxes[1..] {
        for epoch in [1, 2] {
            let message = tick(epoch);
            assert_eq!(next(inbox), Some(ControlEvent::Received { from: 0, message }));
        }
    }
    for from in [2, 0] {
        let message = Message::AskStop { reason: "signal".into() };
        controls[from].send(0, message.clone()).unwrap();
        assert_eq!(next(&mut inboxes[0]), Some(ControlEvent::Received { from, message }));
    }
}

#[test]
fn long_messages_arrive_whole_and_in_order() {
    let (controls, mut inboxes) = links(2);
    for bytes in [60_000, 3_000_000, 1] {
        let message = Message::Other((0..bytes).map(|at| at as u8).collect());
        controls[0].broadcast(message.clone()).unwrap();
        assert_eq!(next(&mut inboxes[1]), Some(ControlEvent::Received { from: 0, message }));
    }
}

#[test]
fn message_above_limit_is_refused() {
    let (controls, mut inboxes) = links(2);
    let error = controls[0].broadcast(Message::Other(vec![0; MESSAGE_BYTES_MAX])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    let message = Message::Other(vec![1]);
    controls[0].broadcast(message.clone()).unwrap();
    assert_eq!(next(&mut inboxes[1]), Some(ControlEvent::Received { from: 0, message }));
}

#[test]
fn decisions_on_large_facts_reach_everybody() {
    let (controls, _inboxes) = links(3);
    let facts = |index: usize| vec![index as u8; 700_000];
    let gathered = on_all(&controls, |index, control| gather(control, facts(index), LONG).unwrap());
    let expected: Vec<_> = (0..3).map(facts).collect();
    assert!(gathered.iter().all(|all| *all == expected));
}

/// Writes until the receiver's window is closed.
fn fill(mut stream: &std::net::TcpStream) {
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let bytes = vec![0; 1 << 20];
    while std::io::Write::write(&mut stream, &bytes).is_ok() {}
}

#[test]
fn a_full_data_link_is_no_lost_peer() {
    let ports = Ports::reserve(2).unwrap();
    let hurried = |index| ClusterSettings {
        stall_timeout: Duration::from_millis(200),
        link_timeout: Duration::from_millis(200),
        ..settings(&ports, index)
    };
    let all = connect_all(vec![hurried(0), hurried(1)]);
    let mut meshes: Vec<Mesh> = all.into_iter().map(Result::unwrap).collect();
    let full = meshes[0].data[1].take().unwrap();
    fill(&full);
    // Several times as long as a host may acknowledge nothing; this one acknowledges the probes.
    assert_eq!(meshes[0].control.cause_within(Duration::from_secs(3)), None);
    assert_eq!(full.take_error().unwrap().map(|cause| cause.kind()), None);
}

#[test]
fn epoch_out_of_turn_is_lost_peer() {
    let tick = |epoch, next| Message::Tick { epoch, next };
    let wrong = [
        (0, vec![tick(5, 5)]),
        (0, vec![tick(5, 6), tick(5, 7)]),
        (0, vec![tick(5, u64::MAX)]),
        (0, vec![tick(5, 6), Message::Stop { epoch: u64::MAX, reason: String::new() }]),
        (1, vec![tick(5, 6)]),
        (1, vec![Message::Stop { epoch: 5, reason: String::new() }]),
    ];
    for (from, messages) in wrong {
        let (controls, _inboxes) = links(2);
        for message in messages {
            controls[from].broadcast(message).unwrap();
        }
        let cause = controls[1 - from].cause_within(LONG).unwrap();
        assert_eq!(cause.process, from);
        assert!(cause.cause.contains("the end of"), "{cause}");
    }
}

#[test]
fn each_process_gets_facts_of_all_in_order() {
    let (controls, _inboxes) = links(3);
    let rounds = on_all(&controls, |index, control| {
        let round = |r: u8| gather(control, vec![r, index as u8], LONG).unwrap();
        (0..20).map(round).collect::<Vec<_>>()
    });
    for rounds in rounds {
        for (r, all) in rounds.into_iter().enumerate() {
            let r = r as u8;
            assert_eq!(all, [[r, 0], [r, 1], [r, 2]]);
        }
    }
}

#[test]
fn error_of_decision_reaches_all_with_kind() {
    let (controls, _inboxes) = links(3);
    let refuse = |_| Err(Error::new(ErrorKind::Configuration, "the states differ"));
    let errors = on_all(&controls, |_, c| c.agree(Vec::new(), LONG, refuse).unwrap_err());
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert_eq!(error.to_string(), "the states differ");
    }
}

#[test]
fn decision_without_peer_ends_at_timeout() {
    let (controls, _inboxes) = links(2);
    let error = gather(&controls[0], Vec::new(), Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerLost);
}

#[test]
fn a_goodbye_is_no_loss() {
    let (controls, inboxes) = links(3);
    // The first to leave does not wait; its link ends long before the others leave.
    controls[2].finish(Duration::ZERO).unwrap();
    let others = &controls[..2];
    for cause in on_all(others, |_, c| c.cause_within(Duration::from_millis(200))) {
        assert_eq!(cause, None);
    }
    on_all(others, |_, control| control.finish(LONG).unwrap());
    drop(controls);
    for inbox in inboxes {
        assert_eq!(losses(inbox), [""; 0]);
    }
}

#[test]
fn process_without_goodbye_is_named_once_by_others() {
    let (mut controls, mut inboxes) = links(3);
    drop((controls.pop(), inboxes.pop()));
    let causes = on_all(&controls, |_, control| control.cause_within(LONG).unwrap());
    for cause in &causes {
        assert_eq!(cause.process, 2);
        assert!(cause.to_string().starts_with("lost process 2 (127.0.0.1:"), "{cause}");
    }
    // The second death is an echo, for all that is left.
    drop((controls.pop(), inboxes.pop()));
    let zero = controls.pop().unwrap();
    assert_eq!(zero.cause().unwrap(), causes[0]);
    assert_eq!(Error::from(causes[0].clone()).kind(), ErrorKind::PeerLost);
    assert!(zero.broadcast(Message::Other(Vec::new())).is_err());
    drop(zero);
    assert_eq!(losses(inboxes.remove(0)), [causes[0].to_string()]);
}

#[test]
fn first_failure_reaches_others_with_cause() {
    let (controls, _inboxes) = links(3);
    let own = controls[1].fail("worker 1 panicked: index out of bounds");
    assert_eq!((own.process, own.reporter), (1, 1));
    for control in [&controls[0], &controls[2]] {
        let cause = control.cause_within(LONG).unwrap().to_string();
        assert!(cause.starts_with("process 1 (127.0.0.1:"), "{cause}");
        assert!(cause.ends_with("failed: worker 1 panicked: index out of bounds"), "{cause}");
    }
    let later = controls[2].fail("something else");
    assert_eq!(later.process, 1);
}

#[test]
fn silent_peer_is_lost_after_stall_timeout() {
    let ports = Ports::reserve(2).unwrap();
    let patient = ClusterSettings {
        stall_timeout: Duration::from_millis(300),
        link_timeout: Duration::from_millis(300),
        ..settings(&ports, 0)
    };
    let quiet = ClusterSettings {
        heartbeat_interval: Duration::from_secs(20),
        link_timeout: LONG,
        ..settings(&ports, 1)
    };
    let meshes: Vec<Mesh> =
        connect_all(vec![patient, quiet]).into_iter().map(Result::unwrap).collect();
    let cause = meshes[0].control.cause_within(LONG).unwrap();
    assert_eq!(cause.process, 1);
    assert!(cause.cause.starts_with("silent for 0.3 s"), "{cause}");
    let told = meshes[1].control.cause_within(LONG).unwrap().to_string();
    assert!(told.contains("its connection") || told.contains("lost this process"), "{told}");
}

#[test]
fn process_that_reads_no_messages_ends_cluster() {
    let ports = Ports::reserve(2).unwrap();
    let lazy = ClusterSettings { inbox_messages_max: 4, ..settings(&ports, 0) };
    let all = connect_all(vec![lazy, settings(&ports, 1)]);
    let meshes: Vec<Mesh> = all.into_iter().map(Result::unwrap).collect();
    for _ in 0..5 {
        meshes[1].control.send(0, Message::Other(vec![1])).ok();
    }
    let cause = meshes[1].control.cause_within(LONG).unwrap();
    assert_eq!(cause.process, 0);
    assert!(cause.to_string().contains("does not read its control messages"), "{cause}");
}

/// Sums 0..100 of all processes over an exchange, in each process for its share.
fn sum(mesh: Mesh) -> (Control, Inbox, Result<u64, String>) {
    let ((builders, guard), control, inbox) = parts(mesh);
    let worker_config = timely::WorkerConfig::default();
    let guards = timely::execute::execute_from(builders, guard, worker_config, move |worker| {
        let total = std::rc::Rc::new(std::cell::Cell::new(0));
        let seen = std::rc::Rc::clone(&total);
        let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<u64>>>::new();
        let probe = worker.dataflow(|scope| {
            let sums = scope.input_from(&mut input).exchange(|x: &u64| *x);
            sums.map(move |x| seen.set(seen.get() + x)).probe().0
        });
        (0..100).for_each(|x| input.send(x));
        input.close();
        worker.step_or_park_while(None, || !probe.done());
        total.get()
    });
    (control, inbox, guards.unwrap().join().remove(0))
}

#[test]
fn timely_runs_over_mesh_and_ends_cleanly() {
    let start = |mesh| std::thread::spawn(move || sum(mesh));
    let threads: Vec<_> = cluster(3).into_iter().map(start).collect();
    let mut total = 0;
    let mut controls = Vec::new();
    let mut inboxes = Vec::new();
    for thread in threads {
        let (control, inbox, result) = thread.join().unwrap();
        total += result.unwrap();
        controls.push(control);
        inboxes.push(inbox);
    }
    assert_eq!(total, 3 * 4950);
    on_all(&controls, |_, control| control.finish(LONG).unwrap());
}

/// Exchanges data for ever; when the cluster is over, leaves the dataflow as a job must.
fn exchange_until_lost(mesh: Mesh) -> (Loss, Result<(), String>) {
    let ((builders, guard), control, mut inbox) = parts(mesh);
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let worker_config = timely::WorkerConfig::default();
    let guards = timely::execute::execute_from(builders, guard, worker_config, move |worker| {
        let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<u64>>>::new();
        let probe =
            worker.dataflow(|scope| scope.input_from(&mut input).exchange(|x: &u64| *x).probe().0);
        for epoch in 1.. {
            (0..5000).for_each(|x| input.send(x));
            input.advance_to(epoch);
            let waits = || probe.less_than(&epoch) && !seen.load(Ordering::SeqCst);
            worker.step_or_park_while(None, waits);
            if seen.load(Ordering::SeqCst) {
                for dataflow in worker.installed_dataflows() {
                    worker.drop_dataflow(dataflow);
                }
                return;
            }
        }
    });
    let guards = guards.unwrap();
    while !matches!(next(&mut inbox), Some(ControlEvent::Lost(_)) | None) {}
    over.store(true, Ordering::SeqCst);
    guards.guards().iter().for_each(|worker| worker.thread().unpark());
    let result = guards.join().remove(0);
    (control.cause().unwrap(), result)
}

#[test]
fn lost_peer_ends_other_workers_without_panic() {
    let mut meshes = cluster(3);
    let dying = meshes.pop().unwrap();
    let start = |mesh| std::thread::spawn(move || exchange_until_lost(mesh));
    let threads: Vec<_> = meshes.into_iter().map(start).collect();
    // All its sockets close in the middle of everything, as when it is killed.
    drop(dying);
    for thread in threads {
        let (loss, result) = thread.join().unwrap();
        assert_eq!(loss.process, 2);
        assert_eq!(result, Ok(()));
    }
}

#[test]
fn broken_data_socket_ends_cluster() {
    let meshes = cluster(2);
    let socket = meshes[1].data[0].as_ref().unwrap().try_clone().unwrap();
    let start = |mesh| std::thread::spawn(move || exchange_until_lost(mesh));
    let threads: Vec<_> = meshes.into_iter().map(start).collect();
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    for thread in threads {
        let (loss, result) = thread.join().unwrap();
        assert!(loss.to_string().contains("data link"), "{loss}");
        assert_eq!(result, Ok(()));
    }
}

fn panic_message(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => other.downcast::<&'static str>().unwrap().to_string(),
    }
}

#[test]
fn panics_of_this_timely_are_known() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener.accept().unwrap());
    let refill = Hooks::default().refill;
    let reading = std::thread::spawn(move || recv_loop(stream, vec![], 0, 0, 1, refill, None));
    let message = panic_message(reading.join().unwrap_err());
    assert!(follows_a_loss(&message), "{message}");

    let (mut writer, reader) = MergeQueue::new_pair(Buzzer::default(), None, None);
    std::thread::spawn(move || {
        let _reader = reader;
        panic!("a test poisons the queue");
    })
    .join()
    .unwrap_err();
    let write = std::panic::AssertUnwindSafe(|| writer.extend(None));
    let message = panic_message(std::panic::catch_unwind(write).unwrap_err());
    // Its drop would panic once more.
    std::mem::forget(writer);
    assert!(follows_a_loss(&message), "{message}");
}
