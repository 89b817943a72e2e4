//! How many files a process has open for its sources, held against the limit of the system.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Source;
use super::file::FILES_OPEN_MAX;
use crate::error::{Error, ErrorKind, Result};

/// Descriptors of a process beside those of its sources: runtime, workers, requests to a store.
const BASE: u64 = 64;
/// Descriptors of a journal: its lock, the segment that is written, the one before, a spare.
const JOURNAL: u64 = 4;
/// Descriptors of a stream: itself, and the pipe that stands for its stop.
const STREAM: u64 = 3;
/// Descriptors of a connection: two addresses of a name may be tried at a time.
const CONNECTION: u64 = 2;
/// Descriptors of a watched place: events, a pipe, the folder, a file, the ledger.
const WATCH: u64 = 8;
/// Descriptors of a server beside its connections: its socket, and one connection too many.
const LISTENER: u64 = 2;
/// Descriptors of a topic: one for each broker that leads partitions of it, and some to find them.
const TOPIC: u64 = 16;
/// Greatest limit that [`raise_limit`] asks for.
const RAISED_MAX: u64 = 65_536;

/// Returns how many descriptors a process needs for these sources, at most.
fn needed<'a>(sources: impl Iterator<Item = &'a Source>, have_journals: bool) -> u64 {
    let (mut files, mut needed) = (0, BASE);
    for source in sources {
        match source {
            Source::File(_) => files += 1,
            Source::Pipe(_) | Source::Stdin => needed += STREAM,
            Source::Connect(_) => needed += CONNECTION,
            Source::Watch(_) => needed += WATCH,
            Source::Http(listener) => needed += LISTENER + listener.connections_max as u64,
            Source::Kafka(_) => needed += TOPIC,
            // How many senders there may be follows the limit.
            Source::Listen(_) => needed += LISTENER,
        }
        needed += if have_journals { JOURNAL } else { 0 };
    }
    needed + files.min(FILES_OPEN_MAX as u64)
}

/// Refuses sources for which the limit of open files is too low.
///
/// # Errors
///
/// `Configuration`, naming the limit that is enough.
pub(crate) fn check<'a>(
    sources: impl Iterator<Item = &'a Source> + Clone,
    have_journals: bool,
) -> Result<()> {
    let needed = needed(sources.clone(), have_journals);
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < needed => {
            let count = sources.count();
            let message = format!(
                "{count} sources need up to {needed} open files in one process, and its limit \
                 (`ulimit -n`) is {limit}"
            );
            let mut way_out = format!("raise it with `ulimit -n {needed}`, or give fewer sources");
            if have_journals {
                way_out.push_str(" or --no-state");
            }
            Err(Error::new(ErrorKind::Configuration, message).hint(way_out))
        }
        _ => Ok(()),
    }
}

/// Returns how many senders a listener may have, at most `wanted`: half of the limit of open files
/// is left to others.
pub fn senders_max(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(RAISED_MAX);
    wanted.min(usize::try_from(limit / 2).unwrap_or(usize::MAX)).max(1)
}

/// Raises the soft limit of open files to the hard one, up to 65,536. For a program that owns its
/// process; the library does not call it.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(current) = current else { return };
    let wanted = maximum.unwrap_or(RAISED_MAX).min(RAISED_MAX);
    if wanted > current {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
        if let Err(error) = raised {
            tracing::debug!(%error, "the limit of open files stays at {current}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_journals_need_few_descriptors() {
        let files = vec![Source::File("lines".into()); 1_000];
        assert_eq!(needed(files.iter(), false), BASE + FILES_OPEN_MAX as u64);
        assert_eq!(needed(files.iter(), true), BASE + FILES_OPEN_MAX as u64 + 1_000 * JOURNAL);
    }
}
