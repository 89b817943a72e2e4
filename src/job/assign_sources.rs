//! The sources of a job among its processes, and the blocks that they ship to each other.
//!
//! Source k of the list belongs to process k mod n, unless it was given to one. All processes know
//! the list, so each knows which of the others have sources: those ship blocks, the rest only takes
//! them in. A process whose workers have enough to do never notices (see [`feed::remote_blocks`]).
//!
//! [`feed::remote_blocks`]: crate::feed::remote_blocks

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::runtime::Runtime;

use super::epoch_progress::EpochProgress;
use super::log_names;
use super::source_logs::OwnSources;
use crate::cluster::{BlockLink, ClusterSettings};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::feed::Feed;
use crate::file_lock::FormerRun;
use crate::lines::BlockPool;
use crate::meters::{Meters, SourceFacts};
use crate::sources::{Source, open_file_limit};
use crate::store::Target;
use crate::supervise::supervise;

/// The process that reads each source of the list.
#[derive(Clone, Debug)]
pub struct Readers(Vec<usize>);

impl Readers {
    /// A kept journal is read by process 0.
    pub fn of_journal() -> Readers {
        Readers(vec![0])
    }

    /// Returns true if `process` reads a source.
    fn contains(&self, process: usize) -> bool {
        self.0.contains(&process)
    }

    /// Returns the part that must be the same in every process: kinds and places of the sources.
    /// Their names may differ, as seen by each host.
    pub fn fingerprint(&self, sources: &[Source]) -> String {
        let each = sources.iter().zip(&self.0);
        each.map(|(source, process)| format!(" {process}={}", source.kind())).collect()
    }
}

/// Assigns each of `sources` to the process that it was given to, or in turn.
///
/// # Errors
/// `Usage` where a process is none, or where a source would read what is written to `target`.
pub fn place(
    sources: Vec<(Source, Option<usize>)>,
    target: &Target,
    processes: usize,
) -> Result<(Vec<Source>, Readers)> {
    let mut readers = Vec::new();
    let mut list = Vec::new();
    for (k, (source, given_to)) in sources.into_iter().enumerate() {
        if let Source::Kafka(topic) = &source {
            // Every process reads some of its partitions.
            list.extend(topic.shares(processes).map(|share| Source::Kafka(Box::new(share))));
            readers.extend(0..processes);
            continue;
        }
        let process = given_to.unwrap_or(k % processes);
        if process >= processes {
            let message = format!("{source} is for process {process}, but there are {processes}");
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("give --connect I=HOST:PORT with I below -n/--processes"));
        }
        source.check_output(target)?;
        list.push(source);
        readers.push(process);
    }
    Ok((list, Readers(readers)))
}

/// The sources of this process, which must be there; what another reads need not be on this host.
///
/// Fails with `Configuration` if a source of this process is not there, or the system allows too
/// few open files, and with `Disk` if the state cannot be read.
pub fn own(
    sources: Vec<Source>,
    (readers, cluster): (&Readers, &ClusterSettings),
    (have_journals, state): (bool, Option<&Path>),
    former: &FormerRun,
    meters: &Meters,
) -> Result<OwnSources> {
    let count = sources.len() as u32;
    let sources: Vec<_> = sources.into_iter().map(Source::resolve).collect();
    let names = log_names::names(&sources, state)?;
    let shown = log_names::distinct(sources.iter().map(Source::to_string));
    for (((k, source), name), process) in (0u32..).zip(&sources).zip(&shown).zip(&readers.0) {
        let (kind, name) = (source.kind().to_owned(), name.clone());
        let needs_connection =
            matches!(source, Source::Connect(_) | Source::Watch(_) | Source::Kafka(_));
        let facts = SourceFacts { kind, name, process: *process, needs_connection };
        meters.declare_source(k, facts);
    }
    let named = (0u32..).zip(sources).zip(&names).zip(&readers.0);
    let own = named.filter(|(_, process)| **process == cluster.process);
    let own: Vec<_> = own.map(|(((k, source), name), _)| (k, source, name.clone())).collect();
    // The run before this one may still have a port.
    own.iter().try_for_each(|(_, source, _)| former.bind(|| source.check()))?;
    open_file_limit::check(own.iter().map(|(_, source, _)| source), have_journals)?;
    Ok(OwnSources { own, count })
}

