//! MySQL and MariaDB: rows go by inserts of many rows, each below the longest packet of the server.

mod error_kinds;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Params, Row, SslOpts, Value};

use super::answer_timeout::Silence;
use super::credentials::Credentials;
use super::driver_traits::{Answer, Driver, Session, SqlValue};
use super::staged_rows::{RowEncoder, StagedRow, StagedRows, as_text};
use crate::operators::RowKind;
use crate::store::{DatabaseTarget, SslMode, StoreError, StoreErrorKind, StoreResult};
use crate::tls;
use error_kinds::{failure, lacks_tls};

/// The longest statement that is sent, if the server allows it.
const STATEMENT_BYTES: usize = 1 << 20;
/// The bytes of a row without its word or line, written in digits, and those of a statement.
const ROW_BYTES: usize = 256;

/// The settings that a session relies on, whatever the server's are. A transaction that its client
/// has left ends soon, because it holds the lock on the row of the owner.
const SETTINGS: [&str; 2] = [
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES', SESSION innodb_lock_wait_timeout = 10, \
     SESSION lock_wait_timeout = 10, SESSION wait_timeout = 60, SESSION net_write_timeout = 60, \
     SESSION autocommit = 1",
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
        let silence = Silence::new();
        MysqlDriver { target, credentials, ssl, ca_file, text_bytes_max, silence }
    }

    /// Returns the settings of a connection.
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
    async fn open(&self) -> StoreResult<Conn> {
        let connected = match Conn::new(self.options(self.ssl)).await {
            Err(error) if self.ssl == SslMode::Prefer && lacks_tls(&error) => {
                Conn::new(self.options(SslMode::Disable)).await
            }
            connected => connected,
        };
        connected.map_err(|error| failure(&self.describe(), &error))
    }
}

impl Driver for MysqlDriver {
    /// Connects, sets the modes that rows need, and asks for the longest packet, which bounds a
    /// statement.
    fn connect(&self) -> BoxFuture<'_, StoreResult<Box<dyn Session>>> {
        async move {
            let place = self.describe();
            let conn = self.silence.limit(&place, self.open()).await?;
            let silence = self.silence.clone();
            let mut session =
                MysqlSession { conn, place, silence, statement_bytes: STATEMENT_BYTES };
            for setting in SETTINGS {
                session.execute(setting, Vec::new()).await?;
            }
            let packet = session.query("SELECT @@max_allowed_packet", Vec::new()).await?;
            let packet = packet.first().map_or(0, |row| row[0].int()) as usize;
            session.statement_bytes = STATEMENT_BYTES.min(packet.saturating_sub(ROW_BYTES));
            Ok(Box::new(session) as Box<dyn Session>)
        }
        .boxed()
    }

    /// Returns the version and the user.
    ///
    /// Fails with `Denied` if the longest word or line does not fit a packet.
    fn examine<'a>(
        &'a self,
        session: &'a mut dyn Session,
    ) -> BoxFuture<'a, StoreResult<Vec<(&'static str, String)>>> {
        async move {
            let query = "SELECT @@version, @@max_allowed_packet, current_user()";
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
    /// The length of a statement after which it is sent.
    statement_bytes: usize,
}

impl MysqlSession {
    /// Runs a statement without parameters.
    async fn run(&mut self, sql: &str) -> StoreResult<u64> {
        let MysqlSession { conn, place, silence, .. } = self;
        let run = async {
            conn.query_drop(sql).await.map_err(|error| failure(place, &error))?;
            Ok(conn.affected_rows())
        };
        silence.limit(place, run).await
    }

    /// Inserts rows, many by each statement.
    async fn insert_all(&mut self, into: &str, rows: &StagedRows) -> StoreResult<()> {
        let columns = match (rows.kind, rows.epoch) {
            (RowKind::Lines, _) => "`row_number`, `line`, `epoch`",
            (RowKind::Counts, Some(_)) => "`word`, `word_key`, `count`, `epoch`",
            (RowKind::Counts, None) => "`word`, `word_key`, `count`",
        };
        let statements = Statements {
            head: format!("INSERT INTO {into} ({columns}) VALUES "),
            end: rows.epoch.map_or(String::from(")"), |epoch| format!(",{epoch})")),
            bytes_max: self.statement_bytes,
            open: String::new(),
            full: Vec::new(),
        };
        let mut pieces = rows.pieces(statements);
        let mut full = pieces.next().await?;
        while let Some(statements) = full {
            let sending = async {
                for statement in statements {
                    self.run(&statement).await?;
                }
                Ok::<_, StoreError>(())
            };
            let (sent, next) = futures::join!(sending, pieces.next());
            sent?;
            full = next?;
        }
        Ok(())
    }
}

/// Builds statements that insert many rows.
#[derive(Debug)]
struct Statements {
    /// The statement up to its rows.
    head: String,
    /// The end of each row.
    end: String,
    /// The length that no statement exceeds, unless it has one row only.
    bytes_max: usize,
    /// The statement to which rows are being added.
    open: String,
    /// The statements that are complete.
    full: Vec<String>,
}

impl RowEncoder for Statements {
    type Piece = Vec<String>;

    fn row(&mut self, row: StagedRow<'_>) {
        let text_bytes = match row {
            StagedRow::Word { word, .. } => word.len(),
            StagedRow::Line { line, .. } => line.len(),
        };
        let row_bytes = 2 * text_bytes + ROW_BYTES;
        if !self.open.is_empty() && self.open.len() + row_bytes > self.bytes_max {
            self.full.push(std::mem::take(&mut self.open));
        }
        if self.open.is_empty() {
            self.open.reserve(self.bytes_max.min(STATEMENT_BYTES));
            self.open.push_str(&self.head);
        } else {
            self.open.push(',');
        }
        self.open.push('(');
        match row {
            StagedRow::Word { key, count, word } => {
                digits(as_text(word).as_bytes(), &mut self.open);
                self.open.push(',');
                digits(key, &mut self.open);
                // It does not fail for a string.
                let _ = write!(self.open, ",{count}");
            }
            StagedRow::Line { number, line } => {
                let _ = write!(self.open, "{number},");
                digits(line, &mut self.open);
            }
        }
        self.open.push_str(&self.end);
    }

    fn take(&mut self, is_last: bool) -> Vec<String> {
        if is_last && !self.open.is_empty() {
            self.full.push(std::mem::take(&mut self.open));
        }
        std::mem::take(&mut self.full)
    }
}

/// Appends bytes as a literal of hexadecimal digits, which no setting of the server can misread.
fn digits(bytes: &[u8], out: &mut String) {
    /// The digits of a hexadecimal literal.
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push_str("x'");
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out.push('\'');
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

/// Returns a value of an answer.
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

    fn insert<'a>(&'a mut self, into: &'a str, rows: StagedRows) -> BoxFuture<'a, StoreResult<()>> {
        async move { self.insert_all(into, &rows).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_stay_below_their_limit() {
        let mut statements = Statements {
            head: "INSERT INTO `t` VALUES ".to_owned(),
            end: ",7)".to_owned(),
            bytes_max: 1000,
            open: String::new(),
            full: Vec::new(),
        };
        for number in 0..20 {
            statements.row(StagedRow::Word {
                key: &[0xab; 32],
                count: number,
                word: b"it's \\ \0",
            });
        }
        let full = statements.take(true);
        assert!(full.len() > 1);
        let all: String = full.concat();
        assert!(full.iter().all(|statement| statement.len() <= 1000));
        assert_eq!(all.matches("(x'69742773205c2000',x'abab").count(), 20);
        assert!(full.iter().all(|statement| statement.ends_with(",7)")));
    }
}
