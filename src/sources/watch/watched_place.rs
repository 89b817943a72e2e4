//! The place that is watched: a folder, or the objects below a prefix.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::found_file::{FoundFile, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{self, Environment, Store, StoreSettings, Target};

/// A place in which files appear, and how it is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The folder or prefix.
    pub place: WatchPlace,
    /// If true, files that are there at the first start are read, too: `--watch-existing`.
    pub existing: bool,
    /// How often the place is listed: `--watch-every`.
    pub every: Duration,
    /// How an object store is reached.
    pub store: StoreSettings,
}

impl Watch {
    /// Returns a watch of `place` that lists it each second and reads new files only.
    pub fn new(place: WatchPlace) -> Watch {
        let every = Duration::from_secs(1);
        Watch { place, existing: false, every, store: StoreSettings::default() }
    }

    /// Refuses a place that cannot be watched.
    ///
    /// # Errors
    ///
    /// `Usage` for a time out of range; `Configuration` for a folder that is not there or cannot be
    /// listed, and for a store that is not set up.
    pub(crate) fn check(&self) -> Result<()> {
        if self.every < Duration::from_millis(10) || self.every > Duration::from_secs(3600) {
            return Err(Error::new(ErrorKind::Usage, "the time between scans is out of range")
                .hint("give --watch-every from 10ms to 1h"));
        }
        match &self.place {
            WatchPlace::Folder(folder) => check_folder(folder),
            WatchPlace::Objects(target) => open_store(target, &self.store).map(drop),
        }
    }

    /// Refuses an output whose results are a part of the place.
    pub(crate) fn check_output(&self, target: &Target) -> Result<()> {
        let place = match &self.place {
            WatchPlace::Objects(place) => place,
            // Results in a folder are in folders of their own, which are not read.
            WatchPlace::Folder(_) => return Ok(()),
        };
        let is_same_bucket = match (place, target) {
            (Target::Oss { bucket, .. }, Target::Oss { bucket: other, .. })
            | (Target::S3 { bucket, .. }, Target::S3 { bucket: other, .. }) => bucket == other,
            _ => false,
        };
        if is_same_bucket && target.prefix().starts_with(place.prefix()) {
            let message =
                format!("the results in {target} would be read again as files of {place}");
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("give --to a prefix that does not begin as that of --watch does"));
        }
        Ok(())
    }

    /// Opens the place. A store is not asked yet.
    ///
    /// # Errors
    ///
    /// `Configuration` for a store that is not set up.
    pub(crate) fn open(&self) -> Result<OpenPlace> {
        Ok(match &self.place {
            WatchPlace::Folder(folder) => OpenPlace::Folder(folder.clone()),
            WatchPlace::Objects(target) => OpenPlace::Objects(Bucket {
                store: open_store(target, &self.store)?,
                prefix: target.prefix().to_owned(),
                name: target.to_string(),
                runtime: Handle::current(),
            }),
        })
    }
}

/// Fails with `Configuration` if `folder` cannot be listed.
fn check_folder(folder: &Path) -> Result<()> {
    let failed = |why: String| {
        let message = format!("cannot watch {}: {why}", folder.display());
        Error::new(ErrorKind::Configuration, message)
            .hint("give --watch a folder that exists and can be listed")
    };
    let found = fs::metadata(folder).map_err(|error| failed(error.to_string()))?;
    if !found.is_dir() {
        return Err(failed("it is not a folder".to_owned()));
    }
    fs::read_dir(folder).map(drop).map_err(|error| failed(error.to_string()))
}

/// Opens the store of a prefix.
///
/// Fails with `Usage` for an output that is no store, and with `Configuration` if the endpoint is
/// unknown.
fn open_store(target: &Target, settings: &StoreSettings) -> Result<Arc<dyn Store>> {
    let store = store::open(target, settings, &Environment::of_process()).map_err(named)?;
    store.ok_or_else(|| Error::new(ErrorKind::Usage, "--watch needs a folder or a bucket"))
}

/// The value of `--watch`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchPlace {
    /// A local folder. Files in it are read, those in folders below it are not.
    Folder(PathBuf),
    /// A bucket on OSS or S3 and the beginning of the keys. Objects at any depth are read.
    Objects(Target),
}

impl FromStr for WatchPlace {
    type Err = Error;

