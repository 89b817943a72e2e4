//! Rows by `LOAD DATA LOCAL`: the server asks for a file, and gets the rows instead.
//!
//! `LOCAL` makes the server ignore what it cannot store: it skips rows whose key is there, and cuts
//! values, with a warning each. So the rows that it has stored are counted afterwards, and each
//! warning is an error; the transaction is then dropped. A key that is there is the error of an
//! insert. After anything else the rows go by inserts, which succeed or name the fault.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use mysql_async::prelude::Queryable;
use mysql_async::{Error, LocalInfileError, Row};

use super::error_kinds::{failure, is_duplicate, warning};
use super::{MysqlSession, cell, columns_of};
use crate::outputs::sql::driver_traits::Session;
use crate::outputs::sql::staged_rows::{RowEncoder, RowPieces, StagedRow, StagedRows, as_text};
use crate::store::{StoreError, StoreErrorKind, StoreResult};

/// The longest piece that is sent at once, if the server allows it.
const PIECE_BYTES: usize = 256 << 10;

/// The number of the warning that a statement may differ on a replica which repeats statements. It
/// is about the log of the server, and not about the rows.
const UNSAFE_STATEMENT: u16 = 1592;

/// A warning of the server: its code and its text.
type Warning = (u16, String);

/// The outcome of a `LOAD DATA LOCAL`.
#[derive(Debug)]
pub enum Loading {
    /// All rows are in the table.
    Done,
    /// The server does not take such a statement, for this reason. It has read no row.
    Refused(String),
}

/// The progress of a load.
#[derive(Debug, Default)]
struct LoadProgress {
    /// The pieces that were taken.
    pieces: AtomicU64,
    /// The rows that were encoded.
    rows: AtomicU64,
    /// Set after the last piece was taken.
    is_complete: AtomicBool,
}

impl LoadProgress {
    /// Returns the number of rows that were sent.
    ///
    /// Fails if the server has not taken them all. One that never asked for them may answer that it
    /// has loaded a file of its own, or nothing.
    fn sent_rows(&self) -> Result<u64, String> {
        let is_complete = self.is_complete.load(Ordering::Relaxed);
        let rows = self.rows.load(Ordering::Relaxed);
        is_complete.then_some(rows).ok_or_else(|| "answered before it took all rows".to_owned())
    }
}

/// Encodes rows as lines with fields.
#[derive(Debug)]
struct LoadEncoder {
    /// The rows that were not taken yet.
    bytes: Vec<u8>,
    /// Counts the rows.
    progress: Arc<LoadProgress>,
    /// The end of each row.
    end: String,
}

impl LoadEncoder {
    /// Adds a field and the mark after it. Escapes what has a meaning between fields.
    fn field(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| escape(*byte).is_some()) {
            self.bytes.extend_from_slice(&rest[..at]);
            self.bytes.push(b'\\');
            self.bytes.extend(escape(rest[at]));
            rest = &rest[at + 1..];
        }
        self.bytes.extend_from_slice(rest);
        self.bytes.push(b'\t');
    }
}

/// Returns what follows the backslash in place of a byte, if the byte has a meaning by itself.
fn escape(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        b'\t' => Some(b't'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        0 => Some(b'0'),
        0x1a => Some(b'Z'),
        _ => None,
    }
}

impl RowEncoder for LoadEncoder {
    type Piece = Bytes;

    fn row(&mut self, row: StagedRow<'_>) {
        match row {
            StagedRow::Word { key, count, word } => {
                self.field(as_text(word).as_bytes());
                self.field(key);
                self.bytes.extend_from_slice(count.to_string().as_bytes());
            }
            StagedRow::Line { number, line } => {
                self.field(number.to_string().as_bytes());
                self.field(line);
                // The mark after a line is that before the epoch.
                self.bytes.pop();
            }
        }
        self.bytes.extend_from_slice(self.end.as_bytes());
        self.progress.rows.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&mut self, _is_last: bool) -> Bytes {
        let capacity = self.bytes.len();
        std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity)).into()
    }
}

