//! Counts the words of a line stream per batch interval, exactly once, on timely and differential
//! dataflow.

extern crate self as wordtide;

pub mod error;
pub mod lines;
pub mod sink;
pub mod store;
pub mod words;

pub use error::{Error, ErrorKind, Result};
