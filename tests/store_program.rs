//! The real program against the double of an object store: what arrives, what is logged, how it
//! ends.
//!
//! The program takes the double for a proxy, so that hosts, requests and signatures are exactly
//! those that the real service would see, and no name has to be resolved.

use std::io::{BufRead, Write};

use rustix::process::Signal;

use crate::cluster_program::Addresses;
use crate::oracle::{self, Counts};
use crate::rig::{Ended, Invocation, Output, Rig, Server, random, side_by_side};
use crate::store::oss_double::s3::S3_REGION;
use crate::store::oss_double::{ENDPOINT, Fault, KEY_ID, OssDouble, REGION, SECRET, TOKEN};

/// The seed's own shape: the prefix ends in a slash.
pub(crate) const TO: &str = "--to oss://demo/nyc-taxi/StreamingTest/ --suffix txt";
pub(crate) const PREFIX: &str = "nyc-taxi/StreamingTest/";
/// Planted where nothing of it may ever come back.
const PLANTED: &str = "pLaNtEd";

/// A run with keys of the double's in the environment and nothing else that could be a key.
pub(crate) fn program(rig: &Rig, arguments: &str) -> Invocation {
    let nothing =
        ["no_proxy", "NO_PROXY", "http_proxy", "OSS_ENDPOINT", "OSS_REGION", "OSS_SESSION_TOKEN"];
    let aliases =
        ["ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "AWS_SESSION_TOKEN"];
    let mut program = rig.wordtide(arguments).env("HOME", rig.path(""));
    for name in nothing.into_iter().chain(aliases) {
        program = program.env(name, "");
    }
    program
        .env("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")
        .env("OSS_ACCESS_KEY_ID", KEY_ID)
        .env("OSS_ACCESS_KEY_SECRET", SECRET)
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

/// A command with an OSS endpoint whose requests go to the double.
pub(crate) fn oss(rig: &Rig, double: &OssDouble, arguments: &str) -> Invocation {
    let endpoint = format!("--oss-endpoint http://{ENDPOINT} --allow-http");
    let proxy = format!("http://{}", double.address);
    program(rig, &format!("{arguments} {endpoint}")).env("http_proxy", &proxy)
}

/// Returns the objects of the bucket, read by the rules of the output's contract.
pub(crate) fn stored(rig: &Rig, double: &OssDouble) -> Output {
    for (key, body) in double.objects() {
        let path = rig.path("bucket").join(key);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("room");
        std::fs::write(path, body).expect("room");
    }
    Output::read(&rig.path("bucket"), PREFIX, Some("txt"))
}

/// Keys of the puts that were answered with success, in order, but for the claim's.
fn puts(double: &OssDouble) -> Vec<String> {
    let log = double.log().into_iter();
    let puts = log.filter(|(method, path, status)| {
        method == "PUT" && *status == 200 && !path.contains("_wordtide/owner-")
    });
    puts.map(|(_, path, _)| path.trim_matches(['/', '?']).to_owned()).collect()
}

fn text() -> String {
    (0..2000).map(|n| format!("word{} the {} é\n", n % 700, n % 13)).collect()
}

#[test]
fn bucket_gets_objects_of_a_local_run() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    rig.file("text", text());
    let run = "run --file text --no-state --parts 3 -w 2";
    oss(&rig, &double, &format!("{run} {TO}")).start().end().expect(0).says(&["2000 lines"]);
    rig.run(&format!("{run} --to local/{PREFIX} --suffix txt")).expect(0);
    let there = stored(&rig, &double);
    let here = Output::read(&rig.path("local"), PREFIX, Some("txt"));
    assert_eq!(there.only().parts, here.only().parts);
    assert!(there.uncommitted.is_empty());
    // Three parts in any order, then the marker, and the probe is gone. The claim stays.
    assert_eq!(double.objects().len(), 5, "{:?}", double.objects().keys());
    assert!(double.objects().keys().any(|key| key.contains("_wordtide/owner-")));
    let puts = puts(&double);
    assert_eq!(puts.len(), 5, "a probe, three parts and a marker: {puts:?}");
    assert!(puts[4].ends_with("/_SUCCESS"), "{puts:?}");
}

#[test]
fn s3_and_own_domain_get_same_objects() {
    let rig = Rig::new();
    rig.file("text", text());
    let run = "run --file text --no-state --parts 2 --suffix txt";
    rig.run(&format!("{run} --to local/{PREFIX}")).expect(0);
    let local = Output::read(&rig.path("local"), PREFIX, Some("txt"));
    for (scheme, flags) in [
        ("s3", format!("--s3-region {S3_REGION} --s3-endpoint")),
        ("oss", format!("--oss-region {REGION} --oss-endpoint")),
    ] {
        let (rig_of_bucket, double) = (Rig::new(), OssDouble::start());
        let flags = format!("{flags} http://{} --to {scheme}://demo/{PREFIX}", double.address);
        program(&rig, &format!("{run} {flags}")).start().end().expect(0);
        let there = stored(&rig_of_bucket, &double);
        assert_eq!(there.only().parts, local.only().parts, "{scheme}");
    }
}

/// Sends lines epoch by epoch while requests meet `fault`; fails unless all arrives, once.
fn survives(fault: Fault, percent: u64) {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    // Without empty epochs, whose markers would be requests that hold up the lines.
    let flags = "--interval 50ms --empty-epochs skip --once --no-state --format tsv -w 2";
    let program = oss(&rig, &double, &format!("run {} {flags} {TO}", server.flag())).start();
    let mut peer = server.accept();
    let mut seed = percent;
    double.script(move |_, _| (random(&mut seed) % 100 < percent).then_some(fault));
    let mut sent = String::new();
    for round in 0..6 {
        let lines: String = (0..100).map(|n| format!("a{round} b{n} c\n")).collect();
        peer.send(&lines);
        sent += &lines;
        program.wait_for_lines(100 * (round + 1));
    }
    peer.fin();
    let ended = program.end().expect(0);
    let output = stored(&rig, &double);
    let expected: Counts = oracle::count(sent.as_bytes(), oracle::words_python);
    assert_eq!(output.counts(), expected, "{fault:?} {percent} %\n{ended}");
    assert!(output.uncommitted.is_empty(), "{:?}\n{ended}", output.uncommitted);
    let mut committed = Vec::new();
    for key in puts(&double) {
        let (dir, name) = key.rsplit_once('/').expect("a directory");
        // A marker may be put again when its answer was lost; a part may not follow it.
        assert!(
            name == "_SUCCESS" || !committed.contains(&dir.to_owned()),
            "{key} after its marker"
        );
        committed.extend((name == "_SUCCESS").then(|| dir.to_owned()));
    }
}

#[test]
fn faults_lose_nothing_and_double_nothing() {
    let faults = [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(429),
        Fault::ResetBefore,
        Fault::ResetInside,
        Fault::AnswerLost,
    ];
    let rates = faults.into_iter().flat_map(|fault| [(fault, 10), (fault, 50)]);
    side_by_side(rates.collect(), |(fault, percent)| survives(fault, percent));
}

#[test]
fn outage_is_reported_and_loses_nothing() {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    let flags = "--interval 50ms --no-state";
    let program = oss(&rig, &double, &format!("run {} {flags} {TO}", server.flag())).start();
    let mut peer = server.accept();
    peer.send("before\n");
    program.wait_for_lines(1);
    double.outage(true);
    peer.send("in between\n");
    program.wait_for("nothing is lost");
    peer.send("still\n");
    double.outage(false);
    program.wait_for_lines(3);
    let ended = program.stop().expect(0).says(&["takes objects again"]);
    let told = ended.stderr.iter().filter(|line| line.contains("nothing is lost")).count();
    assert_eq!(told, 1, "{ended}");
    assert_eq!(stored(&rig, &double).total("words"), 4);
}

#[test]
fn a_refusal_later_is_loud_and_tried_again() {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    let run = format!("run {} --interval 50ms --no-state {TO}", server.flag());
    let program = oss(&rig, &double, &run).start();
    let mut peer = server.accept();
    double.fail_next(3, Fault::Code(403, ""), "PUT", "part-00000");
    peer.send("word\n");
    program.wait_for_lines(1);
    let said = ["warning", "refuses (HTTP 403)", "check the credentials"];
    program.stop().expect(0).says(&said).says(&["takes objects again"]);
    assert_eq!(stored(&rig, &double).total("words"), 1);
}

#[test]
fn start_with_leftovers_waits_for_unsteady_store() {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    let flags = format!("--interval 50ms --once --state state --parts 2 {TO}");
    let run = format!("run {} {flags}", server.flag());
    let program = oss(&rig, &double, &run).start();
    let mut peer = server.accept();
    program.wait_for("committed");
    double.fail_next(u32::MAX, Fault::Status(503), "PUT", "_SUCCESS");
    peer.send("left over\n");
    program.wait_for("nothing is lost");
    program.signal(Signal::KILL);
    let ended = program.end();
    drop(peer);
    let left = stored(&rig, &double).uncommitted;
    assert!(!left.is_empty(), "parts of an epoch without a marker: {ended}");

    // Requests for markers and listings go side by side. Of each kind the first request fails more
    // often in a row than the store itself tries it.
    let mut failures = [("_SUCCESS", 12_u32, None::<String>), ("list-type", 12, None)];
    double.script(move |method, path| {
        let kinds = failures.iter_mut().filter(|_| method == "GET");
        let (_, left, failing) = kinds.into_iter().find(|(kind, ..)| path.contains(kind))?;
        let failing = failing.get_or_insert_with(|| path.to_owned());
        let hit = *left > 0 && failing.as_str() == path;
        *left -= u32::from(hit);
        hit.then_some(Fault::Status(503))
    });
    let program = oss(&rig, &double, &run).start();
    server.accept().send("and on\n");
    program.end().expect(0).says(&["before giving up"]).says(&["counting them again"]);
    let now = stored(&rig, &double);
    assert_eq!(now.total("words"), 4);
    assert!(now.uncommitted.is_empty(), "{:?}", now.uncommitted);
}

#[test]
fn process_with_other_credentials_is_refused() {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    let addresses = Addresses::new(2);
    let run = format!("run {} --no-state {TO}", server.flag());
    let [first, second] = [SECRET, PLANTED].map(|secret| {
        let process = if secret == SECRET { 0 } else { 1 };
        let program = oss(&rig, &double, &format!("{run} {}", addresses.flags(process)));
        program.env("OSS_ACCESS_KEY_SECRET", secret).start()
    });
    tells_no_secret(&second.end().expect(78).says(&["SignatureDoesNotMatch"]));
    first.end().expect(69);
}

#[test]
fn machine_credentials_are_fetched_without_proxy() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let keys = format!(
        r#"{{"Code": "Success", "AccessKeyId": "STS.{KEY_ID}", "AccessKeySecret": "{SECRET}",
            "SecurityToken": "{TOKEN}", "Expiration": "2099-01-01T00:00:00Z"}}"#
    );
    let asked = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut lines = std::io::BufReader::new(client.try_clone().expect("a reader")).lines();
        let first = lines.next().expect("a request").expect("text");
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", keys.len());
        client.write_all((head + &keys).as_bytes()).expect("an answer");
        first
    });
    let program = oss(&rig, &double, &format!("check {TO}"))
        .env("OSS_ACCESS_KEY_ID", "")
        .env("ALIBABA_CLOUD_CREDENTIALS_URI", format!("http://localhost:{port}/keys"));
    tells_no_secret(&program.start().end().expect(0));
    assert_eq!(asked.join().expect("an answer"), "GET /keys HTTP/1.1");
}

