//! MySQL and MariaDB: rows go by `LOAD DATA LOCAL` where the server allows it, and else by inserts
//! of many rows.
//!
//! Loading is faster, but a server can refuse it (`local_infile`), a proxy may not
//! know it, and it reports a row that does not fit as a warning only. So what was loaded is counted
//! (`load_data`), and one failure makes all sessions of the run insert (`insert_statements`).

mod error_kinds;
mod insert_statements;
mod load_data;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Params, Row, SslOpts, Value};

use super::answer_timeout::Silence;
use super::credentials::Credentials;
use super::driver_traits::{Answer, Driver, Session, SqlValue};
use super::staged_rows::StagedRows;
use crate::operators::RowKind;
use crate::store::{DatabaseTarget, SslMode, StoreError, StoreErrorKind, StoreResult};
use crate::tls;
use error_kinds::{failure, lacks_tls};
use insert_statements::Statements;
use load_data::Loading;

/// The longest statement that is sent, in bytes, if the server allows it.
const STATEMENT_BYTES: usize = 1 << 20;
/// The bytes of a row without its word or line, written in digits, and those of a statement.
const ROW_BYTES: usize = 256;

/// The settings that a session relies on, whatever the server's are. A transaction that its client
/// has left ends soon, because it holds the lock on the row of the owner.
const SETTINGS: [&str; 2] = [
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES', SESSION innodb_lock_wait_timeout = 10, \
     SESSION lock_wait_timeout = 10, SESSION wait_timeout = 60, SESSION net_read_timeout = 60, \
     SESSION net_write_timeout = 60, SESSION max_error_count = 64, SESSION autocommit = 1",
    "SET NAMES utf8mb4",
];

/// Opens sessions with a MySQL or MariaDB server.
#[derive(Clone, Debug)]
pub struct MysqlDriver {
    /// Host, port, database and table.
    target: DatabaseTarget,
    /// User and password.
    credentials: Credentials,
    /// When TLS is used, and what is verified.
    ssl: SslMode,
    /// The certificates to trust in place of the system's.
    ca_file: Option<PathBuf>,
    /// The longest word or line, and the flag that limits it.
    text_bytes_max: (usize, &'static str),
    /// The limit of waiting for an answer.
    silence: Silence,
    /// Set when rows are to go by inserts, though the settings allow `LOAD DATA LOCAL`.
    load_refused: Arc<AtomicBool>,
}

impl MysqlDriver {
    /// Returns the driver of the database of `target`.
    pub fn new(
        target: DatabaseTarget,
        credentials: Credentials,
        ssl: SslMode,
        ca_file: Option<PathBuf>,
        text_bytes_max: (usize, &'static str),
    ) -> MysqlDriver {
        // The driver takes the provider of the process.
        tls::install_provider();
        let (silence, load_refused) = (Silence::new(), Arc::default());
        MysqlDriver { target, credentials, ssl, ca_file, text_bytes_max, silence, load_refused }
    }

    /// Returns the settings of a connection with this use of TLS. `require` encrypts and verifies
    /// nothing, as MySQL's own clients do; `verify-full` verifies the certificate and its name.
    fn options(&self, ssl: SslMode) -> OptsBuilder {
        let tls = match ssl {
            SslMode::Disable => None,
            SslMode::Prefer | SslMode::Require => {
                Some(SslOpts::default().with_danger_accept_invalid_certs(true))
            }
            SslMode::VerifyFull => {
                let roots = self.ca_file.iter().map(|path| path.clone().into()).collect();
                Some(SslOpts::default().with_root_certs(roots))
            }
        };
        OptsBuilder::default()
            .ip_or_hostname(&self.target.host)
            .tcp_port(self.target.port)
            .db_name(Some(&self.target.database))
            .user(Some(&self.credentials.user))
            .pass(self.credentials.password.clone())
            .prefer_socket(false)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            .ssl_opts(tls)
    }

    /// Connects, without TLS if the server has none and need not have it.
    ///
    /// Fails with `Denied` if the server refuses the user or has no TLS where it is required, and
    /// with `Unavailable` if it cannot be reached.
    async fn open(&self) -> StoreResult<Conn> {
        let connected = match Conn::new(self.options(self.ssl)).await {
            Err(error) if self.ssl == SslMode::Prefer && lacks_tls(&error) => {
                Conn::new(self.options(SslMode::Disable)).await
            }
            connected => connected,
        };
        connected.map_err(|error| failure(&self.describe(), &error))
    }

    /// Returns true if the name of the table holds a capital letter.
    fn table_has_capitals(&self) -> bool {
        self.target.table.as_deref().is_some_and(|name| name.chars().any(char::is_uppercase))
    }
}

impl Driver for MysqlDriver {
    /// Connects, sets the modes that rows need, and asks for the longest packet, which bounds a
    /// statement.
    fn connect(&self) -> BoxFuture<'_, StoreResult<Box<dyn Session>>> {
        async move {
            let place = self.describe();
            let conn = self.silence.limit(&place, self.open()).await?;
            let mut session = MysqlSession {
                conn,
                place,
                silence: self.silence.clone(),
                statement_bytes: STATEMENT_BYTES,
                can_load: false,
                load_refused: Arc::clone(&self.load_refused),
            };
            for setting in SETTINGS {
                session.execute(setting, Vec::new()).await?;
            }
            let packet = session.query("SELECT @@max_allowed_packet", Vec::new()).await?;
            let packet = packet.first().map_or(0, |row| row[0].int()) as usize;
            session.statement_bytes = STATEMENT_BYTES.min(packet.saturating_sub(ROW_BYTES));
            session.can_load = session.allows_load().await?;
            Ok(Box::new(session) as Box<dyn Session>)
        }
        .boxed()
    }

