//! Ranks the `k` most frequent words of each epoch, by descending count, then by their bytes, all
//! in `part-00000`.
//!
//! In SQL: `SELECT word, count(*) AS n FROM batch GROUP BY word ORDER BY n DESC, word LIMIT k`.
//!
//! Memory: the words of open epochs, as in `network_wordcount` (75 bytes for each distinct word,
//! measured). Each worker sends its `k` most frequent words to worker 0 once an epoch.
//!
//! ```text
//! wordtide run top_k --connect localhost:9999 --k 20 --to - --format tsv
//! ```

use wordtide::operators::{Lines, Rows};

/// Ranks the words of every epoch separately. Replace `per_epoch()` by `running()` or `sliding(..)`
/// to rank totals or windows.
pub fn dataflow(k: usize) -> impl for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync + 'static {
    move |lines| lines.words().per_epoch().count().top(k)
}

#[cfg(test)]
mod tests {
    use super::dataflow;
    use wordtide::testing::rows_on;

    #[test]
    fn ranking_orders_by_count_then_bytes() {
        let epochs: &[&[&str]] = &[&["d c b a", "c a d", "c"], &[], &["z"]];
        for threads in [1, 2, 4] {
            let rows = rows_on(threads, dataflow(3), epochs);
            assert_eq!(rows, [vec!["c\t3", "a\t2", "d\t2"], vec![], vec!["z\t1"]]);
        }
        assert_eq!(rows_on(2, dataflow(0), epochs)[0], [""; 0]);
    }
}
