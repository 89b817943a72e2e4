use std::io::{Read, Write};

use crate::rig::watched::{EventStream, ask, connect, get, port};
use crate::rig::{Rig, Server};

#[test]
fn words_need_the_token_beyond_loopback() {
    let (rig, server) = (Rig::new(), Server::new());
    rig.file("token", "s3cret\n");
    let flags = format!("run {} --no-state --to out/c --http 0.0.0.0:0", server.flag());
    let closed = rig.wordtide(&flags).start();
    let at = port(&closed);
    for path in ["/metrics", "/health"] {
        get(at, path).expect(200);
    }
    for path in ["/", "/api/v1/top", "/api/v1/events", "/nothing"] {
        ask(at, &format!("GET {path}"), "Authorization: Bearer s3cret\r\n").expect(403);
    }
    closed.stop().expect(0);

    let program = rig.wordtide(&format!("{flags} --token-file token")).start();
    let at = port(&program);
    for path in ["/", "/api/v1/top", "/nothing"] {
        let unknown = get(at, path).expect(401);
        assert!(unknown.header("www-authenticate").starts_with("Bearer"));
        ask(at, &format!("GET {path}"), "Authorization: Bearer wrong\r\n").expect(401);
    }
    let login = ask(at, "GET /", "Accept: text/html\r\n").expect(401);
    assert!(login.body.contains("location.hash"), "the page takes the token: {login:?}");
    let page = ask(at, "GET /", "Authorization: Bearer s3cret\r\n").expect(200);
    let cookie = page.header("set-cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().expect("a pair");
    ask(at, "GET /api/v1/top", &format!("Cookie: {pair}\r\n")).expect(200);
    get(at, "/health").expect(200);
    let said = program.stop().expect(0).stderr.join("\n");
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn hostile_requests_harm_nobody() {
    let (rig, server) = (Rig::new(), Server::new());
    let (program, mut peer, port) = super::counting(&rig, &server, "--no-state --to out/c");
    let idle: Vec<_> = (0..100).map(|_| connect(port)).collect();
    let streams: Vec<_> = (0..100).map(|_| EventStream::open(port, "")).collect();
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(1000));
    for request in
        [long.as_str(), &many, "\0\x01\x02\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET\r\n\r\n"]
    {
        let mut stream = connect(port);
        // The server may have closed the connection before it has read all of that.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    peer.send("still here\n");
    program.wait_for_lines(1);
    get(port, "/api/v1/status").expect(200);
    drop((idle, streams));
    program.stop().expect(0).says(&["1 lines, 2 words"]);
}
