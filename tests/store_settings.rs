//! The real program with odd settings of a store: its messages, its end, what it has written.

use crate::rig::{Ended, Rig};
use crate::store::oss_double::s3::{S3_PATH, S3_REGION};
use crate::store::oss_double::{Conditions, ENDPOINT, Fault, OssDouble, SECRET};
use crate::store_program::{oss, program, tells_no_secret};

const TO: &str = "--to oss://demo/dir/";

fn stdout(ended: &Ended) -> String {
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

/// Runs `run` and `check` at the double's address, as S3, with these variables.
fn s3_at(double: &OssDouble, path: &str, variables: &[(&str, &str)], code: i32) -> Vec<Ended> {
    let rig = Rig::new();
    rig.file("text", "a line\n");
    let endpoint = format!("--s3-endpoint http://{}{path}", double.address);
    let to = format!("--to s3://demo/dir/ {endpoint}");
    let ended = ["check", "run --file text --no-state"].map(|command| {
        let program = program(&rig, &format!("{command} {to}")).env("AWS_REGION", S3_REGION);
        let program =
            variables.iter().fold(program, |program, (name, value)| program.env(name, value));
        program.start().end().expect(code)
    });
    ended.into()
}

#[test]
fn web_pages_are_not_taken_for_a_store() {
    let double = OssDouble::start();
    double.script(|_, _| Some(Fault::Page));
    let rig = Rig::new();
    rig.file("text", "a line\n");
    for command in ["check", "run --file text --no-state"] {
        let ended = oss(&rig, &double, &format!("{command} {TO}")).start().end().expect(78);
        tells_no_secret(&ended.says(&["not one of an object store", "--oss-endpoint"]));
    }
    for ended in s3_at(&double, "", &[], 78) {
        tells_no_secret(&ended.says(&["not one of an object store", "--s3-endpoint"]));
    }
    assert!(double.objects().is_empty());
}

#[test]
fn keys_may_end_in_a_line_break() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    let check = |secret: &str| {
        let program = oss(&rig, &double, &format!("check {TO}"));
        program.env("OSS_ACCESS_KEY_SECRET", secret).start().end()
    };
    check(&format!("{SECRET}\r\n")).expect(0);
    let (front, back) = SECRET.split_at(5);
    let ended = check(&format!("{front}\n{back}")).expect(78);
    tells_no_secret(&ended.says(&["OSS_ACCESS_KEY_ID (with a blank or a control character"]));
    assert!(double.objects().is_empty());
}

#[test]
fn s3_endpoints_may_have_a_path() {
    let double = OssDouble::start();
    s3_at(&double, &format!("/{S3_PATH}/"), &[], 0);
    assert!(double.objects().keys().all(|key| key.starts_with("dir/")), "{:?}", double.objects());
    assert!(!double.objects().is_empty());
    for ended in s3_at(&double, "/demo", &[], 2) {
        ended.says(&["--s3-endpoint", "bucket"]);
    }
}

#[test]
fn no_proxy_holds_for_addresses() {
    let double = OssDouble::start();
    // Nothing listens there.
    let proxy = ("http_proxy", "http://127.0.0.1:9");
    let address = double.address.to_string();
    for name in ["NO_PROXY", "no_proxy"] {
        for value in ["*", "example.com, *", "127.0.0.1", "127.0.0.0/8", &address] {
            if name == "no_proxy" || value == "*" {
                s3_at(&double, "", &[proxy, (name, value)], 0);
            }
        }
    }
}

#[test]
fn machines_without_certificates_can_use_plain_http() {
    let double = OssDouble::start();
    let nowhere = [("SSL_CERT_FILE", "/nonexistent/file"), ("SSL_CERT_DIR", "/nonexistent")];
    s3_at(&double, "", &nowhere, 0);
    let rig = Rig::new();
    let check = format!("check {TO} --oss-endpoint https://{ENDPOINT}");
    let program = nowhere.iter().fold(program(&rig, &check), |p, (name, value)| p.env(name, value));
    let ended = program.start().end().expect(78);
    ended.says(&["HTTP client cannot be set up", "ertificate", "--ca-file"]);
}

#[test]
fn regions_are_read_from_the_aws_config() {
    let (rig, double) = (Rig::new(), OssDouble::start());
    std::fs::create_dir(rig.path(".aws")).expect("room");
    rig.file(".aws/config", format!("[profile work]\nregion = {S3_REGION}\n"));
    let check = format!("check --to s3://demo/dir/ --s3-endpoint http://{}", double.address);
    for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        let program = program(&rig, &check).env(name, "");
        let ended = program.env("AWS_PROFILE", "work").start().end().expect(0);
        assert!(stdout(&ended).contains(S3_REGION), "{ended}");
    }
}

#[test]
fn checks_report_whether_creation_is_exclusive() {
    for (conditions, word) in
        [(Conditions::Honour, " refused where"), (Conditions::Ignore, "not refused where")]
    {
        let (rig, double) = (Rig::new(), OssDouble::start());
        rig.file("text", "a line\n");
        double.conditions(conditions);
        let ended = oss(&rig, &double, &format!("check {TO}")).start().end().expect(0);
        assert!(stdout(&ended).contains(word), "{ended}");
        assert!(double.objects().is_empty());
        let run = oss(&rig, &double, &format!("run --file text --no-state {TO}")).start();
        let ended = run.end().expect(0);
        let warned = ended.stderr.iter().any(|line| line.contains("second job"));
        assert_eq!(warned, conditions == Conditions::Ignore, "{ended}");
    }
}
