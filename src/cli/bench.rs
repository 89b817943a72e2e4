//! `wordtide bench`: how fast the program is on this machine, beside what it has to beat.
//!
//! `suites` has the runs that the flags ask for, `further_flags` those that a run may get. Each
//! text (`texts`) is served on a loopback socket (`line_sender`) to one program after the other
//! (`programs`). Each is a child that is measured (`measured_child`) by its `child_log`, within its
//! `run_limits`, in a folder of its own (`scratch_folder`). `throughput_runs` runs all of them in
//! turn, `latency_runs` runs them by the clock. Every run's output (`committed_epochs`) is read
//! back and compared with counts made by the simplest code there is (`check_counts`); a wrong count
//! ends the bench. `row_files` and `html_report` keep the figures, `svg_plot` draws them,
//! `run_progress` follows the runs on a terminal.
//!
//! The programs beside this one are played by itself, so that all are processes of their own and
//! measured alike: `reference_program` and `naive_program`. `duckdb` runs DuckDB, if it is
//! installed.

mod check_counts;
mod child_log;
mod committed_epochs;
mod duckdb;
mod further_flags;
mod html_report;
mod latency_runs;
mod line_sender;
mod measured_child;
mod naive_program;
mod programs;
mod quantiles;
mod reference_program;
mod row_files;
mod run_limits;
mod run_progress;
mod scratch_folder;
mod suites;
mod svg_plot;
mod texts;
mod throughput_runs;

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use super::flags::BenchFlags;
use super::{failed, print, stderr};
use crate::epoch::SystemClock;
use crate::error::{Error, ErrorKind, Result};

use html_report::BenchReport;
use programs::{BenchProgram, ROLE_NAME};
use row_files::RowFiles;
use run_progress::Following;
use scratch_folder::Scratch;
use suites::Suite;
use texts::BenchText;

/// Runs `wordtide bench`.
///
/// # Errors
///
/// `Usage` and `Configuration` before anything is measured, `Failed` for a program that fails or a
/// wrong count.
pub fn run(flags: &BenchFlags) -> Result<u8> {
    if let (Some(role), [port, out]) = (std::env::var_os(ROLE_NAME), flags.extra.as_slice()) {
        let (role, port) = (role.to_string_lossy(), port.to_string_lossy());
        return play(&role, &port, Path::new(out), flags.interval).map(|()| 0);
    }
    let mut suites = suites::asked(flags)?;
    for (choice, mib) in
        suites.iter().flat_map(|suite| suite.texts.iter().map(|it| (it, suite.mib)))
    {
        BenchText::check(choice, mib)?;
    }
    let scratch = Scratch::create(flags.scratch.as_deref(), flags.report.is_some())?;
    let place = if scratch.is_in_memory() { "memory (tmpfs)" } else { "a disk" };
    if scratch.is_in_memory() {
        warn("the folder to work in is in memory: syncs cost nothing; give --scratch a disk");
    }
    if row_files::BUILD == "debug" {
        warn("this is a debug build: its figures say nothing of the program");
    }
    let mut files = RowFiles::create(flags.report.as_deref(), row_files::machine(place, now()))?;
    leave_out_absent(&mut suites);
    let runs = suites.iter().map(|suite| suite.runs() * suite.texts.len()).sum();
    let mut following = Following::new(runs);
    let mut report = BenchReport::default();
    for suite in &suites {
        for choice in &suite.texts {
            following.step(&format!("making {}", choice.name()));
            let text = BenchText::load(choice, suite.mib, suite.seed)?;
            measure(suite, &text, &scratch, &mut following, &mut report, &mut files)?;
        }
    }
    following.clear();
    if let Some(page) = files.beside(row_files::PAGE) {
        print(format!("{} has all figures\n", page.display()).as_bytes())?;
    }
    Ok(0)
}

/// Plays one of the programs that this one is held against.
fn play(role: &str, port: &str, out: &Path, interval: Duration) -> Result<()> {
    let port = port.parse::<u16>().map_err(|_| unknown_role(role))?;
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port));
        stream.map_err(|error| failed("cannot connect to the bench", error))
    };
    match role {
        "reference" => reference_program::count(connect()?, out, interval, false),
        "reference-sync" => reference_program::count(connect()?, out, interval, true),
        "naive" => naive_program::count(connect()?, out),
        _ => Err(unknown_role(role)),
    }
}

fn unknown_role(role: &str) -> Error {
    let message = format!("no program is called {role}, or its port is none");
    Error::new(ErrorKind::Usage, message).hint(format!("{ROLE_NAME} is for the bench itself"))
}

/// Runs a suite on one text: prints, keeps and draws its figures.
fn measure(
    suite: &Suite,
    text: &BenchText,
    scratch: &Scratch,
    following: &mut Following,
    report: &mut BenchReport,
    files: &mut RowFiles,
) -> Result<()> {
    let (truth, name) = (text.truth(), &text.name);
    let (mib, words, distinct) = (text.mib(), truth.words, truth.rows);
    let interval = super::parse_values::show(suite.interval);
    following.clear();
    let head =
        format!("{name}: {mib} MiB, {words} words, {distinct} distinct, epochs of {interval}\n");
    print(head.as_bytes())?;
    following.leave_out(suite.unsuited_runs(text));
    if let Some(reason) = text.unsuited_to_duckdb()
        && suite.programs.iter().any(|program| !program.suits(text))
    {
        warn(&format!("DuckDB is left out of {name}: {reason}"));
    }
    if suite.rounds > 0 {
        let runs = throughput_runs::run(suite, text, scratch, following)?;
        following.clear();
        let mut table = format!("{}\n", throughput_runs::heading());
        for program in &runs.programs {
            table.push_str(&runs.line(program));
            table.push('\n');
            files.row(runs.row(program))?;
        }
        let cost = runs.cost_line().map(|line| format!("{line}\n")).unwrap_or_default();
        print(format!("{table}{cost}").as_bytes())?;
        report.texts.push(runs);
    }
    for program in suite.paced() {
        let paced = latency_runs::run(program, suite, text, scratch, following)?;
        following.clear();
        print(format!("{}\n", paced.line()).as_bytes())?;
        files.row(paced.row())?;
        report.paced.push(paced);
    }
    match files.beside(row_files::PAGE) {
        Some(page) => report.write(&page, files.machine()),
        None => Ok(()),
    }
}

/// Removes the programs that are not installed, and says so.
fn leave_out_absent(suites: &mut [Suite]) {
    let asks = |suites: &[Suite], is: fn(&BenchProgram) -> bool| {
        suites.iter().any(|suite| suite.programs.iter().any(is))
    };
    let is_duckdb = |program: &BenchProgram| matches!(program, BenchProgram::DuckDb { .. });
    let is_wc = |program: &BenchProgram| *program == BenchProgram::Wc;
    if asks(suites, is_duckdb) && !duckdb::is_installed() {
        warn("DuckDB is not installed: it is left out");
        suites.iter_mut().for_each(|suite| suite.programs.retain(|it| !is_duckdb(it)));
    }
    if asks(suites, is_wc) && !duckdb::has("wc", &["-w"]) {
        warn("wc is not installed: it is left out");
        suites.iter_mut().for_each(|suite| suite.programs.retain(|it| !is_wc(it)));
    }
}

fn warn(text: &str) {
    stderr::line(format!("wordtide: warning: {text}"));
}

/// Returns the time of now as it is written in UTC.
fn now() -> String {
    let now = i64::try_from(SystemClock::shared().wall_ms()).unwrap_or(i64::MAX);
    let now = jiff::Timestamp::from_millisecond(now).unwrap_or_default();
    now.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
