//! Every definition by the real program, in many processes, over a socket that feeds them all.
//!
//! The clock decides which line falls into which epoch. But the lines of one connection are
//! counted in their order, and the program logs how many each epoch has: so what every file must
//! hold follows from what was sent.

use std::collections::BTreeMap;

use crate::oracle::sorted;
use crate::rig::{Ended, Rig, Server, side_by_side};

const INTERVAL_MS: u64 = 100;

/// The lines that are sent, in groups: the next one once the one before is committed.
fn groups() -> Vec<Vec<String>> {
    let line = |n: u64| format!("w{},k{} a w{} b{}", n % 3, n % 5, n * n % 7, n % 2);
    (0..6).map(|group| (0..group * 7 % 11).map(|n| line(group * 100 + n)).collect()).collect()
}

/// Each epoch with its lines.
type Epochs = Vec<(u64, Vec<String>)>;

fn epochs(ended: &Ended) -> Epochs {
    let mut sent = groups().concat().into_iter();
    let told = |line: &String| {
        let (epoch, figures) = line.split_once("epoch ")?.1.split_once(" committed: ")?;
        let lines: usize = figures.split_once(" lines")?.0.parse().ok()?;
        Some((epoch.parse().ok()?, lines))
    };
    let told: Vec<(u64, usize)> = ended.stderr.iter().filter_map(told).collect();
    let epochs =
        told.into_iter().map(|(epoch, lines)| (epoch, sent.by_ref().take(lines).collect()));
    let epochs: Epochs = epochs.collect();
    assert_eq!(sent.count(), 0, "lines that no epoch has\n{ended}");
    epochs
}

/// Runs a definition and gives the rows of each epoch that has any, as they stand, with the epochs.
fn run(definition: &str, shape: &str) -> (BTreeMap<u64, Vec<String>>, Epochs) {
    let (rig, server) = (Rig::new(), Server::new());
    let fixed = "--interval 100ms --parts 3 --format tsv --no-state --to out/c --once";
    let flags = format!("run {definition} {} {fixed} {shape}", server.flag());
    let program = rig.wordtide(&flags).start();
    let mut peer = server.accept();
    let mut lines = 0;
    for group in groups() {
        group.iter().for_each(|line| peer.send(format!("{line}\n")));
        lines += group.len() as u64;
        program.wait_for_lines(lines);
    }
    peer.fin();
    let ended = program.end().expect(0);
    let rows = rig.output("out/c").epochs.into_iter().map(|(epoch, read)| (epoch, read.rows()));
    (rows.filter(|(_, rows)| !rows.is_empty()).collect(), epochs(&ended))
}

fn count<'l>(keys: impl Iterator<Item = &'l str>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    keys.for_each(|key| *counts.entry(key.to_owned()).or_default() += 1);
    counts
}

/// The words of the epochs in `(after, upto]`.
fn words(epochs: &Epochs, after: u64, upto: u64) -> BTreeMap<String, u64> {
    let within = epochs.iter().filter(|(epoch, _)| *epoch > after && *epoch <= upto);
    count(within.flat_map(|(_, lines)| lines).flat_map(|line| line.split(' ')))
}

fn rows(counts: BTreeMap<String, u64>) -> Vec<String> {
    sorted(counts.into_iter().map(|(word, count)| format!("{word}\t{count}")).collect())
}

/// The rows of an epoch, sorted but where their order is promised.
fn expected(definition: &str, epochs: &Epochs, epoch: u64, lines: &[String]) -> Vec<String> {
    let name = definition.split(' ').next().unwrap_or_default();
    let own = words(epochs, epoch - 1, epoch);
    match name {
        "network_wordcount" => rows(own),
        "running_totals" => {
            let mut totals = words(epochs, 0, epoch);
            let all = !definition.contains("changes");
            totals.retain(|word, _| all || own.contains_key(word));
            rows(totals)
        }
        "sliding_windows" if epoch.is_multiple_of(2 * INTERVAL_MS) => {
            rows(words(epochs, epoch - 6 * INTERVAL_MS, epoch))
        }
        "sliding_windows" => Vec::new(),
        "top_k" => {
            let mut ranked: Vec<_> = own.into_iter().collect();
            ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            ranked.iter().take(3).map(|(word, count)| format!("{word}\t{count}")).collect()
        }
        "line_archive" => lines.to_vec(),
        "field_count" => rows(count(lines.iter().filter_map(|line| line.split(',').nth(1)))),
        _ => panic!("no definition: {name}"),
    }
}

fn check(definition: &str, shape: &str) {
    let (published, epochs) = run(definition, shape);
    let keeps_order = definition.starts_with("top_k") || definition.starts_with("line_archive");
    for (epoch, lines) in &epochs {
        let rows = published.get(epoch).cloned().unwrap_or_default();
        let rows = if keeps_order { rows } else { sorted(rows) };
        let expected = expected(definition, &epochs, *epoch, lines);
        assert_eq!(rows, expected, "epoch {epoch} of {definition} with {shape}");
    }
    let other = published.keys().find(|epoch| !epochs.iter().any(|(told, _)| told == *epoch));
    assert_eq!(other, None, "an epoch that was not told");
}

#[test]
fn every_definition_counts_as_one_in_many_processes() {
    let definitions = [
        "network_wordcount",
        "running_totals",
        "running_totals --emit changes",
        "sliding_windows --window 600ms --slide 200ms",
        "top_k --k 3",
        "line_archive",
        "field_count --field 2 --delimiter ,",
    ];
    let shapes = ["-w 2", "-n 2 -w 2"];
    let runs = definitions.iter().flat_map(|definition| shapes.map(|shape| (*definition, shape)));
    side_by_side(runs.collect(), |(definition, shape)| check(definition, shape));
}
