//! PostgreSQL: rows go by `COPY … FROM STDIN` in the binary format.
//!
//! The driver's connection is a future that moves bytes. It is not a task of its own here: it runs
//! beside each request, in the task that waits for the answer, so a session ends with its owner and
//! leaves no task that nothing supervises.

mod copy_encoder;
mod error_kinds;

use std::fmt;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use futures::future::{BoxFuture, FutureExt};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::answer_timeout::Silence;
use super::credentials::Credentials;
use super::driver_traits::{Answer, Driver, Session, SqlValue};
use super::staged_rows::StagedRows;
use super::tls;
use crate::operators::RowKind;
use crate::store::{DatabaseTarget, SslMode, StoreError, StoreErrorKind, StoreResult};
use copy_encoder::CopyEncoder;
use error_kinds::failure;

/// The time for which the kernel tries to reach a server that does not acknowledge. The keepalives
/// of an idle connection add up to the same.
const TCP_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time in which a connection is made, for each address of the host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings that a session relies on, whatever the server's or the user's are. A transaction
/// that its client has left ends soon, because it holds the lock on the row of the owner.
const SETTINGS: &str = "SET client_encoding = 'UTF8'; SET lock_timeout = '10s'; \
     SET statement_timeout = 0; SET idle_in_transaction_session_timeout = '60s'; \
     SET client_min_messages = warning; SET standard_conforming_strings = on; \
     SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') = 'off'";

/// Opens sessions with a PostgreSQL server.
#[derive(Clone, Debug)]
pub struct PostgresDriver {
    /// Host, port, database and table.
    target: DatabaseTarget,
    /// User and password.
    credentials: Credentials,
    /// When TLS is used, and what is verified.
    ssl: SslMode,
    /// The certificates to trust in place of the system's.
    ca_file: Option<PathBuf>,
    /// The limit of waiting for an answer.
    silence: Silence,
}

impl PostgresDriver {
    /// Returns the driver of the database of `target`.
    pub fn new(
        target: DatabaseTarget,
        credentials: Credentials,
        ssl: SslMode,
        ca_file: Option<PathBuf>,
    ) -> PostgresDriver {
        PostgresDriver { target, credentials, ssl, ca_file, silence: Silence::new() }
    }

    /// Returns the settings of a connection: the address, the user, and times after which a server
    /// that is gone is noticed. `verify-full` is `require` to the driver; the certificate is
    /// verified by the TLS client that it is given.
    fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host(&self.target.host)
            .port(self.target.port)
            .dbname(&self.target.database)
            .user(&self.credentials.user)
            .application_name("wordtide")
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(4)
            .tcp_user_timeout(TCP_TIMEOUT)
            .ssl_mode(match self.ssl {
                SslMode::Disable => tokio_postgres::config::SslMode::Disable,
                SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
                SslMode::Require | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
            });
        if let Some(password) = &self.credentials.password {
            config.password(password);
        }
        config
    }

    /// Connects, by TLS as `sslmode` demands.
    ///
    /// Fails with `Denied` if the server refuses the user or has no TLS where it is required, and
    /// with `Unavailable` if it cannot be reached.
    async fn open(&self) -> StoreResult<PostgresSession> {
        let (config, place) = (self.config(), self.describe());
        let failed = |error: tokio_postgres::Error| failure(&place, &error);
        let (client, connection) = if self.ssl == SslMode::Disable {
            let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
            (client, connection.boxed())
        } else {
            let tls = tls::client(self.ssl == SslMode::VerifyFull, self.ca_file.as_deref())?;
            let connected = config.connect(MakeRustlsConnect::new(tls)).await;
            let (client, connection) = connected.map_err(failed)?;
            (client, connection.boxed())
        };
        let silence = self.silence.clone();
        Ok(PostgresSession { client, connection, place, silence })
    }
}

