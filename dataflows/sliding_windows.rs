//! Counts the words of a sliding window, each time a window ends.
//!
//! In Spark: `pairs.reduceByKeyAndWindow(add, None, window, slide)`, except for the ends of
//! windows. They are the multiples of the slide on the wall clock, so a restart does not move them;
//! Spark counts slides from its own start. Epochs at which no window ends publish nothing. If the
//! job was built with [`windows_end_every`](wordtide::JobBuilder::windows_end_every), the window
//! also ends when all sources have ended, and the next run publishes one that would end after a
//! stop, if the job has state.
//!
//! Memory: the distinct words of each epoch of the window, as retractions to come: 20 bytes each
//! beside the word. The sums of the window take a few bytes a word beside its text.
//!
//! With state, windows go on after a crash or a stop: the changelog beside the output has what each
//! epoch added, for as long as a window reaches back.
//!
//! ```text
//! wordtide run sliding_windows --connect localhost:9999 --interval 10s --window 60s --slide 20s
//! ```

use std::time::Duration;

use wordtide::operators::{Counts, Lines, Window};

/// Counts over the last `window`, every `slide`.
///
/// Both must be multiples of the interval, or the job ends with a `Usage` error. [`Window::check`]
/// finds that before the start.
pub fn dataflow(
    window: Duration,
    slide: Duration,
) -> impl for<'s> Fn(Lines<'s>) -> Counts<'s> + Send + Sync + 'static {
    move |lines| lines.words().sliding(Window::new(window, slide)).count()
}

#[cfg(test)]
mod tests {
    use super::dataflow;
    use std::collections::BTreeMap;
    use std::time::Duration;
    use wordtide::operators::Rows;
    use wordtide::testing::{publish, run_on};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn word_counts_for_one_window() {
        let definition = dataflow(2 * SECOND, SECOND);
        let rows = run_on(2, definition, &[&["a"], &["a b"], &[], &[], &["a"]]);
        let count = |word: &str, count| (word.to_owned(), count);
        assert_eq!(rows[0], [count("a", 1)]);
        assert_eq!(rows[1], [count("a", 2), count("b", 1)]);
        assert_eq!(rows[2], [count("a", 1), count("b", 1)]);
        assert_eq!(rows[3], []);
        assert_eq!(rows[4], [count("a", 1)]);
    }

    #[test]
    fn windows_end_at_multiples_of_the_slide() {
        let definition = dataflow(4 * SECOND, 2 * SECOND);
        let line = |text: &str| vec![text.as_bytes().to_vec()];
        // The job was late at 4 s and 5 s: these times became no epochs.
        let epochs =
            [(1_000, line("a")), (2_000, line("b")), (3_000, line("c")), (6_000, line("d"))];
        let published = publish(2.into(), move |lines| Rows::from(definition(lines)), &epochs);
        let words: BTreeMap<u64, Vec<String>> = published
            .expect("windows fit the interval")
            .into_iter()
            .map(|(epoch, rows)| {
                let mut words: Vec<String> = rows
                    .iter()
                    .map(|row| String::from_utf8_lossy(&row.text).into_owned())
                    .collect();
                words.sort();
                (epoch, words)
            })
            .collect();
        let expected = [(2_000, vec!["a", "b"]), (6_000, vec!["c", "d"])];
        let expected =
            expected.map(|(epoch, words)| (epoch, words.into_iter().map(str::to_owned).collect()));
        assert_eq!(words, BTreeMap::from(expected));
    }

    #[test]
    fn window_that_does_not_fit_ends_the_job() {
        let definition = dataflow(3 * SECOND / 2, SECOND);
        let epochs = [(1_000, Vec::new())];
        let error = publish(2.into(), move |lines| Rows::from(definition(lines)), &epochs);
        let error = error.expect_err("1.5 s is no multiple of 1 s");
        assert!(error.to_string().contains("--window"), "{error}");
    }
}
