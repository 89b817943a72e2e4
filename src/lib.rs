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
//! | set where lines come from and results go | [`Source`], [`Target`], [`store::StoreSettings`] |
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
//! logger; several jobs may run in one process, at once or one after the other. The messages of a
//! job go to [`tracing`](https://docs.rs/tracing), for any subscriber.

// Some private items serve only the command line. The build with it finds what is not used.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

extern crate self as wordtide;

mod backoff;
mod bearer_token;
#[cfg(feature = "cli")]
pub mod cli;
mod cluster;
mod crash_points;
mod durable_file;
mod epoch;
mod epochs;
pub mod error;
mod failure;
mod feed;
mod file_lock;
mod hex_varint;
pub mod job;
mod journal;
mod lines;
mod liveness;
mod loopback;
mod meters;
mod monitor;
mod named_values;
pub mod operators;
mod outputs;
mod percent_encoding;
mod random;
mod response_body;
pub mod settings;
mod socket_activation;
mod sources;
mod state;
mod store;
mod supervise;
pub mod testing;
mod tls;
mod trace;
mod words;
mod worker;

#[path = "../dataflows/mod.rs"]
pub mod dataflows;

pub use cluster::{ClusterSettings, MeshKey};
pub use differential_dataflow;
pub use epoch::{Clock, Epoch, SystemClock};
pub use error::{Error, ErrorKind, Result};
pub use job::{Job, JobBuilder, JobHandle};
pub use journal::{JournalSettings, SyncPolicy};
pub use meters::OperatorStats;
pub use outputs::format::{Compression, Format};
pub use outputs::{Committed, OnCommit, WriteMode};
pub use regex;
pub use settings::{FolderLayout, Settings};
pub use sources::{
    HostPort, KafkaProperties, KafkaStart, KafkaTopic, ListenAddress, ListenSettings, Source, Stop,
    TlsFiles, Watch, WatchPlace,
};
pub use store::{Addressing, StoreSettings, Target};
pub use timely;
pub use words::{Split, WordOptions};

/// The inside of the crate, for its own tests and benchmarks. It is not part of the API.
#[cfg(feature = "internals")]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod internals {
    #[cfg(feature = "cli")]
    pub mod bench {
        pub use crate::cli::corpus::Corpus;
    }
    pub mod cluster {
        pub use crate::cluster::*;
    }
    pub mod crash_points {
        pub use crate::crash_points::*;
    }
    pub mod epoch {
        pub use crate::epoch::*;
    }
    pub mod epochs {
        pub use crate::epochs::*;
    }
    pub mod failure {
        pub use crate::failure::*;
    }
    pub mod feed {
        pub use crate::feed::*;
    }
    pub mod journal {
        pub use crate::journal::*;
    }
    pub mod lines {
        pub use crate::lines::*;
    }
    pub mod meters {
        pub use crate::meters::*;
    }
    pub mod outputs {
        pub use crate::outputs::*;
    }
    pub mod sources {
        pub use crate::sources::*;
    }
    pub mod state {
        pub use crate::state::*;
    }
    pub mod store {
        pub use crate::store::*;
    }
    pub mod supervise {
        pub use crate::supervise::*;
    }
    pub mod words {
        pub use crate::words::*;
    }
    pub mod worker {
        pub use crate::worker::*;
    }
}

/// Compiles and runs the code blocks of the README.
#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

/// Compiles and runs the code blocks of the page for embedders.
#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("../docs/embedding.md")]
struct EmbeddingDoctests;
