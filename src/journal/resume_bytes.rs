//! The encoding of [`Resume`] inside EpochEnd and Committed records.
//!
//! Numbers are LEB128, since a thousand open connections are in one record:
//!
//! ```text
//! position  split  order
//! connections, then of each: id  position  skip  resume_offset  unfinished  owed  flags (1 byte)
//! length of positions, positions
//! producers, then of each: length of name, name  connection  next  last_epoch
//! ```
//!
//! Version 1 (tag `wtj1`) had one connection at a time, its splitter in JSON, and the offset of a
//! file; it is read only.

use super::fields::Fields;
use super::record::{ConnectionState, LASTING, NEXT_CONNECTION, Position, Producer, Resume};
use crate::hex_varint::{put_varint, take_varint};
use crate::lines::{LinePart, SplitterState};

/// Writes a length, then the bytes.
fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Appends `resume` to `out`.
pub fn put_resume(resume: &Resume, out: &mut Vec<u8>) {
    for number in [resume.position.0, resume.split.0, resume.order] {
        put_varint(number, out);
    }
    put_varint(resume.connections.len() as u64, out);
    for state in &resume.connections {
        let splitter = &state.splitter;
        for number in [
            state.connection,
            state.position.0,
            u64::from(state.skip),
            splitter.resume_offset,
            splitter.unfinished_bytes,
            splitter.lines_owed,
        ] {
            put_varint(number, out);
        }
        let part = match splitter.line_part {
            LinePart::Start => 0,
            LinePart::Continued => 1,
            LinePart::SkippedWord => 2,
            LinePart::SkippedLine => 3,
        };
        out.push(part << 1 | u8::from(splitter.pending_cr));
    }
    put_bytes(&resume.positions, out);
    put_varint(resume.producers.len() as u64, out);
    for Producer { name, connection, next, last_epoch } in &resume.producers {
        put_bytes(name, out);
        for number in [connection & !LASTING, *next, *last_epoch] {
            put_varint(number, out);
        }
    }
}

impl<'a> Fields<'a> {
    /// Reads a number of variable length.
    fn number(&mut self) -> Option<u64> {
        take_varint(&mut self.0)
    }

    /// Reads a length, then so many bytes.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// Reads what [`put_resume`] wrote; `None` if the bytes end before or hold something else.
    pub fn resume(&mut self) -> Option<Resume> {
        let (position, split) = (Position(self.number()?), Position(self.number()?));
        let order = self.number()?;
        let mut connections = Vec::new();
        for _ in 0..self.number()? {
            connections.push(self.connection()?);
        }
        let positions = self.bytes()?.to_vec();
        let mut producers = Vec::new();
        for _ in 0..self.number()? {
            let name = self.bytes()?.to_vec();
            let connection = self.number()? | LASTING;
            let (next, last_epoch) = (self.number()?, self.number()?);
            producers.push(Producer { name, connection, next, last_epoch });
        }
        Some(Resume { position, split, order, connections, positions, producers })
    }

    /// Reads the state of one connection. The lowest bit of its flags is a carriage return whose
    /// line feed has not come; the others are the part of the line.
    fn connection(&mut self) -> Option<ConnectionState> {
        let (connection, position) = (self.number()?, Position(self.number()?));
        let skip = u32::try_from(self.number()?).ok()?;
        let (resume_offset, unfinished_bytes) = (self.number()?, self.number()?);
        let lines_owed = self.number()?;
        let flags = self.u8()?;
        let line_part = match flags >> 1 {
            0 => LinePart::Start,
            1 => LinePart::Continued,
            2 => LinePart::SkippedWord,
            3 => LinePart::SkippedLine,
            _ => return None,
        };
        let pending_cr = flags & 1 == 1;
        let splitter =
            SplitterState { resume_offset, unfinished_bytes, pending_cr, line_part, lines_owed };
        Some(ConnectionState { connection, position, skip, splitter })
    }

    /// Reads a resume of version 1. The offset and fingerprint of a file become its positions.
    pub fn resume_of_version_1(&mut self) -> Option<Resume> {
        let position = Position(self.u64()?);
        let skip = self.u32()?;
        let positions = match self.u8()? {
            0 => Vec::new(),
            _ => self.take(16)?.to_vec(),
        };
        let json_bytes = self.u32()? as usize;
        let json = self.take(json_bytes)?;
        let splitter: SplitterState = if json.is_empty() {
            SplitterState::default()
        } else {
            serde_json::from_slice(json).ok()?
        };
        let state = ConnectionState { connection: NEXT_CONNECTION, position, skip, splitter };
        let connections = if state.is_fresh() { Vec::new() } else { vec![state] };
        let order = splitter.resume_offset + splitter.unfinished_bytes;
        let producers = Vec::new();
        Some(Resume { position, split: position, order, connections, positions, producers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Resume {
        let splitter = SplitterState {
            resume_offset: 1 << 40,
            unfinished_bytes: 300,
            pending_cr: true,
            line_part: LinePart::SkippedWord,
            lines_owed: 7,
        };
        let state = ConnectionState { connection: 3, position: Position(70), skip: 9, splitter };
        let fresh = ConnectionState {
            connection: LASTING | 4,
            position: Position(99),
            skip: 0,
            splitter: SplitterState::default(),
        };
        let producer = Producer {
            name: b"host-7".to_vec(),
            connection: LASTING | 4,
            next: u64::MAX,
            last_epoch: 10_000,
        };
        Resume {
            position: Position(70),
            split: Position(99),
            order: 1234,
            connections: vec![state, fresh],
            positions: vec![0, 1, 2],
            producers: vec![producer],
        }
    }

    #[test]
    fn resume_comes_back_as_written() {
        for resume in [full(), Resume::default(), Resume::at(Position(u64::MAX))] {
            let mut out = Vec::new();
            put_resume(&resume, &mut out);
            let mut fields = Fields(&out);
            assert_eq!(fields.resume(), Some(resume));
            assert!(fields.0.is_empty());
            for end in 0..out.len() {
                assert_eq!(Fields(&out[..end]).resume(), None, "cut at {end}");
            }
        }
    }

    #[test]
    fn number_above_sixty_four_bits_is_refused() {
        assert_eq!(Fields(&[0xff; 10]).number(), None);
        let mut most = [0xff; 10];
        most[9] = 1;
        assert_eq!(Fields(&most).number(), Some(u64::MAX));
    }

    #[test]
    fn version_1_becomes_state_of_next_connection() {
        let json = br#"{"resume_offset":50,"unfinished_bytes":3,"pending_cr":false,"line_part":"start","lines_owed":0}"#;
        let mut out = Vec::new();
        out.extend_from_slice(&77u64.to_le_bytes());
        out.extend_from_slice(&5u32.to_le_bytes());
        out.push(1);
        out.extend_from_slice(&53u64.to_le_bytes());
        out.extend_from_slice(&9u64.to_le_bytes());
        out.extend_from_slice(&(json.len() as u32).to_le_bytes());
        out.extend_from_slice(json);
        let resume = Fields(&out).resume_of_version_1().expect("a resume");
        assert_eq!((resume.position, resume.split), (Position(77), Position(77)));
        let [state] = resume.connections[..] else { panic!("{resume:?}") };
        assert_eq!((state.connection, state.skip), (NEXT_CONNECTION, 5));
        assert_eq!(state.splitter.unfinished_bytes, 3);
        assert_eq!(resume.positions, [53u64.to_le_bytes(), 9u64.to_le_bytes()].concat());
    }
}
