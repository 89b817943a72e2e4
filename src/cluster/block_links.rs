//! Blocks of lines between processes, so one source can keep the workers of all processes busy.
//!
//! Each pair of processes has a connection for blocks. A process that has sources sends the blocks
//! that its own workers cannot take (see [`feed::remote_blocks`](crate::feed::remote_blocks)). The
//! receiver treats the connection as one more source: it reads when its pool of blocks has room. So
//! TCP's window limits the sender, and memory is bounded by the pool and two small socket buffers.
//! Text goes through the socket within a host too. On one host, threads (`-w`) are faster.
//!
//! The ends of epochs are sent within the stream. An epoch is complete at a process only after
//! every process that sends it blocks has sent the epoch's end. END follows the last epoch.
//!
//! A frame is a kind, an epoch and the head of a block, followed by the block's text. A link that
//! breaks is reported to the control links, which detect the cause.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use super::control_handle::Control;
use super::control_links::ControlLinks;
use crate::epoch::{Epoch, TIME_MAX_MS};
use crate::error::{Error, ErrorKind, Result};
use crate::feed::{Feed, Next};
use crate::lines::{BlockHead, BlockPool};
use crate::supervise;

/// Bytes of the kernel's buffers at each end. They hold a few blocks, so an idle worker need not
/// wait for the next one, and no more, so that little work remains for an epoch after its cut.
const SOCKET_BYTES: usize = 1 << 20;

/// Size of the read buffer. It holds frames; text is read past it.
const FRAMES_BYTES: usize = 2 << 10;

/// The connection for blocks to one other process.
#[derive(Debug)]
pub struct BlockLink {
    /// The process at the other end.
    peer: usize,
    /// The connection.
    stream: TcpStream,
    /// Where the loss of the connection is reported.
    links: Arc<ControlLinks>,
}

/// Returns the links over the sockets that the bring-up has made.
pub fn links(blocks: Vec<Option<TcpStream>>, control: &Control) -> Vec<BlockLink> {
    let each = blocks.into_iter().enumerate();
    let link = |(peer, stream): (usize, Option<TcpStream>)| {
        stream.map(|stream| BlockLink { peer, stream, links: Arc::clone(control.links()) })
    };
    each.filter_map(link).collect()
}

impl BlockLink {
    /// Returns the index of the process at the other end.
    pub fn peer(&self) -> usize {
        self.peer
    }

    /// Splits the link into its two directions. Must be called within a runtime.
    ///
    /// # Errors
    /// `Failed` if the socket cannot be set up.
    pub fn split(self) -> Result<(Outbound, Inbound)> {
        let BlockLink { peer, stream, links } = self;
        let opened = stream.set_nonblocking(true).and_then(|()| {
            let socket = SockRef::from(&stream);
            socket.set_send_buffer_size(SOCKET_BYTES)?;
            socket.set_recv_buffer_size(SOCKET_BYTES)?;
            tokio::net::TcpStream::from_std(stream)
        });
        let (read, write) = opened
            .map_err(|cause| {
                let message = format!("cannot use the connection for blocks: {cause}");
                Error::new(ErrorKind::Failed, message).cause(cause)
            })?
            .into_split();
        let outbound =
            Outbound { stream: write, report: LinkReport { peer, links: Arc::clone(&links) } };
        Ok((outbound, Inbound { stream: read, report: LinkReport { peer, links } }))
    }
}

/// The control links and the peer, to report that a direction has broken.
#[derive(Debug)]
struct LinkReport {
    /// The process at the other end.
    peer: usize,
    /// Where the loss is reported.
    links: Arc<ControlLinks>,
}

impl LinkReport {
    /// Reports the end of the connection; `None` stands for one that was closed in order.
    async fn broke(self, cause: Option<io::Error>) {
        let report = move || self.links.data_broke(self.peer, cause.as_ref());
        // The report waits up to a second for the true cause, so it must not run in a task.
        supervise::blocking(report).await;
    }
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockFrameKind {
    /// A block of the frame's epoch. Its text follows.
    Block = 1,
    /// The end of the frame's epoch. No more blocks follow for it or for an earlier one.
    EpochEnd,
    /// The end of the stream.
    End,
}

/// A frame, without the text that follows a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockFrame {
    /// A block, or the end of an epoch.
    kind: BlockFrameKind,
    /// The epoch of the block, or the one that has ended.
    epoch: Epoch,
    /// The head of the block; zeros for the other kinds.
    head: [u8; BlockHead::BYTES],
}

impl BlockFrame {
    /// Length of an encoded frame.
    const BYTES: usize = 16 + BlockHead::BYTES;

    /// Returns a frame without a block.
    fn new(kind: BlockFrameKind, epoch: Epoch) -> BlockFrame {
        BlockFrame { kind, epoch, head: [0; BlockHead::BYTES] }
    }

