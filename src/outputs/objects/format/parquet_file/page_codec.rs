//! Compression of pages. Each page is compressed by itself.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use crate::outputs::objects::format::compression::{Compression, GZIP_LEVEL, ZSTD_LEVEL};

/// Compresses the pages of a column.
pub enum PageCodec {
    /// Pages stay as they are.
    Plain,
    /// A page is a gzip member.
    Gzip,
    /// A page is a zstd frame.
    Zstd(zstd::bulk::Compressor<'static>),
}

impl PageCodec {
    /// Returns the codec of `compression`.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` or the like, if there is no room for a compressor.
    pub fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain,
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        })
    }

    /// Returns the number of the codec in metadata.
    pub fn number(&self) -> i32 {
        match self {
            Self::Plain => 0,
            Self::Gzip => 2,
            Self::Zstd(_) => 6,
        }
    }

    /// Returns the content of a page in compressed form.
    ///
    /// # Errors
    ///
    /// Those of the compressor.
    pub fn compress(&mut self, page: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(page),
            Self::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(&page)?;
                encoder.finish()
            }
            Self::Zstd(compressor) => compressor.compress(&page),
        }
    }
}
