//! The form of objects: their names and their bytes.

use super::format::{Compression, Format};
use super::object_names::{Layout, check_suffix, time_zone};
use super::part_encoding::Encoding;
use crate::error::{Error, ErrorKind, Result};
use crate::settings::FolderLayout;
use crate::store::Target;

/// The names of objects and their bytes.
#[derive(Clone, Debug)]
pub struct ObjectForm {
    /// The names of objects.
    pub layout: Layout,
    /// The bytes of a part.
    pub encoding: Encoding,
}

/// The settings of names and bytes, as they are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FormSettings {
    /// The end of the names of the folders of epochs: `--suffix`.
    pub suffix: Option<String>,
    /// The format of rows: `--format`.
    pub format: Format,
    /// The compression of parts: `--compress`. The default depends on the format.
    pub compression: Option<Compression>,
    /// The way in which the folders of epochs are named: `--layout`.
    pub layout: FolderLayout,
    /// The time zone of dates and hours: `--time-zone`, UTC by default.
    pub time_zone: Option<String>,
}

/// The time zone of dates and hours that is not set.
const DEFAULT_ZONE: &str = "UTC";

impl FormSettings {
    /// Returns the name of the time zone in which folders are named, if they are.
    pub fn zone_name(&self) -> Result<Option<String>> {
        if self.layout != FolderLayout::Hive {
            return Ok(None);
        }
        let zone = time_zone(self.time_zone.as_deref().unwrap_or(DEFAULT_ZONE))?;
        Ok(zone.iana_name().map(str::to_owned))
    }

    /// Returns the output that `target` means in this layout. In Hive's, a folder is meant, be it
    /// given with a slash at its end or without.
    pub fn place(&self, target: Target) -> Target {
        match self.layout {
            FolderLayout::Spark => target,
            FolderLayout::Hive => target.as_folder(),
        }
    }

    /// Returns the encoding of parts.
    pub fn encoding(&self) -> Encoding {
        Encoding::new(self.format, self.compression)
    }

    /// Returns the form of the objects of `target` for epochs of `interval_ms`.
    ///
    /// # Errors
    ///
    /// `Usage` if settings exclude each other. The message names the flags.
    pub fn form(&self, target: &Target, interval_ms: u64) -> Result<ObjectForm> {
        self.check(target)?;
        let (prefix, encoding) = (target.prefix(), self.encoding());
        let layout = match self.layout {
            FolderLayout::Spark => Layout::new(prefix, self.suffix.clone()),
            FolderLayout::Hive => {
                let zone = time_zone(self.time_zone.as_deref().unwrap_or(DEFAULT_ZONE))?;
                Layout::hive(prefix, zone, interval_ms)
            }
        };
        Ok(ObjectForm { layout: layout.with_extension(encoding.extension()), encoding })
    }

    /// Refuses settings that exclude each other.
    fn check(&self, target: &Target) -> Result<()> {
        check_suffix(self.suffix.as_deref())?;
        let is_hive = self.layout == FolderLayout::Hive;
        let refuse = |message: String, hint: &str| {
            Err(Error::new(ErrorKind::Usage, message).hint(hint.to_owned()))
        };
        if is_hive && self.suffix.is_some() {
            let message = "the folders of --layout hive have no suffix".to_owned();
            return refuse(message, "give either --suffix or --layout hive");
        }
        if !is_hive && let Some(zone) = &self.time_zone {
            let message = format!("the time zone {zone:?} names no folder: epochs are numbers");
            return refuse(message, "give --time-zone only with --layout hive");
        }
        if *target != Target::Stdout {
            return Ok(());
        }
        if self.format == Format::Parquet {
            let message = "a Parquet file cannot go to standard output".to_owned();
            return refuse(message, "give --to a path prefix, or --format one that is text");
        }
        if let Some(compression) = self.compression.filter(|it| *it != Compression::None) {
            let message = format!("--compress {compression} makes files, not a stream of rows");
            return refuse(message, "pipe the rows of --to - into a compressor instead");
        }
        if is_hive {
            let message = "--layout hive names folders, and standard output has none".to_owned();
            return refuse(message, "give --to a path prefix, or no --layout");
        }
        Ok(())
    }
}
