//! Settings from environment variables: `WORDTIDE_` and the flag's name.
//!
//! An empty variable is unset, and so is one of blanks only. A line end after the value, as a file
//! or a secret may have it, does not count. A switch is `true`, `1`, `yes`, or `false`, `0`, `no`,
//! which is the same as not given. A list is separated as on the command line, and blanks around
//! its elements do not count. A delimiter is taken as it stands, since it may be a blank.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};

use super::given_flags::SettingOrigin;
use super::parse_values::nearest;
use super::precedence::FoundSetting;
use crate::error::{Error, ErrorKind};

/// The beginning of all names.
const PREFIX: &str = "WORDTIDE_";
/// The flag whose value may be a blank.
const DELIMITER: &str = "delimiter";
/// The definition of a run that does not name one.
pub const DATAFLOW: &str = "WORDTIDE_DATAFLOW";
/// Variables that a launcher and a bench set for the processes that they start.
const OF_CHILDREN: [&str; 4] = ["MESH_KEY", "GENERATION", "LIFELINE", "BENCH_ROLE"];
/// The one that a launcher always sets.
const LIFELINE: &str = "WORDTIDE_LIFELINE";
/// Beginnings of names that tests use.
const OF_TESTS: [&str; 6] = ["TEST", "TORTURE", "SEED", "CRASH_", "FAULT", "JOURNAL_C"];

