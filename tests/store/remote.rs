//! The OSS store against the double: promises, faults, refusals.

use std::path::PathBuf;
use std::time::Duration;

use wordtide::error::ErrorKind;
use wordtide::internals::store::remote::RemoteStore;
use wordtide::internals::store::{
    Addressing, Body, Environment, Store, StoreErrorKind, StoreProbe, StoreSettings, Versioning,
};

use super::oss_double::s3::{S3_HOST, S3_REGION};
use super::oss_double::{BUCKET, DOMAIN, ENDPOINT, Fault, KEY_ID, OssDouble, SECRET, TOKEN};
use super::{conformance, runtime};

pub(super) fn settings(double: &OssDouble) -> StoreSettings {
    let host = format!("{BUCKET}.{ENDPOINT}");
    StoreSettings {
        oss_endpoint: Some(format!("http://{ENDPOINT}:{}", double.address.port())),
        allow_http: true,
        resolve: vec![(host, double.address)],
        multipart_bytes_min: 8 << 20,
        ..StoreSettings::default()
    }
}

pub(super) fn keys(id: &str, secret: &str, token: &str) -> Environment {
    let vars = [
        ("OSS_ACCESS_KEY_ID", id),
        ("OSS_ACCESS_KEY_SECRET", secret),
        ("OSS_SESSION_TOKEN", token),
        ("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true"),
    ];
    Environment::new(vars, None)
}

pub(super) fn opened(settings: &StoreSettings) -> RemoteStore {
    RemoteStore::oss(BUCKET, None, settings, &keys(KEY_ID, SECRET, "")).unwrap()
}

pub(super) fn started() -> (OssDouble, RemoteStore) {
    let double = OssDouble::start();
    let store = opened(&settings(&double));
    (double, store)
}

#[test]
fn oss_keeps_the_promises_of_a_store() {
    let (double, store) = started();
    runtime().block_on(conformance::check(&store));
    let log = double.log();
    assert!(log.iter().all(|(_, _, status)| *status != 403), "{log:?}");
}

#[test]
fn objects_replaced_while_read_are_read_again() {
    let (double, store) = started();
    runtime().block_on(store.put("k", "v".into())).unwrap();
    double.fail_next(2, Fault::Code(412, "PreconditionFailed"), "GET", "k");
    assert_eq!(runtime().block_on(store.get("k", 9)).unwrap(), "v");
    double.fail_next(u32::MAX, Fault::Code(412, "PreconditionFailed"), "GET", "k");
    let error = runtime().block_on(store.get("k", 9)).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
}

#[test]
fn a_put_is_one_request() {
    let (double, store) = started();
    runtime().block_on(store.put("e/part-00000", "x".into())).unwrap();
    assert_eq!(double.log().len(), 1, "{:?}", double.log());
}

#[test]
fn temporary_credentials_send_their_token() {
    let double = OssDouble::start();
    let id = format!("STS.{KEY_ID}");
    let environment = keys(&id, SECRET, TOKEN);
    let store = RemoteStore::oss(BUCKET, None, &settings(&double), &environment).unwrap();
    runtime().block_on(store.put("k", "v".into())).unwrap();
    let environment = keys(&id, SECRET, "another");
    let store = RemoteStore::oss(BUCKET, None, &settings(&double), &environment).unwrap();
    let error = runtime().block_on(store.put("k", "v".into())).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
}

#[test]
fn each_fault_is_survived_by_trying_again() {
    for fault in [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(429),
        Fault::ResetBefore,
        Fault::ResetInside,
        Fault::AnswerLost,
        Fault::Stall,
    ] {
        let double = OssDouble::start();
        let store = opened(&StoreSettings {
            request_timeout: Duration::from_millis(500),
            ..settings(&double)
        });
        double.fail_next(2, fault, "PUT", "part-00000");
        let stored = runtime().block_on(store.put("e/part-00000", "text".into()));
        assert_eq!(stored.unwrap().bytes, 4, "{fault:?}");
        let objects = double.objects();
        assert_eq!(objects["e/part-00000"], b"text", "{fault:?}");
        let puts = match fault {
            Fault::AnswerLost => 3,
            _ => 1,
        };
        assert_eq!(double.puts("e/part-00000"), puts, "{fault:?}");
    }
}

