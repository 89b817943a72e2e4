//! The text of a stored file: its bytes as they are, or decompressed.
//!
//! A file is read again after a restart, so the text must be a function of the file alone, also up
//! to the place where a damaged file ends. A decompressor loses what it produced in the call that
//! fails. Therefore the sizes of all calls are fixed: the input comes in whole buffers and the
//! output goes into a buffer of its own, whatever the caller asks for.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::InputEncoding;

/// Bytes of a stored file, from a place that can be chosen.
pub trait Stored: Read {
    /// Goes to `offset`; the next read begins there.
    fn seek_to(&mut self, offset: u64);
}

/// Compressed bytes that are read at a time.
const INPUT_BYTES: usize = 256 << 10;
/// Decompressed bytes that are produced at a time. At most so many sound bytes before a damaged
/// place are lost.
const OUTPUT_BYTES: usize = 32 << 10;

/// The reason for which the text of a file ends before the file does.
#[derive(Debug)]
pub enum TextFault {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// The bytes are not a whole compressed file.
    Damaged(String),
}

/// The text of one file.
pub struct Text<R: Stored> {
    /// The bytes, decompressed if need be.
    decoding: Decoding<R>,
    /// Decompressed bytes that were not given out yet.
    output: Box<[u8]>,
    /// The part of `output` that holds them.
    left: Range<usize>,
    /// The fault that comes after what is left.
    fault: Option<TextFault>,
    /// Bytes of text so far.
    position: u64,
}

enum Decoding<R: Stored> {
    /// Not compressed.
    Plain(R),
    /// One or more members of gzip.
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    /// One or more frames of zstd.
    Zstd(Box<ZstdDecoder<'static, Input<R>>>),
    /// Nothing more comes, after so many bytes of the file were taken.
    Ended(u64),
}

impl<R: Stored> Text<R> {
    /// Returns the text of `stored` from its beginning, decompressed as `encoding` has it. If that
    /// is not the encoding of the file's name, the text is damaged at once.
    pub fn new(stored: R, encoding: &InputEncoding) -> Text<R> {
        let mut fault = None;
        let decoding = match encoding {
            InputEncoding::Plain(_) => Decoding::Plain(stored),
            InputEncoding::Compressed(format) if format.name == "gzip" => {
                Decoding::Gzip(Box::new(MultiGzDecoder::new(Input::new(stored))))
            }
            InputEncoding::Compressed(_) => match ZstdDecoder::with_buffer(Input::new(stored)) {
                Ok(decoder) => Decoding::Zstd(Box::new(decoder)),
                Err(error) => {
                    fault = Some(TextFault::Unreadable(error));
                    Decoding::Ended(0)
                }
            },
            InputEncoding::NotWhatItsNameSays(format) => {
                let why = format!("it does not begin as {} does", format.name);
                fault = Some(TextFault::Damaged(why));
                Decoding::Ended(0)
            }
        };
        let output = match decoding {
            Decoding::Gzip(_) | Decoding::Zstd(_) => vec![0; OUTPUT_BYTES],
            Decoding::Plain(_) | Decoding::Ended(_) => Vec::new(),
        };
        Text { decoding, output: output.into_boxed_slice(), left: 0..0, fault, position: 0 }
    }

    /// Returns the number of bytes given out or skipped so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns true if the file is decompressed.
    pub fn is_decompressed(&self) -> bool {
        !matches!(self.decoding, Decoding::Plain(_))
    }

    /// Returns how many bytes of the file were taken for the text so far. After the same position
    /// it is the same in every run.
    pub fn stored_bytes(&self) -> u64 {
        match &self.decoding {
            Decoding::Plain(_) => self.position,
            Decoding::Ended(taken) => *taken,
            Decoding::Gzip(decoder) => decoder.get_ref().taken,
            Decoding::Zstd(decoder) => decoder.get_ref().taken,
        }
    }

