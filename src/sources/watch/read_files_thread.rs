//! The thread that reads files: it opens, decompresses and reads ahead, and may wait for a disk or
//! a store while the source takes cuts.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::found_file::{FileFacts, is_hidden};
use super::list_objects::ObjectReader;
use super::read_request::{FileEnd, ReadRequest, cannot_read};
use super::watched_place::OpenPlace;
use crate::error::{Error, Result};
use crate::sources::compressed::{InputEncoding, Stored, StoredFile, Text, TextFault, beginning};
use crate::sources::file_or_stream;
use crate::supervise;

/// A piece of text: it begins at a multiple of so many bytes of the file's text, so that a run
/// after a restart hands the same pieces over.
pub const PIECE_BYTES: u64 = 256 << 10;
/// Most pieces that are read ahead.
const PIECES_MAX: usize = 8;

/// The answers to a request, in this order: opened, texts, end. An end may come alone.
#[derive(Debug)]
pub enum Piece {
    /// The file is open; these are the facts about it now.
    Opened(FileFacts),
    /// The next bytes of its text.
    Text(Vec<u8>),
    /// Nothing more comes of the file.
    End(FileEnd),
}

/// The source's end of the thread.
#[derive(Debug)]
pub struct Pump {
    /// Takes requests, which are served in order.
    requests: std_mpsc::Sender<ReadRequest>,
    /// The pieces of the files.
    pieces: mpsc::Receiver<Piece>,
    /// Buffers to be used again.
    buffers: std_mpsc::Sender<Vec<u8>>,
    /// The failure of the thread, once it has ended.
    failed: Arc<Mutex<Option<Error>>>,
}

impl Pump {
    /// Starts the thread, which reads in `place`.
    ///
    /// # Errors
    ///
    /// `Failed` if it cannot be started.
    pub fn start(place: OpenPlace) -> Result<Pump> {
        let (requests, asked) = std_mpsc::channel();
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let (buffers, returned) = std_mpsc::channel();
        let failed = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failed);
        let thread = PumpThread { place, pieces: sender.clone(), buffers: returned };
        let fail = move |error| {
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            // The pieces end when the failure is known, not before.
            drop(sender);
        };
        supervise::thread("watch-read", fail, move || {
            thread.run(&asked);
            Ok(())
        })?;
        Ok(Pump { requests, pieces, buffers, failed })
    }

    /// Asks for a file. Files are read one after the other, in the order of these calls.
    pub fn ask(&self, request: ReadRequest) {
        // It fails when the thread has failed, which the next piece reports.
        drop(self.requests.send(request));
    }

    /// Returns the next piece of the file that was asked for first.
    ///
    /// # Errors
    ///
    /// The error by which the thread has ended.
    pub async fn next(&mut self) -> Result<Piece> {
        match self.pieces.recv().await {
            Some(piece) => Ok(piece),
            None => {
                let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
                let stopped = || Error::new(crate::ErrorKind::Panicked, "no file is read any more");
                Err(failed.unwrap_or_else(stopped))
            }
        }
    }

    /// Gives a buffer back, to be used again.
    pub fn recycle(&self, buffer: Vec<u8>) {
        drop(self.buffers.send(buffer));
    }
}

struct PumpThread {
    /// The folder or the bucket.
    place: OpenPlace,
    /// Takes the pieces of files.
    pieces: mpsc::Sender<Piece>,
    /// Buffers that the source has emptied.
    buffers: std_mpsc::Receiver<Vec<u8>>,
}

/// A request, and the first range of its object if that was asked for.
struct WaitingRequest {
    /// The request.
    request: ReadRequest,
    /// The first range of an object, which is fetched ahead.
    range: Option<oneshot::Receiver<Bytes>>,
}

/// The source has gone.
struct Unwanted;

impl PumpThread {
    /// Serves requests until the source has gone.
    fn run(&self, asked: &std_mpsc::Receiver<ReadRequest>) {
        let (mut waiting, mut fetching) = (VecDeque::new(), JoinSet::new());
        loop {
            while let Ok(request) = asked.try_recv() {
                waiting.push_back(self.prefetch(request, &mut fetching));
            }
            let next = match waiting.pop_front() {
                Some(next) => next,
                None => match asked.recv() {
                    Ok(request) => self.prefetch(request, &mut fetching),
                    Err(_) => return,
                },
            };
            let ended = self.read(next).and_then(|end| self.send(Piece::End(end)));
            if let Err(Unwanted) = ended {
                return;
            }
        }
    }

    /// Begins to fetch an object that will be read soon.
    fn prefetch(&self, request: ReadRequest, fetching: &mut JoinSet<()>) -> WaitingRequest {
        while fetching.try_join_next().is_some() {}
        let OpenPlace::Objects(bucket) = &self.place else {
            return WaitingRequest { request, range: None };
        };
        if request.again_from.is_some() || request.file.facts.bytes == 0 {
            return WaitingRequest { request, range: None };
        }
        let (sender, range) = oneshot::channel();
        let first = bucket.clone().first_range(request.file.clone());
        // Without an answer it is fetched again, patiently.
        let fetch = async move { drop(first.await.map(|range| sender.send(range))) };
        fetching.spawn_on(fetch, &bucket.runtime);
        WaitingRequest { request, range: Some(range) }
    }

