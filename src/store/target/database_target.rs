//! Parses the value of `--to` that names a database.
//!
//! ```text
//! sqlite:PATH[?table=T]                           a path is literal: no % and no //
//! postgres://[USER@]HOST[:PORT]/DATABASE[?table=T&schema=S&sslmode=M]
//! mysql://[USER@]HOST[:PORT]/DATABASE[?table=T&sslmode=M]          also mariadb://
//! ```
//!
//! A password in it would be in the process list of the machine. It is refused and never repeated.

use std::fmt;
use std::path::PathBuf;

use super::usage;
use crate::error::Result;
use crate::percent_encoding::percent_decoded;

/// The kind of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    /// A SQLite file.
    Sqlite,
    /// A PostgreSQL server.
    Postgres,
    /// A MySQL or MariaDB server.
    Mysql,
}

/// The protection of a connection, as `sslmode` of libpq names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server has it, without looking at its certificate.
    #[default]
    Prefer,
    /// TLS, without looking at the server's certificate.
    Require,
    /// TLS, and a certificate by a trusted authority for the name of the host.
    VerifyFull,
}

impl SslMode {
    /// Returns the mode with this name of libpq's. `allow` would try without TLS first; here it is
    /// `prefer`.
    pub fn parse(name: &str) -> Option<SslMode> {
        match name {
            "disable" => Some(SslMode::Disable),
            "prefer" | "allow" => Some(SslMode::Prefer),
            "require" => Some(SslMode::Require),
            "verify-full" => Some(SslMode::VerifyFull),
            _ => None,
        }
    }
}

/// A database, and the table in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseTarget {
    /// The kind of database.
    pub kind: DatabaseKind,
    /// The file of SQLite; empty otherwise.
    pub path: PathBuf,
    /// The user, if given.
    pub user: Option<String>,
    /// Host of the server.
    pub host: String,
    /// Port of the server.
    pub port: u16,
    /// Name of the database on the server.
    pub database: String,
    /// The table, if given.
    pub table: Option<String>,
    /// The schema of PostgreSQL, if given.
    pub schema: Option<String>,
    /// The protection of the connection, if given.
    pub ssl: Option<SslMode>,
}

/// The longest name of a table or schema: bytes in PostgreSQL, which cuts longer ones silently, and
/// characters in MySQL.
const NAME_BYTES_MAX: usize = 63;
/// Longest name of a database or table in characters.
const NAME_CHARS_MAX: usize = 64;

/// Names that the tables of the program have.
const RESERVED: [&str; 4] =
    ["wordtide_epochs", "wordtide_changelog", "wordtide_owners", "wordtide_staging"];

impl DatabaseTarget {
    /// Parses `to` if it names a database; returns `None` if it does not.
    ///
    /// # Errors
    ///
    /// `Usage` if it names one and is not valid. The message repeats no secret.
    pub fn parse(to: &str) -> Result<Option<DatabaseTarget>> {
        let (scheme, rest) = to.split_once(':').unwrap_or((to, ""));
        let kind = match scheme {
            "sqlite" => return sqlite(rest).map(Some),
            "postgres" | "postgresql" => DatabaseKind::Postgres,
            "mysql" | "mariadb" => DatabaseKind::Mysql,
            _ => return Ok(None),
        };
        let Some(rest) = rest.strip_prefix("//") else {
            return Err(usage(
                format!("the output's {scheme}: URL has no //"),
                &format!("give --to as {scheme}://USER@HOST:PORT/DATABASE"),
            ));
        };
        server(kind, scheme, rest).map(Some)
    }

    /// Returns a target without a table, for `kind`.
    fn new(kind: DatabaseKind) -> DatabaseTarget {
        DatabaseTarget {
            kind,
            path: PathBuf::new(),
            user: None,
            host: String::new(),
            port: 0,
            database: String::new(),
            table: None,
            schema: None,
            ssl: None,
        }
    }

