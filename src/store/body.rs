//! The bytes of an object: chunks in memory, or a file.

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

use crate::hex_varint::hex;
use crate::supervise;

/// The bytes of one object, in chunks as they were encoded, never joined into one allocation.
///
/// A clone shares the bytes, so that a retry costs nothing. A body that waits for long may
/// [move to a file](super::PendingResults); a reader sees no difference. Length and MD5 are
/// computed once.
///
/// The MD5 takes 2 ms a MiB and is computed at the first call of [`Body::md5`], unless a
/// [`BodyWriter`] has begun before.
#[derive(Clone)]
pub struct Body(Arc<Rope>);

/// The bytes that clones of a body share.
struct Rope {
    /// Where the bytes are: they may be moved to a file while others read them.
    location: Mutex<Location>,
    /// The length.
    bytes: u64,
    /// The MD5 of the bytes, computed once.
    md5: OnceLock<[u8; 16]>,
    /// Receives the MD5, if a [`BodyWriter`] has begun to compute it.
    pending_md5: Mutex<Option<mpsc::Receiver<[u8; 16]>>>,
}

/// The place of a body's bytes, and the account that counts them.
struct Location {
    /// Chunks or a file.
    content: Content,
    /// Declared after the content, so that bytes are counted until they are dropped.
    account: Option<Box<dyn BodyAccount>>,
}

/// Counts the bytes of a body. It is dropped with the last clone of the body.
pub trait BodyAccount: Send {
    /// Called when the bytes have moved from memory to a file.
    fn moved_to_disk(&mut self);
}

/// The bytes themselves.
#[derive(Clone)]
enum Content {
    /// Chunks, none of them empty.
    Memory(Arc<[Bytes]>),
    /// A file with exactly these bytes.
    File(Arc<BodyFile>),
}

/// A file that holds a body. It is removed when this value is dropped.
pub(crate) struct BodyFile {
    /// The open file, which is read by offset.
    file: File,
    /// The path, removed with the body.
    path: PathBuf,
}

impl BodyFile {
    /// Returns the body file at `path`, which is open as `file`.
    pub fn new(file: File, path: PathBuf) -> BodyFile {
        BodyFile { file, path }
    }

    /// Returns the open file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        // A file that cannot be removed now is removed by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A reference to a body that does not keep its bytes alive.
pub(crate) struct WeakBody(Weak<Rope>);

impl WeakBody {
    /// Returns true if a clone of the body exists.
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Returns the body if a clone of it exists.
    pub fn upgrade(&self) -> Option<Body> {
        self.0.upgrade().map(Body)
    }
}

/// The bytes that one read of a file returns at most.
const PIECE_BYTES: u64 = 256 << 10;

impl Body {
    /// Returns the body of these chunks, in their order. Empty chunks are left out.
    pub fn from_chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        Body::new(chunks.into_iter().filter(|c| !c.is_empty()).collect(), None)
    }

    /// Returns the body of non-empty chunks. Its MD5 comes from `pending_md5`, if given.
    fn new(chunks: Vec<Bytes>, pending_md5: Option<mpsc::Receiver<[u8; 16]>>) -> Self {
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let location = Location { content: Content::Memory(chunks.into()), account: None };
        let (location, pending_md5) = (Mutex::new(location), Mutex::new(pending_md5));
        Body(Arc::new(Rope { location, bytes, md5: OnceLock::new(), pending_md5 }))
    }

