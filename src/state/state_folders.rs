//! Surveys state folders from outside, and removes those that are not needed.
//!
//! A survey reads what is on the local disk and asks no store: an epoch whose marker was stored
//! just before a crash counts as in flight.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;

use super::finish_note::{FINISHED, FinishedJournals};
use super::unread_journals::{
    KEPT, MissingJournal, NOTE, SetAsideJournal, missing, refuse_loss, set_aside,
};
use super::{IDENTITY, IDS, Identity, Ids, LOCK, format_of, private, refusal};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::file_lock::{self, LockOutcome, LockPatience};
use crate::journal::{CLOSED, JournalUsage, usage};
use crate::outputs::Attempts;

/// The beginning of the name of every journal's folder.
pub const JOURNAL: &str = "journal-";

/// Names of all that a job keeps in its state, in the order in which it is removed: a note without
/// a journal would stop a start, an identity without the rest does not. A name that ends in `-` is
/// the beginning of names.
const PARTS: &[&str] = &[
    NOTE,
    CLOSED,
    JOURNAL,
    KEPT,
    FINISHED,
    "results-",
    "commits",
    "changes-",
    "begun",
    "_wordtide",
    IDS,
    IDENTITY,
    "lock-",
];

/// Returns the place of a name in the order of removal; `None` if no job has made it.
fn place_of(name: &str) -> Option<usize> {
    // A file that was being written at a crash.
    if name.starts_with('.') {
        return name.ends_with(".tmp").then_some(0);
    }
    PARTS
        .iter()
        .position(|part| if part.ends_with('-') { name.starts_with(part) } else { name == *part })
}

/// The facts of a state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateSurvey {
    /// The folder.
    pub path: PathBuf,
    /// The name of the definition.
    pub dataflow: String,
    /// The definition with its parameters.
    pub definition: String,
    /// The output.
    pub output: String,
    /// The state id that markers bear; `None` before the first start has ended.
    pub id: Option<String>,
    /// The version of the folder's format; 0 for a release that wrote none.
    pub format: u32,
    /// True if a job runs on the state.
    pub running: bool,
    /// The process of the job, if it runs on this host and is of a release that states it.
    pub pid: Option<u32>,
    /// Bytes in the journals that are not known to be committed.
    pub uncommitted_bytes: u64,
    /// Epochs that have ended and are not known to be committed.
    pub epochs_in_flight: usize,
    /// The newest epoch that is known to be committed.
    pub last_committed: Option<Epoch>,
    /// Bytes that the folder takes on the disk.
    pub disk_bytes: u64,
    /// The sources of the journals.
    pub sources: Vec<String>,
    /// Journals without which a start is refused, unless another process has them.
    pub missing_journals: Vec<MissingJournal>,
    /// Journals that no start reads any more.
    pub set_aside: Vec<SetAsideJournal>,
    /// True if a journal cannot be read to its end, so that a start is refused.
    #[serde(skip)]
    pub is_damaged: bool,
    /// True if a start would publish something that the state holds.
    #[serde(skip)]
    pub has_uncommitted: bool,
}

impl StateSurvey {
    /// Surveys the state in `dir`.
    ///
    /// # Errors
    ///
    /// `Configuration` if there is no state, or one of a later release; `Disk` if it cannot be
    /// read.
    pub fn of(dir: &Path) -> Result<StateSurvey> {
        // A folder without a state has no locks to be opened.
        read_identity(dir)?;
        StateSurvey::with_runner(dir, runner(dir)?)
    }