    /// Takes over the parameters after the `?`.
    ///
    /// Fails with `Usage` for one that is not known, a value that cannot be, and a password.
    fn parameters(&mut self, query: &str) -> Result<()> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value)?;
            match (name, self.kind) {
                ("table", _) => {
                    self.check_name(name, &value)?;
                    self.table = Some(value);
                }
                ("schema", DatabaseKind::Postgres) => {
                    self.check_name(name, &value)?;
                    self.schema = Some(value);
                }
                ("sslmode", DatabaseKind::Postgres | DatabaseKind::Mysql) => {
                    let mode = SslMode::parse(&value).ok_or_else(|| {
                        let hint =
                            "give ?sslmode= in --to as disable, prefer, require or verify-full";
                        usage(format!("{value:?} is not an sslmode"), hint)
                    });
                    self.ssl = Some(mode?);
                }
                ("password" | "user" | "passwd" | "pwd", _) => return Err(secret()),
                _ => {
                    let known = match self.kind {
                        DatabaseKind::Sqlite => "table",
                        DatabaseKind::Postgres => "table, schema and sslmode",
                        DatabaseKind::Mysql => "table and sslmode",
                    };
                    return Err(usage(
                        format!("the output has a parameter {name:?} that is not known"),
                        &format!("{known} can follow the ? in --to"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks that a table or schema can be called `name` as it is. A database would cut or change
    /// some names, and two outputs would then be one table.
    ///
    /// Fails with `Usage`, naming the parameter and the fault.
    fn check_name(&self, parameter: &str, name: &str) -> Result<()> {
        let fault = if name.is_empty() {
            "is empty"
        } else if name.chars().any(char::is_control) {
            "holds a control character"
        } else if self.kind == DatabaseKind::Postgres && name.len() > NAME_BYTES_MAX {
            "is longer than 63 bytes, and PostgreSQL would cut it"
        } else if self.kind == DatabaseKind::Mysql && name.chars().count() > NAME_CHARS_MAX {
            "is longer than 64 characters"
        } else if self.kind == DatabaseKind::Mysql && name.ends_with(' ') {
            "ends in a blank"
        } else if self.kind == DatabaseKind::Mysql && name.chars().any(|c| c > '\u{ffff}') {
            "holds a character that MySQL allows in no name"
        } else if self.kind == DatabaseKind::Sqlite
            && name.to_ascii_lowercase().starts_with("sqlite_")
        {
            "begins with sqlite_, as the tables of SQLite itself"
        } else if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            "is that of a table of the program itself"
        } else {
            return Ok(());
        };
        Err(usage(
            format!("the name of the {parameter} {fault}"),
            &format!("give another ?{parameter}= in --to"),
        ))
    }
}

impl fmt::Display for DatabaseTarget {
    /// Prints the target as it can be given to `--to`. It holds no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            DatabaseKind::Sqlite => {
                return write!(f, "sqlite:{}{}", self.path.display(), Query(self));
            }
            DatabaseKind::Postgres => "postgres",
            DatabaseKind::Mysql => "mysql",
        };
        write!(f, "{scheme}://")?;
        if let Some(user) = &self.user {
            write!(f, "{}@", encoded(user))?;
        }
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{host}:{}/{}{}", self.port, encoded(&self.database), Query(self))
    }
}

/// The parameters of a target that name the table.
struct Query<'a>(&'a DatabaseTarget);

impl fmt::Display for Query<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = [("schema", &self.0.schema), ("table", &self.0.table)];
        let mut before = '?';
        for (name, value) in given {
            if let Some(value) = value {
                write!(f, "{before}{name}={}", encoded(value))?;
                before = '&';
            }
        }
        Ok(())
    }
}

/// Parses what follows `sqlite:`: a literal path up to the first `?`.
///
/// Fails with `Usage` for a folder, and for a database in memory, which nothing could read.
fn sqlite(rest: &str) -> Result<DatabaseTarget> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() || path.ends_with('/') || path == ":memory:" {
        return Err(usage(
            "the output's sqlite: names no file",
            "give --to as sqlite:PATH, as in sqlite:counts.db",
        ));
    }
    let mut target = DatabaseTarget::new(DatabaseKind::Sqlite);
    target.path = PathBuf::from(path);
    target.parameters(query)?;
    // `Counts` and `counts` are one table to SQLite: two outputs would have different owners.
    target.table = target.table.map(|name| name.to_ascii_lowercase());
    Ok(target)
}

/// Parses what follows `postgres://` or `mysql://`. Without a port it is that of the kind.
///
/// Fails with `Usage`. The message does not repeat the value, which may hold a password.
fn server(kind: DatabaseKind, scheme: &str, rest: &str) -> Result<DatabaseTarget> {
    let wrong = |what: &str| {
        usage(
            format!("the {scheme}:// output {what}"),
            &format!("give --to as {scheme}://USER@HOST:PORT/DATABASE, with ?table= for a table"),
        )
    };
    // The password may hold any character, so the authority ends at the last @ before the path.
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (user, place) = match address.rsplit_once('@') {
        Some((user, _)) if user.contains(':') || user.contains('/') => return Err(secret()),
        Some((user, place)) => (Some(decoded(user)?), place),
        None if query.contains('@') => return Err(secret()),
        None => (None, address),
    };
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (host, port) = split_port(authority).ok_or_else(|| wrong("has no valid HOST:PORT"))?;
    let port = match port {
        None if kind == DatabaseKind::Postgres => 5432,
        None => 3306,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(wrong("has no valid port")),
        },
    };
    if host.is_empty() {
        return Err(wrong("names no host"));
    }
    let database = decoded(database)?;
    if database.is_empty() || database.contains('/') || database.chars().any(char::is_control) {
        return Err(wrong("names no database"));
    }
    let mut target = DatabaseTarget::new(kind);
    (target.host, target.port) = (host.to_owned(), port);
    (target.database, target.user) = (database, user.filter(|user| !user.is_empty()));
    target.parameters(query)?;
    Ok(target)
}

