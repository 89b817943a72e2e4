//! Many processes as one computation: bring-up, control links, and what happens when one is lost.
//!
//! Timely moves the data between workers, but brings its sockets up without a handshake or a
//! deadline and knows a lost peer only as a panic. So this module owns the sockets:
//!
//! * [`connect`] turns [`ClusterSettings`] into a [`Mesh`]: every process known, its key proved,
//!   its settings compared, within one bounded time; no stranger can stop it (`handshake`, `hello`,
//!   `bringup`).
//! * [`Mesh::data`] goes to timely through [`allocators`]; [`Control`] carries ends of epochs,
//!   stops and decisions, and finds the *first* cause when the cluster breaks (`links`, `cause`).
//!   Timely itself is kept from noticing, since it would panic (`data`): the job hears of the
//!   loss, its workers drop their dataflows and return. A cluster shares its fate: there is no
//!   rejoining, all processes end and all are started again.
//! * [`BlockLink`] carries lines from a process that reads more than it can count (`ship`).
//! * [`launch`] runs a whole cluster on this machine, and runs it again when it breaks.
//!
//! The sockets prove who is at the other end when they start. They do not encrypt, and do not
//! protect against someone who can write into a TCP stream: that is what WireGuard is for.

mod addresses;
mod bringup;
mod cause;
mod control;
mod data;
mod frame;
mod framing;
mod handshake;
mod hello;
mod inbox;
pub mod launch;
mod links;
mod ports;
mod rounds;
mod settings;
mod ship;
mod user_key;

use std::future::Future;
use std::net::TcpStream;

use crate::error::{Error, ErrorKind, Result};
use crate::supervise;
pub use cause::{Loss, follows_a_loss, is_of_malformed_data};
pub use control::Control;
pub use data::{Allocators, allocators};
pub use frame::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, Message};
pub use inbox::{Event, Inbox};
pub use settings::{
    ClusterSettings, Fingerprint, MeshKey, PROCESSES_MAX, default_addresses, parse_addresses,
    parse_hostfile, process_of_host, process_of_this_host, random_bytes, read_hostfile,
};
pub use ship::{BlockLink, Inbound, Outbound};

/// A cluster that is complete: every process has three connections to every other.
#[derive(Debug)]
pub struct Mesh {
    /// Sockets for timely, in order of process; `None` for this one. Empty for a single process.
    pub data: Vec<Option<TcpStream>>,
    /// Connections for blocks of lines, one to each other process.
    pub blocks: Vec<BlockLink>,
    /// The control links.
    pub control: Control,
    /// Where their messages arrive. Must be read as long as the cluster lives.
    pub inbox: Inbox,
    /// True if all processes run on one host; every process has the same answer.
    pub is_one_host: bool,
    threads: usize,
}

/// Brings the cluster up and returns when all processes have each other. A single one needs no
/// sockets.
///
/// # Errors
///
/// `Usage` and `Configuration` for what a restart does not mend: flags, a taken port, a missing
/// key, peers with other settings. `Temporary` if a name cannot be resolved within `start_timeout`.
/// `PeerLost` if processes are missing at its end; the message names them.
pub fn connect(settings: &ClusterSettings) -> Result<Mesh> {
    let mesh = connect_until(settings, std::future::pending())?;
    mesh.ok_or_else(|| Error::new(ErrorKind::Failed, "the start was cancelled"))
}

/// As [`connect`], but gives up with `None` as soon as `cancel` completes (a signal during the
/// wait).
///
/// # Errors
/// As [`connect`].
pub fn connect_until(
    settings: &ClusterSettings,
    cancel: impl Future<Output = ()> + Send,
) -> Result<Option<Mesh>> {
    settings.validate()?;
    let sockets = if settings.processes == 1 {
        Some(bringup::Sockets::none())
    } else {
        // On a thread of its own: the caller may itself run within an async runtime.
        std::thread::scope(|scope| {
            let (result, come) = std::sync::mpsc::sync_channel(1);
            let failed = result.clone();
            // Whoever waits has one message and then the end; the channel has room for both.
            let give = move |done| drop(result.try_send(done));
            let fail = move |error| drop(failed.try_send(Err(error)));
            supervise::scoped(scope, "bring up", fail, move || {
                give(run(bringup::bring_up(settings, cancel)));
                Ok(())
            });
            come.recv().unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Panicked, "the bring-up of the cluster has no result"))
            })
        })?
    };
    let Some(sockets) = sockets else {
        return Ok(None);
    };
    let (control, inbox) = Control::start(settings, &sockets)?;
    Ok(Some(Mesh {
        data: sockets.data,
        blocks: ship::links(sockets.blocks, &control),
        control,
        inbox,
        is_one_host: sockets.is_one_host,
        threads: settings.threads,
    }))
}

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| {
        Error::new(ErrorKind::Failed, "cannot start the runtime of the bring-up").cause(cause)
    })?;
    let result = runtime.block_on(work);
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();
    result
}

impl Mesh {
    /// Takes the data sockets and returns what timely needs. The caller must start the workers:
    /// timely's threads panic if nobody does.
    ///
    /// # Errors
    /// As [`allocators`].
    pub fn allocators(&mut self) -> Result<Allocators> {
        allocators(std::mem::take(&mut self.data), &self.control, self.threads)
    }
}