/// Returns encoded rows in pieces of at most `bytes_max` bytes. Notes in `progress` what was taken.
fn stream_of(
    pieces: RowPieces<LoadEncoder>,
    bytes_max: usize,
    progress: Arc<LoadProgress>,
) -> BoxStream<'static, io::Result<Bytes>> {
    let next = |(mut pieces, progress): (RowPieces<LoadEncoder>, Arc<LoadProgress>)| async move {
        let piece = pieces.read().await.transpose();
        // It asks for one more piece after it has taken the last.
        progress.is_complete.store(piece.is_none(), Ordering::Relaxed);
        piece.map(|piece| (piece, (pieces, progress)))
    };
    let taken = Arc::clone(&progress);
    let cut = move |piece: io::Result<Bytes>| {
        let (mut rest, mut failed) = match piece {
            Ok(piece) => (piece, None),
            Err(error) => (Bytes::new(), Some(error)),
        };
        stream::iter(std::iter::from_fn(move || {
            if let Some(error) = failed.take() {
                return Some(Err(error));
            }
            let length = bytes_max.min(rest.len());
            (length > 0).then(|| Ok(rest.split_to(length)))
        }))
    };
    let count = move |_: &io::Result<Bytes>| {
        taken.pieces.fetch_add(1, Ordering::Relaxed);
    };
    stream::unfold((pieces, progress), next).flat_map(cut).inspect(count).boxed()
}

impl MysqlSession {
    /// Returns whether the server allows `LOAD DATA LOCAL`, and runs it within a transaction.
    pub async fn allows_load(&mut self) -> StoreResult<bool> {
        let query = "SHOW VARIABLES WHERE Variable_name IN ('local_infile', \
                     'wsrep_load_data_splitting', 'tidb_version')";
        let rows = self.query(query, Vec::new()).await?;
        let is_on = |name: &str| {
            let row = rows.iter().find(|row| row[0].text().eq_ignore_ascii_case(name));
            row.is_some_and(|row| !matches!(row[1].text().as_str(), "OFF" | "0" | ""))
        };
        // The other two commit while they load.
        Ok(is_on("local_infile") && !is_on("wsrep_load_data_splitting") && !is_on("tidb_version"))
    }

    /// Inserts rows by `LOAD DATA LOCAL`.
    pub async fn load(&mut self, into: &str, rows: &StagedRows) -> StoreResult<Loading> {
        let columns = columns_of(rows);
        let sql = format!(
            "LOAD DATA LOCAL INFILE 'wordtide' INTO TABLE {into} CHARACTER SET binary FIELDS \
             TERMINATED BY '\\t' ENCLOSED BY '' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' \
             ({columns})"
        );
        let end = rows.epoch.map_or(String::from("\n"), |epoch| format!("\t{epoch}\n"));
        let progress = Arc::<LoadProgress>::default();
        let encoder = LoadEncoder { bytes: Vec::new(), progress: Arc::clone(&progress), end };
        let pieces = rows.pieces(encoder);
        let bytes_max = PIECE_BYTES.min(self.statement_bytes);
        // Only for this statement: the server can ask for a file in any answer.
        let stream = Mutex::new(stream_of(pieces, bytes_max, Arc::clone(&progress)));
        self.conn.set_infile_handler(async move {
            Ok(stream.into_inner().unwrap_or_else(PoisonError::into_inner))
        });
        let MysqlSession { conn, place, silence, .. } = self;
        let loading = async { Ok(conn.query_drop(&sql).await) };
        match silence.limit_between(place, &progress.pieces, loading).await? {
            Ok(()) => {}
            Err(Error::Server(answer)) if is_refusal(answer.code) => {
                conn.set_infile_handler(async { Err(LocalInfileError::NoHandler.into()) });
                return Ok(Loading::Refused(answer.message));
            }
            Err(error) => return Err(failure(place, &error)),
        }
        self.check_loaded(progress.sent_rows()).await?;
        Ok(Loading::Done)
    }

