//! Blocks of lines between processes, so that one socket can keep the workers of all busy.
//!
//! Each pair of processes has a connection for blocks. A process that has sources sends the blocks
//! that its own workers cannot take (see [`feed::shipping`](crate::feed::shipping)). The receiver
//! takes them in as from one more source: it reads when its pool of blocks has room. So the window
//! of TCP is the credit, and nothing is kept beyond the pool and two small socket buffers. Text
//! takes this way within a host too: one host is better served by threads (`-w`).
//!
//! The ends of epochs travel within the stream: an epoch is complete at a process only when every
//! process that sends it blocks has sent the epoch's end. After the last one comes END.
//!
//! A frame is a kind, an epoch and the head of a block, then the block's text. A link that breaks
//! is reported to the control links, which know the cause or find it.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use super::control::Control;
use super::links::ControlLinks;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::{Feed, Next};
use crate::lines::{BlockHead, BlockPool};
use crate::supervise;

/// Bytes of the kernel's buffers at each end: enough for a few blocks, so that a worker which has
/// nothing to do does not wait for the next, and few enough not to pile up work behind a border.
const SOCKET_BYTES: usize = 1 << 20;

/// Bytes of frames that are read at once; text goes past that.
const FRAMES_BYTES: usize = 2 << 10;

/// The connection for blocks to one other process.
#[derive(Debug)]
pub struct BlockLink {
    peer: usize,
    stream: TcpStream,
    links: Arc<ControlLinks>,
}

/// The connections for blocks, as the bring-up made them.
pub(super) fn links(blocks: Vec<Option<TcpStream>>, control: &Control) -> Vec<BlockLink> {
    let each = blocks.into_iter().enumerate();
    let link = |(peer, stream): (usize, Option<TcpStream>)| {
        stream.map(|stream| BlockLink { peer, stream, links: Arc::clone(control.links()) })
    };
    each.filter_map(link).collect()
}

impl BlockLink {
    /// The process at the other end.
    pub fn peer(&self) -> usize {
        self.peer
    }

    /// Separates the link into its two directions. Called within a runtime.
    ///
    /// # Errors
    /// `Failed` when the socket cannot be used.
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

/// Reports that a direction has broken.
#[derive(Debug)]
struct LinkReport {
    peer: usize,
    links: Arc<ControlLinks>,
}

impl LinkReport {
    async fn broke(self, cause: Option<io::Error>) {
        let told = move || self.links.data_broke(self.peer, cause.as_ref());
        // It waits a moment for the true cause, which a task must not.
        supervise::blocking(told).await;
    }
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockFrameKind {
    /// A block of the frame's epoch. Its text follows.
    Block = 1,
    /// The end of the frame's epoch: no more blocks for it, or for one before it.
    EpochEnd,
    /// The end of the stream.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockFrame {
    kind: BlockFrameKind,
    epoch: Epoch,
    head: [u8; BlockHead::BYTES],
}

impl BlockFrame {
    const BYTES: usize = 16 + BlockHead::BYTES;

    fn new(kind: BlockFrameKind, epoch: Epoch) -> BlockFrame {
        BlockFrame { kind, epoch, head: [0; BlockHead::BYTES] }
    }

    fn encode(&self) -> [u8; BlockFrame::BYTES] {
        let mut bytes = [0; BlockFrame::BYTES];
        bytes[..8].copy_from_slice(&(self.kind as u64).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..].copy_from_slice(&self.head);
        bytes
    }

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
    stream: OwnedWriteHalf,
    report: LinkReport,
}

impl Outbound {
    /// Returns a future that ships the surplus of `feed` until the feed ends or the link breaks.
    /// The feed has a shipper from now on, also before the future is polled.
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

/// Ships until the feed has ended; returns the number of blocks.
async fn ship_all(
    stream: &mut OwnedWriteHalf,
    feed: &Feed,
    shipper: usize,
    notify: &Notify,
) -> io::Result<u64> {
    let mut blocks = 0;
    // Ends of epochs go with the next block: each write may wake a thread at the other end.
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
    stream: OwnedReadHalf,
    report: LinkReport,
}

impl Inbound {
    /// Takes in blocks of at most `text_bytes_max` bytes until the other process ends or the link
    /// breaks. `passed` is called with each epoch for which no more come.
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
                let mut arrival = pool.arrival(head).await;
                stream.read_exact(arrival.text()).await?;
                feed.push_foreign(epoch, arrival.into_block());
            }
            BlockFrameKind::EpochEnd => {
                ended = Some(epoch);
                passed(epoch);
            }
            BlockFrameKind::End => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire_and_unknown_kinds_are_refused() {
        let head = std::array::from_fn(|at| at as u8);
        let sent = BlockFrame { kind: BlockFrameKind::Block, epoch: 7, head };
        let bytes = sent.encode();
        assert_eq!(BlockFrame::decode(&bytes).expect("a frame"), sent);
        assert!(BlockFrame::decode(&[9; BlockFrame::BYTES]).is_err());
    }
}
