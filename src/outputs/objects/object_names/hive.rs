//! Folders as Hive names its partitions: `date=YYYY-MM-DD/hour=HH/epoch=<ms>`.
//!
//! Date and hour are those of the epoch's start on the clock of a time zone. A clock that is set
//! back shows an hour twice. Its epochs share the folder of the hour, and their numbers keep them
//! apart.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use crate::epoch::Epoch;

/// The most hours by which a clock is ahead of another one's, over all time zones: from 12 hours
/// after UTC to 14 before it.
const AHEAD_HOURS_MAX: i64 = 14;
const BEHIND_HOURS_MAX: i64 = 12;

/// The names of the levels, from the outer one to the inner one.
pub const DATE: &str = "date=";
pub const HOUR: &str = "hour=";
pub const EPOCH: &str = "epoch=";

/// The folders of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiveFolders {
    pub zone: TimeZone,
    /// Length of an epoch.
    pub interval_ms: u64,
}

impl HiveFolders {
    /// Returns the folder of an epoch.
    pub fn dir(&self, epoch: Epoch) -> String {
        let start = timestamp(epoch.saturating_sub(self.interval_ms));
        let (date, hour) = date_and_hour(self.zone.to_datetime(start));
        format!("{DATE}{date}/{HOUR}{hour}/{EPOCH}{epoch}")
    }

    /// Returns date and hour of the first folder that can hold an epoch from `from` on, whatever
    /// the time zone in which it was named: another job may have used another one.
    pub fn first(&self, from: Epoch) -> (String, String) {
        // The clock that is most after UTC shows the least.
        let after_ms = BEHIND_HOURS_MAX as u64 * 3_600_000;
        let start = from.saturating_sub(self.interval_ms).saturating_sub(after_ms);
        date_and_hour(Offset::UTC.to_datetime(timestamp(start)))
    }
}

/// Returns the time of a clock that shows `ms`, or the last time that can be written as a date.
fn timestamp(ms: u64) -> Timestamp {
    // Two offsets before the end of the year 9999, so that every zone has a date for it.
    let last = Timestamp::MAX.as_millisecond() - 2 * AHEAD_HOURS_MAX * 3_600_000;
    let ms = i64::try_from(ms).unwrap_or(last).min(last);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

/// Returns the names of a date and an hour.
fn date_and_hour(at: DateTime) -> (String, String) {
    let date = format!("{:04}-{:02}-{:02}", at.year(), at.month(), at.day());
    (date, format!("{:02}", at.hour()))
}

/// Returns the digits of the epoch whose folder is `dir`, named from the prefix on, without a
/// trailing slash.
pub fn digits_of(dir: &str) -> Option<&str> {
    let (outer, epoch) = dir.rsplit_once('/')?;
    let (date, hour) = outer.split_once('/')?;
    (is_date(date) && is_hour(hour)).then(|| epoch.strip_prefix(EPOCH))?
}

/// Returns true for the name of a folder of a date.
pub fn is_date(name: &str) -> bool {
    has_form(name, DATE, "0000-00-00")
}

/// Returns true for the name of a folder of an hour.
pub fn is_hour(name: &str) -> bool {
    has_form(name, HOUR, "00")
}

/// Returns true if `name` is `level` and a value in the form of `pattern`, in which 0 stands for
/// any digit.
fn has_form(name: &str, level: &str, pattern: &str) -> bool {
    let fits = |(byte, wanted): (u8, u8)| match wanted {
        b'0' => byte.is_ascii_digit(),
        _ => byte == wanted,
    };
    name.strip_prefix(level).is_some_and(|value| {
        value.len() == pattern.len() && value.bytes().zip(pattern.bytes()).all(fits)
    })
}

#[cfg(test)]
mod tests {
    use super::super::time_zone::time_zone;
    use super::*;

    const MINUTE: u64 = 60_000;

    fn folders(zone: &str, interval_ms: u64) -> HiveFolders {
        HiveFolders { zone: time_zone(zone).expect(zone), interval_ms }
    }

    /// Returns the epochs that end at each step of `interval_ms` in some hours after `from`.
    fn epochs(from: &str, hours: u64, interval_ms: u64) -> impl Iterator<Item = Epoch> {
        let from = from.parse::<Timestamp>().expect(from).as_millisecond() as u64;
        (0..hours * 60 * MINUTE / interval_ms).map(move |step| from + step * interval_ms)
    }

    #[test]
    fn folder_is_that_of_the_start() {
        let midnight = "2026-11-29T00:00:00Z".parse::<Timestamp>().expect("a time");
        let epoch = midnight.as_millisecond() as u64;
        for (zone, interval_ms, dir) in [
            ("UTC", 10_000, "date=2026-11-28/hour=23"),
            ("UTC", 24 * 60 * MINUTE, "date=2026-11-28/hour=00"),
            ("Asia/Shanghai", 10_000, "date=2026-11-29/hour=07"),
            ("Asia/Kolkata", 10_000, "date=2026-11-29/hour=05"),
            ("America/New_York", 10_000, "date=2026-11-28/hour=18"),
        ] {
            let expected = format!("{dir}/epoch={epoch}");
            assert_eq!(folders(zone, interval_ms).dir(epoch), expected, "{zone}");
        }
        assert_eq!(folders("UTC", 10_000).dir(5), "date=1970-01-01/hour=00/epoch=5");
        let last = folders("Pacific/Kiritimati", 10_000).dir(Epoch::MAX);
        assert!(last.starts_with("date=9999-12-"), "{last}");
    }

    #[test]
    fn set_clock_loses_and_merges_no_epoch() {
        for (zone, around) in [
            ("Europe/Berlin", "2026-10-24T22:00:00Z"),  // back, at 3
            ("Europe/Berlin", "2026-03-28T22:00:00Z"),  // ahead, at 2
            ("America/Havana", "2026-11-01T00:00:00Z"), // back, from 1 to midnight
            ("Australia/Lord_Howe", "2026-04-04T10:00:00Z"), // back, by half an hour
            ("America/Asuncion", "2024-03-23T20:00:00Z"), // back, from midnight to the day before
        ] {
            let folders = folders(zone, MINUTE);
            let mut dirs: Vec<String> =
                epochs(around, 12, MINUTE).map(|epoch| folders.dir(epoch)).collect();
            let count = dirs.len();
            dirs.sort_unstable();
            dirs.dedup();
            assert_eq!(dirs.len(), count, "{zone}");
        }
    }

    #[test]
    fn search_begins_before_every_zone() {
        for zone in ["UTC", "Etc/GMT+12", "Pacific/Kiritimati", "Europe/Berlin"] {
            let own = folders(zone, MINUTE);
            for epoch in epochs("2026-10-24T00:00:00Z", 48, 10 * MINUTE) {
                let (date, hour) = folders("UTC", MINUTE).first(epoch);
                let first = format!("{DATE}{date}/{HOUR}{hour}");
                assert!(own.dir(epoch) >= first, "{zone}: {} before {first}", own.dir(epoch));
            }
        }
    }

    #[test]
    fn names_have_the_form_of_their_level() {
        assert!(is_date("date=2026-11-29") && is_hour("hour=07"));
        for name in ["date=2026-11-2", "date=latest", "day=2026-11-29", "date=2026-11-29x", ""] {
            assert!(!is_date(name), "{name}");
        }
    }
}
