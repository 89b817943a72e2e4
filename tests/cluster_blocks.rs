//! Links for blocks between real sockets: what is shipped arrives, and borders keep their place.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::sync::mpsc::channel;

use wordtide::feed::{Feed, Next};
use wordtide::lines::{Block, BlockPool};

use crate::cluster_mesh::cluster;

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

#[test]
fn surplus_blocks_arrive_in_order_and_borders_stand_between_them() {
    let mut meshes = cluster(2);
    let [link, peer] = [0, 1].map(|k| meshes[k].blocks.pop().unwrap());
    assert_eq!((link.peer(), peer.peer()), (1, 0));
    let (here, there) = (Feed::new(1, 10), Feed::new(1, 10));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let entered = runtime.enter();
    for (epoch, texts) in [(10, ["a", "b", "c"]), (20, ["d", "e", "f"])] {
        let block = |text: &str| Block::from_text(format!("{text}\n").as_bytes());
        texts.iter().for_each(|text| here.push(epoch, block(text)));
        here.open_next(epoch + 10);
        here.seal(epoch);
    }
    here.end();
    let (passed, borders) = channel();
    let (outbound, _) = link.split().unwrap();
    let shipping = runtime.spawn(outbound.ship(here.clone()));
    let (_, inbound) = peer.split().unwrap();
    let arriving = there.clone();
    let received = runtime.spawn(inbound.receive(there.clone(), BlockPool::new(1 << 20), 100, {
        move |epoch| {
            let mut arrived = Vec::new();
            loop {
                match arriving.next(0) {
                    Next::Wait => break,
                    next => arrived.push(show(next)),
                }
            }
            passed.send((epoch, arrived)).unwrap();
        }
    }));
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
    drop(entered);
    runtime.block_on(async { (shipping.await.unwrap(), received.await.unwrap()) });
    assert!(meshes.iter().all(|mesh| mesh.control.cause().is_none()));
}