#[test]
fn slow_stop_names_uncommitted_epochs() {
    // Processes that the launcher started learn of the stop from it, and keep to the same time.
    for (state, code) in [("--no-state", 1), ("--state state", 75), ("--state state -n 2", 75)] {
        let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
        let flags = format!("--interval 50ms --stop-timeout 1s {state} {TO}");
        let program = oss(&rig, &double, &format!("run {} {flags}", server.flag())).start();
        let mut peer = server.accept();
        program.wait_for("committed");
        double.outage(true);
        peer.send("word\n");
        program.wait_for("nothing is lost");
        let ended = program.stop().expect(code);
        let ended = ended.says(&["--stop-timeout of 1s", "not committed: 1"]);
        let left = stored(&rig, &double);
        assert_eq!(left.total("words"), 0, "{ended}");
    }
}

fn refused(arguments: &str, environment: &[(&str, &str)], texts: &[&str]) -> Vec<Ended> {
    let (rig, double) = (Rig::new(), OssDouble::start());
    rig.file("text", "a line\n");
    let ended = ["run --file text --no-state", "check"].map(|command| {
        let mut program = oss(&rig, &double, &format!("{command} {arguments}"));
        for (name, value) in environment {
            program = program.env(name, value);
        }
        program.start().end().expect(78).says(texts)
    });
    assert!(double.objects().is_empty(), "{arguments}");
    ended.into()
}

