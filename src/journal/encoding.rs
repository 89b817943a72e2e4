//! How records stand in the log.
//!
//! ```text
//! len u32 | type u8 | crc32c u32 | payload of len bytes          all numbers little-endian
//! ```
//!
//! The checksum covers (journal id, len, type, position in the stream, payload). The position makes
//! an old record that shines through at another place invalid. The id, which no sender can know,
//! keeps a sender from planting bytes in DATA that pass for a record when the log is searched
//! behind damage.
//!
//! DATA has `connection u64` and the bytes as they were read. The others begin with a tag that
//! holds the version of their encoding and that the search behind damage looks for.

use super::record::{
    DATA_BYTES_MAX, Done, EosKind, Mark, Position, Record, Resume, SPLITTER_BYTES_MAX, SourceOffset,
};

/// Bytes of a record before its payload.
pub(super) const FRAME: usize = 9;
/// Longest payload of any record.
pub(super) const PAYLOAD_MAX: usize = 8 + DATA_BYTES_MAX;
/// Longest payload of a record that is not DATA.
pub(super) const CONTROL_MAX: usize = SPLITTER_BYTES_MAX + 256;
/// First bytes of the payload of every record that is not DATA: the encoding's version.
pub(super) const TAG: &[u8; 4] = b"wtj1";

pub(super) const DATA: u8 = 1;
const EOS: u8 = 2;
const MARK: u8 = 3;
const SYNC: u8 = 4;
const DONE: u8 = 5;
const LINE_CUT: u8 = 6;

/// The fault of bytes that are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Zeros: nothing was ever written here.
    Empty,
    /// The file ends before the record does.
    Missing,
    /// A length that no record has or that the segment cannot hold.
    Length,
    /// The checksum does not fit.
    Checksum,
    /// The checksum fits but the payload says nothing known: another version wrote it.
    Payload,
    /// The segment has no header that can be trusted.
    Header,
}

impl Fault {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Fault::Empty => "zeros instead of a record",
            Fault::Missing => "the file ends inside a record",
            Fault::Length => "an impossible record length",
            Fault::Checksum => "a wrong checksum",
            Fault::Payload => "an unknown payload",
            Fault::Header => "a bad segment header",
        }
    }
}

/// Frame and connection id of a DATA record, to be written before `bytes`.
pub(super) fn data_head(seed: u32, position: u64, connection: u64, bytes: &[u8]) -> [u8; 17] {
    let mut head = [0; FRAME + 8];
    head[FRAME..].copy_from_slice(&connection.to_le_bytes());
    let len = 8 + bytes.len() as u32;
    let crc = crc32c::crc32c_append(prefix_crc(seed, len, DATA, position), &head[FRAME..]);
    put_frame(&mut head, len, DATA, crc32c::crc32c_append(crc, bytes));
    head
}

/// Encodes a record that is not DATA into `out`, whole.
pub(super) fn encode_control(seed: u32, position: u64, record: &Record<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; FRAME]);
    out.extend_from_slice(TAG);
    let kind = match record {
        Record::Data { .. } => DATA,
        Record::Eos { connection, kind } => {
            out.extend_from_slice(&connection.to_le_bytes());
            out.push(*kind as u8);
            EOS
        }
        Record::LineCut { connection } => {
            out.extend_from_slice(&connection.to_le_bytes());
            LINE_CUT
        }
        Record::Mark { mark, synced_through, previous } => {
            for number in [mark.epoch, mark.next_epoch, mark.cut.0, synced_through.0] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&previous.map_or(u64::MAX, |p| p.0).to_le_bytes());
            put_resume(&mark.resume, mark.source, out);
            MARK
        }
        Record::Sync { synced_through } => {
            out.extend_from_slice(&synced_through.0.to_le_bytes());
            SYNC
        }
        Record::Done { done, synced_through } => {
            out.extend_from_slice(&done.epoch.to_le_bytes());
            out.extend_from_slice(&synced_through.0.to_le_bytes());
            put_resume(&done.resume, done.source, out);
            DONE
        }
    };
    let len = (out.len() - FRAME) as u32;
    let crc = crc32c::crc32c_append(prefix_crc(seed, len, kind, position), &out[FRAME..]);
    put_frame(out, len, kind, crc);
}

fn put_resume(resume: &Resume, source: Option<SourceOffset>, out: &mut Vec<u8>) {
    out.extend_from_slice(&resume.position.0.to_le_bytes());
    out.extend_from_slice(&resume.skip.to_le_bytes());
    out.push(u8::from(source.is_some()));
    if let Some(source) = source {
        out.extend_from_slice(&source.offset.to_le_bytes());
        out.extend_from_slice(&source.fingerprint.to_le_bytes());
    }
    out.extend_from_slice(&(resume.splitter.len() as u32).to_le_bytes());
    out.extend_from_slice(&resume.splitter);
}

