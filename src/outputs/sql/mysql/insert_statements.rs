//! Rows as statements that insert many of them, each below the longest packet of the server.

use std::fmt::Write;

use super::{ROW_BYTES, STATEMENT_BYTES, columns_of};
use crate::hex_varint::push_hex;
use crate::outputs::sql::staged_rows::{RowEncoder, StagedRow, StagedRows, as_text};

/// Builds statements that insert many rows.
#[derive(Debug)]
pub struct Statements {
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

impl Statements {
    /// Returns an encoder of statements that insert `rows` into the table `into`, each of at most
    /// `bytes_max` bytes.
    pub fn new(into: &str, rows: &StagedRows, bytes_max: usize) -> Statements {
        Statements {
            head: format!("INSERT INTO {into} ({}) VALUES ", columns_of(rows)),
            end: rows.epoch.map_or(String::from(")"), |epoch| format!(",{epoch})")),
            bytes_max,
            open: String::new(),
            full: Vec::new(),
        }
    }
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
                literal(as_text(word).as_bytes(), &mut self.open);
                self.open.push(',');
                literal(key, &mut self.open);
                // It does not fail for a string.
                let _ = write!(self.open, ",{count}");
            }
            StagedRow::Line { number, line } => {
                let _ = write!(self.open, "{number},");
                literal(line, &mut self.open);
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
fn literal(bytes: &[u8], out: &mut String) {
    out.push_str("x'");
    push_hex(bytes, out);
    out.push('\'');
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
