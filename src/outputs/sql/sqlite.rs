//! SQLite: one file, one writer.
//!
//! Calls block, so they run on threads that may block. The file is in WAL mode, so that readers
//! never wait for a commit nor a commit for readers, and a commit is on disk when it returns.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, params_from_iter};
use rustix::fs::Access;

use super::driver_traits::{Answer, Driver, Session, SqlValue};
use super::staged_rows::{StagedRow, StagedRows, as_text, unreadable};
use crate::operators::RowKind;
use crate::store::{StoreError, StoreErrorKind, StoreResult};
use crate::supervise;

/// The time for which a statement waits for a lock that another process holds. Readers hold none
/// that a writer waits for; another writer does, until its transaction ends.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteDriver {
    /// The file of the database.
    path: PathBuf,
}

impl SqliteDriver {
    /// Returns the driver of the file at `path`.
    pub fn new(path: &Path) -> SqliteDriver {
        SqliteDriver { path: path.to_owned() }
    }

    /// Makes the folder of the file, and those above it. A path without a folder needs none.
    ///
    /// Fails with `Denied` if that is not allowed.
    fn make_folder(&self) -> StoreResult<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let made = folder.map_or(Ok(()), fs::create_dir_all);
        made.map_err(|error| self.refused(&format!("its folder cannot be made: {error}")))
    }

    /// Opens the file, or, if there is none and it could be made, an empty database in memory. So a
    /// start that is refused, and `wordtide check`, leave no file where none was.
    ///
    /// Fails with `Denied` if the nearest folder that exists is not one, or nothing can be made in
    /// it.
    fn open_to_visit(&self) -> StoreResult<Connection> {
        if self.path.exists() {
            return self.open();
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut above = folder.unwrap_or(Path::new(".")).ancestors();
        let nearest = above.find(|folder| folder.exists()).unwrap_or(Path::new("."));
        if !nearest.is_dir() {
            return Err(self.refused(&format!("{} is no folder", nearest.display())));
        }
        rustix::fs::access(nearest, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
            self.refused(&format!("it cannot be made in {}: {error}", nearest.display()))
        })?;
        Connection::open_in_memory().map_err(|error| self.failure(&error))
    }

    /// Returns a session on the connection that `open` opens, on a thread that may block.
    fn session(
        &self,
        open: fn(&SqliteDriver) -> StoreResult<Connection>,
    ) -> BoxFuture<'_, StoreResult<Box<dyn Session>>> {
        let driver = self.clone();
        async move {
            let opening = driver.clone();
            let connection = supervise::blocking(move || open(&opening)).await?;
            let connection = Arc::new(Mutex::new(connection));
            Ok(Box::new(SqliteSession { driver, connection, is_wal: false }) as Box<dyn Session>)
        }
        .boxed()
    }

    /// Opens the file, and makes it and its folder if they are missing.
    ///
    /// The connection writes its log through to the disk at each commit, has 16 MB of pages in
    /// memory, and keeps its own tables there. Each of the settings is the connection's: the file
    /// remembers only WAL mode.
    fn open(&self) -> StoreResult<Connection> {
        self.make_folder()?;
        // No URI: a path with `file:` or a question mark is a path.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // A relative path that begins with a colon would be a database in memory.
        let path = if self.path.is_relative() {
            Path::new(".").join(&self.path)
        } else {
            self.path.clone()
        };
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| self.failure(&error))?;
        let set = |connection: &Connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "cache_size", -16_000)?;
            // Kept off the disk of the results: the rows of one epoch, for the time of a commit.
            connection.pragma_update(None, "temp_store", "MEMORY")
        };
        set(&connection).map_err(|error| self.failure(&error))?;
        Ok(connection)
    }

    /// Returns the error of a file that cannot be used.
    fn refused(&self, what: &str) -> StoreError {
        let message = format!("{} cannot be used: {what}", self.describe());
        StoreError::new(StoreErrorKind::Denied, message).hint("see the path in --to")
    }

    /// Returns the store's error for an error of SQLite.
    ///
    /// None is `Unavailable`: an error of a local file does not pass by itself, so the run ends and
    /// its message names what to look at. A constraint that is violated is `Exists`: the rows of
    /// the epoch are in the table without its marker. A code that is not SQLite's, as of a value
    /// that has another type than asked for, is `Invalid`.
    fn failure(&self, error: &rusqlite::Error) -> StoreError {
        let place = self.describe();
        let message = format!("{place}: {error}");
        let code = error.sqlite_error_code();
        let made = |kind, hint: &str| StoreError::new(kind, message.clone()).hint(hint);
        match code {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                made(StoreErrorKind::Denied, "see which program holds a lock on the file")
            }
            Some(ErrorCode::DiskFull) => made(StoreErrorKind::Denied, "make room on its disk"),
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                made(StoreErrorKind::Denied, "see the rights to the file and its folder in --to")
            }
            Some(ErrorCode::AuthorizationForStatementDenied) => {
                made(StoreErrorKind::Denied, "see the rights to the file in --to")
            }
            Some(ErrorCode::NotADatabase) => {
                made(StoreErrorKind::Denied, "give another path in --to")
            }
            Some(ErrorCode::ConstraintViolation) => {
                StoreError::new(StoreErrorKind::Exists, message)
            }
            Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt) => {
                made(StoreErrorKind::Disk, "look at its disk before a restart")
            }
            // A schema that changed, a table that is gone: another program works on the file.
            Some(_) => made(StoreErrorKind::Denied, "see what else uses the file in --to"),
            None => StoreError::new(StoreErrorKind::Invalid, message),
        }
    }
}