    /// Returns the bytes of the frame: two `u64`, little endian, and the head.
    fn encode(&self) -> [u8; BlockFrame::BYTES] {
        let mut bytes = [0; BlockFrame::BYTES];
        bytes[..8].copy_from_slice(&(self.kind as u64).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..].copy_from_slice(&self.head);
        bytes
    }

    /// Decodes a frame. Fails if its kind is unknown.
    fn decode(bytes: &[u8; BlockFrame::BYTES]) -> io::Result<BlockFrame> {
        use BlockFrameKind::{Block, End, EpochEnd};
        let (fields, head) = bytes.split_at(16);
        let (fields, _) = fields.as_chunks::<8>();
        let number = u64::from_le_bytes(fields[0]);
        let known = [Block, EpochEnd, End].into_iter().find(|kind| *kind as u64 == number);
        let kind = known.ok_or_else(|| {
            io::Error::other(format!("it sent a frame for blocks of kind {number}"))
        })?;
        let mut frame = BlockFrame::new(kind, u64::from_le_bytes(fields[1]));
        frame.head.copy_from_slice(head);
        Ok(frame)
    }
}

/// The direction to the other process.
#[derive(Debug)]
pub struct Outbound {
    /// The writing half.
    stream: OwnedWriteHalf,
    /// Reports the loss of the connection.
    report: LinkReport,
}

impl Outbound {
    /// Returns a future that ships the surplus of `feed` until the feed ends or the link breaks.
    ///
    /// The shipper is registered at the call, before the future is polled, so no epoch can complete
    /// without it.
    pub fn ship(self, feed: Feed) -> impl Future<Output = ()> + Send + 'static {
        let Outbound { mut stream, report } = self;
        let notify = Arc::new(Notify::new());
        let waker = Arc::clone(&notify);
        let shipper = feed.add_shipper(Arc::new(move || waker.notify_one()));
        async move {
            match ship_all(&mut stream, &feed, shipper, &notify).await {
                Ok(blocks) => {
                    tracing::debug!("{blocks} blocks were shipped to process {}", report.peer)
                }
                Err(cause) => report.broke(Some(cause)).await,
            }
        }
    }
}

/// Ships blocks until the feed ends. Returns their number.
///
/// The text of a block is written directly from the block, without a copy.
///
/// Fails if the connection breaks.
async fn ship_all(
    stream: &mut OwnedWriteHalf,
    feed: &Feed,
    shipper: usize,
    notify: &Notify,
) -> io::Result<u64> {
    let mut blocks = 0;
    // Ends of epochs wait for the next block, because each write may wake a thread of the peer.
    let mut frames = Vec::new();
    loop {
        match feed.next_to_ship(shipper) {
            Next::Block(epoch, block) => {
                let head = BlockHead::of(&block).encode();
                frames.extend(
                    BlockFrame { head, ..BlockFrame::new(BlockFrameKind::Block, epoch) }.encode(),
                );
                stream.write_all(&frames).await?;
                stream.write_all(block.text()).await?;
                frames.clear();
                blocks += 1;
            }
            Next::Complete { epoch, .. } => {
                frames.extend(BlockFrame::new(BlockFrameKind::EpochEnd, epoch).encode());
            }
            Next::Wait => {
                stream.write_all(&frames).await?;
                frames.clear();
                notify.notified().await;
            }
            Next::End => {
                frames.extend(BlockFrame::new(BlockFrameKind::End, 0).encode());
                stream.write_all(&frames).await?;
                return Ok(blocks);
            }
        }
    }
}

/// The direction from the other process.
#[derive(Debug)]
pub struct Inbound {
    /// The reading half.
    stream: OwnedReadHalf,
    /// Reports the loss of the connection.
    report: LinkReport,
}

impl Inbound {
    /// Receives blocks of at most `text_bytes_max` bytes until the other process ends the stream
    /// or the link breaks. Calls `passed` with each epoch for which no more blocks follow.
    pub async fn receive(
        self,
        feed: Feed,
        pool: BlockPool,
        text_bytes_max: u64,
        passed: impl Fn(Epoch) + Send + 'static,
    ) {
        let Inbound { mut stream, report } = self;
        let received = receive_all(&mut stream, &feed, &pool, text_bytes_max, passed).await;
        if let Err(cause) = received {
            let closed = cause.kind() == io::ErrorKind::UnexpectedEof;
            report.broke((!closed).then_some(cause)).await;
        }
    }
}