    /// Reads into `into`; returns 0 at the end of the text.
    ///
    /// # Errors
    ///
    /// `Unreadable` if the file cannot be read, `Damaged` if it does not decompress further.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, TextFault> {
        if into.is_empty() {
            return Ok(0);
        }
        let bytes = match &mut self.decoding {
            Decoding::Plain(stored) => {
                retried(|| stored.read(into)).map_err(TextFault::Unreadable)?
            }
            _ => {
                if self.left.is_empty() {
                    self.left = 0..self.decompress()?;
                }
                let bytes = self.left.len().min(into.len());
                into[..bytes].copy_from_slice(&self.output[self.left.start..][..bytes]);
                self.left.start += bytes;
                bytes
            }
        };
        self.position += bytes as u64;
        Ok(bytes)
    }

    /// Goes on to `offset`: at once in a plain file, through all the text before it in a compressed
    /// one. Returns false if the text ends before.
    ///
    /// # Errors
    ///
    /// As [`Text::read`].
    pub fn skip_to(&mut self, offset: u64) -> Result<bool, TextFault> {
        if let Decoding::Plain(stored) = &mut self.decoding {
            stored.seek_to(offset);
            self.position = offset;
            return Ok(true);
        }
        while self.position < offset {
            if self.left.is_empty() {
                self.left = 0..self.decompress()?;
            }
            let bytes = (self.left.len() as u64).min(offset - self.position);
            if bytes == 0 {
                return Ok(false);
            }
            self.left.start += bytes as usize;
            self.position += bytes;
        }
        Ok(true)
    }

    /// Fills the output buffer; returns 0 at the end of the text.
    fn decompress(&mut self) -> Result<usize, TextFault> {
        if let Some(fault) = self.fault.take() {
            self.decoding = Decoding::Ended(self.stored_bytes());
            return Err(fault);
        }
        let mut filled = 0;
        while filled < self.output.len() {
            let spare = &mut self.output[filled..];
            let read = match &mut self.decoding {
                Decoding::Gzip(decoder) => {
                    retried(|| decoder.read(spare)).map_err(|error| (error, decoder.get_mut()))
                }
                Decoding::Zstd(decoder) => {
                    retried(|| decoder.read(spare)).map_err(|error| (error, decoder.get_mut()))
                }
                Decoding::Plain(_) | Decoding::Ended(_) => return Ok(0),
            };
            match read {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err((error, input)) => {
                    let fault = match input.failed.take() {
                        Some(failed) => TextFault::Unreadable(failed),
                        None => TextFault::Damaged(error.to_string()),
                    };
                    if filled == 0 {
                        self.decoding = Decoding::Ended(self.stored_bytes());
                        return Err(fault);
                    }
                    // What is there goes out first. Asked again, a decompressor may report that all
                    // is well.
                    self.fault = Some(fault);
                    break;
                }
            }
        }
        Ok(filled)
    }
}

