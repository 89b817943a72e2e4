//! The encoding of parts: a format, a compression, and the steps from rows to an object.
//!
//! A worker writes rows as bytes and does no more. If these are not the object yet, because they
//! are to be compressed or written as columns, [`Encoding::finish`] makes the object of them on a
//! thread that may block. The object depends on the rows alone.

use super::format::{Compression, Format, begin_columns, compress, encode_parquet};
use crate::error::Error;
use crate::operators::RowKind;
use crate::store::Body;

/// The encoding of the parts of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The format of rows.
    pub format: Format,
    /// The compression of a part, or of the columns in it.
    pub compression: Compression,
}

impl Encoding {
    /// Returns the encoding with this compression. The default is zstd in a format of columns,
    /// whose readers all know it, and none for text.
    pub fn new(format: Format, compression: Option<Compression>) -> Encoding {
        let default = match format {
            Format::Parquet => Compression::Zstd,
            _ => Compression::None,
        };
        Encoding { format, compression: compression.unwrap_or(default) }
    }

    /// Returns the end of a part's name, with its dot.
    pub fn extension(self) -> &'static str {
        match (self.format, self.compression) {
            (Format::Parquet, _) => ".parquet",
            (_, Compression::None) => "",
            (_, Compression::Gzip) => ".gz",
            (_, Compression::Zstd) => ".zst",
        }
    }

    /// Returns true if the bytes that a worker writes are the object.
    pub fn is_immediate(self) -> bool {
        self.format != Format::Parquet && self.compression == Compression::None
    }

    /// Makes an object of the bytes that a worker has written, and computes its MD5. It blocks.
    ///
    /// # Errors
    ///
    /// `Failed` if the encoder refuses the rows.
    pub fn finish(self, written: &Body) -> Result<Body, Error> {
        let object = match self.format {
            Format::Parquet => encode_parquet(written, self.compression)?,
            _ => compress(written, self.compression)?,
        };
        object.md5();
        Ok(object)
    }

    /// Makes the object of a part without rows. It blocks for less than a millisecond.
    ///
    /// # Errors
    ///
    /// Those of [`Encoding::finish`].
    pub fn empty(self, kind: RowKind) -> Result<Body, Error> {
        let mut written = Vec::new();
        if self.format == Format::Parquet {
            begin_columns(kind, &mut written);
        }
        self.finish(&Body::from(written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_after_their_encoding() {
        let extension = |format, compression| Encoding::new(format, compression).extension();
        assert_eq!(extension(Format::Tsv, None), "");
        assert_eq!(extension(Format::Python, Some(Compression::Gzip)), ".gz");
        assert_eq!(extension(Format::Jsonl, Some(Compression::Zstd)), ".zst");
        for compression in Compression::ALL {
            assert_eq!(extension(Format::Parquet, Some(compression)), ".parquet");
        }
        assert_eq!(Encoding::new(Format::Parquet, None).compression, Compression::Zstd);
    }

    #[test]
    fn part_without_rows_is_a_valid_object() {
        for format in [Format::Tsv, Format::Parquet] {
            for compression in Compression::ALL {
                let encoding = Encoding::new(format, Some(compression));
                let body = encoding.empty(RowKind::Counts).expect("no rows");
                let is_empty_file = format == Format::Tsv && compression == Compression::None;
                assert_eq!(body.bytes() == 0, is_empty_file, "{encoding:?}");
            }
        }
    }
}
