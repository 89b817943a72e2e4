//! The state directory of a job: whose it is, and that only one process has it.
//!
//! A job's identity is all that shapes the bytes it publishes. It is written into the state when
//! the job first starts; a later start under the same directory must agree with it, or the same
//! names would get different bytes. The directory is locked for as long as the job lives.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::settings::{EmptyEpochs, RowOrder};
use crate::sink::format::Format;
use crate::words::WordOptions;

/// All that shapes the bytes of a job, and so its identity. Where lines come from is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Name of the definition, with its parameters.
    pub definition: String,
    /// Length of an epoch.
    pub interval_ms: u64,
    /// Parts of a result.
    pub parts: u32,
    /// How lines become words.
    pub words: WordOptions,
    /// Longest line.
    pub line_bytes_max: usize,
    /// The bytes of a row.
    pub format: Format,
    /// The order of rows in a part.
    pub order: RowOrder,
    /// What is written for epochs without rows.
    pub empty_epochs: EmptyEpochs,
    /// Where results go.
    pub output: String,
    /// What the names of epochs end in.
    pub suffix: Option<String>,
}

impl Identity {
    /// The identity as 16 hexadecimal digits.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&json))
    }

    /// What differs from `other`, as `name: theirs, not ours`.
    fn differences(&self, other: &Identity) -> String {
        let fields = |identity| match serde_json::to_value(identity) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (ours, theirs) = (fields(self), fields(other));
        let differing = theirs.iter().filter(|(name, value)| ours.get(*name) != Some(value));
        let texts = differing.map(|(name, value)| {
            let ours = ours.get(name).cloned().unwrap_or_default();
            format!("{name} is {value} there, {ours} here")
        });
        texts.collect::<Vec<_>>().join(", ")
    }
}

const IDENTITY: &str = "identity.json";
const LOCK: &str = "lock";

/// A locked state directory; the lock goes with the value.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    lock_path: PathBuf,
    /// Whether this value made it.
    is_new: bool,
    _lock: File,
}

impl State {
    /// Opens or makes the state of the job with this identity in `dir`, as the process with this
    /// index: several processes of one cluster may share a directory on one host.
    pub fn open(dir: &Path, identity: &Identity, process: usize) -> Result<State> {
        let failed = |what: &str, error: io::Error| {
            let message = format!("cannot {what} the state in {}: {error}", dir.display());
            Error::new(refusal(&error), message)
                .cause(error)
                .hint("see --state, or give --no-state")
        };
        std::fs::create_dir_all(dir).map_err(|error| failed("make", error))?;
        let lock = lock(dir, process)?;
        let path = dir.join(IDENTITY);
        let is_new = match std::fs::read(&path) {
            Ok(bytes) => compare(dir, &bytes, identity).map(|()| false)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_durably(dir, identity, process).map_err(|error| failed("write", error))?;
                true
            }
            Err(error) => return Err(failed("read", error)),
        };
        let lock_path = lock_path(dir, process);
        Ok(State { dir: dir.to_owned(), lock_path, is_new, _lock: lock })
    }

    /// Takes back what [`State::open`] made, for a job that was refused before it began.
    /// Directories that hold anything else stay, and so does a state of earlier runs.
    pub fn discard_if_new(self) {
        if !self.is_new {
            return;
        }
        // While the lock is held. What cannot be removed is an empty state, and harms nobody.
        std::fs::remove_file(self.dir.join(IDENTITY)).ok();
        std::fs::remove_file(&self.lock_path).ok();
        let removed = std::fs::remove_dir(&self.dir);
        removed.and_then(|()| self.dir.parent().map_or(Ok(()), std::fs::remove_dir)).ok();
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The number of parts that the state in `dir` was begun with, if there is one.
    pub fn recorded_parts(dir: &Path) -> Option<u32> {
        let bytes = std::fs::read(dir.join(IDENTITY)).ok()?;
        serde_json::from_slice::<Identity>(&bytes).ok().map(|identity| identity.parts)
    }
}

/// Whether an error is the disk's or the configuration's.
fn refusal(error: &io::Error) -> ErrorKind {
    use io::ErrorKind::{
        AlreadyExists, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    match error.kind() {
        AlreadyExists | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem => {
            ErrorKind::Configuration
        }
        _ => ErrorKind::Disk,
    }
}

fn lock_path(dir: &Path, process: usize) -> PathBuf {
    dir.join(format!("{LOCK}-{process}"))
}

fn lock(dir: &Path, process: usize) -> Result<File> {
    let path = lock_path(dir, process);
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = open.map_err(|error| {
        let message = format!("cannot lock the state in {}: {error}", dir.display());
        Error::new(refusal(&error), message).cause(error).hint("see --state")
    })?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        let message = format!("another process runs on the state in {}", dir.display());
        Error::new(ErrorKind::Configuration, message).hint("stop it, or give another --state")
    })?;
    Ok(file)
}

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

fn write_durably(dir: &Path, identity: &Identity, process: usize) -> io::Result<()> {
    let temporary = dir.join(format!(".identity.json.{process}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(identity)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(IDENTITY))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        }
    }

    #[test]
    fn a_second_start_with_the_same_identity_is_welcome_after_the_first_has_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = State::open(dir.path(), &identity(), 0).expect("a new state");
        let locked = State::open(dir.path(), &identity(), 0).expect_err("it is locked");
        assert_eq!(locked.kind(), ErrorKind::Configuration);
        drop(first);
        State::open(dir.path(), &identity(), 0).expect("the same job");
        assert_eq!(State::recorded_parts(dir.path()), Some(2));
    }

    #[test]
    fn a_refused_job_takes_back_a_new_state_but_never_an_old_one() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("states").join("job");
        State::open(&dir, &identity(), 0).expect("a new state").discard_if_new();
        assert!(!root.path().join("states").exists());
        drop(State::open(&dir, &identity(), 0).expect("a new state"));
        State::open(&dir, &identity(), 0).expect("an old state").discard_if_new();
        assert_eq!(State::recorded_parts(&dir), Some(2));
    }

    #[test]
    fn another_identity_is_refused_with_the_difference_and_the_way_out() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(State::open(dir.path(), &identity(), 0).expect("a new state"));
        let other = Identity { interval_ms: 1_000, ..identity() };
        let error = State::open(dir.path(), &other, 0).expect_err("another job");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.contains("interval_ms is 10000 there, 1000 here"), "{text}");
        assert!(text.contains("--state"), "{text}");
    }
}
