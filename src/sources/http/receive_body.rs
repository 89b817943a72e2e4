//! The body of a request: received and decompressed in pieces, within limits of size, time and
//! memory.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::body_memory::{BodyMemory, Dropped, Lease};
use super::decode::Coding;
use super::responses::Refusal;

/// The first piece of a body, in bytes: most bodies that come slowly are short.
const PIECE_BYTES_MIN: usize = 4 << 10;
/// The largest piece.
const PIECE_BYTES_MAX: usize = 128 << 10;

/// Longest time in which a sender may send nothing of a body that it has begun.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Time for a body, beside that of its bytes.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Least bytes a second of a long body.
const RATE_MIN: usize = 16 << 10;

/// Bodies that are decompressed at the same time. More would not be faster, and each may need a
/// window of 8 MiB.
const DECODERS_MAX: usize = 2;

/// The limits of bodies.
#[derive(Debug)]
pub struct BodyLimits {
    /// Most bytes of a body, as it is sent and decompressed.
    bytes_max: usize,
    /// The memory that all bodies share.
    memory: Arc<BodyMemory>,
    /// Turns of decompressing, since it takes a thread.
    decoders: Semaphore,
}

/// The bytes of a body.
#[derive(Debug)]
pub struct Received {
    /// The bytes of the body, in pieces.
    pieces: VecDeque<Vec<u8>>,
    /// The length of all pieces.
    bytes: usize,
    /// The memory that they hold, given back with them.
    lease: Lease,
}

impl BodyLimits {
    /// Returns the limits for bodies of at most `bytes_max` bytes. All together may take 32 MiB of
    /// memory, or that of two of the largest.
    pub fn new(bytes_max: usize) -> BodyLimits {
        let memory = BodyMemory::new((32 << 20).max(2 * (bytes_max + PIECE_BYTES_MAX)));
        BodyLimits { bytes_max, memory, decoders: Semaphore::new(DECODERS_MAX) }
    }

    /// Refuses a body that is announced to be larger than the limit.
    pub fn check_announced(&self, bytes: u64) -> Result<(), Refusal> {
        if bytes > self.bytes_max as u64 { Err(self.too_large()) } else { Ok(()) }
    }

    /// Receives a body and decompresses it.
    ///
    /// # Errors
    ///
    /// 413 above the limit of bytes, 408 if the sender is too slow, 400 if the body is broken or
    /// cannot be decompressed, 503 if there is no memory for it.
    pub async fn receive(&self, mut body: Incoming, coding: Coding) -> Result<Received, Refusal> {
        let (mut received, begun) = (Received::new(self.memory.lease()), Instant::now());
        loop {
            let earned = Duration::from_secs((received.bytes / RATE_MIN) as u64);
            let left = (TIME_MAX + earned).saturating_sub(begun.elapsed()).min(IDLE_MAX);
            let frame = tokio::select! {
                biased;
                why = received.lease.dropped() => return Err(dropped(why)),
                frame = timeout(left, next_bytes(&mut body)) => frame,
            };
            let frame = match frame {
                Err(_) => return Err(too_slow()),
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    let message = format!("the body is broken: {error}");
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
                }
                Ok(Some(Ok(frame))) => frame,
            };
            if received.bytes + frame.len() > self.bytes_max {
                return Err(self.too_large());
            }
            received.lease.received();
            received.push(&frame).await.map_err(dropped)?;
        }
        received.lease.complete();
        // No bytes are the text of no bytes, whatever the encoding.
        if coding == Coding::Identity || received.bytes == 0 {
            return Ok(received);
        }
        self.decode(received, coding).await
    }

    /// Decompresses a body, on its turn.
    ///
    /// Refuses with 400 what cannot be decompressed, and with 413 what becomes too long.
    async fn decode(&self, body: Received, coding: Coding) -> Result<Received, Refusal> {
        let _turn = self.decoders.acquire().await.map_err(|_| Refusal::stopping())?;
        let broken = |error: io::Error| {
            let message = format!("the body cannot be decompressed: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, message)
        };
        let mut text = Received::new(self.memory.lease());
        text.lease.complete();
        let mut reader = coding.reader(Drain { body, at: 0 }).map_err(broken)?;
        loop {
            text.reserve(PIECE_BYTES_MAX).await.map_err(dropped)?;
            let read = text.fill(&mut reader).map_err(broken)?;
            if text.bytes > self.bytes_max {
                return Err(self.too_large());
            }
            if read == 0 {
                return Ok(text);
            }
            // Other connections share this thread.
            tokio::task::yield_now().await;
        }
    }

    /// Returns the refusal of a body above the limit.
    fn too_large(&self) -> Refusal {
        let message = format!("a body may have {} bytes (--max-body-bytes)", self.bytes_max);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
}

/// Returns the next bytes of a body; `None` at its end. Fields after the body are passed over.
async fn next_bytes(body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
    loop {
        match body.frame().await? {
            Ok(frame) => match frame.into_data() {
                Ok(bytes) => return Some(Ok(bytes)),
                Err(_) => continue,
            },
            Err(error) => return Some(Err(error)),
        }
    }
}

/// The refusal of a body that has lost its memory.
fn dropped(why: Dropped) -> Refusal {
    match why {
        Dropped::Stalled => too_slow(),
        Dropped::Crowded => Refusal::later("too many bodies at once: send it again later"),
    }
}

/// Returns the refusal of a body that stood still.
fn too_slow() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly")
}

