//! The names of objects. A key is a function of prefix, epoch and part, and of nothing else.
//!
//! A retry, a restart and another number of workers are therefore harmless: the same input has the
//! same names. The names are Spark's: `<PREFIX>-<ms>[.<suffix>]/part-00000` and `…/_SUCCESS`, where
//! PREFIX is all after the bucket, as given.

use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};

/// The name of the marker that commits an epoch.
pub const MARKER: &str = "_SUCCESS";

/// The start of every part's name.
pub const PART: &str = "part-";

/// The names of the objects of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
    suffix: Option<String>,
}

impl Layout {
    /// Returns names that begin with `prefix` and whose directories end in `.suffix`. An empty
    /// suffix gives a trailing dot, as in Spark's API.
    pub fn new(prefix: impl Into<String>, suffix: Option<String>) -> Self {
        Layout { prefix: prefix.into(), suffix }
    }

    /// Returns the common beginning of all directories of the job.
    pub fn dir_prefix(&self) -> String {
        format!("{}-", self.prefix)
    }

    /// Returns the directory of an epoch, without a trailing slash.
    pub fn dir(&self, epoch: Epoch) -> String {
        match &self.suffix {
            Some(suffix) => format!("{}-{epoch}.{suffix}", self.prefix),
            None => format!("{}-{epoch}", self.prefix),
        }
    }

    /// Returns the directory of claim, probe and changelog, beside the results. Readers of results
    /// ignore names that begin with `_`.
    pub fn own_dir(&self) -> String {
        let beside = self.prefix.rfind('/').map_or("", |slash| &self.prefix[..=slash]);
        format!("{beside}_wordtide")
    }

    /// Returns the key of a part.
    pub fn part(&self, epoch: Epoch, part: u32) -> String {
        format!("{}/{}", self.dir(epoch), part_name(part))
    }

    /// Returns the key of the marker.
    pub fn marker(&self, epoch: Epoch) -> String {
        format!("{}/{MARKER}", self.dir(epoch))
    }

    /// Returns the epoch of the directory `dir`, with or without a trailing slash, if it is a
    /// directory of this job.
    pub fn epoch_of(&self, dir: &str) -> Option<Epoch> {
        let name = dir.strip_suffix('/').unwrap_or(dir);
        let rest = name.strip_prefix(&self.prefix)?.strip_prefix('-')?;
        let digits = match &self.suffix {
            Some(suffix) => rest.strip_suffix(suffix.as_str())?.strip_suffix('.')?,
            None => rest,
        };
        // `+5` and `007` parse as numbers but are never written by this layout.
        let epoch: Epoch = digits.parse().ok()?;
        (epoch.to_string() == digits).then_some(epoch)
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

/// Returns the name of a part in the directory of its epoch.
pub fn part_name(part: u32) -> String {
    format!("{PART}{part:05}")
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
}
