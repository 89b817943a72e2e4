//! Writes `_SUCCESS`, the marker that commits an epoch.

use super::marker_json::Marker;
use super::put_objects::Publisher;
use crate::crash_points::crash_point;
use crate::error::Result;
use crate::store::OnWritten;

/// Waits until the parts are durable, which `durable` returns then, notes the epoch in the commit
/// log, stores the marker, and makes its name durable. The bytes of the marker are written
/// meanwhile, and synced after `written` was called: the parts are synced at the same time.
///
/// The note comes before the marker, because a reader may remove the epoch as soon as the marker
/// exists. It comes after the parts: a start that finds a note takes missing parts for removed
/// ones. Returns when the epoch is committed.
pub async fn write_marker(
    publisher: &Publisher,
    marker: &Marker,
    written: OnWritten,
    durable: impl Future<Output = Result<()>>,
) -> Result<()> {
    let epoch = marker.epoch;
    let ready = async {
        durable.await?;
        publisher.note_attempt(epoch, marker.parts.len()).await?;
        crash_point("output.before_marker");
        Ok(())
    };
    publisher.create_marker(marker, written, ready).await?;
    publisher.seal_epoch(epoch).await?;
    publisher.note_commit(epoch);
    crash_point("output.after_marker");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::future::ready;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::check_ownership::Ownership;
    use super::super::put_objects;
    use super::*;
    use crate::error::ErrorKind;
    use crate::file_lock::LockPatience;
    use crate::meters::SourcePositions;
    use crate::operators::{RowKind, Tally};
    use crate::outputs::durable_epochs::{DurableParts, PartsWritten, SyncRounds};
    use crate::outputs::output::{CompleteEpoch, EpochWriter, PartReport};
    use crate::store::local::LocalStore;
    use crate::store::{Body, Stored};

    /// Returns the publisher of a job without state to the directory at `root`.
    fn publisher(root: &Path) -> Publisher {
        put_objects::tests::publisher(LocalStore::open(root).unwrap())
    }

    /// Creates part 0 of epoch 10, which has a row.
    async fn create_part(publisher: &Publisher, rounds: &SyncRounds) -> Result<Stored> {
        let (key, body) = ("c-10/part-00000", "a\t1\n".into());
        publisher.create_part(10, key, body, (rounds, None)).await
    }

    #[tokio::test]
    async fn marker_is_written_before_parts_are_synced() {
        let root = tempfile::tempdir().unwrap();
        let (publisher, rounds) = (publisher(root.path()), SyncRounds::none());
        let (parts, durable) = DurableParts::awaited((10, 1), rounds.clone());
        let names = || -> Vec<String> {
            let folder = std::fs::read_dir(root.path().join("c-10")).unwrap();
            let names = folder.map(|entry| entry.unwrap().file_name());
            names.map(|name| name.to_string_lossy().into_owned()).collect()
        };
        let part = async {
            create_part(&publisher, &rounds).await.unwrap();
            let names = names();
            assert!(names.iter().any(|name| name.starts_with("._SUCCESS.")), "{names:?}");
            assert!(!names.iter().any(|name| name == "_SUCCESS"), "not before all are durable");
            let written = PartsWritten { took: Duration::ZERO, at: Instant::now() };
            parts.send_replace(Some(written));
        };
        let marker = Marker { epoch: 10, ..Marker::default() };
        let written = durable.begin_when_called();
        let durable = async {
            durable.all_durable().await;
            Ok(())
        };
        let marker = async { write_marker(&publisher, &marker, written, durable).await.unwrap() };
        let both = futures::future::join(part, marker);
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("none waits for ever");
        let mut names = names();
        names.sort_unstable();
        assert_eq!(names, ["_SUCCESS", "part-00000"]);
    }

    #[tokio::test]
    async fn late_marker_of_former_run_is_the_own() {
        let root = tempfile::tempdir().unwrap();
        let publisher = publisher(root.path());
        let state = Some("test".to_owned());
        let marker = Marker { epoch: 10, state, started: Some(5), ..Marker::default() };
        let former = Marker { started: Some(4), program: "wordtide 0".into(), ..marker.clone() };
        std::fs::create_dir_all(root.path().join("c-10")).unwrap();
        std::fs::write(root.path().join("c-10/_SUCCESS"), former.to_bytes()).unwrap();
        let write = |marker| write_marker(&publisher, marker, Box::new(|| {}), ready(Ok(())));
        write(&marker).await.unwrap();
        let other = Marker { words: 1, ..marker.clone() };
        let error = write(&other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert_eq!(std::fs::read(root.path().join("c-10/_SUCCESS")).unwrap(), former.to_bytes());
    }

    #[tokio::test]
    async fn lost_lock_refuses_repeated_marker() {
        let root = tempfile::tempdir().unwrap();
        let lock = LocalStore::open(root.path()).unwrap();
        let lock = Arc::new(lock.lock_prefix("c", "", &LockPatience::default()).unwrap());
        let path = lock.path().to_owned();
        let publisher = publisher(root.path()).owned(Ownership::Locked(lock), None);
        let marker = Marker { epoch: 10, state: Some("test".to_owned()), ..Marker::default() };
        let write = || write_marker(&publisher, &marker, Box::new(|| {}), ready(Ok(())));
        write().await.unwrap();
        write().await.expect("the own marker");
        // Another process with a copy of the state has stored the same one.
        std::fs::remove_file(path).unwrap();
        let error = write().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert!(error.to_string().contains("was removed or replaced"), "{error}");
    }

    #[tokio::test]
    async fn moved_epoch_is_sealed_at_once() {
        let root = tempfile::tempdir().unwrap();
        let publisher = publisher(root.path());
        let marker = Marker { epoch: 10, ..Marker::default() };
        write_marker(&publisher, &marker, Box::new(|| {}), ready(Ok(()))).await.unwrap();
        std::fs::rename(root.path().join("c-10"), root.path().join("read")).unwrap();
        let sealed = tokio::time::timeout(Duration::from_secs(10), publisher.seal_epoch(10));
        sealed.await.expect("it is not retried").unwrap();
    }

    /// Returns an epoch of four parts, of which part 0 has a row.
    fn complete(durable: DurableParts) -> CompleteEpoch {
        let part = PartReport { part: 0, rows: 1, bytes: 4, md5: Body::from("a\t1\n").md5_hex() };
        CompleteEpoch {
            epoch: 10,
            tally: Tally::default(),
            kind: RowKind::Counts,
            rows: 1,
            publishes: true,
            durable,
            stored: BTreeMap::from([(0, part)]),
            parts: 4,
            positions: SourcePositions::default(),
        }
    }

    #[tokio::test]
    async fn empty_parts_are_written_before_syncs() {
        let root = tempfile::tempdir().unwrap();
        let (publisher, rounds) = (publisher(root.path()), SyncRounds::none());
        let (parts, durable) = DurableParts::awaited((10, 1), rounds.clone());
        let dir = root.path().join("c-10");
        let begun = async {
            rounds.wait(10).await;
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 4, "three parts, the marker");
            create_part(&publisher, &rounds).await.unwrap();
            parts.send_replace(Some(PartsWritten { took: Duration::ZERO, at: Instant::now() }));
        };
        let both = futures::future::join(begun, publisher.commit(complete(durable)));
        let ((), committed) =
            tokio::time::timeout(Duration::from_secs(60), both).await.expect("none waits");
        committed.unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 5);
    }

    #[tokio::test]
    async fn failed_empty_part_leaves_no_marker() {
        let root = tempfile::tempdir().unwrap();
        let (publisher, rounds) = (publisher(root.path()), SyncRounds::none());
        let (_parts, durable) = DurableParts::awaited((10, 1), rounds.clone());
        std::fs::create_dir_all(root.path().join("c-10")).unwrap();
        std::fs::write(root.path().join("c-10/part-00002"), "of another job").unwrap();
        let part = create_part(&publisher, &rounds);
        let both = futures::future::join(part, publisher.commit(complete(durable)));
        let (part, committed) =
            tokio::time::timeout(Duration::from_secs(10), both).await.expect("none waits");
        part.unwrap();
        assert!(committed.unwrap_err().to_string().contains("part-00002"));
        assert!(!root.path().join("c-10/_SUCCESS").exists());
    }
}
