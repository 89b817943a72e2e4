//! `wordtide bench`: measures, checks every count, and leaves nothing but its report.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::rig::Rig;

/// Runs of a second or so each.
const SMALL: &str = "bench --corpus english --mib 1 -w 1 --rounds 1 --interval 100ms --scratch .";

fn rows(rig: &Rig) -> Vec<Value> {
    let text = fs::read_to_string(rig.path("report/rows.jsonl")).expect("rows");
    text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

#[test]
fn small_bench_writes_checked_rows_and_plots() {
    let rig = Rig::new();
    let beside = "--beside reference,reference-sync,totals,changes,naive,wc --journal no,yes";
    let flags = format!("{SMALL} {beside} --rate 200k --seconds 1 --report report");
    let ended = rig.run(&flags).expect(0);
    assert!(ended.stderr.iter().all(|line| line.starts_with("wordtide: warning: ")), "{ended}");
    let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(stdout.contains("COST of english: "), "{stdout}");

    let rows = rows(&rig);
    let names = |kind: &str| -> Vec<&str> {
        let of_kind = rows.iter().filter(|row| row["kind"] == kind);
        of_kind.map(|row| row["program"].as_str().expect("a name")).collect()
    };
    let programs = [
        "reference",
        "reference-sync",
        "wordtide -w 1",
        "wordtide -w 1 --state",
        "running_totals -w 1",
        "running_totals --emit changes -w 1",
        "naive",
        "wc -w",
    ];
    assert_eq!(names("throughput"), programs);
    assert_eq!(names("latency"), ["wordtide -w 1", "wordtide -w 1 --state"]);
    for row in &rows {
        let figures = ["words", "user_ns_per_word", "peak_rss_mib", "cores"];
        assert!(figures.iter().all(|name| row[name].is_number()), "{row}");
    }
    let words = |row: &Value| row["words"].as_u64().expect("a number");
    assert!(rows[..8].iter().all(|row| words(row) == words(&rows[0]) && words(row) > 100_000));
    assert!(rows[3]["times_no_state"].is_number() && rows[2]["times_reference_sync"].is_number());
    let latency = &rows[8];
    let in_order = ["marker_ms_p50", "marker_ms_p99", "marker_ms_max"];
    let in_order = in_order.map(|name| latency[name].as_f64().expect("a figure"));
    assert!(in_order.is_sorted() && latency["line_ms_p50"].is_number(), "{latency}");
    assert!(latency["words_per_s_kept"].as_f64() > Some(0.0), "{latency}");

    let csv = fs::read_to_string(rig.path("report/rows.csv")).expect("rows");
    assert_eq!(csv.lines().count(), rows.len() + 1);
    let columns: Vec<&str> = csv.lines().next().expect("a heading").split(',').collect();
    let keys = rows[0].as_object().expect("an object").keys();
    assert_eq!(keys.filter(|key| !columns.contains(&key.as_str())).count(), 0);

    let page = fs::read_to_string(rig.path("report/report.html")).expect("a page");
    for text in ["COST: reference-sync", "Stages of an epoch", "Latency: from the end", "<svg"] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("http://") && !page.contains("<script"), "it asks nobody");
    let report = ["report/", "report/report.html", "report/rows.csv", "report/rows.jsonl"];
    assert_eq!(rig.tree(), report, "nothing else is left");
}

#[test]
fn file_is_counted_by_several_processes() {
    let rig = Rig::new();
    rig.file("lines.txt", "the tide\r\nd\u{e9}j\u{e0}  vu\rsea");
    let flags = "bench --corpus lines.txt --mib 1 -w 1 -n 2 --rounds 2 --rate 0 --scratch . \
                 --beside reference --report report -- --stop-timeout 50s";
    let ended = rig.run(flags).expect(0);
    let rows = rows(&rig);
    assert_eq!(rows.len(), 2, "{ended}");
    assert_eq!(
        (&rows[1]["program"], &rows[1]["rounds"]),
        (&"wordtide -n 2 -w 1".into(), &2.into())
    );
    assert_eq!(
        (&rows[1]["distinct"], &rows[1]["extra"]),
        (&6.into(), &"--stop-timeout 50s".into())
    );
}

