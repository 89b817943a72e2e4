//! Links for blocks between real sockets: what is shipped arrives, and borders keep their place.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::sync::mpsc::channel;

use proptest::prelude::*;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use wordtide::cluster::Mesh;
use wordtide::feed::{Feed, Next};
use wordtide::lines::{Block, BlockPool, LineLimits, LineSplitter, StreamEnd};

use crate::cluster_mesh::cluster;

/// Room for all: the tests take nothing before a border.
const BYTES_MAX: usize = 64 << 20;
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// An eighth of a buffer.
const COPIED_BELOW: usize = 32 << 10;

fn show(next: Next) -> String {
    match next {
        Next::Block(epoch, block) => {
            format!("{epoch}:{}", String::from_utf8_lossy(block.text()).trim_end())
        }
        Next::Complete { epoch, next } => format!("{epoch}->{next}"),
        Next::Wait => "wait".into(),
        Next::End => "end".into(),
    }
}

/// A link between two processes, both ends at work.
struct Linked {
    meshes: Vec<Mesh>,
    runtime: Runtime,
    running: Vec<JoinHandle<()>>,
}

impl Linked {
    /// The first ships what is too much for `here`, mostly of `pool`, to `there`.
    fn new(
        here: &Feed,
        pool: &BlockPool,
        there: &Feed,
        passed: impl Fn(u64) + Send + 'static,
    ) -> Linked {
        let mut meshes = cluster(2);
        let [link, peer] = [0, 1].map(|k| meshes[k].blocks.pop().unwrap());
        assert_eq!((link.peer(), peer.peer()), (1, 0));
        let mut built = tokio::runtime::Builder::new_multi_thread();
        let runtime = built.worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        let (outbound, answers) = link.split().unwrap();
        let (returns, inbound) = peer.split().unwrap();
        let room = || BlockPool::new(BYTES_MAX);
        let running = vec![
            runtime.spawn(outbound.ship(Some(here.clone()), pool)),
            runtime.spawn(answers.receive(here.clone(), room(), 0, |_| {})),
            runtime.spawn(returns.ship(None, &room())),
            runtime.spawn(inbound.receive(there.clone(), room(), TEXT_BYTES_MAX, passed)),
        ];
        drop(entered);
        Linked { meshes, runtime, running }
    }

    /// Waits until each end has said that it is done.
    fn end(self) {
        for task in self.running {
            self.runtime.block_on(task).unwrap();
        }
        assert!(self.meshes.iter().all(|mesh| mesh.control.cause().is_none()));
    }
}

#[test]
fn surplus_blocks_arrive_in_order_and_borders_stand_between_them() {
    let (here, there) = (Feed::new(1, 10), Feed::new(1, 10));
    for (epoch, texts) in [(10, ["a", "b", "c"]), (20, ["d", "e", "f"])] {
        let block = |text: &str| Block::from_text(format!("{text}\n").as_bytes());
        texts.iter().for_each(|text| here.push(epoch, block(text)));
        here.open_next(epoch + 10);
        here.seal(epoch);
    }
    here.end();
    let (passed, borders) = channel();
    let arriving = there.clone();
    let linked = Linked::new(&here, &BlockPool::default(), &there, move |epoch| {
        let mut arrived = Vec::new();
        loop {
            match arriving.next(0) {
                Next::Wait => break,
                next => arrived.push(show(next)),
            }
        }
        passed.send((epoch, arrived)).unwrap();
    });
    // Five of six are too many for one worker; the last one is taken by the worker here, and lets
    // the shipper pass the second border.
    let (first, arrived) = borders.recv().unwrap();
    assert_eq!((first, arrived.concat()), (10, "10:a10:b10:c".into()));
    let mut taken = vec![show(here.next(0))];
    while taken.last().unwrap() == "wait" {
        taken.push(show(here.next(0)));
    }
    assert_eq!(taken.pop().unwrap(), "20:f");
    let (second, arrived) = borders.recv().unwrap();
    assert_eq!((second, arrived.concat()), (20, "20:d20:e".into()));
    linked.end();
}

/// Gives `text` to `pool` in pieces of these lengths, and the blocks to `feed`.
fn split(text: &[u8], cuts: &[usize], pool: &BlockPool, feed: &Feed) {
    let mut splitter = LineSplitter::new(2, LineLimits::default(), pool.clone());
    let mut rest = text;
    for cut in cuts.iter().cycle() {
        let (piece, after) = rest.split_at((*cut).min(rest.len()));
        if piece.is_empty() {
            break;
        }
        splitter.ready_blocking();
        splitter.spare()[..piece.len()].copy_from_slice(piece);
        splitter.filled(piece.len());
        splitter.take().into_iter().for_each(|block| feed.push(10, block));
        rest = after;
    }
    splitter.end(StreamEnd::Fin).into_iter().for_each(|block| feed.push(10, block));
}

/// Ships blocks of `pool` that hold `text`: offset, lines and bytes of each as it came out at the
/// other end, and the bytes of the pool that were in use then.
fn shipped(text: &[u8], cuts: &[usize], pool: &BlockPool) -> (Vec<(u64, u64, Vec<u8>)>, usize) {
    // No worker takes anything at the first process, so that all goes to the second.
    let (here, there) = (Feed::new(0, 10), Feed::new(1, 10));
    let (passed, borders) = channel();
    let linked = Linked::new(&here, pool, &there, move |epoch| passed.send(epoch).unwrap());
    split(text, cuts, pool, &here);
    here.open_next(20);
    here.seal(10);
    here.end();
    assert_eq!(borders.recv(), Ok(10));
    let bytes_held = pool.bytes_in_use();
    let mut blocks = Vec::new();
    while let Next::Block(_, block) = there.next(0) {
        blocks.push((block.offset(), block.lines(), block.padded().to_vec()));
    }
    linked.end();
    assert_eq!(pool.bytes_in_use(), 0, "a block was never given back");
    (blocks, bytes_held)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Lent memory against its safe twin, the socket.
    #[test]
    fn a_block_that_is_lent_is_the_block_that_is_sent(
        lines in proptest::collection::vec("[a-z\r ]{0,300}\n", 300..2_000),
        cuts in proptest::collection::vec(5_000usize..100_000, 1..20),
    ) {
        let text = lines.concat();
        let send = |pool| shipped(text.as_bytes(), &cuts, &pool);
        let (sent, _) = send(BlockPool::new(BYTES_MAX));
        let (lent, bytes_held) = send(BlockPool::shared(BYTES_MAX, [5; 16]).unwrap());
        prop_assert_eq!(&sent, &lent);
        // Small blocks are copied out of their buffers, and are sent in both cases.
        let is_large = |block: &(u64, u64, Vec<u8>)| block.2.len() - Block::PAD >= COPIED_BELOW;
        prop_assert_eq!(bytes_held > 0, lent.iter().any(is_large), "{} bytes held", bytes_held);
    }
}
