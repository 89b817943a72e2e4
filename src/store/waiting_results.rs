//! The results of closed epochs that wait to be stored, and the bound on their memory.
//!
//! While a store is out of reach, closed epochs accumulate. Their bodies are counted here until
//! they are dropped. If they exceed a limit and the store is slow, bodies move to files in a folder
//! of the job's state and are read back when they are stored. The journal has the same epochs, so a
//! file is never synced. It is removed with its body, or by the next start after a crash. Files are
//! readable by their owner only.
//!
//! Without a folder, or without room in it, reading stops instead: see [`PendingResults::watch`].

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::Body;
use super::body::{BodyAccount, BodyFile, WeakBody};
use crate::epoch::Epoch;
use crate::supervise;

/// The age of a body after which the store counts as slow, and bodies may move to disk. A fast
/// store would need them back before they are written.
const SLOW_AFTER: Duration = Duration::from_secs(2);

/// The bytes of one permit for reading back.
const PERMIT_BYTES: u64 = 1 << 10;

/// The limits of the results that wait, and their folder.
#[derive(Clone, Debug)]
pub struct ResultsLimits {
    /// Bytes in memory above which bodies go to disk: `--results-memory`.
    pub memory_bytes_max: u64,
    /// Bytes on disk above which reading stops: `--journal-max`.
    pub disk_bytes_max: u64,
    /// The folder for bodies; `None` for a job without state.
    pub folder: Option<PathBuf>,
}

/// The results that wait to be stored, in one process. Clones share them.
#[derive(Clone)]
pub struct PendingResults {
    /// The results that all clones share.
    shared: Arc<ResultsShared>,
}

struct ResultsShared {
    /// The limits.
    limits: ResultsLimits,
    /// The results.
    waiting: Mutex<Waiting>,
    /// Replaced when any figure changes.
    level: watch::Sender<Level>,
    /// Memory for bodies that are read back, in permits.
    reads: Semaphore,
    /// Most bodies that are read back at once.
    reads_max: u32,
}

impl fmt::Debug for ResultsShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultsShared").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Waiting {
    /// Bodies in memory, oldest first; those that were stored are dropped in passing.
    bodies: VecDeque<(Instant, WeakBody)>,
    /// Bytes of bodies in memory.
    memory_bytes: u64,
    /// Bytes of bodies on disk.
    disk_bytes: u64,
    /// Number of the next file.
    next: u64,
    /// True if the last file could not be written.
    is_disk_full: bool,
    /// The workers that have encoded an epoch, and the bytes of their results, by epoch.
    encoded: BTreeMap<Epoch, (usize, u64)>,
}

/// Figures that others wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// The newest epoch of which every worker of this process has encoded its results.
    pub encoded: Epoch,
    /// The length of these results in bytes.
    pub encoded_bytes: u64,
    /// True if the store is known to be out of reach.
    pub is_away: bool,
    /// True if the results of more epochs may wait.
    pub has_room: bool,
    /// Bytes in memory.
    memory_bytes: u64,
    /// Bytes on disk.
    disk_bytes: u64,
}

/// The bytes of a body in the figures, until the body is dropped.
struct BodyShare {
    /// Where the bytes are counted.
    shared: Arc<ResultsShared>,
    /// The length of the body.
    bytes: u64,
    /// True if it is counted as on disk.
    is_on_disk: bool,
}

impl PendingResults {
    /// Returns results with these limits.
    pub fn new(limits: ResultsLimits) -> PendingResults {
        let permits = (limits.memory_bytes_max / PERMIT_BYTES).clamp(1, u64::from(u32::MAX >> 3));
        let level = Level { has_room: true, ..Level::default() };
        let shared = ResultsShared {
            limits,
            waiting: Mutex::default(),
            level: watch::Sender::new(level),
            reads: Semaphore::new(permits as usize),
            reads_max: permits as u32,
        };
        PendingResults { shared: Arc::new(shared) }
    }

    /// Results without a limit, for programs that store no more than they have at hand.
    pub fn unlimited() -> PendingResults {
        let most = u64::MAX;
        PendingResults::new(ResultsLimits {
            memory_bytes_max: most,
            disk_bytes_max: most,
            folder: None,
        })
    }

    /// Removes the files that an earlier run left in `folder`.
    ///
    /// # Errors
    ///
    /// Those of the file system. A folder that is not there is no error.
    pub fn sweep(folder: &Path) -> io::Result<()> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Counts `body` from now on, until its last clone is dropped. Does nothing for a body that is
    /// counted already.
    pub fn admit(&self, body: &Body) {
        let bytes = body.bytes();
        self.shared.lock().memory_bytes += bytes;
        let share = BodyShare { shared: Arc::clone(&self.shared), bytes, is_on_disk: false };
        // A share that the body does not take is given back at once.
        let is_new = body.count(Box::new(share));
        let mut waiting = self.shared.lock();
        if is_new {
            waiting.bodies.push_back((Instant::now(), body.downgrade()));
        }
        // Mostly they are stored in order, so what is at the front is done first.
        while waiting.bodies.front().is_some_and(|(_, body)| !body.is_alive()) {
            waiting.bodies.pop_front();
        }
        self.shared.publish(&waiting);
    }

