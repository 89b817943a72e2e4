//! The traits of a database: what each kind of driver does, and nothing else.
//!
//! A [`Session`] is one connection. A transaction is never rolled back by a statement: a session
//! that failed is dropped, and the database rolls back what it had begun.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::{Mutex, MutexGuard};

use super::staged_rows::StagedRows;
use crate::store::{StoreError, StoreErrorKind, StoreResult};

/// A session that was idle for longer is opened anew: the server, or something on the way, may have
/// closed it, and the next statement would only find out.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// A value of a column or a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlValue {
    /// No value.
    Null,
    /// An integer.
    Int(i64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl SqlValue {
    /// Returns the integer, or 0 for anything else.
    pub fn int(&self) -> i64 {
        match self {
            SqlValue::Int(value) => *value,
            _ => 0,
        }
    }

    /// Returns the text; empty for anything else.
    pub fn text(&self) -> String {
        match self {
            SqlValue::Text(text) => text.clone(),
            SqlValue::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            SqlValue::Null | SqlValue::Int(_) => String::new(),
        }
    }

    /// Returns the bytes; empty for anything else.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            SqlValue::Text(text) => text.into_bytes(),
            SqlValue::Bytes(bytes) => bytes,
            SqlValue::Null | SqlValue::Int(_) => Vec::new(),
        }
    }
}

impl From<&str> for SqlValue {
    fn from(text: &str) -> Self {
        SqlValue::Text(text.to_owned())
    }
}

impl From<u64> for SqlValue {
    /// Makes an integer. Counts and times above the range of the column do not occur; they would
    /// become the greatest integer.
    fn from(value: u64) -> Self {
        SqlValue::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

/// The rows of an answer.
pub type Answer = Vec<Vec<SqlValue>>;

/// One connection to a database.
///
/// No answer for 30 s is an error, and the session is of no use any more.
pub trait Session: Debug + Send {
    /// Runs a statement. Returns the number of rows that it changed.
    fn execute<'a>(
        &'a mut self,
        sql: &'a str,
        values: Vec<SqlValue>,
    ) -> BoxFuture<'a, StoreResult<u64>>;

    /// Runs a query and returns its rows.
    fn query<'a>(
        &'a mut self,
        sql: &'a str,
        values: Vec<SqlValue>,
    ) -> BoxFuture<'a, StoreResult<Answer>>;

    /// Inserts rows into the table `into`, a quoted name, by the fastest way that the database has.
    fn insert<'a>(&'a mut self, into: &'a str, rows: StagedRows) -> BoxFuture<'a, StoreResult<()>>;
}

/// Opens sessions with one database.
pub trait Driver: Debug + Send + Sync + 'static {
    /// Opens a session and sets what the program relies on.
    fn connect(&self) -> BoxFuture<'_, StoreResult<Box<dyn Session>>>;

    /// Opens a session to look at the database with. It makes nothing, not even a database.
    fn visit(&self) -> BoxFuture<'_, StoreResult<Box<dyn Session>>> {
        self.connect()
    }

    /// Checks that the database can hold what the job publishes. Returns names and values for
    /// `wordtide check`.
    ///
    /// # Errors
    ///
    /// `Denied` if it cannot.
    fn examine<'a>(
        &'a self,
        session: &'a mut dyn Session,
    ) -> BoxFuture<'a, StoreResult<Vec<(&'static str, String)>>>;

    /// Returns a description of the database for a log line. It holds no secret.
    fn describe(&self) -> String;
}

/// A session that is opened when it is needed, and again after a failure.
#[derive(Debug)]
pub struct Link {
    /// Opens a session.
    driver: Arc<dyn Driver>,
    /// Statements that every new session runs.
    setup: Vec<String>,
    /// The session and the time of its last use. `None` before the first use and after a failure.
    session: Mutex<Option<(Box<dyn Session>, Instant)>>,
}

impl Link {
    /// Returns a link without a session yet. Each new session runs the statements of `setup`.
    pub fn new(driver: Arc<dyn Driver>, setup: Vec<String>) -> Link {
        Link { driver, setup, session: Mutex::new(None) }
    }

    /// Returns the session for the exclusive use of the caller, which calls [`LinkUse::keep`] if
    /// all went well. The session is dropped otherwise.
    ///
    /// # Errors
    ///
    /// Those of connecting.
    pub async fn open(&self) -> StoreResult<LinkUse<'_>> {
        let mut session = self.session.lock().await;
        if session.as_ref().is_some_and(|(_, used)| used.elapsed() > IDLE_MAX) {
            *session = None;
        }
        if session.is_none() {
            let mut opened = self.driver.connect().await?;
            for statement in &self.setup {
                opened.execute(statement, Vec::new()).await?;
            }
            *session = Some((opened, Instant::now()));
        }
        Ok(LinkUse { session, is_kept: false })
    }
}

impl Link {
    /// Closes the session, if it is not in use.
    pub fn close(&self) {
        if let Ok(mut session) = self.session.try_lock() {
            *session = None;
        }
    }
}

/// The exclusive use of a session.
#[derive(Debug)]
pub struct LinkUse<'a> {
    /// The locked session.
    session: MutexGuard<'a, Option<(Box<dyn Session>, Instant)>>,
    /// True if the session may be used again; it is closed otherwise.
    is_kept: bool,
}

impl LinkUse<'_> {
    /// Returns the session.
    ///
    /// # Errors
    ///
    /// `Unavailable` if there is none any more, which does not happen.
    pub fn session(&mut self) -> StoreResult<&mut dyn Session> {
        match &mut *self.session {
            Some((session, _)) => Ok(&mut **session),
            None => Err(StoreError::new(StoreErrorKind::Unavailable, "the session is closed")),
        }
    }

    /// Keeps the session for later use.
    pub fn keep(mut self) {
        if let Some((_, used)) = &mut *self.session {
            *used = Instant::now();
        }
        self.is_kept = true;
    }
}

impl Drop for LinkUse<'_> {
    fn drop(&mut self) {
        // What was begun in it must not go on in the next transaction.
        if !self.is_kept {
            *self.session = None;
        }
    }
}
