//! As much HTTP/1.1 as the double needs.

use std::io::{BufRead, Read, Result, Write};
use std::net::TcpStream;

use md5::{Digest, Md5};

use super::time;

/// One request.
pub(crate) struct Request {
    pub(crate) method: String,
    /// Still encoded.
    pub(crate) path: String,
    /// Still encoded, without the `?`.
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The next request's head, or `None` when the client has hung up.
    pub(crate) fn read_head(reader: &mut impl BufRead) -> Result<Option<Request>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = words.next().zip(words.next()).unwrap_or_default();
        // As a client asks a proxy: with the scheme and the host that are in the Host header too.
        let target = match target.strip_prefix("http://").map(|rest| rest.find('/')) {
            Some(Some(slash)) => target["http://".len() + slash..].to_owned(),
            Some(None) => "/".to_owned(),
            None => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut request = Request {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                return Ok(Some(request));
            };
            let name = name.to_ascii_lowercase();
            request.headers.push((name, value.trim().to_owned()));
        }
    }

    /// Reads one `share`th of the body.
    pub(crate) fn read_body(&mut self, reader: &mut impl BufRead, share: usize) -> Result<()> {
        let length: usize = self.header("content-length").parse().unwrap_or(0);
        self.body = vec![0; length / share];
        reader.read_exact(&mut self.body)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    fn pair(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| {
            let (known, value) = pair.split_once('=').unwrap_or((pair, ""));
            (known == name).then_some(value)
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.pair(name).is_some()
    }

    pub(crate) fn value(&self, name: &str) -> String {
        decode(self.pair(name).unwrap_or_default())
    }
}

/// Undoes percent-encoding.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).unwrap_or_default();
        match (bytes[at], u8::from_str_radix(digits, 16)) {
            (b'%', Ok(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            let padding = at > chunk.len();
            text.push(if padding { '=' } else { char::from(digit) });
        }
    }
    text
}

/// The ETag of an object that was stored at once.
pub(crate) fn etag_of(body: &[u8]) -> String {
    Md5::digest(body).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// One answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    etag: Option<String>,
    modified_s: Option<u64>,
    is_page: bool,
    range: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Answer {
            status,
            etag: None,
            modified_s: None,
            is_page: false,
            range: None,
            body: Vec::new(),
        }
    }

    /// An error as OSS words it, with the things in it that must never be repeated.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code>\
             <Message>quoted-by-the-server</Message><RequestId>5C3D9175B6FC201293AD4890</RequestId>\
             <HostId>host</HostId><OSSAccessKeyId>{}</OSSAccessKeyId>\
             <StringToSign>quoted-by-the-server</StringToSign></Error>",
            super::KEY_ID
        );
        Answer::new(status).body(text.into_bytes())
    }

    pub(crate) fn etag(mut self, etag: String) -> Self {
        self.etag = Some(etag);
        self
    }

    /// Returns the page that a captive portal answers to every request.
    pub(crate) fn page() -> Self {
        let page = "<!DOCTYPE html><html><body>quoted-by-the-server</body></html>";
        Answer { is_page: true, ..Answer::new(200).body(page.as_bytes().to_vec()) }
    }

    pub(crate) fn modified(mut self, modified_s: u64) -> Self {
        self.modified_s = Some(modified_s);
        self
    }

    /// Returns the answer with the bytes of the range `bytes=FROM-TO` only, if there is a range.
    pub(crate) fn range(mut self, asked: &str) -> Self {
        let bounds = asked.strip_prefix("bytes=").and_then(|asked| asked.split_once('-'));
        if let Some((from, to)) = bounds {
            let (from, last) = (from.parse().unwrap_or(0), self.body.len() - 1);
            let to = to.parse().unwrap_or(last).min(last);
            self.range = Some(format!("bytes {from}-{to}/{}", self.body.len()));
            self.body = self.body[from..=to].to_vec();
            self.status = 206;
        }
        self
    }

    pub(crate) fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn write(&self, method: &str, now_s: u64, mut stream: &TcpStream) -> Result<()> {
        let etag = self.etag.as_ref();
        let etag = etag.map_or(String::new(), |etag| format!("ETag: \"{etag}\"\r\n"));
        let mut text =
            format!("HTTP/1.1 {} X\r\nDate: {}\r\n{etag}", self.status, time::http(now_s));
        if let Some(range) = &self.range {
            text += &format!("Content-Range: {range}\r\n");
        }
        if self.status != 204 {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        if self.is_page {
            text += "Content-Type: text/html\r\n";
        }
        if let Some(modified_s) = self.modified_s {
            text += &format!("Last-Modified: {}\r\n", time::http(modified_s));
        }
        text += "\r\n";
        let mut bytes = text.into_bytes();
        if method != "HEAD" {
            bytes.extend_from_slice(&self.body);
        }
        stream.write_all(&bytes)
    }
}

#[test]
fn percent_encoding_is_undone() {
    assert_eq!(decode("a%20b%2Bc=%C3%A9%"), "a b+c=é%");
    let mut head: &[u8] = b"PUT /k?a=1&b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nxy";
    let mut request = Request::read_head(&mut head).unwrap().unwrap();
    request.read_body(&mut head.by_ref(), 1).unwrap();
    assert_eq!((request.header("host"), &request.body[..]), ("h", &b"xy"[..]));
    assert!(request.has("b") && request.value("a") == "1");
    let mut head: &[u8] = b"GET http://demo.example.com/k HTTP/1.1\r\n\r\n";
    assert_eq!(Request::read_head(&mut head).unwrap().unwrap().path, "/k");
}
