//! The framing of timely's data streams: headers are parsed and checked as bytes arrive.
//!
//! A message is a header of six big-endian `u64` and as many bytes as its length. The module `data`
//! has the reason for the checks.

use std::io;
use std::ops::Range;

/// Length of timely's message header, in bytes.
pub const HEADER_BYTES: usize = 48;
/// Most bytes of one message. A run of words is cut far below that; only a single key may be long.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;
/// Greatest identifier of a channel that is accepted. A dataflow has some dozens of channels.
const CHANNEL_MAX: u64 = 1 << 20;

/// The workers at the two ends of a link.
#[derive(Clone, Debug)]
pub struct LinkWorkers {
    /// The workers that send over the link.
    sources: Range<u64>,
    /// The workers that receive over the link.
    targets: Range<u64>,
}

impl LinkWorkers {
    /// Returns the workers of `peer` as sources and those of process `own` as targets, with
    /// `threads` workers in each process.
    pub fn between(peer: usize, own: usize, threads: usize) -> LinkWorkers {
        let of = |process: usize| (process * threads) as u64..((process + 1) * threads) as u64;
        LinkWorkers { sources: of(peer), targets: of(own) }
    }

    /// Returns the length in a header; 0 is the end of the stream.
    ///
    /// Fails if a number in the header is out of the range that timely can use.
    pub fn check(&self, header: &[u8; HEADER_BYTES]) -> io::Result<u64> {
        let (fields, _) = header.as_chunks::<8>();
        let [channel, source, first, end, length, _] =
            std::array::from_fn(|at| u64::from_be_bytes(fields[at]));
        if length == 0 {
            return Ok(0);
        }
        let is_sound = channel <= CHANNEL_MAX
            && self.sources.contains(&source)
            && first < end
            && self.targets.contains(&first)
            && end <= self.targets.end
            && length <= MESSAGE_BYTES_MAX;
        if is_sound {
            return Ok(length);
        }
        Err(io::Error::other(format!(
            "it sent a message of {length} bytes from worker {source} to workers {first}..{end} \
             on channel {channel}"
        )))
    }
}

/// A position in a stream of timely's messages.
#[derive(Clone, Debug)]
pub struct Framing {
    /// A header that is not whole yet, or that is whole and not handed on yet.
    pub header: [u8; HEADER_BYTES],
    /// The bytes of `header` that were received; 0 between headers.
    pub filled: usize,
    /// The bytes of a whole header that were handed on; all of them if none is held back.
    pub handed_on: usize,
    /// The bytes of the current message that are still to come.
    pub payload_left: u64,
    /// True after the header that ends the stream.
    pub ended: bool,
}

impl Framing {
    /// Returns the position at the beginning of a stream.
    pub fn new() -> Framing {
        Framing {
            header: [0; HEADER_BYTES],
            filled: 0,
            handed_on: HEADER_BYTES,
            payload_left: 0,
            ended: false,
        }
    }

    /// Advances over `bytes`. Returns how many of them may be handed on: all except a header at
    /// their end that is not whole.
    ///
    /// Fails if a header is out of range, or if bytes follow the end.
    pub fn advance(&mut self, bytes: &[u8], ends: &LinkWorkers) -> io::Result<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.ended {
                return Err(io::Error::other("it sent data after its end"));
            }
            let rest = &bytes[at..];
            if self.payload_left > 0 {
                let skipped = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
                let skipped = skipped.min(rest.len());
                self.payload_left -= skipped as u64;
                at += skipped;
                continue;
            }
            let taken = (HEADER_BYTES - self.filled).min(rest.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&rest[..taken]);
            self.filled += taken;
            if self.filled < HEADER_BYTES {
                // Timely must not see a part of a header that may turn out to be bad.
                return Ok(at);
            }
            self.filled = 0;
            self.payload_left = ends.check(&self.header)?;
            self.ended = self.payload_left == 0;
            at += taken;
        }
        Ok(at)
    }

    /// Copies the rest of a held-back header to `buffer`. Returns the number of bytes.
    pub fn hand_on(&mut self, buffer: &mut [u8]) -> usize {
        let rest = &self.header[self.handed_on..];
        let taken = rest.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        self.handed_on += taken;
        taken
    }

    /// Fills `buffer` with zeros: first the rest of the current message, then a header of zeros,
    /// which ends the stream. Returns the number of bytes.
    pub fn pad(&mut self, buffer: &mut [u8]) -> usize {
        let wanted = match self.payload_left {
            0 => HEADER_BYTES - self.filled,
            left => usize::try_from(left).unwrap_or(usize::MAX),
        };
        let padded = wanted.min(buffer.len());
        buffer[..padded].fill(0);
        match self.payload_left {
            0 => self.filled += padded,
            _ => self.payload_left -= padded as u64,
        }
        self.ended = self.filled == HEADER_BYTES;
        padded
    }
}
