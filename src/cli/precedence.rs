//! Where settings come from: the command line, the environment, a settings file, the default, in
//! this order.
//!
//! clap can read variables itself, but it takes an empty one for a value and a switch that is
//! `false` for a conflict, lets a variable of one kind clash with a flag of another, and does not
//! name the variable in an error. So the arguments are parsed twice. First the command line alone:
//! its mistakes are final, and its matches are what was typed. Then the same arguments with a flag
//! added for each variable that nothing typed decides. What clap refuses in the second parse came
//! from a variable, and the message names it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, Error as ClapError};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::given_flags::{self, SettingOrigin, note_of};
use crate::error::{Error, ErrorKind};

/// Flags of which one replaces the others where they come from a weaker place, although they may
/// stand together: `--connect` on the command line is not to be mixed with `WORDTIDE_STDIN`. Flags
/// that clap refuses together need not be listed.
const RIVALS: [&[&str]; 2] = [
    &["host", "connect", "listen", "file", "watch", "listen_http", "kafka", "stdin"],
    &["verbose", "quiet"],
];

/// A flag that was not typed but found in another place, as the arguments that would give it: none
/// for a switch that is off, which also hides the value of a weaker place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSetting {
    /// Where the setting comes from.
    pub place: SettingOrigin,
    /// The arguments that it stands for.
    pub arguments: Vec<OsString>,
}

/// The fault of arguments, or of what was found in other places.
#[derive(Debug)]
pub enum Refusal {
    /// A mistake on the command line, or a call for help.
    Clap(ClapError),
    /// A mistake elsewhere.
    Setting(Error),
}

impl From<ClapError> for Refusal {
    fn from(error: ClapError) -> Self {
        Refusal::Clap(error)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Setting(error)
    }
}

/// Arguments that were parsed together with what was found in other places.
#[derive(Debug)]
pub struct Parsed {
    pub matches: ArgMatches,
    /// Ids of the arguments that were typed.
    pub typed: BTreeSet<String>,
    /// The places of those that were not, by their ids.
    pub places: BTreeMap<String, SettingOrigin>,
}

/// Parses the command line alone.
///
/// # Errors
///
/// clap's, among them the text for `--help`.
pub fn parse_typed(command: &Command, arguments: &[OsString]) -> Result<ArgMatches, ClapError> {
    let bare = without_variables(command.clone(), false);
    match bare.try_get_matches_from(arguments) {
        // Help names the variables.
        Err(error) if !error.use_stderr() => command.clone().try_get_matches_from(arguments),
        parsed => parsed,
    }
}

