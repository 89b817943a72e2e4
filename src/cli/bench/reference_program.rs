//! The reference: one thread that reads, counts in the same table, and writes the table as often as
//! epochs end. It is as fast as a program without a dataflow can be.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::failed;
use crate::error::Result;
use crate::words::{PAD_BYTES, RangeLists, Ranges, Ranging, WordOptions, WordTable};

/// Bytes of one read.
const BLOCK_BYTES: usize = 256 << 10;

/// Counts the lines from `stream`. Every `every` the counts so far are appended to the file `out`;
/// with `syncs` they are durable then.
///
/// # Errors
///
/// `Failed` if the lines cannot be read or the counts cannot be written.
pub fn count(stream: TcpStream, out: &Path, every: Duration, syncs: bool) -> Result<()> {
    let rows = CountFile::create(out, syncs);
    let counted = rows.and_then(|rows| count_to(stream, rows, every));
    counted.map_err(|error| failed("the reference cannot count", error))
}

/// Counts the lines of a socket in one table, and writes it whenever an epoch's time has passed.
fn count_to(mut stream: TcpStream, mut rows: CountFile, every: Duration) -> io::Result<()> {
    let mut table = OneTable::default();
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
        table.add_block(&block, end);
        block[..rest.len()].copy_from_slice(&rest);
        held = rest.len();
        if Instant::now() >= due {
            rows.write(&mut table)?;
            due = Instant::now() + every;
        }
    }
    block[held..held + PAD_BYTES].fill(0);
    table.add_block(&block, held);
    rows.write(&mut table)
}

/// The table of one thread. It turns to ranges at the same number of words as a worker of the
/// program, but keeps none of them for the next drain, which favours the program with short epochs.
#[derive(Default)]
struct OneTable {
    table: WordTable,
    options: WordOptions,
    words: u64,
    listed: Option<(Ranges, RangeLists)>,
}

impl OneTable {
    /// Number of distinct words from which words are counted by ranges.
    const LIST_WORDS_MIN: usize = 5 << 16;

    /// Counts the words of a padded block.
    fn add_block(&mut self, padded: &[u8], text_len: usize) {
        let distinct = self.table.len();
        if distinct >= Self::LIST_WORDS_MIN && self.words < 32 * distinct as u64 {
            let (ranging, table) = (Ranging::new(1), &mut self.table);
            let (ranges, mut lists) = (Ranges::new(ranging, 0), RangeLists::new(ranging, 1));
            table.choose_frequent();
            lists.set_frequent(table.frequent().clone());
            table.drain(|hash, word, count| ranges.add_word(hash, word, count));
            self.listed = Some((ranges, lists));
        }
        self.words += match &mut self.listed {
            Some((ranges, lists)) => {
                lists.add_block(padded, text_len, &self.options, &mut &*ranges).words
            }
            None => self.table.add_block(padded, text_len, &self.options).words,
        };
    }

    /// Calls `emit` with every word and its count, and removes them.
    fn drain(&mut self, emit: impl FnMut(u64, &[u8], u64)) {
        self.words = 0;
        match self.listed.take() {
            Some((ranges, mut lists)) => {
                lists.flush(&mut &ranges);
                drop(lists);
                ranges.drain(ranges.share(0, 1), emit);
            }
            None => self.table.drain(emit),
        }
    }
}

/// The file of the reference, which gets the rows of one table after the other.
struct CountFile {
    /// The file, to whose end rows are written.
    file: File,
    /// True if each table is durable when it is written.
    syncs: bool,
    /// Rows that are not written yet.
    rows: Vec<u8>,
}

impl CountFile {
    /// The size of a write.
    const ROWS_BYTES: usize = 1 << 20;

    /// Creates the file. With `syncs`, each table is durable when it is written.
    fn create(path: &Path, syncs: bool) -> io::Result<CountFile> {
        let rows = Vec::with_capacity(2 * Self::ROWS_BYTES);
        Ok(CountFile { file: File::create(path)?, syncs, rows })
    }

    /// Writes the words of a table and empties it.
    fn write(&mut self, table: &mut OneTable) -> io::Result<()> {
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

    fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.rows);
        self.rows.clear();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn reference_counts_lines_of_any_blocks() {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("rows");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let line = format!("{} tide", "x".repeat(BLOCK_BYTES));
        let sent = format!("the sea\n{line}\nthe");
        let sender = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.write_all(sent.as_bytes()).expect("a reader");
        });
        let stream = TcpStream::connect(address).expect("the sender");
        count(stream, &out, Duration::from_secs(3600), true).expect("counts");
        sender.join().expect("all was sent");
        let rows = std::fs::read_to_string(out).expect("rows");
        let mut short: Vec<&str> = rows.lines().filter(|row| row.len() < 20).collect();
        short.sort_unstable();
        assert_eq!(short, ["sea\t1", "the\t2", "tide\t1"]);
        assert_eq!(rows.lines().count(), 4);
    }
}