    /// Surveys the state in `dir` as one on which a job runs or not.
    ///
    /// Fails as [`of`](StateSurvey::of).
    fn with_runner(dir: &Path, (running, pid): (bool, Option<u32>)) -> Result<StateSurvey> {
        let identity = read_identity(dir)?;
        let format = format_of(dir)?;
        let ids = Ids::read(dir)?;
        let entries = entries(dir)?;
        let mut journals = Vec::new();
        for path in &entries {
            if path.is_dir() && name_of(path).starts_with(JOURNAL) {
                journals.extend(usage(path)?);
            }
        }
        // The next start counts anew.
        let finished = FinishedJournals::read(dir)?.journals;
        let present: Vec<&str> = journals.iter().map(|journal| journal.id.as_str()).collect();
        // A job that runs has found all journals, those of other hosts in their states.
        let missing_journals =
            if running { Vec::new() } else { missing(&entries, &present, &finished)? };
        for journal in journals.iter_mut().filter(|journal| finished.contains(&journal.id)) {
            (journal.uncommitted_bytes, journal.open_epochs) = (0, Vec::new());
            journal.is_whole = true;
        }
        let in_flight: BTreeSet<Epoch> =
            journals.iter().flat_map(|journal| &journal.open_epochs).copied().collect();
        // Of a source that is read again the journal has positions only, so bytes do not count.
        let holds = |journal: &JournalUsage| {
            journal.uncommitted_bytes > 0
                || !journal.is_whole
                || journal.is_replayable && !journal.open_epochs.is_empty()
        };
        Ok(StateSurvey {
            has_uncommitted: journals.iter().any(holds),
            is_damaged: journals.iter().any(|journal| !journal.is_whole),
            path: dir.to_owned(),
            dataflow: identity.definition.split(' ').next().unwrap_or_default().to_owned(),
            definition: identity.definition,
            output: identity.output,
            id: ids.id,
            format,
            running,
            pid,
            uncommitted_bytes: journals.iter().map(|journal| journal.uncommitted_bytes).sum(),
            epochs_in_flight: in_flight.len(),
            last_committed: last_committed(dir, &journals, &in_flight)?,
            disk_bytes: disk_bytes(dir)?,
            sources: journals.into_iter().map(|journal| journal.source).collect(),
            missing_journals,
            set_aside: set_aside(&entries, &finished),
        })
    }
}

/// Returns the folders of states at `path`: itself, or those directly below it.
///
/// # Errors
///
/// `Configuration` if there is none.
pub fn states_at(path: &Path) -> Result<Vec<PathBuf>> {
    let is_state = |dir: &Path| dir.join(IDENTITY).is_file() || dir.join(IDS).is_file();
    if is_state(path) {
        return Ok(vec![path.to_owned()]);
    }
    let below: Vec<PathBuf> = entries(path)?.into_iter().filter(|dir| is_state(dir)).collect();
    if below.is_empty() {
        let message = format!("{} holds no state of a job", path.display());
        return Err(Error::new(ErrorKind::Configuration, message)
            .hint("give the folder that --state names, or ./wordtide-state"));
    }
    Ok(below)
}

/// Removes the state in `dir`.
///
/// # Errors
///
/// `Configuration` if `dir` is a symbolic link, if a job runs on the state, if it holds lines that
/// are not committed or a journal is missing, or if it holds what no job has put there; nothing is
/// removed then. `Disk` if it cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    refuse_link(dir)?;
    let survey = StateSurvey::of(dir)?;
    let in_use = || {
        let by = survey.pid.map(|pid| format!(" by process {pid}")).unwrap_or_default();
        refused(dir, &format!("is in use{by}"), "stop the job first")
    };
    if survey.running {
        return Err(in_use());
    }
    // Held until all is gone, so that no job begins on it meanwhile.
    let Some(_locks) = lock_all(dir)? else { return Err(in_use()) };
    // A job may have begun and ended since the first look. The locks are this process's now.
    let survey = StateSurvey::with_runner(dir, (false, None))?;
    if survey.is_damaged {
        let hint = "`wordtide journal check` names the place; remove the folder by hand to lose \
                    what it holds";
        return Err(refused(dir, "has a damaged journal", hint));
    }
    if survey.has_uncommitted {
        let StateSurvey { uncommitted_bytes, epochs_in_flight, .. } = survey;
        let why = format!(
            "holds lines that are not committed ({uncommitted_bytes} bytes, \
             {epochs_in_flight} epochs in flight)"
        );
        let hint =
            "start the job once more to commit them, or remove the folder by hand to lose them";
        return Err(refused(dir, &why, hint));
    }
    refuse_loss(dir, &survey.missing_journals, &survey.set_aside)?;
    let mut entries = entries(dir)?;
    let order = |path: &PathBuf| place_of(&name_of(path));
    if let Some(foreign) = entries.iter().find(|path| order(path).is_none()) {
        let why = format!("holds {}, which no job has put there", name_of(foreign));
        return Err(refused(dir, &why, "remove the folder by hand"));
    }
    // The system removes no folder by a name such as `.`.
    let folder = fs::canonicalize(dir).map_err(|error| failed("find", dir, error))?;
    entries.sort_by_key(order);
    for path in &entries {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(|error| failed("remove", path, error))?;
    }
    fs::remove_dir(folder).map_err(|error| failed("remove", dir, error))
}

