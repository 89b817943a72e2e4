//! `wordtide state`: lists state folders, and removes those that are not needed.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::TypedValueParser;

use super::parse_values::choice;
use super::print;
use super::run::DEFAULT_STATE;
use crate::error::{Error, ErrorKind, Result};
use crate::state::{self, StateSurvey};

/// Arguments of `wordtide state`.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// State folders, or folders that hold some [default: ./wordtide-state]
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,

    /// Form of the list: text, or one JSON object a line
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = form())]
    pub format: ListForm,

    /// Remove the state folders; refused (78) if a job runs or lines are not committed
    #[arg(long)]
    pub remove: bool,
}

/// The form of a list of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListForm {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The names of the forms.
fn form() -> impl TypedValueParser<Value = ListForm> {
    choice(&[("text", ListForm::Text), ("json", ListForm::Json)])
}

/// Lists or removes the states that the arguments name.
///
/// Fails with `Usage` for a folder that is no state, and with `Disk` if one cannot be read or
/// removed.
pub fn run(args: &StateArgs) -> Result<()> {
    if args.remove {
        if args.dirs.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "--remove names no state folder")
                .hint("give the folder: wordtide state --remove DIR"));
        }
        return args.dirs.iter().try_for_each(|dir| {
            state::remove(dir)?;
            print(format!("removed {}\n", dir.display()).as_bytes())
        });
    }
    let given = if args.dirs.is_empty() { vec![DEFAULT_STATE.into()] } else { args.dirs.clone() };
    for dir in given.iter().map(|given| state::states_at(given)) {
        dir?.iter().try_for_each(|dir| list(dir, args.format))?;
    }
    Ok(())
}

/// Prints the state folders below `dir`.
fn list(dir: &Path, form: ListForm) -> Result<()> {
    let survey = StateSurvey::of(dir)?;
    let text = match form {
        ListForm::Text => describe(&survey),
        ListForm::Json => {
            let json = serde_json::to_string(&survey).map_err(|error| {
                let message = format!("{} has no JSON form", dir.display());
                Error::new(ErrorKind::Failed, message).cause(error)
            })?;
            format!("{json}\n")
        }
    };
    print(text.as_bytes())
}

/// A state for people: its folder, then a fact a line.
fn describe(survey: &StateSurvey) -> String {
    let job = match (survey.running, survey.pid) {
        (true, Some(pid)) => format!("running, process {pid}"),
        (true, None) => "running".to_owned(),
        (false, _) if survey.has_uncommitted => {
            "stopped; a start commits the rest, with the flags of then".to_owned()
        }
        (false, _) => "stopped; everything is committed".to_owned(),
    };
    let committed =
        survey.last_committed.map_or("nothing".to_owned(), |epoch| format!("up to epoch {epoch}"));
    let s = if survey.epochs_in_flight == 1 { "" } else { "s" };
    let rest = format!(
        "{} bytes, {} epoch{s} in flight",
        survey.uncommitted_bytes, survey.epochs_in_flight
    );
    let facts = [
        ("dataflow", survey.definition.clone()),
        ("sources", survey.sources.join(", ")),
        ("output", survey.output.clone()),
        ("job", job),
        ("committed", committed),
        ("uncommitted", rest),
        ("on disk", format!("{:.1} MiB", survey.disk_bytes as f64 / f64::from(1 << 20))),
        ("format", survey.format.to_string()),
    ];
    let lines = facts.iter().filter(|(_, fact)| !fact.is_empty());
    let lines = lines.map(|(name, fact)| format!("  {name:13}{fact}\n"));
    format!("{}\n{}", survey.path.display(), lines.collect::<String>())
}
