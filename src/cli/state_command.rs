//! `wordtide state`: lists state folders, and removes those that are not needed.

use std::path::Path;

use super::flags::{DEFAULT_STATE, ListForm, StateArgs};
use super::print;
use crate::error::{Error, ErrorKind, Result};
use crate::state::{self, StateSurvey};

/// Lists or removes the states that the arguments name.
///
/// Fails with `Usage` if `--remove` names no folder, with `Configuration` for a folder that is no
/// state or is needed still, and with `Disk` if one cannot be read or removed.
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
