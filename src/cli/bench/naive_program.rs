//! The program that one writes first: each word a `String`, each word an update of differential.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use differential_dataflow::input::Input;

use super::super::failed;
use crate::error::{Error, ErrorKind, Result};

/// Counts the lines from `stream` and writes the counts to the file `out`.
///
/// # Errors
///
/// `Failed` if the lines cannot be read or the counts cannot be written.
pub fn count(stream: TcpStream, out: &Path) -> Result<()> {
    let cannot = |error: io::Error| failed("cannot write the counts", error);
    let rows = Arc::new(Mutex::new(BufWriter::new(File::create(out).map_err(cannot)?)));
    let lines = Mutex::new(Some(BufReader::new(stream).lines()));
    let (written, error) = (Arc::clone(&rows), Arc::<Mutex<Option<io::Error>>>::default());
    let noted = Arc::clone(&error);
    let guards = timely::execute(timely::Config::thread(), move |worker| {
        let (rows, noted) = (Arc::clone(&written), Arc::clone(&noted));
        let note = move |error| lock(&noted).get_or_insert(error).kind();
        let note_row = note.clone();
        let mut input = worker.dataflow::<u64, _, _>(|scope| {
            let (input, lines) = scope.new_collection::<String, isize>();
            lines
                .flat_map(|line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
                .count()
                .inspect(move |((word, count), _, _)| {
                    if let Err(error) = writeln!(lock(&rows), "{word}\t{count}") {
                        note_row(error);
                    }
                });
            input
        });
        for line in lock(&lines).take().into_iter().flatten() {
            match line {
                Ok(line) => input.insert(line),
                Err(error) => drop(note(error)),
            }
        }
        input.close();
        while worker.step_or_park(None) {}
    });
    let guards = guards.map_err(|error| Error::new(ErrorKind::Failed, error))?;
    for joined in guards.join() {
        joined.map_err(|error| Error::new(ErrorKind::Failed, error))?;
    }
    if let Some(error) = lock(&error).take() {
        return Err(cannot(error));
    }
    lock(&rows).flush().map_err(cannot)
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
