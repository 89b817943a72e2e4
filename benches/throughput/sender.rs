//! Serves a text on a loopback socket, at once or by the clock.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Result;

/// A text that waits for one connection.
pub(crate) struct Sender {
    pub(crate) port: u16,
    thread: JoinHandle<std::io::Result<Instant>>,
}

impl Sender {
    /// Sends the text as fast as it is read.
    pub(crate) fn at_once(text: Arc<Vec<u8>>) -> Result<Sender> {
        Sender::start(move |mut stream| {
            let began = Instant::now();
            stream.write_all(&text)?;
            Ok(began)
        })
    }

    /// Sends the lines of `text` again and again for `seconds`, `bytes_per_second` of them. Bytes
    /// that are due are sent each millisecond. A lagging receiver does not change when later bytes
    /// are due.
    pub(crate) fn by_the_clock(
        text: Arc<Vec<u8>>,
        bytes_per_second: f64,
        seconds: f64,
    ) -> Result<Sender> {
        Sender::start(move |mut stream| {
            let began = Instant::now();
            let all = (bytes_per_second * seconds) as usize;
            let mut sent = 0;
            while sent < all {
                let due = (began.elapsed().as_secs_f64() * bytes_per_second) as usize;
                while sent < due.min(all) {
                    let at = sent % text.len();
                    let end = text.len().min(at + due - sent);
                    stream.write_all(&text[at..end])?;
                    sent += end - at;
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
            stream.write_all(b"\n")?;
            Ok(began)
        })
    }

    fn start(
        send: impl FnOnce(std::net::TcpStream) -> std::io::Result<Instant> + Send + 'static,
    ) -> Result<Sender> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let port = listener.local_addr()?.port();
        let thread = std::thread::spawn(move || send(listener.accept()?.0));
        Ok(Sender { port, thread })
    }

    /// Waits for the end. Returns the time at which the first byte was due.
    pub(crate) fn finish(self) -> Result<Instant> {
        Ok(self.thread.join().map_err(|_| "the sender panicked")??)
    }
}