    /// Notes that one of `workers` workers has encoded `epoch`, as `bytes` bytes, and all before
    /// it.
    pub fn encoded(&self, epoch: Epoch, workers: usize, bytes: u64) {
        let mut waiting = self.shared.lock();
        let (count, sum) = waiting.encoded.entry(epoch).or_default();
        *count += 1;
        *sum += bytes;
        if *count == workers {
            let encoded_bytes = *sum;
            waiting.encoded = waiting.encoded.split_off(&(epoch + 1));
            self.shared.level.send_modify(|level| {
                if epoch > level.encoded {
                    (level.encoded, level.encoded_bytes) = (epoch, encoded_bytes);
                }
            });
        }
    }

    /// Returns a receiver of the figures.
    pub fn level(&self) -> watch::Receiver<Level> {
        self.shared.level.subscribe()
    }

    /// Waits until there is memory for `body` to be read back, if it is on disk. In order of
    /// asking. The memory is free again when what is returned is dropped.
    pub async fn room_to_read(&self, body: &Body) -> Option<SemaphorePermit<'_>> {
        if !body.is_on_disk() {
            return None;
        }
        let permits =
            body.bytes().div_ceil(PERMIT_BYTES).clamp(1, u64::from(self.shared.reads_max));
        // The semaphore is never closed, so this always returns a permit.
        self.shared.reads.acquire_many(permits as u32).await.ok()
    }

    /// Notes if the store is out of reach.
    pub fn set_away(&self, is_away: bool) {
        self.shared
            .level
            .send_if_modified(|level| std::mem::replace(&mut level.is_away, is_away) != is_away);
    }

    /// Keeps the limits: moves bodies to disk, and returns when reading has to stop because that
    /// cannot be done. [`PendingResults::until_room`] then returns when reading may go on.
    pub async fn watch(&self) {
        let mut level = self.level();
        loop {
            let over = |level: &Level| self.shared.is_over(level);
            // The sender is ours, so waiting ends only with a level.
            let _ = level.wait_for(over).await;
            let oldest = self.shared.oldest();
            let is_away = level.borrow_and_update().is_away;
            let patience = if is_away { Duration::ZERO } else { SLOW_AFTER };
            let left =
                oldest.map_or(SLOW_AFTER, |oldest| patience.saturating_sub(oldest.elapsed()));
            if !left.is_zero() {
                let _ = tokio::time::timeout(left, level.changed()).await;
                continue;
            }
            let shared = Arc::clone(&self.shared);
            if !supervise::blocking(move || shared.move_to_disk()).await {
                return;
            }
        }
    }

    /// Returns when the results that wait are below their limits again.
    pub async fn until_room(&self) {
        let mut level = self.level();
        // A disk that was full is tried again as soon as something was stored.
        let below = |level: &Level| !self.shared.is_over(level);
        let _ = level.wait_for(below).await;
        self.shared.lock().is_disk_full = false;
    }
}

impl ResultsShared {
    /// Locks the results.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Figures, each changed at once: a panic elsewhere leaves nothing half-done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if a limit is exceeded.
    fn is_over(&self, level: &Level) -> bool {
        level.memory_bytes > self.limits.memory_bytes_max
            || level.disk_bytes > self.limits.disk_bytes_max
    }

    /// Makes the figures known. With a folder, epochs may wait until half of it is used: an open
    /// epoch that grows longer instead takes memory only for words that it has not had yet.
    fn publish(&self, waiting: &Waiting) {
        let (memory_bytes, disk_bytes) = (waiting.memory_bytes, waiting.disk_bytes);
        let has_room = match self.limits.folder {
            Some(_) => !waiting.is_disk_full && disk_bytes < self.limits.disk_bytes_max / 2,
            None => memory_bytes < self.limits.memory_bytes_max,
        };
        self.level.send_if_modified(|level| {
            let next = Level { has_room, memory_bytes, disk_bytes, ..*level };
            std::mem::replace(level, next) != next
        });
    }

    /// Returns when the oldest body in memory was admitted.
    fn oldest(&self) -> Option<Instant> {
        let waiting = self.lock();
        waiting.bodies.iter().find(|(_, body)| body.is_alive()).map(|(since, _)| *since)
    }

