//! The lines themselves, as raw bytes, in the order in which each source sent them; a source's
//! lines are in one part.
//!
//! Equals `lines.saveAsTextFiles(..)`, but for the order, which Spark does not keep, and the bytes,
//! which Spark decodes. Rows are lines in every `--format`; a line above `--max-line-bytes` is
//! dropped and told.
//!
//! Keeps the bytes of open epochs: an interval of the stream must fit into memory, twice while it
//! is being written (measured: 545 MB for an epoch of 271 MB).
//!
//! ```text
//! wordtide run line_archive --connect localhost:9999 --to oss://bucket/raw/ --interval 60s
//! ```

use wordtide::operators::{Lines, Rows};

/// Keeps every line.
pub fn dataflow<'s>(lines: Lines<'s>) -> Rows<'s> {
    lines.archive()
}

#[cfg(test)]
mod tests {
    use super::dataflow;
    use wordtide::testing::rows_on;

    #[test]
    fn lines_come_out_as_they_came_in() {
        let epochs: &[&[&str]] = &[&["b", "", "a  b", "b"], &[], &["c\tü"]];
        for threads in [1, 2, 4] {
            assert_eq!(rows_on(threads, dataflow, epochs), epochs);
        }
    }
}
