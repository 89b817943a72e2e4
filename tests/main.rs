//! All integration tests in one binary: a module for each kind, a sentence for each test.

/// Every definition is what a slow one says.
mod definitions;
/// The library in somebody else's program.
mod embedding;
/// What Spark would have written, computed slowly.
mod oracle;
/// A store keeps what it promises, whichever it is.
mod store;
mod cluster_control;
mod cluster_launch;
mod cluster_mesh;
mod cluster_strangers;
