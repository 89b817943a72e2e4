//! Epochs as rows of a database: SQLite, PostgreSQL, MySQL and MariaDB.
//!
//! ```text
//! write:  rows ─► key, sort ─► results of process 0 (memory, then disk)
//! commit: BEGIN ─► lock the owner ─► marker there? ─► rows ─► changelog ─► marker ─► COMMIT
//! ```
//!
//! Keys, sorting and encoding are the work of threads that may block, and not of workers. Process 0
//! alone writes: its workers own all parts, so the rows of an epoch are in one place, and
//! one transaction makes rows and marker visible together. Nothing is staged in the database, so a
//! crash leaves nothing to clear.
//!
//! | module | holds |
//! | --- | --- |
//! | `staged_rows` | rows between the dataflow and the transaction |
//! | `tables` | names, columns and statements, in each dialect |
//! | `driver_traits` | the traits of a driver and its sessions |
//! | `database_output`, `owner_row`, `settings` | the start: checks, tables, the row of the owner |
//! | `epoch_writer`, `marker`, `changelog` | the transaction of a commit; the changelog as rows |
//! | `sqlite`, `postgres`, `mysql` | the drivers |
//! | `credentials`, `tls` | what servers need: passwords and TLS |
//! | `answer_timeout` | the limit of waiting for an answer |

mod answer_timeout;
mod changelog;
mod credentials;
mod database_output;
mod driver_traits;
mod epoch_writer;
mod marker;
mod mysql;
mod owner_row;
mod postgres;
mod settings;
mod sqlite;
mod staged_rows;
mod tables;
mod tls;

use std::path::Path;
use std::sync::Arc;

pub use database_output::SqlOutput;
pub use settings::SqlSettings;
pub use tables::WriteMode;

use crate::error::{Error, ErrorKind, Result};
use crate::operators::RowKind;
use crate::outputs::retry_start::StartRetrier;
use crate::store::{DatabaseKind, DatabaseTarget, SslMode};

/// Opens the database of `target`. Asks no server yet.
///
/// # Errors
///
/// `Usage` if a setting is missing or wrong.
pub fn open(
    target: &DatabaseTarget,
    settings: SqlSettings,
    ca_file: Option<&Path>,
    retrier: StartRetrier,
) -> Result<SqlOutput> {
    let driver: Arc<dyn driver_traits::Driver> = match target.kind {
        DatabaseKind::Sqlite => Arc::new(sqlite::SqliteDriver::new(&target.path)),
        DatabaseKind::Postgres => {
            let credentials = credentials::find(target, &credentials::of_process)?;
            let ssl = target.ssl.map_or_else(environment_ssl, Ok)?;
            let (target, ca_file) = (target.clone(), ca_file.map(Path::to_owned));
            Arc::new(postgres::PostgresDriver::new(target, credentials, ssl, ca_file))
        }
        DatabaseKind::Mysql => {
            let credentials = credentials::find(target, &credentials::of_process)?;
            let (ssl, ca_file) = (target.ssl.unwrap_or_default(), ca_file.map(Path::to_owned));
            let longest = match settings.rows {
                RowKind::Counts => (settings.word_bytes_max, "--max-word-bytes"),
                RowKind::Lines => (settings.line_bytes_max, "--max-line-bytes"),
            };
            Arc::new(mysql::MysqlDriver::new(target.clone(), credentials, ssl, ca_file, longest))
        }
    };
    Ok(SqlOutput::new(target.clone(), settings, driver, retrier))
}

/// Returns the protection of connections to PostgreSQL that the environment names.
fn environment_ssl() -> Result<SslMode> {
    let Some(name) = credentials::of_process("PGSSLMODE") else { return Ok(SslMode::default()) };
    SslMode::parse(&name).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("PGSSLMODE={name:?} is not known"))
            .hint("give disable, prefer, require or verify-full, or ?sslmode= in --to")
    })
}
