//! The report: one page of HTML with its style and its plots, which asks no host for anything.
//!
//! The page has a section for each text that was counted as fast as possible (throughput by
//! workers, stages of an epoch, a table) and one for each text that came by the clock (two
//! distributions of latencies, the stages, a table). It is written anew after each text, so that a
//! bench that is stopped leaves the figures it has.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::super::failed;
use super::child_log::StageTimes;
use super::latency_runs::PacedRun;
use super::programs::{BenchProgram, BenchResult, RunShape};
use super::quantiles::{Quantiles, median};
use super::row_files::Fields;
use super::svg_plot::{LinePlot, PlotLine, StackedBar, escaped, short, stacked_bars};
use super::throughput_runs::{ProgramRuns, TextRuns};
use crate::error::Result;

/// The style of the page, which has the colours of the plots.
const STYLE: &str = include_str!("html_report/style.css");

/// Number of colours in the style for programs.
const COLOURS: usize = 6;
/// The colour of the time or speed that programs are held against.
const BOUND: usize = 6;
/// The colour of a second one.
const OTHER_BOUND: usize = 7;

/// The shares of samples at which a distribution has ticks. The last one is the end of the plot.
const SHARES: [(f64, &str); 4] = [(0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %")];

/// All figures of a bench so far.
#[derive(Clone, Debug, Default)]
pub struct BenchReport {
    /// Runs that measured throughput.
    pub texts: Vec<TextRuns>,
    /// Runs that measured latency.
    pub paced: Vec<PacedRun>,
}

impl BenchReport {
    /// Writes the page to a file and replaces what is there.
    ///
    /// # Errors
    ///
    /// `Failed` if it cannot be written.
    pub fn write(&self, path: &Path, machine: &Fields) -> Result<()> {
        // A reader never meets half a page.
        let new = path.with_extension("html.new");
        let written = fs::write(&new, self.page(machine)).and_then(|()| fs::rename(&new, path));
        written.map_err(|error| failed(&format!("cannot write {}", path.display()), error))
    }

    /// Returns the page. `machine` has the facts of the machine and the build.
    fn page(&self, machine: &Fields) -> String {
        let mut page =
            String::from("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n");
        page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
        page.push_str("<meta name=\"color-scheme\" content=\"light dark\">\n");
        add(&mut page, format!("<title>wordtide bench</title>\n<style>\n{STYLE}</style>\n"));
        page.push_str("<h1>wordtide bench</h1>\n");
        let fact = |name: &str| match machine.get(name) {
            Some(Value::String(text)) => escaped(text),
            Some(Value::Null) | None => "unknown".to_owned(),
            Some(other) => other.to_string(),
        };
        add(
            &mut page,
            format!(
                "<p>wordtide {}, a {} build, on {}, {} cores, Linux {}, files on {}. {}. Every count was checked.</p>\n",
                fact("version"),
                fact("build"),
                fact("cpu"),
                fact("cores"),
                fact("kernel"),
                fact("scratch"),
                fact("time")
            ),
        );
        for text in &self.texts {
            add(&mut page, section_of(text));
        }
        for paced in self.paced.chunk_by(|a, b| (&a.corpus, a.rate) == (&b.corpus, b.rate)) {
            add(&mut page, section_of_paced(paced));
        }
        page
    }
}

/// Appends to a page.
fn add(page: &mut String, more: impl AsRef<str>) {
    page.write_str(more.as_ref()).expect("a text takes more text");
}

/// Returns the section of one text that was counted as fast as possible.
fn section_of(text: &TextRuns) -> String {
    let (corpus, mib) = (escaped(&text.corpus), text.mib);
    let rounds = text.programs.iter().map(|runs| runs.runs.len()).max().unwrap_or(0);
    let mut page =
        format!("<section>\n<h2>{corpus}, {mib} MiB, epochs of {}</h2>\n", text.interval);
    let runs = if rounds == 1 { "One run".to_owned() } else { format!("Medians of {rounds} runs") };
    add(&mut page, format!("<p>{runs} of each program, in turn."));
    if let Some(cost) = text.cost_line() {
        add(
            &mut page,
            format!(
                " <b>{}</b>: the smallest number of threads that are as fast as one thread \
                 without a dataflow, whose results are as durable.",
                escaped(&cost)
            ),
        );
    }
    page.push_str("</p>\n<div class=\"plots\">\n");
    if let Some(plot) = throughput_plot(text) {
        add(&mut page, figure("Throughput by workers", &plot.svg(), &plot.lines));
    }
    let stages = text.programs.iter().map(|runs| {
        (runs.program, runs.runs.iter().flat_map(|run| run.stages.clone()).collect::<Vec<_>>())
    });
    add(&mut page, stages_figure(stages));
    page.push_str("</div>\n");
    add(&mut page, table_of(text));
    page.push_str("</section>\n");
    page
}

/// Returns the plot of throughput over the number of workers, with the line of the COST; `None` if
/// no program with workers ran.
///
/// A program of one thread, such as the reference, is a dashed line across the plot.
fn throughput_plot(text: &TextRuns) -> Option<LinePlot> {
    let mut lines: Vec<(String, Vec<(usize, f64)>)> = Vec::new();
    for runs in &text.programs {
        let (name, workers) = match runs.program {
            BenchProgram::Wordtide(shape) if shape.result == BenchResult::Counts => {
                let RunShape { threads, processes, journal, .. } = shape;
                let name = if journal { "wordtide --state" } else { "wordtide" };
                let name =
                    if processes > 1 { format!("{name} -n {processes}") } else { name.into() };
                (name, threads * processes)
            }
            BenchProgram::Wordtide(RunShape { result: BenchResult::Totals, threads, .. }) => {
                ("running_totals".to_owned(), threads)
            }
            BenchProgram::DuckDb { threads } => ("DuckDB, from a file".to_owned(), threads),
            _ => continue,
        };
        let point = (workers, runs.mwords_per_s());
        match lines.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push(point),
            None => lines.push((name, vec![point])),
        }
    }
    let mut workers: Vec<usize> = lines.iter().flat_map(|line| &line.1).map(|it| it.0).collect();
    workers.sort_unstable();
    workers.dedup();
    // Positions have the same distance, so that 1, 2, 4, 8 stand apart.
    let at = |count: usize| workers.iter().position(|known| *known == count).unwrap_or(0) as f64;
    let mut plotted: Vec<PlotLine> = Vec::new();
    for (label, mut points) in lines {
        points.sort_by_key(|point| point.0);
        let points = points.into_iter().map(|(count, speed)| (at(count), speed)).collect();
        let colour = plotted.len() % COLOURS;
        plotted.push(PlotLine { label, colour, is_dashed: false, has_dots: true, points });
    }
    let bounds = [(true, "COST: reference-sync"), (false, "reference")];
    for (syncs, label) in bounds {
        let Some(runs) = text.of(BenchProgram::Reference { syncs }) else { continue };
        plotted.push(PlotLine {
            label: label.to_owned(),
            colour: if syncs { BOUND } else { OTHER_BOUND },
            is_dashed: true,
            has_dots: false,
            points: vec![(0.0, runs.mwords_per_s())],
        });
    }
    (!workers.is_empty()).then(|| LinePlot {
        label: format!("Throughput of {} by number of workers", text.corpus),
        unit: "M words/s",
        across: "workers",
        ticks: workers.iter().map(|count| (at(*count), count.to_string())).collect(),
        lines: plotted,
    })
}

/// Returns a figure with its legend, in the order of the lines.
fn figure(caption: &str, svg: &str, lines: &[PlotLine]) -> String {
    let mut page = format!("<figure><figcaption>{}</figcaption>{svg}", escaped(caption));
    page.push_str("<ul class=\"legend\">");
    for PlotLine { label, colour, is_dashed, .. } in lines {
        let dash = if *is_dashed { " dash" } else { "" };
        let label = escaped(label);
        add(&mut page, format!("<li><i class=\"key c{colour}{dash}\"></i>{label}</li>"));
    }
    page.push_str("</ul></figure>\n");
    page
}

/// Returns the figure of the stages of epochs, in milliseconds: a bar for each program, of the
/// medians of its stages. Returns nothing where no epoch ended.
fn stages_figure(programs: impl Iterator<Item = (BenchProgram, Vec<StageTimes>)>) -> String {
    /// The stages, from the end of an epoch to its marker.
    const STAGES: [&str; 3] = ["count", "write", "commit"];
    let with_epochs = programs.filter(|(_, stages)| !stages.is_empty());
    let bars: Vec<StackedBar> = with_epochs
        .map(|(program, stages)| {
            let part = |of: fn(&StageTimes) -> f64| median(stages.iter().map(of));
            let parts = vec![part(|it| it.count), part(|it| it.write), part(|it| it.commit)];
            StackedBar { label: program.to_string(), parts }
        })
        .collect();
    if bars.is_empty() {
        return String::new();
    }
    let svg = stacked_bars("Time of the stages of an epoch", "ms", &STAGES, &bars);
    let key = |(colour, stage): (usize, &&str)| PlotLine {
        label: (*stage).to_owned(),
        colour,
        is_dashed: false,
        has_dots: false,
        points: Vec::new(),
    };
    let keys: Vec<PlotLine> = STAGES.iter().enumerate().map(key).collect();
    figure("Stages of an epoch after its end, median", &svg, &keys)
}

/// Returns the table of one text. A field without a figure is empty.
fn table_of(text: &TextRuns) -> String {
    /// The heads of the columns.
    const HEADS: [&str; 11] = [
        "program",
        "M words/s",
        "MB/s",
        "times ref-sync",
        "user ns/word",
        "system ns/word",
        "stolen ns/word",
        "page faults",
        "MB to disk",
        "peak MiB",
        "marker p50, p99 ms",
    ];
    let row = |runs: &ProgramRuns| {
        let row = text.row(runs);
        let number = |name: &str| row.get(name).and_then(Value::as_f64).map(short);
        let range = |name: &str| {
            let least = number(&format!("{name}_least"))?;
            let most = number(&format!("{name}_most"))?;
            Some(format!("{} <small>{least} to {most}</small>", number(name)?))
        };
        let markers = number("marker_ms_p50").zip(number("marker_ms_p99"));
        vec![
            Some(escaped(&runs.program.to_string())),
            range("mwords_per_s"),
            number("mb_per_s"),
            range("times_reference_sync"),
            number("user_ns_per_word"),
            number("system_ns_per_word"),
            number("stolen_ns_per_word"),
            number("minor_faults"),
            number("disk_mb"),
            number("peak_rss_mib"),
            markers.map(|(p50, p99)| format!("{p50}, {p99}")),
        ]
    };
    table(&HEADS, text.programs.iter().map(row))
}

/// Returns a table with these heads and rows, whose fields are HTML.
fn table(heads: &[&str], rows: impl Iterator<Item = Vec<Option<String>>>) -> String {
    let mut page = String::from("<div class=\"table\"><table>\n<tr>");
    heads.iter().for_each(|head| add(&mut page, format!("<th>{head}</th>")));
    page.push_str("</tr>\n");
    for row in rows {
        page.push_str("<tr>");
        for field in row {
            add(&mut page, format!("<td>{}</td>", field.unwrap_or_default()));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
    page
}

/// Returns the section of one text that came by the clock, at one rate.
fn section_of_paced(paced: &[PacedRun]) -> String {
    let Some(first) = paced.first() else { return String::new() };
    let mut page = format!(
        "<section>\n<h2>{}, {} M words/s by the clock, epochs of {}</h2>\n<p>{} s of each \
         program. A line that waits is due all the same.</p>\n<div class=\"plots\">\n",
        escaped(&first.corpus),
        short(first.rate as f64 / 1e6),
        first.interval,
        first.seconds,
    );
    let markers = |run: &PacedRun| run.markers.clone();
    let mut plot = distribution("Epoch end to marker", paced, markers);
    plot.lines.push(PlotLine {
        label: "one write and sync of as many bytes".to_owned(),
        colour: BOUND,
        is_dashed: true,
        has_dots: false,
        points: curve(&first.syncs),
    });
    add(
        &mut page,
        figure("Latency: from the end of an epoch to its marker", &plot.svg(), &plot.lines),
    );
    let plot = distribution("Line due to marker", paced, |run| run.lines.clone());
    add(
        &mut page,
        figure("Latency: from a line to the marker of its epoch", &plot.svg(), &plot.lines),
    );
    add(&mut page, stages_figure(paced.iter().map(|run| (run.program, run.run.stages.clone()))));
    page.push_str("</div>\n");
    /// The heads of the columns.
    const HEADS: [&str; 13] = [
        "program",
        "M words/s kept",
        "cores used",
        "marker p50 ms",
        "p90",
        "p99",
        "max",
        "line p50 ms",
        "p99",
        "max",
        "write and sync p50 ms",
        "p99",
        "peak MiB",
    ];
    let row = |run: &PacedRun| {
        let at = |quantiles: &Quantiles, share| quantiles.at(share).map(short);
        vec![
            Some(escaped(&run.program.to_string())),
            Some(short(run.kept / 1e6)),
            Some(short(run.cores_used())),
            at(&run.markers, 0.5),
            at(&run.markers, 0.9),
            at(&run.markers, 0.99),
            at(&run.markers, 1.0),
            at(&run.lines, 0.5),
            at(&run.lines, 0.99),
            at(&run.lines, 1.0),
            at(&run.syncs, 0.5),
            at(&run.syncs, 0.99),
            Some(short(run.run.peak_rss_kib as f64 / 1024.0)),
        ]
    };
    add(&mut page, table(&HEADS, paced.iter().map(row)));
    page.push_str("</section>\n");
    page
}

/// Returns the plot of latency, in milliseconds, over the share of samples that it does not exceed;
/// the rarest have the most room.
fn distribution(label: &str, runs: &[PacedRun], of: impl Fn(&PacedRun) -> Quantiles) -> LinePlot {
    let line = |(index, run): (usize, &PacedRun)| PlotLine {
        label: run.program.to_string(),
        colour: index % COLOURS,
        is_dashed: false,
        has_dots: false,
        points: curve(&of(run)),
    };
    LinePlot {
        label: format!("{label}: distribution of the latency"),
        unit: "ms",
        across: "share of samples",
        ticks: SHARES.iter().map(|(share, name)| (position(*share), (*name).to_owned())).collect(),
        lines: runs.iter().enumerate().map(line).collect(),
    }
}

/// Returns the position of a share across the plot: each further nine has the same room, so 0.9 is
/// at 1 and 0.99 at 2.
fn position(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// Returns the points of a distribution, as far as its samples reach.
fn curve(quantiles: &Quantiles) -> Vec<(f64, f64)> {
    /// The number of steps between two points of a curve.
    const STEPS: u32 = 120;
    let reach = position(SHARES[SHARES.len() - 1].0).max(1.0);
    let shares =
        (0..=STEPS).map(|step| 1.0 - 10_f64.powf(-reach * f64::from(step) / f64::from(STEPS)));
    shares.filter_map(|share| Some((position(share), quantiles.at(share)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::measured_child::ProgramRun;

    fn runs(program: BenchProgram, seconds: f64) -> ProgramRuns {
        let stages = vec![StageTimes { count: 5.0, write: 3.0, commit: 2.0 }];
        let run = ProgramRun { words: 1_000_000, seconds, stages, ..ProgramRun::default() };
        ProgramRuns { program, distinct: 10, runs: vec![run] }
    }

    fn text(two: f64) -> TextRuns {
        TextRuns {
            corpus: "<my> text".to_owned(),
            mib: 1,
            interval: "1s".to_owned(),
            extra: String::new(),
            programs: vec![
                runs(BenchProgram::Reference { syncs: true }, 1.0),
                runs(BenchProgram::Wordtide(RunShape::plain(1)), 1.2),
                runs(BenchProgram::Wordtide(RunShape::plain(2)), two),
            ],
        }
    }

    #[test]
    fn cost_is_the_least_number_that_wins() {
        assert_eq!(text(0.7).cost_line().as_deref(), Some("COST of <my> text: 2"));
        assert!(text(1.1).cost_line().is_some_and(|line| line.ends_with("than were tried")));
    }

    #[test]
    fn page_shows_cost_line_stages_and_latency() {
        let paced = PacedRun {
            corpus: "english".to_owned(),
            program: BenchProgram::Wordtide(RunShape::plain(1)),
            interval: "1s".to_owned(),
            extra: String::new(),
            rate: 1_000_000,
            kept: 900_000.0,
            seconds: 5,
            run: ProgramRun { seconds: 5.0, ..ProgramRun::default() },
            markers: Quantiles::of([5.0, 6.0, 30.0]),
            lines: Quantiles::of([500.0, 900.0]),
            syncs: Quantiles::of([2.0]),
        };
        let line = paced.line();
        assert!(line.contains("asked for 1000000 words/s, kept 900000,"), "{line}");
        let line = PacedRun { kept: 990_000.0, ..paced.clone() }.line();
        assert!(line.contains(" 990000 words/s,") && !line.contains("asked for"), "{line}");
        let report = BenchReport { texts: vec![text(0.7)], paced: vec![paced] };
        let page = report.page(&Fields::new());
        assert_eq!(page.matches("<svg").count(), 4, "no stages of a run that ended none");
        assert!(
            page.contains("COST: reference-sync") && page.contains("COST of &lt;my&gt; text: 2")
        );
        for outside in ["http:", "https:", "<script", "src=", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn curve_reaches_the_rarest_sample() {
        let curve = curve(&Quantiles::of((1..=100).map(f64::from)));
        assert_eq!(curve.first().map(|point| point.1), Some(1.0));
        assert_eq!(curve.last().map(|point| point.1), Some(99.0));
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }
}
