//! The names of objects. A key is a function of prefix, epoch and part, and of nothing else.
//!
//! A retry, a restart and another number of workers are therefore harmless: the same input has the
//! same names. There are two ways to name the folder of an epoch. Spark's is
//! `<PREFIX>-<ms>[.<suffix>]`, where PREFIX is all after the bucket, as given. Hive's (`hive`) is
//! `<PREFIX>/date=…/hour=…/epoch=<ms>`. In the folder are `part-00000…` and `_SUCCESS`.

use jiff::tz::TimeZone;

use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use hive::HiveFolders;

mod find_epochs;
mod hive;
mod time_zone;

pub use find_epochs::EpochSearch;
pub use time_zone::time_zone;

/// The name of the marker that commits an epoch.
pub const MARKER: &str = "_SUCCESS";

/// The start of every part's name.
pub const PART: &str = "part-";

/// The names of the objects of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The beginning of all names, as `--to` has it.
    prefix: String,
    /// How the folders of epochs are named.
    folders: Folders,
    /// The end of a part's name, with its dot.
    extension: &'static str,
}

/// The names of the folders of epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Folders {
    /// As Spark names them, with a suffix.
    Spark(Option<String>),
    /// As Hive names partitions.
    Hive(HiveFolders),
}

impl Layout {
    /// Returns Spark's names, which begin with `prefix` and whose directories end in `.suffix`. An
    /// empty suffix gives a trailing dot, as in Spark's API.
    pub fn new(prefix: impl Into<String>, suffix: Option<String>) -> Self {
        Layout { prefix: prefix.into(), folders: Folders::Spark(suffix), extension: "" }
    }

    /// Returns Hive's names below `prefix`, a folder that is given without a trailing slash. Date
    /// and hour are those of an epoch's start in `zone`; an epoch has `interval_ms`.
    pub fn hive(prefix: impl Into<String>, zone: TimeZone, interval_ms: u64) -> Self {
        let folders = Folders::Hive(HiveFolders { zone, interval_ms });
        Layout { prefix: prefix.into(), folders, extension: "" }
    }

    /// Returns the same names, with `extension` at the end of every part's name.
    #[must_use]
    pub fn with_extension(self, extension: &'static str) -> Self {
        Layout { extension, ..self }
    }

    /// Returns the common beginning of all directories of the job.
    pub fn dir_prefix(&self) -> String {
        match &self.folders {
            Folders::Spark(_) => format!("{}-", self.prefix),
            Folders::Hive(_) => format!("{}{}", self.base(), hive::DATE),
        }
    }

    /// Returns the directory of an epoch, without a trailing slash.
    pub fn dir(&self, epoch: Epoch) -> String {
        match &self.folders {
            Folders::Spark(Some(suffix)) => format!("{}-{epoch}.{suffix}", self.prefix),
            Folders::Spark(None) => format!("{}-{epoch}", self.prefix),
            Folders::Hive(hive) => format!("{}{}", self.base(), hive.dir(epoch)),
        }
    }

    /// Returns the text that identifies the job's names: two jobs with different ones never write
    /// into the same directory.
    pub fn identity(&self) -> String {
        match &self.folders {
            // The directory of an epoch without its number: prefix and suffix.
            Folders::Spark(_) => self.dir(0),
            // An hour of one time zone is another hour of another one.
            Folders::Hive(_) => self.dir_prefix(),
        }
    }

    /// Returns the directory of claim, probe and changelog, beside the results. Readers of results
    /// ignore names that begin with `_`.
    pub fn own_dir(&self) -> String {
        let beside = self.prefix.rfind('/').map_or("", |slash| &self.prefix[..=slash]);
        format!("{beside}_wordtide")
    }

    /// Returns the name of a part in the directory of its epoch.
    pub fn part_name(&self, part: u32) -> String {
        format!("{PART}{part:05}{}", self.extension)
    }

    /// Returns the key of a part.
    pub fn part(&self, epoch: Epoch, part: u32) -> String {
        format!("{}/{}", self.dir(epoch), self.part_name(part))
    }

    /// Returns the key of the marker.
    pub fn marker(&self, epoch: Epoch) -> String {
        format!("{}/{MARKER}", self.dir(epoch))
    }

    /// Returns the epoch of the directory `dir`, with or without a trailing slash, if it is a
    /// directory of this job. In Hive's layout, it may be in any date and hour.
    pub fn epoch_of(&self, dir: &str) -> Option<Epoch> {
        let name = dir.strip_suffix('/').unwrap_or(dir);
        let digits = match &self.folders {
            Folders::Spark(suffix) => {
                let rest = name.strip_prefix(&self.prefix)?.strip_prefix('-')?;
                match suffix {
                    Some(suffix) => rest.strip_suffix(suffix.as_str())?.strip_suffix('.')?,
                    None => rest,
                }
            }
            Folders::Hive(_) => hive::digits_of(name.strip_prefix(&self.base())?)?,
        };
        // `+5` and `007` parse as numbers but are never written by this layout.
        let epoch: Epoch = digits.parse().ok()?;
        (epoch.to_string() == digits).then_some(epoch)
    }

