//! Users and passwords of databases, from the environment and the files of the databases' clients.
//!
//! `--to` never has a password: every user of the machine can read a command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::store::{DatabaseKind, DatabaseTarget};

/// Reads variables of the environment.
pub type SqlEnvironment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Returns a variable of this process; `None` for an empty one.
pub fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A user and a password. It is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password, if there is one.
    pub password: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Finds the credentials for `target`.
///
/// # Errors
///
/// `Configuration` if a file that the environment names cannot be read.
pub fn find(target: &DatabaseTarget, env: SqlEnvironment<'_>) -> Result<Credentials> {
    match target.kind {
        DatabaseKind::Sqlite => Ok(Credentials::default()),
        DatabaseKind::Postgres => postgres(target, env),
        DatabaseKind::Mysql => mysql(target, env),
    }
}

/// Finds user and password as libpq does: `--to`, `PGUSER`, `PGPASSWORD`, then the password file.
fn postgres(target: &DatabaseTarget, env: SqlEnvironment<'_>) -> Result<Credentials> {
    let user = target.user.clone().or_else(|| env("PGUSER")).or_else(|| env("USER"));
    let user = user.unwrap_or_else(|| "postgres".to_owned());
    if let Some(password) = env("PGPASSWORD") {
        return Ok(Credentials { user, password: Some(password) });
    }
    let (path, is_named) = match env("PGPASSFILE") {
        Some(path) => (PathBuf::from(path), true),
        None => (home(env).join(".pgpass"), false),
    };
    let Some(text) = read(&path, is_named, "PGPASSFILE")? else {
        return Ok(Credentials { user, password: None });
    };
    let port = target.port.to_string();
    let wanted = [target.host.as_str(), &port, &target.database, &user];
    let password = text.lines().find_map(|line| passfile_match(line, wanted));
    Ok(Credentials { user, password })
}

/// Finds the user in `--to`, `~/.my.cnf` or `USER`, and the password in `MYSQL_PWD` or the file.
fn mysql(target: &DatabaseTarget, env: SqlEnvironment<'_>) -> Result<Credentials> {
    let text = read(&home(env).join(".my.cnf"), false, "")?.unwrap_or_default();
    let option = |name: &str| client_option(&text, name);
    let user = target.user.clone().or_else(|| option("user")).or_else(|| env("USER"));
    let password = env("MYSQL_PWD").or_else(|| option("password"));
    Ok(Credentials { user: user.unwrap_or_else(|| "root".to_owned()), password })
}

/// Returns the home of the user.
fn home(env: SqlEnvironment<'_>) -> PathBuf {
    env("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// Reads a file with passwords. One that others can read is not used, as the clients of the
/// databases do it.
fn read(path: &std::path::Path, is_named: bool, variable: &str) -> Result<Option<String>> {
    let place = path.display();
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode(),
        Err(_) if !is_named => return Ok(None),
        Err(error) => {
            let message = format!("{place} cannot be read: {error}");
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint(format!("see {variable} in the environment")));
        }
    };
    if mode & 0o077 != 0 {
        tracing::warn!("{place} can be read by others and is not used: chmod 600 {place}");
        return Ok(None);
    }
    fs::read_to_string(path).map(Some).map_err(|error| {
        Error::new(ErrorKind::Configuration, format!("{place} cannot be read: {error}"))
            .hint("see the file of passwords")
    })
}

/// Returns the password in a line `host:port:database:user:password` that matches.
fn passfile_match(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let (mut fields, mut field, mut escaped) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                field.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            ':' if fields.len() < 4 => fields.push(std::mem::take(&mut field)),
            _ => field.push(c),
        }
    }
    let fits = |(given, wanted): (&String, &&str)| given == "*" || given == *wanted;
    let is_match = fields.len() == 4 && fields.iter().zip(&wanted).all(fits);
    is_match.then_some(field)
}

/// Returns an option of the section `[client]` of an option file.
fn client_option(text: &str, name: &str) -> Option<String> {
    let (mut is_client, mut found) = (false, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            is_client = section.trim_end_matches(']').trim() == "client";
        } else if is_client
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == name
        {
            let value = value.trim();
            let quoted = ['"', '\''].iter().find_map(|quote| {
                value.strip_prefix(*quote).and_then(|value| value.strip_suffix(*quote))
            });
            found = Some(quoted.unwrap_or(value).to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Target;

    fn target(to: &str) -> DatabaseTarget {
        match Target::parse(to).expect("a target") {
            Target::Database(target) => *target,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn passwords_come_from_environment_and_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("rights");
            path
        };
        write(".pgpass", "# x\nother:*:*:*:no\nh:5432:d\\:b:me:a:b\\\\c\n");
        let mine = write(".my.cnf", "[mysqld]\nuser=x\n[client]\nuser = \"you\"\npassword='p#w'\n");
        let home = dir.path().display().to_string();
        let env = |name: &str| (name == "HOME").then(|| home.clone());
        let found = find(&target("postgres://me@h/d%3Ab"), &env).expect("a file");
        assert_eq!(found.password.as_deref(), Some("a:b\\c"));
        let found = find(&target("mysql://h/d"), &env).expect("a file");
        assert_eq!((found.user.as_str(), found.password.as_deref()), ("you", Some("p#w")));
        let given = |name: &str| match name {
            "PGPASSWORD" | "MYSQL_PWD" => Some("env".to_owned()),
            _ => env(name),
        };
        for to in ["postgres://me@h/d", "mysql://me@h/d"] {
            let found = find(&target(to), &given).expect("credentials");
            assert_eq!(found.password.as_deref(), Some("env"));
            assert!(!format!("{found:?}").contains("env"));
        }
        fs::set_permissions(&mine, fs::Permissions::from_mode(0o644)).expect("rights");
        assert_eq!(find(&target("mysql://h/d"), &env).expect("no file").password, None);
    }

    #[test]
    fn named_passfile_must_be_there() {
        let env = |name: &str| (name == "PGPASSFILE").then(|| "/nowhere/at/all".to_owned());
        let error = find(&target("postgres://h/d"), &env).expect_err("no file");
        assert!(error.to_string().contains("PGPASSFILE"), "{error}");
    }
}
