//! The primitive types of Kafka's protocol: big-endian integers, strings and arrays with a length
//! before them, and the compact forms that newer messages use.

use super::error_kinds::BrokerFailure;
use crate::hex_varint::put_varint;

/// Longest string that is taken from a broker.
const STRING_BYTES_MAX: usize = 64 << 10;

/// Writes the fields of a request, in order.
#[derive(Debug, Default)]
pub struct WireWriter {
    /// The bytes that were written.
    bytes: Vec<u8>,
}

impl WireWriter {
    /// Returns the bytes that were written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes one byte.
    pub fn i8(&mut self, value: i8) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Writes two bytes.
    pub fn i16(&mut self, value: i16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Writes four bytes.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Writes eight bytes.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Writes a string of at most 32,767 bytes. A longer one is cut: no setting is that long.
    pub fn string(&mut self, text: &str) -> &mut Self {
        let bytes = &text.as_bytes()[..text.len().min(i16::MAX as usize)];
        self.i16(bytes.len() as i16).raw(bytes)
    }

    /// Writes bytes with their length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.i32(bytes.len() as i32).raw(bytes)
    }

    /// Writes the number of elements of an array; the elements follow.
    pub fn array(&mut self, len: usize) -> &mut Self {
        self.i32(len as i32)
    }

    /// Writes an unsigned integer in groups of seven bits.
    pub fn uvarint(&mut self, value: u32) -> &mut Self {
        put_varint(u64::from(value), &mut self.bytes);
        self
    }

    /// Writes a string in its compact form.
    pub fn compact_string(&mut self, text: &str) -> &mut Self {
        self.uvarint(text.len() as u32 + 1).raw(text.as_bytes())
    }

    /// Writes the number of elements of an array in its compact form; the elements follow.
    pub fn compact_array(&mut self, len: usize) -> &mut Self {
        self.uvarint(len as u32 + 1)
    }

    /// Ends a structure of a flexible message: it has no tagged fields.
    pub fn no_tags(&mut self) -> &mut Self {
        self.uvarint(0)
    }
}

/// Reads the fields of an answer, in order. Every method fails with `Malformed` where the answer
/// ends too early or holds what cannot be.
#[derive(Clone, Copy, Debug)]
pub struct WireReader<'a> {
    /// The bytes of an answer.
    bytes: &'a [u8],
    /// Where the next value begins.
    at: usize,
}

/// A value, or the failure of an answer that ends too early.
type Read<T> = Result<T, BrokerFailure>;