    /// Moves bodies to disk until memory is within its limit: the newest first, since the oldest
    /// are being stored. Returns false if that cannot be.
    fn move_to_disk(&self) -> bool {
        let Some(folder) = &self.limits.folder else { return false };
        loop {
            let mut waiting = self.lock();
            if waiting.disk_bytes > self.limits.disk_bytes_max || waiting.is_disk_full {
                return false;
            }
            if waiting.memory_bytes <= self.limits.memory_bytes_max {
                return true;
            }
            let Some((_, body)) = waiting.bodies.pop_back() else { return true };
            let Some(body) = body.upgrade() else { continue };
            let path = folder.join(format!("{:08}.body", waiting.next));
            if waiting.next == 0 {
                let folder = folder.display();
                tracing::info!("results that wait to be stored go to {folder}: --results-memory");
            }
            waiting.next += 1;
            drop(waiting);
            match write(folder, &path, &body) {
                Ok(file) => body.move_to(file),
                Err(error) => {
                    let (folder, mut waiting) = (folder.display(), self.lock());
                    tracing::warn!("cannot keep results in {folder}: {error}");
                    waiting.is_disk_full = true;
                    waiting.bodies.push_back((Instant::now(), body.downgrade()));
                    self.publish(&waiting);
                    return false;
                }
            }
        }
    }
}

/// Writes `body` to a file that is readable by its owner only, and takes the MD5 meanwhile.
fn write(folder: &Path, path: &Path, body: &Body) -> io::Result<BodyFile> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).custom_flags(nofollow);
    let file = BodyFile::new(file.open(path)?, path.to_owned());
    let written = (|| {
        for piece in body.pieces() {
            io::Write::write_all(&mut file.file(), &piece?)?;
        }
        Ok(())
    })();
    // The file is removed with the value.
    written.map(|()| {
        body.md5();
        file
    })
}

impl BodyAccount for BodyShare {
    fn moved_to_disk(&mut self) {
        self.is_on_disk = true;
        let mut waiting = self.shared.lock();
        waiting.memory_bytes -= self.bytes;
        waiting.disk_bytes += self.bytes;
        self.shared.publish(&waiting);
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        if self.is_on_disk {
            waiting.disk_bytes -= self.bytes;
        } else {
            waiting.memory_bytes -= self.bytes;
        }
        self.shared.publish(&waiting);
    }
}

impl fmt::Debug for PendingResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results").field("level", &*self.shared.level.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn results(folder: Option<PathBuf>) -> PendingResults {
        PendingResults::new(ResultsLimits { memory_bytes_max: 11, disk_bytes_max: 100, folder })
    }

    fn admitted(results: &PendingResults, text: &'static str) -> Body {
        let body = Body::from(text);
        results.admit(&body);
        body
    }

    #[tokio::test]
    async fn results_above_the_limit_go_to_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join("results-0");
        let results = results(Some(folder.clone()));
        let bodies = ["oldest", "older", "newest"].map(|text| admitted(&results, text));
        assert!(results.shared.move_to_disk());
        assert_eq!(bodies.each_ref().map(Body::is_on_disk), [false, false, true]);
        let files: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().collect();
        let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        assert_eq!((files.len(), mode(&files[0].path()), mode(&folder)), (1, 0o600, 0o700));

        let read: Vec<_> = bodies[2].pieces().collect::<io::Result<_>>().expect("a file");
        assert_eq!(read.concat(), b"newest");
        assert_eq!(bodies[2].md5(), Body::from("newest").md5());
        let permit = results.room_to_read(&bodies[2]).await;
        assert!(permit.is_some() && results.room_to_read(&bodies[0]).await.is_none());
        drop(bodies);
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 0, "removed with its body");
        assert_eq!(*results.level().borrow(), Level { has_room: true, ..Level::default() });
    }

    #[tokio::test]
    async fn results_without_folder_stop_reading() {
        let results = results(None);
        let bodies = ["one body", "another"].map(|text| admitted(&results, text));
        assert!(!results.level().borrow().has_room);
        results.set_away(true);
        results.watch().await;
        drop(bodies);
        results.until_room().await;
        assert!(results.level().borrow().has_room);
    }

    #[test]
    fn results_of_an_earlier_run_are_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join("results-0");
        PendingResults::sweep(&folder).expect("nothing to sweep");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("00000000.body"), "words").expect("a file");
        PendingResults::sweep(&folder).expect("a folder to sweep");
        assert!(!folder.exists());
    }

    #[test]
    fn epoch_is_encoded_once_all_workers_have_it() {
        let results = results(None);
        for (epoch, bytes, encoded) in
            [(10, 5, (0, 0)), (10, 2, (10, 7)), (20, 1, (10, 7)), (20, 0, (20, 1))]
        {
            results.encoded(epoch, 2, bytes);
            let level = *results.level().borrow();
            assert_eq!((level.encoded, level.encoded_bytes), encoded);
        }
    }
}
