//! `wordtide check`: will the output take an epoch?

use super::flags::JobFlags;
use super::{failed, log_lines, print, run};
use crate::error::Result;

/// Tries out the output, and prints how it was reached.
///
/// Fails with the kind that a run would fail with.
pub fn run(flags: &JobFlags) -> Result<()> {
    log_lines::install(&flags.watch, Some(0));
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| failed("cannot start the runtime for requests", error))?;
    let output = run::output(flags)?;
    let found = runtime.block_on(output.check())?;
    if found.is_empty() {
        return print(b"standard output: nothing to check\n");
    }
    let lines: String = found.iter().map(|(name, fact)| format!("{name:12}{fact}\n")).collect();
    print(lines.as_bytes())
}
