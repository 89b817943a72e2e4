//! The forms of objects: Parquet, compression, and folders by date and hour.

use crate::oracle;
use crate::rig::{Output, Rig, Server, side_by_side};
use crate::store::oss_double::OssDouble;
use crate::store::oss_double::s3::S3_REGION;
use crate::store_program::{oss, program};

/// Words that a format could get wrong.
const TEXT: &[u8] =
    b"tide tide \xe2\x82\xac caf\xc3 \"quoted\" it's a,b \x00nul \xf0\x9f\x8c\x8a\n\n\
    tab\there  two blanks tide\n";

/// The forms beside plain text, each with the end of its parts' names.
const FORMS: [(&str, &str); 6] = [
    ("--format tsv --compress gzip", ".gz"),
    ("--format tsv --compress zstd", ".zst"),
    ("--format parquet", ".parquet"),
    ("--format parquet --compress gzip", ".parquet"),
    ("--format parquet --compress none", ".parquet"),
    ("--format tsv --compress none", ""),
];

/// Counts the words of a file in one epoch and returns the output.
fn count(rig: &Rig, flags: &str) -> Output {
    let run = format!("run {flags} --file in.txt --interval 24h --no-state --to out/c");
    rig.run(&run).expect(0);
    rig.output("out/c")
}

#[test]
fn every_form_holds_the_rows_of_text() {
    let expected = |dataflow: &str| {
        let rig = Rig::new();
        rig.file("in.txt", TEXT);
        count(&rig, &format!("{dataflow} --format tsv --parts 3")).only().parts.clone()
    };
    for dataflow in ["network_wordcount", "top_k", "line_archive"] {
        let expected = expected(dataflow);
        side_by_side(FORMS.to_vec(), |(form, extension)| {
            let stored = |threads: usize| {
                let rig = Rig::new();
                rig.file("in.txt", TEXT);
                let output = count(&rig, &format!("{dataflow} {form} --parts 3 -w {threads}"));
                assert_eq!(output.only().parts, expected, "{dataflow} {form}");
                output.only().stored.clone()
            };
            let first = stored(1);
            assert!(first.iter().all(|(name, _)| name.ends_with(extension)), "{form}");
            assert_eq!(stored(2), first, "{dataflow} {form}: other bytes with -w 2");
        });
    }
}

#[test]
fn long_parts_are_whole_in_every_form() {
    let text: String =
        (0..60_000).map(|n| format!("word-number-{n} {}\n", "x".repeat(n % 50))).collect();
    let rows = |form: &str| {
        let rig = Rig::new();
        rig.file("in.txt", &text);
        count(&rig, &format!("{form} --sort word --parts 2 -w 2")).only().parts.clone()
    };
    let expected = rows("--format tsv");
    assert!(expected.iter().all(|part| part.len() > 400_000), "more than a chunk");
    for (form, _) in FORMS {
        assert!(rows(form) == expected, "{form}");
    }
}

#[test]
fn empty_parts_are_files_that_can_be_read() {
    for (form, extension) in FORMS {
        for dataflow in ["network_wordcount", "line_archive"] {
            let rig = Rig::new();
            let flags = "--interval 24h --parts 2 --empty-epochs write --no-state --to out/c";
            rig.run(&format!("run {dataflow} {form} --stdin {flags}")).expect(0);
            // Reading them back decodes them.
            let output = rig.output("out/c");
            assert_eq!(output.only().parts, [b"", b""], "{form}");
            let is_file = output.only().stored.iter().all(|(_, bytes)| !bytes.is_empty());
            assert_eq!(is_file, !extension.is_empty(), "{form}");
        }
    }
}

#[test]
fn state_belongs_to_one_form() {
    let rig = Rig::new();
    rig.file("in.txt", "a b\n");
    let run = |form: &str| {
        let flags = "--interval 24h --parts 1 --state state --to out/c";
        rig.run(&format!("run --file in.txt {flags} {form}"))
    };
    run("--format tsv").expect(0);
    for (form, field) in [
        ("--format tsv --compress gzip", "compress"),
        ("--format parquet", "format"),
        ("--format tsv --layout hive", "layout"),
    ] {
        run(form).expect(78).says(&[field, "--state"]);
    }
    run("--format tsv --compress none").expect(0);
    assert_eq!(rig.output("out/c").epochs.len(), 2);
}