    /// Returns the version and the user.
    ///
    /// Fails with `Denied` if the longest word or line does not fit a packet, and for a table with
    /// capitals if it could be that of another output.
    fn examine<'a>(
        &'a self,
        session: &'a mut dyn Session,
    ) -> BoxFuture<'a, StoreResult<Vec<(&'static str, String)>>> {
        async move {
            let query = "SELECT @@version, @@max_allowed_packet, current_user(), \
                         @@lower_case_table_names";
            let rows = session.query(query, Vec::new()).await?;
            let Some(row) = rows.first() else { return Ok(Vec::new()) };
            let (text_bytes, flag) = self.text_bytes_max;
            let packet = row[1].int() as usize;
            // Bytes are written as two digits each.
            if 2 * text_bytes + 2 * ROW_BYTES > packet {
                let message = format!(
                    "{} takes statements of {packet} bytes, and {flag} allows {text_bytes} bytes",
                    self.describe()
                );
                let most = packet.saturating_sub(2 * ROW_BYTES) / 2;
                return Err(StoreError::new(StoreErrorKind::Denied, message)
                    .hint(format!("set max_allowed_packet of the server, or give {flag} {most}")));
            }
            if row[3].int() != 0 && self.table_has_capitals() {
                let message = format!(
                    "{} does not distinguish capitals in names of tables (lower_case_table_names)",
                    self.describe()
                );
                return Err(StoreError::new(StoreErrorKind::Denied, message)
                    .hint("write ?table= in --to in small letters"));
            }
            Ok(vec![("version", row[0].text()), ("user", row[2].text())])
        }
        .boxed()
    }

    /// Returns kind, database and address.
    fn describe(&self) -> String {
        let DatabaseTarget { host, port, database, .. } = &self.target;
        format!("MySQL database {database} at {host}:{port}")
    }
}

/// A connection to the server.
#[derive(Debug)]
struct MysqlSession {
    /// The connection.
    conn: Conn,
    /// Host and database, for messages.
    place: String,
    /// The limit of waiting for an answer.
    silence: Silence,
    /// The length that no statement and no other packet exceeds, except for a row that is longer.
    statement_bytes: usize,
    /// True if the settings of the server allow `LOAD DATA LOCAL` in a transaction.
    can_load: bool,
    /// Set when rows are to go by inserts nevertheless.
    load_refused: Arc<AtomicBool>,
}

impl MysqlSession {
    /// Runs a statement without parameters; returns the number of rows that it changed. It is sent
    /// as text, since a server need not prepare every statement, such as `SET` or `COMMIT`.
    async fn run(&mut self, sql: &str) -> StoreResult<u64> {
        let MysqlSession { conn, place, silence, .. } = self;
        let run = async {
            conn.query_drop(sql).await.map_err(|error| failure(place, &error))?;
            Ok(conn.affected_rows())
        };
        silence.limit(place, run).await
    }

    /// Inserts rows, many by each statement. The statements are made on a thread of their own, a
    /// piece ahead of the one that is sent.
    async fn insert_many(&mut self, into: &str, rows: &StagedRows) -> StoreResult<()> {
        let mut pieces = rows.pieces(Statements::new(into, rows, self.statement_bytes));
        while let Some(statements) = pieces.next().await? {
            for statement in statements {
                self.run(&statement).await?;
            }
        }
        Ok(())
    }

