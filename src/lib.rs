//! Counts the words of a line stream per batch interval, exactly once, on timely and differential
//! dataflow.
//!
//! The program `wordtide` is a thin layer over this library: sources of lines, epochs, a journal,
//! durable output and a cluster are here for any dataflow, one's own included.
//!
//! ```
//! use wordtide::{Job, Settings, Source, Target, dataflows};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! std::fs::write(dir.join("lines.txt"), "the tide comes\nthe tide goes\n")?;
//! let mut job = Job::builder()
//!     .source(Source::File(dir.join("lines.txt")))
//!     .dataflow("network_wordcount", dataflows::network_wordcount::dataflow)
//!     .to(Target::Local { root: dir.into(), prefix: "counts".into() })
//!     .settings(Settings { threads: 2, ..Settings::default() })
//!     .start()?;
//!
//! for committed in job.committed() {
//!     // epoch 1795345270000 committed: 2 lines, 6 words, 4 distinct, 6 ms
//!     println!("{committed}");
//! }
//! assert_eq!(job.wait()?.total.words, 6);
//! # Ok(())
//! # }
//! ```
//!
//! An *epoch* is one batch interval: a `u64`, the Unix milliseconds at which the interval ends. The
//! file of an epoch holds what the dataflow's collection contains *at* that time.
//!
//! # For an embedder
//!
//! | to | see |
//! | --- | --- |
//! | build, start, watch, stop a job | [`Job`], [`JobBuilder`], [`JobHandle`] |
//! | say where lines come from and results go | [`Source`], [`Target`], [`store::StoreSettings`] |
//! | set intervals, workers, limits | [`Settings`] |
//! | survive a crash | [`job::StatePlace`], [`journal::JournalSettings`] |
//! | write a definition: words, keys, totals, windows, rankings | [`operators`] |
//! | go down to plain differential: joins, `iterate` | [`as_collection`], [`static_rows`] |
//! | save any collection of printable rows | [`from_collection`], [`operators::Printable`] |
//! | test a definition on literal epochs | [`testing`] |
//! | copy a definition that exists | [`dataflows`] |
//! | have all flags of `wordtide run` in a program of one's own | `cli::run_job`, feature `cli` |
//! | run as one of several processes | [`cluster::ClusterSettings`] |
//! | know what an error asks for | [`ErrorKind`] |
//!
//! [`as_collection`]: operators::Counts::as_collection
//! [`static_rows`]: operators::Lines::static_rows
//! [`from_collection`]: operators::Rows::from_collection
//!
//! The engine is [`timely`] and [`differential_dataflow`], exported here because a definition must
//! be built with the very versions that run it; so is [`regex`], which `field_count` takes.
//!
//! Nothing in the library prints, ends the process, or installs a panic hook, a signal handler or a
//! logger; several jobs may run in one process, at once or one after the other. What a job has to
//! say goes to [`tracing`](https://docs.rs/tracing), for whoever subscribes.
//!
//! # Layout
//!
//! The other modules are the inside, public to be read and tested; ARCHITECTURE.md is their map:
//! [`lines`] and [`words`] make words of bytes, [`source`] and [`journal`] read and keep them,
//! [`feed`] hands them to the workers, [`worker`] and [`cluster`] run these, [`sink`] and [`store`]
//! publish, [`state`] remembers, [`failure`] ends, [`epoch`] tells the time.

extern crate self as wordtide;

mod backoff;
#[cfg(feature = "cli")]
pub mod cli;
pub mod cluster;
pub mod crash;
pub mod epoch;
pub mod epochs;
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
pub mod supervise;
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

/// Compiles and runs the code blocks of the README.
#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

/// Compiles and runs the code blocks of the page for embedders.
#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("../docs/embedding.md")]
struct EmbeddingDoctests;
