//! A client of HTTP over a raw socket: nothing between the test and the bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::{DEADLINE, Running};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails unless the code is this one.
    #[track_caller]
    pub(crate) fn expect(self, code: u16) -> Answer {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// The port in `http://ADDRESS:PORT/` that a program has logged.
pub(crate) fn port_of(line: &str) -> u16 {
    let (_, rest) = line.split_once("http://").expect("an address");
    let port = rest.trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok());
    port.unwrap_or_else(|| panic!("no port in {line}"))
}

/// Waits until the program has logged where it can be watched.
pub(crate) fn port(program: &Running) -> u16 {
    port_of(&program.wait_for("watch this run at http://"))
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the program listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    stream
}

/// Sends a request as it is, and reads the answer.
pub(crate) fn send(port: u16, request: &str) -> Answer {
    let mut stream = connect(port);
    stream.write_all(request.as_bytes()).expect("the program reads");
    read(BufReader::new(stream), request.starts_with("HEAD "))
}

/// `METHOD PATH` with more headers, each with its line end.
pub(crate) fn ask(port: u16, what: &str, headers: &str) -> Answer {
    let host = format!("Host: 127.0.0.1:{port}\r\nConnection: close\r\n");
    send(port, &format!("{what} HTTP/1.1\r\n{host}{headers}\r\n"))
}

pub(crate) fn get(port: u16, path: &str) -> Answer {
    ask(port, &format!("GET {path}"), "")
}

fn read(mut stream: BufReader<TcpStream>, has_no_body: bool) -> Answer {
    let (code, headers) = head(&mut stream);
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; if has_no_body { 0 } else { length }];
    stream.read_exact(&mut body).expect("the whole body");
    if has_no_body {
        stream.read_to_end(&mut body).expect("the end of the connection");
    }
    Answer { code, headers, body: String::from_utf8(body).expect("text") }
}

fn head(stream: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a status line");
    let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.unwrap_or_else(|| panic!("no status: {line:?}"));
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    (code, headers)
}

/// A stream of server-sent events.
pub(crate) struct EventStream {
    stream: BufReader<TcpStream>,
    /// The rest of a chunk.
    chunk: Vec<u8>,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) id: Option<u64>,
    pub(crate) data: Value,
}

impl EventStream {
    /// Opens the stream, with more headers.
    pub(crate) fn open(port: u16, headers: &str) -> EventStream {
        let mut stream = connect(port);
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).expect("the program reads");
        let mut stream = BufReader::new(stream);
        let (code, headers) = head(&mut stream);
        assert_eq!(code, 200);
        assert!(headers.contains(&("content-type".into(), "text/event-stream".into())));
        let mut stream = EventStream { stream, chunk: Vec::new() };
        let greeting = stream.block().expect("a greeting");
        assert!(greeting.starts_with("retry: "), "{greeting}");
        stream
    }

    /// The next event; `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block()?;
            let field = |name: &str| {
                let mut lines = block.lines();
                lines
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
            };
            let Some(kind) = field("event") else { continue };
            let data = serde_json::from_str(&field("data").expect("data")).expect("JSON");
            return Some(Event { kind, id: field("id").and_then(|id| id.parse().ok()), data });
        }
    }

    /// The ids of the next epochs.
    pub(crate) fn epochs(&mut self, count: usize) -> Vec<u64> {
        let events = std::iter::from_fn(|| self.next());
        events
            .filter(|event| event.kind == "epoch")
            .filter_map(|event| event.id)
            .take(count)
            .collect()
    }

    /// Lines up to the next empty one.
    fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.chunk.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.chunk.drain(..end + 2).collect();
                return Some(String::from_utf8(block).expect("text"));
            }
            let mut line = String::new();
            self.stream.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
            let length = usize::from_str_radix(line.trim(), 16).expect("the length of a chunk");
            let mut chunk = vec![0; length + 2];
            self.stream.read_exact(&mut chunk).ok()?;
            if length == 0 {
                return None;
            }
            self.chunk.extend_from_slice(&chunk[..length]);
        }
    }
}
