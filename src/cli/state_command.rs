//! `wordtide state`: lists state folders, and removes those that are not needed.

use super::flags::{DEFAULT_STATE, ListForm, StateArgs};
use super::{end_process, print};
use crate::error::{Error, ErrorKind, Result};
use crate::state::{self, StateSurvey};

/// Lists or removes the states that the arguments name, and returns the exit code. A state that
/// cannot be listed or removed is reported and hides none of the others; the first of them decides
/// the code.
///
/// Fails with `Usage` if `--remove` names no folder, and with `Failed` if stdout cannot be written.
pub fn run(args: &StateArgs) -> Result<u8> {
    let mut failures = Failures::default();
    if args.remove {
        if args.dirs.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "--remove names no state folder")
                .hint("give the folder: wordtide state --remove DIR"));
        }
        for dir in &args.dirs {
            if failures.report(state::remove(dir)).is_some() {
                print(format!("removed {}\n", dir.display()).as_bytes())?;
            }
        }
        return Ok(failures.code());
    }
    let given = if args.dirs.is_empty() { vec![DEFAULT_STATE.into()] } else { args.dirs.clone() };
    for given in given {
        for dir in failures.report(state::states_at(&given)).into_iter().flatten() {
            let text = StateSurvey::of(&dir).and_then(|survey| show(&survey, args.format));
            if let Some(text) = failures.report(text) {
                print(text.as_bytes())?;
            }
        }
    }
    Ok(failures.code())
}

/// The failures of a command that goes on after each.
#[derive(Default)]
struct Failures {
    /// The exit code of the first one.
    first: Option<u8>,
}

impl Failures {
    /// Returns the value of a success. Reports a failure on stderr.
    fn report<T>(&mut self, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                let code = end_process::report(&error);
                self.first.get_or_insert(code);
            })
            .ok()
    }

    /// Returns the exit code.
    fn code(&self) -> u8 {
        self.first.unwrap_or(0)
    }
}

/// Returns the facts of a state in the form that is asked for.
///
/// Fails with `Failed` for a path that JSON cannot express.
fn show(survey: &StateSurvey, form: ListForm) -> Result<String> {
    match form {
        ListForm::Text => Ok(describe(survey)),
        ListForm::Json => {
            let json = serde_json::to_string(survey).map_err(|error| {
                let message = format!("{} has no JSON form", survey.path.display());
                Error::new(ErrorKind::Failed, message).cause(error)
            })?;
            Ok(format!("{json}\n"))
        }
    }
}

/// A state for people: its folder, then a fact a line.
fn describe(survey: &StateSurvey) -> String {
    let job = match (survey.running, survey.pid) {
        (true, Some(pid)) => format!("running, process {pid}"),
        (true, None) => "running".to_owned(),
        (false, _) if !survey.missing_journals.is_empty() => {
            "stopped; a start is refused while a journal is missing".to_owned()
        }
        (false, _) if survey.is_damaged => {
            "stopped; a journal is damaged: see `wordtide journal check`".to_owned()
        }
        (false, _) if survey.has_uncommitted => {
            "stopped; a start commits the rest, with the flags of then".to_owned()
        }
        (false, _) if survey.set_aside.iter().any(|journal| journal.may_hold_lines()) => {
            "stopped; everything is committed but what is set aside".to_owned()
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
    let mut facts = vec![
        ("dataflow", survey.definition.clone()),
        ("sources", survey.sources.join(", ")),
        ("output", survey.output.clone()),
        ("job", job),
        ("committed", committed),
        ("uncommitted", rest),
        ("on disk", format!("{:.1} MiB", survey.disk_bytes as f64 / f64::from(1 << 20))),
        ("format", survey.format.to_string()),
    ];
    facts.extend(unread_journals(survey));
    let lines = facts.iter().filter(|(_, fact)| !fact.is_empty());
    let lines = lines.map(|(name, fact)| format!("  {name:13}{fact}\n"));
    format!("{}\n{}", survey.path.display(), lines.collect::<String>())
}

/// A line for each journal that is missing or set aside.
fn unread_journals(survey: &StateSurvey) -> Vec<(&'static str, String)> {
    let missing = survey.missing_journals.iter().map(|journal| {
        let (id, source) = (&journal.id, &journal.source);
        let way_out = format!("bring it back, or run with --abandon-journal {id}");
        ("missing", format!("journal {id} of {source}: {way_out} (if no other process has it)"))
    });
    let set_aside = survey.set_aside.iter().map(|journal| {
        let holds = match journal.uncommitted_bytes {
            Some(0) => "nothing uncommitted".to_owned(),
            Some(bytes) => format!("{bytes} bytes that no start commits"),
            None => "damaged; it may hold lines that no start commits".to_owned(),
        };
        let name = journal.path.file_name().unwrap_or_default().to_string_lossy();
        ("set aside", format!("{name}: {holds}"))
    });
    missing.chain(set_aside).collect()
}
