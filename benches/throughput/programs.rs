//! The programs that `wordtide` is held against. This bench runs itself for them, so that all are
//! processes of their own and are measured alike.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wordtide::differential_dataflow::input::Input;
use wordtide::internals::words::{PAD_BYTES, WordOptions, WordTable};
use wordtide::timely;

use super::Result;

/// Counts what comes from `port` as the program of this name; the counts go to the file `out`.
pub(crate) fn play(role: &str, port: u16, out: &str, interval: &str) -> Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    match role {
        "reference" | "reference-sync" => {
            let rows = RowFile::create(out, role == "reference-sync")?;
            reference(stream, rows, length(interval)?)
        }
        "naive" => naive(stream, out),
        _ => Err(format!("no program is called {role}").into()),
    }
}

/// Parses `10s` or `500ms`.
fn length(interval: &str) -> Result<Duration> {
    let ms = match interval.strip_suffix("ms") {
        Some(ms) => ms.parse()?,
        None => {
            1_000 * interval.strip_suffix('s').ok_or("--interval is in s or ms")?.parse::<u64>()?
        }
    };
    Ok(Duration::from_millis(ms))
}

fn row(out: &mut impl Write, word: &[u8], count: impl Display) -> std::io::Result<()> {
    out.write_all(word)?;
    writeln!(out, "\t{count}")
}

/// Read, count, write: one thread, one table, which is written as often as epochs end.
fn reference(mut stream: TcpStream, mut rows: RowFile, every: Duration) -> Result<()> {
    const BLOCK_BYTES: usize = 256 << 10;
    let (mut table, options) = (WordTable::new(1), WordOptions::default());
    let (mut block, mut held) = (vec![0; BLOCK_BYTES + PAD_BYTES], 0);
    let mut due = Instant::now() + every;
    loop {
        if held + PAD_BYTES == block.len() {
            block.resize(2 * block.len(), 0);
        }
        let room = block.len() - PAD_BYTES;
        let read = stream.read(&mut block[held..room])?;
        if read == 0 {
            break;
        }
        let filled = held + read;
        let Some(last) = memchr::memrchr(b'\n', &block[held..filled]) else {
            held = filled;
            continue;
        };
        let end = held + last + 1;
        // The pad must be zeros, and the beginning of the next line may lie there.
        let rest = block[end..filled].to_vec();
        block[end..end + PAD_BYTES].fill(0);
        table.add_block(&block, end, &options);
        block[..rest.len()].copy_from_slice(&rest);
        held = rest.len();
        if Instant::now() >= due {
            rows.write(&mut table)?;
            due = Instant::now() + every;
        }
    }
    block[held..held + PAD_BYTES].fill(0);
    table.add_block(&block, held, &options);
    rows.write(&mut table)
}

/// The file of the reference, which gets the rows of one table after the other.
struct RowFile {
    file: File,
    syncs: bool,
    /// Rows that are not written yet.
    rows: Vec<u8>,
}

impl RowFile {
    const ROWS_BYTES: usize = 1 << 20;

    /// Creates the file. With `syncs`, each table is durable when it is written.
    fn create(path: &str, syncs: bool) -> Result<RowFile> {
        Ok(RowFile {
            file: File::create(path)?,
            syncs,
            rows: Vec::with_capacity(2 * Self::ROWS_BYTES),
        })
    }

    /// Writes the words of a table and empties it.
    fn write(&mut self, table: &mut WordTable) -> Result<()> {
        let mut failed = Ok(());
        table.drain(|_, word, count| {
            self.row(word, count);
            if self.rows.len() >= Self::ROWS_BYTES && failed.is_ok() {
                failed = self.flush();
            }
        });
        failed?;
        self.flush()?;
        if self.syncs {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Appends a row. The digits are written from the last.
    fn row(&mut self, word: &[u8], mut count: u64) {
        self.rows.extend_from_slice(word);
        let (mut tail, mut first) = ([0; 22], 21);
        tail[first] = b'\n';
        loop {
            first -= 1;
            tail[first] = b'0' + (count % 10) as u8;
            count /= 10;
            if count == 0 {
                break;
            }
        }
        tail[first - 1] = b'\t';
        self.rows.extend_from_slice(&tail[first - 1..]);
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let written = self.file.write_all(&self.rows);
        self.rows.clear();
        written
    }
}

/// The obvious program: every word a `String`, every word an update.
fn naive(stream: TcpStream, out: &str) -> Result<()> {
    let lines = Mutex::new(Some(BufReader::new(stream).lines()));
    let rows = Arc::new(Mutex::new(BufWriter::new(File::create(out)?)));
    let written = Arc::clone(&rows);
    let guards = timely::execute(timely::Config::thread(), move |worker| {
        let rows = Arc::clone(&written);
        let mut input = worker.dataflow::<u64, _, _>(|scope| {
            let (input, lines) = scope.new_collection::<String, isize>();
            lines
                .flat_map(|line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
                .count()
                .inspect(move |((word, count), _, _)| {
                    let mut rows = rows.lock().expect("nobody panicked");
                    row(&mut *rows, word.as_bytes(), count).expect("a row can be written");
                });
            input
        });
        let lines = lines.lock().expect("nobody panicked").take().expect("there is one worker");
        for line in lines {
            input.insert(line.expect("text comes from the socket"));
        }
        input.close();
        while worker.step_or_park(None) {}
    })?;
    for joined in guards.join() {
        joined?;
    }
    Ok(rows.lock().map_err(|_| "the program panicked")?.flush()?)
}
