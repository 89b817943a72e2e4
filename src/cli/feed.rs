//! `wordtide feed`: sends lines to a run with `--listen-http`, each exactly once.
//!
//! The bytes of a file or of standard input are the stream of one *producer*. They are posted in
//! batches, in order, each with its offset in the stream, and a batch is sent again until the
//! server has acknowledged that it is durable. `sender` does that over `http_client`; `follow_file`
//! and `feed_stdin` read; `file_offsets` finds where a file is to be read from, and `successors`
//! the files that take its place.

mod feed_stdin;
mod file_offsets;
mod follow_file;
mod http_client;
mod sender;
mod successors;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::flags::FeedFlags;
use super::parse_values::show;
use super::signals::{Listener, StopSignal};
use super::{end_process, exit_codes, failed, given_flags, log_lines, stderr, unused_flags};
use crate::error::{Error, ErrorKind, Result};
use crate::sources::Stop;

use feed_stdin::StreamFeed;
use follow_file::FileFeed;
use http_client::{Client, ClientSettings};
use sender::{FeedProgress, FeedSender};

/// Largest batch.
const BATCH_BYTES_MAX: usize = 1 << 30;

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
            .hint("give --producer such an id"));
    }
    if given_flags::was_typed("ca-file") && !flags.url.starts_with("https:") {
        return Err(unused_flags::useless("ca-file", "a URL that begins with https"));
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
            end_process::at_once(exit_codes::exit_code(ErrorKind::Temporary));
        }
        StopSignal::EndNow(code) => {
            stderr::line(format!("wordtide: ended by a second signal: {seen}"));
            end_process::at_once(code);
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