    /// Checks that the last statement has inserted the rows that were `sent`, and as they were.
    ///
    /// Fails with `Exists` if one is in the table already. After any other difference it fails with
    /// `Unavailable`, and rows go by inserts from then on: also those of the next attempt.
    async fn check_loaded(&mut self, sent: Result<u64, String>) -> StoreResult<()> {
        let (inserted, warnings) = (self.conn.affected_rows(), self.conn.get_warnings());
        let listed = if warnings == 0 { Vec::new() } else { self.warnings().await? };
        let Some(failed) = judge(sent, inserted, warnings, listed) else { return Ok(()) };
        match failed {
            LoadFault::Occupied(code, message) => Err(warning(&self.place, code, &message)),
            LoadFault::Other(reason) => {
                self.refuse_load(&reason);
                let message = format!("{} {reason}", self.place);
                Err(StoreError::new(StoreErrorKind::Unavailable, message))
            }
        }
    }

    /// Returns the warnings about the last statement; none if the server does not list them.
    async fn warnings(&mut self) -> StoreResult<Vec<Warning>> {
        let MysqlSession { conn, place, silence, .. } = self;
        // MySQL refuses it as a prepared statement.
        let run = async {
            match conn.query::<Row, _>("SHOW WARNINGS").await {
                Err(Error::Server(_)) => Ok(Vec::new()),
                rows => rows.map_err(|error| failure(place, &error)),
            }
        };
        let rows = silence.limit(place, run).await?;
        // Level, code, text.
        let warning = |row: Row| {
            let mut cells = row.unwrap().into_iter().skip(1).map(|value| cell(value).text());
            Some((cells.next()?.parse().ok()?, cells.next()?))
        };
        Ok(rows.into_iter().filter_map(warning).collect())
    }
}

/// A difference between the rows that were sent and those that are in the table.
#[derive(Debug, PartialEq)]
enum LoadFault {
    /// A row with the same key was there, by this warning.
    Occupied(u16, String),
    /// Anything else, in words that follow the place.
    Other(String),
}

/// Returns the fault of a load that has `inserted` rows with so many `warnings`, of which these are
/// `listed`. The setting `max_error_count` of the server limits the list.
fn judge(
    sent: Result<u64, String>,
    inserted: u64,
    warnings: u16,
    listed: Vec<Warning>,
) -> Option<LoadFault> {
    let harmless = listed.iter().filter(|listed| listed.0 == UNSAFE_STATEMENT).count();
    let is_silent = harmless == usize::from(warnings);
    if is_silent && sent == Ok(inserted) {
        return None;
    }
    let is_occupied = |listed: &Warning| is_duplicate(listed.0);
    let mut unexpected = listed.into_iter().filter(|listed| listed.0 != UNSAFE_STATEMENT);
    // The first one says most, but a key that is there decides.
    let first = unexpected.next();
    if let Some((code, message)) =
        first.clone().filter(is_occupied).or_else(|| unexpected.find(is_occupied))
    {
        return Some(LoadFault::Occupied(code, message));
    }
    Some(LoadFault::Other(match (first, sent) {
        (Some((code, message)), _) => format!("warns of rows: {message} (error {code})"),
        (None, Err(reason)) => reason,
        (None, Ok(sent)) => {
            format!("has stored {inserted} rows of {sent} with {warnings} warnings")
        }
    }))
}

