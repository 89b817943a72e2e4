//! From counts to published objects.

pub mod format;
