//! All integration tests in one binary: a module for each kind, a sentence for each test.

// A test fails by panicking, and prints what it skipped or measured.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

/// A wall clock that jumps.
mod bench;
mod clock;
/// Blocks of lines from one process to another.
mod cluster_blocks;
/// Control links: the first cause reaches all processes.
mod cluster_control;
/// One command starts all processes of a machine.
mod cluster_launch;
/// Processes find each other and count as one.
mod cluster_mesh;
/// Many processes of the real program as one, and what ends them.
mod cluster_program;
/// An unknown peer on a port neither stops nor joins a cluster.
mod cluster_strangers;
/// Whole epochs in a database.
mod databases;
/// Every definition gives what a slow one gives.
mod definitions;
/// Every definition, in many processes, by the real program.
mod definitions_program;
/// A run with state: files, a full journal, a journal that is gone.
mod durable;
/// The library in another program.
mod embedding;
/// A finished job that dies late starts again.
mod finish;
/// Parquet, compression and folders by date: the rows are those of text.
mod forms;
/// Random and changed bytes from strangers.
mod fuzz;
/// Lines that senders post over HTTP, and the client that posts them.
mod http;
/// Memory stays bounded, whatever the line looks like.
mod limits;
/// Senders that connect, one source log of all.
mod listen;
/// Lines on standard error as JSON objects.
mod log_format;
/// Totals and windows go on where they were.
mod memory;
/// A run that is watched: the page, metrics, probes and the API.
mod monitor;
/// The output of Spark, computed slowly.
mod oracle;
/// The contents of the output.
mod output;
/// One writer below a prefix: two jobs never mix, and the second learns whose it is.
mod owner;
/// One writer on object stores, by claims.
mod owner_store;
/// Named pipes, and standard input under a file's name.
mod pipes;
/// Where the time of a run goes.
mod profile;
/// Lines, cuts, workers, parts and epochs, at random, against the oracle.
mod properties;
/// Words that hardly repeat, counted by ranges that workers share.
mod ranges;
/// Settings that cannot run are refused, with the way out.
mod refusals;
/// Results wait on disk while the store is away.
mod results;
/// Runs the real program.
mod rig;
/// Two jobs on one prefix, at random.
mod schedules;
/// An index as the output.
mod search;
/// The protocol of a service manager.
mod service;
/// Mistakes in settings, by flag and by variable, are refused in words that help.
mod settings;
/// Settings from a file, and the command that prints one.
mod settings_file;
/// A long random run with every fault at hand.
mod soak;
/// Connections that come, go and break; files; standard input.
mod sources;
/// The output of a real Spark, case by case, by the real program.
mod spark;
/// State folders are listed, and removed when they are not needed.
mod states;
/// Standard error that is not read, closed or broken holds up nothing.
mod stderr;
/// Whole epochs on standard output.
mod stdout;
/// A stop loses nothing.
mod stop;
/// A stop of a job that has not begun.
mod stop_start;
/// A store keeps what it promises, whichever it is.
mod store;
/// The program against an object store that judges and misbehaves.
mod store_program;
/// The program with odd settings of an object store.
mod store_settings;
/// A panic of any task ends the run.
mod supervision;
/// The sources keep the rules that no compiler checks.
mod tidy;
/// Nothing is lost and nothing doubled, however often and wherever the program dies.
mod torture;
/// Flags that do nothing without another one.
mod unused_flags;
/// States of earlier releases are continued.
mod upgrade;
/// Files that appear in a folder or a bucket.
mod watch;
/// Windows after a restart, where slides were skipped.
mod windows;
