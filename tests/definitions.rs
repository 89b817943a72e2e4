//! Every definition against a slow, sequential, obvious one, over random epochs and workers.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use wordtide::Result;
use wordtide::dataflows::{
    field_count, line_archive, network_wordcount, running_totals, sliding_windows, top_k,
};
use wordtide::operators::{Counts, Lines, Rows, Window, Words};
use wordtide::testing::{CapturedRow, Config, publish};

const INTERVAL_MS: u64 = 1_000;

/// Epochs by name, each with its lines.
type Epochs = Vec<(u64, Vec<Vec<u8>>)>;
/// The published rows of each epoch: words with counts, sorted.
type Published = BTreeMap<u64, Vec<(String, i64)>>;

/// Few words, so that they meet again, some of them empty; and gaps between epochs, as a late job
/// has them.
fn epochs() -> impl Strategy<Value = Epochs> {
    let line = prop::collection::vec(prop::sample::select(b"abc  d".to_vec()), 0..8);
    let lines = prop::collection::vec(line, 0..5);
    prop::collection::vec((1u64..4, lines), 1..9).prop_map(|epochs| {
        let mut at = 0;
        let name = |(gap, lines)| {
            at += gap * INTERVAL_MS;
            (at, lines)
        };
        epochs.into_iter().map(name).collect()
    })
}

fn config(threads: usize, parts: u32, table_bytes_max: usize) -> Config {
    let interval = Duration::from_millis(INTERVAL_MS);
    Config { threads, parts, interval, table_bytes_max, ..Config::default() }
}

/// Runs a definition with 1, 2 and 4 workers, which must publish the same rows in the same order;
/// returns them.
fn with_any_workers<F>(
    definition: F,
    epochs: &Epochs,
    parts: u32,
) -> std::result::Result<BTreeMap<u64, Vec<CapturedRow>>, TestCaseError>
where
    F: for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync + Clone + 'static,
{
    let run = |threads, table_bytes_max| -> Result<_> {
        publish(config(threads, parts, table_bytes_max), definition.clone(), epochs)
    };
    let fail = |error: wordtide::Error| TestCaseError::fail(error.to_string());
    let one = run(1, 1 << 30).map_err(fail)?;
    // Tables drained after each block give several runs an epoch.
    for (threads, table_bytes_max) in [(2, 0), (4, 1 << 30)] {
        prop_assert_eq!(&run(threads, table_bytes_max).map_err(fail)?, &one, "{} threads", threads);
    }
    Ok(one)
}

fn counted(published: BTreeMap<u64, Vec<CapturedRow>>) -> Published {
    let row = |row: CapturedRow| {
        (String::from_utf8_lossy(&row.text).into_owned(), row.count.unwrap_or_default())
    };
    let sorted = |rows: Vec<CapturedRow>| {
        let mut rows: Vec<_> = rows.into_iter().map(row).collect();
        rows.sort();
        rows
    };
    published.into_iter().map(|(epoch, rows)| (epoch, sorted(rows))).collect()
}

/// The words of lines, by splitting at each space.
fn words(lines: &[Vec<u8>]) -> impl Iterator<Item = String> + '_ {
    lines
        .iter()
        .flat_map(|line| line.split(|byte| *byte == b' '))
        .map(|word| String::from_utf8_lossy(word).into_owned())
}

