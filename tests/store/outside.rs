//! The promises of a store, held to a foreign server, where one is at hand.
//!
//! Not run by default: set `WORDTIDE_TEST_TO` to a `--to` URL with a bucket of your own, left
//! empty, `WORDTIDE_TEST_ENDPOINT` to the endpoint, `WORDTIDE_TEST_ADDRESSING` to `virtual-hosted`
//! or `path` if need be, and credentials as always. Plain http is allowed here. With
//! `WORDTIDE_TEST_FAULTS` the server is taken to inject faults, and only what retries is run.

use std::sync::Arc;

use futures::future::join_all;
use wordtide::internals::store::{
    Addressing, Environment, Store, StoreProbe, StoreSettings, Target, open,
};

use super::{conformance, runtime};

fn settings(name: &str) -> Option<(Target, StoreSettings)> {
    let target: Target = std::env::var(name).ok()?.parse().unwrap();
    let endpoint = std::env::var("WORDTIDE_TEST_ENDPOINT").ok();
    let addressing = match std::env::var("WORDTIDE_TEST_ADDRESSING").as_deref() {
        Ok("virtual-hosted") => Addressing::VirtualHosted,
        Ok("path") => Addressing::Path,
        _ => Addressing::Auto,
    };
    let mut settings = StoreSettings {
        allow_http: true,
        multipart_bytes_min: 20 << 20,
        ca_file: std::env::var_os("WORDTIDE_TEST_CA_FILE").map(Into::into),
        ..StoreSettings::default()
    };
    if matches!(target, Target::S3 { .. }) {
        settings.s3_endpoint = endpoint;
        settings.s3_addressing = addressing;
    } else {
        settings.oss_endpoint = endpoint;
        settings.oss_addressing = addressing;
        settings.oss_region = std::env::var("WORDTIDE_TEST_REGION").ok();
    }
    Some((target, settings))
}

#[test]
fn an_outside_server_finds_nothing_wrong() {
    let Some((target, settings)) = settings("WORDTIDE_TEST_TO") else {
        println!("skipped: WORDTIDE_TEST_TO is not set");
        return;
    };
    let opened = open(&target, &settings, &Environment::of_process());
    let store: Arc<dyn Store> = opened.unwrap().expect("a store, not standard output");
    runtime().block_on(async {
        if std::env::var_os("WORDTIDE_TEST_FAULTS").is_some() {
            many_at_once(&*store).await;
            return;
        }
        if let Err(error) = StoreProbe::beside(target.prefix()).run(&*store).await {
            println!("refused: {error}");
            panic!("{error:?}");
        }
        println!("{}: {:?}", store.describe(), store.facts().await);
        conformance::check(&*store).await;
        large_objects_go_in_parts(&*store).await;
        many_at_once(&*store).await;
        println!("conformance, parts and 200 puts at once: all as promised");
        for dir in ["e-1.txt", "e-2", "l", "x", "many", "large"] {
            store.clear(dir).await.unwrap();
        }
    });
}

async fn large_objects_go_in_parts(store: &dyn Store) {
    let chunk = bytes::Bytes::from(vec![b'x'; 1 << 20]);
    let body = wordtide::internals::store::Body::from_chunks(std::iter::repeat_n(chunk, 25));
    for _ in 0..2 {
        let stored = store.put("large/part-00000", body.clone()).await.unwrap();
        assert_eq!(stored.bytes, 25 << 20);
    }
    let read = store.get("large/part-00000", 25 << 20).await.unwrap();
    assert_eq!(read.len(), 25 << 20);
}

async fn many_at_once(store: &dyn Store) {
    let puts = (0..200).map(async |n: u32| {
        let key = format!("many/part-{n:05}");
        let body = format!("('word', {n})\n");
        // Faults may be switched on: the sink's loop, in short.
        for attempt in 0.. {
            match store.put_new(&key, body.clone().into()).await {
                Ok(stored) => return assert_eq!(stored.bytes, body.len() as u64),
                Err(error) if error.is_transient() && attempt < 20 => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    });
    join_all(puts).await;
}
