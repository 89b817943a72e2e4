//! What is stored: a rope of byte chunks, in memory or in a file.

use std::fmt;
use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};

use bytes::Bytes;
use md5::{Digest, Md5};
use tokio::runtime::Handle;

use crate::supervise;

/// The bytes of one object, in chunks as they were encoded, never joined into one allocation.
///
/// A clone shares the bytes, so that a retry costs nothing. A body that waits for long may
/// [move to a file](super::Results); whoever reads it does not see where it is. Length and MD5 are
/// taken once; the MD5 when it is first asked for (2 ms for a MiB, so ask where there is time for
/// it), unless a [`BodyWriter`] has begun before.
#[derive(Clone)]
pub struct Body(Arc<Rope>);

struct Rope {
    held: Mutex<Held>,
    bytes: u64,
    md5: OnceLock<[u8; 16]>,
    /// Where the MD5 comes from, if it is being taken.
    coming: Mutex<Option<mpsc::Receiver<[u8; 16]>>>,
}

struct Held {
    content: Content,
    /// Dropped after the content, so that what is counted was there.
    account: Option<Box<dyn Account>>,
}

/// Counts the bytes of a body. Dropped with the last clone of it.
pub(super) trait Account: Send {
    /// Called when the bytes have moved from memory to a file.
    fn moved_to_disk(&mut self);
}

#[derive(Clone)]
enum Content {
    /// Chunks, none of them empty.
    Memory(Arc<[Bytes]>),
    File(Arc<BodyFile>),
}

/// A file that holds a body, and is removed with this value.
pub(super) struct BodyFile {
    file: File,
    path: PathBuf,
}

