//! Mistakes in settings, and odd ones that are none: the message, and that nothing was made.

use crate::rig::{Rig, side_by_side};

/// The expected end of a run.
#[derive(Clone, Copy)]
enum Expect {
    /// It ends with this code, reports all of these texts and leaves no file.
    Refused(i32, &'static [&'static str]),
    /// It ends with this code and reports all of these texts.
    Ends(i32, &'static [&'static str]),
}

use Expect::{Ends, Refused};

/// Variables, `NAME=value` and separated by `;`, arguments separated by `|`, and what is expected.
type Case = (&'static str, &'static str, Expect);

/// Runs each case in a directory of its own that holds a file and an empty folder.
fn check(cases: &[Case]) {
    side_by_side(cases.to_vec(), |(variables, arguments, expected)| {
        let rig = Rig::new();
        rig.file("file", "a line\n");
        std::fs::create_dir(rig.path("folder")).expect("a folder");
        let before = rig.tree();
        let mut run = rig.wordtide("");
        for argument in arguments.split('|').filter(|argument| !argument.is_empty()) {
            // `""` stands for an empty argument.
            run = run.arg(argument.trim_matches('"'));
        }
        for (name, value) in variables.split(';').filter_map(|set| set.split_once('=')) {
            run = run.env(name, value);
        }
        let ended = run.start().end();
        let (code, texts) = match expected {
            Refused(code, texts) | Ends(code, texts) => (code, texts),
        };
        let ended = ended.expect(code);
        let said = ended.stderr.join("\n");
        let missing = texts.iter().find(|text| !said.contains(*text));
        assert_eq!(missing, None, "\n{variables} wordtide {arguments}\n{said}");
        if matches!(expected, Refused(..)) {
            assert_eq!(rig.tree(), before, "left behind by {variables} wordtide {arguments}");
        }
    });
}

#[test]
fn numbers_and_units_out_of_range_are_refused() {
    check(&[
        ("", "run|--stdin|--interval|10", Refused(2, &["--interval", "unit"])),
        ("", "run|--stdin|--interval|1.5s", Refused(2, &["--interval", "1.5s"])),
        ("", "run|--stdin|--interval|9ms", Refused(2, &["--interval", "10ms to 24h"])),
        ("", "run|--stdin|--interval|86401s", Refused(2, &["--interval", "10ms to 24h"])),
        ("", "run|--stdin|--interval|99999999999999999999h", Refused(2, &["--interval"])),
        ("", "run|--stdin|--interval|NaN", Refused(2, &["--interval", "NaN"])),
        ("", "run|--stdin|--interval|10 s", Refused(2, &["--interval"])),
        ("", "run|--stdin|--interval|\"\"", Refused(2, &["--interval"])),
        ("", "run|--stdin|--interval|1s|--interval|2s", Refused(2, &["--interval", "multiple"])),
        ("", "run|--stdin|--interval", Refused(2, &["--interval"])),
        ("", "run|--stdin|--stop-timeout|60", Refused(2, &["--stop-timeout", "unit"])),
        ("", "run|--stdin|--max-line-bytes|16M", Refused(2, &["--max-line-bytes", "16MiB"])),
        ("", "run|--stdin|--max-line-bytes|0", Refused(2, &["--max-line-bytes"])),
        ("", "run|--stdin|--max-line-bytes|1KiB", Refused(2, &["--max-line-bytes"])),
        ("", "run|--stdin|--journal-max|-1", Refused(2, &["--journal-max"])),
        ("", "run|--stdin|--journal-max|0", Refused(2, &["--journal-max"])),
        ("", "run|--stdin|--journal-max|99999999TiB", Refused(2, &["--journal-max"])),
        ("", "run|--stdin|--parts|0", Refused(2, &["--parts", "100000"])),
        ("", "run|--stdin|--parts|100001", Refused(2, &["--parts", "100000"])),
        ("", "run|--stdin|--parts|two", Refused(2, &["--parts", "two"])),
        ("", "run|--stdin|--epochs|0", Refused(2, &["--epochs"])),
        ("", "run|--stdin|--epochs|1e3", Refused(2, &["--epochs", "1e3"])),
        ("", "run|--stdin|-w|0", Refused(2, &["--threads"])),
        ("", "run|--stdin|-w|1025", Refused(2, &["--threads"])),
        ("", "run|--stdin|-w|99999999999999999999", Refused(2, &["--threads"])),
        ("", "run|--stdin|-n|0", Refused(2, &["--processes"])),
        ("", "run|--stdin|-n|100000", Refused(2, &["--processes"])),
        ("", "run|--stdin|--restart|-1", Refused(2, &["--restart"])),
        ("", "run|top_k|--stdin|--k|0", Refused(2, &["--k"])),
        ("", "run|running_totals|--stdin|--max-keys|0", Refused(2, &["--max-keys"])),
        ("", "run|sliding_windows|--stdin|--window|15s", Refused(2, &["--window"])),
        ("", "run|sliding_windows|--stdin|--slide|0s", Refused(2, &["--slide"])),
        ("", "run|field_count|--stdin|--field|0", Refused(2, &["--field"])),
        ("", "run|--stdin|--to|-|--stop-timeout|0s", Ends(0, &[])),
        ("", "run|--stdin|--to|-|--stop-timeout|5000000000000h", Ends(0, &[])),
        ("", "run|top_k|--stdin|--to|-|--k|18446744073709551615", Ends(0, &[])),
    ]);
}

