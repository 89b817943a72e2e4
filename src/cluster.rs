//! Many processes as one computation: bring-up, control links, and what happens when one is lost.
//!
//! Timely moves the data between workers, but brings its sockets up without a handshake or a deadline
//! and knows a lost peer only as a panic. So this module owns the sockets:
//!
//! * [`connect`] turns [`ClusterSettings`] into a [`Mesh`]: every process known, its key proved, its
//!   settings compared, within one bounded time; no stranger can stop it (`greet`, `hello`, `bringup`).
//! * [`Mesh::data`] goes to timely through [`allocators`]; [`Control`] carries ticks, stops and decisions,
//!   and finds the *first* cause when the cluster breaks (`control`, `loss`). A cluster shares its fate:
//!   there is no rejoining, all processes end and all are started again.
//! * [`launch`] runs a whole cluster on this machine, and runs it again when it breaks.
//!
//! The sockets prove who is at the other end when they start. They do not encrypt, and do not protect
//! against someone who can write into a TCP stream: that is what WireGuard is for.

mod agree;
mod bringup;
mod control;
mod frame;
mod greet;
mod hello;
pub mod launch;
mod loss;
mod settings;

use std::any::Any;
use std::future::Future;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use timely::communication::allocator::thread::ThreadBuilder;
use timely::communication::allocator::zero_copy::initialize::{
    CommsGuard, initialize_networking_from_sockets,
};
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::initialize::Hooks;

use crate::error::{Error, ErrorKind, Result};
pub use control::{Control, Event, Inbox};
pub use frame::{FRAME_BYTES_MAX, Message};
pub use loss::{Consequence, Loss, classify_panic};
pub use settings::{
    ClusterSettings, MeshKey, PROCESSES_MAX, default_addresses, parse_addresses, parse_hostfile,
    process_of_host, process_of_this_host, read_hostfile,
};

/// A cluster that is complete: every process has a data socket and a control link to every other.
#[derive(Debug)]
pub struct Mesh {
    /// Sockets for timely, in order of process; `None` for this one. Empty for a single process.
    pub data: Vec<Option<TcpStream>>,
    /// What processes tell each other beside the data.
    pub control: Control,
    /// Where that arrives. Must be read as long as the cluster lives.
    pub inbox: Inbox,
    process: usize,
    threads: usize,
}

/// Brings the cluster up and returns when all processes have each other. A single one needs no sockets.
///
/// # Errors
/// `Usage` and `Configuration` for what a restart does not mend: flags, a taken port, a missing key,
/// peers with other settings. `Temporary` when a name cannot be resolved. `PeerLost` when processes are
/// missing at the end of `start_timeout`; the message names them.
pub fn connect(settings: &ClusterSettings) -> Result<Mesh> {
    let mesh = connect_until(settings, std::future::pending())?;
    mesh.ok_or_else(|| Error::new(ErrorKind::Failed, "the start was cancelled"))
}

/// As [`connect`], but gives up with `None` as soon as `cancel` completes (a signal during the wait).
///
/// # Errors
/// As [`connect`].
pub fn connect_until(
    settings: &ClusterSettings,
    cancel: impl Future<Output = ()> + Send,
) -> Result<Option<Mesh>> {
    settings.validate()?;
    let sockets = if settings.processes == 1 {
        Some(bringup::Sockets::default())
    } else {
        // On a thread of its own: the caller may itself run within an async runtime.
        std::thread::scope(|scope| {
            let bring_up = scope.spawn(|| run(bringup::bring_up(settings, cancel)));
            bring_up.join().unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Panicked,
                    "the bring-up of the cluster panicked",
                ))
            })
        })?
    };
    let Some(sockets) = sockets else {
        return Ok(None);
    };
    let (control, inbox) = Control::start(settings, &sockets)?;
    Ok(Some(Mesh {
        data: sockets.data,
        control,
        inbox,
        process: settings.process,
        threads: settings.threads,
    }))
}

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|cause| {
        Error::new(
            ErrorKind::Failed,
            "cannot start the runtime of the bring-up",
        )
        .cause(cause)
    })?;
    let result = runtime.block_on(work);
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();
    result
}

/// What `timely::execute::execute_from` takes: one builder for each worker thread of this process, and a
/// guard for the threads that move the data.
pub type Allocators = (Vec<AllocatorBuilder>, Box<dyn Any + Send>);

/// Hands the data sockets to timely.
///
/// The guard belongs into `execute_from`; joining the workers then also joins timely's send and receive
/// threads, without which the last messages may be lost. After a lost peer those threads have panicked:
/// the guard tells it to the log instead of panicking again.
///
/// # Errors
/// `Failed` when a thread cannot be started or a socket cannot be cloned.
pub fn allocators(
    data: Vec<Option<TcpStream>>,
    process: usize,
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
    let (builders, guard) = initialize_networking_from_sockets(
        local, data, process, threads, hooks,
    )
    .map_err(|cause| {
        Error::new(
            ErrorKind::Failed,
            format!("cannot start the data links: {cause}"),
        )
        .cause(cause)
    })?;
    let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    Ok((builders, Box::new(DataThreads(Some(guard)))))
}

impl Mesh {
    /// Splits the mesh into what timely needs and what the job keeps.
    ///
    /// # Errors
    /// As [`allocators`].
    pub fn into_parts(self) -> Result<(Allocators, Control, Inbox)> {
        let allocators = allocators(self.data, self.process, self.threads)?;
        Ok((allocators, self.control, self.inbox))
    }
}

/// Timely's guard panics in `drop` when one of its threads did, which would abort the program.
struct DataThreads(Option<CommsGuard>);

impl Drop for DataThreads {
    fn drop(&mut self) {
        let guard = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(guard))).is_err() {
            tracing::debug!("a data link ended by a panic");
        }
    }
}
