//! Blocks of lines between processes, so that one socket can keep the workers of all busy.
//!
//! Each pair of processes has a connection for blocks. A process that has sources sends what its
//! own workers cannot take (see [`feed::shipping`](crate::feed::shipping)), and the other takes it
//! in as from one more source: it reads when its pool of blocks has room. So the window of TCP is
//! the credit, and nothing is kept beyond the pool and two small socket buffers.
//!
//! On one host the text need not travel at all. The sender offers the memory of its pool
//! ([`loans`](super::loans)); if the other process can map it, a block is lent to it where it lies
//! until it has been counted. Then the number of blocks that are lent is the bound.
//!
//! The borders of epochs travel within the stream: an epoch is complete at a process only when
//! every process that sends it blocks has said that no more come for it. After the last border END,
//! and after the last block was given back BYE, each from both ends.
//!
//! A frame is a kind, an epoch, a place in lent memory and the head of a block, then its text. What
//! breaks is told to the control links, which know the cause or find it.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::control::{Control, Links};
use super::loans::{Loans, Offer};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::{Feed, Next};
use crate::lines::{BlockHead, BlockPool};

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
        let loans = Arc::new(Loans::new(links.settings.processes));
        let end = End { peer, links: Arc::clone(&links) };
        let outbound = Outbound { stream: write, loans: Arc::clone(&loans), end };
        Ok((outbound, Inbound { stream: read, loans, end: End { peer, links } }))
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

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A block, whose text follows.
    Block = 1,
    /// A block whose text lies in the memory that the sender has offered.
    Lent,
    /// A slot of the receiver's memory is free again.
    Return,
    /// No more blocks for an epoch.
    Border,
    /// No more blocks.
    End,
    /// Memory in which blocks may lie.
    Offer,
    /// Whether that memory can be read here: 1, else 0.
    Answer,
    /// Nothing more at all.
    Bye,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: Kind,
    epoch: Epoch,
    /// Slot, and first byte in it.
    place: (u32, u32),
    head: [u8; BlockHead::BYTES],
}

impl Frame {
    const BYTES: usize = 24 + BlockHead::BYTES;

    fn new(kind: Kind) -> Frame {
        Frame { kind, epoch: 0, place: (0, 0), head: [0; BlockHead::BYTES] }
    }

    fn encode(&self) -> [u8; Frame::BYTES] {
        let mut bytes = [0; Frame::BYTES];
        bytes[..8].copy_from_slice(&(self.kind as u64).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.place.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.place.1.to_le_bytes());
        bytes[24..].copy_from_slice(&self.head);
        bytes
    }

    fn decode(bytes: &[u8; Frame::BYTES]) -> io::Result<Frame> {
        use Kind::{Answer, Block, Border, Bye, End, Lent, Offer, Return};
        let (fields, head) = bytes.split_at(24);
        let (fields, _) = fields.as_chunks::<8>();
        let kinds = [Block, Lent, Return, Border, End, Offer, Answer, Bye];
        let number = u64::from_le_bytes(fields[0]);
        let kind = kinds.into_iter().find(|kind| *kind as u64 == number).ok_or_else(|| {
            io::Error::other(format!("it sent a frame for blocks of kind {number}"))
        })?;
        let place = u64::from_le_bytes(fields[2]);
        let mut frame = Frame::new(kind);
        frame.epoch = u64::from_le_bytes(fields[1]);
        frame.place = (place as u32, (place >> 32) as u32);
        frame.head.copy_from_slice(head);
        Ok(frame)
    }
}

/// The direction to the other process.
#[derive(Debug)]
pub struct Outbound {
    stream: OwnedWriteHalf,
    loans: Arc<Loans>,
    end: End,
}

impl Outbound {
    /// What it returns ships what is too much for `feed`, which has a shipper from now on, until
    /// the feed ends or the link breaks; and it gives back what the other process has lent. Without
    /// a feed it does only that. Blocks in the memory of `pool` are lent where that is possible.
    pub fn ship(
        self,
        feed: Option<Feed>,
        pool: &BlockPool,
    ) -> impl Future<Output = ()> + Send + 'static {
        let Outbound { mut stream, loans, end } = self;
        let waker = Arc::clone(&loans);
        let feed = feed.map(|feed| {
            let shipper = feed.add_shipper(Arc::new(move || waker.notify()));
            (feed, shipper)
        });
        let offer = feed.as_ref().and_then(|_| Offer::of(pool));
        async move {
            match ship_all(&mut stream, feed, offer, &loans).await {
                Ok(blocks) => {
                    tracing::debug!("{blocks} blocks were shipped to process {}", end.peer)
                }
                Err(cause) => end.broke(Some(cause)).await,
            }
        }
    }
}