    /// Returns the bytes in pieces of moderate size, none of them empty. If the body moves to a
    /// file meanwhile, the rest is read from there.
    ///
    /// A piece is an error if the file that holds the body cannot be read. A read blocks, but not
    /// for long, because the file is mostly in the page cache.
    pub fn pieces(&self) -> impl Iterator<Item = io::Result<Bytes>> + Send + use<> {
        let body = self.clone();
        let mut at = 0_u64;
        let mut index = 0;
        std::iter::from_fn(move || {
            // Looked at anew for each piece: a reader that is slow, or waits for a server that is
            // away, must not keep the chunks of a body that has moved to a file.
            let content = body.location().content.clone();
            match content {
                Content::Memory(chunks) => {
                    let chunk = chunks.get(index).cloned()?;
                    index += 1;
                    at += chunk.len() as u64;
                    Some(Ok(chunk))
                }
                Content::File(file) => {
                    let length = PIECE_BYTES.min(body.bytes() - at) as usize;
                    let mut piece = vec![0; length];
                    let read = (length > 0).then(|| file.file.read_exact_at(&mut piece, at))?;
                    at += length as u64;
                    Some(read.map(|()| piece.into()))
                }
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

    /// Returns the length.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Returns the MD5 of the bytes. Computes it if it is not known yet.
    pub fn md5(&self) -> [u8; 16] {
        *self.0.md5.get_or_init(|| {
            let pending = self.0.pending_md5.lock();
            let pending = pending.unwrap_or_else(PoisonError::into_inner).take();
            // A runtime that shuts down drops its tasks, and the channel closes without an MD5.
            let computed = pending.and_then(|pending| pending.recv().ok());
            // A body moves to a file only after its MD5 is known, so these chunks are in memory and
            // no piece is an error.
            computed.unwrap_or_else(|| md5(self.pieces().filter_map(io::Result::ok)))
        })
    }

    /// Returns true if the MD5 is known.
    pub fn has_md5(&self) -> bool {
        self.0.md5.get().is_some()
    }

    /// Returns the MD5 in 32 lower-case hexadecimal digits.
    pub fn md5_hex(&self) -> String {
        hex(&self.md5())
    }

    /// Attaches `account`, which is dropped with the bytes. Returns false and drops it if the body
    /// has one already.
    pub fn count(&self, account: Box<dyn BodyAccount>) -> bool {
        let mut location = self.location();
        let is_new = location.account.is_none();
        let refused = if is_new { location.account.replace(account) } else { Some(account) };
        // Dropped without the lock, since an account takes a lock of its own.
        drop(location);
        drop(refused);
        is_new
    }

    /// Returns a reference that does not keep the bytes alive.
    pub(crate) fn downgrade(&self) -> WeakBody {
        WeakBody(Arc::downgrade(&self.0))
    }

    /// Returns whether the bytes are in a file.
    pub fn is_on_disk(&self) -> bool {
        matches!(self.location().content, Content::File(_))
    }

    /// Replaces the chunks in memory by `file`, which holds the same bytes. A reader that has begun
    /// continues with the file.
    pub(crate) fn move_to(&self, file: BodyFile) {
        let mut location = self.location();
        location.content = Content::File(Arc::new(file));
        location.account.iter_mut().for_each(|account| account.moved_to_disk());
    }

    /// Locks the place of the bytes.
    fn location(&self) -> MutexGuard<'_, Location> {
        // Replaced as a whole, so a panic elsewhere leaves nothing half-done.
        self.0.location.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the MD5 of chunks.
fn md5(chunks: impl IntoIterator<Item: AsRef<[u8]>>) -> [u8; 16] {
    let mut hasher = Md5::new();
    chunks.into_iter().for_each(|chunk| hasher.update(chunk));
    hasher.finalize().into()
}

/// Builds a body chunk by chunk.
///
/// The MD5 of a large body is computed at the same time on another thread. It takes 0.2 s for 100
/// MB.
#[derive(Debug)]
pub struct BodyWriter {
    /// The whole chunks so far.
    chunks: Vec<Bytes>,
    /// The channels of the hashing thread, from [`BodyWriter::CHUNKS_INLINE`] chunks on. The first
    /// needs no bound, because the body holds all chunks anyway.
    hashing: Option<(mpsc::Sender<Bytes>, mpsc::Receiver<[u8; 16]>)>,
    /// Hashes large chunks on its threads.
    runtime: Handle,
}

impl BodyWriter {
    /// A body with fewer chunks is too small for a thread of its own.
    const CHUNKS_INLINE: usize = 1;

    /// Returns a writer without chunks. It hashes on the blocking threads of `runtime`.
    pub fn new(runtime: Handle) -> Self {
        BodyWriter { chunks: Vec::new(), hashing: None, runtime }
    }

    /// Appends a chunk.
    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        if let Some((hasher, _)) = &self.hashing {
            // It fails if the thread has ended; `Body::md5` then computes the MD5 itself.
            let _ = hasher.send(chunk.clone());
        }
        self.chunks.push(chunk);
        if self.hashing.is_none() && self.chunks.len() == BodyWriter::CHUNKS_INLINE {
            self.start_hashing();
        }
    }

    /// Starts a thread that hashes the chunks up to now and all that follow.
    fn start_hashing(&mut self) {
        let (hasher, chunks) = mpsc::channel();
        let (result, pending) = mpsc::sync_channel(1);
        let first = self.chunks.clone();
        supervise::aside(&self.runtime, move || {
            // It fails if the body was dropped, and then no MD5 is needed.
            let _ = result.send(md5(first.into_iter().chain(chunks)));
        });
        self.hashing = Some((hasher, pending));
    }

    /// Returns the body.
    pub fn finish(mut self) -> Body {
        // Dropping the sender ends the hashing thread's input.
        let pending = self.hashing.take().map(|(_, pending)| pending);
        Body::new(mem::take(&mut self.chunks), pending)
    }
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
    /// Shows only the length, because a log must not contain the text of a user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_md5_of_chunks_equal_the_whole() {
        let one = Body::from("hello world\n");
        let many = Body::from_chunks(["hello", "", " world", "\n"].map(Bytes::from));
        assert_eq!(many.pieces().count(), 3);
        assert_eq!(one.bytes(), many.bytes());
        assert_eq!(one.md5(), many.md5());
        assert_eq!(one.md5_hex(), "6f5902ac237024bdd0c176cb93063dc4");
        assert_eq!(Body::from("").md5_hex(), "d41d8cd98f00b204e9800998ecf8427e");
    }

    /// Bytes of a chunk that note when they are dropped.
    struct NotedChunk(#[allow(dead_code, reason = "counts its owners")] Arc<()>);

    impl AsRef<[u8]> for NotedChunk {
        fn as_ref(&self) -> &[u8] {
            b"chunk"
        }
    }

    #[test]
    fn reader_follows_a_body_to_its_file() {
        let in_memory = Arc::new(());
        let chunk = || Bytes::from_owner(NotedChunk(Arc::clone(&in_memory)));
        let body = Body::from_chunks((0..3).map(|_| chunk()));
        let mut pieces = body.pieces();
        assert_eq!(pieces.next().transpose().expect("in memory").as_deref(), Some(&b"chunk"[..]));
        assert_eq!(Arc::strong_count(&in_memory), 4);

        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("body");
        std::fs::write(&path, "chunk".repeat(3)).expect("a file");
        body.move_to(BodyFile::new(File::open(&path).expect("a file"), path));
        assert_eq!(Arc::strong_count(&in_memory), 1, "the reader keeps no chunk");
        let rest: Vec<_> = pieces.collect::<io::Result<_>>().expect("a file");
        assert_eq!(rest.concat(), b"chunkchunk");
    }

    #[test]
    fn md5_while_writing_equals_md5_of_whole() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for chunks in [0, 1, BodyWriter::CHUNKS_INLINE, 100] {
            let mut writer = BodyWriter::new(runtime.handle().clone());
            let chunk = |number: usize| Bytes::from(format!("{number},").repeat(1 + number % 3));
            (0..chunks).for_each(|number| writer.push(chunk(number)));
            let body = writer.finish();
            assert_eq!(body.pieces().count(), chunks);
            assert_eq!(body.md5(), Body::from_chunks((0..chunks).map(chunk)).md5());
        }
    }

    #[test]
    fn md5_survives_the_end_of_the_runtime() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut writer = BodyWriter::new(runtime.handle().clone());
        drop(runtime);
        (0..10).for_each(|_| writer.push(Bytes::from("a")));
        assert_eq!(writer.finish().md5(), Body::from("aaaaaaaaaa").md5());
    }
}
