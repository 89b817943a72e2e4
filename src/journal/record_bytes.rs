//! How records stand in the log.
//!
//! ```text
//! len u32 | type u8 | crc32c u32 | payload of len bytes          all numbers little-endian
//! ```
//!
//! The checksum covers (journal id, len, type, position in the stream, payload). The position makes
//! an old record that shines through at another place invalid. The id, which no sender can know,
//! keeps a sender from planting bytes in Data that pass for a record when the log is searched
//! after damage.
//!
//! Data and Repeat have numbers and the bytes as they were read. The others begin with a tag that
//! holds the version of their encoding and that the search after damage looks for. Records that may
//! be long have the tag of version 2, and after it a checksum of what the frame covers beside the
//! payload: so the search need not compute a long checksum at each tag that a sender planted.

use super::fields::Fields;
use super::record::{
    CommitNote, DATA_BYTES_MAX, EpochEnd, LASTING, PRODUCER_NAME_BYTES_MAX, Position, Record,
};
use super::resume_bytes::put_resume;
use crate::lines::StreamEnd;

/// Bytes of a record before its payload.
pub const FRAME: usize = 9;
/// Longest payload of any record.
pub const PAYLOAD_MAX: usize = 16 + DATA_BYTES_MAX;
/// Longest payload of a record without bytes of a sender.
pub const CONTROL_MAX: usize = 8 + DATA_BYTES_MAX;
/// A record without bytes of a sender may have so much payload in every journal.
pub const CONTROL_SHORT: usize = 1280;
/// The first bytes of the payload of records that are never long.
pub const TAG: &[u8; 4] = b"wtj1";
/// The first bytes of the payload of records that may be long, and of those with a resume.
const TAG_LONG: &[u8; 4] = b"wtj2";
/// The beginning of both tags.
pub const TAG_START: &[u8; 3] = b"wtj";

/// Kind of a Data record.
pub const DATA: u8 = 1;
/// Kind of a StreamEnd record.
const STREAM_END: u8 = 2;
/// Kind of an EpochEnd record.
const EPOCH_END: u8 = 3;
/// Kind of a Synced record.
const SYNCED: u8 = 4;
/// Kind of a Committed record.
const COMMITTED: u8 = 5;
/// Kind of a LineCut record.
const LINE_CUT: u8 = 6;
/// Kind of a Repeat record.
const REPEAT: u8 = 7;
/// Kind of a Producer record.
const PRODUCER: u8 = 8;

/// The fault of bytes that are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Zeros: nothing was ever written here.
    Empty,
    /// The file ends before the record does.
    Missing,
    /// A length that no record has or that the segment cannot hold.
    Length,
    /// The checksum does not fit.
    Checksum,
    /// The checksum fits but the payload is of no known kind: another version wrote it.
    Payload,
    /// The segment has no header that can be trusted.
    Header,
    /// The file is shorter than it was made.
    Truncated,
}

impl Fault {
    /// Returns the fault in words, for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Empty => "zeros instead of a record",
            Fault::Missing => "the file ends inside a record",
            Fault::Length => "an impossible record length",
            Fault::Checksum => "a wrong checksum",
            Fault::Payload => "an unknown payload",
            Fault::Header => "a bad segment header",
            Fault::Truncated => "the file was truncated",
        }
    }
}

/// Frame and connection id of a Data record, to be written before `bytes`.
pub fn data_head(seed: u32, position: u64, connection: u64, bytes: &[u8]) -> [u8; 17] {
    let mut head = [0; FRAME + 8];
    head[FRAME..].copy_from_slice(&connection.to_le_bytes());
    let len = 8 + bytes.len() as u32;
    let crc = crc32c::crc32c_append(prefix_crc(seed, len, DATA, position), &head[FRAME..]);
    put_frame(&mut head, len, DATA, crc32c::crc32c_append(crc, bytes));
    head
}

/// Frame and numbers of a Repeat record, to be written before `bytes`.
pub fn repeat_head(
    seed: u32,
    position: u64,
    (connection, offset): (u64, u64),
    bytes: &[u8],
) -> [u8; 25] {
    let mut head = [0; FRAME + 16];
    head[FRAME..FRAME + 8].copy_from_slice(&connection.to_le_bytes());
    head[FRAME + 8..].copy_from_slice(&offset.to_le_bytes());
    let len = 16 + bytes.len() as u32;
    let crc = crc32c::crc32c_append(prefix_crc(seed, len, REPEAT, position), &head[FRAME..]);
    put_frame(&mut head, len, REPEAT, crc32c::crc32c_append(crc, bytes));
    head
}

