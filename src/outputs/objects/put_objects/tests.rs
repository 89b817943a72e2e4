//! Tests of the publisher.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures::future::join;

use super::super::format::Format;
use super::super::object_names::Layout;
use super::super::part_encoding::Encoding;
use super::*;
use crate::error::ErrorKind;
use crate::file_lock::LockPatience;
use crate::settings::{EmptyEpochs, RowOrder};
use crate::store::ResultsLimits;
use crate::store::local::LocalStore;
use crate::store::stdout::StdoutStore;

/// Returns the publisher of a job without state to `store`.
pub fn publisher(store: impl Store) -> Publisher {
    let encoding = Encoding::new(Format::Tsv, None);
    let form = ObjectForm { layout: Layout::new("c", None), encoding };
    let publication = Publication {
        order: RowOrder::Hash,
        empty_epochs: EmptyEpochs::Write,
        job: "test".to_owned(),
        state: "test".to_owned(),
        started: 0,
    };
    Publisher::new(form, publication, Arc::new(store), Handle::current())
}

#[tokio::test]
async fn store_without_syncs_waits_for_no_round() {
    let publisher = publisher(StdoutStore::new("_SUCCESS"));
    let rounds = SyncRounds::none();
    let part = publisher.create_part(10, "c-10/part-00000", "a".into(), (&rounds, None));
    tokio::time::timeout(Duration::from_secs(10), part).await.expect("no wait").unwrap();
}

/// Runs `test` on a runtime that does one blocking work after the other, in order.
fn run_in_order(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(1).build().unwrap().block_on(test);
}

#[test]
fn begun_part_waits_for_round_and_checks_owner() {
    run_in_order(check_begun_part());
}

/// Checks that a part that is begun is synced in its round, and not begun without the lock.
async fn check_begun_part() {
    let root = tempfile::tempdir().unwrap();
    let (part, rounds) = (root.path().join("c-10/part-00000"), SyncRounds::none());
    let locked = LocalStore::open(root.path()).unwrap();
    let lock = locked.lock_prefix("c", "", &LockPatience::default()).unwrap();
    let (path, locked) = (lock.path().to_owned(), Ownership::Locked(Arc::new(lock)));
    let publisher = publisher(LocalStore::open(root.path()).unwrap()).owned(locked, None);
    let (key, body) = ("c-10/part-00000", Body::from("a"));
    let begun = publisher.begin_part(key, &body);
    assert!(part.exists() && begun.is_some());
    let mut stored = pin!(publisher.create_part(10, key, body.clone(), (&rounds, begun)));
    for _ in 0..8 {
        assert!(futures::poll!(&mut stored).is_pending(), "its round has not begun");
        // After this, a sync that has begun is done.
        supervise::blocking(|| ()).await;
    }
    rounds.begin(10);
    stored.await.unwrap();

    std::fs::remove_file(path).unwrap();
    let begun = publisher.begin_part("c-10/part-00001", &body);
    let refused = publisher.create_part(10, "c-10/part-00001", body, (&rounds, begun)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Configuration);
    assert!(!root.path().join("c-10/part-00001").exists());
}

/// Returns a publisher to `root` that soon reports a silence, and its results, which have a permit
/// of memory for one body.
fn impatient_publisher(root: &Path) -> (Publisher, PendingResults) {
    let folder = Some(root.join("results"));
    let limits = ResultsLimits { memory_bytes_max: 1, disk_bytes_max: 1 << 20, folder };
    let results = PendingResults::new(limits);
    let publisher = publisher(LocalStore::open(root).unwrap());
    let mut publisher = publisher.bounded_by(results.clone());
    publisher.retrier.silence_max = Duration::from_millis(1);
    (publisher, results)
}

#[tokio::test]
async fn failed_write_ends_no_silence() {
    let root = tempfile::tempdir().unwrap();
    let (publisher, results) = impatient_publisher(root.path());
    for is_written in [true, false] {
        let work = async {
            let mut level = results.level();
            let silence = level.wait_for(|level| level.is_away);
            let silence = tokio::time::timeout(Duration::from_secs(10), silence).await.map(drop);
            silence.expect("it is reported");
            is_written
        };
        publisher.answered(10, work).await;
        assert_eq!(results.level().borrow().is_away, !is_written);
    }
}

#[tokio::test]
async fn wait_for_round_is_no_silence() {
    let root = tempfile::tempdir().unwrap();
    let (publisher, results) = impatient_publisher(root.path());
    let rounds = SyncRounds::none();
    let body = Body::from("waits on disk");
    results.admit(&body);
    results.set_away(true);
    while !body.is_on_disk() {
        let moved = results.watch();
        let _ = tokio::time::timeout(Duration::from_millis(10), moved).await;
    }
    results.set_away(false);
    let part = publisher.create_part(10, "c-10/part-00000", body.clone(), (&rounds, None));
    let others = async {
        // Many times the silence that is reported.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let limit = Duration::from_secs(10);
        let mut level = results.level();
        let at_hand = level.wait_for(|level| !level.is_away);
        let at_hand = tokio::time::timeout(limit, at_hand).await.map(drop);
        at_hand.expect("the wait for others is no silence");
        let room = tokio::time::timeout(limit, results.room_to_read(&body)).await;
        drop(room.expect("no part holds memory while it waits"));
        rounds.begin(10);
    };
    let (stored, ()) = join(part, others).await;
    assert_eq!(stored.unwrap().bytes, body.bytes());
}