/// The settings of a process's data links.
pub struct BlockSharing<'a> {
    /// The number of this process.
    pub process: usize,
    /// The process that reads each source.
    pub readers: &'a Readers,
    /// Where blocks wait for the workers of this process.
    pub feed: &'a Feed,
    /// Where the ends of the others' blocks are noted.
    pub progress: &'a Arc<EpochProgress>,
    /// Limit on the bytes of this process's own blocks; those of others have half as many.
    pub blocks_bytes_max: usize,
    /// Longest text of a block that is believed.
    pub text_bytes_max: u64,
    /// Ends the job when a link fails.
    pub failure: &'a Failure,
}

impl BlockSharing<'_> {
    /// Ships blocks to the other processes if this one has sources, and takes in those of processes
    /// that have. The receiver that is returned ends when nothing more can come or go.
    ///
    /// Fails with `Failed` if a link cannot be handed to the runtime.
    pub fn start(&self, runtime: &Runtime, links: Vec<BlockLink>) -> Result<Receiver<()>> {
        let (running, ended) = channel();
        let pool = BlockPool::new(self.blocks_bytes_max / 2);
        let _entered = runtime.enter();
        for link in links {
            let peer_reads = self.reads(link.peer());
            let (outbound, inbound) = link.split()?;
            if self.reads(self.process) {
                let shipped = outbound.ship(self.feed.clone());
                let shipped = until_failed(shipped, self.failure.clone(), running.clone());
                supervise(self.failure, runtime.handle(), "ship", shipped);
            }
            if peer_reads {
                let progress = Arc::clone(self.progress);
                let index = progress.add_link();
                let passed = move |epoch| progress.arrived(index, epoch);
                let (feed, pool) = (self.feed.clone(), pool.clone());
                let received = inbound.receive(feed, pool, self.text_bytes_max, passed);
                let received = until_failed(received, self.failure.clone(), running.clone());
                supervise(self.failure, runtime.handle(), "receive", received);
            }
        }
        Ok(ended)
    }

    /// Returns true if `process` has sources, so that it ships blocks.
    fn reads(&self, process: usize) -> bool {
        self.readers.contains(process)
    }
}

/// Runs `work` until the job fails; holds `_running` meanwhile.
async fn until_failed(
    work: impl Future<Output = ()>,
    failure: Failure,
    _running: Sender<()>,
) -> Result<()> {
    tokio::select! {
        () = work => {}
        () = failure.failed() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(port: u16) -> Source {
        Source::Connect(format!("localhost:{port}").parse().expect("an address"))
    }

    #[test]
    fn sources_go_round_except_given_ones() {
        let sources = vec![(connect(1), None), (connect(2), Some(0)), (connect(3), None)];
        let (list, readers) = place(sources, &Target::Stdout, 3).expect("three processes");
        assert_eq!(readers.0, [0, 0, 2]);
        let cluster = ClusterSettings { processes: 3, process: 2, ..ClusterSettings::default() };
        let meters = Meters::default();
        let former = FormerRun::new(None, None, || false);
        let own = own(list, (&readers, &cluster), (false, None), &former, &meters);
        let own = own.expect("nothing to check");
        let own: Vec<_> = own.own.iter().map(|(k, _, name)| (*k, name.as_str())).collect();
        assert_eq!(own, [(2, "localhost:3")]);
    }

    #[test]
    fn unknown_process_is_refused() {
        let error =
            place(vec![(connect(1), Some(2))], &Target::Stdout, 2).expect_err("two processes");
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}
