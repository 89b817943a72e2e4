//! The records of one batch, read from bytes that may have to be decompressed.

use std::fmt;
use std::io::Read;

use bytes::Bytes;

use super::codecs::decompressed;
use super::error_kinds::BrokerFailure;

/// Bytes that are decompressed at a time.
const WINDOW_BYTES: usize = 64 << 10;

/// Longest integer of a record: 64 bits in groups of seven.
const VARINT_BYTES_MAX: usize = 10;

/// The value of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A tombstone, which has no value.
    Null,
    /// So many bytes, which follow.
    Bytes(usize),
}

/// The beginning of a record, up to its value.
#[derive(Clone, Copy, Debug)]
pub struct RecordHead {
    /// The offset of the record, from that of the batch on.
    pub offset_delta: i32,
    /// The value: its length, or that there is none.
    pub value: Value,
    /// Bytes of the record after the value's length: the value and the headers.
    rest: usize,
}

/// Reads the records of one batch one after the other.
pub struct RecordReader {
    /// Where more bytes come from; `None` where the window holds all.
    stream: Option<Box<dyn Read + Send>>,
    /// The bytes at hand.
    window: RecordWindow,
    /// Where the next byte stands in the window.
    at: usize,
    /// A head that was read and given back.
    held: Option<RecordHead>,
}

impl fmt::Debug for RecordReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordReader").field("at", &self.at).finish_non_exhaustive()
    }
}

/// The bytes that are at hand.
enum RecordWindow {
    /// The records of a batch that is not compressed, all of them.
    Whole(Bytes),
    /// A piece of the decompressed records.
    Part(Vec<u8>),
}

impl RecordWindow {
    /// Returns the bytes at hand.
    fn bytes(&self) -> &[u8] {
        match self {
            RecordWindow::Whole(bytes) => bytes,
            RecordWindow::Part(bytes) => bytes,
        }
    }
}

impl RecordReader {
    /// A reader of the records in `bytes`, which are compressed with this codec.
    ///
    /// Fails with `Malformed` for a codec that is none.
    pub fn new(codec: i16, bytes: Bytes) -> Result<RecordReader, BrokerFailure> {
        let stream = decompressed(codec, bytes.clone()).map_err(|_| UNREADABLE)?;
        let window = match stream {
            None => RecordWindow::Whole(bytes),
            Some(_) => RecordWindow::Part(Vec::new()),
        };
        Ok(RecordReader { stream, window, at: 0, held: None })
    }

    /// Returns the beginning of the next record. Its value is read or skipped next.
    ///
    /// Fails with `Malformed` if the record does not fit the batch.
    pub fn head(&mut self) -> Result<RecordHead, BrokerFailure> {
        if let Some(held) = self.held.take() {
            return Ok(held);
        }
        let len = self.length()?;
        let mut counted = CountedBytes { reader: self, left: len };
        // Attributes, and the distance of the timestamp.
        counted.skip(1)?;
        counted.varint()?;
        let offset_delta = counted.varint()? as i32;
        let key = counted.varint()?;
        counted.skip(usize::try_from(key).unwrap_or(0))?;
        let value = counted.varint()?;
        let rest = counted.left;
        let value = match usize::try_from(value) {
            Err(_) => Value::Null,
            Ok(len) if len <= rest => Value::Bytes(len),
            Ok(_) => return Err(UNREADABLE),
        };
        Ok(RecordHead { offset_delta, value, rest })
    }

    /// Takes a head back: the next call of [`RecordReader::head`] returns it.
    pub fn hold(&mut self, head: RecordHead) {
        self.held = Some(head);
    }

    /// Appends the value of the record to `text`, and passes over its headers.
    pub fn value_into(
        &mut self,
        head: &RecordHead,
        text: &mut Vec<u8>,
    ) -> Result<(), BrokerFailure> {
        let Value::Bytes(len) = head.value else { return self.skip(head) };
        let mut left = len;
        while left > 0 {
            let at_hand = self.at_hand()?;
            let taken = left.min(at_hand.len());
            text.extend_from_slice(&at_hand[..taken]);
            self.at += taken;
            left -= taken;
        }
        self.pass(head.rest - len)
    }