#[test]
fn names_that_are_unknown_get_the_nearest() {
    check(&[
        ("", "run|--stdin|--intervall|1s", Refused(2, &["--intervall", "'--interval'"])),
        ("", "run|--stdin|--format|pyhton", Refused(2, &["--format", "'python'"])),
        ("", "run|--stdin|--sync|epochs", Refused(2, &["--sync", "'epoch'"])),
        ("", "run|--stdin|--sort|words", Refused(2, &["--sort", "'word'"])),
        ("", "run|--stdin|--split|unicode_words", Refused(2, &["--split", "'unicode-words'"])),
        ("", "run|--stdin|--empty-epochs|skp", Refused(2, &["--empty-epochs", "'skip'"])),
        ("", "run|--stdin|--s3-addressing|paths", Refused(2, &["--s3-addressing", "'path'"])),
        ("", "run|top-k|--stdin", Refused(2, &["\"top-k\"", "did you mean top_k?"])),
        ("", "replay|folder|topk", Refused(2, &["\"topk\"", "did you mean top_k?"])),
        ("", "chekc", Refused(2, &["chekc", "did you mean `wordtide check`?"])),
        ("", "list|extra", Refused(2, &["extra"])),
        ("WORDTIDE_DATAFLOW=topk", "run|--stdin", Refused(2, &["WORDTIDE_DATAFLOW", "top_k"])),
    ]);
}

#[test]
fn texts_that_mean_nothing_are_refused() {
    check(&[
        ("", "run|--stdin|--to|\"\"", Refused(2, &["--to"])),
        ("", "run|--stdin|--to|hdfs://name/path", Refused(2, &["hdfs", "--to"])),
        ("", "run|--stdin|--to|oss://", Refused(2, &["--to"])),
        ("", "run|--stdin|--to|s3:///prefix", Refused(2, &["--to"])),
        ("", "run|--stdin|--to|file://host/path", Refused(2, &["--to", "file:"])),
        ("", "run|--stdin|--suffix|a/b", Refused(2, &["--suffix"])),
        ("", "run|--stdin|--oss-endpoint|\"\"", Refused(2, &["--oss-endpoint"])),
        ("", "run|--stdin|--state|\"\"", Refused(2, &["--state"])),
        ("", "run|--file|\"\"", Refused(2, &["--file"])),
        ("", "run|field_count|--stdin", Refused(2, &["--field", "--regex"])),
        ("", "run|field_count|--stdin|--field|1|--delimiter|\"\"", Refused(2, &["--delimiter"])),
        ("", "run|field_count|--stdin|--regex|\"\"", Refused(2, &["--regex"])),
        ("", "run|field_count|--stdin|--regex|(", Refused(2, &["--regex", "unclosed"])),
        ("", "run|field_count|--stdin|--field|1|--regex|a", Refused(2, &["--regex", "--field"])),
    ]);
}