/// Ships until the feed has ended and all is given back; returns the number of blocks.
async fn ship_all(
    stream: &mut OwnedWriteHalf,
    mut feed: Option<(Feed, usize)>,
    offer: Option<Offer>,
    loans: &Loans,
) -> io::Result<u64> {
    let mut blocks = 0;
    // Frames that go together: each write may wake a thread at the other end.
    let mut frames = Vec::new();
    if let Some(offer) = offer {
        loans.offer(&offer);
        frames.extend(Frame { head: offer.encode(), ..Frame::new(Kind::Offer) }.encode());
    }
    if feed.is_none() {
        frames.extend(Frame::new(Kind::End).encode());
    }
    loop {
        if let Some(can_read) = loans.owed_answer() {
            frames
                .extend(Frame { place: (can_read.into(), 0), ..Frame::new(Kind::Answer) }.encode());
        }
        for slot in loans.returns().take() {
            frames.extend(Frame { place: (slot, 0), ..Frame::new(Kind::Return) }.encode());
        }
        let next = match &feed {
            Some((feed, shipper)) if loans.has_room() => feed.next_to_ship(*shipper),
            None if loans.is_settled() => {
                frames.extend(Frame::new(Kind::Bye).encode());
                stream.write_all(&frames).await?;
                return Ok(blocks);
            }
            _ => Next::Wait,
        };
        match next {
            Next::Block(epoch, block) => {
                let head = BlockHead::of(&block).encode();
                let place = loans.lend(&block);
                let kind = if place.is_some() { Kind::Lent } else { Kind::Block };
                frames
                    .extend(Frame { kind, epoch, place: place.unwrap_or_default(), head }.encode());
                blocks += 1;
                if kind == Kind::Block {
                    stream.write_all(&frames).await?;
                    stream.write_all(block.text()).await?;
                    frames.clear();
                }
            }
            Next::Complete { epoch, .. } => {
                frames.extend(Frame { epoch, ..Frame::new(Kind::Border) }.encode());
            }
            Next::Wait => {
                stream.write_all(&frames).await?;
                frames.clear();
                loans.notified().await;
            }
            Next::End => {
                frames.extend(Frame::new(Kind::End).encode());
                feed = None;
            }
        }
    }
}

/// The direction from the other process.
#[derive(Debug)]
pub struct Inbound {
    stream: OwnedReadHalf,
    loans: Arc<Loans>,
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
        let Inbound { mut stream, loans, end } = self;
        let received = receive_all(&mut stream, &loans, &feed, &pool, text_bytes_max, passed).await;
        if let Err(cause) = received {
            let closed = cause.kind() == io::ErrorKind::UnexpectedEof;
            end.broke((!closed).then_some(cause)).await;
        }
    }
}

async fn receive_all(
    stream: &mut OwnedReadHalf,
    loans: &Loans,
    feed: &Feed,
    pool: &BlockPool,
    text_bytes_max: u64,
    passed: impl Fn(Epoch),
) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(FRAMES_BYTES, stream);
    let mut lent = None;
    let mut bytes = [0; Frame::BYTES];
    loop {
        stream.read_exact(&mut bytes).await?;
        let Frame { kind, epoch, place, head } = Frame::decode(&bytes)?;
        match kind {
            Kind::Block => {
                let head = BlockHead::decode(&head);
                if head.text_bytes() > text_bytes_max {
                    let bytes = head.text_bytes();
                    return Err(io::Error::other(format!("it sent a block of {bytes} bytes")));
                }
                let mut arrival = pool.arrival(head).await;
                stream.read_exact(arrival.text()).await?;
                feed.push_foreign(epoch, arrival.into_block());
            }
            Kind::Offer => {
                lent = Offer::decode(&head).open();
                loans.answer(lent.is_some());
            }
            Kind::Lent => {
                let memory = lent.as_mut();
                let memory = memory.ok_or_else(|| io::Error::other("it lent what it never had"))?;
                let block = memory.block(BlockHead::decode(&head), place, loans.returns())?;
                feed.push_foreign(epoch, block);
            }
            Kind::Answer => loans.answered(place.0 == 1),
            Kind::Return => loans.returned(place.0),
            Kind::Border => passed(epoch),
            Kind::End => loans.peer_ended(),
            Kind::Bye => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire_and_unknown_kinds_are_refused() {
        let head = std::array::from_fn(|at| at as u8);
        let sent = Frame { kind: Kind::Lent, epoch: 7, place: (3, 9), head };
        let bytes = sent.encode();
        assert_eq!(Frame::decode(&bytes).expect("a frame"), sent);
        assert!(Frame::decode(&[9; Frame::BYTES]).is_err());
    }
}
