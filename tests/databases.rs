//! SQLite as the output: whole epochs, each once, whatever crashes; one job a table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};

use crate::rig::{Ended, Rig, Server};

/// Opens a database for reading.
fn open(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    Connection::open_with_flags(path, flags).expect("a database")
}

/// Returns the sum of all epochs by key: the word and its count.
fn words(path: &Path, table: &str) -> BTreeMap<Vec<u8>, (Vec<u8>, i64)> {
    let connection = open(path);
    let sql = format!("SELECT word_key, CAST(word AS BLOB), sum(count) FROM {table} GROUP BY 1");
    let mut statement = connection.prepare(&sql).expect("a table");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))));
    rows.expect("rows").collect::<Result<_, _>>().expect("rows of these types")
}

/// Returns one number.
fn number(path: &Path, sql: &str) -> i64 {
    open(path).query_row(sql, [], |row| row.get(0)).expect("a number")
}

/// Runs a job until its source ends, which sends `text`; crashes at `point` if one is given.
fn once(rig: &Rig, server: &Server, flags: &str, text: &str, point: &str) -> Ended {
    let run = format!("run {} --interval 10m --once {flags}", server.flag());
    let program = rig.wordtide(&run).env("WORDTIDE_CRASH_POINT", point).start();
    if program.lives_until("connected") {
        let mut peer = server.accept();
        peer.send(text);
        peer.fin();
    }
    program.end()
}

#[test]
fn nasty_words_keep_their_bytes() {
    let long = "x".repeat(1 << 20);
    let plain = [
        "a",
        "A",
        "á",
        "a\t",
        "a\u{a0}",
        "\u{1f30a}",
        "it's",
        "\"q\"",
        "back\\slash",
        "\\N",
        "\\.",
        "a\0b",
        "%s",
        "?1",
        &long,
    ];
    let rig = Rig::new();
    let mut text = plain.join(" ").into_bytes();
    text.extend_from_slice(b" bad\xff\n");
    rig.file("in.txt", text);
    rig.run("run --file in.txt --to sqlite:deep/er/words.db?table=odd%20%22name").expect(0);
    let found = words(&rig.path("deep/er/words.db"), "\"odd \"\"name\"");
    let mut expected: Vec<&str> = plain.to_vec();
    expected.push("bad\u{fffd}");
    assert_eq!(found.len(), expected.len(), "no two merge");
    for word in expected {
        let key = Sha256::digest(word).to_vec();
        assert_eq!(found.get(&key), Some(&(word.as_bytes().to_vec(), 1)), "{word:.20}");
    }
}

#[test]
fn crashes_at_each_step_count_once() {
    let (rig, server) = (Rig::new(), Server::new());
    let points =
        ["output.before_put", "output.after_put", "output.before_marker", "output.after_marker"];
    let lines = |life: usize| -> String {
        (0..50).map(|number| format!("w{life}-{number} every\n")).collect()
    };
    for (life, point) in points.iter().enumerate() {
        // Other workers in each life, with the parts of the first.
        let flags = format!("--to sqlite:c.db --state s --threads {}", life % 2 + 1);
        let ended = once(&rig, &server, &flags, &lines(life), point);
        assert_eq!(ended.code(), None, "{point}: {ended}");
        // A life that ends well: the next one dies at its own epoch, and not while it recovers.
        once(&rig, &server, "--to sqlite:c.db --state s --threads 2", "", "").expect(0);
    }
    let found = words(&rig.path("c.db"), "counts");
    assert_eq!(found.len(), 4 * 50 + 1);
    let total: i64 = found.values().map(|(_, count)| count).sum();
    assert_eq!(total, 2 * 4 * 50, "each word once, and one of them on every line");
    let unmarked = "SELECT count(*) FROM counts WHERE epoch NOT IN (SELECT epoch FROM \
                    wordtide_epochs WHERE output = 'counts')";
    assert_eq!(number(&rig.path("c.db"), unmarked), 0);
}

/// Reads the database again and again until `done`; an epoch with a marker has all its rows at
/// once, and never changes. Returns the number of epochs seen.
fn poll(path: PathBuf, done: &AtomicBool) -> usize {
    let sql = "SELECT e.epoch, e.rows, count(c.epoch), coalesce(sum(c.count), 0) FROM \
               wordtide_epochs e LEFT JOIN counts c ON c.epoch = e.epoch GROUP BY e.epoch";
    let mut seen: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    while !done.load(Ordering::Relaxed) {
        let Ok(connection) = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        else {
            continue;
        };
        // Before the first epoch the tables are not there.
        let Ok(mut statement) = connection.prepare(sql) else { continue };
        let rows = statement.query_map([], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get(3)?))
        });
        for (epoch, rows, found, sum) in rows.expect("rows").flatten() {
            assert_eq!(rows, found, "epoch {epoch} is seen whole");
            let before = seen.entry(epoch).or_insert((found, sum));
            assert_eq!(*before, (found, sum), "epoch {epoch} does not change");
        }
    }
    seen.len()
}

