//! Figures as rows in JSON Lines and CSV. Each row has the machine and the build, for comparisons.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::super::failed;
use crate::error::{Error, ErrorKind, Result};

/// The columns of the CSV file, which are the names in the objects.
const COLUMNS: &[&str] = &[
    "cpu",
    "cores",
    "kernel",
    "version",
    "build",
    "time",
    "scratch",
    "kind",
    "corpus",
    "program",
    "interval",
    "extra",
    "mib",
    "rounds",
    "words",
    "distinct",
    "mwords_per_s",
    "mwords_per_s_least",
    "mwords_per_s_most",
    "mb_per_s",
    "times_reference_sync",
    "times_reference_sync_least",
    "times_reference_sync_most",
    "times_no_state",
    "times_no_state_least",
    "times_no_state_most",
    "user_ns_per_word",
    "system_ns_per_word",
    "stolen_ns_per_word",
    "minor_faults",
    "disk_mb",
    "peak_rss_mib",
    "epochs",
    "count_ms_p50",
    "write_ms_p50",
    "commit_ms_p50",
    "marker_ms_p50",
    "marker_ms_p90",
    "marker_ms_p99",
    "marker_ms_max",
    "words_per_s_due",
    "words_per_s_kept",
    "seconds",
    "cores_used",
    "line_ms_p50",
    "line_ms_p90",
    "line_ms_p99",
    "line_ms_max",
    "sync_ms_p50",
    "sync_ms_p99",
];

/// The name of the page beside the rows.
pub const PAGE: &str = "report.html";

/// The kind of this build: figures of a debug build say nothing of the program.
pub const BUILD: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// The fields of one row. One without a figure is `null`.
pub type Fields = Map<String, Value>;

/// The files of rows, if a folder was named.
#[derive(Debug)]
pub struct RowFiles {
    /// The JSON Lines and the CSV; `None` without `--report`.
    files: Option<(File, File)>,
    /// The folder of the report.
    dir: PathBuf,
    /// The machine and the build, which each row has.
    machine: Fields,
}

impl RowFiles {
    /// Creates the files in `dir` and replaces those that are there. A page that is there is
    /// removed: it belongs to the rows of another bench.
    ///
    /// # Errors
    ///
    /// `Configuration` if they cannot be created.
    pub fn create(dir: Option<&Path>, machine: Fields) -> Result<RowFiles> {
        let Some(dir) = dir else {
            return Ok(RowFiles { files: None, dir: PathBuf::new(), machine });
        };
        let files = begin(dir).map_err(|error| {
            let message = format!("cannot write rows to {}: {error}", dir.display());
            Error::new(ErrorKind::Configuration, message)
                .hint("give --report a folder in which these files can be written")
                .cause(error)
        })?;
        Ok(RowFiles { files: Some(files), dir: dir.to_owned(), machine })
    }

    /// Returns the path of a file beside those of the rows, if there are any.
    pub fn beside(&self, name: &str) -> Option<PathBuf> {
        self.files.is_some().then(|| self.dir.join(name))
    }

    /// Returns the facts that each row has.
    pub fn machine(&self) -> &Fields {
        &self.machine
    }

    /// Writes one row.
    ///
    /// # Errors
    ///
    /// `Failed` if it cannot be written.
    pub fn row(&mut self, row: Fields) -> Result<()> {
        debug_assert!(row.keys().all(|key| COLUMNS.contains(&key.as_str())), "{row:?}");
        let Some((json, csv)) = &mut self.files else { return Ok(()) };
        let mut all = self.machine.clone();
        all.extend(row);
        let fields: Vec<String> =
            COLUMNS.iter().map(|name| all.get(*name).map(field).unwrap_or_default()).collect();
        let cannot = |error: io::Error| failed("cannot write a row of the report", error);
        writeln!(csv, "{}", fields.join(",")).map_err(cannot)?;
        writeln!(json, "{}", Value::Object(all)).map_err(cannot)
    }
}