fn put_frame(out: &mut [u8], len: u32, kind: u8, crc: u32) {
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4] = kind;
    out[5..9].copy_from_slice(&crc.to_le_bytes());
}

fn prefix_crc(seed: u32, len: u32, kind: u8, position: u64) -> u32 {
    let mut prefix = [0; 13];
    prefix[..4].copy_from_slice(&len.to_le_bytes());
    prefix[4] = kind;
    prefix[5..].copy_from_slice(&position.to_le_bytes());
    crc32c::crc32c_append(seed, &prefix)
}

/// Length of the whole record whose first [`FRAME`] bytes are given; `left` is what the segment has
/// behind its first byte. Nothing is read or allocated on the word of a length that this refuses.
pub(super) fn measure(frame: &[u8; FRAME], left: u64) -> Result<usize, Fault> {
    let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if *frame == [0; FRAME] {
        return Err(Fault::Empty);
    }
    let longest = if frame[4] == DATA { PAYLOAD_MAX } else { CONTROL_MAX };
    if len == 0 || len > longest || (FRAME + len) as u64 > left {
        return Err(Fault::Length);
    }
    Ok(FRAME + len)
}

/// Verifies and decodes one whole record at `position`.
pub(super) fn decode(seed: u32, position: u64, whole: &[u8]) -> Result<Record<'_>, Fault> {
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

fn decode_payload<'a>(kind: u8, fields: &mut Fields<'a>) -> Option<Record<'a>> {
    if kind == DATA {
        return Some(Record::Data { connection: fields.u64()?, bytes: fields.0 });
    }
    if fields.take(TAG.len())? != TAG {
        return None;
    }
    let record = match kind {
        EOS => Record::Eos {
            connection: fields.u64()?,
            kind: match fields.u8()? {
                0 => EosKind::Fin,
                1 => EosKind::Reset,
                2 => EosKind::Stop,
                3 => EosKind::Crash,
                _ => return None,
            },
        },
        LINE_CUT => Record::LineCut { connection: fields.u64()? },
        MARK => {
            let (epoch, next_epoch) = (fields.u64()?, fields.u64()?);
            let (cut, synced_through) = (Position(fields.u64()?), Position(fields.u64()?));
            let previous = Some(Position(fields.u64()?)).filter(|p| p.0 != u64::MAX);
            let (resume, source) = fields.resume()?;
            let mark = Mark { epoch, next_epoch, cut, resume, source };
            Record::Mark { mark, synced_through, previous }
        }
        SYNC => Record::Sync { synced_through: Position(fields.u64()?) },
        DONE => {
            let (epoch, synced_through) = (fields.u64()?, Position(fields.u64()?));
            let (resume, source) = fields.resume()?;
            let done = Done { epoch, resume, source };
            Record::Done { done, synced_through }
        }
        _ => return None,
    };
    fields.0.is_empty().then_some(record)
}

/// Reads fixed little-endian fields off the front of a payload.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn resume(&mut self) -> Option<(Resume, Option<SourceOffset>)> {
        let position = Position(self.u64()?);
        let skip = self.u32()?;
        let source = match self.u8()? {
            0 => None,
            _ => Some(SourceOffset { offset: self.u64()?, fingerprint: self.u64()? }),
        };
        let splitter_bytes = self.u32()? as usize;
        let splitter = self.take(splitter_bytes)?.to_vec();
        let resume = Resume { position, skip, splitter };
        Some((resume, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record<'static>> {
        let resume = Resume { position: Position(77), skip: 3, splitter: b"\x01cr".to_vec() };
        let source = Some(SourceOffset { offset: 1 << 40, fingerprint: 9 });
        let mark = Mark {
            epoch: 10_000,
            next_epoch: 20_000,
            cut: Position(99),
            resume: resume.clone(),
            source: None,
        };
        let done = Done { epoch: 10_000, resume, source };
        let synced_through = Position(55);
        vec![
            Record::Eos { connection: 4, kind: EosKind::Reset },
            Record::LineCut { connection: 4 },
            Record::Mark { mark, synced_through, previous: Some(Position(12)) },
            Record::Sync { synced_through },
            Record::Done { done, synced_through },
        ]
    }

    #[test]
    fn every_record_comes_back_as_it_was_written_and_only_at_its_place() {
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
    fn a_length_beyond_the_record_limit_is_refused_before_anything_is_read() {
        let mut frame = [0; FRAME];
        assert_eq!(measure(&frame, u64::MAX), Err(Fault::Empty));
        put_frame(&mut frame, u32::MAX, DATA, 0);
        assert_eq!(measure(&frame, u64::MAX), Err(Fault::Length));
        put_frame(&mut frame, CONTROL_MAX as u32 + 1, MARK, 0);
        assert_eq!(measure(&frame, u64::MAX), Err(Fault::Length));
    }
}
