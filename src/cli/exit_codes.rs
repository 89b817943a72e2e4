//! The exit codes ([`CODES`]), and that of each kind of error.

use std::process;

use crate::error::ErrorKind;

/// The exit codes and what they mean.
pub const CODES: &[(&str, &str)] = &[
    ("0", "Done, stopped with everything committed, or stopped before anything was read."),
    ("1", "Failed: the message has the reason."),
    ("2", "A flag, a variable or a setting is wrong: nothing was started."),
    ("69", "A process of the cluster was lost or did not come: start all again."),
    ("70", "A task panicked: a defect."),
    ("74", "The local disk failed or holds damaged state."),
    ("75", "Something outside was out of reach for too long: a restart helps."),
    ("78", "A configuration or credential was refused: a restart does not help."),
    (
        "130, 143",
        "Ended at once by a second SIGINT, or by a second SIGTERM or SIGHUP; a bench by the first.",
    ),
];

/// Ended by a second SIGINT.
pub const INTERRUPTED: u8 = 130;
/// Ended by a second SIGTERM or SIGHUP.
pub const TERMINATED: u8 = 143;

/// Returns the exit code for an error of this kind.
pub fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => 2,
        ErrorKind::PeerLost => 69,
        ErrorKind::Panicked => 70,
        ErrorKind::Disk => 74,
        ErrorKind::Temporary => 75,
        ErrorKind::Configuration => 78,
        ErrorKind::Failed => 1,
        ErrorKind::Stopped => 0,
    }
}

/// Ends the process at once; lines that wait for standard error are lost.
#[allow(clippy::disallowed_methods)] // a hung job cannot be returned from
pub fn exit(code: u8) -> ! {
    process::exit(code.into())
}
