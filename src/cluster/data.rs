//! Timely's sockets, so wrapped that a lost peer is no panic.
//!
//! Timely 0.32 answers a broken socket with a panic in its receiving thread, which poisons the
//! queues of every worker; a worker that meets one panics in turn, and when it then drops a second
//! poisoned queue while unwinding, the program aborts. A survivor must instead end in order, with
//! the cause in hand.
//!
//! So timely never sees a broken link. A [`DataStream`] that ends in the middle simply gives no
//! more bytes, and takes what is written without sending it: to timely that is a slow peer. The
//! control link knows better, the job wakes its workers, each drops its dataflows and returns; and
//! when the last has, the guard lets the streams close as if the peer had closed them in order.
//!
//! To know an orderly end from a broken one, the stream follows timely's framing: a header of six
//! big-endian `u64` (channel, source, first target, end of targets, length, number), then as many
//! bytes as its length; a length of 0 is the end. Timely uses these numbers as indexes and sizes
//! without a check. So a header is held back until it is whole, and one that names workers which
//! are not at the two ends, or a length above [`MESSAGE_BYTES_MAX`], ends the link as a lost peer.

use std::any::Any;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use timely::communication::allocator::thread::ThreadBuilder;
use timely::communication::allocator::zero_copy::initialize::{
    CommsGuard, initialize_networking_from_sockets,
};
use timely::communication::allocator::zero_copy::stream::Stream;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::initialize::Hooks;

use super::control::Control;
use super::framing::{Framing, HEADER_BYTES, LinkWorkers};
use super::links::ControlLinks;
use crate::error::{Error, ErrorKind, Result};

/// What `timely::execute::execute_from` takes: one builder for each worker thread of this process,
/// and a guard for the threads that move the data.
pub type Allocators = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// Hands the data sockets to timely. No sockets: a process alone.
///
/// The guard belongs into `execute_from`; joining the workers then also joins timely's send and
/// receive threads, without which the last messages may be lost.
///
/// # Errors
/// `Failed` when a thread cannot be started or a socket cannot be cloned.
pub fn allocators(
    data: Vec<Option<TcpStream>>,
    control: &Control,
    threads: usize,
) -> Result<Allocators> {
    let hooks = Hooks::default();
    let local = || ProcessBuilder::new_typed_vector(threads, hooks.refill.clone(), None);
    if data.iter().flatten().next().is_none() {
        let builders = if threads == 1 {
            vec![AllocatorBuilder::Thread(ThreadBuilder)]
        } else {
            local().into_iter().map(AllocatorBuilder::Process).collect()
        };
        return Ok((builders, Box::new(())));
    }
    let local = local();
    let gate = Arc::new(Gate::default());
    let wrap = |(peer, stream): (usize, Option<TcpStream>)| {
        let alarm = Some((Arc::clone(control.links()), peer));
        let ends = LinkWorkers::between(peer, control.links().settings.process, threads);
        stream.map(|stream| DataStream::new(stream, Arc::clone(&gate), alarm, ends))
    };
    let data = data.into_iter().enumerate().map(wrap).collect();
    let process = control.links().settings.process;
    let (builders, guard) = initialize_networking_from_sockets(
        local, data, process, threads, hooks,
    )
    .map_err(|cause| {
        let message = format!("cannot start the data links: {cause}");
        Error::new(ErrorKind::Failed, message).cause(cause)
    })?;
    let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    let guard = Some(guard);
    Ok((builders, Box::new(DataThreads { gate, guard })))
}

/// Closed as long as workers may take what timely's threads give them.
#[derive(Debug, Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn wait(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(open, |open| !*open));
    }

    fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }
}

/// Timely's guard with the gate. It is dropped when all workers have ended.
struct DataThreads {
    gate: Arc<Gate>,
    guard: Option<CommsGuard>,
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        self.gate.open();
        let guard = self.guard.take();
        // It panics when one of its threads did, after a worker's own panic; that one is told
        // elsewhere.
        if catch_unwind(AssertUnwindSafe(|| drop(guard))).is_err() {
            tracing::debug!("a data link ended by a panic");
        }
    }
}