/// Returns whether an error with this code is about the statement as such.
fn is_refusal(code: u16) -> bool {
    // Not allowed by server or client, in words of MySQL 5, of MySQL 8 and of MariaDB; unknown to a
    // proxy in between; not supported.
    matches!(code, 1148 | 3948 | 4166 | 1047 | 1235)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::RowKind;
    use crate::outputs::objects::{begin_columns, push_row};
    use crate::outputs::sql::staged_rows::stage;
    use crate::store::Body;

    /// Reads fields back as a server does.
    fn fields(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = bytes.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => field.push(match bytes.next().expect("an escaped byte") {
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b'0' => 0,
                    b'Z' => 0x1a,
                    b'N' => panic!("no value"),
                    other => *other,
                }),
                b'\t' => row.push(std::mem::take(&mut field)),
                b'\n' => {
                    row.push(std::mem::take(&mut field));
                    rows.push(std::mem::take(&mut row));
                }
                other => field.push(*other),
            }
        }
        assert!(field.is_empty() && row.is_empty(), "each row has an end");
        rows
    }

    #[test]
    fn fields_of_any_bytes_read_back() {
        let all: Vec<u8> = (0..=255).collect();
        let key: [u8; 32] = std::array::from_fn(|at| all[at]);
        let (progress, end) = (Arc::default(), "\t7\n".to_owned());
        let mut encoder = LoadEncoder { bytes: Vec::new(), progress, end };
        for word in ["", "\\N", "\\", "a\tb\nc\rd\0e\u{1a}", "\u{1f30a}'\""] {
            encoder.row(StagedRow::Word { key: &key, count: -3, word: word.as_bytes() });
            let expected = [word.as_bytes(), &key, b"-3", b"7"].map(<[u8]>::to_vec);
            assert_eq!(fields(&encoder.take(false)), [expected]);
        }
        encoder.row(StagedRow::Line { number: 5, line: &all });
        assert_eq!(fields(&encoder.take(true)), [[b"5".to_vec(), all, b"7".to_vec()]]);
        assert_eq!(encoder.progress.rows.load(Ordering::Relaxed), 6);
    }

    #[test]
    fn differences_are_faults_of_two_kinds() {
        let listed = |codes: &[u16]| codes.iter().map(|code| (*code, "x".to_owned())).collect();
        let judged = |sent, inserted, warnings, codes: &[u16]| {
            judge(sent, inserted, warnings, listed(codes))
        };
        assert_eq!(judged(Ok(2), 2, 0, &[]), None);
        assert_eq!(judged(Ok(2), 2, 1, &[1592]), None);
        let occupied = Some(LoadFault::Occupied(1062, "x".to_owned()));
        assert_eq!(judged(Ok(2), 1, 1, &[1062]), occupied);
        assert_eq!(judged(Ok(2), 1, 3, &[1592, 1265, 1062]), occupied);
        let others = [
            judged(Ok(2), 2, 1, &[1265]),
            judged(Ok(2), 1, 1, &[1592]),
            // The server lists none.
            judged(Ok(2), 2, 1, &[]),
            judged(Ok(2), 1, 0, &[]),
            judged(Err("never asked".to_owned()), 0, 0, &[]),
        ];
        assert!(
            others.iter().all(|fault| matches!(fault, Some(LoadFault::Other(_)))),
            "{others:?}"
        );
    }

    #[tokio::test]
    async fn stream_has_all_rows_in_short_pieces() {
        let mut bytes = Vec::new();
        begin_columns(RowKind::Lines, &mut bytes);
        (0..20_000).for_each(|row: u32| push_row(row.to_string().as_bytes(), 0, &mut bytes));
        let part = stage(RowKind::Lines, &Body::from(bytes)).expect("rows");
        let staged = StagedRows { kind: RowKind::Lines, epoch: Some(7), parts: vec![part] };
        let progress = Arc::<LoadProgress>::default();
        let end = "\t7\n".to_owned();
        let encoder = LoadEncoder { bytes: Vec::new(), progress: Arc::clone(&progress), end };
        let mut stream = stream_of(staged.pieces(encoder), 1000, Arc::clone(&progress));
        progress.sent_rows().expect_err("nothing was taken");
        let mut pieces = vec![stream.next().await.expect("a piece")];
        progress.sent_rows().expect_err("more is to come");
        while let Some(piece) = stream.next().await {
            pieces.push(piece);
        }
        assert_eq!(progress.sent_rows(), Ok(20_000));
        let pieces: Vec<Bytes> = pieces.into_iter().map(|piece| piece.expect("rows")).collect();
        assert!(pieces.iter().all(|piece| (1..=1000).contains(&piece.len())));
        assert_eq!(progress.pieces.load(Ordering::Relaxed), pieces.len() as u64);
        let rows = fields(&pieces.concat());
        assert_eq!(rows.len(), 20_000);
        for (number, row) in rows.iter().enumerate() {
            assert_eq!(
                row,
                &[&number.to_string(), &number.to_string(), "7"].map(|it| it.as_bytes())
            );
        }
    }
}