#[test]
fn readers_never_see_part_of_an_epoch() {
    let (rig, server, done) = (Rig::new(), Server::new(), AtomicBool::new(false));
    let path = rig.path("c.db");
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| poll(path.clone(), &done));
        for threads in [1, 2] {
            let flags = "--interval 20ms --parts 3 --to sqlite:c.db --state s --empty-epochs skip";
            let run = format!("run {} {flags} --threads {threads}", server.flag());
            let program = rig.wordtide(&run).start();
            let mut peer = server.accept();
            for chunk in 0..8 {
                let text: String = (0..500).map(|word| format!("{chunk}-{word}\n")).collect();
                peer.send(text);
                program.wait_for_lines(500 * (chunk + 1));
            }
            // A kill between two epochs: all that was committed stays.
            drop(program);
        }
        done.store(true, Ordering::Relaxed);
        reader.join().expect("the reader saw nothing wrong")
    });
    assert!(seen > 0, "the reader saw epochs");
    let total = number(&path, "SELECT sum(count) FROM counts");
    assert_eq!(total, 2 * 8 * 500);
}

#[test]
fn upsert_holds_newest_totals_after_crashes() {
    let (rig, server) = (Rig::new(), Server::new());
    let run = |text: &str, point: &str| {
        let flags = "--to sqlite:t.db --write upsert --state s";
        let command = format!("run running_totals {} --interval 50ms {flags}", server.flag());
        let program = rig.wordtide(&command).env("WORDTIDE_CRASH_POINT", point).start();
        let mut peer = server.accept();
        peer.send(text);
        if point.is_empty() {
            program.wait_for_lines(text.lines().count() as u64);
            program.stop().expect(0);
        } else {
            // The first epoch that ends there may have no lines.
            program.end();
        }
    };
    run("a b\n", "");
    let first = number(&rig.path("t.db"), "SELECT epoch FROM counts WHERE word = 'b'");
    run("a\n", "");
    run("", "output.before_marker");
    run("c\n", "");
    let found: Vec<(Vec<u8>, i64)> = words(&rig.path("t.db"), "counts").into_values().collect();
    let mut found: Vec<_> =
        found.iter().map(|(word, count)| (String::from_utf8_lossy(word), *count)).collect();
    found.sort();
    assert_eq!(found, [("a".into(), 2), ("b".into(), 1), ("c".into(), 1)]);
    let last = number(&rig.path("t.db"), "SELECT epoch FROM counts WHERE word = 'b'");
    assert_eq!(first, last, "the epoch of the last change");
}

#[test]
fn upsert_empties_what_has_left_the_window() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--to sqlite:w.db --write upsert --no-state --window 100ms --slide 50ms";
    let run = format!("run sliding_windows {} --interval 50ms {flags}", server.flag());
    let program = rig.wordtide(&run).start();
    server.accept().send("gone\n");
    program.wait_for_lines(1);
    program.wait_until("three epochs after that", |lines| {
        let with_line = lines.iter().position(|line| line.contains("committed: 1 lines"))?;
        (lines.len() > with_line + 3).then_some(())
    });
    program.stop().expect(0);
    assert_eq!(number(&rig.path("w.db"), "SELECT count(*) FROM counts"), 0);
}

#[test]
fn lines_are_numbered_from_zero_each_epoch() {
    let rig = Rig::new();
    rig.file("in.txt", b"one line\n\nbad \xff\n");
    rig.run("run line_archive --file in.txt --to sqlite:l.db --threads 2").expect(0);
    let connection = open(&rig.path("l.db"));
    let mut statement = connection
        .prepare("SELECT row_number, line FROM lines ORDER BY epoch, 1")
        .expect("a table");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    let rows: Vec<(i64, Vec<u8>)> = rows.collect::<Result<_, _>>().expect("numbers and bytes");
    let expected = [(0, &b"one line"[..]), (1, b""), (2, b"bad \xff")];
    assert_eq!(rows, expected.map(|(number, line)| (number, line.to_vec())));
}

#[test]
fn processes_and_workers_make_same_rows() {
    let rig = Rig::new();
    let text: String = (0..3000).map(|word| format!("w{} ", word % 700)).collect();
    rig.file("in.txt", format!("{text}\n"));
    let mut tables = Vec::new();
    for (table, workers) in [("one", "-w 1"), ("two", "-w 2"), ("three", "-n 2")] {
        let flags = format!("--to sqlite:c.db?table={table} --no-state {workers}");
        rig.run(&format!("run --file in.txt {flags}")).expect(0);
        tables.push(words(&rig.path("c.db"), table));
    }
    assert_eq!(tables[0].len(), 701, "with the empty word after the last blank");
    assert!(tables.iter().all(|table| *table == tables[0]));
}

