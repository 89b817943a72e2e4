//! Flags of the workers: threads, processes and hosts.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::super::parse_values::duration;

/// Threads, processes and hosts.
#[derive(Debug, Args)]
#[command(next_help_heading = "Workers")]
pub struct WorkerFlags {
    /// Worker threads in each process
    #[arg(
        short = 'w',
        long,
        visible_alias = "workers",
        value_name = "N",
        default_value_t = 1,
        env = "WORDTIDE_THREADS"
    )]
    pub threads: usize,

    /// Processes of the cluster; without -p and addresses this command starts all of them
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, env = "WORDTIDE_PROCESSES")]
    pub processes: usize,

    /// Index of this process, from 0; auto takes the number at the end of the host's name
    #[arg(short = 'p', long, value_name = "I|auto", env = "WORDTIDE_PROCESS")]
    pub process: Option<String>,

    /// File with the address HOST:PORT of each process, one a line (help is --help or -?)
    #[arg(
        short = 'h',
        long,
        value_name = "FILE",
        env = "WORDTIDE_HOSTFILE",
        conflicts_with = "addresses"
    )]
    pub hostfile: Option<PathBuf>,

    /// The same addresses as a list, separated by commas
    #[arg(long, value_name = "HOST:PORT,…", env = "WORDTIDE_ADDRESSES",
        value_parser = NonEmptyStringValueParser::new())]
    pub addresses: Option<String>,

    /// File with the secret that the processes of a cluster share; needed beyond loopback
    #[arg(long, value_name = "FILE", env = "WORDTIDE_MESH_KEY_FILE")]
    pub mesh_key_file: Option<PathBuf>,

    /// Longest time to wait for the other processes at the start
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration,
        env = "WORDTIDE_START_TIMEOUT")]
    pub start_timeout: Duration,

    /// Longest time that a process may be silent while its host is reachable
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration,
        env = "WORDTIDE_STALL_TIMEOUT")]
    pub stall_timeout: Duration,

    /// How many times the processes that this command starts are started again after a failure
    #[arg(long, value_name = "N", default_value_t = 0, env = "WORDTIDE_RESTART")]
    pub restart: u32,
}
