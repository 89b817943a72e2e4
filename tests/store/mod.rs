//! Stores from outside: one suite of promises, held to every implementation.

mod conditional;
mod conformance;
pub(crate) mod memory;
pub(crate) mod oss_double;
mod outside;
mod remote;

use memory::MemoryStore;
use wordtide::internals::store::local::LocalStore;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn memory_keeps_the_promises_of_a_store() {
    runtime().block_on(conformance::check(&MemoryStore::new()));
}

#[test]
fn local_directory_keeps_promises_of_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path().join("out")).unwrap();
    runtime().block_on(conformance::check(&store));
}
