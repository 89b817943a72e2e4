//! What travels on a control link: a length (`u32`, little endian), a kind, and few fields.
//!
//! A frame has at most [`FRAME_BYTES_MAX`] bytes after its length. A longer one, or one of a kind
//! nobody knows, is an error of the peer that ends the link: both ends run the same version (the
//! fingerprint of the handshake says so), hence there is nothing to skip politely.

use std::fmt;

/// Most bytes of a frame after its length.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the length before each frame.
const LENGTH_BYTES: usize = 4;

/// What one process tells another while the job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// From process 0: the open epoch is cut as `epoch`, and the next one is to be called `next`.
    Tick {
        /// The epoch that ends here, in Unix milliseconds.
        epoch: u64,
        /// The epoch that begins here, in Unix milliseconds.
        next: u64,
    },
    /// To process 0: please end the whole cluster cleanly.
    AskStop {
        /// Why, in words for the log.
        reason: String,
    },
    /// From process 0: `epoch` is the last one.
    Stop {
        /// The last epoch to count, in Unix milliseconds.
        epoch: u64,
        /// Why, in words for the log.
        reason: String,
    },
    /// Anything else the job wants to say, in its own encoding.
    Other(Vec<u8>),
}

/// All that a control link carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Heartbeat,
    Message(Message),
    /// What a process brings to a common decision.
    Facts {
        round: u32,
        bytes: Vec<u8>,
    },
    /// What process 0 decided, or (kind, message) of the error that ends all.
    Answer {
        round: u32,
        outcome: Result<Vec<u8>, (u8, String)>,
    },
    /// The first cause of the cluster's end, as `reporter` saw it.
    Lost {
        process: u32,
        reporter: u32,
        cause: String,
    },
    /// A clean end.
    Bye,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadFrame {
    TooLong(u32),
    Kind(u8),
    Short,
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadFrame::TooLong(bytes) => write!(f, "it sent a frame of {bytes} bytes"),
            BadFrame::Kind(kind) => write!(f, "it sent a frame of unknown kind {kind}"),
            BadFrame::Short => f.write_str("it sent a frame that ends too early"),
        }
    }
}

impl Frame {
    /// The frame with its length, or `None` if it would be above the limit.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut out = vec![0; LENGTH_BYTES];
        match self {
            Frame::Heartbeat => out.push(0),
            Frame::Message(Message::Tick { epoch, next }) => {
                put(&mut out, 1, &[&epoch.to_le_bytes(), &next.to_le_bytes()]);
            }
            Frame::Message(Message::AskStop { reason }) => put(&mut out, 2, &[reason.as_bytes()]),
            Frame::Message(Message::Stop { epoch, reason }) => {
                put(&mut out, 3, &[&epoch.to_le_bytes(), reason.as_bytes()]);
            }
            Frame::Message(Message::Other(bytes)) => put(&mut out, 4, &[bytes]),
            Frame::Facts { round, bytes } => put(&mut out, 5, &[&round.to_le_bytes(), bytes]),
            Frame::Answer { round, outcome: Ok(bytes) } => {
                put(&mut out, 6, &[&round.to_le_bytes(), bytes]);
            }
            Frame::Answer { round, outcome: Err((kind, message)) } => {
                put(&mut out, 7, &[&round.to_le_bytes(), &[*kind], message.as_bytes()]);
            }
            Frame::Lost { process, reporter, cause } => {
                let numbers = [process.to_le_bytes(), reporter.to_le_bytes()];
                put(&mut out, 8, &[&numbers[0], &numbers[1], cause.as_bytes()]);
            }
            Frame::Bye => out.push(9),
        }
        let length = out.len() - LENGTH_BYTES;
        if length > FRAME_BYTES_MAX {
            return None;
        }
        out[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
        Some(out)
    }

