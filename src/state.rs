//! The state folder of a job: its identity, its state id, and the lock on it.
//!
//! A job's identity is all that shapes the bytes it publishes. It is written into the state when
//! the job first starts; a later start under the same directory must agree with it, or the same
//! names would get different bytes. The directory is locked for as long as the job lives.
//!
//! The *state id* is a random number of 128 bits. Two jobs with the same flags have the same
//! identity and different state ids, so an epoch's marker names its owner. All processes
//! of a cluster agree on one id ([`Ids::agree`]) and note it in their folders, together with the
//! ids that the folders had before: epochs published under those are the job's own, too.

mod finish_note;
mod identity;
mod lock_folder;
mod state_folders;
mod unread_journals;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::durable_file::{replace_file, sync_folder};
use crate::error::{Error, ErrorKind, Result};
use crate::file_lock::{LockPatience, is_held};
use crate::outputs::{COMMITS, Ids};
use crate::random::random_id;

pub use finish_note::{FinishNote, FinishedJournals};
pub use identity::Identity;
use lock_folder::{lock_folder, lock_path};
pub use state_folders::{JOURNAL, StateSurvey, remove, states_at};
pub use unread_journals::{KEPT, NOTE};

/// The identity of the job.
const IDENTITY: &str = "identity.json";
/// The state id, and the ids that it replaced.
const IDS: &str = "state.json";
/// The beginning of the names of locks, one for each process.
const LOCK: &str = "lock";

/// The version of the state folder's format that this release writes, and the newest it reads. It
/// is raised with every change that an earlier release cannot read, in whatever file of the folder.
///
/// 1: one connection in a journal. 2: several, positions and producers. 3: linked changes.
/// 4: identities of watched files, and the changelog of a finished job.
const FORMAT: u32 = 4;

/// The most former ids that are remembered; each failover between folders that were used apart
/// adds one.
const FORMER_MAX: usize = 16;

/// The content of the file that holds the ids.
#[derive(Serialize, Deserialize)]
struct IdsFile {
    /// The version of the folder's format.
    format: u32,
    /// The state id.
    id: String,
    #[serde(default)]
    former: Vec<String>,
}

impl Ids {
    /// Reads the ids of the state in `dir`; none where it is missing or of a release without ids.
    ///
    /// # Errors
    ///
    /// `Configuration` for a format of a later release, `Disk` where the file is damaged.
    pub fn read(dir: &Path) -> Result<Ids> {
        let path = dir.join(IDS);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ids::default()),
            read => read.map_err(|error| unreadable(&path, error))?,
        };
        // The number is read first, because a later release may have changed everything else.
        format_of(dir)?;
        let file: IdsFile =
            serde_json::from_slice(&bytes).map_err(|error| unreadable(&path, error.into()))?;
        Ok(Ids { id: Some(file.id), former: file.former })
    }

    /// Decides on one id for the job whose processes found `each` in their folders, in order of
    /// the processes: the first that exists, else a new one. The others become former ids.
    ///
    /// # Errors
    ///
    /// `Failed` if the system gives no random bytes.
    pub fn agree(each: &[Ids]) -> Result<Ids> {
        let mut found = each.iter().filter_map(|ids| ids.id.clone());
        let Some(id) = found.next() else {
            return Ok(Ids { id: Some(random_id()?), former: Vec::new() });
        };
        let mut former: Vec<String> = Vec::new();
        for other in found.chain(each.iter().flat_map(|ids| ids.former.clone())) {
            if other != id && !former.contains(&other) {
                former.push(other);
            }
        }
        former.truncate(FORMER_MAX);
        Ok(Ids { id: Some(id), former })
    }
}

/// Returns the version of the format of the state in `dir`; 0 where the release that made it wrote
/// none.
///
/// # Errors
///
/// `Configuration` for a format of a later release, naming it.
fn format_of(dir: &Path) -> Result<u32> {
    let path = dir.join(IDS);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        read => read.map_err(|error| unreadable(&path, error))?,
    };
    let number = serde_json::from_slice::<serde_json::Value>(&bytes)
        .ok()
        .and_then(|value| value.get("format")?.as_u64())
        .unwrap_or_default();
    u32::try_from(number).ok().filter(|number| *number <= FORMAT).ok_or_else(|| {
        let message = format!(
            "the state in {} has format {number}, and this release knows formats up to {FORMAT}",
            dir.display()
        );
        Error::new(ErrorKind::Configuration, message)
            .hint("run the release that wrote it or a later one, or give another --state")
    })
}

