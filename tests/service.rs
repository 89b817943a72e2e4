//! A small service manager: what the program reports by the protocol of sd_notify(3).

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::rig::watched::get;
use crate::rig::{DEADLINE, Invocation, Rig, Server};

const RUN: &str = "--interval 10ms --no-state --to out/c";

/// The socket of a manager, and all that was received.
struct Manager {
    socket: UnixDatagram,
    path: String,
    heard: Vec<String>,
}

impl Manager {
    fn new(rig: &Rig) -> Manager {
        let path = rig.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Manager { socket, path: path.display().to_string(), heard: Vec::new() }
    }

    /// Gives the program what a manager gives it; a watchdog only where there is a time.
    fn watch(&self, program: Invocation, watchdog: Option<Duration>) -> Invocation {
        let program = program.env("NOTIFY_SOCKET", &self.path);
        match watchdog {
            Some(time) => program.env("WATCHDOG_USEC", time.as_micros().to_string()),
            None => program,
        }
    }

    /// Takes the next message; false if none comes in this time.
    fn take(&mut self, time: Duration) -> bool {
        let mut message = [0; 4096];
        self.socket.set_read_timeout(Some(time)).expect("a time");
        let Ok(bytes) = self.socket.recv(&mut message) else { return false };
        let text = String::from_utf8(message[..bytes].to_vec()).expect("text");
        self.heard.extend(text.lines().map(str::to_owned));
        true
    }

    /// Waits until `times` lines in all begin with `text`.
    fn wait_for(&mut self, text: &str, times: usize) {
        while self.count(text) < times {
            assert!(self.take(DEADLINE), "never came: {times} times {text}\n{:#?}", self.heard);
        }
    }

    /// The number of lines that begin with `text`.
    fn count(&self, text: &str) -> usize {
        self.heard.iter().filter(|line| line.starts_with(text)).count()
    }

    /// Takes what was sent before the program ended.
    fn drain(&mut self) {
        while self.take(Duration::from_millis(1)) {}
    }
}

/// The flag of a source without a server.
fn nobody() -> String {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr();
    format!("--connect 127.0.0.1:{}", port.expect("an address").port())
}

#[test]
fn ready_does_not_wait_for_the_source() {
    let rig = Rig::new();
    let mut manager = Manager::new(&rig);
    let program = manager.watch(rig.wordtide(&format!("run {} {RUN}", nobody())), None).start();
    manager.wait_for("READY=1", 1);
    program.stop().expect(0);
    manager.drain();
    assert_eq!((manager.count("READY=1"), manager.count("STOPPING=1")), (1, 1));
    assert_eq!(manager.count("WATCHDOG=1"), 0, "no watchdog was asked for");
}

#[test]
fn abstract_socket_of_manager_is_reached() {
    let rig = Rig::new();
    let name = format!("wordtide-{}", rig.path("notify").display());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let mut manager = Manager::new(&rig);
    manager.socket = UnixDatagram::bind_addr(&address).expect("a socket");
    manager.path = format!("@{name}");
    let program = manager.watch(rig.wordtide(&format!("run {} {RUN}", nobody())), None).start();
    manager.wait_for("READY=1", 1);
    program.stop().expect(0);
    manager.wait_for("STOPPING=1", 1);
}

/// Runs the rest with standard input as the third descriptor, as a manager passes a socket.
const PASSES: &str = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";

/// A program that is passed a socket with this name, and the port of it.
fn activated(rig: &Rig, name: &str, flags: &str) -> (Invocation, u16) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("an address").port();
    let program = rig.wordtide_by(&["sh", "-c", PASSES], &format!("run {flags} {RUN}"));
    (program.env("LISTEN_FDNAMES", name).stdin(OwnedFd::from(socket)), port)
}

#[test]
fn passed_sockets_are_listened_on() {
    let rig = Rig::new();
    let (program, port) = activated(&rig, "http", &format!("{} --http systemd", nobody()));
    let program = program.start();
    // The connection waits in the backlog until the program takes the socket.
    get(port, "/health").expect(200);
    program.stop().expect(0);

    let (program, port) = activated(&rig, "listen", "--listen systemd --format tsv");
    let program = program.start();
    let mut sender = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    sender.write_all(b"a b\n").expect("it reads");
    drop(sender);
    program.wait_for_lines(1);
    program.stop().expect(0);
}