/// Returns the files of the rows, JSON Lines and CSV, without rows.
///
/// All files are opened before any is emptied: a bench that cannot begin leaves the report of an
/// earlier one, and no file of its own.
fn begin(dir: &Path) -> io::Result<(File, File)> {
    fs::create_dir_all(dir)?;
    let paths = [PAGE, "rows.jsonl", "rows.csv"].map(|name| dir.join(name));
    let absent = paths.clone().map(|path| path.symlink_metadata().is_err());
    let opened = open_all(&paths).inspect_err(|_| {
        for (path, _) in paths.iter().zip(absent).filter(|(_, absent)| *absent) {
            // One that was not made needs no removal.
            let _ = fs::remove_file(path);
        }
    });
    let (json, mut csv) = opened?;
    fs::remove_file(&paths[0])?;
    json.set_len(0)?;
    csv.set_len(0)?;
    writeln!(csv, "{}", COLUMNS.join(","))?;
    Ok((json, csv))
}

/// Opens the page and the files of the rows, which are returned, and empties none.
fn open_all([page, json, csv]: &[PathBuf; 3]) -> io::Result<(File, File)> {
    let open = |path: &PathBuf| {
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        opened.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    open(page)?;
    Ok((open(json)?, open(csv)?))
}

/// Returns a value as a field of a CSV line.
fn field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        other => other.to_string(),
    }
}

/// Returns a figure with four digits after the point, or `null` where there is none.
pub fn figure(value: impl Into<Option<f64>>) -> Value {
    let value: Option<f64> = value.into();
    value.map_or(Value::Null, |value| json!((value * 1e4).round() / 1e4))
}

/// Returns what is known of the machine and the build.
pub fn machine(scratch: &str, now: String) -> Fields {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().ok().map(usize::from);
    let facts = [
        ("cpu", json!(model.map(|(_, model)| model))),
        ("cores", json!(cores)),
        ("kernel", json!(kernel.trim())),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("build", json!(BUILD)),
        ("time", json!(now)),
        ("scratch", json!(scratch)),
    ];
    facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_every_column_in_both_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut files =
            RowFiles::create(Some(dir.path()), machine("disk", "now".to_owned())).expect("files");
        let row = json!({"corpus": "a \"b\", c", "words": 3, "mib": null});
        let Value::Object(row) = row else { panic!("an object") };
        files.row(row).expect("a row");
        let csv = fs::read_to_string(dir.path().join("rows.csv")).expect("rows");
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].split(',').count(), COLUMNS.len());
        assert!(lines[1].contains(",\"a \"\"b\"\", c\",") && lines[1].contains(",3,"), "{csv}");
        let jsonl =
            fs::read_to_string(files.beside("rows.jsonl").expect("a folder")).expect("rows");
        let row: Value = serde_json::from_str(&jsonl).expect("an object");
        assert_eq!((&row["words"], &row["kind"]), (&json!(3), &Value::Null));
    }

    #[test]
    fn refused_folder_keeps_earlier_rows() {
        let dir = tempfile::tempdir().expect("a directory");
        let create = || RowFiles::create(Some(dir.path()), Fields::new());
        fs::write(dir.path().join("rows.csv"), "earlier").expect("rows");
        fs::create_dir(dir.path().join(PAGE)).expect("a folder");
        let error = create().expect_err("no page can be written");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("--report") && error.to_string().contains(PAGE));
        let rows = || fs::read_to_string(dir.path().join("rows.csv")).expect("rows");
        assert_eq!(rows(), "earlier");
        assert!(!dir.path().join("rows.jsonl").exists(), "nothing is left");

        fs::remove_dir(dir.path().join(PAGE)).expect("a folder");
        fs::write(dir.path().join(PAGE), "earlier").expect("a page");
        create().expect("files");
        assert_eq!(rows(), format!("{}\n", COLUMNS.join(",")));
        assert!(!dir.path().join(PAGE).exists(), "the page was of other rows");
    }

    #[test]
    fn figures_that_are_none_are_null() {
        assert_eq!(figure(None), Value::Null);
        assert_eq!(figure(f64::NAN), Value::Null);
        assert_eq!(figure(1.234_56), json!(1.2346));
    }
}
