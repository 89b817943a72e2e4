//! The arguments of `wordtide feed`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::parse_values::{bytes, duration, named};
use super::WatchFlags;
use crate::outputs::format::Compression;

/// The arguments of `wordtide feed`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Feed")]
pub struct FeedFlags {
    /// The run to send to: http://HOST:PORT or https://HOST:PORT
    #[arg(value_name = "URL")]
    pub url: String,

    /// A file to follow as `tail -F` does; standard input if none is given
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Finish at the end of the file, instead of following it
    #[arg(long, env = "WORDTIDE_ONCE")]
    pub once: bool,

    /// Name of the stream: a stream that the server knows goes on where it was. By default a name
    /// made of host, path and file, and a random one for standard input
    #[arg(long, value_name = "ID", env = "WORDTIDE_PRODUCER")]
    pub producer: Option<String>,

    /// File with the token that the run asks for (its --token-file)
    #[arg(long, value_name = "FILE", env = "WORDTIDE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// PEM file of certificates to trust, in addition to the system's
    #[arg(long, value_name = "FILE", env = "WORDTIDE_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// Compression of what is sent
    #[arg(long, value_name = "NAME", default_value = "none", value_parser = named::<Compression>(),
        env = "WORDTIDE_COMPRESS")]
    pub compress: Compression,

    /// Most bytes that are sent at once
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = bytes,
        env = "WORDTIDE_BATCH_BYTES")]
    pub batch_bytes: usize,

    /// Longest time that lines wait for others to be sent with
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration,
        env = "WORDTIDE_BATCH_EVERY")]
    pub batch_every: Duration,

    /// Longest time that a stop (SIGINT, SIGTERM, SIGHUP) may take to send what was read
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration,
        env = "WORDTIDE_STOP_TIMEOUT")]
    pub stop_timeout: Duration,

    /// The flags of the log.
    #[command(flatten)]
    pub watch: WatchFlags,
}
