//! Names: an object's key is a function of prefix, epoch and part, and of nothing else.
//!
//! That is what makes a retry, a restart and another number of workers harmless: the same input
//! meets the same names. The names are Spark's: `<PREFIX>-<ms>[.<suffix>]/part-00000` and
//! `…/_SUCCESS`, where PREFIX is all that follows the bucket, as given.

use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};

/// The name of the marker that commits an epoch.
pub const MARKER: &str = "_SUCCESS";

/// The start of every part's name.
pub const PART: &str = "part-";

/// How the objects of a job are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
    suffix: Option<String>,
}

impl Layout {
    /// Names that begin with `prefix` and whose directories end in `.suffix`. An empty suffix
    /// gives a trailing dot, as Spark's API does.
    pub fn new(prefix: impl Into<String>, suffix: Option<String>) -> Self {
        Layout { prefix: prefix.into(), suffix }
    }

    /// What all directories of the job begin with.
    pub fn dir_prefix(&self) -> String {
        format!("{}-", self.prefix)
    }

    /// The directory of an epoch, without a trailing slash.
    pub fn dir(&self, epoch: Epoch) -> String {
        match &self.suffix {
            Some(suffix) => format!("{}-{epoch}.{suffix}", self.prefix),
            None => format!("{}-{epoch}", self.prefix),
        }
    }

    /// The directory of what the program keeps for itself, beside the results: those who read them
    /// leave out names that begin with `_`.
    pub fn own_dir(&self) -> String {
        let beside = self.prefix.rfind('/').map_or("", |slash| &self.prefix[..=slash]);
        format!("{beside}_wordtide")
    }

    /// The key of one part.
    pub fn part(&self, epoch: Epoch, part: u32) -> String {
        format!("{}/{}", self.dir(epoch), part_name(part))
    }

    /// The key of the marker.
    pub fn marker(&self, epoch: Epoch) -> String {
        format!("{}/{MARKER}", self.dir(epoch))
    }

    /// The epoch whose directory `dir` (with or without a trailing slash) is, if it is one of ours.
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

/// Refuses a suffix that would not stay within one name: an epoch below a directory of its own
/// would not be found again.
///
/// # Errors
///
/// `Usage`, naming `--suffix`.
pub fn check_suffix(suffix: Option<&str>) -> Result<()> {
    if !suffix.is_some_and(|suffix| suffix.contains(|c: char| c == '/' || c.is_control())) {
        return Ok(());
    }
    let message = format!("the suffix {:?} is no end of a name", suffix.unwrap_or_default());
    Err(Error::new(ErrorKind::Usage, message)
        .hint("give --suffix without a slash and control characters, as in --suffix txt"))
}

/// The name of a part within its epoch's directory.
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
    fn names_are_those_of_spark_dash_and_dot_included() {
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
    fn what_is_not_a_result_lies_beside_the_results() {
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
    fn directories_of_others_are_not_taken_for_ours() {
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