    /// Passes over the value of the record and its headers.
    pub fn skip(&mut self, head: &RecordHead) -> Result<(), BrokerFailure> {
        self.pass(head.rest)
    }

    /// Reads a whole control record; returns its type.
    pub fn control_type(&mut self) -> Result<Option<i16>, BrokerFailure> {
        let len = self.length()?;
        let mut counted = CountedBytes { reader: self, left: len };
        counted.skip(1)?;
        counted.varint()?;
        counted.varint()?;
        let key = usize::try_from(counted.varint()?).unwrap_or(0);
        let mut read = 0;
        let mut version_and_type = [0; 4];
        while read < key.min(version_and_type.len()) {
            version_and_type[read] = counted.byte()?;
            read += 1;
        }
        let rest = counted.left;
        self.pass(rest)?;
        let [_, _, high, low] = version_and_type;
        Ok((read == 4).then(|| i16::from_be_bytes([high, low])))
    }

    /// Returns the length of the next record.
    fn length(&mut self) -> Result<usize, BrokerFailure> {
        let mut unbounded = CountedBytes { reader: self, left: VARINT_BYTES_MAX };
        usize::try_from(unbounded.varint()?).map_err(|_| UNREADABLE)
    }

    /// Returns the bytes that are at hand, at least one.
    fn at_hand(&mut self) -> Result<&[u8], BrokerFailure> {
        if self.at == self.window.bytes().len() {
            self.refill()?;
        }
        Ok(&self.window.bytes()[self.at..])
    }

    /// Replaces the window by the next decompressed bytes.
    ///
    /// Fails with `Malformed` if there are none, or they cannot be decompressed.
    fn refill(&mut self) -> Result<(), BrokerFailure> {
        let (Some(stream), RecordWindow::Part(window)) = (&mut self.stream, &mut self.window)
        else {
            return Err(UNREADABLE);
        };
        window.resize(WINDOW_BYTES, 0);
        let read = loop {
            match stream.read(window) {
                Ok(read) => break read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Err(UNREADABLE),
            }
        };
        window.truncate(read);
        self.at = 0;
        if read == 0 { Err(UNREADABLE) } else { Ok(()) }
    }

    /// Moves on by so many bytes, which may lie in later windows.
    fn pass(&mut self, mut bytes: usize) -> Result<(), BrokerFailure> {
        while bytes > 0 {
            let passed = bytes.min(self.at_hand()?.len());
            self.at += passed;
            bytes -= passed;
        }
        Ok(())
    }
}

/// The error for records that cannot be.
const UNREADABLE: BrokerFailure = BrokerFailure::Malformed("a batch holds records that cannot be");

/// Reads the fields of a record, no more than its length.
struct CountedBytes<'a> {
    /// The reader whose bytes are counted.
    reader: &'a mut RecordReader,
    /// Bytes that may still be taken.
    left: usize,
}

impl CountedBytes<'_> {
    /// Takes one byte.
    ///
    /// Fails with `Malformed` if the record has no more.
    fn byte(&mut self) -> Result<u8, BrokerFailure> {
        self.left = self.left.checked_sub(1).ok_or(UNREADABLE)?;
        let byte = self.reader.at_hand()?[0];
        self.reader.at += 1;
        Ok(byte)
    }

    /// Passes so many bytes of the record.
    fn skip(&mut self, bytes: usize) -> Result<(), BrokerFailure> {
        self.left = self.left.checked_sub(bytes).ok_or(UNREADABLE)?;
        self.reader.pass(bytes)
    }

    /// Reads a signed integer: groups of seven bits, the sign in the lowest.
    fn varint(&mut self) -> Result<i64, BrokerFailure> {
        let mut value = 0u64;
        for shift in (0..7 * VARINT_BYTES_MAX as u32).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(UNREADABLE)
    }
}
