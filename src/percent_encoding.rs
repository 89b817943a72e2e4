//! Text in which bytes are written as `%41`.

/// Returns `text` decoded; `None` for a `%` without two hexadecimal digits, and for bytes that are
/// no UTF-8. A replacement character would make several texts the same.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        decoded.push(if byte == b'%' { (16 * digit()? + digit()?) as u8 } else { byte });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_encoded_utf_8_is_decoded() {
        assert_eq!(percent_decoded("a%20b%C3%a4+").as_deref(), Some("a bä+"));
        for broken in ["%", "a%2", "%+f", "%ff", "%C3"] {
            assert_eq!(percent_decoded(broken), None, "{broken}");
        }
    }
}
