//! The figures of a job: which facts they begin with, and how those of all processes come to
//! process 0.

use std::time::Duration;

use tokio::runtime::Handle;

use super::control_messages::{decode, encode};
use crate::cluster::{ClusterSettings, Control};
use crate::error::Result;
use crate::failure::Failure;
use crate::meters::{JobFacts, Meters, Phase};
use crate::state::Identity;
use crate::store::Target;
use crate::supervise::{self, supervise};

/// How often a process sends its figures to process 0, if that shows a page.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// Sets the facts of a job whose settings are checked.
pub fn begin(
    meters: &Meters,
    (identity, target, cluster): (&Identity, &Target, &ClusterSettings),
    started_ms: u64,
    journal_bytes_max: u64,
) {
    meters.journal().set_bytes_max(journal_bytes_max);
    meters.set_facts(JobFacts {
        dataflow: identity.definition.split(' ').next().unwrap_or_default().to_owned(),
        job: identity.digest(),
        started_ms,
        interval_ms: identity.interval_ms,
        output: target.to_string(),
        output_root: target.root(),
        process: cluster.process,
        processes: cluster.processes,
    });
}

/// Notes a failure in the figures, and if it follows from the loss of another process.
pub fn note_failure(failure: &Failure, meters: Meters, links: Control, process: usize) {
    failure.on_cause(move |cause| {
        if links.cause().is_some_and(|loss| loss.process != process) {
            meters.peer_lost(cause);
        }
        meters.enter(Phase::Failed, cause);
    });
}

/// Brings the figures of all processes to process 0: it keeps those of the others, and they send
/// theirs if it is watched.
pub fn share(
    meters: &Meters,
    links: &Control,
    is_watched: bool,
    failure: &Failure,
    runtime: &Handle,
) {
    if meters.facts().process == 0 {
        take_figures(meters.clone(), links);
    } else if is_watched {
        meters.keep_top();
        let sending = send_figures(meters.clone(), links.clone());
        supervise(failure, runtime, "figures", sending);
    }
}

/// Keeps the figures that the other processes send.
fn take_figures(meters: Meters, links: &Control) {
    links.on_figures(Box::new(move |from, bytes| match decode(bytes) {
        Ok(figures) => meters.set_peer(from, figures),
        Err(error) => tracing::debug!(from, %error, "figures that cannot be read"),
    }));
}

/// Sends the figures of this process to process 0 until the cluster is over. Never returns before.
async fn send_figures(meters: Meters, links: Control) -> Result<()> {
    loop {
        let (meters, sending) = (meters.clone(), links.clone());
        // It waits until process 0 has taken them: a process that is halted is not flooded.
        let send = move || sending.send_figures(encode(&meters.figures_to_send())?);
        if supervise::blocking(send).await.is_err() {
            // The loss is reported by the inbox.
            return Ok(());
        }
        tokio::time::sleep(REPORT_EVERY).await;
    }
}