/// Receives blocks until END.
///
/// Sizes and epochs are checked before any memory is taken, because the peer may run a faulty
/// program.
///
/// Fails if the connection breaks, or if the peer sends a block that is too large, for an epoch
/// that is over, or for one that is not open here, or anything after END.
async fn receive_all(
    stream: &mut OwnedReadHalf,
    feed: &Feed,
    pool: &BlockPool,
    text_bytes_max: u64,
    passed: impl Fn(Epoch),
) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(FRAMES_BYTES, stream);
    let mut bytes = [0; BlockFrame::BYTES];
    let mut ended = None;
    loop {
        stream.read_exact(&mut bytes).await?;
        let BlockFrame { kind, epoch, head } = BlockFrame::decode(&bytes)?;
        if kind != BlockFrameKind::End && Some(epoch) <= ended {
            return Err(io::Error::other(format!("it sent more for epoch {epoch} after its end")));
        }
        if epoch > TIME_MAX_MS {
            // A block of an epoch that is not open yet waits for it: this one never opens.
            return Err(io::Error::other(format!("it sent a frame of {epoch}, which is no time")));
        }
        match kind {
            BlockFrameKind::Block => {
                let wrong = || io::Error::other("it sent a block of impossible size");
                let head = BlockHead::decode(&head).ok_or_else(wrong)?;
                if head.text_bytes() > text_bytes_max {
                    let bytes = head.text_bytes();
                    return Err(io::Error::other(format!("it sent a block of {bytes} bytes")));
                }
                if !feed.admits(epoch).await {
                    let what = format!("it sent a block for {epoch}, which is no epoch now");
                    return Err(io::Error::other(what));
                }
                // Waiting for room in the pool stops the reads, so TCP's window slows the sender.
                let mut arrival = pool.arrival(head).await;
                stream.read_exact(arrival.text()).await?;
                feed.push_foreign(epoch, arrival.into_block());
            }
            BlockFrameKind::EpochEnd => {
                ended = Some(epoch);
                passed(epoch);
            }
            BlockFrameKind::End => {
                // The connection closes next, in whatever way.
                return match stream.read(&mut bytes).await {
                    Ok(1..) => Err(io::Error::other("it sent more after the end of its stream")),
                    _ => Ok(()),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_frame_decodes_to_itself() {
        let head = std::array::from_fn(|at| at as u8);
        let sent = BlockFrame { kind: BlockFrameKind::Block, epoch: 7, head };
        let bytes = sent.encode();
        assert_eq!(BlockFrame::decode(&bytes).expect("a frame"), sent);
        assert!(BlockFrame::decode(&[9; BlockFrame::BYTES]).is_err());
    }

    /// Receives what a peer sends before it closes; the epoch 10 is open.
    async fn receive(sent: &[u8]) -> (io::Result<()>, Vec<Epoch>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut peer = tokio::net::TcpStream::connect(address).await.expect("it listens");
        let (stream, _) = listener.accept().await.expect("a connection");
        peer.write_all(sent).await.expect("it fits into the buffers of the kernel");
        drop(peer);
        let (feed, pool) = (Feed::new(1, 10), BlockPool::new(4 << 20));
        let passed = std::sync::Mutex::new(Vec::new());
        let note = |epoch| passed.lock().expect("no thread panicked").push(epoch);
        let received = receive_all(&mut stream.into_split().0, &feed, &pool, 1 << 20, note).await;
        (received, passed.into_inner().expect("no thread panicked"))
    }

    #[tokio::test]
    async fn frames_after_the_end_are_refused() {
        let [end_of_10, end] = [BlockFrameKind::EpochEnd, BlockFrameKind::End]
            .map(|kind| BlockFrame::new(kind, if kind == BlockFrameKind::End { 0 } else { 10 }))
            .map(|frame| frame.encode());
        let (received, passed) = receive(&[end_of_10, end].concat()).await;
        assert!(received.is_ok() && passed == [10], "{received:?} {passed:?}");
        let (received, passed) = receive(&[end, end_of_10].concat()).await;
        let text = received.expect_err("its epochs would never end").to_string();
        assert!(text.contains("after the end") && passed.is_empty(), "{text}");
        let far = BlockFrame::new(BlockFrameKind::Block, Epoch::MAX).encode();
        receive(&far).await.0.expect_err("it would wait for this epoch for ever");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_of_a_peer_hang_the_receiver(
            frames in proptest::collection::vec(
                (0..5u64, proptest::sample::select(vec![0, 9, 10, Epoch::MAX]),
                    proptest::collection::vec(proptest::num::u8::ANY, 0..80)),
                0..8,
            ),
        ) {
            // An epoch after the open one may open later: frames in line name none.
            let mut sent = Vec::new();
            for (kind, epoch, rest) in frames {
                sent.extend([kind.to_le_bytes(), epoch.to_le_bytes()].concat());
                sent.extend(rest);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let limit = std::time::Duration::from_secs(60);
            let work = async { tokio::time::timeout(limit, receive(&sent)).await };
            let received = runtime.expect("a runtime").block_on(work);
            proptest::prop_assert!(received.is_ok(), "it hangs");
        }
    }
}
