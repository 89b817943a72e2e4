//! Flags of the words: how a line becomes words.

use clap::Args;
use clap::builder::TypedValueParser;

use super::super::parse_values::choice;
use crate::words::Split;

/// How a line becomes words.
#[derive(Debug, Args)]
#[command(next_help_heading = "Words")]
pub struct WordFlags {
    /// Where lines are split: at each space, as in Spark's program; at white space; or into words
    /// as Unicode defines them
    #[arg(long, value_name = "RULE", default_value = "space", value_parser = split(),
        env = "WORDTIDE_SPLIT")]
    pub split: Split,

    /// Count words in lower case
    #[arg(long, env = "WORDTIDE_LOWERCASE")]
    pub lowercase: bool,
}

fn split() -> impl TypedValueParser<Value = Split> {
    choice(&[
        ("space", Split::Space),
        ("whitespace", Split::Whitespace),
        ("unicode-words", Split::UnicodeWords),
    ])
}
