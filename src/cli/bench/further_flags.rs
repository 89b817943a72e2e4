//! The further flags of the measured program, after `--`. Those that change what it reads, counts,
//! writes or logs are refused: the bench sets them itself, or could not read the output.

use std::ffi::OsString;

use clap::error::ErrorKind as ClapErrorKind;

use super::super::commands;
use super::super::precedence::{self, Flags};
use crate::error::{Error, ErrorKind, Result};

/// The flags that may follow `--`: they change how a run works, and no row.
const HARMLESS: [&str; 14] = [
    "events",
    "events-max",
    "http",
    "journal-max",
    "keep-journal",
    "parts",
    "results-memory",
    "sort",
    "stall-timeout",
    "start-timeout",
    "stop-timeout",
    "sync",
    "sync-every",
    "verbose",
];

/// Flags of a run, and the flag of the bench that stands for each.
const INSTEAD: [(&str, &str); 9] = [
    ("connect", "--corpus"),
    ("file", "--corpus"),
    ("interval", "--interval"),
    ("no-state", "--journal no"),
    ("processes", "-n"),
    ("state", "--journal yes"),
    ("threads", "-w"),
    ("to", "--scratch"),
    ("watch", "--corpus"),
];

/// Checks the further flags as a run would parse them.
///
/// # Errors
///
/// `Usage` for a flag that a run does not take, or that is not harmless.
pub fn check(extra: &[OsString]) -> Result<()> {
    let command = commands::command();
    let run = ["wordtide", "run", "network_wordcount"].map(OsString::from);
    let matches = precedence::parse_typed(&command, &[&run, extra].concat());
    let matches = matches.map_err(|error| match error.kind() {
        ClapErrorKind::DisplayHelp => refused("help"),
        ClapErrorKind::DisplayVersion => refused("version"),
        _ => {
            let message = format!("the flags after -- are wrong: {}", precedence::one_line(&error));
            Error::new(ErrorKind::Usage, message).hint("`wordtide run --help` has those of a run")
        }
    })?;
    let flags = Flags::of(&command, &matches);
    let typed = flags.typed(&matches);
    let given = flags.0.iter().filter(|(_, flag)| typed.contains(flag.get_id().as_str()));
    let mut names = given.filter_map(|(_, flag)| flag.get_long());
    names.find(|name| !HARMLESS.contains(name)).map_or(Ok(()), |name| Err(refused(name)))
}

fn refused(name: &str) -> Error {
    let message = format!("--{name} after -- would change what the bench measures");
    let instead = INSTEAD.iter().find(|(known, _)| *known == name);
    Error::new(ErrorKind::Usage, message).hint(match instead {
        Some((_, flag)) => format!("give {flag} before --"),
        None => format!("leave --{name} out"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(flags: &str) -> Result<()> {
        let flags: Vec<OsString> = flags.split_whitespace().map(OsString::from).collect();
        check(&flags)
    }

    #[test]
    fn harmless_flags_are_flags_of_a_run() {
        let command = commands::command();
        let run = ["wordtide", "run", "network_wordcount"].map(OsString::from);
        let matches = precedence::parse_typed(&command, &run).expect("a run");
        let flags = Flags::of(&command, &matches);
        let names: Vec<&str> = flags.0.iter().filter_map(|(_, flag)| flag.get_long()).collect();
        let instead = INSTEAD.iter().map(|(name, _)| name);
        for name in HARMLESS.iter().chain(instead) {
            assert!(names.contains(name), "{name}");
        }
        assert!(checked("").is_ok());
        checked("-v --sync-every 2s --stop-timeout=5s --journal-max 1MiB").expect("harmless");
    }

    #[test]
    fn flags_that_change_the_run_are_refused() {
        let cases = "--lowercase|--max-word-bytes 9|--max-line-bytes 9|--layout hive|--file x\
            |--connect a:1|--listen a:1|--stdin|--watch x|--compress gzip|--format tsv|--once\
            |--split space|--to x|--suffix x|--threads 2|--processes 2|--interval 1s|--no-state\
            |--state x|--epochs 1|--quiet|--log-format text|--config x|--restart 1|--help\
            |--version|--empty-epochs none|--write append|--addresses a:1,b:1";
        for flags in cases.split('|') {
            let error = checked(flags).expect_err(flags);
            assert_eq!(error.kind(), ErrorKind::Usage, "{flags}");
            let name = flags.split(' ').next().expect("a flag");
            assert!(error.to_string().contains(name), "{flags}: {error}");
        }
        for (flags, says) in [("-w2", "give -w before --"), ("-vq", "--quiet"), ("-?", "--help")] {
            let error = checked(flags).expect_err(flags).to_string();
            assert!(error.contains(says), "{flags}: {error}");
        }
    }

    #[test]
    fn unknown_flags_are_refused_with_their_name() {
        let error = checked("--lowrcase").expect_err("unknown").to_string();
        assert!(error.contains("'--lowrcase'") && !error.contains('\n'), "{error}");
    }
}
