//! Serves a text on a loopback socket, at once or by the clock.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::super::failed;
use super::texts::BenchText;
use crate::error::{Error, Result};
use crate::supervise;

/// Most bytes of one write.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// A text that waits for one connection.
pub struct LineSender {
    /// The port at which it waits.
    pub port: u16,
    /// Bytes that the other end has taken so far.
    pub sent: Arc<AtomicU64>,
    /// True when the program has ended: no connection is its own any more.
    is_over: Arc<AtomicBool>,
    ended: Receiver<io::Result<SentLines>>,
}

/// The times of lines that were sent.
#[derive(Clone, Copy, Debug)]
pub struct SentLines {
    /// The time at which the first byte was due.
    pub began: Instant,
    /// The time at which the other end had taken the last one.
    pub ended: Instant,
}

impl LineSender {
    /// Sends the text as fast as it is read.
    pub fn at_once(text: &BenchText) -> Result<LineSender> {
        let (piece, repeats) = (Arc::clone(&text.piece), text.repeats);
        LineSender::start(move |mut stream, sent| {
            let began = Instant::now();
            for _ in 0..repeats {
                for bytes in piece.chunks(WRITE_BYTES_MAX) {
                    stream.write_all(bytes)?;
                    sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
            }
            Ok(began)
        })
    }

    /// Sends `all` bytes of the text, again and again, `bytes_per_second` of them. Bytes that are
    /// due are sent each millisecond. A lagging receiver does not change when later bytes are due.
    pub fn by_the_clock(text: &BenchText, bytes_per_second: f64, all: usize) -> Result<LineSender> {
        let piece = Arc::clone(&text.piece);
        LineSender::start(move |mut stream, sent| {
            let began = Instant::now();
            let mut done = 0;
            while done < all {
                let due = (began.elapsed().as_secs_f64() * bytes_per_second) as usize;
                let due = due.min(all);
                while done < due {
                    let at = done % piece.len();
                    let end = piece.len().min(at + due - done).min(at + WRITE_BYTES_MAX);
                    stream.write_all(&piece[at..end])?;
                    done += end - at;
                    sent.store(done as u64, Ordering::Relaxed);
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Ok(began)
        })
    }

    fn start(
        send: impl FnOnce(TcpStream, &AtomicU64) -> io::Result<Instant> + Send + 'static,
    ) -> Result<LineSender> {
        let cannot = |error| failed("cannot serve lines on a loopback port", error);
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).map_err(cannot)?;
        let port = listener.local_addr().map_err(cannot)?.port();
        let (end, ended) = sync_channel(1);
        let sent = Arc::<AtomicU64>::default();
        let is_over = Arc::<AtomicBool>::default();
        let (count, over) = (Arc::clone(&sent), Arc::clone(&is_over));
        let work = move || {
            let sent =
                listener.accept().and_then(|(stream, _)| match over.load(Ordering::SeqCst) {
                    false => send(stream, &count),
                    true => Err(io::Error::other("it has ended without a connection")),
                });
            let sent = sent.map(|began| SentLines { began, ended: Instant::now() });
            // The receiver is gone where the program has failed.
            let _ = end.send(sent);
            Ok(())
        };
        // The channel ends with the thread, which is an error for who waits.
        supervise::thread("bench-sender", |error: Error| tracing::debug!("{error}"), work)?;
        Ok(LineSender { port, sent, is_over, ended })
    }

    /// Waits for the end of the lines, after that of the program. Returns the times at which they
    /// were sent.
    ///
    /// # Errors
    ///
    /// `Failed` if the other end did not take all bytes.
    pub fn finish(self) -> Result<SentLines> {
        self.is_over.store(true, Ordering::SeqCst);
        // A sender to which no program came waits for one: this wakes it. Another listens no more.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let gone = |_| Err(io::Error::other("the sender has ended"));
        let ended = self.ended.recv().unwrap_or_else(gone);
        ended.map_err(|error| failed("the program did not take all lines", error))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::corpus::Corpus;
    use super::super::super::flags::TextChoice;
    use super::*;
    use std::io::Read;

    #[test]
    fn senders_send_each_byte_once() {
        let english = TextChoice::Generated(Corpus::English);
        let text = BenchText::load(&english, 1, 1).expect("a text");
        let received = |sender: LineSender| {
            let mut stream = TcpStream::connect(("127.0.0.1", sender.port)).expect("the sender");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("all bytes");
            sender.finish().expect("an end");
            bytes
        };
        let twice = text.repeated(2);
        let sent = received(LineSender::at_once(&twice).expect("a sender"));
        assert!(sent == text.piece.repeat(2), "{} bytes", sent.len());
        // More is due at once than there is, so the clock does not matter.
        let all = text.piece.len() + 10;
        let sent = received(LineSender::by_the_clock(&text, 1e12, all).expect("a sender"));
        assert!(sent == text.piece.repeat(2)[..all], "{} bytes", sent.len());
    }

    #[test]
    fn program_that_never_connects_ends_the_sender() {
        let english = TextChoice::Generated(Corpus::English);
        let text = BenchText::load(&english, 1, 1).expect("a text");
        let error = LineSender::at_once(&text).expect("a sender").finish().expect_err("no program");
        assert!(error.to_string().contains("without a connection"), "{error}");
    }
}
