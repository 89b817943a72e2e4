//! Counts the words since the start: every word with its total ([`dataflow`]), or only the words of
//! the epoch with their new totals ([`changes`]). Every epoch has a result, also one without lines.
//!
//! In Spark: `pairs.updateStateByKey(lambda new, old: sum(new) + (old or 0))`. `changes` is its
//! restriction to the keys of the batch.
//!
//! Memory: every distinct word, for ever. A word takes its bytes and two more, or a few if its
//! total is large. While an epoch is published, its table, its counts and its rows take memory
//! besides: `dataflow` has a row for each word, `changes` one for each word of the epoch.
//! `--max-keys` sets a limit.
//!
//! With state, totals go on after a crash or a stop: the changelog beside the output has what each
//! epoch added.
//!
//! ```text
//! wordtide run running_totals --connect localhost:9999 --emit changes --max-keys 100000000
//! ```

use wordtide::operators::{Counts, Lines, Rows};

/// Publishes all totals. The job ends with an error if there are more than `max_keys` distinct
/// words.
pub fn dataflow(
    max_keys: Option<u64>,
) -> impl for<'s> Fn(Lines<'s>) -> Counts<'s> + Send + Sync + 'static {
    move |lines| lines.words().running().max_keys(max_keys).count()
}

/// Publishes the words that changed, with their new totals, under the same limit.
pub fn changes(
    max_keys: Option<u64>,
) -> impl for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync + 'static {
    move |lines| lines.words().running().max_keys(max_keys).count().changes()
}

#[cfg(test)]
mod tests {
    use super::{changes, dataflow};
    use wordtide::operators::Rows;
    use wordtide::testing::{publish, rows_on, run_on};

    const EPOCHS: &[&[&str]] = &[&["b a", "a"], &[], &["a c"]];

    #[test]
    fn totals_are_published_without_lines_too() {
        let rows = run_on(2, dataflow(None), EPOCHS);
        let count = |word: &str, count| (word.to_owned(), count);
        assert_eq!(rows[0], [count("a", 2), count("b", 1)]);
        assert_eq!(rows[1], rows[0]);
        assert_eq!(rows[2], [count("a", 3), count("b", 1), count("c", 1)]);
    }

    #[test]
    fn changes_are_words_of_the_epoch() {
        let mut rows = rows_on(2, changes(None), EPOCHS);
        rows.iter_mut().for_each(|rows| rows.sort());
        assert_eq!(rows, [vec!["a\t2", "b\t1"], vec![], vec!["a\t3", "c\t1"]]);
    }

    #[test]
    fn exceeding_max_keys_ends_the_job() {
        let epochs = [(1_000, vec![b"a b".to_vec()]), (2_000, vec![b"b c a".to_vec()])];
        let run = |max| {
            let totals = dataflow(Some(max));
            publish(2.into(), move |lines| Rows::from(totals(lines)), &epochs)
        };
        assert_eq!(run(3).expect("three words fit").len(), 2);
        let error = run(2).expect_err("three words do not fit into two");
        assert!(error.to_string().contains("--max-keys 2"), "{error}");
    }
}
