//! The demo: `wordtide` without arguments.
//!
//! It runs the program's own road, a real socket included: a small text is served on a loopback
//! port, five epochs of a second are counted and written, and the words seen most are read back
//! from the files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::flags::JobFlags;
use super::monitor_server::{self, RunServer};
use super::signals::{Listener, Supervisor};
use super::unused_flags::{self, RunKind};
use super::{failed, log_lines, print};
use crate::dataflows::network_wordcount;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::failure::Failure;
use crate::job::{Job, StatePlace};
use crate::monitor::HttpAddress;
use crate::outputs::Layout;
use crate::settings::Settings;
use crate::sources::{HostPort, Source};
use crate::store::Target;
use crate::supervise::supervise;

/// The folder that the demo writes to.
const ROOT: &str = "wordtide-out";
/// The prefix of its epochs.
const PREFIX: &str = "demo";
/// Epochs after which it ends.
const EPOCHS: u64 = 5;
/// Words that are shown in the end.
const TOP: usize = 10;
/// The lines that it sends to itself.
const TEXT: &str = include_str!("demo.txt");

/// Returns the output of the demo.
fn target() -> Target {
    Target::Local { root: PathBuf::from(ROOT), prefix: PREFIX.to_owned() }
}

/// Runs the demo: five epochs, or, with `--http`, until a stop. Then prints the words seen most.
///
/// Fails as a run does, and with `Failed` if there is no loopback port or the files cannot be read
/// back.
pub fn run(flags: &JobFlags) -> Result<()> {
    unused_flags::check(flags, RunKind::Demo, || Ok(target()))?;
    log_lines::install(&flags.watch, Some(0));
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| failed("cannot start the demo's source", error))?;
    let listener = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .map_err(|error| failed("cannot listen on a loopback port for the demo", error))?;
    let port = listener
        .local_addr()
        .map_err(|error| failed("the demo's source has no address", error))?
        .port();
    let serving = async {
        serve(listener).await;
        Ok(())
    };
    // The demo ends after its epochs, with its source or without.
    let source = Failure::new();
    supervise(&source, runtime.handle(), "demo source", serving);

    let committed: Arc<Mutex<Vec<Epoch>>> = Arc::default();
    let seen = Arc::clone(&committed);
    let asked = monitor_server::address(&flags.watch)?;
    // With `--http` the page stays for a while.
    let stays = asked.is_some();
    let settings = Settings {
        interval: Duration::from_secs(1),
        epochs: (!stays).then_some(EPOCHS),
        threads: 2,
        ..Settings::default()
    };
    let target = target();
    let supervisor = Supervisor::new(Listener::new()?, flags.stop.stop_timeout, false)?;
    let address = Some(asked.unwrap_or(HttpAddress::LOOPBACK));
    let token_file = flags.source.token_file.as_deref();
    let server = RunServer::start(address, token_file, supervisor.stop())?;
    let epochs = if stays { "epochs".to_owned() } else { format!("{EPOCHS} epochs") };
    let until = if stays { ", until Ctrl-C" } else { "" };
    tracing::info!("demo: {epochs} of 1 s from a line source at 127.0.0.1:{port}{until}");
    let job = Job::builder()
        .source(Source::Connect(HostPort { host: "127.0.0.1".to_owned(), port }))
        .dataflow("network_wordcount", network_wordcount::dataflow)
        .to(target)
        .state(StatePlace::None)
        .on_commit(Arc::new(move |committed| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(committed.epoch);
        }))
        .settings(settings)
        .stop(supervisor.stop())
        .meters(server.meters());
    let ended = job.start().and_then(|job| supervisor.wait(job, 0));
    server.end(ended)?;
    runtime.shutdown_background();

    let epochs = committed.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = read_back(Path::new(ROOT), &epochs)
        .map_err(|error| failed("cannot read the demo's files back", error))?;
    print(table(counts).as_bytes())?;
    tracing::info!("the counts of each epoch are in {ROOT}/{PREFIX}-*/part-*");
    Ok(())
}

/// Serves the text again and again, line by line, to the first that connects.
async fn serve(listener: TcpListener) {
    let Ok((mut client, _)) = listener.accept().await else { return };
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    for line in TEXT.lines().cycle() {
        tick.tick().await;
        if client.write_all(format!("{line}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Adds up the rows of the demo's own epochs.
fn read_back(root: &Path, epochs: &[Epoch]) -> std::io::Result<BTreeMap<String, u64>> {
    let layout = Layout::new(PREFIX, None);
    let mut counts = BTreeMap::new();
    for epoch in epochs {
        for entry in fs::read_dir(root.join(layout.dir(*epoch)))? {
            let path = entry?.path();
            if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-")) {
                continue;
            }
            for (word, count) in fs::read_to_string(path)?.lines().filter_map(row) {
                *counts.entry(word.to_owned()).or_default() += count;
            }
        }
    }
    Ok(counts)
}

/// Returns the word and count of a row in Python's form, `('tide', 3)`. The words of the demo have
/// no quotes in them.
fn row(line: &str) -> Option<(&str, u64)> {
    let (word, count) = line.strip_prefix("('")?.strip_suffix(')')?.rsplit_once("', ")?;
    Some((word, count.parse().ok()?))
}

/// Returns the most frequent words as a table.
fn table(counts: BTreeMap<String, u64>) -> String {
    let mut rows: Vec<(String, u64)> = counts.into_iter().collect();
    rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    rows.iter().take(TOP).map(|(word, count)| format!("{count:6}  {word}\n")).collect()
}
