//! Timely's sockets, so wrapped that a lost peer is no panic.
//!
//! Timely 0.32 answers a broken socket with a panic in its receiving thread, which poisons the
//! queues of every worker; a worker that meets one panics in turn, and when it then drops a second
//! poisoned queue while unwinding, the program aborts. A survivor must instead end in order, with
//! the cause in hand.
//!
//! So timely never sees a broken link. A [`DataStream`] that ends in the middle simply gives no
//! more bytes, and takes what is written without sending it: to timely that is a slow peer. The
//! control link knows better, the job tells its workers, each worker calls [`abandon`] and returns;
//! and when the last has, the guard lets the streams close as if the peer had closed them in order.
//!
//! To know an orderly end from a broken one, the stream follows timely's framing: a header of six
//! big-endian `u64`, the fifth of which is the length of what follows it; a length of 0 is the end.

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
use timely::worker::Worker;

use super::control::Control;
use super::links::ControlLinks;
use crate::error::{Error, ErrorKind, Result};

/// Length of timely's message header, in bytes, and where its length field stands.
const HEADER_BYTES: usize = 48;
const LENGTH_AT: std::ops::Range<usize> = 32..40;

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
        stream.map(|stream| DataStream::new(stream, Arc::clone(&gate), alarm))
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

/// Drops every dataflow of a worker, so that it can return although they are not complete.
///
/// Call it between steps. What it held is gone; only a job that is over may do this.
pub fn abandon(worker: &mut Worker) {
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
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

/// Where a stream of timely's messages stands.
#[derive(Clone, Debug)]
struct Framing {
    header: [u8; HEADER_BYTES],
    filled: usize,
    payload_left: u64,
    ended: bool,
}

impl Framing {
    fn new() -> Framing {
        Framing { header: [0; HEADER_BYTES], filled: 0, payload_left: 0, ended: false }
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.ended {
            if self.payload_left > 0 {
                let skipped = self.wanted().min(bytes.len());
                self.payload_left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = self.wanted().min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEADER_BYTES {
                let mut length = [0; 8];
                length.copy_from_slice(&self.header[LENGTH_AT]);
                self.payload_left = u64::from_be_bytes(length);
                self.ended = self.payload_left == 0;
                self.filled = 0;
            }
        }
    }

    /// Bytes to the end of what has begun: a payload, or a header.
    fn wanted(&self) -> usize {
        match self.payload_left {
            0 => HEADER_BYTES - self.filled,
            left => usize::try_from(left).unwrap_or(usize::MAX),
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
    framing: Framing,
    broken: bool,
}

impl DataStream {
    fn new(
        stream: TcpStream,
        gate: Arc<Gate>,
        alarm: Option<(Arc<ControlLinks>, usize)>,
    ) -> DataStream {
        DataStream { stream, gate, alarm, framing: Framing::new(), broken: false }
    }

    /// Ends the stream as timely expects it: zeros complete what has begun, and 48 of them are the
    /// end. No worker is left to take them for data.
    fn pad(&mut self, buffer: &mut [u8]) -> usize {
        if self.framing.ended {
            return 0;
        }
        let padded = self.framing.wanted().min(buffer.len());
        buffer[..padded].fill(0);
        self.framing.advance(&buffer[..padded]);
        padded
    }
}

impl Read for DataStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.broken {
                return Ok(self.pad(buffer));
            }
            match self.stream.read(buffer) {
                Ok(0) if self.framing.ended => return Ok(0),
                Ok(read @ 1..) => {
                    self.framing.advance(&buffer[..read]);
                    return Ok(read);
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                ended => {
                    if let Some((links, peer)) = &self.alarm {
                        links.data_broke(*peer, ended.err().as_ref());
                    }
                    self.gate.wait();
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
        Ok(DataStream::new(self.stream.try_clone()?, Arc::clone(&self.gate), self.alarm.clone()))
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // Of a broken link there is nothing left to shut down.
        self.stream.shutdown(how).ok();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use timely::communication::allocator::zero_copy::tcp::recv_loop;
    use timely::communication::networking::MessageHeader;

    fn header(length: usize) -> Vec<u8> {
        let header = MessageHeader {
            channel: 3,
            source: 1,
            target_lower: 0,
            target_upper: 0,
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

    /// Both ends of a connection, one of them wrapped.
    fn pair() -> (TcpStream, DataStream, Arc<Gate>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let gate = Arc::new(Gate::default());
        let near = DataStream::new(listener.accept().unwrap().0, Arc::clone(&gate), None);
        (far, near, gate)
    }

    proptest! {
        #[test]
        fn the_framing_of_timely_is_followed_in_any_cut(
            lengths in proptest::collection::vec(1usize..300, 0..8),
            cut in 1usize..100,
        ) {
            let mut wire = messages(&lengths);
            let mut framing = Framing::new();
            wire.chunks(cut).for_each(|piece| framing.advance(piece));
            prop_assert!(!framing.ended);
            wire = header(0);
            wire.chunks(cut).for_each(|piece| framing.advance(piece));
            prop_assert!(framing.ended);
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
            let refill = Hooks::default().refill;
            let reading = std::thread::spawn(|| recv_loop(near, vec![], 0, 0, 1, refill, None));
            gate.open();
            prop_assert!(reading.join().is_ok());
        }
    }

    #[test]
    fn an_orderly_end_needs_no_gate() {
        let (mut far, near, _closed) = pair();
        far.write_all(&[messages(&[7]), header(0)].concat()).unwrap();
        drop(far);
        let refill = Hooks::default().refill;
        recv_loop(near, vec![], 0, 0, 1, refill, None);
    }

    #[test]
    fn a_write_to_a_broken_link_is_taken() {
        let (far, mut near, _gate) = pair();
        near.stream.shutdown(Shutdown::Both).unwrap();
        drop(far);
        near.write_all(&[1; 100_000]).unwrap();
        Stream::shutdown(&near, Shutdown::Write).unwrap();
    }
}