/// Looks the variable of a flag up.
///
/// # Errors
///
/// `Usage` for a switch that is neither true nor false, naming the variable.
pub fn find(
    flag: &Arg,
    lookup: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Option<FoundSetting>, Error> {
    let Some(name) = flag.get_env() else { return Ok(None) };
    let value = if is_literal(flag) { lookup(name) } else { lookup(name).and_then(meant) };
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let place = SettingOrigin::Variable(name.to_string_lossy().into_owned());
    if value.to_str().is_none() && !takes_any_bytes(flag) {
        let message = format!("{place} is {value:?}, which is not UTF-8");
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let arguments = arguments(flag, &value).map_err(|takes| {
        let (value, long) = (value.to_string_lossy(), flag.get_long().unwrap_or_default());
        Error::new(ErrorKind::Usage, format!("{place} is {value:?}"))
            .hint(format!("--{long} takes {takes}"))
    })?;
    Ok(Some(FoundSetting { place, arguments }))
}

/// Returns true for a flag whose value is a path, and so need not be UTF-8.
fn takes_any_bytes(flag: &Arg) -> bool {
    let taken = flag.get_value_parser().type_id();
    taken == TypeId::of::<PathBuf>() || taken == TypeId::of::<OsString>()
}

/// Returns true for the flag whose value is taken as it stands.
fn is_literal(flag: &Arg) -> bool {
    flag.get_id() == DELIMITER
}

/// Returns true for a text that leaves its flag unset: nothing, or blanks only.
pub fn is_unset(flag: &Arg, text: &str) -> bool {
    text.is_empty() || !is_literal(flag) && text.trim_ascii().is_empty()
}

/// Returns the value of a variable without the line ends after it; `None` for blanks only.
pub fn meant(value: OsString) -> Option<OsString> {
    let mut bytes = value.into_vec();
    while bytes.pop_if(|last| matches!(last, b'\n' | b'\r')).is_some() {}
    (!bytes.trim_ascii().is_empty()).then(|| OsString::from_vec(bytes))
}

/// The arguments that give a flag this value; none for a switch that is off or an empty list. Fails
/// with what the flag takes.
pub fn arguments(flag: &Arg, value: &OsStr) -> Result<Vec<OsString>, &'static str> {
    let long = flag.get_long().unwrap_or_default();
    let given = |value: &OsStr| {
        let mut argument = OsString::from(format!("--{long}="));
        argument.push(value);
        argument
    };
    let text = value.to_str();
    match (flag.get_action(), flag.get_value_delimiter(), text) {
        (ArgAction::SetTrue, _, text) => match text.and_then(switch) {
            Some(on) => Ok(vec![OsString::from(format!("--{long}")); usize::from(on)]),
            None => Err("true, 1, yes, or false, 0, no"),
        },
        (ArgAction::Count, _, text) => {
            let times = text
                .and_then(|text| text.trim().parse().ok().or_else(|| switch(text).map(u8::from)));
            let times = times.ok_or("a number, or true or false")?;
            Ok(vec![OsString::from(format!("--{long}")); usize::from(times)])
        }
        (_, Some(delimiter), Some(text)) => {
            let elements = text.split(delimiter).map(str::trim).filter(|text| !text.is_empty());
            Ok(elements.map(|element| given(OsStr::new(element))).collect())
        }
        _ => Ok(vec![given(value)]),
    }
}

/// Reads a switch.
fn switch(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

/// Returns true in a process that a launcher has started with its own arguments.
pub fn is_launched() -> bool {
    std::env::var_os(LIFELINE).is_some()
}

/// Warns of each variable that looks like a setting and is none, with the name that was meant. Does
/// nothing in a process that a launcher has started: the launcher has warned.
pub fn warn_of_unknown(command: &Command, variables: impl Iterator<Item = (OsString, OsString)>) {
    let known = names_of(command);
    let names: Vec<OsString> = variables.map(|(name, _)| name).collect();
    if is_launched() {
        return;
    }
    for name in names {
        let Some(name) = name.to_str().filter(|name| is_unknown(name, &known)) else { continue };
        let meant = nearest(name, known.iter().map(String::as_str));
        let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        tracing::warn!("the environment variable {name} is not known and does nothing{meant}");
    }
}

/// Returns true for a variable that begins like one of ours and is none.
fn is_unknown(name: &str, known: &[String]) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let elsewhere =
        OF_CHILDREN.contains(&rest) || OF_TESTS.iter().any(|beginning| rest.starts_with(beginning));
    !elsewhere && !known.iter().any(|known| known == name)
}

/// The variables of all flags of the command and of those below it.
fn names_of(command: &Command) -> Vec<String> {
    let mut names = vec![DATAFLOW.to_owned()];
    let mut open = vec![command];
    while let Some(command) = open.pop() {
        let variables = command.get_arguments().filter_map(Arg::get_env);
        names.extend(variables.map(|name| name.to_string_lossy().into_owned()));
        open.extend(command.get_subcommands());
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_have_three_words_each_way() {
        for on in ["true", "1", "yes", "YES", "True", " true "] {
            assert_eq!(switch(on), Some(true), "{on}");
        }
        for off in ["false", "0", "no", "No", "FALSE"] {
            assert_eq!(switch(off), Some(false), "{off}");
        }
        for other in ["", "on", "off", "2", "truee", "y", "-1"] {
            assert_eq!(switch(other), None, "{other}");
        }
    }

    #[test]
    fn blanks_and_line_ends_mean_nothing() {
        for unset in ["", " ", "\t ", "\n", " \r\n"] {
            assert_eq!(meant(unset.into()), None, "{unset:?}");
        }
        for (value, expected) in
            [("1s\n", "1s"), ("a\r\n\r\n", "a"), (" b ", " b "), ("a\nb", "a\nb")]
        {
            assert_eq!(meant(value.into()), Some(expected.into()), "{value:?}");
        }
    }

    #[test]
    fn unknown_names_are_found_and_others_not() {
        let known = names_of(&super::super::commands::command());
        for name in ["WORDTIDE_INTERVALL", "WORDTIDE_", "WORDTIDE_WORKERS", "WORDTIDE_interval"] {
            assert!(is_unknown(name, &known), "{name}");
        }
        let fine = [
            DATAFLOW,
            "WORDTIDE_INTERVAL",
            "WORDTIDE_K",
            "WORDTIDE_MESH_KEY",
            "WORDTIDE_BENCH_ROLE",
        ];
        for name in fine.into_iter().chain(["WORDTIDE_TEST_TO", "WORDTIDE_TORTURE", "WORDTIDES"]) {
            assert!(!is_unknown(name, &known), "{name}");
        }
    }
}
