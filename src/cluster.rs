//! Many processes as one computation: bring-up, control links, and the loss of a process.
//!
//! Timely moves the data between workers, but it opens its sockets without a handshake or a
//! deadline, and answers a lost peer with a panic. So this module owns the sockets:
//!
//! * [`connect`] turns [`ClusterSettings`] into a [`Mesh`]: every process has proved the key and
//!   has equal settings. It takes at most `start_timeout`, and unknown peers on the port cannot
//!   stop it (`handshake`, `handshake_messages`, `bringup`).
//! * [`Mesh::data`] goes to timely through [`allocators`]. [`Control`] carries ends of epochs,
//!   stops and decisions, and finds the *first* cause when the cluster breaks (`control_links`,
//!   `loss_cause`). Timely does not see the broken link, since it would panic (`data_sockets`). The
//!   control link reports the loss to the job, whose workers drop their dataflows and return. A
//!   process cannot rejoin: if one is lost, all end and all are started again.
//! * [`BlockLink`] carries lines from a process that reads more than it can count (`block_links`).
//! * [`launcher`] runs a whole cluster on this machine, and starts it again when it breaks.
//!
//! Each end of a connection proves the mesh key once, at the start. Connections are neither
//! encrypted nor protected against a program that can write into a TCP stream. Use WireGuard for
//! that.

mod addresses;
mod block_links;
mod bringup;
mod common_decisions;
mod control_frames;
mod control_handle;
mod control_links;
mod data_framing;
mod data_sockets;
mod handshake;
mod handshake_messages;
#[cfg(test)]
mod hostile_peer_tests;
mod inbox;
mod inherited;
pub mod launcher;
mod loopback_ports;
mod loss_cause;
mod peer_silence;
mod process_figures;
mod settings;
mod user_key;

use std::future::Future;
use std::net::TcpStream;

use crate::error::{Error, ErrorKind, Result};
use crate::supervise;
pub use block_links::BlockLink;
#[cfg(any(doc, feature = "internals"))]
pub use control_frames::MESSAGE_BYTES_MAX;
pub use control_frames::Message;
pub use control_handle::Control;
pub use data_sockets::{Allocators, allocators};
pub use inbox::{ControlEvent, Inbox};
#[cfg(feature = "internals")]
pub use loss_cause::Loss;
pub use loss_cause::{follows_a_loss, is_of_malformed_data};
pub use settings::{
    ClusterSettings, JobFingerprint, MeshKey, PROCESSES_MAX, default_addresses, parse_addresses,
    process_of_this_host, read_hostfile,
};

/// A complete cluster: every process has three connections to every other.
#[derive(Debug)]
pub struct Mesh {
    /// Sockets for timely, in order of process; `None` for this one. Empty for a single process.
    pub data: Vec<Option<TcpStream>>,
    /// Connections for blocks of lines, one to each other process.
    pub blocks: Vec<BlockLink>,
    /// The control links.
    pub control: Control,
    /// The messages of the control links. It must be read as long as the cluster lives.
    pub inbox: Inbox,
    /// True if all processes run on one host; every process has the same answer.
    pub is_one_host: bool,
    /// Number of workers in each process.
    threads: usize,
}

#[cfg(any(test, doc, feature = "internals"))]
/// Brings the cluster up and returns when all processes are connected to each other. A single
/// process needs no sockets.
///
/// # Errors
///
/// `Usage` and `Configuration` for faults that a restart does not mend: flags, a taken port, a
/// missing key, peers with other settings. `Temporary` if a name cannot be resolved within
/// `start_timeout`. `PeerLost` if processes are missing at its end; the message names them.
pub fn connect(settings: &ClusterSettings) -> Result<Mesh> {
    let mesh = connect_until(settings, std::future::pending())?;
    mesh.ok_or_else(|| Error::new(ErrorKind::Failed, "the start was cancelled"))
}

/// Works as [`connect`], but returns `None` as soon as `cancel` completes, for example at a signal.
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
            let (result, received) = std::sync::mpsc::sync_channel(1);
            let failed = result.clone();
            // One of the two sends at most, and the channel has room for it.
            let send = move |done| drop(result.try_send(done));
            let fail = move |error| drop(failed.try_send(Err(error)));
            supervise::scoped(scope, "bring up", fail, move || {
                send(run(bringup::bring_up(settings, cancel)));
                Ok(())
            });
            received.recv().unwrap_or_else(|_| {
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
        blocks: block_links::links(sockets.blocks, &control),
        control,
        inbox,
        is_one_host: sockets.is_one_host,
        threads: settings.threads,
    }))
}

/// Runs `work` to its end on a runtime of its own.
fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| {
        Error::new(ErrorKind::Failed, "cannot start the runtime of the bring-up").cause(cause)
    })?;
    let result = runtime.block_on(work);
    // A lookup of a name may block for seconds. It must not delay the end.
    runtime.shutdown_background();
    result
}

impl Mesh {
    /// Takes the data sockets and returns the allocators that timely needs. The caller must start
    /// the workers, or timely's threads panic.
    ///
    /// # Errors
    /// As [`allocators`].
    pub fn allocators(&mut self) -> Result<Allocators> {
        allocators(std::mem::take(&mut self.data), &self.control, self.threads)
    }
}