#[test]
fn tables_of_others_are_refused_before_any_write() {
    let rig = Rig::new();
    rig.file("in.txt", "a b a\n");
    let path = rig.path("c.db");
    let connection = Connection::open(&path).expect("a database");
    connection
        .execute_batch("CREATE TABLE counts (id INTEGER PRIMARY KEY); CREATE TABLE \"Mine\" (x);")
        .expect("tables");
    let before = std::fs::read(&path).expect("a file");
    let refused = rig.run("run --file in.txt --to sqlite:c.db --no-state").expect(78);
    refused.says(&["counts", "cannot be used", "?table="]);
    assert_eq!(std::fs::read(&path).expect("a file"), before, "nothing was written");
    let own = "run --file in.txt --no-state --to sqlite:c.db?table=own";
    rig.run(own).expect(0);
    rig.run(&format!("{own} --write upsert")).expect(78).says(&["--write append"]);
    rig.run(own).expect(78).says(&["another job's", "with state", "--take-over"]);
    assert_eq!(number(&path, "SELECT count(*) FROM wordtide_epochs"), 1);
    rig.run(&format!("{own} --take-over")).expect(0);
    assert_eq!(number(&path, "SELECT sum(count) FROM own"), 6);
    rig.file("text.db", "this is no database, and it is long enough to be looked at");
    rig.run("run --file in.txt --to sqlite:text.db --no-state").expect(78).says(&["--to"]);
}

#[test]
fn tables_that_differ_in_case_are_one() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = format!("run {} --interval 50ms", server.flag());
    let first = rig.wordtide(&format!("{flags} --to sqlite:x.db?table=Counts --state a")).start();
    let mut peer = server.accept();
    peer.send("a\n");
    first.wait_for_lines(1);
    rig.file("in.txt", "b\n");
    let other = rig.run("run --file in.txt --to sqlite:x.db?table=counts --state b").expect(78);
    other.says(&["counts", "another job"]);
    first.stop().expect(0);
    assert_eq!(number(&rig.path("x.db"), "SELECT count(*) FROM wordtide_owners"), 1);
}

#[test]
fn removed_database_is_made_again() {
    let (rig, server) = (Rig::new(), Server::new());
    for word in ["a", "b"] {
        let flags = "--to sqlite:x.db --state s";
        once(&rig, &server, flags, &format!("{word}\n"), "").expect(0);
        let found = words(&rig.path("x.db"), "counts").into_values().map(|(word, _)| word);
        assert_eq!(found.collect::<Vec<_>>(), [word.as_bytes()]);
        std::fs::remove_file(rig.path("x.db")).expect("a file");
    }
}

#[test]
fn running_job_is_fenced_by_take_over() {
    let (rig, server) = (Rig::new(), Server::new());
    let flags = "--interval 50ms --to sqlite:c.db";
    let first = rig.wordtide(&format!("run {} {flags} --state a", server.flag())).start();
    server.accept().send("mine\n");
    first.wait_for_lines(1);
    rig.file("in.txt", "yours\n");
    let second = format!("run --file in.txt {flags} --state b");
    rig.run(&second).expect(78).says(&["is owned by", "--take-over"]);
    rig.run(&format!("{second} --take-over")).expect(0);
    first.end().expect(78).says(&["taken over by", "published nothing since"]);
    assert_eq!(words(&rig.path("c.db"), "counts").len(), 2);
}

#[test]
fn flags_without_meaning_for_databases_are_refused() {
    let rig = Rig::new();
    rig.file("in.txt", "a\n");
    for (flags, names) in [
        ("--to sqlite:c.db --format tsv", "--format"),
        ("--to sqlite:c.db --suffix txt", "--suffix"),
        ("--to sqlite:c.db --sort word", "--sort"),
        ("--to sqlite:c.db --compress gzip", "--compress"),
        ("--to sqlite:c.db --layout hive", "--layout"),
        ("--to out/c --write upsert", "--write does nothing here"),
        ("--to postgres://me:secret@localhost/db", "--to"),
        ("--to sqlite:c.db?table=", "table"),
    ] {
        rig.run(&format!("run --file in.txt {flags}")).expect(2).says(&[names]);
    }
    let archive = "run line_archive --file in.txt --to sqlite:c.db --write upsert";
    rig.run(archive).expect(2).says(&["--write append"]);
    assert_eq!(rig.tree(), ["in.txt"], "nothing was made");
}

#[test]
fn check_reports_database_and_makes_no_table() {
    let rig = Rig::new();
    let ended = rig.run("check --to sqlite:c.db").expect(0);
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    for said in ["sqlite:c.db", "SQLite", "counts will be made", "result"] {
        assert!(text.contains(said), "{text}");
    }
    assert!(rig.tree().is_empty(), "no file was made: {:?}", rig.tree());
    rig.run("check --to sqlite:c.db/below/c.db").expect(0);
    rig.file("c.db", "");
    rig.run("check --to sqlite:c.db/below/c.db").expect(78).says(&["c.db is no folder", "--to"]);
    rig.run("check --to sqlite:c.db").expect(0);
    assert_eq!(number(&rig.path("c.db"), "SELECT count(*) FROM sqlite_master"), 0);
}
