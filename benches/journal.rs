//! The cost of the journal: append, sync, restart, replay. Prints one row a figure.
//!
//! ```text
//! cargo bench --bench journal -- [FOLDER]      default: the folder for temporary files
//! ```
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use wordtide::internals::journal::{
    Append, EpochEnd, Facts, Journal, JournalSettings, Position, Recovery, Resume, SyncPolicy,
};

fn main() {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(folder).expect("a folder to write to");
    for record_bytes in [256 << 10, 64 << 10, 4 << 10] {
        for sync_each in [u64::MAX, 64 << 20] {
            append(&folder.path().join("append"), record_bytes, sync_each);
        }
    }
    for bytes in [4 << 10, 1 << 20, 16 << 20] {
        sync(&folder.path().join("sync"), bytes);
    }
    restart(&folder.path().join("restart"));
}

fn open(folder: &Path, journal_bytes_max: u64, sync: SyncPolicy) -> (Journal, Recovery) {
    let settings = JournalSettings { journal_bytes_max, sync, ..JournalSettings::default() };
    let facts = Facts { source: "bench".to_owned(), parts: 2, interval_ms: 1000 };
    Journal::open(folder, settings, facts).expect("the journal opens")
}

fn mark(journal: &mut Journal, epoch: u64) {
    let cut = journal.tail();
    let mark = EpochEnd { epoch, next_epoch: epoch + 1, cut, resume: Resume::at(cut) };
    let taken = journal.append_epoch_end(&mark).expect("a mark");
    assert!(matches!(taken, Append::Stored { .. }));
}

/// Appends 512 MiB; every `sync_each` bytes an epoch is marked, synced elsewhere and committed.
fn append(folder: &Path, record_bytes: usize, sync_each: u64) {
    let total: u64 = 512 << 20;
    let (mut journal, _) = open(folder, 4 << 30, SyncPolicy::Epoch);
    let bytes = vec![b'w'; record_bytes];
    let (wake, woken) = std::sync::mpsc::sync_channel::<()>(16);
    let syncer = journal.syncer();
    let thread = std::thread::spawn(move || {
        while woken.recv().is_ok() {
            syncer.sync().expect("a sync");
            while syncer.tidy().expect("room") {}
        }
    });
    let began = Instant::now();
    let (mut done, mut epoch, mut since) = (0, 0, 0);
    while done < total {
        let taken = journal.append_data(1, &bytes).expect("an append");
        assert!(matches!(taken, Append::Stored { .. }), "the cap is large enough");
        done += record_bytes as u64;
        since += record_bytes as u64;
        if since >= sync_each {
            since = 0;
            epoch += 1;
            mark(&mut journal, epoch);
            if epoch > 2 {
                journal.append_committed(epoch - 2).expect("a done");
            }
            wake.try_send(()).ok();
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(wake);
    thread.join().expect("the syncer ends");
    let sync_each_name = match sync_each {
        u64::MAX => "never".to_owned(),
        bytes => bytes.to_string(),
    };
    println!(
        "append record_bytes={record_bytes} synced_every={} gb_per_s={:.2}",
        sync_each_name,
        total as f64 / seconds / 1e9
    );
    drop(journal);
    std::fs::remove_dir_all(folder).expect("the folder goes");
}

fn sync(folder: &Path, bytes: usize) {
    let (mut journal, _) = open(folder, 4 << 30, SyncPolicy::Epoch);
    let record = vec![b'w'; bytes.min(256 << 10)];
    let syncer = journal.syncer();
    let mut times = Vec::new();
    for epoch in 1..=31 {
        for _ in 0..bytes / record.len() {
            let taken = journal.append_data(1, &record).expect("an append");
            assert!(matches!(taken, Append::Stored { .. }));
        }
        mark(&mut journal, epoch);
        let began = Instant::now();
        syncer.sync().expect("a sync");
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "sync bytes={bytes} median_ms={:.2} p90_ms={:.2} max_ms={:.2}",
        times[15], times[27], times[30]
    );
    drop(journal);
    std::fs::remove_dir_all(folder).expect("the folder goes");
}

/// A journal filled to its cap, 200 epochs not committed.
fn restart(folder: &Path) {
    let (mut journal, _) = open(folder, 4 << 30, SyncPolicy::Epoch);
    let record = vec![b'w'; 256 << 10];
    let mut appended = 0u64;
    let syncer = journal.syncer();
    while let Append::Stored { .. } = journal.append_data(1, &record).expect("an append") {
        appended += 1;
        if appended.is_multiple_of(80) {
            mark(&mut journal, appended);
            syncer.sync().expect("a sync");
        }
    }
    drop((journal, syncer));
    let began = Instant::now();
    let (journal, recovery) = open(folder, 4 << 30, SyncPolicy::Epoch);
    println!(
        "restart held_bytes={} open_epochs={} ms={:.1}",
        recovery.tail.0,
        recovery.open_epochs.len(),
        began.elapsed().as_secs_f64() * 1e3
    );
    let began = Instant::now();
    let mut reader = journal.reader(Position(0));
    while let Some(entry) = reader.next().expect("a sound journal") {
        if entry.position.0 > 2 << 30 {
            break;
        }
    }
    println!(
        "replay gb_per_s={:.2}",
        reader.position().0 as f64 / began.elapsed().as_secs_f64() / 1e9
    );
}