    /// Returns the prefix as the beginning of names in it.
    fn base(&self) -> String {
        if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }

    /// Returns Hive's folders and the beginning of their names, in that layout.
    fn as_hive(&self) -> Option<(&HiveFolders, String)> {
        match &self.folders {
            Folders::Spark(_) => None,
            Folders::Hive(hive) => Some((hive, self.base())),
        }
    }
}

/// Checks that a suffix is part of one name. With a slash in it, the directory of an epoch would
/// not be found again.
///
/// # Errors
///
/// `Usage` if the suffix has a slash or a control character. The message names `--suffix`.
pub fn check_suffix(suffix: Option<&str>) -> Result<()> {
    if !suffix.is_some_and(|suffix| suffix.contains(|c: char| c == '/' || c.is_control())) {
        return Ok(());
    }
    let message = format!("the suffix {:?} is no end of a name", suffix.unwrap_or_default());
    Err(Error::new(ErrorKind::Usage, message)
        .hint("give --suffix without a slash and control characters, as in --suffix txt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(prefix: &str, suffix: Option<&str>) -> Layout {
        Layout::new(prefix, suffix.map(String::from))
    }

    #[test]
    fn names_are_those_of_spark() {
        let names = [
            ("out/StreamingTest/", Some("txt"), "out/StreamingTest/-17000.txt"),
            ("counts", Some("txt"), "counts-17000.txt"),
            ("counts", None, "counts-17000"),
            ("counts", Some(".txt"), "counts-17000..txt"),
            ("s", Some(""), "s-17000."),
        ];
        for (prefix, suffix, dir) in names {
            let layout = layout(prefix, suffix);
            assert_eq!(layout.dir(17_000), dir);
            assert_eq!(layout.part(17_000, 3), format!("{dir}/part-00003"));
            assert_eq!(layout.epoch_of(&format!("{dir}/")), Some(17_000));
        }
    }

    #[test]
    fn own_directory_is_beside_the_results() {
        let dirs =
            ["a/b/", "a/b/counts", "counts", ""].map(|prefix| layout(prefix, None).own_dir());
        assert_eq!(dirs, ["a/b/_wordtide", "a/b/_wordtide", "_wordtide", "_wordtide"]);
    }

    #[test]
    fn a_suffix_is_the_end_of_one_name() {
        for suffix in [None, Some(""), Some("txt"), Some(".txt"), Some("é b")] {
            assert!(check_suffix(suffix).is_ok(), "{suffix:?}");
        }
        for suffix in ["a/b", "txt/", "/", "a\nb", "\0"] {
            let error = check_suffix(Some(suffix)).expect_err(suffix);
            assert!(error.to_string().contains("--suffix"), "{error}");
        }
    }

    #[test]
    fn foreign_directories_have_no_epoch() {
        let layout = layout("counts", Some("txt"));
        let foreign = [
            "counts-17000",
            "counts-17000.csv",
            "counts-x.txt",
            "counts2-17000.txt",
            "counts-+5.txt",
        ];
        for dir in foreign {
            assert_eq!(layout.epoch_of(dir), None, "{dir}");
        }
    }

    #[test]
    fn hive_folders_are_below_the_prefix() {
        let zone = time_zone("UTC").expect("UTC");
        let epoch = 1_795_946_400_000;
        for (prefix, base) in [("a/counts", "a/counts/"), ("counts", "counts/"), ("", "")] {
            let layout = Layout::hive(prefix, zone.clone(), 10_000).with_extension(".parquet");
            let dir = format!("{base}date=2026-11-29/hour=09/epoch={epoch}");
            assert_eq!(layout.dir(epoch), dir);
            assert_eq!(layout.part(epoch, 3), format!("{dir}/part-00003.parquet"));
            assert_eq!(layout.epoch_of(&format!("{dir}/")), Some(epoch));
        }
        let layout = Layout::hive("a/counts", zone, 10_000);
        assert_eq!(layout.own_dir(), "a/_wordtide");
        for dir in [
            "a/counts/date=2026-11-29/hour=09",
            "a/counts/date=2026-11-29/hour=09/epoch=x",
            "a/counts/date=2026-11-29/hour=09/epoch=+5",
            "a/counts/date=2026-11-29/epoch=5",
            "a/counts/date=x/hour=09/epoch=5",
            "a/counts/x/date=2026-11-29/hour=09/epoch=5",
            "a/count/date=2026-11-29/hour=09/epoch=5",
        ] {
            assert_eq!(layout.epoch_of(dir), None, "{dir}");
        }
    }

    #[test]
    fn extension_ends_names_of_parts_only() {
        let layout = layout("counts", Some("txt")).with_extension(".gz");
        assert_eq!(layout.part(17_000, 0), "counts-17000.txt/part-00000.gz");
        assert_eq!(layout.marker(17_000), "counts-17000.txt/_SUCCESS");
    }
}