/// A data socket that never breaks, see the module.
#[derive(Debug)]
struct DataStream {
    stream: TcpStream,
    gate: Arc<Gate>,
    /// Whom to tell that the link to this peer broke.
    alarm: Option<(Arc<ControlLinks>, usize)>,
    ends: LinkWorkers,
    framing: Framing,
    broken: bool,
}

impl DataStream {
    fn new(
        stream: TcpStream,
        gate: Arc<Gate>,
        alarm: Option<(Arc<ControlLinks>, usize)>,
        ends: LinkWorkers,
    ) -> DataStream {
        DataStream { stream, gate, alarm, ends, framing: Framing::new(), broken: false }
    }

    /// Reads bytes that timely can take; none at the end.
    fn read_sound(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.framing.handed_on < HEADER_BYTES {
                return Ok(self.framing.hand_on(buffer));
            }
            let held = self.framing.filled;
            if held > 0 {
                // The rest of a header that was cut by the last read.
                let mut rest = [0; HEADER_BYTES];
                let read = self.stream.read(&mut rest[held..])?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.framing.advance(&rest[held..held + read], &self.ends)?;
                if self.framing.filled == 0 {
                    self.framing.handed_on = 0;
                }
                continue;
            }
            let read = self.stream.read(buffer)?;
            let sound = self.framing.advance(&buffer[..read], &self.ends)?;
            if sound > 0 {
                return Ok(sound);
            }
            if read == 0 {
                return match self.framing.ended {
                    true => Ok(0),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }
}

impl Read for DataStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.broken {
                // No worker is left to take the zeros for data.
                return Ok(if self.framing.ended { 0 } else { self.framing.pad(buffer) });
            }
            let before = (self.framing.payload_left, self.framing.ended);
            match self.read_sound(buffer) {
                Ok(read) => return Ok(read),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => {
                    if let Some((links, peer)) = &self.alarm {
                        let closed = cause.kind() == io::ErrorKind::UnexpectedEof;
                        links.data_broke(*peer, (!closed).then_some(&cause));
                    }
                    self.gate.wait();
                    // Nothing of the last read was handed on.
                    (self.framing.payload_left, self.framing.ended) = before;
                    self.framing.filled = 0;
                    self.broken = true;
                }
            }
        }
    }
}

