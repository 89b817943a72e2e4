//! The provider of TLS's cryptography, one for the whole crate.

use rustls::crypto::ring;

/// Makes ring the process's default unless the program has chosen another provider. Called before
/// a library is used that takes the default.
pub fn install_provider() {
    // It fails if there is a default already, which is then the choice of the embedding program.
    let _ = ring::default_provider().install_default();
}
