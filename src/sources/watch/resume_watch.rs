//! The start of a watched source: where it was left, or what is there at its first start.
//!
//! The ledger in the journal's folder shows which it is. Without a ledger and without recorded
//! positions this is a first start: files that are there are noted as known and not read, unless
//! `--watch-existing` or `--once` asks for them. Positions without a ledger are damage.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::append_files::WatchReading;
use super::find_files_thread::{Channels, Discovery, ListingReport, ScanPace};
use super::found_file::{FoundFile, NameHash};
use super::inotify_events::FolderEvents;
use super::ledger::Ledger;
use super::list_objects::ObjectWatch;
use super::new_files::Arrivals;
use super::read_files_thread::Pump;
use super::scan_folder::{FirstListing, FolderWatch};
use super::watched_place::{Bucket, OpenPlace, Watch};
use crate::backoff::BackoffPolicy;
use crate::error::{Error, ErrorKind, Result};
use crate::sources::log::SourceLog;
use crate::store::StoreErrorKind;
use crate::supervise;

/// Reads the files of a watched place until a stop is asked for; with `once`, until those that are
/// there at the start were read.
///
/// # Errors
///
/// `Configuration` for a place that cannot be listed at the start, `Disk` if the ledger fails,
/// those of the journal.
pub async fn read(watch: Watch, once: bool, log: &mut SourceLog) -> Result<()> {
    let place = watch.open()?;
    // Before the first listing: each file that appears after it makes an event.
    let finder = log.serve_during(finder(place.clone())).await?;
    let folder = log.folder().map(Path::to_owned);
    let opened = folder.as_deref().map_or(Ok(None), Ledger::open)?;
    if opened.is_none() && !log.last_recorded().is_empty() {
        let message = format!("the list of the files of {} that were read is gone", watch.place);
        return Err(Error::new(ErrorKind::Disk, message)
            .hint("restore --state, or give another one to begin anew"));
    }
    let (stop, meter) = (log.stop().clone(), Arc::clone(log.meter()));
    let is_first = opened.is_none();
    let (ledger, unfinished) = match opened {
        Some(ledger) => (ledger, HashSet::new()),
        None => {
            let first = first_start(&place, watch.existing || once);
            let begun = log.serve_during(async {
                tokio::select! {
                    begun = first => Some(begun),
                    () = stop.stopped() => None,
                }
            });
            let Some(begun) = begun.await? else { return Ok(()) };
            let (files, unfinished) = begun?;
            if !files.is_empty() {
                tracing::info!(
                    "watching {} for new files; the {} that are there are not read, see \
                     --watch-existing",
                    watch.place,
                    files.len()
                );
            }
            (Ledger::create(folder.as_deref(), &files)?, unfinished)
        }
    };
    if let (OpenPlace::Objects(bucket), false) = (&place, is_first) {
        // What is refused now would be refused for the whole run.
        let listed = log.serve_during(async {
            tokio::select! {
                listed = bucket.check() => listed,
                () = stop.stopped() => Ok(()),
            }
        });
        listed.await??;
    }
    let pump = Pump::start(place.clone())?;
    let begun = WatchReading::begin(log, ledger, pump, place.clone()).await?;
    let Some(mut reading) = begun else { return Ok(()) };
    if !reading.read_again().await? {
        return Ok(());
    }
    let known = reading.known();
    let mut arrivals = Arrivals::new(&known, watch.every);
    arrivals.were_on(reading.device());
    arrivals.may_be_unfinished(&unfinished);
    if once {
        // A run that only reads what is there waits for no writer that it has not seen.
        arrivals.trust_scans();
    }
    let report = ListingReport::new(watch.place.to_string(), meter);
    let discovery = discover(finder, watch.every, once, arrivals, report)?;
    tracing::info!("watching {}", watch.place);
    reading.read_new(discovery, once).await
}

/// Finds the files of a place.
enum Finder {
    /// A local folder, with its events.
    Folder(FolderEvents),
    /// A prefix of an object store.
    Objects(Bucket),
}

/// Returns the finder of `place`. The events of a folder are collected from here on.
async fn finder(place: OpenPlace) -> Finder {
    match place {
        OpenPlace::Folder(folder) => {
            let mut events = FolderEvents::new(folder);
            Finder::Folder(
                supervise::blocking(move || {
                    events.attach();
                    events
                })
                .await,
            )
        }
        OpenPlace::Objects(bucket) => Finder::Objects(bucket),
    }
}

/// Starts to find files.
fn discover(
    finder: Finder,
    every: Duration,
    once: bool,
    arrivals: Arrivals,
    report: ListingReport,
) -> Result<Discovery> {
    Discovery::start(move |channels| {
        let Channels { results, unread, stop } = channels;
        match finder {
            Finder::Folder(events) => {
                let pace = ScanPace::new(every);
                let watch =
                    FolderWatch { events, pace, once, arrivals, results, report, unread, stop };
                watch.run()
            }
            Finder::Objects(bucket) => {
                ObjectWatch { bucket, every, once, arrivals, results, report, unread }.run()
            }
        }
    })
}

/// Returns the files that are not to be read because they were there before the first start, and
/// which of them may be unfinished. With `existing` there are none.
async fn first_start(
    place: &OpenPlace,
    existing: bool,
) -> Result<(Vec<FoundFile>, HashSet<NameHash>)> {
    match place {
        OpenPlace::Folder(_) if existing => Ok((Vec::new(), HashSet::new())),
        OpenPlace::Folder(folder) => {
            let listed = folder.clone();
            let listing = supervise::blocking(move || FirstListing::of(&listed)).await;
            let FirstListing { files, unfinished } = listing.map_err(|error| {
                let message = format!("cannot list {}: {error}", folder.display());
                Error::new(ErrorKind::Configuration, message)
                    .hint("give --watch a folder that exists and can be listed")
            })?;
            Ok((files, unfinished))
        }
        OpenPlace::Objects(bucket) => {
            let files = list(bucket).await?;
            Ok((if existing { Vec::new() } else { files }, HashSet::new()))
        }
    }
}

/// Lists a bucket, as often as the store is out of reach; a refusal is final.
async fn list(bucket: &Bucket) -> Result<Vec<FoundFile>> {
    let (mut backoff, mut is_told) = (BackoffPolicy::JITTERED.start(), false);
    loop {
        match bucket.list().await {
            Err(error) if error.kind == StoreErrorKind::Unavailable => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!("{error}; trying again");
                }
                tokio::time::sleep(backoff.next_pause()).await;
            }
            answer => return answer.map_err(Error::from),
        }
    }
}