impl<'a> WireReader<'a> {
    /// A reader at the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        WireReader { bytes, at: 0 }
    }

    /// Returns the index of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Takes `len` bytes.
    pub fn raw(&mut self, len: usize) -> Read<&'a [u8]> {
        let left = &self.bytes[self.at..];
        let taken = left.get(..len).ok_or(BrokerFailure::Malformed("an answer ends too early"))?;
        self.at += len;
        Ok(taken)
    }

    /// Takes `N` bytes.
    fn fixed<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut value = [0; N];
        value.copy_from_slice(self.raw(N)?);
        Ok(value)
    }

    /// Takes one byte.
    pub fn i8(&mut self) -> Read<i8> {
        Ok(i8::from_be_bytes(self.fixed()?))
    }

    /// Takes two bytes.
    pub fn i16(&mut self) -> Read<i16> {
        Ok(i16::from_be_bytes(self.fixed()?))
    }

    /// Takes four bytes.
    pub fn i32(&mut self) -> Read<i32> {
        Ok(i32::from_be_bytes(self.fixed()?))
    }

    /// Takes eight bytes.
    pub fn i64(&mut self) -> Read<i64> {
        Ok(i64::from_be_bytes(self.fixed()?))
    }

    /// Takes the 16 bytes of a UUID.
    pub fn uuid(&mut self) -> Read<[u8; 16]> {
        self.fixed()
    }

    /// Takes a string, the empty one for null.
    pub fn string(&mut self) -> Read<String> {
        let len = self.i16()?;
        self.text(len.max(0) as usize)
    }

    /// Takes bytes, none for null.
    pub fn bytes(&mut self) -> Read<&'a [u8]> {
        let len = self.i32()?;
        self.raw(len.max(0) as usize)
    }

    /// Takes the number of elements of an array, 0 for null. No element is shorter than a byte, so
    /// a number above the bytes that are left cannot be.
    pub fn array(&mut self) -> Read<usize> {
        let len = self.i32()?.max(0) as usize;
        self.plausible(len)
    }

    /// Takes an unsigned integer in groups of seven bits.
    pub fn uvarint(&mut self) -> Read<u32> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.fixed::<1>()?[0];
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BrokerFailure::Malformed("an answer holds an endless integer"))
    }

    /// Takes a string in its compact form, the empty one for null.
    pub fn compact_string(&mut self) -> Read<String> {
        let len = self.uvarint()?.saturating_sub(1) as usize;
        self.text(len)
    }

    /// Takes bytes in their compact form, none for null.
    pub fn compact_bytes(&mut self) -> Read<&'a [u8]> {
        let len = self.uvarint()?.saturating_sub(1) as usize;
        self.raw(len)
    }

    /// Takes the number of elements of a compact array, 0 for null.
    pub fn compact_array(&mut self) -> Read<usize> {
        let len = self.uvarint()?.saturating_sub(1) as usize;
        self.plausible(len)
    }

    /// Passes the tagged fields of a structure of a flexible message.
    pub fn skip_tags(&mut self) -> Read<()> {
        for _ in 0..self.uvarint()? {
            self.uvarint()?;
            let len = self.uvarint()? as usize;
            self.raw(len)?;
        }
        Ok(())
    }

    /// Takes a string of so many bytes. Ill-formed UTF-8 becomes U+FFFD.
    ///
    /// Fails with `Malformed` above [`STRING_BYTES_MAX`].
    fn text(&mut self, len: usize) -> Read<String> {
        if len > STRING_BYTES_MAX {
            return Err(BrokerFailure::Malformed("an answer holds a string that is too long"));
        }
        Ok(String::from_utf8_lossy(self.raw(len)?).into_owned())
    }

    /// Returns the number of elements of an array if that many can follow: each has at least one
    /// byte.
    fn plausible(&self, len: usize) -> Read<usize> {
        if len > self.bytes.len() - self.at {
            return Err(BrokerFailure::Malformed("an answer holds an array that is too long"));
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_back_in_order() {
        let mut writer = WireWriter::default();
        writer.i8(-1).i16(2).i32(-3).i64(1 << 40).string("topic").bytes(b"xyz").array(2);
        writer.uvarint(300).compact_string("name").no_tags();
        let bytes = writer.into_bytes();
        let mut reader = WireReader::new(&bytes);
        assert_eq!(reader.i8().expect("i8"), -1);
        assert_eq!(reader.i16().expect("i16"), 2);
        assert_eq!(reader.i32().expect("i32"), -3);
        assert_eq!(reader.i64().expect("i64"), 1 << 40);
        assert_eq!(reader.string().expect("a string"), "topic");
        assert_eq!(reader.bytes().expect("bytes"), b"xyz");
        assert_eq!(reader.array().expect("a length"), 2);
        assert_eq!(reader.uvarint().expect("a varint"), 300);
        assert_eq!(reader.compact_string().expect("a string"), "name");
        reader.skip_tags().expect("no tags");
        assert_eq!(reader.position(), bytes.len());
    }

    #[test]
    fn answer_that_cannot_be_is_malformed() {
        let malformed = |bytes: &[u8], read: fn(&mut WireReader<'_>) -> bool| {
            assert!(read(&mut WireReader::new(bytes)), "{bytes:?}");
        };
        malformed(&[0, 0, 1], |reader| reader.i32().is_err());
        malformed(&[0, 9, b'a'], |reader| reader.string().is_err());
        malformed(&[0x7f, 0xff, 0xff, 0xff, 0], |reader| reader.array().is_err());
        malformed(&[0xff; 9], |reader| reader.uvarint().is_err());
        malformed(&[0x7f, 0xff, 0xff, 0xff, 0], |reader| reader.bytes().is_err());
    }
}
