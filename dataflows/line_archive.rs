//! Publishes the lines as raw bytes, in the order in which each source sent them. The lines of a
//! source are in one part.
//!
//! In Spark: `lines.saveAsTextFiles(..)`, except that Spark does not keep the order and decodes the
//! bytes. Rows are lines in every `--format`. A line above `--max-line-bytes` is dropped and
//! reported.
//!
//! Memory: the bytes of open epochs, twice while an epoch is written (measured: 545 MB for an epoch
//! of 271 MB).
//!
//! ```text
//! wordtide run line_archive --connect localhost:9999 --to oss://bucket/raw/ --interval 60s
//! ```

use wordtide::operators::{Lines, Rows};

/// Publishes every line.
pub fn dataflow<'s>(lines: Lines<'s>) -> Rows<'s> {
    lines.archive()
}

#[cfg(test)]
mod tests {
    use super::dataflow;
    use wordtide::testing::rows_on;

    #[test]
    fn lines_are_published_as_they_came() {
        let epochs: &[&[&str]] = &[&["b", "", "a  b", "b"], &[], &["c\tü"]];
        for threads in [1, 2, 4] {
            assert_eq!(rows_on(threads, dataflow, epochs), epochs);
        }
    }
}
