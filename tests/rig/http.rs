//! A client of HTTP that sends exactly the bytes of a test.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{DEADLINE, Running};

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Returns the value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns the position that the answer names.
    pub(crate) fn next(&self) -> Option<u64> {
        let body: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        body.get("next")?.as_u64()
    }

    /// Returns the reason of a refusal.
    pub(crate) fn error(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("JSON");
        body["error"].as_str().expect("a reason").to_owned()
    }
}

/// A connection to a server.
pub(crate) struct Wire {
    stream: TcpStream,
}

impl Wire {
    pub(crate) fn new(port: u16) -> Wire {
        Wire::try_new(port).expect("somebody listens")
    }

    pub(crate) fn try_new(port: u16) -> Option<Wire> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        stream.set_write_timeout(Some(DEADLINE)).expect("a socket");
        Some(Wire { stream })
    }

    /// Sends bytes; a server that has closed the connection is no failure.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).ok();
    }

    /// Reads one answer; `None` if the connection ends before it.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return None,
            }
        }
        let head = String::from_utf8(head).expect("a head is text");
        let status = head.split_whitespace().nth(1)?.parse().expect("a status");
        if status == 100 {
            return self.answer();
        }
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        answer.body = String::from_utf8(body).expect("a body is text");
        Some(answer)
    }
}

/// Returns the bytes of a request with these headers, each with its line end.
pub(crate) fn request(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Posts a body on a connection of its own.
pub(crate) fn post(port: u16, target: &str, body: impl AsRef<[u8]>) -> Answer {
    ask(port, &request("POST", target, "", body.as_ref()))
}

/// Asks for a target on a connection of its own.
pub(crate) fn get(port: u16, target: &str) -> Answer {
    ask(port, &request("GET", target, "", b""))
}

/// Sends a request on a connection of its own.
pub(crate) fn ask(port: u16, request: &[u8]) -> Answer {
    let mut wire = Wire::new(port);
    wire.send(request);
    wire.answer().expect("an answer")
}

impl Running {
    /// Waits until the program listens for lines; returns the port.
    pub(crate) fn http_port(&self) -> u16 {
        let line = self.wait_for("listening for lines on http://");
        let (_, address) = line.split_once("http://").expect("an address");
        let (address, _) = address.split_once('/').expect("a path");
        address.rsplit_once(':').expect("a port").1.parse().expect("a number")
    }
}
