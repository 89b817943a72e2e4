//! Links for blocks between real sockets: what is shipped arrives, and cuts keep their place.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::sync::mpsc::channel;

use proptest::prelude::*;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use wordtide::internals::cluster::Mesh;
use wordtide::internals::feed::{Feed, Next};
use wordtide::internals::lines::{Block, BlockPool, LineLimits, LineSplitter, StreamEnd};

use crate::cluster_mesh::cluster;

/// Room for all: the tests take nothing before a cut.
const BYTES_MAX: usize = 64 << 20;
const TEXT_BYTES_MAX: u64 = 1 << 20;

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
    /// The first process ships the surplus of `here` to `there`.
    fn new(here: &Feed, there: &Feed, passed: impl Fn(u64) + Send + 'static) -> Linked {
        let mut meshes = cluster(2);
        let [link, peer] = [0, 1].map(|k| meshes[k].blocks.pop().unwrap());
        assert_eq!((link.peer(), peer.peer()), (1, 0));
        let mut built = tokio::runtime::Builder::new_multi_thread();
        let runtime = built.worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        // Only one of the two reads, so each lets go of the direction that is of no use.
        let (outbound, _) = link.split().unwrap();
        let (_, inbound) = peer.split().unwrap();
        let room = BlockPool::new(BYTES_MAX);
        let running = vec![
            runtime.spawn(outbound.ship(here.clone())),
            runtime.spawn(inbound.receive(there.clone(), room, TEXT_BYTES_MAX, passed)),
        ];
        drop(entered);
        Linked { meshes, runtime, running }
    }

    /// Waits until both directions have ended.
    fn end(self) {
        for task in self.running {
            self.runtime.block_on(task).unwrap();
        }
        assert!(self.meshes.iter().all(|mesh| mesh.control.cause().is_none()));
    }
}

#[test]
fn surplus_blocks_arrive_in_order_between_cuts() {
    let (here, there) = (Feed::new(1, 10), Feed::new(1, 10));
    for (epoch, texts) in [(10, ["a", "b", "c"]), (20, ["d", "e", "f"])] {
        let block = |text: &str| Block::from_text(format!("{text}\n").as_bytes());
        texts.iter().for_each(|text| here.push(epoch, block(text)));
        here.cut(epoch + 10);
        here.passed(epoch);
    }
    here.end();
    let (passed, cuts) = channel();
    let arriving = there.clone();
    let linked = Linked::new(&here, &there, move |epoch| {
        let mut arrived = Vec::new();
        loop {
            match arriving.next(0) {
                Next::Wait => break,
                next => arrived.push(show(next)),
            }
        }
        arriving.cut(epoch + 10);
        passed.send((epoch, arrived)).unwrap();
    });
    // Five of six are too many for one worker; the last one is taken by the worker here, and lets
    // the shipper pass the second cut.
    let (first, arrived) = cuts.recv().unwrap();
    assert_eq!((first, arrived.concat()), (10, "10:a10:b10:c".into()));
    let mut taken = vec![show(here.next(0))];
    while taken.last().unwrap() == "wait" {
        taken.push(show(here.next(0)));
    }
    assert_eq!(taken.pop().unwrap(), "20:f");
    let (second, arrived) = cuts.recv().unwrap();
    assert_eq!((second, arrived.concat()), (20, "20:d20:e".into()));
    linked.end();
}

/// The blocks of `text`, which comes in pieces of these lengths.
fn split(text: &[u8], cuts: &[usize]) -> Vec<Block> {
    let pool = BlockPool::new(BYTES_MAX);
    let mut splitter = LineSplitter::new(2, LineLimits::default(), pool);
    let mut blocks = Vec::new();
    let mut rest = text;
    for cut in cuts.iter().cycle() {
        let (piece, after) = rest.split_at((*cut).min(rest.len()));
        if piece.is_empty() {
            break;
        }
        splitter.ready_blocking();
        splitter.spare()[..piece.len()].copy_from_slice(piece);
        splitter.filled(piece.len());
        blocks.extend(splitter.take());
        rest = after;
    }
    blocks.extend(splitter.end(StreamEnd::Fin));
    blocks
}

/// The offset, lines and bytes of a block.
fn contents(block: &Block) -> (u64, u64, Vec<u8>) {
    (block.offset(), block.lines(), block.padded().to_vec())
}

/// Ships `blocks` and returns what came out at the other end.
fn shipped(blocks: &[Block]) -> Vec<(u64, u64, Vec<u8>)> {
    // No worker takes anything at the first process, so that all goes to the second.
    let (here, there) = (Feed::new(0, 10), Feed::new(1, 10));
    let (passed, cuts) = channel();
    let linked = Linked::new(&here, &there, move |epoch| passed.send(epoch).unwrap());
    blocks.iter().for_each(|block| here.push(10, block.clone()));
    here.cut(20);
    here.passed(10);
    here.end();
    assert_eq!(cuts.recv(), Ok(10));
    let mut arrived = Vec::new();
    while let Next::Block(_, block) = there.next(0) {
        arrived.push(contents(&block));
    }
    linked.end();
    arrived
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn blocks_arrive_as_they_were_cut(
        lines in proptest::collection::vec("[a-z\r ]{0,300}\n", 300..2_000),
        cuts in proptest::collection::vec(5_000usize..100_000, 1..20),
    ) {
        let sent = split(lines.concat().as_bytes(), &cuts);
        let expected: Vec<_> = sent.iter().map(contents).collect();
        prop_assert_eq!(shipped(&sent), expected);
    }
}