impl BodyFile {
    pub(super) fn new(file: File, path: PathBuf) -> BodyFile {
        BodyFile { file, path }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        // The next start removes what stays behind.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A body that does not keep its bytes alive.
pub(super) struct WeakBody(Weak<Rope>);

impl WeakBody {
    pub(super) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    pub(super) fn upgrade(&self) -> Option<Body> {
        self.0.upgrade().map(Body)
    }
}

/// Bytes that are read from a file at a time.
const PIECE_BYTES: u64 = 256 << 10;

impl Body {
    /// The chunks one after the other; empty ones are left out.
    pub fn from_chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        Body::new(chunks.into_iter().filter(|c| !c.is_empty()).collect(), None)
    }

    fn new(chunks: Vec<Bytes>, coming: Option<mpsc::Receiver<[u8; 16]>>) -> Self {
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let held = Held { content: Content::Memory(chunks.into()), account: None };
        let (held, coming) = (Mutex::new(held), Mutex::new(coming));
        Body(Arc::new(Rope { held, bytes, md5: OnceLock::new(), coming }))
    }

    /// Returns the bytes in pieces of moderate size, none of them empty. A piece is an error if the
    /// file that holds the body cannot be read. Reading a file blocks, but not for long: it is not
    /// synced and mostly in the page cache.
    pub fn pieces(&self) -> impl Iterator<Item = io::Result<Bytes>> + Send + use<> {
        let content = self.held().content.clone();
        let bytes = self.0.bytes;
        let mut at = 0_u64;
        let mut index = 0;
        std::iter::from_fn(move || match &content {
            Content::Memory(chunks) => {
                index += 1;
                chunks.get(index - 1).cloned().map(Ok)
            }
            Content::File(held) => {
                let length = PIECE_BYTES.min(bytes - at) as usize;
                let mut piece = vec![0; length];
                let read = (length > 0).then(|| held.file.read_exact_at(&mut piece, at))?;
                at += length as u64;
                Some(read.map(|()| piece.into()))
            }
        })
    }

    /// Returns all pieces at once.
    ///
    /// # Errors
    ///
    /// Those of reading the file that holds the body.
    pub fn load(&self) -> io::Result<Vec<Bytes>> {
        self.pieces().collect()
    }

    /// The length of all chunks.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The MD5 of all chunks.
    pub fn md5(&self) -> [u8; 16] {
        *self.0.md5.get_or_init(|| {
            let coming = self.0.coming.lock().unwrap_or_else(PoisonError::into_inner).take();
            // A runtime that goes down never runs what it was given.
            let taken = coming.and_then(|coming| coming.recv().ok());
            // A body goes to a file only once its MD5 is known, so its chunks are in memory.
            taken.unwrap_or_else(|| md5(self.pieces().filter_map(io::Result::ok)))
        })
    }

    /// The MD5 in 32 lower-case hexadecimal digits.
    pub fn md5_hex(&self) -> String {
        hex(&self.md5())
    }

    /// Has `account` dropped with the bytes. Returns false if the body has one already.
    pub(super) fn count(&self, account: Box<dyn Account>) -> bool {
        let mut held = self.held();
        let is_new = held.account.is_none();
        let refused = if is_new { held.account.replace(account) } else { Some(account) };
        // Not under the lock: an account has one of its own.
        drop(held);
        drop(refused);
        is_new
    }

    pub(super) fn downgrade(&self) -> WeakBody {
        WeakBody(Arc::downgrade(&self.0))
    }

    /// Returns whether the bytes are in a file.
    pub fn is_on_disk(&self) -> bool {
        matches!(self.held().content, Content::File(_))
    }

    /// Replaces the chunks in memory by `file`, which holds the same bytes. Readers that have begun
    /// go on with the chunks.
    pub(super) fn move_to(&self, file: BodyFile) {
        let mut held = self.held();
        held.content = Content::File(Arc::new(file));
        held.account.iter_mut().for_each(|account| account.moved_to_disk());
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Replaced whole: a panic elsewhere leaves nothing half-done.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn md5(chunks: impl IntoIterator<Item: AsRef<[u8]>>) -> [u8; 16] {
    let mut hasher = Md5::new();
    chunks.into_iter().for_each(|chunk| hasher.update(chunk));
    hasher.finalize().into()
}

/// A body whose chunks are still being made. The MD5 of a large one is taken meanwhile, beside
/// whoever makes them: of 100 MB it takes 0.2 s.
#[derive(Debug)]
pub struct BodyWriter {
    chunks: Vec<Bytes>,
    /// Where chunks are hashed, once there are [`BodyWriter::CHUNKS_HERE`]. It has no bound of its
    /// own: the body holds all chunks anyway.
    hashing: Option<(mpsc::Sender<Bytes>, mpsc::Receiver<[u8; 16]>)>,
    runtime: Handle,
}

impl BodyWriter {
    /// Chunks up to which a body is small: its MD5 is not worth a thread.
    const CHUNKS_HERE: usize = 4;

    /// An empty body. What is done meanwhile is done on the blocking threads of `runtime`.
    pub fn new(runtime: Handle) -> Self {
        BodyWriter { chunks: Vec::new(), hashing: None, runtime }
    }

    /// Puts a chunk behind the others.
    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        if let Some((hasher, _)) = &self.hashing {
            // A hasher that is gone is noticed when its result is asked for.
            hasher.send(chunk.clone()).unwrap_or_default();
        }
        self.chunks.push(chunk);
        if self.hashing.is_none() && self.chunks.len() == BodyWriter::CHUNKS_HERE {
            self.hash_aside();
        }
    }

    fn hash_aside(&mut self) {
        let (hasher, chunks) = mpsc::channel();
        let (result, coming) = mpsc::sync_channel(1);
        let first = self.chunks.clone();
        supervise::aside(&self.runtime, move || {
            // Nobody asks for the MD5 of a body that was given up.
            result.send(md5(first.into_iter().chain(chunks))).unwrap_or_default();
        });
        self.hashing = Some((hasher, coming));
    }

    /// The whole body.
    pub fn finish(mut self) -> Body {
        let coming = self.hashing.take().map(|(_, coming)| coming);
        Body::new(mem::take(&mut self.chunks), coming)
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]).collect()
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::from_chunks([bytes])
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::from(Bytes::from(bytes))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::from(Bytes::from(text))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Body::from(Bytes::from_static(text.as_bytes()))
    }
}

impl fmt::Debug for Body {
    /// Shape only: words of a user's text do not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_md5_do_not_depend_on_the_chunks() {
        let one = Body::from("hello world\n");
        let many = Body::from_chunks(["hello", "", " world", "\n"].map(Bytes::from));
        assert_eq!(many.pieces().count(), 3);
        assert_eq!(one.bytes(), many.bytes());
        assert_eq!(one.md5(), many.md5());
        assert_eq!(one.md5_hex(), "6f5902ac237024bdd0c176cb93063dc4");
        assert_eq!(Body::from("").md5_hex(), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn the_md5_that_is_taken_while_chunks_come_is_that_of_the_whole() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for chunks in [0, 1, BodyWriter::CHUNKS_HERE, 100] {
            let mut writer = BodyWriter::new(runtime.handle().clone());
            let chunk = |number: usize| Bytes::from(format!("{number},").repeat(1 + number % 3));
            (0..chunks).for_each(|number| writer.push(chunk(number)));
            let body = writer.finish();
            assert_eq!(body.pieces().count(), chunks);
            assert_eq!(body.md5(), Body::from_chunks((0..chunks).map(chunk)).md5());
        }
    }

    #[test]
    fn a_runtime_that_is_gone_takes_no_md5_with_it() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut writer = BodyWriter::new(runtime.handle().clone());
        drop(runtime);
        (0..10).for_each(|_| writer.push(Bytes::from("a")));
        assert_eq!(writer.finish().md5(), Body::from("aaaaaaaaaa").md5());
    }
}
