//! Figures as rows in JSON Lines and CSV. Each row has the machine and the build, for comparisons.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use super::Result;
use super::flags::Flags;
use super::measure::{Program, Run};
use super::truth::Truth;

pub(crate) struct Report {
    dir: PathBuf,
    json: File,
    csv: File,
    /// The columns of the last header in the CSV file.
    columns: Option<Vec<String>>,
    machine: Map<String, Value>,
}

impl Report {
    /// Creates the files for rows in `dir` and replaces those that are there.
    pub(crate) fn create(dir: &Path) -> Result<Report> {
        fs::create_dir_all(dir)?;
        Ok(Report {
            dir: dir.to_owned(),
            json: File::create(dir.join("rows.jsonl"))?,
            csv: File::create(dir.join("rows.csv"))?,
            columns: None,
            machine: machine(),
        })
    }

    pub(crate) fn place(&self) -> std::path::Display<'_> {
        self.dir.display()
    }

    /// Writes a row with the medians of some runs of one program.
    pub(crate) fn throughput(
        &mut self,
        corpus: &str,
        program: Program,
        flags: &Flags,
        truth: &Truth,
        runs: &[Run],
    ) -> Result<()> {
        let figure = |of: &dyn Fn(&Run) -> f64| median(runs.iter().map(of));
        let mut commits: Vec<u64> = runs.iter().flat_map(|run| run.commit_ms.clone()).collect();
        commits.sort_unstable();
        let at = |share: f64| {
            let last = commits.len().checked_sub(1)?;
            commits.get((last as f64 * share).ceil() as usize).copied()
        };
        let row = json!({
            "corpus": corpus,
            "program": program.to_string(),
            "interval": flags.interval,
            "extra": flags.extra.join(" "),
            "rounds": runs.len(),
            "words": truth.words,
            "distinct": truth.rows,
            "mwords_per_s": figure(&|run| run.words_per_second() / 1e6),
            "mb_per_s": figure(&|run| run.bytes as f64 / run.seconds / 1e6),
            "cpu_ns_per_word": figure(&Run::cpu_ns_per_word),
            "system_ns_per_word": figure(&|run| run.system_seconds * 1e9 / run.words as f64),
            "minor_faults": figure(&|run| run.minor_faults as f64),
            "disk_mb": figure(&|run| run.disk_bytes as f64 / 1e6),
            "stolen_ns_per_word": figure(&Run::stolen_ns_per_word),
            "peak_rss_mib": figure(&|run| run.peak_rss_kib as f64 / 1024.0),
            "commit_ms_p50": at(0.5),
            "commit_ms_p99": at(0.99),
            "commit_ms_max": at(1.0),
        });
        println!(
            "{corpus:12} {program:24} {:7.2} M words/s {:7.1} MB/s {:7.1} CPU ns/word \
             ({:.1} system) {:5.1} stolen {:6.0} MiB {:8} faults {:6.0} MB to disk  commit \
             p50 {} p99 {} max {} ms",
            figure(&|run| run.words_per_second() / 1e6),
            figure(&|run| run.bytes as f64 / run.seconds / 1e6),
            figure(&Run::cpu_ns_per_word),
            figure(&|run| run.system_seconds * 1e9 / run.words as f64),
            figure(&Run::stolen_ns_per_word),
            figure(&|run| run.peak_rss_kib as f64 / 1024.0),
            figure(&|run| run.minor_faults as f64),
            figure(&|run| run.disk_bytes as f64 / 1e6),
            row["commit_ms_p50"],
            row["commit_ms_p99"],
            row["commit_ms_max"],
            program = program.to_string(),
        );
        self.row(row)
    }

    /// Writes one row, and adds the machine and the build.
    pub(crate) fn row(&mut self, row: Value) -> Result<()> {
        let mut all = self.machine.clone();
        if let Value::Object(row) = row {
            all.extend(row);
        }
        let columns: Vec<String> = all.keys().cloned().collect();
        if self.columns.as_ref() != Some(&columns) {
            writeln!(self.csv, "{}", columns.join(","))?;
            self.columns = Some(columns);
        }
        let fields: Vec<String> = all.values().map(field).collect();
        writeln!(self.csv, "{}", fields.join(","))?;
        writeln!(self.json, "{}", Value::Object(all))?;
        Ok(())
    }
}

/// Returns a value as a field of a CSV line.
fn field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        other => other.to_string(),
    }
}

/// Returns the median of some figures.
pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn machine() -> Map<String, Value> {
    let output_of = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let facts = [
        ("cpu", model.map(|(_, model)| model.to_owned())),
        ("cores", std::thread::available_parallelism().ok().map(|cores| cores.to_string())),
        ("kernel", Some(kernel.trim().to_owned())),
        ("rustc", output_of("rustc", &["--version"])),
        ("version", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("git", output_of("git", &["describe", "--always", "--dirty"])),
    ];
    facts.into_iter().map(|(name, fact)| (name.to_owned(), json!(fact))).collect()
}