#[test]
fn passed_socket_of_another_name_is_refused() {
    let rig = Rig::new();
    let (program, _) = activated(&rig, "web", &format!("{} --http systemd", nobody()));
    let ended = program.start().end().expect(78);
    ended.says(&["--http", "no socket named http", "FileDescriptorName=http", "web"]);
    let (program, _) = activated(&rig, "listen", "--listen systemd --listen systemd");
    program.start().end().expect(78).says(&["--listen", "in use by this process"]);
}

#[test]
fn status_names_epochs_but_not_each() {
    let (rig, server) = (Rig::new(), Server::new());
    let mut manager = Manager::new(&rig);
    // A watchdog of another process is not ours.
    let program = rig.wordtide(&format!("run {} {RUN}", server.flag())).env("WATCHDOG_PID", "1");
    let program = manager.watch(program, Some(Duration::from_millis(30))).start();
    let mut peer = server.accept();
    peer.send("a b\n");
    manager.wait_for("STATUS=epoch ", 3);
    assert!(manager.heard.iter().any(|line| line.contains(" committed: ")), "{:?}", manager.heard);
    let ended = program.stop().expect(0);
    manager.drain();
    assert!(manager.count("STATUS=") < ended.committed_epochs(), "{:?}", manager.heard);
    assert_eq!(manager.count("WATCHDOG=1"), 0);
}

#[test]
fn watchdog_hears_nothing_of_hanging_run() {
    let (rig, server) = (Rig::new(), Server::new());
    let mut manager = Manager::new(&rig);
    let program = rig
        .wordtide(&format!("run {} {RUN} --state state", server.flag()).replace("--no-state ", ""));
    let program = program.env("WORDTIDE_CRASH_POINT", "worker.before_tick:300");
    let program = program.env("WORDTIDE_CRASH_MODE", "hang");
    let watchdog = Duration::from_millis(300);
    let program = manager.watch(program, Some(watchdog)).start();
    server.accept().send("a b\n");
    manager.wait_for("WATCHDOG=1", 3);
    // It hangs when no message comes for longer than the manager would wait.
    let began = std::time::Instant::now();
    while manager.take(3 * watchdog) {
        assert!(began.elapsed() < DEADLINE, "the watchdog hears of a run that hangs");
    }
    assert_eq!(manager.count("STOPPING=1"), 0);
    drop(program);
}

#[test]
fn launcher_alone_speaks_for_its_processes() {
    let (rig, server) = (Rig::new(), Server::new());
    let mut manager = Manager::new(&rig);
    let program = rig.wordtide(&format!("run {} {RUN} -n 2", server.flag()));
    let program = program.env("TMPDIR", rig.path("").display().to_string());
    let program = manager.watch(program, Some(Duration::from_millis(300))).start();
    server.accept().send("a b\n");
    manager.wait_for("STATUS=epoch ", 2);
    manager.wait_for("WATCHDOG=1", 4);
    program.stop().expect(0);
    manager.drain();
    assert_eq!((manager.count("READY=1"), manager.count("STOPPING=1")), (1, 1));
    assert_eq!(manager.count("X_"), 0, "{:?}", manager.heard);
    assert!(!rig.tree().iter().any(|name| name.starts_with("wordtide-notify")), "it is left");
}

#[test]
fn missing_or_full_socket_harms_nothing() {
    let rig = Rig::new();
    rig.file("lines", "a b\n");
    let run = format!("run --file lines {RUN}");
    rig.wordtide(&run).env("NOTIFY_SOCKET", "/nowhere/notify").start().end().expect(0);
    // No message is taken: the sender blocks as soon as the queue is full.
    let manager = Manager::new(&rig);
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("a mode");
    while sender.send_to(b"STATUS=x", &manager.path).is_ok() {}
    manager.watch(rig.wordtide(&run), None).start().end().expect(0);
    assert_eq!(rig.output("out/c").total("lines"), 2);
}
