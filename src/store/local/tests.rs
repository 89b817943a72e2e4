//! Tests of the local store.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::error::ErrorKind;

#[test]
fn only_a_full_disk_is_retried() {
    let kind = |code| failure("x", Path::new("y"), &io::Error::from_raw_os_error(code)).kind;
    assert_eq!(kind(28), StoreErrorKind::Unavailable, "ENOSPC");
    assert_eq!(kind(122), StoreErrorKind::Unavailable, "EDQUOT");
    assert_eq!(kind(5), StoreErrorKind::Disk, "EIO");
    assert_eq!(kind(13), StoreErrorKind::Denied, "EACCES");
    assert_eq!(kind(20), StoreErrorKind::Denied, "ENOTDIR");
    assert_eq!(kind(30), StoreErrorKind::Denied, "EROFS");
    assert_eq!(kind(24), StoreErrorKind::Unavailable, "EMFILE");
}

#[test]
fn file_as_root_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    for way in ["file", "file/below"] {
        let error = LocalStore::open(dir.path().join(way)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert!(error.to_string().contains("--to"), "{error}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn temporaries_are_not_listed_and_clear_removes_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path().join("a/b")).unwrap();
    store.put("e-1/part-00000", "x".into()).await.unwrap();
    let epoch = dir.path().join("a/b/e-1");
    std::fs::write(epoch.join(".part-00001.7-0.tmp"), "half").unwrap();
    std::fs::create_dir(epoch.join("deep")).unwrap();
    std::fs::write(epoch.join("deep/part"), "y").unwrap();

    let page = store.list(Listing::new("e-1/")).await.unwrap();
    let keys: Vec<_> = page.items.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["e-1/deep/part", "e-1/part-00000"]);
    assert_eq!(store.clear("e-1/").await.unwrap(), 3);
    assert_eq!(std::fs::read_dir(&epoch).unwrap().count(), 0);
    assert_eq!(store.clear("e-2").await.unwrap(), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn store_follows_no_planted_link() {
    use std::os::unix::fs::symlink;
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = other.path().join("target");
    std::fs::write(&target, "theirs").unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    // A link in place of an epoch, and links in place of objects.
    symlink(other.path(), dir.path().join("e-1")).unwrap();
    std::fs::create_dir(dir.path().join("e-2")).unwrap();
    symlink(&target, dir.path().join("e-2/part")).unwrap();
    symlink(&target, dir.path().join("e-2/marker")).unwrap();

    store.put("e-1/part", "ours".into()).await.expect_err("a link");
    store.clear("e-1").await.expect("nothing is there");
    store.sweep("e-1").await.expect("nothing is there");
    store.get("e-2/part", 100).await.expect_err("a link");
    store.put_new("e-2/marker", "theirs".into()).await.expect_err("a link");
    store.put("e-2/part", "ours".into()).await.expect("the link itself is replaced");
    assert_eq!(store.get("e-2/part", 100).await.unwrap(), "ours");
    store.clear("e-2").await.unwrap();
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(&target).unwrap(), b"theirs");
}

#[tokio::test(flavor = "current_thread")]
async fn objects_have_the_permissions_of_their_kind() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let mode =
        |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    std::fs::write(dir.path().join("umask"), "").unwrap();
    store.put("e-1/part", "x".into()).await.unwrap();
    assert_eq!(mode("e-1/part"), mode("umask"));
    store.put("_wordtide/job/0-00000/1.change", "x".into()).await.unwrap();
    assert_eq!(mode("_wordtide/job/0-00000/1.change"), 0o600 & mode("umask"));
    assert_eq!(mode("_wordtide/job") & 0o077, 0);
}

#[tokio::test(flavor = "current_thread")]
async fn long_listing_scans_its_directory_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    for epoch in 1000..1050 {
        store.put(&format!("e-{epoch}/part"), "x".into()).await.unwrap();
    }
    let (mut seen, mut files, mut after) = (Vec::new(), 0, None::<String>);
    loop {
        let ask = Listing::new("e-").after(after.as_deref()).limit(7);
        let page = store.list_dirs(ask).await.unwrap();
        // The scan is not repeated: a later directory does not get into the listing.
        std::fs::create_dir_all(dir.path().join("e-9999")).unwrap();
        seen.extend(page.items);
        files += store.list(Listing::new(seen.last().unwrap())).await.unwrap().items.len();
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!((seen.len(), files), (50, 8));
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(store.list_dirs(Listing::new("e-")).await.unwrap().items.len(), 51);
}

#[tokio::test(flavor = "current_thread")]
async fn a_finished_put_leaves_only_the_object() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    store.put("e/p", "one".into()).await.unwrap();
    store.put("e/p", "two".into()).await.unwrap();
    store.put_new("e/q", "three".into()).await.unwrap();
    let refused = store.put_new("e/q", "other".into()).await.unwrap_err();
    assert_eq!(refused.kind, StoreErrorKind::Exists);
    store.seal("e").await.unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir.path().join("e"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["p", "q"]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_write_that_fails_leaves_no_temporary() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    std::fs::create_dir_all(dir.path().join("e/p")).unwrap();
    let error = store.put("e/p", "x".into()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
    assert_eq!(std::fs::read_dir(dir.path().join("e")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_at_a_time_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    // So many wait for each other: they do run at once.
    let gate = Arc::new(Barrier::new(FILES_MAX));
    let at_work = Arc::new(AtomicUsize::new(0));
    let works = (0..2 * FILES_MAX).map(|_| {
        let (at_work, gate) = (Arc::clone(&at_work), Arc::clone(&gate));
        store.run(&["a/b"], move |_| {
            let others = at_work.fetch_add(1, Ordering::SeqCst);
            gate.wait();
            at_work.fetch_sub(1, Ordering::SeqCst);
            Ok(others + 1)
        })
    });
    let works = futures::future::try_join_all(works).await.unwrap();
    assert_eq!(works.iter().max(), Some(&FILES_MAX));
}

#[tokio::test]
async fn check_that_fails_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let is_owner = Arc::new(AtomicBool::new(false));
    let owner = Arc::clone(&is_owner);
    let check = move || match owner.load(Ordering::SeqCst) {
        true => Ok(()),
        false => Err(StoreError::new(StoreErrorKind::Exists, "another owner")),
    };
    let store = store.checked_by(Arc::new(check)).unwrap();
    let key = "e/part";
    let prepared = store.prepare_new(key, "x".into(), Box::new(|| {})).await.unwrap();
    let here = store.write_part_here(key, &"x".into()).unwrap();
    let errors = [
        store.put(key, "x".into()).await.unwrap_err(),
        store.put_new(key, "x".into()).await.unwrap_err(),
        store.write_part(key, "x".into()).await.err().unwrap(),
        here.err().unwrap(),
        prepared.await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.message == "another owner"), "{errors:?}");
    assert_eq!(std::fs::read_dir(dir.path().join("e")).unwrap().count(), 0);
    is_owner.store(true, Ordering::SeqCst);
    store.write_part_here(key, &"x".into()).unwrap().unwrap().await.unwrap();
    assert_eq!(store.get(key, 9).await.unwrap(), "x");
}