/// Returns the error of a file that cannot be read.
fn unreadable(path: &Path, error: io::Error) -> Error {
    let message = format!("{} cannot be read: {error}", path.display());
    Error::new(ErrorKind::Disk, message).cause(error).hint("give another --state")
}

/// A locked state directory; the lock goes with the value.
#[derive(Debug)]
pub struct State {
    /// The folder.
    dir: PathBuf,
    /// The path of this process's lock.
    lock_path: PathBuf,
    /// Directories that this value made, each before those in it.
    made: Vec<PathBuf>,
    /// True if the state is new and nothing outside bears its id yet: it goes with this value.
    is_tentative: AtomicBool,
    /// Locked for as long as the state is open.
    lock: Arc<File>,
}

impl State {
    /// Opens or makes the state of the job with this identity in `dir`, as the process with this
    /// index: several processes of one cluster may share a directory on one host. Waits with
    /// `patience` for a former run that ends.
    pub fn open(
        dir: &Path,
        identity: &Identity,
        process: usize,
        patience: &LockPatience,
    ) -> Result<State> {
        let failed = |what: &str, error: io::Error| {
            let message = format!("cannot {what} the state in {}: {error}", dir.display());
            Error::new(refusal(&error), message)
                .cause(error)
                .hint("see --state, or give --no-state")
        };
        let mut made = Vec::new();
        make_dir(dir, &mut made).map_err(|error| failed("make", error))?;
        let lock = lock_folder(dir, process, patience)?;
        // A later release may have changed the identity, too: its number is named first.
        format_of(dir)?;
        let path = dir.join(IDENTITY);
        let is_new = match fs::read(&path) {
            Ok(bytes) => compare(dir, &bytes, identity).map(|()| false)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let json = serde_json::to_vec_pretty(identity).map_err(io::Error::from);
                let written = json.and_then(|json| replace_file(&path, &json));
                written.map_err(|error| failed("write", error))?;
                // A state that has lost its identity has ids of an earlier run.
                ![IDS, COMMITS].iter().any(|name| dir.join(name).exists())
            }
            Err(error) => return Err(failed("read", error)),
        };
        let lock_path = lock_path(dir, process);
        let (dir, is_tentative) = (dir.to_owned(), AtomicBool::new(is_new));
        Ok(State { dir, lock_path, made, is_tentative, lock: Arc::new(lock) })
    }

    /// Returns true if a process of a lower index than this one's, `process`, has a lock in the
    /// folder.
    pub fn is_shared_below(&self, process: usize) -> bool {
        (0..process).any(|lower| is_held(&lock_path(&self.dir, lower)))
    }

    /// Returns the lock on the state.
    pub fn lock(&self) -> &Arc<File> {
        &self.lock
    }

    /// Notes durably that the job in this folder goes by these ids.
    ///
    /// # Errors
    ///
    /// `Disk` if they cannot be written.
    pub fn adopt(&self, ids: &Ids) -> Result<()> {
        let Some(id) = &ids.id else { return Ok(()) };
        // From now on the folder has what an earlier release cannot read.
        if Ids::read(&self.dir)? == *ids && format_of(&self.dir)? == FORMAT {
            return Ok(());
        }
        let file = IdsFile { format: FORMAT, id: id.clone(), former: ids.former.clone() };
        let json = serde_json::to_vec(&file).map_err(io::Error::from);
        json.and_then(|json| replace_file(&self.dir.join(IDS), &json).map(drop)).map_err(|error| {
            let message = format!("cannot note the state id in {}: {error}", self.dir.display());
            Error::new(ErrorKind::Disk, message).cause(error).hint("see --state")
        })
    }

    /// Called before anything outside bears the id of this state. A new state that is dropped
    /// earlier, because the job was refused, leaves nothing. Returns true if the state was new and
    /// not kept yet.
    pub fn keep(&self) -> bool {
        self.is_tentative.swap(false, Ordering::Relaxed)
    }

    /// Called if nothing outside bears the id of this new state after all.
    pub fn unkeep(&self) {
        self.is_tentative.store(true, Ordering::Relaxed);
    }

    /// Returns the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the number of parts in the identity of the state in `dir`, if there is one.
    pub fn recorded_parts(dir: &Path) -> Option<u32> {
        Identity::of_state(dir).map(|identity| identity.parts)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if !*self.is_tentative.get_mut() {
            return;
        }
        // The lock is still held. An empty state that cannot be removed does no harm.
        for name in [IDENTITY, IDS, COMMITS] {
            let _ = fs::remove_file(self.dir.join(name));
        }
        let _ = fs::remove_file(&self.lock_path);
        // Directories with other content stay.
        for dir in self.made.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Returns the kind of an error of the disk or of the configuration.
fn refusal(error: &io::Error) -> ErrorKind {
    use io::ErrorKind::{
        AlreadyExists, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
        return ErrorKind::Configuration; // a symbolic link, which is not followed
    }
    match error.kind() {
        AlreadyExists | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem => {
            ErrorKind::Configuration
        }
        _ => ErrorKind::Disk,
    }
}

/// Refuses a state whose identity is another one, naming what differs.
fn compare(dir: &Path, recorded: &[u8], identity: &Identity) -> Result<()> {
    let recorded: Identity = serde_json::from_slice(recorded).map_err(|error| {
        let message = format!("the state in {} cannot be read: {error}", dir.display());
        Error::new(ErrorKind::Disk, message).cause(error).hint("give another --state")
    })?;
    if recorded == *identity {
        return Ok(());
    }
    let differences = identity.differences(&recorded);
    let message = format!("the state in {} is of another job: {differences}", dir.display());
    Err(Error::new(ErrorKind::Configuration, message)
        .hint("give the same flags as then, or another --state"))
}

/// Opens files that only their owner can read, and none that a symbolic link leads to.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32)
}