/// Refuses a folder that is named by a symbolic link: the link itself is no folder to remove, and
/// what it leads to may be meant to stay.
fn refuse_link(dir: &Path) -> Result<()> {
    // A slash at the end, or a dot, would lead through the link.
    let link = dir.components().as_path();
    if !link.is_symlink() {
        return Ok(());
    }
    let message = format!("{} is a symbolic link: nothing was removed", link.display());
    let target = fs::canonicalize(link).map(|target| format!(": {}", target.display()));
    Err(Error::new(ErrorKind::Configuration, message)
        .hint(format!("name the folder it leads to{}", target.unwrap_or_default())))
}

/// Returns the error of a state that stays as it is.
fn refused(dir: &Path, why: &str, hint: &str) -> Error {
    let message = format!("the state in {} {why}: nothing was removed", dir.display());
    Error::new(ErrorKind::Configuration, message).hint(hint)
}

/// Reads the identity in a state folder.
fn read_identity(dir: &Path) -> Result<Identity> {
    // A later release may have changed the identity, too: its number is named first.
    format_of(dir)?;
    let path = dir.join(IDENTITY);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let refused = |what: &str, hint: &str| {
                let message = format!("{} {what}", dir.display());
                Err(Error::new(ErrorKind::Configuration, message).hint(hint))
            };
            if dir.join(IDS).exists() {
                return refused(
                    "has lost its identity.json",
                    "a start of the job writes it anew; else remove the folder by hand",
                );
            }
            return refused("holds no state of a job", "give the folder that --state names");
        }
        read => read.map_err(|error| failed("read", &path, error))?,
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = format!("{} cannot be read: {error}", path.display());
        Error::new(ErrorKind::Disk, message)
    })
}

/// Returns true if a job holds one of the locks, and the process that has noted itself there.
fn runner(dir: &Path) -> Result<(bool, Option<u32>)> {
    for path in locks(dir)? {
        let file = File::open(&path).map_err(|error| failed("open", &path, error))?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let pid = text.lines().next().and_then(|line| line.parse().ok());
                return Ok((true, pid));
            }
            Err(errno) => return Err(failed("lock", &path, errno.into())),
        }
    }
    Ok((false, None))
}

/// Takes all locks of a state; `None` if a job has one of them.
fn lock_all(dir: &Path) -> Result<Option<Vec<File>>> {
    let mut held = Vec::new();
    let mut paths = locks(dir)?;
    if paths.is_empty() {
        paths.push(dir.join(format!("{LOCK}-0")));
    }
    for path in paths {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let file = private(&mut options).open(&path);
        let file = file.map_err(|error| failed("open", &path, error))?;
        match file_lock::exclusive(&file, &LockPatience::default()) {
            Ok(LockOutcome::Locked) => held.push(file),
            Ok(_) => return Ok(None),
            Err(errno) => return Err(failed("lock", &path, errno.into())),
        }
    }
    Ok(Some(held))
}

/// Returns the locks in a state folder.
fn locks(dir: &Path) -> Result<Vec<PathBuf>> {
    let prefix = format!("{LOCK}-");
    Ok(entries(dir)?.into_iter().filter(|path| name_of(path).starts_with(&prefix)).collect())
}

/// Returns the newest epoch that journals or the commit log know to be committed.
fn last_committed(
    dir: &Path,
    journals: &[JournalUsage],
    in_flight: &BTreeSet<Epoch>,
) -> Result<Option<Epoch>> {
    let attempts = Attempts::read(dir)?;
    // The note comes before the marker: what may still be in flight is not known to be committed.
    let last = attempts.last.map(|attempt| attempt.epoch).filter(|_| in_flight.is_empty());
    let done = journals.iter().filter_map(|journal| journal.last_committed).max();
    Ok(last.max(attempts.settled).max(done))
}

/// Returns the bytes of the blocks of all files below `dir`.
fn disk_bytes(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for path in entries(dir)? {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => bytes += disk_bytes(&path)?,
            Ok(metadata) => bytes += metadata.blocks() * 512,
            // A running job removes files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &path, error)),
        }
    }
    Ok(bytes)
}

/// Returns what is in a folder, sorted by name.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = list().map_err(|error| failed("list", dir, error))?;
    paths.sort();
    Ok(paths)
}

/// Returns the name of a file.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the error of an operation on a state folder.
fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    let message = format!("cannot {what} {}: {error}", path.display());
    Error::new(refusal(&error), message).cause(error)
}
