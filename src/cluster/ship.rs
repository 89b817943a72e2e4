//! Blocks of lines between processes, so that one socket can keep the workers of all busy.
//!
//! Each pair of processes has a connection for blocks. A process that has sources sends what its
//! own workers cannot take (see [`feed::shipping`](crate::feed::shipping)), and the other takes it
//! in as from one more source: it reads when its pool of blocks has room. So the window of TCP is
//! the credit, and nothing is kept beyond the pool and two small socket buffers.
//!
//! The borders of epochs travel within the stream: an epoch is complete at a process only when
//! every process that sends it blocks has said that no more come for it. After the last border,
//! END.
//!
//! A frame is a kind, an epoch and the head of a block, then its text. What breaks is told to the
//! control links, which know the cause or find it.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use super::control::{Control, Links};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::{Feed, Next};
use crate::lines::{BlockHead, BlockPool};

/// Bytes of the kernel's buffers at each end: enough for a few blocks, so that a worker which has
/// nothing to do does not wait for the next, and few enough not to pile up work behind a border.
const SOCKET_BYTES: usize = 1 << 20;

/// Kind, epoch, head.
const FRAME_BYTES: usize = 16 + BlockHead::BYTES;

const BLOCK: u64 = 1;
const BORDER: u64 = 2;
const END: u64 = 3;

/// The connection for blocks to one other process.
#[derive(Debug)]
pub struct BlockLink {
    peer: usize,
    stream: TcpStream,
    links: Arc<Links>,
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

    /// Parts the link into its two directions. Within a runtime.
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
        let end = End { peer, links: Arc::clone(&links) };
        Ok((Outbound { stream: write, end: End { peer, links } }, Inbound { stream: read, end }))
    }
}

/// Whom to tell that a direction has broken.
#[derive(Debug)]
struct End {
    peer: usize,
    links: Arc<Links>,
}

impl End {
    async fn broke(self, cause: Option<io::Error>) {
        let told = move || self.links.data_broke(self.peer, cause.as_ref());
        // It waits a moment for the true cause, which a task must not.
        tokio::task::spawn_blocking(told).await.unwrap_or_default();
    }
}

/// The direction to the other process.
#[derive(Debug)]
pub struct Outbound {
    stream: OwnedWriteHalf,
    end: End,
}

impl Outbound {
    /// Adds a shipper to `feed` now; what it returns ships until the feed ends or the link breaks.
    pub fn ship(self, feed: Feed) -> impl Future<Output = ()> + Send + 'static {
        let notify = Arc::new(Notify::new());
        let wake = Arc::clone(&notify);
        let shipper = feed.add_shipper(Arc::new(move || wake.notify_one()));
        let Outbound { mut stream, end } = self;
        async move {
            match ship_all(&mut stream, &feed, shipper, &notify).await {
                Ok(blocks) => {
                    tracing::debug!("{blocks} blocks were shipped to process {}", end.peer)
                }
                Err(cause) => end.broke(Some(cause)).await,
            }
        }
    }
}

/// Ships until the feed ends; returns the number of blocks.
async fn ship_all(
    stream: &mut OwnedWriteHalf,
    feed: &Feed,
    shipper: usize,
    notify: &Notify,
) -> io::Result<u64> {
    let mut blocks = 0;
    loop {
        match feed.next_to_ship(shipper) {
            Next::Block(epoch, block) => {
                let head = BlockHead::of(&block).encode();
                stream.write_all(&frame(BLOCK, epoch, &head)).await?;
                stream.write_all(block.text()).await?;
                blocks += 1;
            }
            Next::Complete { epoch, .. } => {
                stream.write_all(&frame(BORDER, epoch, &[0; BlockHead::BYTES])).await?;
            }
            Next::Wait => notify.notified().await,
            Next::End => {
                stream.write_all(&frame(END, 0, &[0; BlockHead::BYTES])).await?;
                return Ok(blocks);
            }
        }
    }
}

fn frame(kind: u64, epoch: Epoch, head: &[u8; BlockHead::BYTES]) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..8].copy_from_slice(&kind.to_le_bytes());
    frame[8..16].copy_from_slice(&epoch.to_le_bytes());
    frame[16..].copy_from_slice(head);
    frame
}

/// The direction from the other process.
#[derive(Debug)]
pub struct Inbound {
    stream: OwnedReadHalf,
    end: End,
}

impl Inbound {
    /// Takes in blocks of at most `text_bytes_max` bytes until the other process ends or the link
    /// breaks. `passed` is told of each epoch for which no more come.
    pub async fn receive(
        self,
        feed: Feed,
        pool: BlockPool,
        text_bytes_max: u64,
        passed: impl Fn(Epoch) + Send + 'static,
    ) {
        let Inbound { mut stream, end } = self;
        let received = receive_all(&mut stream, &feed, &pool, text_bytes_max, passed).await;
        if let Err(cause) = received {
            let closed = cause.kind() == io::ErrorKind::UnexpectedEof;
            end.broke((!closed).then_some(cause)).await;
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
    let mut frame = [0; FRAME_BYTES];
    let mut head = [0; BlockHead::BYTES];
    loop {
        stream.read_exact(&mut frame).await?;
        let (fields, _) = frame.as_chunks::<8>();
        let epoch = u64::from_le_bytes(fields[1]);
        match u64::from_le_bytes(fields[0]) {
            BLOCK => {
                head.copy_from_slice(&frame[16..]);
                let head = BlockHead::decode(&head);
                if head.text_bytes() > text_bytes_max {
                    let bytes = head.text_bytes();
                    return Err(io::Error::other(format!("it sent a block of {bytes} bytes")));
                }
                let mut arrival = pool.arrival(head).await;
                stream.read_exact(arrival.text()).await?;
                feed.push_foreign(epoch, arrival.into_block());
            }
            BORDER => passed(epoch),
            END => return Ok(()),
            kind => return Err(io::Error::other(format!("it sent a block frame of kind {kind}"))),
        }
    }
}
