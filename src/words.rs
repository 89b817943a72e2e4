//! From lines to counted words.

pub mod decode;
