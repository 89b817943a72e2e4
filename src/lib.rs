//! Counts the words of a line stream per batch interval, exactly once, on timely and differential
//! dataflow.

extern crate self as wordtide;

pub mod crash;
pub mod error;
pub mod journal;

pub use error::{Error, ErrorKind, Result};
