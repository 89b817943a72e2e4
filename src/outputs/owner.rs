//! The owner of an output: the run that may write there.
//!
//! An output keeps a sequence of claims, each with a term. The greatest term is the owner's. Object
//! stores keep them as objects, and databases as rows.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::publication::Publication;
use crate::epoch::Epoch;

/// The version of the owner's format that this release writes, and the newest it reads.
pub const OWNER_FORMAT: u32 = 1;
/// Bounds on the time between two renewals, which is otherwise the batch interval: below it
/// requests would cost more than those of the epochs, above it a failover would take too long.
const RENEW_MIN: Duration = Duration::from_secs(2);
/// Longest time between two renewals.
const RENEW_MAX: Duration = Duration::from_secs(10);
/// After so many periods without a renewal the owner counts as gone.
const STALE_PERIODS: u32 = 3;
/// The most states that a claim remembers to have followed.
const FORMER_MAX: usize = 16;

/// The run that a claim belongs to: the content of its object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The version of this format.
    pub format: u32,
    /// The program that wrote it.
    pub program: String,
    /// Hash of the job's identity.
    pub job: String,
    /// The job's state id.
    pub state: String,
    /// A random number of this run.
    pub run: String,
    /// The host of process 0.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Unix milliseconds of the run's start, by its own clock.
    pub started: u64,
    /// Milliseconds between two renewals.
    pub renew_ms: u64,
    /// Counts the renewals.
    pub renewed: u64,
    /// Set when the run has ended and stores nothing any more.
    pub released: bool,
    /// The newest epoch that was committed at the last renewal.
    pub newest: Option<Epoch>,
    /// States whose claims this one followed, newest first.
    pub former: Vec<String>,
}

impl Owner {
    /// Returns the owner of the run with the random number `run`, which begins now.
    pub fn new(publication: &Publication, run: &str, interval_ms: u64) -> Owner {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let renew = Duration::from_millis(interval_ms).clamp(RENEW_MIN, RENEW_MAX);
        Owner {
            format: OWNER_FORMAT,
            program: concat!("wordtide ", env!("CARGO_PKG_VERSION")).to_owned(),
            job: publication.job.clone(),
            state: publication.state.clone(),
            run: run.to_owned(),
            host: host.trim().to_owned(),
            pid: std::process::id(),
            started: publication.started,
            renew_ms: renew.as_millis() as u64,
            ..Owner::default()
        }
    }

    /// The time between two renewals.
    pub fn period(&self) -> Duration {
        // What another wrote is believed within bounds.
        Duration::from_millis(self.renew_ms).clamp(RENEW_MIN / 2, RENEW_MAX)
    }

    /// The time without a renewal after which this owner counts as gone.
    pub fn stale_after(&self) -> Duration {
        STALE_PERIODS * self.period()
    }

    /// Returns whether `state` is the owner's state, or one whose claims it followed.
    pub fn has_been(&self, state: &str) -> bool {
        self.state == state || self.former.iter().any(|former| former == state)
    }

    /// Notes that this claim follows that of `other`.
    pub fn follow(&mut self, other: &Owner) {
        let states = std::iter::once(&other.state).chain(&other.former);
        let mut former: Vec<String> = Vec::new();
        for state in states {
            if *state != self.state && !former.contains(state) {
                former.push(state.clone());
            }
        }
        former.truncate(FORMER_MAX);
        self.former = former;
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Owner { job, state, host, pid, started, .. } = self;
        write!(f, "job {job} with state {state}, process {pid} on {host}, started {started}")
    }
}

/// A claim that was found or taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its place in the sequence.
    pub term: u64,
    /// The run that it belongs to.
    pub owner: Owner,
}
