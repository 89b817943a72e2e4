//! The form of objects as the flags describe it: names, format and compression.

use super::flags::OutputFlags;
use super::given_flags;
use crate::outputs::FormSettings;
use crate::outputs::format::Format;
use crate::settings::FolderLayout;
use crate::store::Target;

/// Returns the form of the objects of `target`.
///
/// Where two settings exclude each other and one comes from a weaker place, a variable or a file,
/// the other one is in force.
pub fn form(flags: &OutputFlags, target: &Target) -> FormSettings {
    let mut form = FormSettings {
        suffix: flags.suffix.clone(),
        format: flags.format,
        compression: flags.compress,
        layout: flags.layout,
        time_zone: flags.time_zone.clone(),
    };
    let beats = |flag, other| given_flags::is_weaker(other, flag);
    if *target == Target::Stdout {
        if beats("to", "compress") {
            form.compression = None;
        }
        if form.format == Format::Parquet && beats("to", "format") {
            form.format = Format::default();
        }
        if form.layout == FolderLayout::Hive && beats("to", "layout") {
            form.layout = FolderLayout::Spark;
        }
    }
    if matches!(target, Target::Database(_) | Target::Search(_)) {
        form = of_database(form, beats);
    }
    if form.layout == FolderLayout::Hive && form.suffix.is_some() {
        if beats("layout", "suffix") {
            form.suffix = None;
        } else if beats("suffix", "layout") {
            form.layout = FolderLayout::Spark;
        }
    }
    let is_plain = form.layout == FolderLayout::Spark;
    if form.layout != flags.layout || is_plain && given_flags::was_found("time-zone") {
        // The zone belongs to the layout that was beaten, or to another job.
        form.time_zone = None;
    }
    form
}

/// Returns the form without what a database or an index in `--to` beats.
fn of_database(
    form: FormSettings,
    beats: impl Fn(&'static str, &'static str) -> bool,
) -> FormSettings {
    let default = FormSettings::default();
    FormSettings {
        suffix: form.suffix.filter(|_| !beats("to", "suffix")),
        format: if beats("to", "format") { default.format } else { form.format },
        compression: form.compression.filter(|_| !beats("to", "compress")),
        layout: if beats("to", "layout") { default.layout } else { form.layout },
        time_zone: form.time_zone.filter(|_| !beats("to", "time-zone")),
    }
}