impl Driver for SqliteDriver {
    /// Opens the file, and makes it if it is missing.
    fn connect(&self) -> BoxFuture<'_, StoreResult<Box<dyn Session>>> {
        self.session(SqliteDriver::open)
    }

    /// Opens the file if it is there, and makes nothing.
    fn visit(&self) -> BoxFuture<'_, StoreResult<Box<dyn Session>>> {
        self.session(SqliteDriver::open_to_visit)
    }

    /// Returns the version.
    ///
    /// Fails if the file is read-only, or another process holds it locked.
    fn examine<'a>(
        &'a self,
        session: &'a mut dyn Session,
    ) -> BoxFuture<'a, StoreResult<Vec<(&'static str, String)>>> {
        async move {
            // It takes the lock for writing, and fails for a file that is read-only.
            session.execute("BEGIN IMMEDIATE", Vec::new()).await?;
            session.execute("ROLLBACK", Vec::new()).await?;
            let version = session.query("SELECT sqlite_version()", Vec::new()).await?;
            let version = version.first().map(|row| row[0].text()).unwrap_or_default();
            Ok(vec![("version", format!("SQLite {version}"))])
        }
        .boxed()
    }

    /// Returns the path.
    fn describe(&self) -> String {
        format!("SQLite file {}", self.path.display())
    }
}

/// A connection to the file.
struct SqliteSession {
    /// The driver, which opens the file again after a failure.
    driver: SqliteDriver,
    /// The connection, which is used on a thread that may block.
    connection: Arc<Mutex<Connection>>,
    /// Set after the file was put into WAL mode, which is done before the first table is made.
    is_wal: bool,
}

impl fmt::Debug for SqliteSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteSession").field("driver", &self.driver).finish_non_exhaustive()
    }
}