#[test]
fn hosts_and_ports_are_checked() {
    check(&[
        ("", "localhost|65536", Refused(2, &["65536", "HOST PORT"])),
        ("", "localhost|0", Refused(2, &["localhost:0"])),
        ("", "localhost|http", Refused(2, &["http", "HOST PORT"])),
        ("", "localhost", Refused(2, &["localhost", "HOST PORT"])),
        ("", "localhost|1|2", Refused(2, &["2"])),
        ("", "[::1|9999", Refused(2, &["[::1", "HOST:PORT"])),
        ("", "\"\"|9999", Refused(2, &["HOST:PORT"])),
        ("", "run|--connect|::1:9999", Refused(2, &["--connect"])),
        ("", "run|--connect|localhost:99999", Refused(2, &["--connect"])),
        ("", "run|--connect|x=localhost:1", Refused(2, &["--connect", "index"])),
        ("", "run|--connect|7=localhost:1", Refused(2, &["--connect"])),
        ("", "run|--connect|a:1,", Refused(2, &["--connect"])),
    ]);
}

#[test]
fn addresses_in_odd_forms_are_refused() {
    check(&[
        ("", "[::1]:1", Refused(2, &["in one word", "`wordtide ::1 1`"])),
        ("", "localhost:1", Refused(2, &["in one word", "HOST PORT", "--connect"])),
        ("", "[::1]|x", Refused(2, &["\"x\"", "HOST PORT"])),
        ("", "run|--connect|[::1]", Refused(2, &["[::1]", "--connect"])),
        ("", "run|--connect|[::1]:", Refused(2, &["[::1]:", "--connect"])),
        ("", "run|--connect|[]:1", Refused(2, &["[]:1", "brackets"])),
        ("", "run|--connect|,", Refused(2, &["--connect"])),
        ("", "run|--connect|a:1,,b:2", Refused(2, &["--connect"])),
        ("", "run|--connect|tcp://localhost:1", Refused(2, &["tcp://", "--connect"])),
        ("", "run|--connect|0=0=localhost:1", Refused(2, &["0=localhost", "--connect"])),
        ("", "run|--listen|9999", Refused(2, &["--listen", "no port"])),
        ("", "run|--listen|:9999", Refused(2, &["--listen", "no host"])),
        ("", "run|--listen|::1:9", Refused(2, &["--listen", "brackets"])),
        ("", "run|--listen|127.0.0.1:99999", Refused(2, &["--listen", "65535"])),
        ("", "run|--listen-http|0.0.0.0:0", Refused(2, &["--listen-http", "--token-file"])),
        ("", "run|--stdin|--http|:80", Refused(2, &["--http", "ADDR:PORT"])),
        ("", "run|--stdin|--http|127.0.0.1", Refused(2, &["--http", "ADDR:PORT"])),
        ("", "run|--kafka|/t", Refused(2, &["--kafka", "broker"])),
        ("", "run|--kafka|a:1,/t", Refused(2, &["--kafka", "broker"])),
        ("WORDTIDE_LISTEN=127.0.0.1:x", "run", Refused(2, &["--listen", "WORDTIDE_LISTEN"])),
        ("WORDTIDE_LISTEN=, ", "run", Refused(2, &["no source"])),
        ("WORDTIDE_STATE= ;WORDTIDE_EVENTS=\t;WORDTIDE_DATAFLOW= ", "run|--stdin", Ends(0, &[])),
        ("WORDTIDE_NO_STATE=1\n;WORDTIDE_TO=-\r\n", "run|--stdin", Refused(0, &[])),
        (
            "WORDTIDE_DELIMITER= ",
            "run|field_count|--field|2|--file|file|--to|-",
            Ends(0, &["1 words"]),
        ),
        ("WORDTIDE_HTTP=false", "run|--stdin", Refused(2, &["--http", "WORDTIDE_HTTP"])),
        (
            "",
            "run|--stdin|-n|2|-p|0|--addresses|10.1.2.3:1,10.1.2.4:2",
            Refused(78, &["10.1.2.3:1", "--mesh-key-file"]),
        ),
        ("", "run|--stdin|-n|2|-p|0|--addresses|127.0.0.1:1,", Refused(2, &["--addresses"])),
        ("", "run|--stdin|-n|2|-p|0|--addresses|[::1]:1,[::1]:1", Refused(78, &["same address"])),
        ("", "run|--stdin|-n|2|--start-timeout|0s", Refused(2, &["--start-timeout"])),
        ("", "run|--stdin|-n|2|--stall-timeout|0s", Refused(2, &["--stall-timeout"])),
    ]);
}

