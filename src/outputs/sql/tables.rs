//! The tables of an output: their names, columns and statements, in the dialect of each database.
//!
//! | table | holds | primary key |
//! | --- | --- | --- |
//! | `counts` or `?table=` | the rows of epochs, or of the newest epoch | epoch and key, or key |
//! | `wordtide_epochs` | the marker of each epoch | output, epoch |
//! | `wordtide_owners` | the run that may write to an output | output |
//! | `wordtide_changelog` | the changes of totals and windows, in pieces | output, name, piece |
//!
//! Statements are written with `"column"`, `?` for a parameter and `{rows}`, `{epochs}`,
//! `{owners}`, `{changelog}` for the tables.

use crate::named_values::named_values;
use crate::operators::RowKind;
use crate::store::{DatabaseKind, DatabaseTarget};

/// How rows come into the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// Each epoch adds its rows.
    #[default]
    Append,
    /// The table holds the result of the newest epoch: one row a word.
    Upsert,
}

named_values!(WriteMode, "--write", Append => "append", Upsert => "upsert");

/// One of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The rows.
    Rows,
    /// The markers.
    Epochs,
    /// The owners.
    Owners,
    /// The changelog.
    Changelog,
}

impl Table {
    /// Every table, in the order in which they are made.
    pub const ALL: [Table; 4] = [Table::Owners, Table::Epochs, Table::Changelog, Table::Rows];
}

/// The kind of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColumnKind {
    /// An integer of 64 bits.
    Int,
    /// A name of the program's own.
    Name,
    /// A text of some length.
    Text,
    /// A word.
    Word,
    /// A key of 32 bytes.
    Key,
    /// Bytes.
    Bytes,
}