/// Parses the arguments; `find` looks a flag up in the other places.
///
/// # Errors
///
/// An error that clap found on the command line, or an error in another place, with its name.
pub fn parse(
    command: &Command,
    arguments: &[OsString],
    find: impl Fn(&Arg) -> Result<Option<FoundSetting>, Error>,
) -> Result<Parsed, Refusal> {
    let matches = parse_typed(command, arguments)?;
    let in_force = Flags::of(command, &matches);
    let typed: BTreeSet<String> = in_force.typed(&matches);
    let mut found = Vec::new();
    for (_, flag) in in_force.0.iter().filter(|(_, flag)| !typed.contains(flag.get_id().as_str())) {
        found.extend(find(flag)?.map(|it| (*flag, it)));
    }
    // The strongest place decides between flags that exclude each other.
    let loses = |(flag, it): &(&Arg, FoundSetting)| {
        let beaten_by_typed = typed.iter().any(|id| in_force.are_rivals(flag, id));
        let beaten = |(other, its): &(&Arg, FoundSetting)| {
            its.place.rank() > it.place.rank()
                && !its.arguments.is_empty()
                && in_force.are_rivals(flag, other.get_id().as_str())
        };
        beaten_by_typed || found.iter().any(beaten)
    };
    let kept: Vec<_> = found.iter().filter(|one| !loses(one)).cloned().collect();
    let by_id = |(flag, it): &(&Arg, FoundSetting)| (flag.get_id().to_string(), it.place.clone());
    let ids = kept.iter().map(by_id).collect();
    let names =
        |(flag, it): &(&Arg, FoundSetting)| Some((flag.get_long()?.to_owned(), it.place.clone()));
    let places: Vec<(String, SettingOrigin)> = kept.iter().filter_map(names).collect();
    given_flags::keep(&places, in_force.long_names(&typed));

    // Nothing after `--` is a flag.
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let mut all = arguments[..end].to_vec();
    all.extend(kept.into_iter().flat_map(|(_, it)| it.arguments));
    all.extend_from_slice(&arguments[end..]);
    match without_variables(command.clone(), true).try_get_matches_from(all) {
        Ok(matches) => Ok(Parsed { matches, typed, places: ids }),
        Err(error) if names_one_of(&error, &places) => {
            let message = one_line(&error);
            let places = note_of(&message, &places).map(|places| format!(" ({places})"));
            let message = message + &places.unwrap_or_default();
            Err(Error::new(ErrorKind::Usage, message).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// The flags that the chosen command takes, each with the command that declares it.
pub struct Flags<'a>(pub Vec<(&'a Command, &'a Arg)>);

impl<'a> Flags<'a> {
    /// Returns the flags of the command that was chosen, those of the commands above it included.
    pub fn of(command: &'a Command, matches: &ArgMatches) -> Flags<'a> {
        let mut path = vec![command];
        let mut below = matches.subcommand();
        while let Some((name, matches)) = below {
            path.extend(path.last().and_then(|command| command.find_subcommand(name)));
            below = matches.subcommand();
        }
        // A command of its own does not take the flags that stand for a run without one.
        path.drain(..path.len().min(2) - 1);
        let mut seen = BTreeSet::new();
        let flags = path
            .into_iter()
            .flat_map(|command| command.get_arguments().map(move |argument| (command, argument)));
        Flags(flags.filter(|(_, flag)| seen.insert(flag.get_id().as_str())).collect())
    }

    /// Ids of those that were typed, at whatever level.
    pub fn typed(&self, matches: &ArgMatches) -> BTreeSet<String> {
        let mut levels = vec![matches];
        while let Some((_, below)) = levels.last().and_then(|matches| matches.subcommand()) {
            levels.push(below);
        }
        let is_typed = |id: &str| {
            levels.iter().any(|matches| {
                matches.ids().any(|known| known == id)
                    && matches.value_source(id) == Some(ValueSource::CommandLine)
            })
        };
        let ids = self.0.iter().map(|(_, flag)| flag.get_id().as_str());
        ids.filter(|id| is_typed(id)).map(str::to_owned).collect()
    }

    /// Returns the long names of the flags with these ids.
    fn long_names(&self, ids: &BTreeSet<String>) -> BTreeSet<String> {
        let named = self.0.iter().filter(|(_, flag)| ids.contains(flag.get_id().as_str()));
        named.filter_map(|(_, flag)| flag.get_long().map(str::to_owned)).collect()
    }

    /// Returns true if one of the flags for which `is_given` holds excludes `flag`.
    pub fn has_rival(&self, flag: &Arg, is_given: impl Fn(&str) -> bool) -> bool {
        let mut ids = self.0.iter().map(|(_, flag)| flag.get_id().as_str());
        ids.any(|id| is_given(id) && self.are_rivals(flag, id))
    }

    /// Returns true if only one of the two can be in force.
    fn are_rivals(&self, flag: &Arg, other: &str) -> bool {
        let id = flag.get_id().as_str();
        let excludes = |one: &str, two: &str| {
            let declared = self.0.iter().find(|(_, flag)| flag.get_id() == one);
            declared.is_some_and(|(command, flag)| {
                command.get_arg_conflicts_with(flag).iter().any(|flag| flag.get_id() == two)
            })
        };
        let listed = |rivals: &&[&str]| rivals.contains(&id) && rivals.contains(&other);
        id != other && (RIVALS.iter().any(listed) || excludes(id, other) || excludes(other, id))
    }
}

/// The command without variables, and, where what is required may be found elsewhere, without
/// required flags.
fn without_variables(command: Command, requires: bool) -> Command {
    let strip = |argument: Arg| {
        let is_required = argument.is_required_set();
        let may_require = requires || argument.is_positional();
        let none: Option<&'static str> = None;
        argument.env(none).required(is_required && may_require)
    };
    command.mut_args(strip).mut_subcommands(|below| without_variables(below, requires))
}

/// Returns true if the error is about one of these flags.
fn names_one_of(error: &ClapError, found: &[(String, SettingOrigin)]) -> bool {
    let kinds = [ContextKind::InvalidArg, ContextKind::PriorArg];
    let texts = kinds.iter().filter_map(|kind| match error.get(*kind) {
        Some(ContextValue::String(text)) => Some(vec![text.clone()]),
        Some(ContextValue::Strings(texts)) => Some(texts.clone()),
        _ => None,
    });
    texts.flatten().any(|text| note_of(&text, found).is_some())
}

/// Returns the message of an error of clap's without its usage, as part of a line.
pub fn one_line(error: &ClapError) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let paragraphs = text.split("\n\n").take_while(|paragraph| {
        !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more information")
    });
    paragraphs.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::ffi::OsStr;

    use super::super::{commands, environment};

    /// Parses a command line with these variables set.
    fn parse_with(line: &[&str], variables: &[(&str, &str)]) -> Result<Parsed, Refusal> {
        let arguments: Vec<OsString> =
            ["wordtide"].iter().chain(line).map(OsString::from).collect();
        let lookup = |name: &OsStr| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        parse(&commands::command(), &arguments, |flag| environment::find(flag, lookup))
    }

    /// The ids of the arguments that are given, on the line or by a variable.
    fn given(parsed: &Parsed) -> BTreeSet<String> {
        let command = commands::command();
        Flags::of(&command, &parsed.matches).typed(&parsed.matches)
    }

    /// A line for each command that takes flags, with the flags that no line before takes.
    fn lines() -> Vec<(Vec<String>, Vec<Arg>)> {
        fn walk(command: &Command, line: &[String], all: &mut Vec<(Vec<String>, Vec<Arg>)>) {
            let own = command.get_arguments().filter(|flag| flag.get_env().is_some()).cloned();
            all.push((line.to_vec(), own.collect()));
            for below in command.get_subcommands() {
                let mut line = line.to_vec();
                line.push(below.get_name().to_owned());
                let is_required = |argument: &&Arg| argument.is_required_set();
                let required = below.get_positionals().filter(is_required);
                line.extend(required.map(|_| "fish".to_owned()));
                walk(below, &line, all);
            }
        }
        let mut all = Vec::new();
        walk(&commands::command(), &[], &mut all);
        let mut seen = BTreeSet::new();
        for (_, flags) in &mut all {
            flags.retain(|flag| seen.insert(flag.get_id().to_string()));
        }
        all.retain(|(_, flags)| !flags.is_empty());
        all
    }

    /// A value that the flag takes.
    fn sample(flag: &Arg) -> String {
        let default = flag.get_default_values().first().map(|value| value.to_string_lossy());
        match flag.get_action() {
            clap::ArgAction::SetTrue => "true".to_owned(),
            clap::ArgAction::Count => "2".to_owned(),
            _ => {
                let choice =
                    flag.get_possible_values().first().map(|choice| choice.get_name().to_owned());
                default.map(|value| value.into_owned()).or(choice).unwrap_or("1".to_owned())
            }
        }
    }

    fn variable(flag: &Arg) -> String {
        flag.get_env().expect("a variable").to_string_lossy().into_owned()
    }

    #[test]
    fn empty_variables_are_unset_for_every_flag() {
        let names: Vec<String> = lines().iter().flat_map(|(_, all)| all).map(variable).collect();
        assert!(names.len() > 40, "{names:?}");
        let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        for (line, _) in lines() {
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            let parsed = parse_with(&line, &all).unwrap_or_else(|why| panic!("{line:?}: {why:?}"));
            let plain = parse_with(&line, &[]).expect("it parses without variables");
            assert_eq!(given(&parsed), given(&plain), "{line:?}");
        }
    }

    #[test]
    fn every_variable_gives_its_flag() {
        for (line, flags) in lines() {
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            for flag in &flags {
                let set = [(variable(flag), sample(flag))];
                let set = set.each_ref().map(|(name, value)| (name.as_str(), value.as_str()));
                let parsed = parse_with(&line, &set);
                let parsed = parsed.unwrap_or_else(|why| panic!("{line:?} {set:?}: {why:?}"));
                assert!(given(&parsed).contains(flag.get_id().as_str()), "{line:?} {set:?}");
                assert!(!parsed.typed.contains(flag.get_id().as_str()), "{line:?} {set:?}");
            }
        }
    }

    #[test]
    fn every_switch_has_the_same_words() {
        for (line, flags) in lines() {
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            let switches = flags.iter().filter(|flag| !flag.get_action().takes_values());
            for flag in switches {
                let (name, id) = (variable(flag), flag.get_id().as_str());
                for (value, on) in [("yes", true), ("False", false)] {
                    let parsed = parse_with(&line, &[(&name, value)]).expect("a switch");
                    assert_eq!(given(&parsed).contains(id), on, "{line:?} {name}={value}");
                }
                match parse_with(&line, &[(&name, "maybe")]) {
                    Err(Refusal::Setting(why)) => {
                        let why = why.to_string();
                        assert!(
                            why.contains(&name) && why.contains("true, 1, yes")
                                || why.contains("a number"),
                            "{why}"
                        );
                    }
                    other => panic!("{line:?} {name}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn bad_values_name_their_variable() {
        let mut refused = 0;
        for (line, flags) in lines() {
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            for flag in flags.iter().filter(|flag| flag.get_action().takes_values()) {
                let name = variable(flag);
                match parse_with(&line, &[(&name, "no such value")]) {
                    Err(Refusal::Setting(why)) => {
                        refused += 1;
                        assert!(why.to_string().contains(&name), "{line:?} {name}: {why}");
                    }
                    Err(Refusal::Clap(why)) => panic!("{line:?} {name}: {why}"),
                    // A text or a path: what it means is found out later.
                    Ok(_) => {}
                }
            }
        }
        assert!(refused > 15, "{refused}");
    }

    #[test]
    fn typed_flags_beat_conflicting_variables() {
        let mut pairs = 0;
        for (line, flags) in lines() {
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            let command = commands::command();
            let plain = parse_with(&line, &[]).expect("it parses");
            let in_force = Flags::of(&command, &plain.matches);
            for (typed, variable_of) in flags.iter().flat_map(|a| flags.iter().map(move |b| (a, b)))
            {
                if !in_force.are_rivals(variable_of, typed.get_id().as_str()) {
                    continue;
                }
                pairs += 1;
                let long = typed.get_long().expect("a long flag");
                let argument = match typed.get_action().takes_values() {
                    true => format!("--{long}={}", sample(typed)),
                    false => format!("--{long}"),
                };
                let line: Vec<&str> = line.iter().copied().chain([argument.as_str()]).collect();
                let set = [(variable(variable_of), sample(variable_of))];
                let set = set.each_ref().map(|(name, value)| (name.as_str(), value.as_str()));
                let parsed =
                    parse_with(&line, &set).unwrap_or_else(|why| panic!("{line:?}: {why:?}"));
                let given = given(&parsed);
                assert!(given.contains(typed.get_id().as_str()), "{line:?}");
                assert!(!given.contains(variable_of.get_id().as_str()), "{line:?} {set:?}");
            }
        }
        assert!(pairs >= 14, "{pairs}");
    }

    #[test]
    fn conflicting_variables_are_refused_by_name() {
        let both = [("WORDTIDE_STATE", "there"), ("WORDTIDE_NO_STATE", "true")];
        match parse_with(&["run", "--stdin"], &both) {
            Err(Refusal::Setting(why)) => {
                let why = why.to_string();
                assert!(both.iter().all(|(name, _)| why.contains(name)), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_in_variables_lose_their_blanks() {
        let parsed = parse_with(&["run"], &[("WORDTIDE_CONNECT", " a:1, b:2 ,")]).expect("a list");
        let (_, run) = parsed.matches.subcommand().expect("a run");
        let list: Vec<&String> = run.get_many("connect").expect("given").collect();
        assert_eq!(list, ["a:1", "b:2"]);
    }
}