impl Received {
    /// Returns an empty body that holds `lease`.
    fn new(lease: Lease) -> Received {
        Received { pieces: VecDeque::new(), bytes: 0, lease }
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Returns the pieces in order, without their first `skipped` bytes.
    pub fn pieces(&self, mut skipped: usize) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().filter_map(move |piece| {
            let at = skipped.min(piece.len());
            skipped -= at;
            (at < piece.len()).then(|| &piece[at..])
        })
    }

    /// Appends `bytes`.
    async fn push(&mut self, mut bytes: &[u8]) -> Result<(), Dropped> {
        while !bytes.is_empty() {
            self.reserve(self.bytes.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)).await?;
            let Some(piece) = self.pieces.back_mut() else { break };
            let now = bytes.len().min(piece.capacity() - piece.len());
            piece.extend_from_slice(&bytes[..now]);
            self.bytes += now;
            bytes = &bytes[now..];
        }
        Ok(())
    }

    /// Makes room in the last piece, with a new one of `capacity` bytes if it is full.
    async fn reserve(&mut self, capacity: usize) -> Result<(), Dropped> {
        if self.pieces.back().is_none_or(|piece| piece.len() == piece.capacity()) {
            self.lease.grow(capacity).await?;
            // A greater capacity than was asked for is not filled.
            self.pieces.push_back(Vec::with_capacity(capacity));
        }
        Ok(())
    }

    /// Reads into the room of the last piece; returns the number of bytes, 0 at the end.
    fn fill(&mut self, reader: &mut impl Read) -> io::Result<usize> {
        let Some(piece) = self.pieces.back_mut() else { return Ok(0) };
        let (begin, mut end) = (piece.len(), piece.len());
        piece.resize(piece.capacity(), 0);
        while end < piece.len() {
            match reader.read(&mut piece[end..]) {
                Ok(0) => break,
                Ok(bytes) => end += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        piece.truncate(end);
        self.bytes += end - begin;
        Ok(end - begin)
    }
}

/// Reads a body and gives back the memory of each piece that was read.
#[derive(Debug)]
struct Drain {
    /// The body, whose first piece goes first.
    body: Received,
    /// Bytes of the first piece that were read.
    at: usize,
}

impl Read for Drain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.body.pieces.front() else { return Ok(0) };
        let now = into.len().min(piece.len() - self.at);
        into[..now].copy_from_slice(&piece[self.at..self.at + now]);
        self.at += now;
        if self.at == piece.len() {
            self.body.lease.shrink(piece.capacity());
            self.body.pieces.pop_front();
            self.at = 0;
        }
        Ok(now)
    }
}
