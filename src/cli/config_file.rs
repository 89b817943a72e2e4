//! Settings from a file: TOML whose keys are the long names of flags.
//!
//! The file is flat. A key of a definition's own flag may stand in it also when another definition
//! runs; a key that is no flag's is refused, with the one that was meant.

use std::ffi::{OsStr, OsString};
use std::iter;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use super::environment;
use super::given_flags::SettingOrigin;
use super::hide_passwords::without_passwords;
use super::parse_values::nearest;
use super::precedence::FoundSetting;
use crate::error::{Error, ErrorKind, Result};

/// The key of the definition that runs; it is no flag.
pub const DATAFLOW: &str = "dataflow";
/// The flag that names the file, and its variable.
const FLAG: &str = "config";
/// Names the file where `--config` is not given.
const VARIABLE: &str = "WORDTIDE_CONFIG";

/// A file of settings that was read.
#[derive(Debug)]
pub struct SettingsFile {
    /// The path, for messages.
    path: PathBuf,
    /// Its keys and values.
    table: Table,
}

impl SettingsFile {
    /// Reads and parses a file.
    ///
    /// # Errors
    ///
    /// `Configuration` if the file cannot be read, `Usage` for a line that is not TOML, which is
    /// named, and for a key that is no flag, with the nearest one.
    pub fn read(command: &Command, path: PathBuf) -> Result<SettingsFile> {
        let shown = path.display();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let message = format!("cannot read the settings file {shown}: {error}");
            Error::new(ErrorKind::Configuration, message).hint("check --config").cause(error)
        })?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let line = line.map(|line| format!(" line {line}")).unwrap_or_default();
            let why = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            Error::new(ErrorKind::Usage, format!("{shown}{line} is not TOML: {why}"))
                .hint("--config takes lines of NAME = VALUE")
        })?;
        let known = keys(command);
        if let Some(key) = table.keys().find(|key| !known.contains(key)) {
            let meant = nearest(key, known.iter().map(String::as_str));
            let meant = meant.map(|meant| format!("did you mean {meant}? ")).unwrap_or_default();
            let message = format!("{shown}: there is no setting {key:?}");
            return Err(Error::new(ErrorKind::Usage, message)
                .hint(format!("{meant}the keys of --config are the long names of flags")));
        }
        if let Some(other) = table.get(DATAFLOW).filter(|name| !name.is_str()) {
            return Err(Error::new(ErrorKind::Usage, format!("{shown}: {DATAFLOW} is {other}"))
                .hint(format!("{DATAFLOW} takes the name of one, as `wordtide list` has it")));
        }
        Ok(SettingsFile { path, table })
    }

    /// Returns the definition that the file names.
    pub fn dataflow(&self) -> Option<&str> {
        self.table.get(DATAFLOW).and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    /// Returns the place of a setting in the file.
    pub fn place(&self) -> SettingOrigin {
        SettingOrigin::File(self.path.clone())
    }

    /// Looks a flag up.
    ///
    /// # Errors
    ///
    /// `Usage` for a value of a kind that the flag does not take.
    pub fn find(&self, flag: &Arg) -> Result<Option<FoundSetting>> {
        let Some(value) = flag.get_long().and_then(|long| self.table.get(long)) else {
            return Ok(None);
        };
        let is_list = matches!(flag.get_action(), ArgAction::Append);
        let elements = match value {
            Value::Array(elements) if is_list => elements.as_slice(),
            other => std::slice::from_ref(other),
        };
        let is_switch = matches!(flag.get_action(), ArgAction::SetTrue | ArgAction::Count);
        let is_blank = |element: &Value| {
            element.as_str().is_some_and(|text| environment::is_unset(flag, text))
        };
        if !elements.is_empty() && elements.iter().all(is_blank) {
            return Ok(None);
        }
        let mut arguments = Vec::new();
        for element in elements.iter().filter(|element| !is_blank(element)) {
            let given = match text(element) {
                Some(_) if element.is_bool() && !is_switch => Err("a value, not true or false"),
                Some(text) => environment::arguments(flag, OsStr::new(&text)),
                None if is_list => Err("a text or a list of texts"),
                None => Err("one value"),
            };
            arguments.extend(given.map_err(|takes| self.wrong(flag, value, takes))?);
        }
        Ok(Some(FoundSetting { place: self.place(), arguments }))
    }

    /// Returns the error of a value that the flag does not take.
    fn wrong(&self, flag: &Arg, value: &Value, takes: &str) -> Error {
        let (path, key) = (self.path.display(), flag.get_long().unwrap_or_default());
        Error::new(ErrorKind::Usage, format!("{path}: {key} is {value}"))
            .hint(format!("--{key} takes {takes}"))
    }
}

/// The text that a flag would be given on the command line.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(on) => Some(on.to_string()),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// Returns the path that `--config` or its variable names, if one does.
pub fn named(
    arguments: &[OsString],
    lookup: impl Fn(&OsStr) -> Option<OsString>,
) -> Option<PathBuf> {
    let variable = || lookup(OsStr::new(VARIABLE)).and_then(environment::meant);
    typed(arguments).or_else(variable).map(PathBuf::from)
}

/// The value of `--config` on the command line. It has to be known before the line is parsed, since
/// the file may name the definition, and with it flags.
fn typed(arguments: &[OsString]) -> Option<OsString> {
    let flag = format!("--{FLAG}");
    let mut arguments = arguments.iter().take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if *argument == *flag {
            return arguments.next().cloned();
        }
        if let Some(path) =
            argument.to_str().and_then(|text| text.strip_prefix(&flag)?.strip_prefix('='))
        {
            return Some(OsString::from(path));
        }
    }
    None
}

/// The long names of all flags that a run can take, those of the definitions included.
fn keys(command: &Command) -> Vec<String> {
    let is_run = |command: &&Command| command.get_arguments().any(is_own);
    let runs: Vec<&Command> = command.get_subcommands().filter(is_run).collect();
    let definitions = runs.iter().flat_map(|run| run.get_subcommands());
    let all = iter::once(command).chain(runs.iter().copied()).chain(definitions);
    let flags = all.flat_map(Command::get_arguments);
    let settings = flags.filter(|flag| flag.get_env().is_some() && !is_own(flag));
    let names = settings.filter_map(Arg::get_long).chain([DATAFLOW]);
    names.map(str::to_owned).collect()
}

/// Returns a text as it stands in TOML, with a password in a URL left out.
pub fn quoted(text: &str) -> String {
    Value::String(without_passwords(text)).to_string()
}

/// Returns true if the setting is the name of the file itself.
pub fn is_own(flag: &Arg) -> bool {
    flag.get_id() == FLAG
}

/// Returns the place as `wordtide config` shows it.
pub fn shown(place: Option<&SettingOrigin>) -> String {
    match place {
        Some(SettingOrigin::Variable(name)) => format!("env {name}"),
        Some(SettingOrigin::File(path)) => format!("file {}", Path::display(path)),
        None => "default".to_owned(),
    }
}
