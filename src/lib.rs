//! Counts the words of a line stream per batch interval, exactly once, on timely and differential
//! dataflow.

extern crate self as wordtide;

pub mod cluster;
pub mod error;

pub use error::{Error, ErrorKind, Result};
