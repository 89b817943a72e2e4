//! What becomes of a journal whose job has finished: its records go, its room stays.
//!
//! Giving hundreds of megabytes back to the file system takes longer than filling them, and the
//! same command started again would have to ask for them anew. So the files of a journal that has
//! filled at least one segment become spares, a few of them, in the one folder `room` of the state,
//! and the next journal that is made there begins with them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, LocalDisk};
use super::{SEGMENTS_MIN, segment};
use crate::crash::crash_point;

/// Most files that stay: half a gigabyte with the default cap, and never more than the cap.
const ROOM_FILES: usize = SEGMENTS_MIN as usize;

/// Drops the journal in `folder`, which nobody has open. A crash leaves all of it or nothing.
///
/// # Errors
/// Those of the disk.
pub fn put_away(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.with_file_name(format!("closed-{name}"));
    match fs::remove_dir_all(&aside) {
        // What a crash left of an earlier one would be in the way.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(folder, &aside)?;
    if let Some(parent) = folder.parent().filter(|path| !path.as_os_str().is_empty()) {
        fs::File::open(parent)?.sync_all()?;
    }
    crash_point("recovery.put_away");
    if drop_records(&aside)? && fs::rename(&aside, room(folder)).is_ok() {
        return Ok(());
    }
    // It held little, or there is room already.
    fs::remove_dir_all(aside)
}

/// Makes the room that an earlier journal left the folder of a new one, if there is some and
/// `folder` is not there.
///
/// # Errors
/// Those of the disk.
pub fn take_room(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    match fs::rename(room(folder), folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn room(folder: &Path) -> PathBuf {
    folder.with_file_name("room")
}

/// Gives segments the names of spares, durably, and removes those beyond the few that are kept;
/// `false`, and does nothing, if the journal never filled its first segment.
fn drop_records(folder: &Path) -> io::Result<bool> {
    let disk = LocalDisk::read_only(folder);
    let names = disk.list()?;
    let mut segments: Vec<u64> = names.iter().filter_map(|name| segment::base(name)).collect();
    let spares: Vec<u64> = names.iter().filter_map(|name| segment::spare_number(name)).collect();
    segments.sort_unstable();
    if segments.last().is_none_or(|&base| base == 0) {
        return Ok(false);
    }
    let mut next = spares.iter().max().map_or(1, |last| last.saturating_add(1));
    for &number in spares.iter().skip(ROOM_FILES) {
        disk.remove(&segment::spare_name(number))?;
    }
    let wanted = ROOM_FILES.saturating_sub(spares.len());
    for (at, base) in segments.into_iter().enumerate() {
        let name = segment::name(base);
        if at < wanted {
            disk.rename(&name, &segment::spare_name(next))?;
            next += 1;
        } else {
            disk.remove(&name)?;
        }
    }
    disk.sync()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Append, Facts, Journal, JournalSettings};

    fn names(folder: &Path) -> Vec<String> {
        let mut names = LocalDisk::read_only(folder).list().unwrap();
        names.sort();
        names
    }

    fn fill(folder: &Path, records: usize) {
        let settings = JournalSettings {
            journal_bytes_max: 256 << 10,
            record_bytes_max: 8 << 10,
            ..JournalSettings::default()
        };
        let facts = Facts { source: "tcp".to_owned(), parts: 1, interval_ms: 1000 };
        let (mut journal, recovery) = Journal::open(folder, settings, facts).unwrap();
        assert!(recovery.created, "an old record came back");
        for _ in 0..records {
            let Append::Stored { .. } = journal.append_data(1, &[b'x'; 8000]).unwrap() else {
                panic!("full");
            };
        }
    }

    #[test]
    fn a_journal_put_away_leaves_its_room_for_the_next_and_no_record() {
        for spares in [6, 12] {
            let state = tempfile::tempdir().unwrap();
            let path = |name: &str| state.path().join(name);
            fill(&path("journal-x"), 15);
            fill(&path("journal-y"), 15);
            let disk = LocalDisk::read_only(&path("journal-x"));
            for number in 50..50 + spares {
                disk.create(&segment::spare_name(number), 32 << 10).unwrap();
            }
            put_away(&path("journal-x")).unwrap();
            put_away(&path("journal-y")).unwrap();
            assert_eq!(names(state.path()), ["room"], "one room is enough");
            let kept = names(&path("room"));
            assert_eq!(kept.len(), 1 + ROOM_FILES, "{kept:?}");
            let is_room = |name: &String| name == "lock" || name.starts_with("spare-");
            assert!(kept.iter().all(is_room), "{kept:?}");
            take_room(&path("journal-z")).unwrap();
            assert_eq!(names(state.path()), ["journal-z"]);
            fill(&path("journal-z"), 15);
            take_room(&path("journal-z")).unwrap();
        }
    }

    #[test]
    fn a_journal_whose_segments_were_all_used_again_leaves_its_room_too() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("journal-x");
        fill(&folder, 15);
        for base in LocalDisk::read_only(&folder).list().unwrap() {
            // All but the last are spares by now.
            let base = segment::base(&base).filter(|base| *base < 96_000);
            if let Some(base) = base {
                let spare = folder.join(segment::spare_name(100 + base));
                fs::rename(folder.join(segment::name(base)), spare).unwrap();
            }
        }
        let files = names(&folder).len();
        assert_eq!(names(&folder).iter().filter(|name| name.ends_with(".wtj")).count(), 1);
        put_away(&folder).unwrap();
        assert_eq!(names(&state.path().join("room")).len(), files);
    }

    #[test]
    fn a_journal_that_filled_no_segment_leaves_nothing() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("journal-x");
        fill(&folder, 1);
        put_away(&folder).unwrap();
        assert!(names(state.path()).is_empty());
        take_room(&folder).unwrap();
        assert!(!folder.exists());
    }
}
