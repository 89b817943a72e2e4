//! `--http`: the server that shows a run, from before its start until after its end.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::flags::WatchFlags;
use crate::bearer_token::Token;
use crate::error::{Error, Result};
use crate::meters::Meters;
use crate::monitor::{HttpAddress, Monitor};
use crate::sources::Stop;

/// The server of a run, if it has one.
pub struct RunServer {
    /// The figures of the run.
    meters: Meters,
    /// The server; `None` without `--http`.
    monitor: Option<Monitor>,
    /// The error of a server that has failed. It ends the run, as that of any task does.
    failed: Arc<Mutex<Option<Error>>>,
}

/// Returns the address in the flags.
///
/// # Errors
///
/// `Usage` if it is none.
pub fn address(flags: &WatchFlags) -> Result<Option<HttpAddress>> {
    flags.http.as_deref().map(str::parse).transpose()
}

/// Returns the address of this process. One that a launcher has started, with index `launched`, has
/// the flags of all, and the ports follow each other.
///
/// # Errors
///
/// `Usage` if there is no such port.
pub fn address_of(flags: &WatchFlags, launched: Option<usize>) -> Result<Option<HttpAddress>> {
    let of_process = |address: HttpAddress| address.of_process(launched.unwrap_or(0));
    address(flags)?.map(of_process).transpose()
}

/// Checks that each of `processes` processes that one command starts has an address of its own.
///
/// # Errors
///
/// `Usage` if it has not.
pub fn check(flags: &WatchFlags, processes: usize) -> Result<()> {
    let last = processes.saturating_sub(1);
    address(flags)?.map_or(Ok(()), |address| address.of_process(last).map(drop))
}

impl RunServer {
    /// Starts the server at `address`, with the token in `token_file` for other hosts. `stop` ends
    /// the run if the server fails.
    ///
    /// # Errors
    ///
    /// `Configuration` if the address cannot be listened on, or the token cannot be read.
    pub fn start(
        address: Option<HttpAddress>,
        token_file: Option<&Path>,
        stop: Stop,
    ) -> Result<RunServer> {
        let (meters, failed) = (Meters::default(), Arc::<Mutex<Option<Error>>>::default());
        let token = token_file.map(Token::read).transpose()?;
        let start = |address| {
            let noted = Arc::clone(&failed);
            let fail = move |error| {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                stop.stop();
            };
            Monitor::start(&address, token, meters.clone(), fail)
        };
        let monitor = address.map(start).transpose()?;
        if let Some(monitor) = &monitor {
            tracing::info!("watch this run at {}", monitor.url());
            if !monitor.shows_page() {
                let paths = "/metrics, /health and /ready";
                tracing::info!("only {paths} answer there: give --token-file to open the page");
            }
        }
        Ok(RunServer { meters, monitor, failed })
    }

    /// Returns the figures that the server shows, for the job to write.
    pub fn meters(&self) -> Meters {
        self.meters.clone()
    }

    /// Ends the server after the run, whose result is `ended`, and returns the result.
    pub fn end<T>(self, ended: Result<T>) -> Result<T> {
        if let Some(monitor) = self.monitor {
            monitor.end(ended.as_ref().err());
        }
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => ended,
        }
    }
}
