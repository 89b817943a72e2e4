//! Checks the settings of a job. What cannot run is refused here, and nothing is touched.

use super::agreement::fingerprint;
use super::assign_sources::{self, Readers};
use super::job_settings::{JobSettings, StatePlace};
use super::plan::JobPlan;
use super::share_figures;
use super::source_logs::OwnSources;
use crate::error::{Error, ErrorKind, Result};
use crate::file_lock::FormerRun;
use crate::operators::Window;
use crate::outputs::format::Format;
use crate::outputs::{self, OutputSettings, SqlSettings, StartRetrier, WriteMode, check_form};
use crate::state::Identity;
use crate::store::Target;
use crate::store::local::lock_path;
use crate::words::Split;

/// Checks the settings of a job; returns its plan, and the sources that this process reads.
///
/// # Errors
///
/// `Usage` for settings that cannot run, and for a source that cannot be read.
pub fn check(mut asked: JobSettings) -> Result<(JobPlan, OwnSources)> {
    let have_journals = asked.state != StatePlace::None;
    if have_journals {
        asked.journal.validate()?;
    }
    asked.settings.validate()?;
    asked.slide.map_or(Ok(()), |slide| Window::new(slide, slide).check(asked.settings.interval))?;
    asked.cluster.threads = asked.settings.threads;
    asked.cluster.validate()?;
    if asked.sources.is_empty() && asked.replay.is_none() {
        return Err(missing(
            "source",
            "give --connect, --listen, --listen-http, --file, --watch, --kafka or --stdin",
        ));
    }
    let (name, definition) = asked
        .definition
        .clone()
        .ok_or_else(|| missing("dataflow", "name one of `wordtide list`"))?;
    let target = asked.target.clone().ok_or_else(|| missing("output", "give --to"))?;
    let target = asked.form.place(target);
    let output = output_settings(&mut asked, &target)?;
    let (sources, readers) = match &asked.replay {
        Some(_) => (Vec::new(), Readers::of_journal()),
        None => assign_sources::place(asked.sources.clone(), &target, asked.cluster.processes)?,
    };
    let identity = identity(&asked, name, &target)?;
    asked.cluster.fingerprint = fingerprint(&identity, readers.fingerprint(&sources));
    let started_ms = asked.clock.wall_ms();
    let journal_max = if have_journals { asked.journal.journal_bytes_max } else { 0 };
    let shown = (&identity, &target, &asked.cluster);
    share_figures::begin(&asked.meters, shown, started_ms, journal_max);
    let (former, meters) = (former_run_of(&asked, &identity, &target), &asked.meters);
    let assigned = (&readers, &asked.cluster);
    let state = asked.state.dir(&identity);
    let journals = (have_journals, state.as_deref());
    let sources = assign_sources::own(sources, assigned, journals, &former, meters)?;
    let is_single = outputs::is_single(&target);
    let plan =
        JobPlan { asked, definition, target, identity, output, is_single, readers, started_ms };
    Ok((plan, sources))
}

/// Returns the identity of a job, with the number of parts 0 where it is free.
fn identity(asked: &JobSettings, name: String, target: &Target) -> Result<Identity> {
    let mut identity = Identity::new(name, &asked.settings, &asked.form, target)?;
    if asked.sql.write == WriteMode::Upsert {
        identity.output.push_str(" (upsert)");
    }
    Ok(identity)
}

/// Returns the run before this one, with the same state or local output. What cannot run has none:
/// [`check`] refuses it.
pub fn former_run(mut asked: JobSettings) -> Option<FormerRun> {
    let (name, _) = asked.definition.clone()?;
    let target = asked.form.place(asked.target.clone()?);
    output_settings(&mut asked, &target).ok()?;
    let identity = identity(&asked, name, &target).ok()?;
    Some(former_run_of(&asked, &identity, &target))
}

/// Returns the run before this one of the job with this identity and output.
fn former_run_of(asked: &JobSettings, identity: &Identity, target: &Target) -> FormerRun {
    let output = match target {
        Target::Local { root, prefix } => Some(lock_path(root, prefix)),
        _ => None,
    };
    let stop = asked.stop.clone();
    FormerRun::new(asked.state.dir(identity), output, move || stop.is_stopped())
}

/// Returns the error of a job without something that it needs.
fn missing(what: &str, hint: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("the job has no {what}")).hint(hint)
}

/// Checks the settings of the output, and adapts those of words to its format.
fn output_settings(asked: &mut JobSettings, target: &Target) -> Result<OutputSettings> {
    let settings = &mut asked.settings;
    check_form(target, &asked.form, settings.order)?;
    let form = asked.form.form(target, settings.interval.as_millis() as u64)?;
    // Scala's program drops the empty words at the end of a line, too.
    if asked.form.format == Format::Scala && settings.words.split == Split::Space {
        settings.words.split = Split::SpaceScala;
    }
    let sql = SqlSettings {
        word_bytes_max: settings.words.word_bytes_max,
        line_bytes_max: settings.line_bytes_max,
        ..asked.sql
    };
    let retrier = StartRetrier::new(asked.meters.clone());
    Ok(OutputSettings { store: asked.store.clone(), form, sql, retrier })
}