#[test]
fn refusals_at_start_are_configuration_errors() {
    refused(TO, &[("OSS_ACCESS_KEY_SECRET", PLANTED)], &["SignatureDoesNotMatch", "credentials"]);
    refused(TO, &[("OSS_ACCESS_KEY_ID", PLANTED)], &["InvalidAccessKeyId", "credentials"]);
    refused(TO, &[("OSS_ACCESS_KEY_ID", "")], &["no usable OSS credentials", "OSS_ACCESS_KEY_ID"]);
    refused("--to oss://nobody/x", &[], &["NoSuchBucket", "--to"]);
    refused(&format!("{TO} --oss-region cn-beijing"), &[], &["--oss-region"]);
    let temporary = format!("STS.{KEY_ID}");
    let expired = [("OSS_ACCESS_KEY_ID", &*temporary), ("OSS_SESSION_TOKEN", PLANTED)];
    refused(TO, &expired, &["InvalidSecurityToken", "temporary credentials"]);
    let dls = "--to oss://demo.cn-hangzhou.oss-dls.aliyuncs.com/x";
    refused(dls, &[], &["OSS-HDFS"]);
    refused(
        &format!("--to oss://{KEY_ID}:{PLANTED}@demo/x"),
        &[],
        &["credentials", "process list"],
    );
}

