//! The programs that `wordtide` is held against. This bench runs itself for them, so that all are
//! processes of their own and are measured alike.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use wordtide::differential_dataflow::input::Input;
use wordtide::internals::words::{PAD_BYTES, WordOptions, WordTable};
use wordtide::timely;

use super::Result;

/// Counts what comes from `port` as the program of this name; the counts go to the file `out`.
pub(crate) fn play(role: &str, port: u16, out: &str) -> Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    match role {
        "reference" => reference(stream, out),
        "naive" => naive(stream, out),
        _ => Err(format!("no program is called {role}").into()),
    }
}

fn row(out: &mut impl Write, word: &[u8], count: impl Display) -> std::io::Result<()> {
    out.write_all(word)?;
    writeln!(out, "\t{count}")
}

/// Read, count, write: one thread, one table, no epochs.
fn reference(mut stream: TcpStream, out: &str) -> Result<()> {
    const BLOCK_BYTES: usize = 256 << 10;
    let (mut table, options) = (WordTable::new(1), WordOptions::default());
    let (mut block, mut held) = (vec![0; BLOCK_BYTES + PAD_BYTES], 0);
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
    }
    block[held..held + PAD_BYTES].fill(0);
    table.add_block(&block, held, &options);
    let mut rows = Vec::new();
    let mut failed = Ok(());
    table.drain(|_, word, count| {
        failed = std::mem::replace(&mut failed, Ok(())).and_then(|()| row(&mut rows, word, count));
    });
    failed?;
    Ok(File::create(out)?.write_all(&rows)?)
}

/// What one writes first: every word a `String`, every word an update.
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