impl Driver for PostgresDriver {
    /// Connects by TLS as `sslmode` demands, within the limit of waiting, and sets what sessions
    /// need.
    fn connect(&self) -> BoxFuture<'_, StoreResult<Box<dyn Session>>> {
        async move {
            let place = self.describe();
            let mut session = self.silence.limit(&place, self.open()).await?;
            session.batch(SETTINGS).await?;
            Ok(Box::new(session) as Box<dyn Session>)
        }
        .boxed()
    }

    /// Returns the version, the user and the schema.
    ///
    /// Fails with `Denied` for a database that cannot hold all words, is read-only, or has no
    /// schema in which tables could be made.
    fn examine<'a>(
        &'a self,
        session: &'a mut dyn Session,
    ) -> BoxFuture<'a, StoreResult<Vec<(&'static str, String)>>> {
        async move {
            let query = "SELECT current_setting('server_encoding'), \
                         current_setting('server_version'), \
                         current_setting('transaction_read_only'), current_schema()::text, \
                         current_user::text";
            let rows = session.query(query, Vec::new()).await?;
            let text =
                |column: usize| rows.first().map(|row| row[column].text()).unwrap_or_default();
            let refused = |what: String, hint: &str| {
                let message = format!("{} {what}", self.describe());
                Err(StoreError::new(StoreErrorKind::Denied, message).hint(hint))
            };
            if text(0) != "UTF8" {
                return refused(
                    format!("has the encoding {}, which cannot hold all words", text(0)),
                    "give --to a database that was created with ENCODING 'UTF8'",
                );
            }
            if text(2) != "off" {
                return refused("is read-only".to_owned(), "give --to the primary server");
            }
            if self.target.schema.is_none() && text(3).is_empty() {
                return refused(
                    "has no schema in the search_path of the user".to_owned(),
                    "give ?schema= in --to",
                );
            }
            let version = ("version", format!("PostgreSQL {}", text(1)));
            let schema = self.target.schema.clone().unwrap_or_else(|| text(3));
            Ok(vec![version, ("user", text(4)), ("schema", schema)])
        }
        .boxed()
    }

    /// Returns kind, database and address.
    fn describe(&self) -> String {
        let DatabaseTarget { host, port, database, .. } = &self.target;
        format!("PostgreSQL database {database} at {host}:{port}")
    }
}

/// A connection to the server, driven by the task that waits for an answer.
struct PostgresSession {
    /// Takes statements.
    client: Client,
    /// Moves bytes between client and server. It runs only while a statement waits for its answer.
    connection: Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>,
    /// Host and database, for messages.
    place: String,
    /// The limit of waiting for an answer.
    silence: Silence,
}

impl fmt::Debug for PostgresSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSession").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The two ends of a session: the client that takes requests, and the connection that carries them.
/// They are borrowed apart, because a request borrows the client while the connection runs.
type Ends<'a> = (
    &'a mut Client,
    &'a mut Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>,
);

