//! Control links to a peer that has the key and sends anything.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use proptest::prelude::*;

use super::bringup::Sockets;
use super::control_frames::{Frame, Message, with_length};
use super::control_handle::Control;
use super::inbox::{ControlEvent, Inbox};
use super::settings::ClusterSettings;

/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// Returns the control links of process 0, and the socket of process 1, which the test holds.
fn linked(settings: ClusterSettings) -> (Control, Inbox, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
    let (own, _) = listener.accept().expect("a connection");
    let none = || vec![None, None];
    let sockets =
        Sockets { control: vec![None, Some(own)], data: none(), blocks: none(), is_one_host: true };
    let addresses = vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
    let settings = ClusterSettings { processes: 2, addresses, ..settings };
    let (control, inbox) = Control::start(&settings, &sockets).expect("the links");
    (control, inbox, peer)
}

/// Waits for the cause for which the link has ended; `None` if it was closed in good order.
fn cause(inbox: &mut Inbox) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let wait = async {
        loop {
            match tokio::time::timeout(LIMIT, inbox.recv()).await.expect("it hangs") {
                Some(ControlEvent::Lost(loss)) => return Some(loss.to_string()),
                Some(ControlEvent::Received { .. }) => {}
                None => return None,
            }
        }
    };
    runtime.expect("a runtime").block_on(wait)
}

#[test]
fn part_of_frame_is_no_life_sign() {
    let beat = Duration::from_millis(50);
    let brief = ClusterSettings {
        stall_timeout: 4 * beat,
        heartbeat_interval: beat,
        ..ClusterSettings::default()
    };
    let (_control, mut inbox, mut peer) = linked(brief);
    // A frame of 60,000 bytes, to which heartbeats are added for ever.
    peer.write_all(&60_000_u32.to_le_bytes()).expect("it reads");
    let beating = std::thread::spawn(move || {
        while peer.write_all(&Frame::Heartbeat.encode()).is_ok() {
            std::thread::park_timeout(beat / 5);
        }
    });
    let cause = cause(&mut inbox).expect("the peer is lost");
    assert!(cause.contains("silent"), "{cause}");
    drop((inbox, _control));
    beating.join().expect("it ends with the link");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_bytes_of_a_peer_hang_the_links(
        frames in prop::collection::vec((0..20u8, prop::collection::vec(any::<u8>(), 0..60)), 0..6),
        cut in 0..400usize,
        at in any::<prop::sample::Index>(),
        flip in any::<u8>(),
    ) {
        let (control, mut inbox, mut peer) = linked(ClusterSettings::default());
        let mut sent = Frame::Message(Message::Tick { epoch: 10, next: 20 }).encode();
        for (kind, rest) in &frames {
            sent.extend(with_length(&[&[*kind], &rest[..]].concat()));
        }
        let at = at.index(sent.len());
        sent[at] ^= flip;
        sent.truncate(sent.len().max(cut) - cut.min(sent.len() / 2));
        // The link may have ended before all of it was written.
        let _ = peer.write_all(&sent);
        drop(peer);
        cause(&mut inbox);
        drop(control);
    }
}