/// Returns year, month and day of a day after 1970-01-01, by counting.
fn date(mut day: u64) -> String {
    let is_leap = |year: u64| year.is_multiple_of(4); // until 2100
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    for (month, days) in
        [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate()
    {
        if day < days {
            return format!("{year}-{:02}-{:02}", month + 1, day + 1);
        }
        day -= days;
    }
    unreachable!("a year has 366 days at most")
}

#[test]
fn hive_folders_follow_the_zone() {
    const MINUTE_MS: u64 = 60_000;
    // Zones without daylight saving time.
    for (zone, ahead) in [("", 0), ("Asia/Kolkata", 330), ("asia/shanghai", 480)] {
        for to in ["out/c", "out/c/"] {
            let rig = Rig::new();
            rig.file("in.txt", "a b a\n");
            let zone = if zone.is_empty() { String::new() } else { format!("--time-zone {zone}") };
            let flags = format!("--layout hive {zone} --interval 1h --parts 1 --no-state");
            rig.run(&format!("run --file in.txt --format tsv {flags} --to {to}")).expect(0);
            let output = rig.output("out/c");
            let epoch = *output.epochs.keys().next().expect("an epoch");
            let minutes = epoch / MINUTE_MS - 60 + ahead;
            let (date, hour) = (date(minutes / 60 / 24), minutes / 60 % 24);
            let dir = format!("out/c/date={date}/hour={hour:02}/epoch={epoch}");
            let tree = rig.tree();
            assert!(tree.contains(&format!("{dir}/_SUCCESS")), "{dir}\n{tree:?}");
            assert_eq!(output.only().rows(), ["a\t2", "b\t1"]);
        }
    }
}

#[test]
fn hive_restart_within_interval_opens_next_name() {
    let rig = Rig::new();
    rig.file("in.txt", "a\n");
    for runs in 1..=3 {
        let zone = ["UTC", "Asia/Tokyo", "America/New_York"][runs - 1];
        let flags = format!("--layout hive --time-zone {zone} --interval 24h --no-state");
        rig.run(&format!("run --file in.txt --format tsv {flags} --to out/c/")).expect(0);
        assert_eq!(rig.output("out/c").epochs.len(), runs, "each run has an epoch of its own");
    }
}

#[test]
fn hive_output_has_one_writer() {
    let rig = Rig::new();
    let mut first = rig
        .wordtide("run --stdin --layout hive --interval 50ms --no-state --to out/c")
        .stdin(std::process::Stdio::piped())
        .start();
    let stdin = first.stdin();
    first.wait_for("committed");
    let owner = format!("process {}", first.pid());
    rig.file("in.txt", "a\n");
    for zone in ["UTC", "Asia/Tokyo"] {
        let flags = format!("--layout hive --time-zone {zone} --no-state --to out/c/");
        rig.run(&format!("run --file in.txt {flags}")).expect(78).says(&[&owner, "--to"]);
    }
    drop(stdin);
    first.end().expect(0);
}

/// The objects of a bucket as the output below `prefix`.
fn stored(double: &OssDouble, prefix: &str) -> Output {
    let bucket = Rig::new();
    for (key, body) in double.objects() {
        let path = bucket.path(key);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("room");
        std::fs::write(path, body).expect("room");
    }
    bucket.output(prefix)
}

#[test]
fn bucket_gets_hive_folders_and_types() {
    side_by_side(vec!["oss", "s3"], |kind| {
        let (rig, double) = (Rig::new(), OssDouble::start());
        rig.file("in.txt", "a b a\n");
        for (runs, form, content_type) in [
            (1, "--format parquet", "application/vnd.apache.parquet"),
            (2, "--format tsv --compress gzip", "application/gzip"),
            (3, "--format tsv --compress zstd", "application/zstd"),
        ] {
            // Each is another job, and takes the name after the one before.
            let flags = format!("{form} --layout hive --time-zone Asia/Tokyo --take-over");
            let run = format!("run --file in.txt --interval 24h --no-state --parts 2 {flags}");
            let ended = match kind {
                "oss" => oss(&rig, &double, &format!("{run} --to oss://demo/taxi/c/")).start(),
                _ => {
                    let endpoint = format!("--s3-region {S3_REGION} --s3-endpoint");
                    let to = format!("{endpoint} http://{} --to s3://demo/taxi/c", double.address);
                    program(&rig, &format!("{run} {to}")).start()
                }
            };
            ended.end().expect(0);
            let output = stored(&double, "taxi/c");
            assert_eq!(output.epochs.len(), runs, "{kind}: {:?}", double.objects().keys());
            assert_eq!(output.newest().counts(), oracle::count(b"a b a", oracle::words_python));
            let types = double.types();
            let of_parts = types.iter().filter(|(_, types)| types[0] == content_type);
            assert_eq!(of_parts.count(), 2, "{types:?}");
            assert!(types.values().all(|types| types[1].is_empty()), "{types:?}");
        }
        let beside = |key: &String| key.starts_with("taxi/c/date=") || key.contains("/_wordtide/");
        assert!(double.objects().keys().all(beside), "{:?}", double.objects().keys());
        assert!(double.objects().keys().any(|key| key.starts_with("taxi/_wordtide/owner-")));
    });
}

#[test]
fn killed_hive_job_counts_its_lines_once() {
    let (rig, double, server) = (Rig::new(), OssDouble::start(), Server::new());
    let flags = "--interval 100ms --empty-epochs skip --format parquet --layout hive \
                 --time-zone Europe/Berlin";
    let mut sent = String::new();
    for life in 1..=3 {
        let run = format!("run {} {flags} --parts 2 -w {life} --state state", server.flag());
        let job = oss(&rig, &double, &format!("{run} --to oss://demo/taxi/c")).start();
        let mut peer = server.accept();
        for round in 0..3 {
            let lines: String = (0..50).map(|n| format!("{life}-{round}-{n} again\n")).collect();
            peer.send(&lines);
            sent.push_str(&lines);
            // The lines are in the journal, or in a committed epoch: none was lost in a socket.
            job.lives_until_commits(round + 1);
        }
        job.wait_for_lines(100);
        match life {
            3 => drop(job.stop().expect(0)),
            _ => drop(job), // kills it
        }
    }
    let output = stored(&double, "taxi/c");
    assert!(output.uncommitted.is_empty(), "{:?}", output.uncommitted);
    let (counts, expected) =
        (output.counts(), oracle::count(sent.as_bytes(), oracle::words_python));
    // A kill may have come before the last lines were read.
    let doubled = counts.iter().find(|(word, count)| expected.get(*word) < Some(count));
    assert_eq!(doubled, None);
    assert!(counts[&b"again"[..]] >= 300, "lines that were told committed are lost: {counts:?}");
}
