//! Time zones by their IANA names, from the database that the program carries.
//!
//! The machine's own database is not asked: the folder of an epoch would depend on the machine.

use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::error::{Error, ErrorKind, Result};

/// The most names that a message offers.
const OFFERED_MAX: usize = 3;

/// The most edits between a name and one that is offered for it.
const EDITS_MAX: usize = 2;

/// Returns the time zone called `name`.
///
/// # Errors
///
/// `Usage` if there is none. The message offers names that are like it.
pub fn time_zone(name: &str) -> Result<TimeZone> {
    let database = TimeZoneDatabase::bundled();
    match database.get(name) {
        Ok(zone) if !zone.is_unknown() => Ok(zone),
        _ => {
            let names: Vec<String> =
                database.available().map(|known| known.as_str().to_owned()).collect();
            let near = near(name, &names);
            let hint = match near.as_slice() {
                [] => "give --time-zone an IANA name, as in Asia/Shanghai or UTC".to_owned(),
                near => format!("give --time-zone an IANA name; near ones: {}", near.join(", ")),
            };
            let message = format!("the time zone {name:?} is not known");
            Err(Error::new(ErrorKind::Usage, message).hint(hint))
        }
    }
}

/// Returns the names that are most like `name`: those with the same city first, then those that
/// differ by a few letters, then those that contain it.
fn near<'a>(name: &str, names: &'a [String]) -> Vec<&'a str> {
    let name = name.trim().to_lowercase().replace(' ', "_");
    let city = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let sought = city(&name);
    if sought.is_empty() {
        return Vec::new();
    }
    let mut ranked: Vec<(usize, &str)> = Vec::new();
    for known in names {
        let lower = known.to_lowercase();
        let known_city = city(&lower);
        let edits = edits(&lower, &name).min(edits(&known_city, &sought));
        if known_city == sought {
            ranked.push((0, known));
        } else if edits <= EDITS_MAX.min(sought.len() / 3) {
            ranked.push((edits, known));
        } else if sought.len() > 2 && lower.contains(&sought) {
            ranked.push((EDITS_MAX + 1, known));
        }
    }
    ranked.sort_unstable();
    ranked.into_iter().take(OFFERED_MAX).map(|(_, known)| known).collect()
}

/// Returns the smallest number of inserted, removed and replaced bytes that make `a` of `b`.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(byte != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_found_whatever_their_case() {
        for (name, zone) in [
            ("UTC", "UTC"),
            ("Asia/Shanghai", "Asia/Shanghai"),
            ("europe/berlin", "Europe/Berlin"),
            ("Etc/GMT-14", "Etc/GMT-14"),
        ] {
            assert_eq!(time_zone(name).expect(name).iana_name(), Some(zone));
        }
    }

    #[test]
    fn unknown_zones_get_near_names() {
        for (name, offered) in [
            ("Europe/Berlim", "Europe/Berlin"),
            ("Berlin", "Europe/Berlin"),
            ("Asia/Shangai", "Asia/Shanghai"),
            ("New York", "America/New_York"),
            ("Asia/Berlin", "Europe/Berlin"),
            ("", "IANA name, as in"),
            ("+08:00", "IANA name, as in"),
            ("Etc/Unknown", "IANA name"),
        ] {
            let error = time_zone(name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Usage);
            let text = error.to_string();
            assert!(text.contains("--time-zone") && text.contains(offered), "{name}: {text}");
        }
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!([edits("", "ab"), edits("abc", "abc"), edits("kitten", "sitting")], [2, 0, 3]);
    }
}
