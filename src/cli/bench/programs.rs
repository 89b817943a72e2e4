//! The programs that a bench runs, and their commands.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::super::{failed, parse_values};
use super::check_counts::{Truth, printed_number};
use super::committed_epochs;
use super::duckdb;
use super::texts::BenchText;
use crate::error::{Error, ErrorKind, Result};

/// Bytes of the text that the naive program counts.
const NAIVE_BYTES_MAX: usize = 16 << 20;

/// The environment variable with the program that this one plays for a bench. Port and output are
/// its further flags.
pub const ROLE_NAME: &str = "WORDTIDE_BENCH_ROLE";

/// A program to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchProgram {
    /// This program.
    Wordtide(RunShape),
    /// One thread that writes as often as epochs end; with `syncs`, its rows are durable before it
    /// goes on.
    Reference { syncs: bool },
    /// The obvious differential program.
    Naive,
    /// `wc -w`, from a file.
    Wc,
    /// DuckDB, from a file.
    DuckDb { threads: usize },
}

/// The shape of a run of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunShape {
    /// Threads of each process.
    pub threads: usize,
    /// Processes.
    pub processes: usize,
    /// True for a run that keeps a journal.
    pub journal: bool,
    /// The definition.
    pub result: BenchResult,
}

/// The definition that a run publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchResult {
    /// The counts of each epoch.
    Counts,
    /// All totals in each epoch.
    Totals,
    /// The totals that an epoch has changed.
    Changes,
}

impl RunShape {
    /// Returns the shape with one process and no journal that counts each epoch.
    pub fn plain(threads: usize) -> RunShape {
        RunShape { threads, processes: 1, journal: false, result: BenchResult::Counts }
    }
}

impl fmt::Display for RunShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.result {
            BenchResult::Counts => "wordtide",
            BenchResult::Totals => "running_totals",
            BenchResult::Changes => "running_totals --emit changes",
        })?;
        if self.processes > 1 {
            write!(f, " -n {}", self.processes)?;
        }
        write!(f, " -w {}", self.threads)?;
        f.write_str(if self.journal { " --state" } else { "" })
    }
}

impl fmt::Display for BenchProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BenchProgram::Wordtide(shape) => write!(f, "{shape}"),
            BenchProgram::Reference { syncs: false } => f.write_str("reference"),
            BenchProgram::Reference { syncs: true } => f.write_str("reference-sync"),
            BenchProgram::Naive => f.write_str("naive"),
            BenchProgram::Wc => f.write_str("wc -w"),
            BenchProgram::DuckDb { threads: 1 } => f.write_str("DuckDB, 1 thread"),
            BenchProgram::DuckDb { threads } => write!(f, "DuckDB, {threads} threads"),
        }
    }
}

/// The places and settings of one run.
#[derive(Debug)]
pub struct RunSite<'a> {
    /// The port at which lines are served.
    pub port: u16,
    /// The folder of the run.
    pub dir: &'a Path,
    /// The text as a file, for programs that read one.
    pub text_file: PathBuf,
    /// `--interval`.
    pub interval: Duration,
    /// Further flags of this program.
    pub extra: &'a [OsString],
}

impl BenchProgram {
    /// Returns true if the program reads a file. The others read a socket.
    pub fn reads_file(self) -> bool {
        matches!(self, BenchProgram::Wc | BenchProgram::DuckDb { .. })
    }

    /// Returns true if the program counts the words of this text as the others do.
    pub fn suits(self, text: &BenchText) -> bool {
        !matches!(self, BenchProgram::DuckDb { .. }) || text.unsuited_to_duckdb().is_none()
    }

    /// Returns the number of processes, that which starts the others included.
    pub fn processes(self) -> usize {
        match self {
            BenchProgram::Wordtide(RunShape { processes, .. }) if processes > 1 => processes + 1,
            _ => 1,
        }
    }

    /// Returns the part of a text that the program counts: a batch program gets the piece once, and
    /// the naive one only the beginning.
    pub fn text(self, text: &BenchText) -> BenchText {
        match self {
            BenchProgram::Naive => text.beginning(NAIVE_BYTES_MAX),
            BenchProgram::Wc | BenchProgram::DuckDb { .. } => text.once(),
            _ => text.clone(),
        }
    }

    /// Returns the command of a run.
    ///
    /// # Errors
    ///
    /// `Failed` if the path of this program is not known.
    pub fn command(self, site: &RunSite<'_>) -> Result<Command> {
        let out = site.dir.join("out");
        let mut command = match self {
            BenchProgram::Wordtide(shape) => return run(shape, site),
            BenchProgram::Wc => {
                let file = File::create(&out);
                let file = file.map_err(|error| failed("cannot create a file", error))?;
                let mut command = Command::new("wc");
                command.arg("-w").arg(&site.text_file).env("LC_ALL", "C").stdout(file);
                return Ok(command);
            }
            BenchProgram::DuckDb { threads } => {
                duckdb::command(threads, &site.text_file, &out, site.dir)
            }
            BenchProgram::Reference { .. } | BenchProgram::Naive => {
                let mut command = own()?;
                command.args(["bench", "--interval", &parse_values::show(site.interval), "--"]);
                command.arg(site.port.to_string()).arg(&out).env(ROLE_NAME, self.to_string());
                command
            }
        };
        command.stdout(Stdio::null());
        Ok(command)
    }