    fn decode(body: &[u8]) -> Result<Frame, BadFrame> {
        let mut rest = Rest(body);
        let [kind] = rest.take()?;
        let frame = match kind {
            0 => Frame::Heartbeat,
            1 => Frame::Message(Message::Tick {
                epoch: u64::from_le_bytes(rest.take()?),
                next: u64::from_le_bytes(rest.take()?),
            }),
            2 => Frame::Message(Message::AskStop { reason: rest.text() }),
            3 => Frame::Message(Message::Stop {
                epoch: u64::from_le_bytes(rest.take()?),
                reason: rest.text(),
            }),
            4 => Frame::Message(Message::Other(rest.0.to_vec())),
            5 => Frame::Facts { round: u32::from_le_bytes(rest.take()?), bytes: rest.0.to_vec() },
            6 => Frame::Answer {
                round: u32::from_le_bytes(rest.take()?),
                outcome: Ok(rest.0.to_vec()),
            },
            7 => Frame::Answer {
                round: u32::from_le_bytes(rest.take()?),
                outcome: Err((rest.take::<1>()?[0], rest.text())),
            },
            8 => Frame::Lost {
                process: u32::from_le_bytes(rest.take()?),
                reporter: u32::from_le_bytes(rest.take()?),
                cause: rest.text(),
            },
            9 => Frame::Bye,
            other => return Err(BadFrame::Kind(other)),
        };
        Ok(frame)
    }
}

fn put(out: &mut Vec<u8>, kind: u8, fields: &[&[u8]]) {
    out.push(kind);
    fields.iter().for_each(|field| out.extend_from_slice(field));
}

/// What is left of a frame's body.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadFrame> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(BadFrame::Short)?;
        self.0 = rest;
        Ok(*field)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(self.0).into_owned()
    }
}

/// Cuts received bytes into frames; holds at most one unfinished frame and what was pushed last.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    start: usize,
}

impl Frames {
    pub(super) fn push(&mut self, received: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(received);
    }

    /// The next whole frame, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, BadFrame> {
        let waiting = &self.bytes[self.start..];
        let Some((length, rest)) = waiting.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length);
        if length as usize > FRAME_BYTES_MAX {
            return Err(BadFrame::TooLong(length));
        }
        let Some(body) = rest.get(..length as usize) else {
            return Ok(None);
        };
        let frame = Frame::decode(body)?;
        self.start += LENGTH_BYTES + length as usize;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            Just(Frame::Heartbeat),
            Just(Frame::Bye),
            any::<(u64, u64)>()
                .prop_map(|(epoch, next)| Frame::Message(Message::Tick { epoch, next })),
            any::<String>().prop_map(|reason| Frame::Message(Message::AskStop { reason })),
            any::<(u64, String)>()
                .prop_map(|(epoch, reason)| Frame::Message(Message::Stop { epoch, reason })),
            bytes().prop_map(|bytes| Frame::Message(Message::Other(bytes))),
            (any::<u32>(), bytes()).prop_map(|(round, bytes)| Frame::Facts { round, bytes }),
            (any::<u32>(), bytes())
                .prop_map(|(round, bytes)| Frame::Answer { round, outcome: Ok(bytes) }),
            any::<(u32, u8, String)>().prop_map(|(round, kind, message)| Frame::Answer {
                round,
                outcome: Err((kind, message))
            }),
            any::<(u32, u32, String)>().prop_map(|(process, reporter, cause)| Frame::Lost {
                process,
                reporter,
                cause
            }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_the_wire_in_any_cut(
            sent in proptest::collection::vec(any_frame(), 0..12),
            cut in 1usize..64,
        ) {
            let wire: Vec<u8> = sent.iter().flat_map(|frame| frame.encode().unwrap()).collect();
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for piece in wire.chunks(cut) {
                frames.push(piece);
                while let Some(frame) = frames.next().unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(wire in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut frames = Frames::default();
            frames.push(&wire);
            while let Ok(Some(_)) = frames.next() {}
        }
    }

    #[test]
    fn a_frame_above_the_limit_is_neither_sent_nor_waited_for() {
        let largest = Message::Other(vec![1; FRAME_BYTES_MAX - 1]);
        assert!(Frame::Message(largest).encode().is_some());
        let larger = Message::Other(vec![1; FRAME_BYTES_MAX]);
        assert_eq!(Frame::Message(larger).encode(), None);
        let mut frames = Frames::default();
        frames.push(&u32::MAX.to_le_bytes());
        assert_eq!(frames.next(), Err(BadFrame::TooLong(u32::MAX)));
    }
}