    /// Inserts rows by the fastest way that the server allows. Nothing of a load that was refused
    /// is in the table, so the same rows are then inserted.
    async fn insert_all(&mut self, into: &str, rows: &StagedRows) -> StoreResult<()> {
        let may_load = self.can_load && !self.load_refused.load(Ordering::Relaxed);
        let loading = if may_load { Some(self.load(into, rows).await?) } else { None };
        let refusal = match loading {
            Some(Loading::Done) => return Ok(()),
            Some(Loading::Refused(reason)) => Some(reason),
            None => None,
        };
        self.insert_many(into, rows).await?;
        // A server that is not ready refuses everything with the same error.
        if let Some(reason) = refusal {
            self.refuse_load(&format!("does not take LOAD DATA LOCAL: {reason}"));
        }
        Ok(())
    }

    /// Makes rows go by inserts from now on, in all sessions. `reason` follows the place.
    fn refuse_load(&self, reason: &str) {
        if !self.load_refused.swap(true, Ordering::Relaxed) {
            tracing::info!("rows go by INSERT from now on: {} {reason}", self.place);
        }
    }
}

/// Returns the columns of `rows` in the order in which they are sent.
fn columns_of(rows: &StagedRows) -> &'static str {
    match (rows.kind, rows.epoch) {
        (RowKind::Lines, _) => "`row_number`, `line`, `epoch`",
        (RowKind::Counts, Some(_)) => "`word`, `word_key`, `count`, `epoch`",
        (RowKind::Counts, None) => "`word`, `word_key`, `count`",
    }
}

/// Returns a parameter as the driver takes it.
fn parameter(value: SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::NULL,
        SqlValue::Int(value) => Value::Int(value),
        SqlValue::Text(text) => Value::Bytes(text.into_bytes()),
        SqlValue::Bytes(bytes) => Value::Bytes(bytes),
    }
}

/// Returns a value of an answer. Texts are bytes to this protocol.
fn cell(value: Value) -> SqlValue {
    match value {
        Value::Int(value) => SqlValue::Int(value),
        Value::UInt(value) => value.into(),
        Value::Bytes(bytes) => SqlValue::Bytes(bytes),
        // The queries of this module ask for no numbers with fractions and no dates.
        _ => SqlValue::Null,
    }
}

/// Returns the parameters of a statement.
fn parameters(values: Vec<SqlValue>) -> Params {
    match values.is_empty() {
        true => Params::Empty,
        false => Params::Positional(values.into_iter().map(parameter).collect()),
    }
}

impl Session for MysqlSession {
    /// Executes a statement; returns the number of rows that it changed.
    fn execute<'a>(
        &'a mut self,
        sql: &'a str,
        values: Vec<SqlValue>,
    ) -> BoxFuture<'a, StoreResult<u64>> {
        async move {
            if values.is_empty() {
                let changed = self.run(sql).await?;
                if sql == "COMMIT" {
                    self.silence.reset();
                }
                return Ok(changed);
            }
            let MysqlSession { conn, place, silence, .. } = self;
            let run = async {
                let done = conn.exec_drop(sql, parameters(values)).await;
                done.map_err(|error| failure(place, &error))?;
                Ok(conn.affected_rows())
            };
            silence.limit(place, run).await
        }
        .boxed()
    }

    /// Returns all rows of a query.
    fn query<'a>(
        &'a mut self,
        sql: &'a str,
        values: Vec<SqlValue>,
    ) -> BoxFuture<'a, StoreResult<Answer>> {
        async move {
            let MysqlSession { conn, place, silence, .. } = self;
            // Always as a prepared statement: its answer has numbers, and not texts of them.
            let run = async {
                let rows = conn.exec::<Row, _, _>(sql, parameters(values)).await;
                rows.map_err(|error| failure(place, &error))
            };
            let rows = silence.limit(place, run).await?;
            Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(cell).collect()).collect())
        }
        .boxed()
    }

    /// Inserts staged rows by `LOAD DATA LOCAL`, or by statements of many rows.
    fn insert<'a>(&'a mut self, into: &'a str, rows: StagedRows) -> BoxFuture<'a, StoreResult<()>> {
        async move { self.insert_all(into, &rows).await }.boxed()
    }
}