/// A column, and whether it is part of the primary key.
type Column = (&'static str, ColumnKind, bool);

/// The name of the session's own table for the rows of an epoch on their way into an upsert.
const STAGING: &str = "wordtide_staging";

/// The tables of one output.
#[derive(Clone, Debug)]
pub struct Tables {
    /// The kind of database.
    pub kind: DatabaseKind,
    /// The name of the table of rows.
    pub table: String,
    /// The kind of rows.
    pub rows: RowKind,
    /// How rows come into the table.
    pub write: WriteMode,
    /// The schema of the tables; `None` for that of the connection.
    schema: Option<String>,
}

impl Tables {
    /// Returns the tables of `target` for rows of this kind.
    pub fn new(target: &DatabaseTarget, rows: RowKind, write: WriteMode) -> Tables {
        let default = match rows {
            RowKind::Counts => "counts",
            RowKind::Lines => "lines",
        };
        Tables {
            kind: target.kind,
            table: target.table.clone().unwrap_or_else(|| default.to_owned()),
            rows,
            write,
            schema: target.schema.clone(),
        }
    }

    /// Returns the name of a table as it is stored.
    pub fn name(&self, table: Table) -> &str {
        match table {
            Table::Rows => &self.table,
            Table::Epochs => "wordtide_epochs",
            Table::Owners => "wordtide_owners",
            Table::Changelog => "wordtide_changelog",
        }
    }

    /// Returns the quoted name of a table, with its schema. SQLite's is always `main`, because a
    /// table of the session would hide one of the same name.
    pub fn quoted(&self, table: Table) -> String {
        let name = self.quote(self.name(table));
        match &self.schema {
            Some(schema) => format!("{}.{name}", self.quote(schema)),
            None if self.kind == DatabaseKind::Sqlite => format!("main.{name}"),
            None => name,
        }
    }

    /// Returns the quoted name of the session's own table.
    pub fn staging(&self) -> &'static str {
        match self.kind {
            DatabaseKind::Sqlite => "temp.\"wordtide_staging\"",
            DatabaseKind::Postgres => "pg_temp.\"wordtide_staging\"",
            DatabaseKind::Mysql => "`wordtide_staging`",
        }
    }

    /// Returns `name` in the quotes of the dialect.
    fn quote(&self, name: &str) -> String {
        match self.kind {
            DatabaseKind::Mysql => format!("`{}`", name.replace('`', "``")),
            _ => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// Returns a statement in the dialect: quotes of names, numbers of parameters, names of tables.
    /// `{lock}` stands after a query whose rows stay as they are until the transaction ends.
    pub fn sql(&self, template: &str) -> String {
        let (mut out, mut rest, mut number) = (String::new(), template, 0);
        while let Some(at) = rest.find(['"', '?', '{']) {
            let (before, found) = rest.split_at(at);
            out.push_str(before);
            rest = &found[1..];
            match &found[..1] {
                "\"" => out.push(if self.kind == DatabaseKind::Mysql { '`' } else { '"' }),
                "?" if self.kind == DatabaseKind::Postgres => {
                    number += 1;
                    out.push_str(&format!("${number}"));
                }
                "?" => out.push('?'),
                _ => {
                    let (name, after) = rest.split_once('}').unwrap_or((rest, ""));
                    rest = after;
                    match name {
                        "rows" => out.push_str(&self.quoted(Table::Rows)),
                        "epochs" => out.push_str(&self.quoted(Table::Epochs)),
                        "owners" => out.push_str(&self.quoted(Table::Owners)),
                        "changelog" => out.push_str(&self.quoted(Table::Changelog)),
                        "lock" if self.kind == DatabaseKind::Sqlite => {}
                        "lock" => out.push_str(" FOR UPDATE"),
                        _ => out.push_str(self.staging()),
                    }
                }
            }
        }
        out.push_str(rest);
        out
    }

    /// Returns the statement that begins a transaction which writes. SQLite takes the lock for
    /// writing at once; the others lock the row of the owner.
    pub fn begin(&self) -> &'static str {
        match self.kind {
            DatabaseKind::Sqlite => "BEGIN IMMEDIATE",
            DatabaseKind::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED",
            DatabaseKind::Mysql => "START TRANSACTION",
        }
    }

    /// Returns the columns of a table, those of the primary key in its order.
    ///
    /// A key of rows is the epoch and a hash of the word, since some databases index no text of any
    /// length. Only an upsert has one row a word, so the epoch is no part of its key.
    fn columns(&self, table: Table) -> Vec<Column> {
        use ColumnKind::{Bytes, Int, Key, Name, Text, Word};
        match (table, self.rows, self.write) {
            (Table::Rows, RowKind::Lines, _) => {
                vec![("epoch", Int, true), ("row_number", Int, true), ("line", Bytes, false)]
            }
            (Table::Rows, RowKind::Counts, write) => vec![
                ("epoch", Int, write == WriteMode::Append),
                ("word", Word, false),
                ("word_key", Key, true),
                ("count", Int, false),
            ],
            (Table::Epochs, ..) => vec![
                ("output", Name, true),
                ("epoch", Int, true),
                ("job", Name, false),
                ("state", Name, false),
                ("lines", Int, false),
                ("words", Int, false),
                ("rows", Int, false),
                ("committed_at", Int, false),
            ],
            (Table::Owners, ..) => vec![
                ("output", Name, true),
                ("term", Int, false),
                ("run", Name, false),
                ("owner", Text, false),
            ],
            (Table::Changelog, ..) => vec![
                ("output", Name, true),
                ("name", Name, true),
                ("piece", Int, true),
                ("content", Bytes, false),
            ],
        }
    }

    /// Returns the statement that makes a table, if it is missing. No column may be NULL.
    pub fn create(&self, table: Table) -> String {
        let columns = self.columns(table);
        let keys: Vec<_> =
            columns.iter().filter(|column| column.2).map(|column| self.quote(column.0)).collect();
        let mut lines: Vec<_> = columns
            .iter()
            .map(|(name, kind, _)| format!("{} {} NOT NULL", self.quote(name), self.type_of(*kind)))
            .collect();
        lines.push(format!("PRIMARY KEY ({})", keys.join(", ")));
        let (name, end) = (self.quoted(table), self.table_options());
        format!("CREATE TABLE IF NOT EXISTS {name} ({}){end}", lines.join(", "))
    }

    /// Returns the statements that every session of an upsert runs: they make the table of the
    /// session that takes the rows of an epoch. A session that only appends needs none.
    pub fn setup(&self) -> Vec<String> {
        if self.write == WriteMode::Append {
            return Vec::new();
        }
        let (word, key) = (self.type_of(ColumnKind::Word), self.type_of(ColumnKind::Key));
        let columns = self.sql(&format!(
            "(\"word\" {word} NOT NULL, \"word_key\" {key} NOT NULL PRIMARY KEY, \
             \"count\" BIGINT NOT NULL)"
        ));
        let name = self.quote(STAGING);
        let end = match self.kind {
            // A temporary table is never vacuumed by the server.
            DatabaseKind::Postgres => " ON COMMIT DELETE ROWS",
            _ => self.table_options(),
        };
        vec![format!("CREATE TEMPORARY TABLE {name} {columns}{end}")]
    }

    /// Returns the statements that make the table hold the staged rows. `changes` is set if the
    /// rows are only those that differ from the ones in the table; else rows without a staged one
    /// are deleted. A row whose count is the same keeps its epoch and is not written.
    pub fn merge(&self, epoch: u64, changes: bool) -> Vec<String> {
        let delete = match self.kind {
            DatabaseKind::Mysql => {
                "DELETE r FROM {rows} AS r LEFT JOIN {staging} AS s ON s.\"word_key\" = \
                 r.\"word_key\" WHERE s.\"word_key\" IS NULL"
            }
            _ => {
                "DELETE FROM {rows} AS r WHERE NOT EXISTS (SELECT 1 FROM {staging} AS s WHERE \
                 s.\"word_key\" = r.\"word_key\")"
            }
        };
        let insert = match self.kind {
            // The assignments are made in their order, so `epoch` sees the old count.
            DatabaseKind::Mysql => format!(
                "INSERT INTO {{rows}} (\"epoch\", \"word\", \"word_key\", \"count\") SELECT \
                 {epoch}, s.\"word\", s.\"word_key\", s.\"count\" FROM {{staging}} AS s ON \
                 DUPLICATE KEY UPDATE \"epoch\" = IF({{rows}}.\"count\" <> s.\"count\", {epoch}, \
                 {{rows}}.\"epoch\"), \"count\" = s.\"count\""
            ),
            _ => format!(
                "INSERT INTO {{rows}} AS r (\"epoch\", \"word\", \"word_key\", \"count\") SELECT \
                 {epoch}, \"word\", \"word_key\", \"count\" FROM {{staging}} WHERE true ON \
                 CONFLICT (\"word_key\") DO UPDATE SET \"epoch\" = excluded.\"epoch\", \"count\" = \
                 excluded.\"count\" WHERE r.\"count\" <> excluded.\"count\""
            ),
        };
        let clear = "DELETE FROM {staging}".to_owned();
        let delete = (!changes).then(|| delete.to_owned());
        delete.into_iter().chain([insert, clear]).map(|template| self.sql(&template)).collect()
    }

    /// Returns statements that change nothing and fail if the user may not do what the program
    /// does with a table, or if the database is read-only.
    pub fn trials(&self, table: Table) -> Vec<String> {
        let columns = self.columns(table);
        let names: Vec<_> = columns.iter().map(|column| self.quote(column.0)).collect();
        let (name, list, first) = (self.quoted(table), names.join(", "), &names[0]);
        let insert = format!("INSERT INTO {name} ({list}) SELECT {list} FROM {name} WHERE 1 = 0");
        let update = format!("UPDATE {name} SET {first} = {first} WHERE 1 = 0");
        let delete = format!("DELETE FROM {name} WHERE 1 = 0");
        match (table, self.write) {
            (Table::Owners, _) => vec![insert, update],
            (Table::Changelog, _) => vec![insert, delete],
            (Table::Rows, WriteMode::Upsert) => vec![insert, update, delete],
            (Table::Epochs | Table::Rows, _) => vec![insert],
        }
    }

    /// Returns the query for the columns of a table: name, type and place in the primary key. Its
    /// one parameter is [`Tables::described`].
    pub fn describe_query(&self) -> &'static str {
        match self.kind {
            DatabaseKind::Sqlite => {
                "SELECT name, lower(type), pk FROM pragma_table_info(?, 'main')"
            }
            DatabaseKind::Postgres => {
                "SELECT a.attname::text, format_type(a.atttypid, NULL)::text, \
                 coalesce(array_position(i.indkey::int2[], a.attnum) + 1, 0)::bigint FROM \
                 pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND \
                 i.indisprimary WHERE a.attrelid = to_regclass($1)::oid AND a.attnum > 0 AND NOT \
                 a.attisdropped ORDER BY a.attnum"
            }
            DatabaseKind::Mysql => {
                "SELECT c.column_name, lower(c.data_type), coalesce(k.ordinal_position, 0) FROM \
                 information_schema.columns c LEFT JOIN information_schema.key_column_usage k ON \
                 k.table_schema = c.table_schema AND k.table_name = c.table_name AND \
                 k.column_name = c.column_name AND k.constraint_name = 'PRIMARY' WHERE \
                 c.table_schema = DATABASE() AND c.table_name = ? ORDER BY c.ordinal_position"
            }
        }
    }

    /// Returns the parameter of [`Tables::describe_query`] for a table.
    pub fn described(&self, table: Table) -> String {
        match self.kind {
            DatabaseKind::Postgres => self.quoted(table),
            _ => self.name(table).to_owned(),
        }
    }

    /// Compares the columns that a table has, with types and places in the primary key, with those
    /// that it should have. Returns the difference as a fragment of a sentence.
    pub fn difference(&self, table: Table, found: &[(String, String, i64)]) -> Option<String> {
        let columns = self.columns(table);
        let has = |column: &Column| {
            let found = found.iter().find(|found| found.0 == column.0)?;
            let is_key = (found.2 > 0) == column.2;
            Some((self.accepts(column.1, &found.1), is_key))
        };
        let listed = || found.iter().map(|found| found.0.as_str()).collect::<Vec<_>>().join(", ");
        if found.len() != columns.len() || columns.iter().any(|column| has(column).is_none()) {
            return Some(format!("it has the columns {}", listed()));
        }
        if let Some(column) = columns.iter().find(|column| has(column).is_some_and(|has| !has.0)) {
            return Some(format!("its column {} has another type", column.0));
        }
        if columns.iter().all(|column| has(column).is_some_and(|has| has.1)) {
            return None;
        }
        Some(match (table, self.write) {
            (Table::Rows, WriteMode::Upsert) => "it was made by --write append".to_owned(),
            (Table::Rows, WriteMode::Append) if self.rows == RowKind::Counts => {
                "it was made by --write upsert".to_owned()
            }
            _ => "it has another primary key".to_owned(),
        })
    }

    /// Returns the type of a column. A word is bytes in MySQL, whose texts compare by a collation.
    fn type_of(&self, kind: ColumnKind) -> &'static str {
        use ColumnKind::{Bytes, Int, Key, Name, Text, Word};
        match (self.kind, kind) {
            (_, Int) => "BIGINT",
            (DatabaseKind::Sqlite, Name | Text | Word) => "TEXT",
            (DatabaseKind::Sqlite, Key | Bytes) => "BLOB",
            (DatabaseKind::Postgres, Name | Text | Word) => "TEXT",
            (DatabaseKind::Postgres, Key | Bytes) => "BYTEA",
            (DatabaseKind::Mysql, Name) => "VARCHAR(160) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            (DatabaseKind::Mysql, Text) => "TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            (DatabaseKind::Mysql, Key) => "BINARY(32)",
            (DatabaseKind::Mysql, Word | Bytes) => "LONGBLOB",
        }
    }

    /// Returns true if a column of the type `found` can be used as one of `kind`: a user may have
    /// made the table with a type of another name that holds the same values.
    fn accepts(&self, kind: ColumnKind, found: &str) -> bool {
        use ColumnKind::{Bytes, Int, Key, Name, Text, Word};
        let names: &[&str] = match (self.kind, kind) {
            (DatabaseKind::Sqlite, Int) => &["bigint", "integer", "int"],
            (_, Int) => &["bigint"],
            (DatabaseKind::Sqlite, Name | Text | Word) => &["text", "varchar"],
            (DatabaseKind::Sqlite, Key | Bytes) => &["blob"],
            (DatabaseKind::Postgres, Name | Text | Word) => &["text", "character varying"],
            (DatabaseKind::Postgres, Key | Bytes) => &["bytea"],
            (DatabaseKind::Mysql, Name | Text) => &["varchar", "text", "longtext"],
            (DatabaseKind::Mysql, Key) => &["binary", "varbinary"],
            (DatabaseKind::Mysql, Word | Bytes) => &["longblob", "mediumblob"],
        };
        names.contains(&found)
    }

    /// Returns what stands after the columns of a table.
    fn table_options(&self) -> &'static str {
        match self.kind {
            // The rows stand in the primary key itself, in its order.
            DatabaseKind::Sqlite => " WITHOUT ROWID",
            DatabaseKind::Postgres => "",
            DatabaseKind::Mysql => " ENGINE=InnoDB ROW_FORMAT=DYNAMIC",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Target;

    fn tables(to: &str, write: WriteMode) -> Tables {
        match Target::parse(to).expect("a target") {
            Target::Database(target) => Tables::new(&target, RowKind::Counts, write),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn statements_follow_the_dialect() {
        let template = "SELECT \"rows\" FROM {epochs} WHERE \"output\" = ? AND \"epoch\" > ?{lock}";
        let sql = |to| tables(to, WriteMode::Append).sql(template);
        assert_eq!(
            sql("sqlite:x"),
            "SELECT \"rows\" FROM main.\"wordtide_epochs\" WHERE \"output\" = ? AND \"epoch\" > ?"
        );
        assert_eq!(
            sql("postgres://h/d?schema=a%22b"),
            "SELECT \"rows\" FROM \"a\"\"b\".\"wordtide_epochs\" WHERE \"output\" = $1 AND \
             \"epoch\" > $2 FOR UPDATE"
        );
        assert_eq!(
            sql("mysql://h/d"),
            "SELECT `rows` FROM `wordtide_epochs` WHERE `output` = ? AND `epoch` > ? FOR UPDATE"
        );
    }

    #[test]
    fn names_with_marks_stay_names() {
        let odd = tables("postgres://h/d?table=%7Brows%7D%3F%22", WriteMode::Append);
        assert_eq!(odd.sql("FROM {rows} WHERE ?"), "FROM \"{rows}?\"\"\" WHERE $1");
    }

    #[test]
    fn foreign_tables_differ() {
        let append = tables("sqlite:x", WriteMode::Append);
        let column = |name: &str, kind: &str, key| (name.to_owned(), kind.to_owned(), key);
        let mut found = vec![
            column("epoch", "bigint", 1),
            column("word", "text", 0),
            column("word_key", "blob", 2),
            column("count", "bigint", 0),
        ];
        assert_eq!(append.difference(Table::Rows, &found), None);
        let upsert = tables("sqlite:x", WriteMode::Upsert);
        let difference = upsert.difference(Table::Rows, &found).expect("a difference");
        assert!(difference.contains("--write append"), "{difference}");
        found[3].1 = "text".to_owned();
        assert!(append.difference(Table::Rows, &found).is_some());
        found.pop();
        assert!(append.difference(Table::Rows, &found).is_some());
    }
}
