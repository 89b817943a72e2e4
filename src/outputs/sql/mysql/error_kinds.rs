//! Classifies the errors of MySQL and MariaDB.

use mysql_async::{DriverError, Error, LocalInfileError};

use crate::outputs::sql::staged_rows::unreadable;
use crate::store::{StoreError, StoreErrorKind};

/// Returns whether the server has no TLS.
pub fn lacks_tls(error: &Error) -> bool {
    matches!(error, Error::Driver(DriverError::NoClientSslFlagFromServer))
}

/// Returns the store's error for an error of the driver.
pub fn failure(place: &str, error: &Error) -> StoreError {
    if let Error::Server(answer) = error {
        return refused(place, answer.code, &answer.message);
    }
    if let Error::Driver(DriverError::LocalInfile(LocalInfileError::ReadError(error))) = error {
        return unreadable(error);
    }
    let message = format!("{place}: {error}");
    // A certificate that is not trusted, and TLS that the server does not have, are settings.
    let is_setting = lacks_tls(error) || message.to_lowercase().contains("certificate");
    if is_setting {
        return StoreError::new(StoreErrorKind::Denied, message)
            .hint("see --ca-file and ?sslmode= in --to");
    }
    StoreError::new(StoreErrorKind::Unavailable, message).indeterminate()
}

/// Returns whether an error with this code is about a key that is in the table.
pub fn is_duplicate(code: u16) -> bool {
    matches!(code, 1062 | 1586)
}

/// Returns the store's error for a warning of the server about rows.
pub fn warning(place: &str, code: u16, message: &str) -> StoreError {
    refused(place, code, message)
}

/// Returns the store's error for an error of the server.
fn refused(place: &str, code: u16, message: &str) -> StoreError {
    let (kind, hint) = kind(code);
    let failed = StoreError::new(kind, format!("{place}: {message} (error {code})"));
    if hint.is_empty() { failed } else { failed.hint(hint) }
}

/// Returns the kind of a failure and what to do about it.
fn kind(code: u16) -> (StoreErrorKind, &'static str) {
    use StoreErrorKind::{Denied, Exists, Unavailable};
    match code {
        _ if is_duplicate(code) => (Exists, ""),
        1044 | 1045 | 1698 => {
            (Denied, "see the user and the database in --to, and MYSQL_PWD or ~/.my.cnf")
        }
        1142 | 1143 | 1227 | 1370 => (Denied, "grant the rights that docs/outputs.md lists"),
        1049 => (Denied, "see the database in --to"),
        1290 | 1792 | 1836 | 3100 => {
            (Denied, "the server is read-only: see which one is the primary")
        }
        1021 | 1114 | 1030 | 3 => (Denied, "see the disk of the server"),
        1205 => (Denied, "see which session holds a lock on the tables"),
        1054 | 1146 => (Denied, "see who has changed the tables of the output"),
        1153 => (Denied, "set max_allowed_packet of the server"),
        // Connections, a node that is not ready, shutdown, kills, deadlocks, the network.
        1040..=1043
        | 1047
        | 1053
        | 1077..=1081
        | 1129
        | 1152
        | 1154..=1161
        | 1184
        | 1189
        | 1190
        | 1203
        | 1213
        | 1226
        | 1317
        | 1614
        | 1927
        | 2006
        | 2013
        | 3024
        | 4031 => (Unavailable, ""),
        _ => (Denied, "see the log of the server"),
    }
}
