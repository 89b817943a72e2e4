//! All integration tests in one binary: a module for each kind, a sentence for each test.

mod cluster_control;
mod cluster_launch;
mod cluster_mesh;
mod cluster_strangers;