    /// Parses `DIR`, `file:DIR`, `oss://BUCKET/PREFIX` or `s3://BUCKET/PREFIX`.
    fn from_str(value: &str) -> Result<WatchPlace> {
        let scheme = value.split_once("://").map(|(scheme, _)| scheme);
        // The list of what an output may be does not help here, and a URL may hold a password.
        if let Some(scheme) = scheme.filter(|name| !["oss", "s3", "file"].contains(name)) {
            let message = format!("the watched place's scheme {scheme}:// is not known");
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("give --watch as a folder, oss://BUCKET/PREFIX or s3://BUCKET/PREFIX"));
        }
        match Target::parse(value).map_err(named)? {
            Target::Local { root, prefix } if value.starts_with("file:") => {
                Ok(WatchPlace::Folder(root.join(prefix)))
            }
            // A folder has one name: a restart finds its journal by it.
            Target::Local { .. } => {
                let parts = Path::new(value).components();
                let parts = parts.filter(|part| *part != Component::CurDir);
                let folder: PathBuf = parts.collect();
                let is_here = folder.as_os_str().is_empty();
                Ok(WatchPlace::Folder(if is_here { PathBuf::from(".") } else { folder }))
            }
            target @ (Target::Oss { .. } | Target::S3 { .. }) => Ok(WatchPlace::Objects(target)),
            _ => Err(Error::new(ErrorKind::Usage, format!("{value} cannot be watched"))
                .hint("give --watch as a folder, oss://BUCKET/PREFIX or s3://BUCKET/PREFIX")),
        }
    }
}

impl fmt::Display for WatchPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchPlace::Folder(folder) => write!(f, "{}", folder.display()),
            WatchPlace::Objects(target) => write!(f, "{target}"),
        }
    }
}

/// Returns an error about a target, whose messages speak of the output, as one about `--watch`.
fn named(error: Error) -> Error {
    let text = error.to_string();
    let text = text.replace("--to", "--watch").replace("the output's", "the watched place's");
    let text = text.replace("the output ", "the watched place ");
    Error::new(error.kind(), text.replace("// output ", "// place "))
}

/// A place that is open.
#[derive(Clone, Debug)]
pub enum OpenPlace {
    /// A local folder.
    Folder(PathBuf),
    /// A prefix of an object store.
    Objects(Bucket),
}

impl OpenPlace {
    /// Returns the name of a file for messages.
    pub fn shown(&self, file: &FoundFile) -> String {
        self.shown_name(&file.name)
    }

    /// Returns the name of a file for messages.
    pub fn shown_name(&self, name: &[u8]) -> String {
        match self {
            OpenPlace::Folder(folder) => {
                shown(folder.join(OsStr::from_bytes(name)).as_os_str().as_bytes())
            }
            OpenPlace::Objects(bucket) => {
                let root = bucket.name.strip_suffix(&bucket.prefix).unwrap_or_default();
                format!("{root}{}", shown(name))
            }
        }
    }
}

/// The objects below a prefix of a bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The prefix of the keys.
    pub prefix: String,
    /// For messages.
    pub name: String,
    /// Where requests run.
    pub runtime: Handle,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(value: &str) -> PathBuf {
        match value.parse() {
            Ok(WatchPlace::Folder(folder)) => folder,
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn watch_takes_folders_and_prefixes() {
        assert_eq!(folder("in"), Path::new("in"));
        for (value, name) in
            [("/var/in/", "/var/in"), ("./in//", "in"), (".", "."), ("../in", "../in")]
        {
            assert_eq!(folder(value).as_os_str(), name);
        }
        assert_eq!(folder("file:///var/in"), Path::new("/var/in"));
        for value in ["s3://bucket/in/", "oss://bucket/in", "s3://bucket/"] {
            let place: WatchPlace = value.parse().expect(value);
            assert!(matches!(place, WatchPlace::Objects(_)), "{place:?}");
            assert_eq!(place.to_string(), value);
        }
    }

    #[test]
    fn refusals_name_the_flag() {
        for value in [
            "",
            "-",
            "hdfs://host/x",
            "oss://",
            "oss:/bucket/x",
            "s3://No/x",
            "s3://AKIA:sEcReT@bucket/x",
            "postgres://u:sEcReT@host/x",
            "sqlite:x",
        ] {
            let text = value.parse::<WatchPlace>().expect_err(value).to_string();
            assert!(text.contains("--watch") && !text.contains("--to"), "{value}: {text}");
            assert!(!text.contains("sEcReT") && !text.contains("output"), "{text}");
        }
    }

    #[test]
    fn missing_folder_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = Watch::new(WatchPlace::Folder(dir.path().join("in")));
        let error = watch.check().expect_err("it is not there");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("--watch"), "{error}");
        assert!(Watch::new(WatchPlace::Folder(dir.path().to_owned())).check().is_ok());
    }
}
