//! Creation without replacing: both dialects, one request or parts, lost answers, and stores that
//! cannot.

use wordtide::internals::store::{
    Addressing, ConditionalPuts, Listing, Store, StoreErrorKind, StoreFacts, StoreProbe,
};

use super::oss_double::{Conditions, Fault, OssDouble, SECRET};
use super::remote::{large, opened, s3, settings, started};
use super::runtime;

/// A double with a store of each dialect at it.
fn dialects() -> [(OssDouble, Box<dyn Store>); 2] {
    let (oss, s3_double) = (OssDouble::start(), OssDouble::start());
    let stores: [Box<dyn Store>; 2] =
        [Box::new(opened(&settings(&oss))), Box::new(s3(&s3_double, Addressing::Path, SECRET))];
    let [first, second] = stores;
    [(oss, first), (s3_double, second)]
}

#[test]
fn parts_never_replace_an_object() {
    for (double, store) in dialects() {
        // Another job creates the object while this one uploads its parts.
        let rival = double.clone();
        double.script(move |method, path| {
            if method == "PUT" && path.contains("partNumber=2") {
                rival.plant("e/big", b"rival");
            }
            None
        });
        let error = runtime().block_on(store.put_new("e/big", large())).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
        assert_eq!(double.objects()["e/big"], b"rival");
        assert_eq!(double.open_uploads(), 0);
    }
}

#[test]
fn parts_whose_completion_was_lost_are_recognized() {
    for (double, store) in dialects() {
        double.fail_next(1, Fault::AnswerLost, "POST", "uploadId");
        runtime().block_on(store.put_new("e/big", large())).unwrap();
        assert_eq!(double.puts("e/big"), 1);
    }
}

#[test]
fn a_conflict_under_way_is_transient() {
    let conflict = Fault::Code(409, "ConditionalRequestConflict");
    for (double, store) in dialects() {
        double.fail_next(9, conflict, "PUT", "_SUCCESS");
        let error = runtime().block_on(store.put_new("e/_SUCCESS", "ours".into())).unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
    let [_, (double, store)] = dialects();
    double.fail_next(9, conflict, "POST", "uploadId");
    let error = runtime().block_on(store.put_new("e/big", large())).unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[test]
fn of_many_creators_one_succeeds() {
    for (double, store) in dialects() {
        let results = runtime().block_on(futures::future::join_all((0..8).map(async |n: u32| {
            store.put_new("_wordtide/owner", format!("job {n}").into()).await.map(|_| n)
        })));
        let winners: Vec<u32> = results.iter().filter_map(|result| result.clone().ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        let errors = results.into_iter().filter_map(Result::err);
        assert!(errors.into_iter().all(|error| error.kind == StoreErrorKind::Exists));
        let text = format!("job {}", winners[0]);
        assert_eq!(double.objects()["_wordtide/owner"], text.as_bytes());
    }
}

#[test]
fn a_conflict_with_a_vanished_object_is_transient() {
    for (double, store) in dialects() {
        double.fail_next(1, Fault::Code(412, "PreconditionFailed"), "PUT", "k");
        let error = runtime().block_on(store.put_new("k", "v".into())).unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        runtime().block_on(store.put_new("k", "v".into())).unwrap();
    }
}

/// Probes; returns what the store then states of itself.
fn probed(store: &dyn Store) -> StoreFacts {
    runtime().block_on(async {
        let found = StoreProbe::beside("p/").run(store).await.unwrap();
        let facts = store.facts().await;
        assert_eq!(facts.conditional_puts, found);
        facts
    })
}

#[test]
fn a_probe_finds_out_what_is_honoured() {
    for (double, store) in dialects() {
        assert_eq!(probed(&*store).conditional_puts, ConditionalPuts::Honoured);
        for conditions in [Conditions::Ignore, Conditions::Lack] {
            double.conditions(conditions);
            for _ in 0..2 {
                let found = probed(&*store).conditional_puts;
                assert_eq!(found, ConditionalPuts::Ignored, "{conditions:?}");
            }
        }
        assert!(double.objects().is_empty());
    }
    let (double, store) = started();
    double.versioning("Enabled");
    assert_eq!(probed(&store).conditional_puts, ConditionalPuts::Ignored);
}

#[test]
fn a_store_without_conditions_is_read_first() {
    for conditions in [Conditions::Ignore, Conditions::Lack] {
        for (double, store) in dialects() {
            double.conditions(conditions);
            probed(&*store);
            runtime().block_on(async {
                store.put_new("e/_SUCCESS", "ours".into()).await.unwrap();
                store.put_new("e/_SUCCESS", "ours".into()).await.unwrap();
                let error = store.put_new("e/_SUCCESS", "else".into()).await.unwrap_err();
                assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
            });
            assert_eq!(double.puts("e/_SUCCESS"), 1);
        }
    }
}

#[test]
fn listings_date_objects_by_the_stores_clock() {
    for (double, store) in dialects() {
        double.clock_ahead(3600);
        runtime().block_on(store.put_new("_wordtide/owner", "job".into())).unwrap();
        double.clock_ahead(3660);
        let page = runtime().block_on(store.list(Listing::new("_wordtide/"))).unwrap();
        let modified = page.items[0].modified.unwrap();
        let age =
            runtime().block_on(store.facts()).store_time.unwrap().duration_since(modified).unwrap();
        assert!((55..90).contains(&age.as_secs()), "{age:?}");
    }
}