/// Counts of the words of all epochs in `(after, upto]`.
fn count(epochs: &Epochs, after: u64, upto: u64) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    let within = epochs.iter().filter(|(epoch, _)| *epoch > after && *epoch <= upto);
    for word in within.flat_map(|(_, lines)| words(lines)) {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

fn at_each(epochs: &Epochs, rows: impl Fn(u64) -> BTreeMap<String, i64>) -> Published {
    epochs.iter().map(|(epoch, _)| (*epoch, rows(*epoch).into_iter().collect())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn network_wordcount_is_the_count_of_each_epoch(epochs in epochs(), parts in 1u32..6) {
        let rows = with_any_workers(
            |lines| Rows::from(network_wordcount::dataflow(lines)), &epochs, parts)?;
        prop_assert_eq!(counted(rows), at_each(&epochs, |epoch| count(&epochs, epoch - 1, epoch)));
    }

    #[test]
    fn running_totals_are_the_count_since_the_start(epochs in epochs(), parts in 1u32..6) {
        let rows = with_any_workers(
            |lines| Rows::from(running_totals::dataflow(Some(1 << 20))(lines)), &epochs, parts)?;
        prop_assert_eq!(counted(rows), at_each(&epochs, |epoch| count(&epochs, 0, epoch)));
    }

    #[test]
    fn changes_are_totals_of_epoch_words(epochs in epochs(), parts in 1u32..6) {
        let rows = with_any_workers(
            |lines| running_totals::changes(None)(lines), &epochs, parts)?;
        let expected = at_each(&epochs, |epoch| {
            let mut totals = count(&epochs, 0, epoch);
            let own = count(&epochs, epoch - 1, epoch);
            totals.retain(|word, _| own.contains_key(word));
            totals
        });
        prop_assert_eq!(counted(rows), expected);
    }

    #[test]
    fn sliding_windows_equal_counts_of_each_window(
        epochs in epochs(), parts in 1u32..6, slide in 1u64..4, more in 0u64..4,
    ) {
        let (slide_ms, window_ms) = (slide * INTERVAL_MS, (slide + more) * INTERVAL_MS);
        let (window, every) = (Duration::from_millis(window_ms), Duration::from_millis(slide_ms));
        let rows = with_any_workers(
            move |lines| {
                Rows::from(sliding_windows::dataflow(window, every)(lines))
            }, &epochs, parts)?;
        let mut expected =
            at_each(&epochs, |epoch| count(&epochs, epoch.saturating_sub(window_ms), epoch));
        expected.retain(|epoch, _| epoch % slide_ms == 0);
        prop_assert_eq!(counted(rows), expected);
    }

    #[test]
    fn changes_of_windows_add_up_to_the_windows(
        epochs in epochs(),
        parts in 1u32..6,
        k in 1u64..5,
    ) {
        let rows = with_any_workers(
            move |lines| lines.words().sliding(k).count().changes(), &epochs, parts)?;
        let mut contents: BTreeMap<String, i64> = BTreeMap::new();
        for (epoch, rows) in counted(rows) {
            for (word, now) in rows {
                prop_assert_ne!(contents.get(&word).copied().unwrap_or(0), now, "no change");
                contents.insert(word, now);
            }
            contents.retain(|_, count| *count != 0);
            let after = epoch.saturating_sub(k * INTERVAL_MS);
            prop_assert_eq!(&contents, &count(&epochs, after, epoch));
        }
    }

    #[test]
    fn any_counts_come_back_from_a_plain_collection(
        epochs in epochs(),
        parts in 1u32..6,
        kind in 0..3,
    ) {
        let direct = with_any_workers(
            move |lines| Rows::from(counts_of(kind, lines)), &epochs, parts)?;
        let through = with_any_workers(
            move |lines| {
                let counts = counts_of(kind, lines.clone());
                Rows::from_collection(&lines, counts.as_collection())
            }, &epochs, parts)?;
        prop_assert_eq!(direct, through);
    }

    #[test]
    fn top_k_is_head_of_sorted_counts(
        epochs in epochs(),
        parts in 1u32..6,
        k in 0usize..4,
    ) {
        let rows = with_any_workers(move |lines| top_k::dataflow(k)(lines), &epochs, parts)?;
        for (epoch, rows) in rows {
            let mut ranked: Vec<_> = count(&epochs, epoch - 1, epoch).into_iter().collect();
            ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            ranked.truncate(k);
            let row = |(word, count): (String, i64)| {
                CapturedRow { part: 0, text: word.into_bytes(), count: Some(count) }
            };
            prop_assert_eq!(rows, ranked.into_iter().map(row).collect::<Vec<_>>());
        }
    }

    #[test]
    fn line_archive_is_the_lines_in_their_order(epochs in epochs(), parts in 1u32..6) {
        let rows = with_any_workers(line_archive::dataflow, &epochs, parts)?;
        let archived: Epochs = rows.into_iter()
            .map(|(epoch, rows)| (epoch, rows.into_iter().map(|row| row.text).collect()))
            .collect();
        prop_assert_eq!(archived, epochs);
    }

    #[test]
    fn field_count_is_the_count_of_a_column(
        epochs in epochs(),
        parts in 1u32..6,
        number in 1usize..4,
    ) {
        let field = field_count::Field::Number { number, delimiter: b" ".to_vec() };
        let rows = with_any_workers(
            move |lines| Rows::from(field_count::dataflow(field.clone())(lines)), &epochs, parts)?;
        let nth = |line: &Vec<u8>| words(std::slice::from_ref(line)).nth(number - 1);
        let expected = epochs.iter().map(|(epoch, lines)| {
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            lines.iter().filter_map(nth).for_each(|value| *counts.entry(value).or_default() += 1);
            (*epoch, counts.into_iter().collect())
        });
        prop_assert_eq!(counted(rows), expected.collect::<Published>());
    }
}

/// Counts of one of the three kinds.
fn counts_of<'s>(kind: i32, lines: Lines<'s>) -> Counts<'s> {
    match kind {
        0 => lines.words().per_epoch().count(),
        1 => lines.words().running().count(),
        _ => lines.words().sliding(2).count(),
    }
}