#[test]
fn create_with_lost_answer_knows_own_object() {
    let (double, store) = started();
    double.fail_next(1, Fault::AnswerLost, "PUT", "_SUCCESS");
    runtime().block_on(async {
        store.put_new("e/_SUCCESS", "ours".into()).await.unwrap();
        let error = store.put_new("e/_SUCCESS", "xxxx".into()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
    });
    assert_eq!(double.objects()["e/_SUCCESS"], b"ours");
    assert_eq!(double.puts("e/_SUCCESS"), 1);
}

pub(super) fn large() -> Body {
    let chunk = |n: u8| bytes::Bytes::from(vec![n; 1 << 20]);
    Body::from_chunks((0..9).map(chunk))
}

#[test]
fn large_object_survives_lost_completion_of_parts() {
    let (double, store) = started();
    double.fail_next(1, Fault::AnswerLost, "POST", "uploadId");
    let body = large();
    let stored = runtime().block_on(store.put("e/big", body.clone())).unwrap();
    assert_eq!((stored.bytes, stored.md5), (9 << 20, body.md5_hex()));
    assert_eq!(double.objects()["e/big"], body.load().unwrap().concat());
    assert_eq!((double.puts("e/big"), double.open_uploads()), (1, 0));
    let log = double.log();
    let parts = log.iter().filter(|(_, path, _)| path.contains("partNumber"));
    assert_eq!(parts.count(), 2);
    let reads = log.iter().filter(|(method, _, _)| method == "GET");
    assert_eq!(reads.count(), 9, "compared piece by piece, never held as a whole");
}

#[test]
fn an_upload_in_parts_that_fails_is_aborted() {
    let (double, store) = started();
    double.script(|method, path| {
        let part = method == "PUT" && path.contains("partNumber=2");
        part.then_some(Fault::Status(503))
    });
    let error = runtime().block_on(store.put("e/big", large())).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
    assert_eq!(double.open_uploads(), 0);
    assert!(double.objects().is_empty());
}

#[test]
fn an_outage_is_unavailable_and_passes() {
    let (double, store) = started();
    double.outage(true);
    let error = runtime().block_on(store.put("k", "v".into())).unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    double.outage(false);
    runtime().block_on(store.put("k", "v".into())).unwrap();
}

#[test]
fn long_failures_of_short_reads_are_unavailable() {
    let (double, store) = started();
    runtime().block_on(store.put("k", "v".into())).unwrap();
    double.fail_next(u32::MAX, Fault::Status(500), "GET", "k");
    let error = runtime().block_on(store.get("k", 1)).unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[test]
fn refusals_say_what_to_do_and_nothing_secret() {
    let double = OssDouble::start();
    let wrong = [
        (keys(KEY_ID, "planted-secret", ""), "secret"),
        (keys("planted-id", SECRET, ""), "access key"),
        (keys("", "", ""), "OSS_ACCESS_KEY_ID"),
        (keys(&format!("STS.{KEY_ID}"), SECRET, "planted-token"), "token"),
    ];
    for (environment, word) in wrong {
        let store = RemoteStore::oss(BUCKET, None, &settings(&double), &environment).unwrap();
        let refused = runtime().block_on(StoreProbe::beside("p/counts").run(&store)).unwrap_err();
        assert_eq!(refused.kind, StoreErrorKind::Denied, "{refused}");
        let text = format!("{refused} {refused:?} {store:?} {environment:?}");
        assert!(text.contains(word), "{text}");
        let asked = !text.contains("no usable");
        assert_eq!(text.contains("HTTP 403"), asked, "{text}");
        for planted in ["planted", SECRET, KEY_ID, "quoted-by-the-server"] {
            assert!(!text.contains(planted), "{planted}: {text}");
        }
        let error = wordtide::Error::from(refused);
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
    assert!(double.objects().is_empty());
}

#[test]
fn missing_bucket_and_wrong_region_are_configuration() {
    let double = OssDouble::start();
    let resolve = ("nobody.oss-cn-hangzhou.aliyuncs.com".to_owned(), double.address);
    let elsewhere = StoreSettings { resolve: vec![resolve], ..settings(&double) };
    let environment = keys(KEY_ID, SECRET, "");
    let missing = RemoteStore::oss("nobody", None, &elsewhere, &environment).unwrap();
    let region =
        opened(&StoreSettings { oss_region: Some("cn-beijing".to_owned()), ..settings(&double) });
    for (store, flag) in [(missing, "--to"), (region, "--oss-region")] {
        let error = runtime().block_on(store.put("k", "v".into())).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(flag), "{error}");
    }
}

#[test]
fn rotated_keys_are_read_again_after_a_refusal() {
    let double = OssDouble::start();
    let home = tempfile::tempdir().unwrap();
    let write = |secret: &str| {
        let text = format!("[Credentials]\naccessKeyID={KEY_ID}\naccessKeySecret={secret}\n");
        std::fs::write(home.path().join(".ossutilconfig"), text).unwrap();
    };
    let off = [("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")];
    let environment = Environment::new(off, Some(PathBuf::from(home.path())));
    write("before-the-rotation");
    let store = RemoteStore::oss(BUCKET, None, &settings(&double), &environment).unwrap();
    runtime().block_on(store.put("k", "v".into())).unwrap_err();
    write(SECRET);
    runtime().block_on(store.put("k", "v".into())).unwrap();
}

#[test]
fn keys_rotated_since_read_are_tried_at_once() {
    let double = OssDouble::start();
    let home = tempfile::tempdir().unwrap();
    let write = |id: &str, secret: &str| {
        let text = format!("[Credentials]\naccessKeyID={id}\naccessKeySecret={secret}\n");
        std::fs::write(home.path().join(".ossutilconfig"), text).unwrap();
    };
    let off = [("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")];
    let environment = Environment::new(off, Some(PathBuf::from(home.path())));
    write("LTAIbefore", "before-the-rotation");
    let store = RemoteStore::oss(BUCKET, None, &settings(&double), &environment).unwrap();
    // An answer that does not name the keys, which are known from now on.
    double.fail_next(1, Fault::Status(404), "PUT", "k");
    runtime().block_on(store.put("k", "v".into())).unwrap_err();
    write(KEY_ID, SECRET);
    runtime().block_on(store.put("k", "v".into())).unwrap();
}

#[test]
fn wrong_clock_is_reported_with_its_error() {
    let (double, store) = started();
    double.fail_next(1, Fault::Refused("RequestTimeTooSkewed"), "PUT", "k");
    let error = runtime().block_on(store.put("k", "v".into())).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    let told = error.to_string();
    assert!(told.contains("clock") && told.contains(" s against the store's"), "{told}");
}

#[test]
fn foreign_answer_is_refused_and_not_quoted() {
    let (double, store) = started();
    for status in [301, 302, 307, 404] {
        double.fail_next(1, Fault::Status(status), "PUT", "k");
        let error = runtime().block_on(store.put("k", "v".into())).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
        let told = format!("{error} {error:?}");
        assert!(told.contains(&format!("HTTP {status}")), "{told}");
        assert!(told.contains("--oss-endpoint"), "{told}");
        assert!(!told.contains("quoted-by-the-server") && !told.contains(KEY_ID), "{told}");
    }
}

#[test]
fn a_custom_domain_is_signed_for_its_bucket() {
    let double = OssDouble::start();
    let store = opened(&StoreSettings {
        oss_endpoint: Some(format!("http://{DOMAIN}:{}", double.address.port())),
        oss_region: Some("cn-hangzhou".to_owned()),
        resolve: vec![(DOMAIN.to_owned(), double.address)],
        ..settings(&double)
    });
    runtime().block_on(store.put("a b/é", "v".into())).unwrap();
    assert_eq!(double.puts("a b/é"), 1);
}

#[test]
fn bucket_outside_host_name_is_refused() {
    let double = OssDouble::start();
    let store = opened(&StoreSettings {
        oss_addressing: Addressing::CustomDomain,
        resolve: vec![(ENDPOINT.to_owned(), double.address)],
        ..settings(&double)
    });
    let error = runtime().block_on(store.put("k", "v".into())).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert!(error.message.contains("SecondLevelDomainForbidden"), "{error}");
}

#[test]
fn versioned_bucket_is_examined_before_create() {
    let (double, store) = started();
    double.versioning("Suspended");
    runtime().block_on(async {
        store.facts().await;
        store.put_new("e/_SUCCESS", "ours".into()).await.unwrap();
        store.put_new("e/_SUCCESS", "ours".into()).await.unwrap();
        let error = store.put_new("e/_SUCCESS", "else".into()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
    });
    assert_eq!(double.puts("e/_SUCCESS"), 1);
}

/// The S3 store at the double, by path or virtual-hosted.
pub(super) fn s3(double: &OssDouble, addressing: Addressing, secret: &str) -> RemoteStore {
    let settings = StoreSettings {
        s3_endpoint: Some(format!("http://{S3_HOST}:{}", double.address.port())),
        s3_region: Some(S3_REGION.to_owned()),
        s3_addressing: addressing,
        resolve: vec![
            (S3_HOST.to_owned(), double.address),
            (format!("{BUCKET}.{S3_HOST}"), double.address),
        ],
        ..settings(double)
    };
    let vars = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", secret)];
    RemoteStore::s3(BUCKET, &settings, &Environment::new(vars, None)).unwrap()
}

#[test]
fn s3_keeps_promises_by_path_and_host() {
    for addressing in [Addressing::Path, Addressing::VirtualHosted] {
        let double = OssDouble::start();
        let store = s3(&double, addressing, SECRET);
        runtime().block_on(async {
            conformance::check(&store).await;
            let body = large();
            store.put("e/big", body.clone()).await.unwrap();
            assert_eq!(double.objects()["e/big"], body.load().unwrap().concat());
        });
    }
}

#[test]
fn s3_knows_own_object_and_wrong_secrets() {
    let double = OssDouble::start();
    double.fail_next(1, Fault::AnswerLost, "PUT", "_SUCCESS");
    let store = s3(&double, Addressing::Path, SECRET);
    runtime().block_on(store.put_new("e/_SUCCESS", "ours".into())).unwrap();
    assert_eq!(double.puts("e/_SUCCESS"), 1);
    let store = s3(&double, Addressing::Path, "planted");
    let error = runtime().block_on(store.put("k", "v".into())).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert!(error.message.contains("SignatureDoesNotMatch"), "{error}");
}

#[test]
fn facts_name_endpoint_signature_source_and_versioning() {
    let (double, store) = started();
    double.versioning("Enabled");
    let facts = runtime().block_on(async {
        StoreProbe::beside("p/").run(&store).await.unwrap();
        store.facts().await
    });
    assert!(facts.endpoint.unwrap().contains(ENDPOINT));
    assert_eq!(facts.signature, Some("OSS V4"));
    assert_eq!(facts.addressing, Some("virtual-hosted"));
    assert!(facts.credentials.unwrap().contains("environment"));
    assert_eq!(facts.versioning, Versioning::Enabled);
    assert!(facts.store_time.is_some());
    assert!(double.objects().is_empty());
}

#[test]
fn buckets_named_like_their_endpoint_keep_its_host() {
    let double = OssDouble::start();
    let host = format!("{BUCKET}.files.example");
    // No other host resolves.
    let settings = StoreSettings {
        s3_endpoint: Some(format!("http://{host}:{}", double.address.port())),
        s3_region: Some(S3_REGION.to_owned()),
        resolve: vec![(host, double.address)],
        ..settings(&double)
    };
    let vars = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let store = RemoteStore::s3(BUCKET, &settings, &Environment::new(vars, None)).unwrap();
    runtime().block_on(store.put("k", "v".into())).unwrap();
    // The double sees the bucket in the host, and the path as it was sent.
    assert_eq!(double.objects()[&format!("{BUCKET}/k")], b"v");
}