#[test]
fn failing_program_ends_the_bench_with_its_words() {
    let rig = Rig::new();
    let flags = format!("{SMALL} --rate 0 --beside wc -- --parts 0");
    rig.run(&flags).expect(2).says(&["wordtide", "ended with", "give --parts from 1"]);
    assert_eq!(rig.tree(), [""; 0]);
}

#[test]
fn further_flags_that_change_counts_are_refused() {
    let rig = Rig::new();
    let cases = [
        ("--lowercase", "--lowercase"),
        ("-w 2", "-w"),
        ("--help", "--help"),
        ("-q", "--quiet"),
        ("--splt space", "--splt"),
    ];
    for (flags, says) in cases {
        rig.run(&format!("{SMALL} --report report -- {flags}")).expect(2).says(&[says]);
        assert_eq!(rig.tree(), [""; 0], "{flags}");
    }
}

#[test]
fn bad_start_keeps_the_earlier_report() {
    let rig = Rig::new();
    rig.file("empty", "");
    fs::create_dir(rig.path("report")).expect("a folder");
    rig.file("report/rows.csv", "earlier");
    rig.file("report/report.html", "earlier");
    let flags = "bench --scratch . --report report --mib 1 -w 1 --rounds 1 --rate 0 --corpus";
    rig.run(&format!("{flags} english,empty")).expect(78).says(&["empty is empty", "--corpus"]);
    for name in ["report/rows.csv", "report/report.html"] {
        assert_eq!(fs::read_to_string(rig.path(name)).expect("a file"), "earlier", "{name}");
    }
    fs::remove_file(rig.path("report/report.html")).expect("a file");
    fs::create_dir(rig.path("report/report.html")).expect("a folder");
    rig.run(&format!("{flags} english")).expect(78).says(&["report.html", "--report"]);
    let rows = fs::read_to_string(rig.path("report/rows.csv")).expect("a file");
    assert_eq!(rows, "earlier");
    let left = ["empty", "report/", "report/report.html/", "report/rows.csv"];
    assert_eq!(rig.tree(), left);
}

#[test]
fn signal_ends_bench_child_and_folder() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let rig = Rig::new();
        // The page of the program, at a port that was free just now.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let long = "bench --corpus english --mib 1 -w 1 --rounds 0 --rate 1k --seconds 600";
        let flags = format!("{long} --scratch . --report report -- --http {address}");
        let bench = rig.wordtide(&flags).start();
        let connect = || {
            std::thread::park_timeout(Duration::from_millis(10));
            TcpStream::connect(address).ok()
        };
        let mut page =
            std::iter::repeat_with(connect).take(6_000).flatten().next().expect("a page");
        page.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        bench.signal(signal);
        bench.end().expect(code).says(&["ended by a signal; the rows so far"]);
        // The end of the program closes the connection.
        let ended = page.read(&mut [0; 1]);
        let still = |error: &io::Error| error.kind() == ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(still), "the program goes on");
        let report = ["report/", "report/rows.csv", "report/rows.jsonl"];
        assert_eq!(rig.tree(), report);
    }
}

#[test]
fn unusable_flags_are_refused_before_anything_runs() {
    let rig = Rig::new();
    let cases = [
        ("--corpus englsh", 2, "--corpus"),
        ("--mib 0", 2, "--mib"),
        ("-w 0", 2, "-w"),
        ("-w 1,x", 2, "--threads"),
        ("-n 0", 2, "-n"),
        ("--rounds 0 --rate 0", 2, "--rounds"),
        ("--rate 5G", 2, "--rate"),
        ("--rate 1001M", 2, "--rate"),
        ("--rate 1", 2, "--rate"),
        ("--beside spark", 2, "--beside"),
        ("--journal maybe", 2, "--journal"),
        ("--figures --mib 1", 2, "--figures"),
        ("--interval 10", 2, "--interval"),
        ("--interval 1ms", 2, "--interval"),
        ("--scratch absent", 78, "--scratch"),
        ("--scratch . --report /dev/null/x", 78, "--report"),
        ("--scratch . --report report --corpus /dev/null", 2, "--corpus"),
    ];
    for (flags, code, says) in cases {
        rig.run(&format!("bench {flags}")).expect(code).says(&[says]);
        assert_eq!(rig.tree(), [""; 0], "{flags}");
    }
}
