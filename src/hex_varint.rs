//! Bytes as text and numbers as bytes: hexadecimal digits, and integers of variable length.

/// Returns `bytes` in lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    push_hex(bytes, &mut digits);
    digits
}

/// Appends `bytes` in lower-case hexadecimal digits.
pub fn push_hex(bytes: &[u8], out: &mut String) {
    /// The digits, in lower case.
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Most bytes of a number of variable length.
const VARINT_BYTES_MAX: usize = 10;

/// Appends `number` in LEB128: groups of seven bits, the lowest first.
#[inline]
pub fn put_varint(number: u64, out: &mut Vec<u8>) {
    let mut bytes = [0; VARINT_BYTES_MAX];
    let end = write_varint(number, &mut bytes, 0);
    out.extend_from_slice(&bytes[..end]);
}

/// Writes `number` at `at` as [`put_varint`] does, and returns the index after it. There must be
/// room for it, of up to ten bytes.
#[inline(always)]
pub fn write_varint(mut number: u64, bytes: &mut [u8], mut at: usize) -> usize {
    while number >= 0x80 {
        bytes[at] = number as u8 | 0x80;
        number >>= 7;
        at += 1;
    }
    bytes[at] = number as u8;
    at + 1
}

/// Takes a number in LEB128 from the front of `bytes`. Returns `None` if they end within it, or if
/// it has more than 64 bits.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_two_digits_a_byte() {
        assert_eq!(hex(&[0, 0x0a, 0xff]), "000aff");
    }

    #[test]
    fn varint_is_read_back_and_follows_on() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(number, &mut bytes);
            bytes.push(7);
            let mut rest = &bytes[..];
            assert_eq!(take_varint(&mut rest), Some(number));
            assert_eq!(rest, [7]);
        }
    }

    #[test]
    fn varint_cut_or_too_long_is_refused() {
        assert_eq!(take_varint(&mut &[0x80, 0x80][..]), None);
        assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
        let mut above_64_bits = [0xff; 10];
        above_64_bits[9] = 2;
        assert_eq!(take_varint(&mut &above_64_bits[..]), None);
    }
}