/// Fails if anything secret, or anything that the server quotes, is in what was logged.
#[track_caller]
pub(crate) fn tells_no_secret(ended: &Ended) {
    let said = format!("{}\n{}", ended.stderr.join("\n"), String::from_utf8_lossy(&ended.stdout));
    for secret in [SECRET, KEY_ID, TOKEN, PLANTED, "quoted-by-the-server"] {
        let line = said.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} is in: {line:?}\n{ended}");
    }
}

#[test]
fn no_secret_is_ever_said_nor_stored() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    rig.file("text", text());
    let mut n = 0;
    double.script(move |_, _| {
        n += 1;
        [Some(Fault::Status(403)), Some(Fault::ResetBefore), None][(n % 3).min(n / 9)]
    });
    let id = format!("STS.{KEY_ID}");
    let good = [("OSS_ACCESS_KEY_ID", &*id), ("OSS_SESSION_TOKEN", TOKEN)];
    let wrong = [("OSS_ACCESS_KEY_SECRET", PLANTED), ("OSS_SESSION_TOKEN", PLANTED)];
    for (command, environment) in
        [("run --file text", good), ("check", good), ("run --file text", wrong), ("check", wrong)]
    {
        let program = oss(&rig, &double, &format!("{command} -vv {TO}"))
            .env("RUST_LOG", "trace")
            .env("RUST_BACKTRACE", "1");
        let program =
            environment.iter().fold(program, |program, (name, value)| program.env(name, value));
        tells_no_secret(&program.start().end());
    }
    let s3 =
        format!("--to s3://demo/x --s3-endpoint http://{} --s3-region {S3_REGION}", double.address);
    for secret in [SECRET, PLANTED] {
        let program = program(&rig, &format!("run --file text -vv {s3}"));
        tells_no_secret(&program.env("AWS_SECRET_ACCESS_KEY", secret).start().end());
    }
    // In the addresses of a proxy and of a credential source, too.
    let near = format!("http://user:{PLANTED}@{}", double.address);
    let program = oss(&rig, &double, &format!("check -vv {TO}"))
        .env("http_proxy", &near)
        .env("OSS_ACCESS_KEY_ID", "")
        .env("ALIBABA_CLOUD_CREDENTIALS_URI", format!("{near}/?token={PLANTED}"));
    tells_no_secret(&program.start().end().expect(78).says(&["ALIBABA_CLOUD_CREDENTIALS_URI"]));
    for (key, body) in double.objects() {
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(!body.contains(SECRET) && !body.contains(KEY_ID) && !body.contains(TOKEN), "{key}");
    }
}