    /// Sends a piece, and waits while the source has enough.
    fn send(&self, piece: Piece) -> std::result::Result<(), Unwanted> {
        self.pieces.blocking_send(piece).map_err(|_| Unwanted)
    }

    /// Reads one file to its end.
    ///
    /// Fails with `Unwanted` when the source has stopped.
    fn read(&self, next: WaitingRequest) -> std::result::Result<FileEnd, Unwanted> {
        let WaitingRequest { request, range } = next;
        let request = &request;
        match &self.place {
            OpenPlace::Folder(folder) => {
                let (stored, facts) = match open_file(folder, request) {
                    Ok(opened) => opened,
                    Err(end) => return Ok(end),
                };
                self.send(Piece::Opened(facts))?;
                self.pump(stored, request)
            }
            OpenPlace::Objects(bucket) => {
                let wanted = || !self.pieces.is_closed();
                let range = range.and_then(|range| range.blocking_recv().ok());
                let stored = match ObjectReader::open(bucket, request, range, &wanted) {
                    Ok(stored) => stored,
                    Err(end) => return Ok(end),
                };
                self.send(Piece::Opened(stored.facts().clone()))?;
                self.pump(stored, request)
            }
        }
    }

    /// Sends the text of a file that is open.
    fn pump<R: Stored>(
        &self,
        mut stored: R,
        request: &ReadRequest,
    ) -> std::result::Result<FileEnd, Unwanted> {
        let beginning = match beginning(&mut stored) {
            Ok(beginning) => beginning,
            Err(error) => return Ok(cannot_read(&error)),
        };
        let encoding = InputEncoding::of(request.file.path(), &beginning);
        encoding.warn(&self.place.shown(&request.file));
        let mut text = Text::new(stored, &encoding);
        if let Some(offset) = request.again_from {
            match text.skip_to(offset) {
                Ok(true) => {}
                Ok(false) => return Ok(FileEnd::Changed),
                Err(fault) => return Ok(ended(fault)),
            }
        }
        loop {
            let mut piece = self.buffers.try_recv().unwrap_or_default();
            let most = (PIECE_BYTES - text.position() % PIECE_BYTES) as usize;
            piece.resize(most, 0);
            let (read, end) = fill(&mut text, &mut piece);
            piece.truncate(read);
            if read > 0 {
                self.send(Piece::Text(piece))?;
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }
}

/// Reads into `piece` until it is full or the text ends; returns the bytes read and the end.
fn fill<R: Stored>(text: &mut Text<R>, piece: &mut [u8]) -> (usize, Option<FileEnd>) {
    let mut read = 0;
    while read < piece.len() {
        match text.read(&mut piece[read..]) {
            Ok(0) => return (read, Some(FileEnd::Whole)),
            Ok(bytes) => read += bytes,
            Err(fault) => return (read, Some(ended(fault))),
        }
    }
    (read, None)
}

/// Returns the end of a file whose text cannot be read further.
fn ended(fault: TextFault) -> FileEnd {
    match fault {
        TextFault::Unreadable(error) => cannot_read(&error),
        TextFault::Damaged(why) => FileEnd::Damaged(why),
    }
}

/// Opens a file of a folder, as long as it is the one that was found. Since then it may have been
/// renamed within the folder.
fn open_file(
    folder: &Path,
    request: &ReadRequest,
) -> std::result::Result<(StoredFile, FileFacts), FileEnd> {
    let opened = open_path(&request.file.path_in(folder), request);
    let is_elsewhere = matches!(opened, Err(FileEnd::Gone | FileEnd::Changed));
    let renamed = if is_elsewhere { open_renamed(folder, request) } else { None };
    renamed.map_or(opened, Ok)
}

/// Opens the file of a request under another name, if it has one in the folder. One that was read
/// before is found also under a name that begins with a dot or an underscore.
fn open_renamed(folder: &Path, request: &ReadRequest) -> Option<(StoredFile, FileFacts)> {
    let (then, is_again) = (&request.file.facts, request.again_from.is_some());
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let is_link = entry.file_type().is_ok_and(|found| found.is_symlink());
        let may_be_it = entry.ino() == then.id.inode || is_link;
        let is_read = is_again || !is_hidden(entry.file_name().as_bytes());
        if may_be_it
            && is_read
            && let Ok(opened) = open_path(&entry.path(), request)
            && then.state().is_of(&opened.1)
        {
            return Some(opened);
        }
    }
    None
}

/// Opens the file of a request by a path, as long as it is the one that was found.
fn open_path(
    path: &Path,
    request: &ReadRequest,
) -> std::result::Result<(StoredFile, FileFacts), FileEnd> {
    let file = file_or_stream::open(path).map(File::from).map_err(|error| cannot_read(&error))?;
    let found = file.metadata().map_err(|error| cannot_read(&error))?;
    if !found.is_file() {
        return Err(FileEnd::Unreadable("it is not a regular file".to_owned()));
    }
    let (then, now) = (&request.file.facts, FileFacts::of_file(&found));
    let is_usable = match request.again_from {
        None => then.version == now.version && then.id.is_same(now.id),
        // What was added since then is not read.
        Some(_) => then.id.is_same(now.id) && then.bytes <= now.bytes,
    };
    if !is_usable {
        return Err(FileEnd::Changed);
    }
    let bytes = if request.again_from.is_some() { then.bytes } else { now.bytes };
    Ok((StoredFile::first(file, bytes), now))
}
