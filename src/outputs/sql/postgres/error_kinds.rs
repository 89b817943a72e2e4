//! Classifies the errors of PostgreSQL.

use crate::store::{StoreError, StoreErrorKind};

/// Returns the store's error for an error of the driver.
pub fn failure(place: &str, error: &tokio_postgres::Error) -> StoreError {
    let Some(answer) = error.as_db_error() else {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        let message = format!("{place}: {error}{}", cause.unwrap_or_default());
        // A missing password and TLS that the server does not have are settings, all else is the
        // network.
        let text = message.to_lowercase();
        let is_setting = ["password missing", "invalid configuration", "does not support tls"]
            .iter()
            .any(|part| text.contains(part))
            || text.contains("certificate");
        return if is_setting {
            StoreError::new(StoreErrorKind::Denied, message)
                .hint("see PGPASSWORD, PGPASSFILE, --ca-file and ?sslmode= in --to")
        } else {
            StoreError::new(StoreErrorKind::Unavailable, message).indeterminate()
        };
    };
    let code = answer.code().code();
    let message = format!("{place}: {} (SQLSTATE {code})", answer.message());
    let (kind, hint) = kind(code);
    let failed = StoreError::new(kind, message);
    if hint.is_empty() { failed } else { failed.hint(hint) }
}

/// Returns the kind of a failure and what to do about it.
fn kind(code: &str) -> (StoreErrorKind, &'static str) {
    use StoreErrorKind::{Denied, Exists, Unavailable};
    match code {
        "23505" => (Exists, ""),
        "25006" => (Denied, "the server is read-only: see its disk, and which one is the primary"),
        "55P03" => (Denied, "see which session holds a lock on the tables"),
        "53100" => (Denied, "make room on the server's disk"),
        "42501" => (Denied, "grant the rights that docs/outputs.md lists"),
        "42P01" | "42703" | "42P10" => (Denied, "see who has changed the tables of the output"),
        "3D000" | "3F000" => (Denied, "see the database and ?schema= in --to"),
        _ => match &code[..code.len().min(2)] {
            "28" => (Denied, "see the user in --to, and PGPASSWORD or PGPASSFILE"),
            // Connection, transaction, resources, operator, system, internal.
            "08" | "25" | "40" | "53" | "57" | "58" | "XX" => (Unavailable, ""),
            _ => (Denied, "see the log of the server"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_kind_of_their_remedy() {
        use StoreErrorKind::{Denied, Exists, Unavailable};
        for (code, expected) in [
            ("28P01", Denied),
            ("42501", Denied),
            ("3D000", Denied),
            ("25006", Denied),
            ("40001", Unavailable),
            ("40P01", Unavailable),
            ("57P01", Unavailable),
            ("57P03", Unavailable),
            ("53300", Unavailable),
            ("23505", Exists),
        ] {
            assert_eq!(kind(code).0, expected, "{code}");
        }
    }
}