#[test]
fn places_of_other_kinds_are_refused() {
    check(&[
        ("", "run|--stdin|--to|oss:/bucket/p", Refused(2, &["oss:", "//", "--to"])),
        ("", "run|--stdin|--to|s3:bucket/p", Refused(2, &["s3:", "//", "--to"])),
        ("", "run|--stdin|--to|OSS://bucket/p", Refused(2, &["OSS://", "oss://BUCKET"])),
        ("", "run|--stdin|--to|s3://bucket", Refused(2, &["--to", "BUCKET/PREFIX"])),
        ("", "run|--stdin|--to|sqlite:", Refused(2, &["sqlite:PATH"])),
        ("", "run|--stdin|--to|sqlite:x?tabel=a", Refused(2, &["\"tabel\"", "--to"])),
        ("", "run|--stdin|--to|sqlite:x?table=%zz", Refused(2, &["%25", "--to"])),
        ("", "run|--stdin|--to|sqlite:folder", Refused(78, &["folder", "--to"])),
        ("", "run|--stdin|--to|sqlite:file", Refused(78, &["file", "--to"])),
        ("", "run|--stdin|--to|sqlite:file/below", Refused(78, &["file", "--to"])),
        ("", "run|--stdin|--to|sqlite:x|--format|csv", Refused(2, &["--format", "--to"])),
        ("", "run|--stdin|--to|postgres:x", Refused(2, &["//", "--to"])),
        ("", "run|--stdin|--to|postgres://u:p@h/d", Refused(2, &["password", "PGPASSWORD"])),
        ("", "run|--stdin|--to|mysql://u@[::1]:x/d", Refused(2, &["port", "--to"])),
        ("", "run|--stdin|--write|upsert", Refused(2, &["--write"])),
        ("", "run|--watch|absent", Refused(78, &["absent", "--watch"])),
        ("", "run|--watch|file", Refused(78, &["file", "--watch"])),
        ("", "run|--watch|ftp://x", Refused(2, &["ftp://", "--watch as a folder"])),
        ("", "run|--watch|s3://bucket", Refused(2, &["--watch", "BUCKET/PREFIX"])),
        ("", "run|--watch|folder|--watch-every|0s", Refused(2, &["--watch-every"])),
        ("", "run|--stdin|--events|folder", Refused(78, &["folder", "--events"])),
        ("", "run|--stdin|--state|file/below", Refused(78, &["file", "--state"])),
        ("", "run|--listen|127.0.0.1:0|--tls-cert|file", Refused(2, &["--tls-key"])),
        (
            "",
            "run|--listen|127.0.0.1:0|--tls-cert|file|--tls-key|file",
            Refused(78, &["--tls-cert", "PEM"]),
        ),
        (
            "",
            "run|--listen-http|127.0.0.1:0|--token-file|folder",
            Refused(78, &["--token-file", "folder"]),
        ),
        (
            "",
            "run|--stdin|--to|s3://bucket/p|--s3-endpoint|http://192.0.2.1",
            Refused(78, &["plain http", "--allow-http"]),
        ),
        ("", "run|--stdin|--config|folder", Refused(78, &["folder", "--config"])),
        ("", "state|--remove|folder", Refused(78, &["folder", "--state"])),
        ("", "profile|file", Refused(78, &["file", "--events"])),
    ]);
}

#[test]
fn topics_and_their_settings_are_checked() {
    check(&[
        ("", "run|--kafka|localhost:9092", Refused(2, &["--kafka", "/TOPIC"])),
        ("", "run|--kafka|localhost/t", Refused(2, &["--kafka", "localhost"])),
        ("", "run|--kafka|localhost:9092/a b", Refused(2, &["--kafka", "letters"])),
        ("", "run|--kafka|localhost:9092/..", Refused(2, &["--kafka"])),
        ("", "run|--kafka|a:1/t|--kafka-start|newest", Refused(2, &["--kafka-start", "latest"])),
        ("", "run|--kafka|a:1/t|--kafka-config|x=1", Refused(2, &["--kafka-config", "\"x\""])),
        ("", "run|--kafka|a:1/t|--kafka-config|group.id=g", Refused(2, &["consumer group"])),
        ("", "run|--kafka|a:1/t|--kafka-config|fetch.max.wait.ms=0", Refused(2, &["a number"])),
        (
            "",
            "run|--kafka|a:1/t|--kafka-config|sasl.password=x",
            Refused(2, &["sasl.password.file", "WORDTIDE_KAFKA_CONFIG"]),
        ),
        (
            "WORDTIDE_KAFKA_CONFIG=security.protocol=SSL,ssl.ca.location=/absent",
            "run|--kafka|a:1/t",
            Refused(78, &["/absent", "ssl.ca.location"]),
        ),
    ]);
}