/// Makes `dir` and all that leads to it, durably, for its owner only, and adds what it has made to
/// `made`. Directories that exist stay as they are.
fn make_dir(dir: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new(""));
    make_dir(parent, made)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        // Another process of the cluster has made it at the same time.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        created => {
            created?;
            made.push(dir.to_owned());
        }
    }
    sync_folder(parent)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::file_lock;
    use crate::outputs::format::{Compression, Format};
    use crate::settings::{EmptyEpochs, FolderLayout, RowOrder};
    use crate::words::WordOptions;

    fn identity() -> Identity {
        Identity {
            definition: "network_wordcount".into(),
            interval_ms: 10_000,
            parts: 2,
            words: WordOptions::default(),
            line_bytes_max: 1 << 20,
            format: Format::Python,
            order: RowOrder::Hash,
            empty_epochs: EmptyEpochs::Marker,
            output: "out/counts".into(),
            suffix: None,
            compress: Compression::None,
            layout: FolderLayout::Spark,
            time_zone: None,
        }
    }

    fn open_state(dir: &Path, identity: &Identity, process: usize) -> Result<State> {
        State::open(dir, identity, process, &LockPatience::default())
    }

    #[test]
    fn same_job_starts_again_after_its_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open_state(dir.path(), &identity(), 0).expect("a new state");
        first.keep();
        let locked = open_state(dir.path(), &identity(), 0).expect_err("it is locked");
        assert_eq!(locked.kind(), ErrorKind::Configuration);
        drop(first);
        open_state(dir.path(), &identity(), 0).expect("the same job");
        assert_eq!(State::recorded_parts(dir.path()), Some(2));
    }

    #[test]
    fn stop_ends_wait_for_ending_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open_state(dir.path(), &identity(), 0).expect("a new state");
        let mut locks = file_lock::HeldLocks::default();
        locks.add(first.lock());
        locks.note_end();
        let open = |patience: LockPatience| {
            let opened = State::open(dir.path(), &identity(), 0, &patience);
            opened.expect_err("it is locked").kind()
        };
        assert_eq!(open(LockPatience::of_start(None, || true)), ErrorKind::Stopped);
        let no_time = LockPatience::of_start(Some(Duration::ZERO), || false);
        assert_eq!(open(no_time), ErrorKind::Temporary, "the next start may find it ended");
    }

    #[test]
    fn refused_job_removes_only_new_state() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("states").join("job");
        drop(open_state(&dir, &identity(), 0).expect("a new state"));
        assert!(!root.path().join("states").exists());
        // A folder that was there before stays, with its rights.
        fs::create_dir_all(&dir).expect("a folder");
        drop(open_state(&dir, &identity(), 0).expect("a new state"));
        assert_eq!(fs::read_dir(&dir).expect("the folder").count(), 0);
        open_state(&dir, &identity(), 0).expect("a new state").keep();
        drop(open_state(&dir, &identity(), 0).expect("an old state"));
        assert_eq!(State::recorded_parts(&dir), Some(2));
    }

    #[test]
    fn another_identity_is_refused_with_differences() {
        let dir = tempfile::tempdir().expect("a directory");
        open_state(dir.path(), &identity(), 0).expect("a new state").keep();
        let other = Identity { interval_ms: 1_000, ..identity() };
        let error = open_state(dir.path(), &other, 0).expect_err("another job");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.contains("interval_ms is 10000 there, 1000 here"), "{text}");
        assert!(text.contains("--state"), "{text}");
    }

    #[test]
    fn ids_are_agreed_on_and_found_again() {
        let (dir, other) = (tempfile::tempdir().expect("room"), tempfile::tempdir().expect("room"));
        let state = open_state(dir.path(), &identity(), 0).expect("a new state");
        let none = Ids::read(dir.path()).expect("no file");
        assert_eq!(none, Ids::default(), "as a state of a release without ids");
        let first = Ids::agree(&[none.clone(), none.clone()]).expect("random bytes");
        assert_ne!(first, Ids::agree(std::slice::from_ref(&none)).expect("random bytes"));
        state.adopt(&first).expect("room");
        // Process 0 has a new folder now: the job goes by the id that another process knows.
        let moved = Ids::agree(&[none, Ids::read(dir.path()).expect("ids")]).expect("an id");
        assert_eq!(moved, first);
        // Two folders that were used apart: both know both ids from now on.
        let apart = Ids { id: Some("b".repeat(32)), former: vec!["c".repeat(32)] };
        let merged = Ids::agree(&[apart.clone(), first.clone()]).expect("an id");
        assert_eq!(merged.id, apart.id);
        assert!(merged.contains(first.id.as_deref().expect("an id")));
        assert!(merged.contains(&"c".repeat(32)));
        let state = open_state(other.path(), &identity(), 1).expect("a new state");
        state.adopt(&merged).expect("room");
        assert_eq!(Ids::read(other.path()).expect("ids"), merged);
    }

    #[test]
    fn later_formats_are_refused_by_number() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(IDS), r#"{"format":7,"key":"?"}"#).expect("room");
        let error = Ids::read(dir.path()).expect_err("a later release's");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("format 7"), "{error}");
        fs::write(dir.path().join(IDS), "{").expect("room");
        assert_eq!(Ids::read(dir.path()).expect_err("damaged").kind(), ErrorKind::Disk);
    }

    #[test]
    fn new_states_are_readable_by_their_owner_only() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("a/b");
        let state = open_state(&dir, &identity(), 0).expect("a new state");
        state.adopt(&Ids::agree(&[]).expect("random bytes")).expect("room");
        let mode =
            |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&root.path().join("a"))), (0o700, 0o700));
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }

    #[test]
    fn lock_follows_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").expect("room");
        std::os::unix::fs::symlink(&victim, dir.path().join("lock-0")).expect("a link");
        let error = open_state(dir.path(), &identity(), 0).expect_err("a link");
        assert!(!error.to_string().contains("another process"), "{error}");
        assert_eq!(fs::read_to_string(&victim).expect("a file"), "precious");
    }
}