/// Compares with the results of Spark Streaming for the same batches: `tests/data/spark-windows`.
#[test]
fn three_counts_equal_those_of_spark() {
    let recorded = include_str!("data/spark-windows/recorded.json");
    let recorded: serde_json::Value = serde_json::from_str(recorded).expect("JSON");
    for run in recorded.as_array().expect("a list of runs") {
        let (epochs, results) = (batches(&run["lines"]), run["results"].as_object());
        for (operation, given) in results.expect("results by operation") {
            let counts = like_spark(operation);
            let published = publish(
                config(2, 3, 1 << 30),
                move |lines| Rows::from(counts(lines.words())),
                &epochs,
            );
            let given = given.as_object().expect("rows by batch").iter();
            let given =
                given.map(|(batch, rows)| (name(batch.parse().expect("a number")), pairs(rows)));
            assert_eq!(counted(published.expect("a result")), given.collect(), "{operation}");
        }
    }
}

/// The name of a batch: windows then end where Spark's do, which counts from its first batch.
fn name(batch: u64) -> u64 {
    (batch + 1) * INTERVAL_MS
}

fn batches(lines: &serde_json::Value) -> Epochs {
    let text = |line: &serde_json::Value| line.as_str().expect("a line").as_bytes().to_vec();
    let of_batch =
        |lines: &serde_json::Value| lines.as_array().expect("lines").iter().map(text).collect();
    let batches = lines.as_array().expect("a list of batches").iter();
    batches.zip(0..).map(|(lines, batch)| (name(batch), of_batch(lines))).collect()
}

fn pairs(rows: &serde_json::Value) -> Vec<(String, i64)> {
    serde_json::from_value(rows.clone()).expect("pairs of word and count")
}

type CountWords = Box<dyn for<'s> Fn(Words<'s>) -> Counts<'s> + Send + Sync>;

/// Returns the definition that corresponds to an operation of Spark.
fn like_spark(operation: &str) -> CountWords {
    let interval = Duration::from_millis(INTERVAL_MS);
    match *operation.split(' ').collect::<Vec<_>>() {
        ["reduceByKey"] => Box::new(|words| words.per_epoch().count()),
        ["updateStateByKey"] => Box::new(|words| words.running().count()),
        ["reduceByKeyAndWindow", length, slide] => {
            let [length, slide] = [length, slide].map(|n| n.parse::<u32>().expect("a number"));
            let window = Window::new(interval * length, interval * slide);
            Box::new(move |words| words.sliding(window).count())
        }
        _ => panic!("no operation of ours: {operation}"),
    }
}
