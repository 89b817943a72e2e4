//! Shows a run: a live page, metrics, health checks and a small API, by one HTTP server.
//!
//! Everything that is shown comes from the [`Meters`] of the job, which every layer writes; nothing
//! here is called by the layers below. The server has a thread and a runtime of its own, with a
//! lower priority, so it can neither slow nor end a run:
//!
//! ```text
//! Meters ──► status, metrics ──► answer ◄── server ◄── browser, Prometheus, probes
//!       └──► events (one ticker) ──► one stream for each browser
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | `listen_address` | the value of `--http`, and its socket |
//! | `server`, `slow_client_timeout` | connections, their limits in number, size and time |
//! | `routes`, `response_headers` | the answer to each path, and its headers |
//! | `authorize` | the right to read an answer |
//! | `site` | what all requests share |
//! | `status`, `metrics` | the state of the run as JSON, and in the format of Prometheus |
//! | `event_stream` | the stream of committed epochs |
//! | `page` | the page, which is one file |

mod authorize;
mod event_stream;
mod listen_address;
mod metrics;
mod page;
mod response_headers;
mod routes;
mod server;
mod site;
mod slow_client_timeout;
mod status;

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::sync::watch;

use crate::bearer_token::Token;
use crate::error::{Error, ErrorKind, Result};
use crate::meters::{Meters, Phase};
use crate::supervise;

use authorize::Access;
pub use listen_address::HttpAddress;
use site::Site;

/// How long a run that has failed still answers, so that a probe or a page learns the reason.
const LINGER: Duration = Duration::from_secs(1);

/// How long the end of a run waits until browsers have the last epoch.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// The HTTP server of a run.
#[derive(Debug)]
pub struct Monitor {
    /// The address that the server listens on.
    address: SocketAddr,
    /// True if the page can be read, and not the metrics alone.
    shows_page: bool,
    /// The figures that are shown.
    meters: Meters,
    /// True when the run has ended.
    ending: watch::Sender<bool>,
    /// Ends with the server.
    served: Receiver<()>,
}

impl Monitor {
    /// Listens at `address` and serves the figures in `meters`. With `token`, paths that show words
    /// can be read from other hosts. `on_failure` is called if the server itself fails.
    ///
    /// # Errors
    ///
    /// `Configuration` if the address cannot be listened on.
    pub fn start(
        address: &HttpAddress,
        token: Option<Token>,
        meters: Meters,
        on_failure: impl FnOnce(Error) + Send + 'static,
    ) -> Result<Monitor> {
        let listener = address.listen()?;
        let address = listener.local_addr().map_err(|cause| address.refused(cause))?;
        meters.keep_top();
        let (ending, ended) = watch::channel(false);
        let (alive, served) = sync_channel(0);
        let access = Access::new(address, token);
        let shows_page = access.shows_words();
        let site = Site::new(meters.clone(), access, ended);
        let serve = move || {
            let _alive = alive;
            server::run(listener, site)
        };
        supervise::thread("http", on_failure, serve)?;
        Ok(Monitor { address, shows_page, meters, ending, served })
    }

    /// Returns true if the page can be read: beyond loopback it needs a token.
    pub fn shows_page(&self) -> bool {
        self.shows_page
    }

    /// Returns the address of the page. A server that listens on all addresses is named by
    /// loopback.
    pub fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}/")
    }

    /// Ends the server when the run has ended: sends the last events and closes.
    ///
    /// A run that has failed is shown for a moment longer. `failure` is its error, if it has one.
    pub fn end(self, failure: Option<&Error>) {
        if let Some(error) = failure {
            // A start that was stopped is no failure.
            let is_stop = error.kind() == ErrorKind::Stopped;
            let phase = if is_stop { Phase::Stopping } else { Phase::Failed };
            self.meters.enter(phase, &error.to_string());
        }
        if self.meters.life().phase == Phase::Failed {
            self.wait(LINGER);
        }
        self.ending.send_replace(true);
        self.wait(FLUSH_TIMEOUT);
    }

    /// Waits until the server has ended, no longer than `limit`.
    fn wait(&self, limit: Duration) {
        match self.served.recv_timeout(limit) {
            // Nothing is sent: the channel ends with the server.
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}
