//! `wordtide feed`: sends lines to a run with `--listen-http`, each exactly once.
//!
//! The bytes of a file or of standard input are the stream of one *producer*. They are posted in
//! batches, in order, each with its offset in the stream, and a batch is sent again until the
//! server has acknowledged that it is durable. `sender` does that over `http_client`; `follow_file`
//! and `feed_stdin` read; `file_offsets` finds where a file is to be read from.

mod feed_stdin;
mod file_offsets;
mod follow_file;
mod http_client;
mod sender;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::flags::WatchFlags;
use super::parse_values::{bytes, choice, duration, show};
use super::signals::{Listener, StopSignal};
use super::{exit_codes, failed, log_lines, stderr};
use crate::error::{Error, ErrorKind, Result};
use crate::sources::Stop;

use feed_stdin::StreamFeed;
use follow_file::FileFeed;
pub use http_client::BodyCompression;
use http_client::{Client, ClientSettings};
use sender::{FeedProgress, FeedSender};

/// Exit code of a stop that has taken too long.
const NOT_ACKNOWLEDGED: u8 = 75;

/// Largest batch.
const BATCH_BYTES_MAX: usize = 1 << 30;

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
    #[arg(long, value_name = "NAME", default_value = "none", value_parser = compression(),
        env = "WORDTIDE_COMPRESS")]
    pub compress: BodyCompression,

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

/// The names of compressions.
fn compression() -> impl clap::builder::TypedValueParser<Value = BodyCompression> {
    choice(&[
        ("none", BodyCompression::None),
        ("gzip", BodyCompression::Gzip),
        ("zstd", BodyCompression::Zstd),
    ])
}

/// Runs `wordtide feed`.
///
/// Fails with `Usage` for flags that cannot be, and with the refusal of the server.
pub fn run(flags: &FeedFlags) -> Result<u8> {
    log_lines::install(&flags.watch, Some(0));
    if flags.batch_bytes == 0 || flags.batch_bytes > BATCH_BYTES_MAX {
        let message = format!("a batch of {} bytes is out of range", flags.batch_bytes);
        return Err(Error::new(ErrorKind::Usage, message).hint("give --batch-bytes from 1 to 1GiB"));
    }
    if flags.producer.as_ref().is_some_and(|id| id.is_empty() || id.len() > 200) {
        return Err(Error::new(ErrorKind::Usage, "the id of a producer has 1 to 200 bytes")
            .hint("give a shorter --producer"));
    }
    let signals = Listener::new()?;
    let settings = ClientSettings {
        url: &flags.url,
        token_file: flags.token_file.as_deref(),
        ca_file: flags.ca_file.as_ref(),
        compression: flags.compress,
    };
    let client = Client::new(&settings)?;
    let input = FeedInput::of(flags.file.as_deref())?;
    let progress = FeedProgress::new(&input.name());
    let stop = Stop::new();
    let (stopping, seen, patience) = (stop.clone(), progress.clone(), flags.stop_timeout);
    signals.on_wish(Some((stop.clone(), patience)), move |wish| match wish {
        StopSignal::Stop(_) => {
            tracing::info!("stopping: what was read is sent; a second signal ends at once");
            stopping.stop();
        }
        StopSignal::Overdue => {
            stderr::line(format!(
                "wordtide: ended by --stop-timeout of {}: {seen}",
                show(patience)
            ));
            exit_codes::at_once(NOT_ACKNOWLEDGED);
        }
        StopSignal::EndNow(code) => {
            stderr::line(format!("wordtide: ended by a second signal: {seen}"));
            exit_codes::at_once(code);
        }
    })?;
    let sender = FeedSender {
        client,
        producer: String::new(),
        tag: None,
        progress: progress.clone(),
        piece_bytes_max: flags.batch_bytes,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed("cannot start the client", error))?;
    runtime.block_on(feed(flags, input, sender, stop))?;
    tracing::info!("{progress}");
    Ok(0)
}

/// Sends the input until it ends or the job is stopped.
async fn feed(
    flags: &FeedFlags,
    input: FeedInput,
    mut sender: FeedSender,
    stop: Stop,
) -> Result<()> {
    let FeedFlags { once, batch_bytes, batch_every, .. } = *flags;
    let (name, producer) = (input.name(), flags.producer.clone());
    let stream = |name| StreamFeed { name, producer, batch_bytes, batch_every, stop: stop.clone() };
    match input {
        FeedInput::Stdin => {
            let stdin = || Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?));
            stream(name).run(stdin, &mut sender).await
        }
        FeedInput::Pipe(path) => stream(name).run(move || File::open(path), &mut sender).await,
        FeedInput::File(path) => {
            let producer = flags.producer.clone();
            let file = FileFeed { path, producer, once, batch_bytes, batch_every, stop };
            file.run(&mut sender).await
        }
    }
}

/// The input of a feed.
enum FeedInput {
    /// Standard input.
    Stdin,
    /// A pipe or device under a file's name, which cannot be read again.
    Pipe(PathBuf),
    /// A regular file, which may grow.
    File(PathBuf),
}

impl FeedInput {
    /// Decides how a path is read. One that does not exist is a file that will.
    fn of(path: Option<&std::path::Path>) -> Result<FeedInput> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            return Ok(FeedInput::Stdin);
        };
        let unreadable = |why: String| {
            let message = format!("cannot read {}: {why}", path.display());
            Error::new(ErrorKind::Configuration, message)
        };
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Err(unreadable("it is a directory".to_owned())),
            Ok(metadata) if !metadata.is_file() => Ok(FeedInput::Pipe(path.to_owned())),
            _ => Ok(FeedInput::File(path.to_owned())),
        }
    }

    /// Returns the name of the input in messages.
    fn name(&self) -> String {
        match self {
            FeedInput::Stdin => "standard input".to_owned(),
            FeedInput::Pipe(path) | FeedInput::File(path) => path.display().to_string(),
        }
    }
}