/// Encodes a record without bytes of a sender into `out`, whole.
pub fn encode_control(seed: u32, position: u64, record: &Record<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; FRAME]);
    let is_long = matches!(
        record,
        Record::EpochEnd { .. } | Record::Committed { .. } | Record::Producer { .. }
    );
    out.extend_from_slice(if is_long { TAG_LONG } else { TAG });
    if is_long {
        out.extend_from_slice(&[0; 4]);
    }
    let kind = match record {
        Record::Data { .. } => DATA,
        Record::Repeat { .. } => REPEAT,
        Record::StreamEnd { connection, kind } => {
            out.extend_from_slice(&connection.to_le_bytes());
            out.push(end_number(*kind));
            STREAM_END
        }
        Record::LineCut { connection } => {
            out.extend_from_slice(&connection.to_le_bytes());
            LINE_CUT
        }
        Record::Producer { connection, name } => {
            out.extend_from_slice(&connection.to_le_bytes());
            out.extend_from_slice(name);
            PRODUCER
        }
        Record::EpochEnd { end, synced_through, previous } => {
            for number in [end.epoch, end.next_epoch, end.cut.0, synced_through.0] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&previous.map_or(u64::MAX, |p| p.0).to_le_bytes());
            put_resume(&end.resume, out);
            EPOCH_END
        }
        Record::Synced { synced_through } => {
            out.extend_from_slice(&synced_through.0.to_le_bytes());
            SYNCED
        }
        Record::Committed { note, synced_through } => {
            out.extend_from_slice(&note.epoch.to_le_bytes());
            out.extend_from_slice(&synced_through.0.to_le_bytes());
            put_resume(&note.resume, out);
            COMMITTED
        }
    };
    let len = (out.len() - FRAME) as u32;
    let prefix = prefix_crc(seed, len, kind, position);
    if is_long {
        let at = FRAME + TAG_LONG.len();
        out[at..at + 4].copy_from_slice(&prefix.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(prefix, &out[FRAME..]);
    put_frame(out, len, kind, crc);
}

/// Returns the number that stands for the end of a connection.
fn end_number(kind: StreamEnd) -> u8 {
    match kind {
        StreamEnd::Fin => 0,
        StreamEnd::Reset => 1,
        StreamEnd::Stop => 2,
        StreamEnd::Crash => 3,
    }
}

/// Writes the frame of a record: length, kind, checksum.
fn put_frame(out: &mut [u8], len: u32, kind: u8, crc: u32) {
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4] = kind;
    out[5..9].copy_from_slice(&crc.to_le_bytes());
}

/// Returns the checksum of what precedes the payload. The position is part of it, so that a record
/// of a former use of the segment is not taken for one.
fn prefix_crc(seed: u32, len: u32, kind: u8, position: u64) -> u32 {
    let mut prefix = [0; 13];
    prefix[..4].copy_from_slice(&len.to_le_bytes());
    prefix[4] = kind;
    prefix[5..].copy_from_slice(&position.to_le_bytes());
    crc32c::crc32c_append(seed, &prefix)
}

/// Returns the length of the whole record whose first [`FRAME`] bytes are given; `left` are the
/// bytes of the segment from the record on. A length that is refused here makes no reader read or
/// allocate.
pub fn measure(frame: &[u8; FRAME], left: u64) -> Result<usize, Fault> {
    let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if *frame == [0; FRAME] {
        return Err(Fault::Empty);
    }
    let longest = if matches!(frame[4], DATA | REPEAT) { PAYLOAD_MAX } else { CONTROL_MAX };
    if len == 0 || len > longest || (FRAME + len) as u64 > left {
        return Err(Fault::Length);
    }
    Ok(FRAME + len)
}

/// Verifies and decodes one whole record at `position`.
pub fn decode(seed: u32, position: u64, whole: &[u8]) -> Result<Record<'_>, Fault> {
    let (frame, payload) = whole.split_at_checked(FRAME).ok_or(Fault::Missing)?;
    let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
    if len as usize != payload.len() {
        return Err(Fault::Length);
    }
    let kind = frame[4];
    let crc = u32::from_le_bytes([frame[5], frame[6], frame[7], frame[8]]);
    let prefix = prefix_crc(seed, len, kind, position);
    if crc32c::crc32c_append(prefix, payload) != crc {
        return Err(Fault::Checksum);
    }
    let mut fields = Fields(payload);
    decode_payload(kind, &mut fields).ok_or(Fault::Payload)
}

/// Returns true if a record whose payload begins with `start` may stand at `position`: for one of
/// the long kinds, its first checksum is right; any other is short.
pub fn may_be_control(seed: u32, position: u64, frame: &[u8; FRAME], start: &[u8]) -> bool {
    let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
    match start.split_at_checked(TAG.len()) {
        Some((tag, rest)) if tag == TAG_LONG => {
            let prefix = prefix_crc(seed, len, frame[4], position);
            rest.get(..4) == Some(&prefix.to_le_bytes()[..])
        }
        Some((tag, _)) => tag == TAG && len as usize <= CONTROL_SHORT,
        None => false,
    }
}

