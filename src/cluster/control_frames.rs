//! The frames of a control link: a length (`u32`, little endian), a kind and a few fields.
//!
//! A frame has at most [`FRAME_BYTES_MAX`] bytes after its length. A longer one, or one of an
//! unknown kind, is a fault of the peer and ends the link. The handshake has checked that both ends
//! run the same version, so there is no frame to skip.
//!
//! A message above [`PIECE_BYTES`] is sent in *pieces*, each a frame of its own, and [`Assembly`]
//! joins them. The receiver acknowledges each piece before the next one is sent. So at most one
//! piece waits in the kernel, and the window of a receiver that does not read for a while stays
//! open; the kernel would take a closed window for a dead host. A message has at most
//! [`MESSAGE_BYTES_MAX`] bytes.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// Most bytes of a frame after its length.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a message that is sent as one frame, and of a piece of a longer one.
pub const PIECE_BYTES: usize = 32 * 1024;
/// Most bytes of a message. The largest one is the agreement of a start, with a row for each epoch
/// found: this is enough for a million.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Bytes of the length before each frame.
const LENGTH_BYTES: usize = 4;

/// A message between processes while the job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// From process 0: the open epoch is cut as `epoch`, and `next` opens.
    Tick {
        /// The epoch that ends here, in Unix milliseconds.
        epoch: u64,
        /// The epoch that begins here, in Unix milliseconds.
        next: u64,
    },
    /// To process 0: a request to end the whole cluster cleanly.
    AskStop {
        /// The reason, for the log.
        reason: String,
    },
    /// From process 0: `epoch` is the last one.
    Stop {
        /// The last epoch to count, in Unix milliseconds.
        epoch: u64,
        /// The reason, for the log.
        reason: String,
    },
    /// Any other message of the job, in its own encoding.
    Other(Vec<u8>),
}

/// A frame of a control link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A sign of life.
    Heartbeat,
    /// A message of the job.
    Message(Message),
    /// The facts of a process for a common decision.
    Facts { round: u32, bytes: Vec<u8> },
    /// The decision of process 0, or the kind and message of its error.
    Answer { round: u32, outcome: Result<Vec<u8>, (u8, String)> },
    /// The first cause of the cluster's end, as `reporter` saw it.
    Lost { process: u32, reporter: u32, cause: String },
    /// A clean end.
    Bye,
    /// A part of a message that is too long for one frame.
    Piece { is_last: bool, bytes: Vec<u8> },
    /// The acknowledgement of a piece: the next one may be sent.
    PieceTaken,
    /// The figures of a process, in the job's own encoding.
    Figures(Vec<u8>),
}

/// A reason for which bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// Its length is above [`FRAME_BYTES_MAX`].
    TooLong(u32),
    /// Its kind is unknown, or not allowed in pieces.
    Kind(u8),
    /// It ends within a field.
    Short,
    /// Its pieces are above [`MESSAGE_BYTES_MAX`] together.
    TooManyPieces,
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadFrame::TooLong(bytes) => write!(f, "it sent a frame of {bytes} bytes"),
            BadFrame::Kind(kind) => write!(f, "it sent a frame of unknown kind {kind}"),
            BadFrame::TooManyPieces => {
                write!(f, "it sent a control message above {MESSAGE_BYTES_MAX} bytes")
            }
            BadFrame::Short => f.write_str("it sent a frame that ends too early"),
        }
    }
}

/// Returns the error for a message above the limit that this process was about to send.
pub fn too_long(bytes: usize) -> Error {
    let message = format!("a control message has {bytes} bytes; at most {MESSAGE_BYTES_MAX} go");
    Error::new(ErrorKind::Failed, message)
}

/// Returns the body of a frame with its length before it.
pub fn with_length(body: &[u8]) -> Vec<u8> {
    debug_assert!(body.len() <= FRAME_BYTES_MAX, "a frame of {} bytes", body.len());
    [&(body.len() as u32).to_le_bytes(), body].concat()
}

impl Frame {
    /// Returns the frame with its length before it. The frame must be a short one: a longer message
    /// is sent in pieces.
    pub fn encode(&self) -> Vec<u8> {
        with_length(&self.body())
    }

    /// Returns the kind and the fields, of any length.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Frame::Heartbeat => vec![0],
            Frame::Message(Message::Tick { epoch, next }) => {
                joined(1, &[&epoch.to_le_bytes(), &next.to_le_bytes()])
            }
            Frame::Message(Message::AskStop { reason }) => joined(2, &[reason.as_bytes()]),
            Frame::Message(Message::Stop { epoch, reason }) => {
                joined(3, &[&epoch.to_le_bytes(), reason.as_bytes()])
            }
            Frame::Message(Message::Other(bytes)) => joined(4, &[bytes]),
            Frame::Facts { round, bytes } => joined(5, &[&round.to_le_bytes(), bytes]),
            Frame::Answer { round, outcome: Ok(bytes) } => {
                joined(6, &[&round.to_le_bytes(), bytes])
            }
            Frame::Answer { round, outcome: Err((kind, message)) } => {
                joined(7, &[&round.to_le_bytes(), &[*kind], message.as_bytes()])
            }
            Frame::Lost { process, reporter, cause } => {
                let numbers = [process.to_le_bytes(), reporter.to_le_bytes()];
                joined(8, &[&numbers[0], &numbers[1], cause.as_bytes()])
            }
            Frame::Bye => vec![9],
            Frame::Piece { is_last, bytes } => joined(10, &[&[u8::from(*is_last)], bytes]),
            Frame::PieceTaken => vec![11],
            Frame::Figures(bytes) => joined(12, &[bytes]),
        }
    }

    /// Decodes the kind and the fields.
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
            10 => Frame::Piece { is_last: rest.take()? != [0], bytes: rest.0.to_vec() },
            11 => Frame::PieceTaken,
            12 => Frame::Figures(rest.0.to_vec()),
            other => return Err(BadFrame::Kind(other)),
        };
        Ok(frame)
    }
}