#[test]
fn check_reports_access_and_leaves_nothing() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    double.versioning("Enabled");
    let ended = oss(&rig, &double, &format!("check {TO}")).start().end().expect(0);
    let said = String::from_utf8(ended.stdout.clone()).expect("text");
    for fact in [
        format!("http://{ENDPOINT}"),
        REGION.to_owned(),
        "virtual-hosted".to_owned(),
        "OSS V4".to_owned(),
        "environment".to_owned(),
        "against the store".to_owned(),
        "enabled".to_owned(),
    ] {
        assert!(said.contains(&fact), "no {fact} in\n{said}\n{ended}");
    }
    tells_no_secret(&ended);
    assert!(double.objects().is_empty());
    let tree = rig.tree();
    let ended = rig.run("check --to out/counts").expect(0);
    assert!(String::from_utf8_lossy(&ended.stdout).contains("out"), "{ended}");
    assert_eq!(rig.tree(), tree, "a check leaves nothing behind");
    rig.run("check --to -").expect(0);
}

#[test]
fn versioned_bucket_is_reported_at_start() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    rig.file("text", "a line\n");
    double.versioning("Enabled");
    let run = format!("run --file text --no-state {TO}");
    oss(&rig, &double, &run).start().end().expect(0).says(&["warning", "versioning", "lifecycle"]);
}

#[test]
fn fresh_foreign_epochs_need_take_over() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    rig.file("text", "a line\n");
    let run = |flags: &str| {
        let run = format!("run --file text --no-state --interval 10m {flags} {TO}");
        oss(&rig, &double, &run).start().end()
    };
    run("").expect(0);
    run("").expect(0);
    let before = double.objects();
    run("--format tsv").expect(78).says(&["committed by another job", "--take-over"]);
    assert_eq!(double.objects(), before);
    run("--format tsv --take-over").expect(0);
    assert_eq!(double.objects().len(), before.len() + 2, "an epoch of its own");
}

#[test]
fn start_waits_for_an_absent_store() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    rig.file("text", "a line\n");
    double.outage(true);
    let program = oss(&rig, &double, &format!("run --file text --no-state {TO}")).start();
    program.wait_for("before giving up");
    double.outage(false);
    program.end().expect(0);
    assert_eq!(stored(&rig, &double).total("lines"), 1);
}
