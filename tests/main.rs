//! All integration tests in one binary: a module for each kind, a sentence for each test.

mod oracle;