/// Returns the kind and the fields as one byte string.
fn joined(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::with_capacity(1 + fields.iter().map(|field| field.len()).sum::<usize>());
    body.push(kind);
    fields.iter().for_each(|field| body.extend_from_slice(field));
    body
}

/// The bytes of a frame's body that are not decoded yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// Takes a field of `N` bytes.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadFrame> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(BadFrame::Short)?;
        self.0 = rest;
        Ok(*field)
    }

    /// Returns all that is left as text.
    fn text(&self) -> String {
        String::from_utf8_lossy(self.0).into_owned()
    }
}

/// Splits received bytes into frames. It holds at most one unfinished frame and the bytes that were
/// pushed last.
#[derive(Debug, Default)]
pub struct Frames {
    /// The bytes that were received.
    bytes: Vec<u8>,
    /// Where the next frame begins.
    start: usize,
}

impl Frames {
    /// Adds received bytes.
    pub fn push(&mut self, received: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(received);
    }

    /// Returns the next whole frame, if there is one.
    pub fn next(&mut self) -> Result<Option<Frame>, BadFrame> {
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

/// Joins the pieces of a message.
#[derive(Debug)]
pub struct Assembly {
    /// The pieces so far.
    bytes: Vec<u8>,
    /// Longest message that is believed.
    bytes_max: usize,
}

impl Default for Assembly {
    fn default() -> Assembly {
        Assembly { bytes: Vec::new(), bytes_max: MESSAGE_BYTES_MAX }
    }
}

impl Assembly {
    /// Adds a piece; returns the frame that the last one completes.
    ///
    /// Fails if the message is above the limit, is no frame, or is a piece itself.
    pub fn add(&mut self, is_last: bool, piece: &[u8]) -> Result<Option<Frame>, BadFrame> {
        if self.bytes.len() + piece.len() > self.bytes_max {
            return Err(BadFrame::TooManyPieces);
        }
        self.bytes.extend_from_slice(piece);
        if !is_last {
            return Ok(None);
        }
        match Frame::decode(&std::mem::take(&mut self.bytes))? {
            Frame::Piece { .. } => Err(BadFrame::Kind(10)),
            frame => Ok(Some(frame)),
        }
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
            Just(Frame::PieceTaken),
            (any::<bool>(), bytes()).prop_map(|(is_last, bytes)| Frame::Piece { is_last, bytes }),
            any::<(u64, u64)>()
                .prop_map(|(epoch, next)| Frame::Message(Message::Tick { epoch, next })),
            any::<String>().prop_map(|reason| Frame::Message(Message::AskStop { reason })),
            any::<(u64, String)>()
                .prop_map(|(epoch, reason)| Frame::Message(Message::Stop { epoch, reason })),
            bytes().prop_map(|bytes| Frame::Message(Message::Other(bytes))),
            bytes().prop_map(Frame::Figures),
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
            let wire: Vec<u8> = sent.iter().flat_map(Frame::encode).collect();
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
            let mut assembly = Assembly { bytes_max: 100, ..Assembly::default() };
            while let Ok(Some(frame)) = frames.next() {
                if let Frame::Piece { is_last, bytes } = frame {
                    let _ = assembly.add(is_last, &bytes); // any result will do, but no panic
                    prop_assert!(assembly.bytes.len() <= 100);
                }
            }
        }
    }

    #[test]
    fn frames_above_the_limit_are_not_awaited() {
        let mut frames = Frames::default();
        frames.push(&u32::MAX.to_le_bytes());
        assert_eq!(frames.next(), Err(BadFrame::TooLong(u32::MAX)));
    }

    #[test]
    fn pieces_join_to_the_frame_that_was_cut() {
        let sent = Frame::Facts { round: 3, bytes: vec![7; 100_000] };
        let body = sent.body();
        let mut assembly = Assembly::default();
        let pieces: Vec<_> = body.chunks(PIECE_BYTES).collect();
        let (last, others) = pieces.split_last().unwrap();
        assert!(others.iter().all(|piece| assembly.add(false, piece) == Ok(None)));
        assert_eq!(assembly.add(true, last), Ok(Some(sent)));
        // It starts over, and a piece within pieces would never end.
        assert_eq!(assembly.add(true, &[9]), Ok(Some(Frame::Bye)));
        assert_eq!(assembly.add(true, &[10, 0]), Err(BadFrame::Kind(10)));
        assert_eq!(assembly.add(true, &[]), Err(BadFrame::Short));
    }

    #[test]
    fn assembly_refuses_more_than_its_limit() {
        let mut assembly = Assembly { bytes_max: 10, ..Assembly::default() };
        assert_eq!(assembly.add(false, &[1; 8]), Ok(None));
        assert_eq!(assembly.add(false, &[1; 3]), Err(BadFrame::TooManyPieces));
    }
}
