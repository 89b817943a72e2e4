//! Counts the words of each epoch on its own, as Spark's `network_wordcount.py` does.
//!
//! In Spark: `lines.flatMap(lambda l: l.split(" ")).map(lambda w: (w, 1)).reduceByKey(+)`.
//!
//! Memory: the words of open epochs, 75 bytes for each distinct word, the word included (measured:
//! 605 MB for an epoch with 8 million). An epoch costs one row for each distinct word.
//!
//! ```text
//! wordtide run network_wordcount --connect localhost:9999 --to out/counts
//! ```

use wordtide::operators::{Counts, Lines};

/// Counts the words of every epoch separately.
pub fn dataflow<'s>(lines: Lines<'s>) -> Counts<'s> {
    lines.words().per_epoch().count()
}

#[cfg(test)]
mod tests {
    use super::dataflow;
    use wordtide::testing::run_on;

    #[test]
    fn each_epoch_counts_its_own_words() {
        let rows = run_on(2, dataflow, &[&["b a", "a"], &[], &["a  b"]]);
        let count = |word: &str, count| (word.to_owned(), count);
        assert_eq!(rows[0], [count("a", 2), count("b", 1)]);
        assert_eq!(rows[1], []);
        assert_eq!(rows[2], [count("", 1), count("a", 1), count("b", 1)]);
    }
}
