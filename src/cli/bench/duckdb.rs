//! DuckDB, which counts the words of a file in one batch: an answer to how fast others are.

use std::path::Path;
use std::process::{Command, Stdio};

/// The statement of the Python module that takes the place of the command line.
const IN_PYTHON: &str = "import duckdb, sys; duckdb.connect().execute(sys.argv[1])";

/// Returns true if a program of this name can be run.
pub fn has(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns true if DuckDB is installed: its command line, or its module for Python.
pub fn is_installed() -> bool {
    has_command_line() || has("python3", &["-c", "import duckdb"])
}

fn has_command_line() -> bool {
    has("duckdb", &["--version"])
}

/// Returns the command that counts the words of `text` and writes them to `out`. What does not fit
/// into memory goes below `dir`.
pub fn command(threads: usize, text: &Path, out: &Path, dir: &Path) -> Command {
    let sql = statement(threads, text, out, dir);
    let mut command = if has_command_line() {
        let mut command = Command::new("duckdb");
        command.arg("-c");
        command
    } else {
        let mut command = Command::new("python3");
        command.args(["-c", IN_PYTHON]);
        command
    };
    command.arg(sql).stdin(Stdio::null());
    command
}

/// The statement: a line is one column, because no byte of a text is the one that separates columns
/// here.
fn statement(threads: usize, text: &Path, out: &Path, dir: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "''"));
    let (text, out, dir) = (quoted(text), quoted(out), quoted(dir));
    let form = "header = false, auto_detect = false, delim = '\x01', quote = '', escape = '', \
                nullstr = '\x02', max_line_size = 20000000";
    format!(
        "SET threads = {threads}; SET temp_directory = {dir}; \
         SET preserve_insertion_order = false; \
         COPY (SELECT word, count(*) FROM (SELECT unnest(string_split(line, ' ')) AS word \
         FROM read_csv({text}, columns = {{'line': 'VARCHAR'}}, {form})) GROUP BY word) \
         TO {out} (FORMAT csv, HEADER false, DELIMITER '\t', QUOTE '', ESCAPE '');"
    )
}
