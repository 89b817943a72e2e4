//! Random bytes of the kernel, for keys, nonces and ids.

use std::fs::File;
use std::io::Read;

use crate::error::{Error, ErrorKind, Result};
use crate::hex_varint::hex;

/// Returns random bytes of the kernel.
///
/// # Errors
/// `Failed` if `/dev/urandom` cannot be read.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|cause| Error::new(ErrorKind::Failed, "cannot read /dev/urandom").cause(cause))?;
    Ok(bytes)
}

/// Returns an id that no other has: 128 random bits in hexadecimal digits.
///
/// # Errors
/// Those of [`random_bytes`].
pub fn random_id() -> Result<String> {
    Ok(hex(&random_bytes::<16>()?))
}