impl Write for DataStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(cause) if cause.kind() != io::ErrorKind::Interrupted => Ok(bytes.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for DataStream {
    fn try_clone(&self) -> io::Result<Self> {
        let (gate, ends) = (Arc::clone(&self.gate), self.ends.clone());
        Ok(DataStream::new(self.stream.try_clone()?, gate, self.alarm.clone(), ends))
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let _ = self.stream.shutdown(how); // a broken link has nothing left to shut down
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use timely::communication::allocator::zero_copy::bytes_exchange::MergeQueue;
    use timely::communication::allocator::zero_copy::tcp::recv_loop;
    use timely::communication::buzzer::Buzzer;
    use timely::communication::networking::MessageHeader;

    fn header(length: usize) -> Vec<u8> {
        let header = MessageHeader {
            channel: 3,
            source: 1,
            target_lower: 0,
            target_upper: 1,
            length,
            seqno: 5,
        };
        let mut bytes = Vec::new();
        header.write_to(&mut bytes).unwrap();
        bytes
    }

    fn messages(lengths: &[usize]) -> Vec<u8> {
        let message = |length: &usize| [header(*length), vec![0xff; *length]].concat();
        lengths.iter().flat_map(message).collect()
    }

    /// Workers 1 of process 1, and 0 of process 0.
    fn workers() -> LinkWorkers {
        LinkWorkers::between(1, 0, 1)
    }

    /// Both ends of a connection, one of them wrapped.
    fn pair() -> (TcpStream, DataStream, Arc<Gate>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let gate = Arc::new(Gate::default());
        let accepted = listener.accept().unwrap().0;
        (far, DataStream::new(accepted, Arc::clone(&gate), None, workers()), gate)
    }

    /// The life of timely's receiving thread, for one worker.
    fn receive(near: DataStream) {
        let refill = Hooks::default().refill;
        let (to_loop, queues) = std::sync::mpsc::channel();
        to_loop.send(MergeQueue::new_pair(Buzzer::default(), None, None).0).unwrap();
        recv_loop(near, vec![queues], 0, 0, 1, refill, None);
    }

    proptest! {
        #[test]
        fn framing_hands_on_whole_headers_only(
            lengths in proptest::collection::vec(1usize..300, 0..8),
            cut in 1usize..100,
        ) {
            let wire = [messages(&lengths), header(0)].concat();
            let mut framing = Framing::new();
            for piece in wire.chunks(cut) {
                let sound = framing.advance(piece, &workers()).unwrap();
                prop_assert!(sound == piece.len() || framing.filled > 0);
            }
            prop_assert!(framing.ended);
            prop_assert!(framing.advance(&[0], &workers()).is_err());
        }

        #[test]
        fn bytes_arrive_unchanged_in_any_cut(
            lengths in proptest::collection::vec(1usize..300, 0..8),
            cut in 1usize..100,
            room in 1usize..400,
        ) {
            let wire = [messages(&lengths), header(0)].concat();
            let (mut far, mut near, _gate) = pair();
            let sent = wire.clone();
            let writing = std::thread::spawn(move || {
                far.set_nodelay(true).unwrap();
                sent.chunks(cut).for_each(|piece| far.write_all(piece).unwrap());
            });
            let (mut got, mut buffer) = (Vec::new(), vec![0; room]);
            loop {
                match near.read(&mut buffer).unwrap() {
                    0 => break,
                    read => got.extend_from_slice(&buffer[..read]),
                }
            }
            writing.join().unwrap();
            prop_assert_eq!(got, wire);
        }

        #[test]
        fn timely_ends_in_order_wherever_a_link_breaks(
            lengths in proptest::collection::vec(1usize..300, 1..5),
            at in 0usize..1000,
        ) {
            let wire = messages(&lengths);
            let (mut far, near, gate) = pair();
            far.write_all(&wire[..at.min(wire.len())]).unwrap();
            drop(far);
            let reading = std::thread::spawn(|| receive(near));
            gate.open();
            prop_assert!(reading.join().is_ok());
        }

        #[test]
        fn timely_survives_any_bytes_of_a_peer(
            lengths in proptest::collection::vec(1usize..300, 0..3),
            fields: [u64; 6],
            chosen in proptest::collection::vec(0u64..4, 6),
            mixed: u8,
        ) {
            // Numbers near the right ones pass some of the checks.
            let pick = |at: usize| if mixed >> at & 1 == 0 { chosen[at] } else { fields[at] };
            let wrong = (0..6).flat_map(|at| pick(at).to_be_bytes());
            let wire = [messages(&lengths), wrong.collect()].concat();
            let (mut far, near, gate) = pair();
            far.write_all(&wire).unwrap();
            drop(far);
            let reading = std::thread::spawn(|| receive(near));
            gate.open();
            prop_assert!(reading.join().is_ok());
        }
    }

    #[test]
    fn orderly_end_needs_no_gate() {
        let (mut far, near, _closed) = pair();
        far.write_all(&[messages(&[7]), header(0)].concat()).unwrap();
        drop(far);
        receive(near);
    }

    #[test]
    fn write_to_a_broken_link_is_taken() {
        let (far, mut near, _gate) = pair();
        near.stream.shutdown(Shutdown::Both).unwrap();
        drop(far);
        near.write_all(&[1; 100_000]).unwrap();
        Stream::shutdown(&near, Shutdown::Write).unwrap();
    }
}