impl SqliteSession {
    /// Runs `work` with the connection, on a thread that may block.
    ///
    /// The lock is never waited for: a session is used by one task at a time. It lets the
    /// connection go from thread to thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, SqliteFailure> + Send + 'static,
    ) -> StoreResult<T> {
        let connection = Arc::clone(&self.connection);
        let done = supervise::blocking(move || {
            work(&connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.map_err(|failure| match failure {
            SqliteFailure::Sqlite(error) => self.driver.failure(&error),
            SqliteFailure::Results(error) => unreadable(&error),
        })
    }
}

/// The cause for which a statement or an insertion failed.
enum SqliteFailure {
    /// SQLite.
    Sqlite(rusqlite::Error),
    /// The results that wait on disk.
    Results(io::Error),
}

impl From<rusqlite::Error> for SqliteFailure {
    fn from(error: rusqlite::Error) -> Self {
        SqliteFailure::Sqlite(error)
    }
}

impl From<io::Error> for SqliteFailure {
    fn from(error: io::Error) -> Self {
        SqliteFailure::Results(error)
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            SqlValue::Null => ValueRef::Null,
            SqlValue::Int(value) => ValueRef::Integer(*value),
            SqlValue::Text(text) => ValueRef::Text(text.as_bytes()),
            SqlValue::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Returns a value of an answer. The queries of this program ask for no fractions; SQLite may keep
/// a number as one all the same, which is cut to an integer.
fn value(found: Value) -> SqlValue {
    match found {
        Value::Null => SqlValue::Null,
        Value::Integer(value) => SqlValue::Int(value),
        Value::Real(value) => SqlValue::Int(value as i64),
        Value::Text(text) => SqlValue::Text(text),
        Value::Blob(bytes) => SqlValue::Bytes(bytes),
    }
}

impl Session for SqliteSession {
    /// Executes a statement on a thread that may block; returns the number of rows that it changed.
    fn execute<'a>(
        &'a mut self,
        sql: &'a str,
        values: Vec<SqlValue>,
    ) -> BoxFuture<'a, StoreResult<u64>> {
        async move {
            if sql.starts_with("CREATE TABLE") && !self.is_wal {
                // Some file systems have no shared memory: the file then stays as it is.
                self.run(|connection| {
                    let set = "PRAGMA journal_mode = WAL";
                    Ok(connection.query_row(set, [], |row| row.get::<_, String>(0))?)
                })
                .await?;
                self.is_wal = true;
            }
            let sql = sql.to_owned();
            self.run(move |connection| {
                let mut statement = connection.prepare(&sql)?;
                let changed = statement.execute(params_from_iter(values.iter()))?;
                Ok(changed as u64)
            })
            .await
        }
        .boxed()
    }

    /// Returns all rows of a query, in the order in which the database gives them. They are held in
    /// memory, so queries ask for few: markers, an owner, columns.
    fn query<'a>(
        &'a mut self,
        sql: &'a str,
        values: Vec<SqlValue>,
    ) -> BoxFuture<'a, StoreResult<Answer>> {
        let sql = sql.to_owned();
        async move {
            self.run(move |connection| {
                let mut statement = connection.prepare(&sql)?;
                let columns = statement.column_count();
                let mut rows = statement.query(params_from_iter(values.iter()))?;
                let mut answer = Vec::new();
                while let Some(row) = rows.next()? {
                    let cells = (0..columns).map(|column| row.get(column).map(value));
                    answer.push(cells.collect::<rusqlite::Result<Vec<_>>>()?);
                }
                Ok(answer)
            })
            .await
        }
        .boxed()
    }

    /// Inserts staged rows one by one with a prepared statement.
    fn insert<'a>(&'a mut self, into: &'a str, rows: StagedRows) -> BoxFuture<'a, StoreResult<()>> {
        let into = into.to_owned();
        async move { self.run(move |connection| insert(connection, &into, &rows)).await }.boxed()
    }
}

/// Inserts rows by one prepared statement, in the transaction that is open. The values that are the
/// same for all rows are bound once.
///
/// Fails if a row is in the table already, or if results that wait on disk cannot be read back.
fn insert(connection: &Connection, into: &str, rows: &StagedRows) -> Result<(), SqliteFailure> {
    let epoch = rows.epoch.map(|epoch| epoch as i64);
    let sql = match (rows.kind, epoch) {
        (RowKind::Lines, _) => {
            format!("INSERT INTO {into} (row_number, line, epoch) VALUES (?, ?, ?)")
        }
        (RowKind::Counts, Some(_)) => {
            format!("INSERT INTO {into} (word, word_key, count, epoch) VALUES (?, ?, ?, ?)")
        }
        (RowKind::Counts, None) => {
            format!("INSERT INTO {into} (word, word_key, count) VALUES (?, ?, ?)")
        }
    };
    let mut statement = connection.prepare(&sql)?;
    if let (RowKind::Counts, Some(epoch)) = (rows.kind, epoch) {
        // A parameter keeps its value from one execution to the next.
        statement.raw_bind_parameter(4, epoch)?;
    }
    if rows.kind == RowKind::Lines {
        statement.raw_bind_parameter(3, epoch)?;
    }
    let mut reader = rows.reader();
    let mut each = |row: StagedRow<'_>| {
        match row {
            StagedRow::Word { key, count, word } => {
                statement.raw_bind_parameter(1, &*as_text(word))?;
                statement.raw_bind_parameter(2, &key[..])?;
                statement.raw_bind_parameter(3, count)?;
            }
            StagedRow::Line { number, line } => {
                statement.raw_bind_parameter(1, number)?;
                statement.raw_bind_parameter(2, line)?;
            }
        }
        statement.raw_execute()?;
        Ok::<_, SqliteFailure>(())
    };
    while reader.next_batch(&mut each)? {}
    Ok(())
}
