//! The dataflow definitions: plain functions from lines to counts.
//!
//! Each file here is one definition and uses the library's public names only, so it can be copied
//! into another program unchanged. [`network_wordcount`] counts each epoch on its own.

pub mod network_wordcount;

use wordtide::operators::{Counts, Lines};

/// A definition without parameters.
pub type Dataflow = for<'s> fn(Lines<'s>) -> Counts<'s>;

/// Every definition, with its name and what it gives in one line.
pub const ALL: &[(&str, &str, Dataflow)] = &[(
    "network_wordcount",
    "words of each epoch on its own: Spark's network_wordcount.py",
    network_wordcount::dataflow,
)];

/// The definition called `name`.
pub fn find(name: &str) -> Option<Dataflow> {
    ALL.iter().find(|(known, ..)| *known == name).map(|(.., dataflow)| *dataflow)
}