#[test]
fn flags_that_exclude_each_other_are_refused() {
    check(&[
        ("", "run|--stdin|--state|there|--no-state", Refused(2, &["--state", "--no-state"])),
        ("", "run|--stdin|-n|2|-h|file|--addresses|a:1,b:2", Refused(2, &["--addresses"])),
        ("", "run|--stdin|-n|2|-p|2|--addresses|127.0.0.1:1,127.0.0.1:2", Refused(2, &["-p"])),
        ("", "run|--stdin|-n|2|-p|x", Refused(2, &["\"x\"", "-p"])),
        ("", "run|--stdin|-n|2|--addresses|127.0.0.1:1,127.0.0.1:2", Refused(2, &["-p"])),
        ("", "run|--stdin|-n|3|-p|0|--addresses|127.0.0.1:1,127.0.0.1:2", Refused(2, &["3"])),
        ("", "run|--stdin|-p|1", Refused(2, &["-p"])),
        ("", "run|--stdin|-n|2|-p|0|-h|absent", Refused(78, &["absent"])),
        ("", "run|--stdin|-n|2|--http|systemd", Refused(2, &["--http", "-n"])),
        ("", "run|-n|2|--listen|systemd", Refused(2, &["--listen", "-n"])),
        ("", "run|--stdin|--http|systemd", Refused(78, &["--http", "named http"])),
        ("", "run|--listen|systemd", Refused(78, &["--listen", "named listen"])),
        ("", "run|--stdin|--no-state=true", Refused(2, &["--no-state"])),
        ("", "run", Refused(2, &["--connect", "--file", "--stdin"])),
        ("", "--interval|1s|run|--stdin", Refused(2, &["run"])),
    ]);
}

#[test]
fn forms_that_exclude_each_other_are_refused() {
    check(&[
        ("", "run|--stdin|--compress|bzip2", Refused(2, &["--compress", "gzip"])),
        ("", "run|--stdin|--compress|zst", Refused(2, &["--compress", "'zstd'"])),
        ("", "run|--stdin|--format|parqet", Refused(2, &["--format", "'parquet'"])),
        ("", "run|--stdin|--layout|hiv", Refused(2, &["--layout", "'hive'"])),
        ("", "run|--stdin|--to|-|--compress|gzip", Refused(2, &["--compress", "--to"])),
        ("", "run|--stdin|--to|-|--format|parquet", Refused(2, &["--format", "--to"])),
        ("", "run|--stdin|--to|-|--layout|hive", Refused(2, &["--layout", "--to"])),
        ("", "run|--stdin|--layout|hive|--suffix|txt", Refused(2, &["--layout", "--suffix"])),
        ("", "run|--stdin|--time-zone|UTC", Refused(2, &["--time-zone", "--layout hive"])),
        (
            "",
            "run|--stdin|--layout|hive|--time-zone|Europe/Berlim",
            Refused(2, &["Europe/Berlim", "--time-zone", "Europe/Berlin"]),
        ),
        ("", "check|--layout|hive|--suffix|txt", Refused(2, &["--layout", "--suffix"])),
        ("", "run|--stdin|--to|-|--compress|none", Ends(0, &[])),
        ("WORDTIDE_SUFFIX=txt", "run|--stdin|--layout|hive", Ends(0, &[])),
        ("WORDTIDE_LAYOUT=hive", "run|--stdin|--suffix|txt", Ends(0, &[])),
        ("WORDTIDE_LAYOUT=hiv", "run|--stdin", Refused(2, &["WORDTIDE_LAYOUT", "spark"])),
        ("WORDTIDE_COMPRESS=gzip;WORDTIDE_FORMAT=parquet", "run|--stdin|--to|-", Ends(0, &[])),
        (
            "WORDTIDE_COMPRESS=gzip;WORDTIDE_TO=-",
            "run|--stdin",
            Refused(2, &["WORDTIDE_COMPRESS", "--to"]),
        ),
        ("WORDTIDE_COMPRESS=gzip;WORDTIDE_TO=-", "run|--stdin|--to|out/c", Ends(0, &[])),
        ("WORDTIDE_TIME_ZONE=Mars", "run|--stdin|--layout|hive", Refused(2, &["Mars"])),
    ]);
}

