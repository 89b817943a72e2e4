//! Counts the words of a line stream per batch interval, exactly once, on timely and differential
//! dataflow.

extern crate self as wordtide;

#[cfg(feature = "cli")]
pub mod cli;
pub mod cluster;
pub mod crash;
pub mod epoch;
pub mod error;
pub mod failure;
pub mod feed;
pub mod job;
pub mod journal;
pub mod lines;
pub mod operators;
pub mod settings;
pub mod sink;
pub mod source;
pub mod state;
pub mod store;
pub mod testing;
pub mod words;
pub mod worker;

#[path = "../dataflows/mod.rs"]
pub mod dataflows;

pub use differential_dataflow;
pub use error::{Error, ErrorKind, Result};
pub use job::{Job, JobBuilder, JobHandle};
pub use regex;
pub use settings::Settings;
pub use source::Source;
pub use store::Target;
pub use timely;
