//! Flags that do nothing without another one: refused where they are typed, ignored where several
//! jobs may share them.

use std::fmt::Write;

use crate::rig::Rig;

/// A flag, a value, and what it belongs to. The run has a file, no state, and a folder in `--to`.
const FLAGS: [(&str, &str, &str); 29] = [
    ("max-connections", "5", "--listen"),
    ("tls-cert", "none.pem", "--listen"),
    ("tls-key", "none.pem", "--listen"),
    ("token-file", "none", "--listen-http"),
    ("max-body-bytes", "1MiB", "--listen-http"),
    ("kafka-start", "earliest", "--kafka"),
    ("kafka-config", "client.id=x", "--kafka"),
    ("watch-existing", "", "--watch"),
    ("watch-every", "2s", "--watch"),
    ("write", "upsert", "database"),
    ("time-zone", "Asia/Shanghai", "--layout hive"),
    ("oss-endpoint", "a.example", "oss://"),
    ("oss-region", "a", "oss://"),
    ("s3-endpoint", "http://a.example", "s3://"),
    ("s3-region", "a", "s3://"),
    ("s3-addressing", "path", "s3://"),
    ("ca-file", "none.pem", "server"),
    ("allow-http", "", "bucket"),
    ("mesh-key-file", "none", "-n"),
    ("start-timeout", "1s", "-n"),
    ("stall-timeout", "5s", "-n"),
    ("sync", "never", "state"),
    ("sync-every", "2s", "state"),
    ("journal-max", "1GiB", "state"),
    ("keep-journal", "", "state"),
    ("abandon-journal", "00112233445566778899aabbccddeeff", "state"),
    ("events-max", "1MiB", "--events"),
    // These are refused last, so that the others can be given together elsewhere.
    ("hostfile", "none", "-n"),
    ("max-connections", "5", "--listen-http"),
];
/// The flags of the table that can stand in one place.
const TOGETHER: usize = 27;
const RUN: &str = "run --file lines --interval 10ms --format tsv --no-state --to out/c";

fn rig() -> Rig {
    let rig = Rig::new();
    rig.file("lines", "a b\n");
    rig
}

#[test]
fn typed_flag_without_its_owner_is_refused() {
    let rig = rig();
    let before = rig.tree();
    for (flag, value, needs) in FLAGS {
        let given =
            if value.is_empty() { format!("--{flag}") } else { format!("--{flag}={value}") };
        let named = format!("--{flag} does nothing here");
        rig.run(&format!("{RUN} {given}")).expect(2).says(&[&named, needs]);
    }
    let state = RUN.replace("--no-state", "--state state");
    for more in ["--sync never --sync-every 2s", "line_archive --lowercase"] {
        rig.run(&format!("{state} {more}")).expect(2).says(&["does nothing here"]);
    }
    rig.run(&format!("{RUN} field_count --field 1 --split whitespace")).expect(2);
    rig.run(&format!("{RUN} field_count --regex a --delimiter ;")).expect(2);
    rig.run("run --file lines --to - --suffix x").expect(2).says(&["--suffix does nothing here"]);
    let feed = rig.run("feed http://127.0.0.1:9 lines --ca-file none.pem");
    feed.expect(2).says(&["--ca-file does nothing here", "https"]);
    rig.run("--token-file none").expect(2).says(&["--token-file does nothing here"]);
    assert_eq!(rig.tree(), before, "something was written");
}

#[test]
fn shared_settings_without_use_are_ignored() {
    let (rig, mut file) = (rig(), String::new());
    let mut by_variables = rig.wordtide(RUN);
    for (flag, value, _) in &FLAGS[..TOGETHER] {
        let variable = format!("WORDTIDE_{}", flag.to_uppercase().replace('-', "_"));
        let value = if value.is_empty() { "true" } else { value };
        by_variables = by_variables.env(&variable, value);
        let quoted = if value == "true" { value.to_owned() } else { format!("{value:?}") };
        writeln!(file, "{flag} = {quoted}").expect("memory");
    }
    by_variables.start().end().expect(0);
    assert_eq!(rig.output("out/c").counts().len(), 2);
    rig.file("shared.toml", file);
    rig.run(&format!("{} --config shared.toml", RUN.replace("out/c", "out/d"))).expect(0);
    assert_eq!(rig.output("out/d").counts().len(), 2);
}