/// Repeats a read that a signal has interrupted.
fn retried(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// The compressed bytes, in buffers that are full except the last.
struct Input<R> {
    /// The stored bytes, in buffers of [`INPUT_BYTES`].
    inner: BufReader<Filling<R>>,
    /// Bytes that were taken from the file.
    taken: u64,
    /// The failure of the file, which a decompressor passes on like its own.
    failed: Option<io::Error>,
}

impl<R: Read> Input<R> {
    /// Begins before the first byte.
    fn new(stored: R) -> Input<R> {
        let inner = BufReader::with_capacity(INPUT_BYTES, Filling(stored));
        Input { inner, taken: 0, failed: None }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(into)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.inner.buffer().is_empty() {
            match self.inner.fill_buf() {
                Ok(buffer) => self.taken += buffer.len() as u64,
                Err(error) => {
                    let told = io::Error::new(error.kind(), error.to_string());
                    self.failed = Some(error);
                    return Err(told);
                }
            }
        }
        Ok(self.inner.buffer())
    }

    fn consume(&mut self, bytes: usize) {
        self.inner.consume(bytes);
    }
}

/// A reader whose reads are short at the end only.
struct Filling<R>(R);

impl<R: Read> Read for Filling<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match retried(|| self.0.read(&mut into[filled..]))? {
                0 => break,
                bytes => filled += bytes,
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    impl Stored for Cursor<Vec<u8>> {
        fn seek_to(&mut self, offset: u64) {
            self.set_position(offset);
        }
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("in memory");
        encoder.include_checksum(true).expect("in memory");
        encoder.write_all(text).expect("in memory");
        encoder.finish().expect("in memory")
    }

    /// Lines that compress, but not to nothing.
    fn lines(count: u64) -> Vec<u8> {
        let line = |k: u64| format!("{:x} and more {k}\n", k.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (0..count).flat_map(|k| line(k).into_bytes()).collect()
    }

    fn open(stored: Vec<u8>) -> Text<Cursor<Vec<u8>>> {
        let encoding =
            InputEncoding::of(std::path::Path::new("x"), &stored[..stored.len().min(16)]);
        Text::new(Cursor::new(stored), &encoding)
    }

    /// Reads a text in pieces of `most` bytes up to its end or its fault.
    fn read(text: &mut Text<Cursor<Vec<u8>>>, most: usize) -> (Vec<u8>, Option<TextFault>) {
        let (mut all, mut piece) = (Vec::new(), vec![0; most]);
        loop {
            match text.read(&mut piece) {
                Ok(0) => return (all, None),
                Ok(bytes) => all.extend_from_slice(&piece[..bytes]),
                Err(fault) => return (all, Some(fault)),
            }
        }
    }

    #[test]
    fn members_and_frames_are_one_text() {
        let (first, second) = (lines(20_000), lines(3));
        let text = [&first[..], &second[..]].concat();
        for stored in [
            [gzip(&first), gzip(b""), gzip(&second)].concat(),
            [zstd(&first), zstd(b""), zstd(&second)].concat(),
            text.clone(),
        ] {
            let (all, fault) = read(&mut open(stored), 100_000);
            assert!(fault.is_none(), "{fault:?}");
            assert!(all == text);
        }
    }

    #[test]
    fn text_goes_on_after_skip() {
        let text = lines(20_000);
        for stored in [gzip(&text), zstd(&text), text.clone()] {
            let (mut whole, mut skipped) = (open(stored.clone()), open(stored));
            assert!(skipped.skip_to(123_457).expect("within"));
            let (rest, _) = read(&mut skipped, 1 << 20);
            assert!(rest == text[123_457..]);
            assert!(whole.skip_to(text.len() as u64).expect("within"));
            assert_eq!(whole.stored_bytes(), skipped.stored_bytes());
            let beyond = whole.skip_to(text.len() as u64 + 1).expect("no fault");
            assert!(!beyond || !whole.is_decompressed());
        }
    }

    #[test]
    fn damage_comes_after_same_bytes_for_all_sizes() {
        let text = lines(20_000);
        for whole in [gzip(&text), zstd(&text)] {
            let mut flipped = whole.clone();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 0xff;
            let truncated = whole[..middle].to_vec();
            let garbage = [&whole[..], b"garbage"].concat();
            for stored in [flipped, truncated, garbage] {
                let (sound, fault) = read(&mut open(stored.clone()), 1 << 20);
                assert!(matches!(fault, Some(TextFault::Damaged(_))), "{fault:?}");
                assert!(sound.len() > text.len() / 3, "{} bytes", sound.len());
                for most in [1000, 65_537] {
                    let (again, fault) = read(&mut open(stored.clone()), most);
                    assert!(again == sound);
                    assert!(matches!(fault, Some(TextFault::Damaged(_))), "{fault:?}");
                }
            }
        }
    }

    #[test]
    fn failing_file_is_no_damage() {
        struct Failing(Cursor<Vec<u8>>);
        impl Read for Failing {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                match self.0.read(into)? {
                    0 => Err(io::Error::other("the disk")),
                    bytes => Ok(bytes),
                }
            }
        }
        impl Stored for Failing {
            fn seek_to(&mut self, offset: u64) {
                self.0.set_position(offset);
            }
        }
        let whole = gzip(&lines(20_000));
        let encoding = InputEncoding::of(std::path::Path::new("x.gz"), &whole[..16]);
        let mut text = Text::new(Failing(Cursor::new(whole[..5000].to_vec())), &encoding);
        let fault = loop {
            match text.read(&mut [0; 4096]) {
                Ok(bytes) => assert!(bytes > 0),
                Err(fault) => break fault,
            }
        };
        assert!(matches!(fault, TextFault::Unreadable(_)), "{fault:?}");
    }
}
