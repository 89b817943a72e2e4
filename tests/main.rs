//! All integration tests in one binary: a module for each kind, a sentence for each test.

/// A store keeps what it promises, whichever it is.
#[cfg(test)]
mod store;
