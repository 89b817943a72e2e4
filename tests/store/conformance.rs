//! The promises of every store, as one function.

use bytes::Bytes;
use wordtide::internals::store::{
    Body, ConditionalPuts, Listing, ObjectEntry, Store, StoreErrorKind,
};

/// Runs the whole suite over an empty store.
pub(crate) async fn check(store: &dyn Store) {
    objects_are_stored_whole(store).await;
    creating_never_overwrites(store).await;
    listings_are_ordered_and_paged(store).await;
    a_directory_is_emptied_and_nothing_else(store).await;
    keys_that_leave_the_root_are_refused(store).await;
    assert!(!store.describe().is_empty());
}

async fn objects_are_stored_whole(store: &dyn Store) {
    let missing = store.get("e-1.txt/part-00000", 100).await.unwrap_err();
    assert_eq!(missing.kind, StoreErrorKind::NotFound, "{missing}");
    assert_eq!(entry(store, "e-1.txt/part-00000").await, None);
    store.delete("e-1.txt/part-00000").await.unwrap();

    let chunks = ["('hello', 1)\n", "", "('world', 2)\n"].map(Bytes::from);
    let body = Body::from_chunks(chunks);
    for key in ["e-1.txt/part-00000", "e-1.txt/a b+c=d&e?f#g%20é", "top"] {
        for _ in 0..2 {
            let stored = store.put(key, body.clone()).await.unwrap();
            assert_eq!(stored.bytes, 26);
            assert_eq!(stored.md5, body.md5_hex());
        }
        let text = store.get(key, 26).await.unwrap();
        assert_eq!(text, "('hello', 1)\n('world', 2)\n", "{key}");
        let entry = entry(store, key).await.unwrap();
        assert_eq!((entry.key.as_str(), entry.bytes), (key, 26));
    }
    let long = store.get("top", 25).await.unwrap_err();
    assert_eq!(long.kind, StoreErrorKind::Invalid, "{long}");

    store.put("top", "".into()).await.unwrap();
    assert_eq!(store.get("top", 0).await.unwrap(), "");
    store.delete("top").await.unwrap();
    assert_eq!(entry(store, "top").await, None);
    store.seal("e-1.txt").await.unwrap();
}

/// The object under exactly this key, as a listing has it.
async fn entry(store: &dyn Store, key: &str) -> Option<ObjectEntry> {
    let page = store.list(Listing::new(key).limit(1)).await.unwrap();
    page.items.into_iter().find(|entry| entry.key == key)
}

async fn creating_never_overwrites(store: &dyn Store) {
    store.put_new("e-2/_SUCCESS", "ours".into()).await.unwrap();
    // A try whose answer was lost meets itself.
    store.put_new("e-2/_SUCCESS", "ours".into()).await.unwrap();
    for other in ["", "other", "OURS"] {
        let error = store.put_new("e-2/_SUCCESS", other.into()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
    }
    assert_eq!(store.get("e-2/_SUCCESS", 100).await.unwrap(), "ours");
    for _ in 0..2 {
        let found = store.probe_put_new("e-2/probe", "first".into(), "other".into()).await;
        assert_eq!(found.unwrap(), ConditionalPuts::Honoured);
    }
    assert_eq!(store.get("e-2/probe", 100).await.unwrap(), "first");
}

async fn listings_are_ordered_and_paged(store: &dyn Store) {
    for epoch in ["l/c-3", "l/c-20", "l/c-100", "l/d-1"] {
        for part in ["part-00000", "part-00001"] {
            let key = format!("{epoch}/{part}");
            store.put(&key, key.clone().into()).await.unwrap();
        }
    }
    store.put("l/c-file", "no directory".into()).await.unwrap();

    assert_eq!(all_dirs(store, "l/c-").await, ["l/c-100/", "l/c-20/", "l/c-3/"]);
    assert_eq!(all_dirs(store, "l/c-2").await, ["l/c-20/"]);
    assert_eq!(all_dirs(store, "l/").await.len(), 4);
    assert!(all_dirs(store, "nowhere/").await.is_empty());
    let ask = Listing::new("l/c-").after(Some("l/c-20/"));
    assert_eq!(store.list_dirs(ask).await.unwrap().items, ["l/c-3/"]);

    for limit in [1, 2, 1000] {
        let mut keys = Vec::new();
        let mut after = None;
        loop {
            let ask = Listing::new("l/c-1").after(after.as_deref()).limit(limit);
            let page = store.list(ask).await.unwrap();
            assert!(page.items.len() <= limit);
            for entry in page.items {
                assert_eq!(entry.bytes, entry.key.len() as u64);
                keys.push(entry.key);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(keys, ["l/c-100/part-00000", "l/c-100/part-00001"]);
    }
}

async fn all_dirs(store: &dyn Store, prefix: &str) -> Vec<String> {
    let mut dirs = Vec::new();
    let mut after = None;
    loop {
        let ask = Listing::new(prefix).after(after.as_deref()).limit(2);
        let page = store.list_dirs(ask).await.unwrap();
        dirs.extend(page.items);
        after = page.next;
        if after.is_none() {
            return dirs;
        }
    }
}

async fn a_directory_is_emptied_and_nothing_else(store: &dyn Store) {
    for key in ["x/e/a", "x/e/b/c", "x/ee/a"] {
        store.put(key, "x".into()).await.unwrap();
    }
    assert_eq!(store.clear("x/e").await.unwrap(), 2);
    assert_eq!(store.clear("x/e").await.unwrap(), 0);
    let page = store.list(Listing::new("x/")).await.unwrap();
    let keys: Vec<_> = page.items.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["x/ee/a"]);
}

async fn keys_that_leave_the_root_are_refused(store: &dyn Store) {
    for key in ["../escaped", "a/../b", "a//b", "/a", ""] {
        let error = store.put(key, "x".into()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Invalid, "{key:?}: {error}");
    }
}
