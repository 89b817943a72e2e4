//! Opens the output of a job.

use super::objects::format::{Compression, Format};
use super::objects::{FormSettings, ObjectForm, ObjectOutput};
use super::output::Output;
use super::retry_start::StartRetrier;
use super::search::SearchOutput;
use super::sql::{self, SqlSettings, WriteMode};
use crate::error::{Error, ErrorKind, Result};
use crate::operators::RowKind;
use crate::settings::{FolderLayout, RowOrder};
use crate::store::{StoreSettings, Target};

/// The settings of all kinds of outputs.
#[derive(Clone, Debug)]
pub struct OutputSettings {
    /// How an object store is reached.
    pub store: StoreSettings,
    /// The names of objects and the bytes of rows.
    pub form: ObjectForm,
    /// The rows of a database.
    pub sql: SqlSettings,
    /// Retries the requests of a start.
    pub retrier: StartRetrier,
}

/// Returns whether process 0 alone writes to the output: its workers then own all parts.
pub fn is_single(target: &Target) -> bool {
    matches!(target, Target::Stdout | Target::Database(_) | Target::Search(_))
}

/// Opens the output of `target`. Asks no server yet.
///
/// # Errors
///
/// `Usage` or `Configuration` if a setting is missing or wrong, and the errors of creating a local
/// directory.
pub fn open(target: &Target, settings: &OutputSettings) -> Result<Box<dyn Output>> {
    let OutputSettings { store, form, sql, retrier } = settings;
    let retrier = retrier.clone();
    let is_upsert = sql.write == WriteMode::Upsert;
    if is_upsert && sql.rows == RowKind::Lines {
        return Err(Error::new(ErrorKind::Usage, "lines have no key that could be updated")
            .hint("give --write append, or a definition that counts"));
    }
    if let Target::Database(target) = target {
        return Ok(Box::new(sql::open(target, *sql, store.ca_file.as_deref(), retrier)?));
    }
    if let Target::Search(index) = target {
        return Ok(Box::new(SearchOutput::open(index, store, form.clone(), sql, retrier)?));
    }
    if is_upsert {
        let message = "--write upsert needs a database or an index";
        return Err(Error::new(ErrorKind::Usage, message).hint(
            "give --write append, or --to sqlite:PATH, postgres://…, mysql://… or opensearch://…",
        ));
    }
    Ok(Box::new(ObjectOutput::open(target, store, form.clone(), retrier)?))
}

/// Refuses settings of objects for an output that has none.
///
/// # Errors
///
/// `Usage`, naming the flag and `--to`.
pub fn check_form(target: &Target, form: &FormSettings, order: RowOrder) -> Result<()> {
    let place = match target {
        Target::Database(_) => "database",
        Target::Search(_) => "index",
        _ => return Ok(()),
    };
    let (flag, what) = if form.format != Format::default() {
        ("--format", "its columns have types of their own")
    } else if form.compression.is_some_and(|it| it != Compression::None) {
        ("--compress", "it has no files")
    } else if form.layout != FolderLayout::default() {
        ("--layout", "it has no folders")
    } else if form.time_zone.is_some() {
        ("--time-zone", "it has no folders")
    } else if form.suffix.is_some() {
        ("--suffix", "it has no names of folders")
    } else if order != RowOrder::Hash {
        ("--sort", "rows have no order there; sort in the query")
    } else {
        return Ok(());
    };
    let message = format!("{flag} means nothing for the {place} in --to: {what}");
    Err(Error::new(ErrorKind::Usage, message)
        .hint(format!("leave {flag} out, or give --to a directory or an object store")))
}
