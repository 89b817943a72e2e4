//! Values as people type them: durations and sizes with units, names of choices.

use std::convert::Infallible;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::named_values::NamedValue;

/// Names that are less alike than this are not offered for one another.
const LIKENESS_MIN: f64 = 0.6;

/// Returns the parser of a flag that takes one of these names.
pub fn choice<T>(choices: &'static [(&'static str, T)]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let names = PossibleValuesParser::new(choices.iter().map(|(name, _)| *name));
    names.try_map(|name| {
        let known = choices.iter().find(|(known, _)| *known == name);
        known.map(|(_, value)| *value).ok_or("not one of the names above")
    })
}

/// Returns the parser of a flag whose values have names everywhere.
pub fn named<T: NamedValue>() -> impl TypedValueParser<Value = T> {
    choice(T::NAMES)
}

/// Parses an element of a list: blanks around it do not count.
pub fn trimmed(text: &str) -> Result<String, Infallible> {
    Ok(text.trim().to_owned())
}

/// Returns the known name that is most like `name`, if one is like it.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &'a str| (strsim::normalized_damerau_levenshtein(name, known), known);
    let alike = known.into_iter().map(likeness).filter(|(likeness, _)| *likeness >= LIKENESS_MIN);
    alike.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known)
}

/// Parses `500ms`, `10s`, `5m`, `24h`.
///
/// Fails with the units that there are.
pub fn duration(text: &str) -> Result<Duration, String> {
    /// Units of time in milliseconds.
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    number_with_unit(text, &UNITS)
        .map(Duration::from_millis)
        .ok_or_else(|| "give a whole number with a unit: ms, s, m or h, as in 10s".to_owned())
}

/// Parses `4096`, `64KiB`, `16MiB`, `4GiB`.
///
/// Fails with the units that there are.
pub fn bytes(text: &str) -> Result<usize, String> {
    /// Units of size in bytes.
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("", 1),
    ];
    number_with_unit(text, &UNITS)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| "give a number of bytes, as in 4096, 64KiB or 16MiB".to_owned())
}

/// Parses a whole number with one of these units, in any case of letters.
fn number_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(known, _)| known.eq_ignore_ascii_case(unit))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A duration as it would be typed.
pub fn show(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let good = [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000)];
        for (text, ms) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "-1s", "10 s", "10days", "99999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_may_have_units() {
        let good = [("4096", 4096), ("64KiB", 65_536), ("1kb", 1_000), ("4GiB", 4 << 30)];
        for (text, size) in good {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "-1", "1XB", "99999999999999999999"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nearest_name_is_like_it_or_none() {
        let known = ["run", "replay", "check", "completions"];
        let cases = [("rnu", Some("run")), ("chekc", Some("check")), ("localhost", None)];
        for (name, expected) in cases {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        for text in ["10s", "250ms", "3600s"] {
            assert_eq!(duration(text).map(show), Ok(text.to_owned()));
        }
    }
}