    /// Checks what a run has written.
    ///
    /// # Errors
    ///
    /// `Failed` if a count is wrong, with the sums.
    pub fn check(self, site: &RunSite<'_>, text: &BenchText) -> Result<()> {
        let (out, truth) = (site.dir.join("out"), text.truth());
        let written = match self {
            BenchProgram::Wc => {
                return counted_by_wc(printed_number(&out)?, &text.words_of_wc());
            }
            BenchProgram::Wordtide(RunShape { result, .. }) => {
                let epochs = committed_epochs::epochs(&out)?;
                match result {
                    BenchResult::Counts => Truth::of_epochs(&epochs)?,
                    BenchResult::Totals => {
                        Truth::of_epochs(&epochs[epochs.len().saturating_sub(1)..])?
                    }
                    BenchResult::Changes => Truth::of_last_rows(&epochs)?,
                }
            }
            _ => Truth::of_file(&out)?,
        };
        agreed(&self.to_string(), &written, &truth)
    }
}

/// Compares the counts that a program has written with those of the text.
///
/// Fails with `Failed` if they differ, with the sums of both.
fn agreed(program: &str, written: &Truth, truth: &Truth) -> Result<()> {
    if written.agrees(truth) {
        return Ok(());
    }
    let message = format!("{program} has counted wrongly: {written:?}, and correct is {truth:?}");
    Err(Error::new(ErrorKind::Failed, message)
        .hint("please report it, with the command and the text"))
}

/// Compares the number that `wc -w` has printed with that of the text. Its words are not those of
/// the other programs where two spaces follow one another.
///
/// Fails with `Failed` if it is another.
fn counted_by_wc(words: u64, correct: &RangeInclusive<u64>) -> Result<()> {
    if correct.contains(&words) {
        return Ok(());
    }
    let (least, most) = (correct.start(), correct.end());
    let range = if least == most { format!("{least}") } else { format!("{least} to {most}") };
    let message = format!("wc -w has counted wrongly: {words} words, and correct is {range}");
    Err(Error::new(ErrorKind::Failed, message).hint("leave wc out of --beside"))
}

/// Returns the command that runs this program, without settings from the environment.
fn own() -> Result<Command> {
    let exe = std::env::current_exe();
    let exe = exe.map_err(|error| failed("the path of this program is not known", error))?;
    let mut command = Command::new(exe);
    for (name, _) in std::env::vars_os() {
        // A run must not depend on the settings of the user's own runs.
        if name.to_string_lossy().starts_with("WORDTIDE_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Returns the command of this program that counts the lines of a socket. Rows are tab-separated,
/// which the bench reads back fastest, and the log is JSON, for the times of the stages.
fn run(shape: RunShape, site: &RunSite<'_>) -> Result<Command> {
    let mut command = own()?;
    command.arg("run");
    match shape.result {
        BenchResult::Counts => command.arg("network_wordcount"),
        BenchResult::Totals => command.arg("running_totals"),
        BenchResult::Changes => command.args(["running_totals", "--emit", "changes"]),
    };
    let address = format!("127.0.0.1:{}", site.port);
    command.args(["--connect", &address, "--once", "--format", "tsv", "--log-format", "json"]);
    match shape.journal {
        true => command.arg("--state").arg(site.dir.join("state")),
        false => command.arg("--no-state"),
    };
    command.arg("--to").arg(site.dir.join("out").join("counts"));
    command.arg("--interval").arg(parse_values::show(site.interval));
    command.args(["-w", &shape.threads.to_string()]);
    if shape.processes > 1 {
        command.args(["-n", &shape.processes.to_string()]);
    }
    command.args(site.extra).stdout(Stdio::null());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_count_fails_with_both_sums() {
        let truth = Truth::of(b"the tide the\n");
        assert!(agreed("wordtide -w 1", &truth, &truth).is_ok());
        let error = agreed("wordtide -w 1", &Truth::of(b"the tide\n"), &truth).expect_err("wrong");
        assert_eq!(error.kind(), ErrorKind::Failed);
        let text = error.to_string();
        assert!(text.contains("wordtide -w 1") && text.contains("words: 3"), "{text}");
    }

    #[test]
    fn wrong_count_of_wc_fails_with_both_numbers() {
        assert!(counted_by_wc(3, &(3..=3)).is_ok() && counted_by_wc(3, &(2..=4)).is_ok());
        let error = counted_by_wc(2, &(3..=3)).expect_err("wrong");
        assert!(error.to_string().contains("2 words, and correct is 3;"), "{error}");
    }

    #[test]
    fn labels_are_what_one_types() {
        let shape = RunShape { processes: 2, journal: true, ..RunShape::plain(4) };
        assert_eq!(BenchProgram::Wordtide(shape).to_string(), "wordtide -n 2 -w 4 --state");
    }
}
