//! An object store, a directory or standard output as the output of a job.
//!
//! | output | who may write | which epochs are committed |
//! | --- | --- | --- |
//! | bucket | the run with the newest claim object | those with a marker |
//! | directory | the process that holds the lock | those with a marker |
//! | standard output | the process itself | those that the state has noted |

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::changelog::ObjectChangelog;
use super::check_ownership::Ownership;
use super::check_store::{self, Made};
use super::claim_object::{Claim, ClaimKeys};
use super::existing_epochs::NamedEpochs;
use super::find_marker::{find_marker, is_committed};
use super::marker_json::Marker;
use super::object_form::ObjectForm;
use super::object_names::MARKER;
use super::put_objects::Publisher;
use super::take_claim::ClaimAttempt;
use crate::crash_points::crash_point;
use crate::epoch::{Clock, Epoch, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::file_lock::LockPatience;
use crate::outputs::commit_evidence::CommitEvidence;
use crate::outputs::output::{Claiming, OpenWriter, Output, OutputStart, WriterSettings};
use crate::outputs::owner::{Owner, Standing};
use crate::outputs::retry_start::StartRetrier;
use crate::store::local::{LocalStore, PrefixLock};
use crate::store::stdout::StdoutStore;
use crate::store::{
    self, ConditionalPuts, Environment, Store, StoreProbe, StoreSettings, Target, Versioning,
};

/// So many folders of epochs are emptied at a time.
const FOLDERS_AT_A_TIME: usize = 16;

/// An opened store of objects. A local one is locked by process 0 for as long as this lives.
#[derive(Debug)]
pub struct ObjectOutput {
    /// The place that `--to` names.
    target: Target,
    /// The store of the place.
    store: Arc<dyn Store>,
    /// The names and the encoding of the objects.
    form: ObjectForm,
    /// Folders that opening the store has made, for `wordtide check`.
    made: Made,
    /// The lock of a directory and the note in it; `None` before [`Output::lock`] and elsewhere.
    lock: Option<(Arc<PrefixLock>, String)>,
    /// Retries the requests of the start.
    retrier: StartRetrier,
}

impl ObjectOutput {
    /// Opens the store of `target`.
    ///
    /// # Errors
    ///
    /// Those of [`store::open`].
    pub fn open(
        target: &Target,
        settings: &StoreSettings,
        form: ObjectForm,
        retrier: StartRetrier,
    ) -> Result<Self> {
        let made = Made::before(target);
        let store = store::open(target, settings, &Environment::of_process())?;
        let store = store.unwrap_or_else(|| Arc::new(StdoutStore::new(MARKER)));
        Ok(ObjectOutput { target: target.clone(), store, form, made, lock: None, retrier })
    }

    /// Returns whether the store is a bucket, which has claims instead of a lock.
    fn is_bucket(&self) -> bool {
        matches!(self.target, Target::Oss { .. } | Target::S3 { .. })
    }

    /// Warns of a bucket with versioning, and of a store that ignores conditional requests.
    async fn warn_of_limits(&self) {
        let (target, facts) = (&self.target, self.store.facts().await);
        if facts.conditional_puts == ConditionalPuts::Ignored {
            tracing::warn!(
                "{target} is in a store that does not refuse to create an object which exists: it \
                 cannot keep a second job from overwriting this one's objects; let no other job \
                 write below the prefix"
            );
        }
        if facts.versioning == Versioning::Enabled {
            tracing::warn!(
                "{target} is in a bucket with versioning: an object that is sent again after a \
                 fault leaves an old version, which is paid for; add a lifecycle rule that expires \
                 noncurrent versions"
            );
        }
    }

    /// Returns the right of this process to write to a local output, for which process 0 noted
    /// `note`.
    ///
    /// # Errors
    ///
    /// `Configuration` if the directory cannot be opened any more.
    fn local_ownership(&self, note: Option<&str>) -> Result<Ownership> {
        Ok(match (&self.target, &self.lock, note) {
            (Target::Local { .. }, Some((lock, _)), _) => Ownership::Locked(Arc::clone(lock)),
            (Target::Local { root, prefix }, None, Some(note)) => {
                let store = LocalStore::open(root)?;
                Ownership::LockedBy(store, prefix.clone(), note.to_owned())
            }
            _ => Ownership::Unshared,
        })
    }

    /// Returns the names of claims on the prefix.
    fn claim_keys(&self) -> ClaimKeys {
        ClaimKeys::of(&self.form.layout)
    }

    /// Returns an attempt of a start to claim the prefix.
    fn attempt<'a>(&'a self, start: &OutputStart<'a>) -> ClaimAttempt<'a> {
        let (retrier, store, keys) = (&self.retrier, &*self.store, self.claim_keys());
        ClaimAttempt { retrier, store, keys, ids: start.ids, take_over: start.take_over }
    }

    /// Returns the epochs from `from` on that have a directory.
    fn since(&self, start: &OutputStart<'_>, from: Epoch) -> NamedEpochs<'_> {
        let (retrier, store, layout) = (&self.retrier, &*self.store, &self.form.layout);
        let OutputStart { wall_ms, interval_ms, .. } = *start;
        NamedEpochs { retrier, store, layout, from, wall_ms, interval_ms }
    }
}

impl Output for ObjectOutput {
    /// Locks the prefix of a directory. The note in the lock names this process and the time, so
    /// that other processes of the job can see that they write to the same directory.
    ///
    /// Fails with `Configuration`, naming the holder, if another process has the lock, and with
    /// `Temporary` if that one ends and needs longer than `patience`.
    fn lock(&mut self, patience: &LockPatience) -> Result<()> {
        if self.target == Target::Stdout {
            StdoutStore::check()?;
        }
        if let Target::Local { root, prefix } = &self.target {
            let (pid, now) = (std::process::id(), SystemClock::new().wall_ms());
            let note = format!("pid {pid} since {now}");
            let lock = LocalStore::open(root)?.lock_prefix(prefix, &note, patience)?;
            self.lock = Some((Arc::new(lock), note));
        }
        Ok(())
    }

    /// Returns the note in the lock that this process holds.
    fn lock_note(&self) -> Option<String> {
        self.lock.as_ref().map(|(_, note)| note.clone())
    }

    /// Compares the note in the lock of a directory with that of process 0. Two hosts can have
    /// different directories under one path.
    ///
    /// Fails with `Configuration` if the notes differ.
    fn join(&self, lock_note: Option<&str>) -> Result<()> {
        let target = &self.target;
        if let Target::Local { root, prefix } = target
            && LocalStore::open(root)?.lock_note(prefix)?.as_deref() != lock_note
        {
            let message = format!("{target} is not the directory that process 0 writes to");
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("give --to a directory that all processes share, or an object store"));
        }
        Ok(())
    }

    /// Returns false for standard output alone.
    fn reads_back(&self) -> bool {
        // Nothing that was printed can be looked at.
        self.target != Target::Stdout
    }

    /// Puts, lists, reads and deletes a probe object beside the prefix of a bucket, so that a right
    /// which is missing is known before anything is read. A directory was opened and locked
    /// already.
    ///
    /// Fails with `Configuration` if a request is refused, and with `Temporary` if the store is out
    /// of reach for a while.
    fn probe(&self, warns: bool) -> BoxFuture<'_, Result<()>> {
        async move {
            if self.is_bucket() {
                let probe = StoreProbe::beside(self.target.prefix());
                self.retrier.run(|| probe.run(&*self.store)).await?;
            }
            if warns {
                self.warn_of_limits().await;
            }
            Ok(())
        }
        .boxed()
    }

    /// Reads the newest claim of a bucket, and watches that of another run for renewals.
    fn standing<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
    ) -> BoxFuture<'a, Result<Option<Standing>>> {
        if !self.is_bucket() {
            // Locally the lock is held already.
            return ready(Ok(None)).boxed();
        }
        async move { self.attempt(start).stand().await }.boxed()
    }

    /// Creates the next claim of a bucket. Locally the lock is held already.
    ///
    /// Fails with `Configuration` if a recent epoch below the prefix has the marker of another job.
    ///
    /// Returns `Lost` if another start was faster.
    fn claim<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        former: Option<&'a Standing>,
        recent: Epoch,
    ) -> BoxFuture<'a, Result<Claiming>> {
        async move {
            if !self.is_bucket() {
                return Ok(Claiming::Unneeded);
            }
            if !start.take_over {
                let ids = start.ids;
                let is_known = |id: &str| {
                    ids.contains(id) || former.is_some_and(|former| former.owner.has_been(id))
                };
                let job = &start.publication.job;
                self.since(start, recent).refuse_foreign(job, is_known).await?;
            }
            let owner = Owner::new(start.publication, &start.run, start.interval_ms);
            let taken = self.attempt(start).take(former, owner).await?;
            Ok(taken.map_or(Claiming::Lost, |claim| Claiming::Taken(Box::new(claim))))
        }
        .boxed()
    }

    /// Looks the marker of an epoch up.
    ///
    /// Fails with `Configuration` for the marker of another job.
    fn is_committed<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        evidence: &'a CommitEvidence,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<bool>> {
        async move {
            let (layout, job) = (&self.form.layout, &start.publication.job);
            is_committed(&self.retrier, &*self.store, layout, job, evidence, epoch).await
        }
        .boxed()
    }

    /// Deletes what is in the folders of epochs without marker, several at a time.
    fn clear<'a>(&'a self, epochs: &'a [Epoch]) -> BoxFuture<'a, Result<()>> {
        let folders = epochs.iter().map(|epoch| self.form.layout.dir(*epoch));
        let cleared = stream::iter(folders).map(async |dir: String| {
            crash_point("recovery.before_clear");
            self.retrier.run(|| self.store.clear(&dir)).await?;
            crash_point("recovery.after_clear");
            Ok::<_, Error>(())
        });
        cleared.buffer_unordered(FOLDERS_AT_A_TIME).try_collect().boxed()
    }

    /// Returns the newest epoch that a folder below the prefix is named for, from `from` on.
    fn newest<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        from: Epoch,
    ) -> BoxFuture<'a, Result<Option<Epoch>>> {
        async move { self.since(start, from).newest().await }.boxed()
    }

    /// Reads the marker of an epoch, if there is one.
    ///
    /// Fails with `Configuration` if a later release wrote it in a format that is not known here.
    fn refuse_later(&self, epoch: Epoch) -> BoxFuture<'_, Result<()>> {
        async move {
            let key = self.form.layout.marker(epoch);
            let found = find_marker(&self.retrier, &*self.store, &key).await?;
            let Some(bytes) = found.filter(|bytes| Marker::later_format(bytes).is_some()) else {
                return Ok(());
            };
            let message = format!("{key} was written by {}", Marker::owner_of(&bytes));
            Err(Error::new(ErrorKind::Configuration, message)
                .hint("run that release or a later one, or give another --to and --state"))
        }
        .boxed()
    }

    /// Returns the writer of a run, and its changelog: below the prefix, or, for standard output,
    /// in the state folder.
    fn writer(&self, run: WriterSettings) -> Result<OpenWriter> {
        let ownership = match run.claim {
            Some(standing) => {
                let store = Arc::clone(&self.store);
                Ownership::Claimed(Claim::new(store, self.claim_keys(), standing, run.is_first))
            }
            None => self.local_ownership(run.lock_note.as_deref())?,
        };
        let (form, mut store) = (self.form.clone(), Arc::clone(&self.store));
        if self.target == Target::Stdout && run.state.is_some() {
            store = Arc::new(StdoutStore::new(MARKER).keeping_state());
        }
        let publisher = Publisher::new(form, run.publication, store, run.runtime)
            .bounded_by(run.results)
            .metered(run.meters)
            .owned(ownership, run.commits);
        let changelog = match run.state {
            None => None,
            // What is printed cannot be read back: the state itself has to remember.
            Some(state) if self.target == Target::Stdout => {
                let publisher = publisher.to_store(Arc::new(LocalStore::open(&state)?));
                Some(ObjectChangelog::new(publisher))
            }
            Some(_) => Some(ObjectChangelog::new(publisher.clone())),
        };
        Ok(OpenWriter {
            writer: Arc::new(publisher),
            changelog: changelog.map(|changelog| Arc::new(changelog) as _),
        })
    }

    /// Puts, lists, reads and deletes one object under the prefix: the facts for `wordtide check`.
    fn check(&self) -> BoxFuture<'_, Result<Vec<(&'static str, String)>>> {
        check_store::check(&self.target, &*self.store, &self.made).boxed()
    }
}