/// Splits `HOST:PORT` or `[ADDRESS]:PORT`. `None` if it is neither.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    let is_plain = |host: &str| !host.contains(':');
    match authority.rsplit_once(':') {
        Some((host, port)) => is_plain(host).then_some((host, Some(port))),
        None => Some((authority, None)),
    }
}

/// Returns the error of a value of `--to` that holds a password.
fn secret() -> crate::error::Error {
    usage(
        "the output holds a password, which every user of this machine can read in the process list",
        "take it out of --to: PGPASSWORD or PGPASSFILE, MYSQL_PWD or ~/.my.cnf have passwords",
    )
}

/// Returns `text` with `%41` and the like decoded.
///
/// Fails with `Usage` for a `%` without two digits, and for bytes that are no UTF-8.
fn decoded(text: &str) -> Result<String> {
    percent_decoded(text).ok_or_else(|| {
        usage(
            "the output has a % that is not followed by two hexadecimal digits of UTF-8",
            "write % as %25 in a part of --to that is decoded",
        )
    })
}

/// Returns `text` so that [`decoded`] gives it back.
fn encoded(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.~".contains(c);
    let mut out = String::new();
    for c in text.chars() {
        if plain(c) {
            out.push(c);
        } else {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes)
                .bytes()
                .for_each(|byte| out.push_str(&format!("%{byte:02X}")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::*;

    fn parsed(to: &str) -> DatabaseTarget {
        match Target::parse(to) {
            Ok(Target::Database(target)) => *target,
            other => panic!("{to}: {other:?}"),
        }
    }

    #[test]
    fn databases_are_parsed_and_print_back() {
        let sqlite = parsed("sqlite:a b/%41 ?table=x%20y");
        assert_eq!(
            (sqlite.path.to_str(), sqlite.table.as_deref()),
            (Some("a b/%41 "), Some("x y"))
        );
        let postgres =
            parsed("postgres://me@[::1]:5433/my%20db?schema=s&table=a.b&sslmode=require");
        assert_eq!((postgres.host.as_str(), postgres.port), ("::1", 5433));
        assert_eq!((postgres.database.as_str(), postgres.ssl), ("my db", Some(SslMode::Require)));
        assert_eq!(parsed("mysql://db.example/words").port, 3306);
        for to in [
            "sqlite:counts.db?table=x%22y",
            "postgres://me@[::1]:5433/db?schema=s&table=a.b",
            "mysql://me%40here@h:1/db",
        ] {
            assert_eq!(parsed(&parsed(to).to_string()), parsed(to), "{to}");
        }
    }

    #[test]
    fn passwords_are_refused_and_never_repeated() {
        for to in [
            "postgres://me:sEcReT@host/db",
            "postgres://me:sE/c@ReT@host/db",
            "mysql://me:sE?cReT@host/db",
            "mysql://me@host/db?password=sEcReT",
        ] {
            let error = Target::parse(to).expect_err(to);
            let text = format!("{error} {error:?}");
            assert!(text.contains("--to") && !text.contains("ReT"), "{text}");
            assert_eq!(error.kind(), crate::error::ErrorKind::Usage, "{to}");
        }
    }

    #[test]
    fn unusable_databases_are_refused_by_flag() {
        let long = format!("postgres://h/db?table={}", "x".repeat(64));
        for to in [
            "sqlite:",
            "sqlite:dir/",
            "sqlite:a?tables=x",
            "sqlite:a?table=",
            "sqlite:a?table=%zz",
            "sqlite:a?table=wordtide_epochs",
            // The temporary table of an upsert has this name, and would hide it.
            "mysql://h/db?table=Wordtide_Staging",
            "postgres:db",
            "postgres://host",
            "postgres:///db",
            "postgres://host:port/db",
            "postgres://h/db?sslmode=maybe",
            "mysql://h/db?schema=x",
            &long,
        ] {
            let text = Target::parse(to).expect_err(to).to_string();
            assert!(text.contains("--to"), "{to}: {text}");
        }
    }
}