/// Decodes a payload of this kind; `None` if it is none.
fn decode_payload<'a>(kind: u8, fields: &mut Fields<'a>) -> Option<Record<'a>> {
    match kind {
        DATA => return Some(Record::Data { connection: fields.u64()?, bytes: fields.0 }),
        REPEAT => {
            let (connection, offset) = (fields.u64()?, fields.u64()?);
            return Some(Record::Repeat { connection, offset, bytes: fields.0 });
        }
        _ => {}
    }
    let is_long = match fields.take(TAG.len())? {
        tag if tag == TAG => false,
        tag if tag == TAG_LONG => fields.take(4).is_some(),
        _ => return None,
    };
    let record = match kind {
        STREAM_END => Record::StreamEnd {
            connection: fields.u64()?,
            kind: match fields.u8()? {
                0 => StreamEnd::Fin,
                1 => StreamEnd::Reset,
                2 => StreamEnd::Stop,
                3 => StreamEnd::Crash,
                _ => return None,
            },
        },
        LINE_CUT => Record::LineCut { connection: fields.u64()? },
        PRODUCER => {
            let connection = fields.u64()?;
            let name = std::mem::take(&mut fields.0);
            let is_sound = connection & LASTING != 0 && name.len() <= PRODUCER_NAME_BYTES_MAX;
            return is_sound.then_some(Record::Producer { connection, name });
        }
        EPOCH_END => {
            let (epoch, next_epoch) = (fields.u64()?, fields.u64()?);
            let (cut, synced_through) = (Position(fields.u64()?), Position(fields.u64()?));
            let previous = Some(Position(fields.u64()?)).filter(|p| p.0 != u64::MAX);
            let resume = if is_long { fields.resume()? } else { fields.resume_of_version_1()? };
            let end = EpochEnd { epoch, next_epoch, cut, resume };
            Record::EpochEnd { end, synced_through, previous }
        }
        SYNCED => Record::Synced { synced_through: Position(fields.u64()?) },
        COMMITTED => {
            let (epoch, synced_through) = (fields.u64()?, Position(fields.u64()?));
            let resume = if is_long { fields.resume()? } else { fields.resume_of_version_1()? };
            Record::Committed { note: CommitNote { epoch, resume }, synced_through }
        }
        _ => return None,
    };
    fields.0.is_empty().then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{ConnectionState, Resume};
    use crate::lines::SplitterState;

    fn samples() -> Vec<Record<'static>> {
        let splitter = SplitterState { unfinished_bytes: 7, ..SplitterState::default() };
        let state = ConnectionState { connection: 4, position: Position(77), skip: 3, splitter };
        let resume = Resume {
            connections: vec![state],
            positions: b"somewhere".to_vec(),
            ..Resume::at(Position(77))
        };
        let (epoch, next_epoch, cut) = (10_000, 20_000, Position(99));
        let end = EpochEnd { epoch, next_epoch, cut, resume: resume.clone() };
        let note = CommitNote { epoch: 10_000, resume };
        let synced_through = Position(55);
        vec![
            Record::StreamEnd { connection: 4, kind: StreamEnd::Reset },
            Record::LineCut { connection: 4 },
            Record::EpochEnd { end, synced_through, previous: Some(Position(12)) },
            Record::Synced { synced_through },
            Record::Committed { note, synced_through },
            Record::Producer { connection: LASTING | 5, name: b"host-7" },
        ]
    }

    #[test]
    fn record_is_read_back_only_at_its_place() {
        let mut out = Vec::new();
        for record in samples() {
            encode_control(7, 1000, &record, &mut out);
            let frame = out[..FRAME].try_into().unwrap();
            assert_eq!(measure(frame, out.len() as u64), Ok(out.len()));
            assert_eq!(measure(frame, out.len() as u64 - 1), Err(Fault::Length));
            assert_eq!(decode(7, 1000, &out), Ok(record));
            assert_eq!(decode(7, 1001, &out), Err(Fault::Checksum));
            assert_eq!(decode(8, 1000, &out), Err(Fault::Checksum));
        }
        let mut whole = data_head(7, 5, 42, b"text").to_vec();
        whole.extend_from_slice(b"text");
        let data = Record::Data { connection: 42, bytes: b"text" };
        assert_eq!(decode(7, 5, &whole), Ok(data));
        let mut whole = repeat_head(7, 5, (42, 9), b"text").to_vec();
        whole.extend_from_slice(b"text");
        let repeat = Record::Repeat { connection: 42, offset: 9, bytes: b"text" };
        assert_eq!(decode(7, 5, &whole), Ok(repeat));
    }

    #[test]
    fn every_single_bit_flip_is_noticed() {
        let mut out = Vec::new();
        for record in samples() {
            encode_control(7, 1000, &record, &mut out);
            for bit in 0..out.len() * 8 {
                out[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(7, 1000, &out).is_err(), "bit {bit} of {record:?}");
                out[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn length_above_limit_is_refused_unread() {
        let mut frame = [0; FRAME];
        assert_eq!(measure(&frame, u64::MAX), Err(Fault::Empty));
        put_frame(&mut frame, u32::MAX, DATA, 0);
        assert_eq!(measure(&frame, u64::MAX), Err(Fault::Length));
        put_frame(&mut frame, CONTROL_MAX as u32 + 1, EPOCH_END, 0);
        assert_eq!(measure(&frame, u64::MAX), Err(Fault::Length));
    }
}