/// Waits for the answer to a request, and moves its bytes meanwhile.
///
/// Fails with the error of the server, with `Unavailable` if the connection ends or `silence` has
/// passed without an answer. Whether the request was carried out is then not known.
async fn driven<T>(
    connection: &mut Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>,
    (silence, place): (&Silence, &str),
    request: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> StoreResult<T> {
    let answer = async {
        let mut request = pin!(request);
        tokio::select! {
            biased;
            answer = &mut request => answer.map_err(|error| failure(place, &error)),
            ended = connection => {
                // A request that was answered as the connection ended has its own error.
                match (request.now_or_never(), ended) {
                    (Some(answer), Ok(())) => answer.map_err(|error| failure(place, &error)),
                    (_, Err(error)) => Err(failure(place, &error)),
                    (None, Ok(())) => {
                        let message = format!("{place} has closed the connection");
                        Err(StoreError::new(StoreErrorKind::Unavailable, message).indeterminate())
                    }
                }
            }
        }
    };
    silence.limit(place, answer).await
}

impl PostgresSession {
    /// Returns the two ends, and what limits the wait.
    fn ends(&mut self) -> (Ends<'_>, (&Silence, &str)) {
        ((&mut self.client, &mut self.connection), (&self.silence, &self.place))
    }

    /// Runs statements without parameters, separated by semicolons, in one round trip. Returns the
    /// number of rows that the last of them changed.
    async fn batch(&mut self, sql: &str) -> StoreResult<u64> {
        let ((client, connection), limit) = self.ends();
        let messages = driven(connection, limit, client.simple_query(sql)).await?;
        let complete = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        Ok(complete.last().unwrap_or(0))
    }

    /// Inserts rows by `COPY`, in the transaction that is open. They are encoded in pieces, so an
    /// epoch is never in memory as a whole.
    ///
    /// Fails with the error that the server gives for the rows, if it gives one, and else with that
    /// of the connection.
    async fn copy(&mut self, into: &str, rows: &StagedRows) -> StoreResult<()> {
        let columns = match (rows.kind, rows.epoch) {
            (RowKind::Lines, _) => "epoch, row_number, line",
            (RowKind::Counts, Some(_)) => "epoch, word, word_key, count",
            (RowKind::Counts, None) => "word, word_key, count",
        };
        let sql = format!("COPY {into} ({columns}) FROM STDIN (FORMAT binary)");
        let ((client, connection), limit) = self.ends();
        let sink = driven(connection, limit, client.copy_in::<_, Bytes>(&sql)).await?;
        let mut sink = Box::pin(sink);
        let (mut pieces, mut broken) = (rows.pieces(CopyEncoder::new(rows.epoch)), None);
        // An error of reading drops the session, and the server rolls back.
        while let Some(bytes) = pieces.next().await? {
            if let Err(error) = driven(connection, limit, sink.send(bytes)).await {
                broken = Some(error);
                break;
            }
        }
        // The reason why the server took no more is the answer to the whole.
        match (driven(connection, limit, sink.as_mut().finish()).await, broken) {
            (Ok(_), None) => Ok(()),
            (Err(error), None) => Err(error),
            (Err(error), Some(_)) if error.kind != StoreErrorKind::Unavailable => Err(error),
            (_, Some(broken)) => Err(broken),
        }
    }
}

impl Session for PostgresSession {
    /// Executes a statement; returns the number of rows that it changed.
    fn execute<'a>(
        &'a mut self,
        sql: &'a str,
        values: Vec<SqlValue>,
    ) -> BoxFuture<'a, StoreResult<u64>> {
        async move {
            if values.is_empty() {
                let done = self.batch(sql).await?;
                if sql == "COMMIT" {
                    self.silence.reset();
                }
                return Ok(done);
            }
            let parameters = parameters(&values);
            let parameters = borrowed(&parameters);
            let ((client, connection), limit) = self.ends();
            driven(connection, limit, client.execute(sql, &parameters)).await
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
            let parameters = parameters(&values);
            let parameters = borrowed(&parameters);
            let ((client, connection), limit) = self.ends();
            let rows = driven(connection, limit, client.query(sql, &parameters)).await?;
            Ok(rows.iter().map(cells).collect())
        }
        .boxed()
    }

    /// Inserts staged rows by `COPY` in the binary format.
    fn insert<'a>(&'a mut self, into: &'a str, rows: StagedRows) -> BoxFuture<'a, StoreResult<()>> {
        async move { self.copy(into, &rows).await }.boxed()
    }
}

/// Returns parameters as the driver takes them: owned, since a request outlives the call.
fn parameters(values: &[SqlValue]) -> Vec<Box<dyn ToSql + Sync + Send>> {
    values
        .iter()
        .map(|value| match value {
            SqlValue::Null => Box::new(None::<String>) as Box<dyn ToSql + Sync + Send>,
            SqlValue::Int(value) => Box::new(*value),
            SqlValue::Text(text) => Box::new(text.clone()),
            SqlValue::Bytes(bytes) => Box::new(bytes.clone()),
        })
        .collect()
}

/// Returns the parameters as references.
fn borrowed(parameters: &[Box<dyn ToSql + Sync + Send>]) -> Vec<&(dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| &**parameter as &(dyn ToSql + Sync)).collect()
}

/// Returns the values of a row. A value that is NULL, or of a type that no query asks for, is
/// [`SqlValue::Null`].
fn cells(row: &Row) -> Vec<SqlValue> {
    let columns = row.columns().iter().enumerate();
    columns
        .map(|(number, column)| {
            let found = match *column.type_() {
                Type::INT8 => {
                    row.try_get(number).map(|value: Option<i64>| value.map(SqlValue::Int))
                }
                Type::INT4 => row
                    .try_get(number)
                    .map(|value: Option<i32>| value.map(|value| SqlValue::Int(i64::from(value)))),
                Type::BYTEA => {
                    row.try_get(number).map(|value: Option<Vec<u8>>| value.map(SqlValue::Bytes))
                }
                _ => row.try_get(number).map(|value: Option<String>| value.map(SqlValue::Text)),
            };
            // The queries of this module ask for no other types.
            found.ok().flatten().unwrap_or(SqlValue::Null)
        })
        .collect()
}
