//! Wrappers of timely's sockets that keep a lost peer from causing panics.
//!
//! Timely 0.32 answers a broken socket with a panic in its receiving thread, which poisons the
//! queues of every worker. A worker that finds a poisoned queue panics too, and if it drops a
//! second one while unwinding, the program aborts. A survivor must instead end in order and report
//! the cause.
//!
//! So timely never sees a broken link. A [`DataStream`] that breaks blocks its reader and discards
//! what is written to it, so timely takes the peer for a slow one. Meanwhile the control link
//! reports the loss, and the job wakes its workers, which drop their dataflows and return. After
//! the last one, the guard opens the [`DrainGate`], and the streams end as if the peer had closed
//! them in order.
//!
//! To distinguish an orderly end from a broken one, the stream follows timely's framing: a header
//! of six big-endian `u64` (channel, source, first target, end of targets, length, number), then as
//! many bytes as its length. A length of 0 is the end. Timely uses these numbers as indexes and
//! sizes without a check. So a header is held back until it is whole. A header with workers that
//! are not at the two ends, or with a length above the limit, ends the link as a lost peer.

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

use super::control_handle::Control;
use super::control_links::ControlLinks;
use super::data_framing::{Framing, HEADER_BYTES, LinkWorkers};
use crate::error::{Error, ErrorKind, Result};

/// The arguments of `timely::execute::execute_from`: one builder for each worker thread of this
/// process, and a guard of the threads that move the data.
pub type Allocators = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// Makes timely's allocators over the data sockets. Without sockets they are those of a single
/// process.
///
/// Pass the guard to `execute_from`. Joining the workers then also joins timely's threads, which
/// send the last messages before they end.
///
/// # Errors
/// `Failed` if a thread cannot be started or a socket cannot be cloned.
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
    let gate = Arc::new(DrainGate::default());
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

/// A gate that opens when the last worker has ended. Until then a worker could take the padding of
/// a broken stream for data.
#[derive(Debug, Default)]
struct DrainGate {
    /// True when the threads may end.
    open: Mutex<bool>,
    /// Notified when the gate opens.
    opened: Condvar,
}

impl DrainGate {
    /// Waits until the gate is open.
    fn wait(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(open, |open| !*open));
    }

    /// Opens the gate for ever.
    fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }
}

/// Timely's guard and the gate. Dropped after all workers have ended.
struct DataThreads {
    /// The gate that timely's threads wait at.
    gate: Arc<DrainGate>,
    /// Timely's threads, joined when this is dropped.
    guard: Option<CommsGuard>,
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        self.gate.open();
        let guard = self.guard.take();
        // The guard panics if one of its threads did. That follows a worker's own panic, which is
        // reported by the worker.
        if catch_unwind(AssertUnwindSafe(|| drop(guard))).is_err() {
            tracing::debug!("a data link ended by a panic");
        }
    }
}

/// A data socket that never breaks in timely's eyes; see the module.
///
/// Timely uses two clones of a stream, one in its sending and one in its receiving thread. Only the
/// reading one follows the framing.
#[derive(Debug)]
struct DataStream {
    /// The socket.
    stream: TcpStream,
    /// The gate at which a broken socket waits.
    gate: Arc<DrainGate>,
    /// The control links and the peer, to report a broken socket.
    alarm: Option<(Arc<ControlLinks>, usize)>,
    /// The workers at both ends.
    ends: LinkWorkers,
    /// Checks the headers of messages.
    framing: Framing,
    /// True after an error. The stream then yields padding up to an orderly end.
    broken: bool,
}

impl DataStream {
    /// Wraps `stream` at the beginning of timely's messages.
    fn new(
        stream: TcpStream,
        gate: Arc<DrainGate>,
        alarm: Option<(Arc<ControlLinks>, usize)>,
        ends: LinkWorkers,
    ) -> DataStream {
        DataStream { stream, gate, alarm, ends, framing: Framing::new(), broken: false }
    }

    /// Reads bytes of whole, checked headers and their payloads. Returns 0 at an orderly end.
    ///
    /// Fails if the connection breaks, ends in the middle, or carries a bad header.
    fn read_sound(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.framing.handed_on < HEADER_BYTES {
                return Ok(self.framing.hand_on(buffer));
            }
            let held = self.framing.filled;
            if held > 0 {
                // The last read cut a header. Complete it before anything is handed on.
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
    /// Reads what the peer sent. When the link breaks, reports it and waits for the gate; then
    /// gives the engine padding up to the end of the message that it is in.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.broken {
                // The gate was open, so no worker is left to take the padding for data.
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
                    // Timely got nothing of the last read, so the position goes back to before it.
                    (self.framing.payload_left, self.framing.ended) = before;
                    self.framing.filled = 0;
                    self.broken = true;
                }
            }
        }
    }
}

/// Takes every byte. Bytes for a broken link are discarded: the control link reports the loss.
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
        let _ = self.stream.shutdown(how); // a broken link is shut down already
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

    /// Returns the ends of a link from worker 1 (of process 1) to worker 0 (of process 0).
    fn workers() -> LinkWorkers {
        LinkWorkers::between(1, 0, 1)
    }

    /// Returns both ends of a connection, one of them wrapped, and the gate.
    fn pair() -> (TcpStream, DataStream, Arc<DrainGate>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let gate = Arc::new(DrainGate::default());
        let accepted = listener.accept().unwrap().0;
        (far, DataStream::new(accepted, Arc::clone(&gate), None, workers()), gate)
    }

    /// Runs timely's receiving loop for one worker.
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
