//! `wordtide config`: every setting in force, as a file for `--config`, and where it comes from.

use std::fmt::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::config_file::{self, quoted, shown};
use super::given_flags::SettingOrigin;
use super::hide_passwords::has_password;
use super::precedence::{Flags, Parsed};
use crate::error::{Error, ErrorKind, Result};
use crate::sources::KafkaProperties;

/// Lists the settings; `dataflow` is the place that names the definition, if not the command line.
///
/// # Errors
///
/// `Usage` for a value that is not UTF-8: no settings file can hold it.
pub fn of(command: &Command, parsed: &Parsed, dataflow: Option<&SettingOrigin>) -> Result<String> {
    let (mut levels, mut names) = (vec![&parsed.matches], Vec::new());
    while let Some((name, below)) = levels.last().and_then(|matches| matches.subcommand()) {
        levels.push(below);
        names.push(name);
    }
    let mut text = String::new();
    let origin = match (names.get(1), dataflow) {
        (Some(_), None) => "flag".to_owned(),
        (_, place) => shown(place),
    };
    let definition = names.get(1).copied().unwrap_or("network_wordcount");
    add(&mut text, config_file::DATAFLOW, Some(quoted(definition)), &origin);
    let flags = Flags::of(command, &parsed.matches);
    let is_given = |id: &str| parsed.typed.contains(id) || parsed.places.contains_key(id);
    for (_, flag) in &flags.0 {
        let Some(long) = flag.get_long().filter(|_| flag.get_env().is_some()) else { continue };
        if config_file::is_own(flag) {
            continue;
        }
        let id = flag.get_id().as_str();
        let origin = match parsed.typed.contains(id) {
            true => "flag".to_owned(),
            false => shown(parsed.places.get(id)),
        };
        let level = levels.iter().rev().find(|matches| matches.ids().any(|known| known == id));
        // A file with the default of a flag that another one replaces would be refused.
        let is_replaced = !is_given(id) && flags.has_rival(flag, is_given);
        let level = level.filter(|_| !is_replaced);
        let value = level.map(|matches| value(flag, matches)).transpose()?.flatten();
        add(&mut text, long, value, &origin);
    }
    Ok(text)
}

/// Adds a line; a setting without a value is a comment.
fn add(text: &mut String, name: &str, value: Option<String>, origin: &str) {
    let written = match value {
        Some(value) => writeln!(text, "{name} = {value}  # {origin}"),
        None => writeln!(text, "# {name} =  # {origin}"),
    };
    written.expect("a text takes more text");
}

/// Returns the value of a flag in TOML, if it has one.
///
/// Fails with `Usage` for a value that is not UTF-8.
fn value(flag: &Arg, matches: &ArgMatches) -> Result<Option<String>> {
    let id = flag.get_id().as_str();
    match flag.get_action() {
        ArgAction::SetTrue => return Ok(Some(matches.get_flag(id).to_string())),
        ArgAction::Count => return Ok(Some(matches.get_count(id).to_string())),
        _ => {}
    }
    let Some(raw) = matches.get_raw(id) else { return Ok(None) };
    let mut all = Vec::new();
    for value in raw {
        let text = value.to_str().ok_or_else(|| {
            let long = flag.get_long().unwrap_or_default();
            Error::new(ErrorKind::Usage, format!("--{long} is {value:?}, which is not UTF-8"))
                .hint("a settings file cannot hold it: give it on the command line of the run")
        })?;
        all.push(text);
    }
    if matches!(flag.get_action(), ArgAction::Append) {
        // A secret is left out: it stays where it was given.
        let is_public = |text: &&str| id != "kafka_config" || KafkaProperties::is_public(text);
        let quoted: Vec<String> = all.into_iter().filter(is_public).map(quoted).collect();
        return Ok(Some(format!("[{}]", quoted.join(", "))));
    }
    // A run refuses an output with a password.
    let text = all.first().filter(|text| id != "to" || !has_password(text));
    Ok(text.map(|text| {
        // A number stands without quotes, unless it is written as no number is.
        let number = text.parse::<u32>().ok().map(|number| number.to_string());
        number.filter(|number| number == text).unwrap_or_else(|| quoted(text))
    }))
}
