//! Text helpers that several operators share: lines of a block, and bytes as text.

use crate::words::decode;

/// Calls `line` with each line of `text`, without its end: LF, CR or CR LF.
///
/// Bytes after the last end are a line too, unless there are none.
pub fn each_line<'a>(text: &'a [u8], mut line: impl FnMut(&'a [u8])) {
    let mut start = 0;
    for end in memchr::memchr2_iter(b'\n', b'\r', text) {
        let is_lf_of_crlf = text[end] == b'\n' && end > 0 && text[end - 1] == b'\r';
        if !is_lf_of_crlf {
            line(&text[start..end]);
        }
        start = end + 1;
    }
    if start < text.len() {
        line(&text[start..]);
    }
}

/// Returns `bytes` as text, with ill-formed UTF-8 replaced as it is in words.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&decode::java_lossy(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_ends_at_lf_cr_or_crlf() {
        let mut lines: Vec<&[u8]> = Vec::new();
        each_line(b"a\r\n\r\rb \xff\x00\n\nc", |line| lines.push(line));
        assert_eq!(lines, [&b"a"[..], b"", b"", b"b \xff\x00", b"", b"c"]);
    }
}