#[test]
fn paths_that_cannot_be_used_are_refused() {
    check(&[
        ("", "run|--file|absent", Refused(78, &["absent", "--file"])),
        ("", "run|--file|folder", Refused(78, &["folder", "--file"])),
        ("", "run|--file|file/below", Refused(78, &["file/below", "--file"])),
        ("", "run|--stdin|--state|file", Refused(78, &["file", "--state"])),
        ("", "run|--stdin|--to|file/below/counts", Refused(78, &["file", "--to"])),
        (
            "",
            "run|--stdin|--to|s3://bucket/p|--s3-region|r|--ca-file|absent",
            Refused(78, &["absent", "--ca-file"]),
        ),
        ("", "run|--stdin|-n|2|-p|0|--mesh-key-file|absent", Refused(78, &["absent"])),
        ("", "replay|absent", Refused(78, &["absent"])),
        ("", "replay|file", Refused(78, &["file"])),
        ("", "journal|check|absent", Refused(78, &["absent"])),
    ]);
}

#[test]
fn variables_count_where_the_line_is_silent() {
    check(&[
        ("WORDTIDE_INTERVAL=10", "run|--stdin", Refused(2, &["WORDTIDE_INTERVAL", "unit"])),
        ("WORDTIDE_EPOCHS=0", "run|--stdin", Refused(2, &["WORDTIDE_EPOCHS", "--epochs"])),
        ("WORDTIDE_FORMAT=xml", "run|--stdin", Refused(2, &["WORDTIDE_FORMAT", "python"])),
        ("WORDTIDE_STDIN=maybe", "run", Refused(2, &["WORDTIDE_STDIN", "true, 1, yes"])),
        ("WORDTIDE_FILE=absent", "run", Refused(78, &["WORDTIDE_FILE", "absent"])),
        ("WORDTIDE_TO=hdfs://x", "run|--stdin", Refused(2, &["WORDTIDE_TO", "hdfs"])),
        ("WORDTIDE_SUFFIX=a/b", "run|--stdin", Refused(2, &["WORDTIDE_SUFFIX"])),
        ("WORDTIDE_PROCESS=x", "run|--stdin|-n|2", Refused(2, &["WORDTIDE_PROCESS"])),
        (
            "WORDTIDE_STATE=a;WORDTIDE_NO_STATE=1",
            "run|--stdin",
            Refused(2, &["WORDTIDE_STATE", "WORDTIDE_NO_STATE"]),
        ),
        ("WORDTIDE_STDIN=1;WORDTIDE_FILE=file", "run|--to|-", Ends(0, &["1 lines, 2 words"])),
        ("WORDTIDE_EPOCHS=;WORDTIDE_SORT=", "list", Refused(0, &[])),
        ("WORDTIDE_EPOCHS=x", "list", Refused(0, &[])),
        ("WORDTIDE_SUFFIX=;WORDTIDE_PARTS=;WORDTIDE_TO=", "run|--stdin|--to|-", Ends(0, &[])),
        ("WORDTIDE_NO_STATE=False", "run|--stdin|--state|there|--to|-", Ends(0, &[])),
        ("WORDTIDE_NO_STATE=true", "run|--stdin|--state|there|--to|-", Ends(0, &[])),
        ("WORDTIDE_STATE=file", "run|--stdin|--no-state|--to|-", Ends(0, &[])),
        ("WORDTIDE_CONNECT=x", "run|--stdin|--to|-", Ends(0, &[])),
        ("WORDTIDE_STDIN=1", "run|--file|file|--to|-", Ends(0, &["1 lines, 2 words"])),
        ("WORDTIDE_CONNECT=x:y;WORDTIDE_FILE=absent", "run|--stdin|--to|-", Ends(0, &[])),
        ("WORDTIDE_VERBOSE=2", "run|--stdin|--to|-|-qq", Refused(0, &[])),
        (
            "WORDTIDE_FIELD=2",
            "run|field_count|--regex|l.|--file|file|--to|-",
            Ends(0, &["1 words"]),
        ),
        ("WORDTIDE_REGEX=(", "run|field_count|--field|2|--file|file|--to|-", Ends(0, &["1 words"])),
        ("WORDTIDE_FIELD=2", "run|field_count|--file|file|--to|-", Ends(0, &["1 words"])),
        ("WORDTIDE_STDIN=yes;WORDTIDE_TO=-", "run", Ends(0, &[])),
        (
            "WORDTIDE_INTERVALL=1s",
            "run|--stdin|--to|-",
            Ends(0, &["WORDTIDE_INTERVALL is not known", "did you mean WORDTIDE_INTERVAL?"]),
        ),
    ]);
}
