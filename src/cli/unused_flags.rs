//! Flags that do nothing without another one.
//!
//! On the command line such a flag is a mistake: a source was left out, or the flag is another
//! source's. It is refused before anything is read. In the environment and in a settings file,
//! which several jobs may share, a setting that this job has no use for is ignored.

use super::definitions::Dataflow;
use super::environment;
use super::flags::JobFlags;
use super::given_flags;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::SyncPolicy;
use crate::settings::FolderLayout;
use crate::store::{DatabaseKind, Target};

/// Flags, and what must be given for them to be used.
struct Dependents {
    /// The long names of the flags.
    flags: &'static [&'static str],
    /// The owner of the flags, as part of a sentence.
    needs: &'static str,
    /// Returns true if that is given.
    is_used: fn(&Asked<'_>) -> bool,
    /// True for flags of sources and of the state, of which a replayed journal takes the place.
    is_of_reading: bool,
}

/// A kind of run, as far as it decides which flags are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// A run of a job.
    Job,
    /// A replay of a kept journal.
    Replay,
    /// The demo, which has a source and an output of its own and keeps no state.
    Demo,
}

/// The flags of a run, with the output that they name.
struct Asked<'a> {
    flags: &'a JobFlags,
    kind: RunKind,
    to: Target,
}

impl Asked<'_> {
    /// Returns true if a later start can go on from this run's state.
    fn keeps_state(&self) -> bool {
        self.kind != RunKind::Demo && self.flags.keeps_state()
    }

    /// Returns true if senders connect to this job.
    fn listens(&self) -> bool {
        let source = &self.flags.source;
        !source.listen.is_empty() || !source.listen_http.is_empty()
    }

    /// Returns true if rows go into a table or an index.
    fn has_database(&self) -> bool {
        matches!(self.to, Target::Database(_) | Target::Search(_))
    }

    /// Returns true if the output or a watched place has a URL that begins with `scheme`.
    fn has_bucket(&self, scheme: &str) -> bool {
        let watched = || self.flags.source.watch.iter().any(|place| place.starts_with(scheme));
        match &self.to {
            Target::Oss { .. } if scheme == "oss://" => true,
            Target::S3 { .. } if scheme == "s3://" => true,
            _ => watched(),
        }
    }

    /// Returns true if an object store is written to or watched.
    fn has_any_bucket(&self) -> bool {
        self.has_bucket("oss://") || self.has_bucket("s3://")
    }

    /// Returns true if a server may be asked for a certificate.
    fn has_server(&self) -> bool {
        let is_server = match &self.to {
            Target::Database(target) => target.kind != DatabaseKind::Sqlite,
            Target::Search(_) => true,
            _ => false,
        };
        is_server || self.has_any_bucket()
    }

    /// Returns true if a number of processes was given, be it 1: a cluster may have any size.
    fn has_cluster(&self) -> bool {
        const FLAG: &str = "processes";
        let is_given = given_flags::was_typed(FLAG) || given_flags::was_found(FLAG);
        is_given || self.flags.workers.processes > 1
    }
}

/// A state is kept, which `--no-state` and `--to -` go without.
const STATE: &str = "a state, which a run with --no-state or --to - does not keep";
/// An object store of either kind.
const OSS: &str = "oss:// in --to or --watch";
const S3: &str = "s3:// in --to or --watch";

/// All flags of a run that do nothing without another one.
const DEPENDENT: &[Dependents] = &[
    Dependents {
        flags: &["max-connections", "tls-cert", "tls-key"],
        needs: "--listen or --listen-http",
        is_used: |asked| asked.listens(),
        is_of_reading: true,
    },
    Dependents {
        flags: &["token-file"],
        needs: "--listen-http or --http",
        is_used: |asked| {
            !asked.flags.source.listen_http.is_empty() || asked.flags.watch.http.is_some()
        },
        is_of_reading: true,
    },
    Dependents {
        flags: &["max-body-bytes"],
        needs: "--listen-http",
        is_used: |asked| !asked.flags.source.listen_http.is_empty(),
        is_of_reading: true,
    },
    Dependents {
        flags: &["kafka-start", "kafka-config"],
        needs: "--kafka",
        is_used: |asked| !asked.flags.source.kafka.is_empty(),
        is_of_reading: true,
    },
    Dependents {
        flags: &["watch-existing", "watch-every"],
        needs: "--watch",
        is_used: |asked| !asked.flags.source.watch.is_empty(),
        is_of_reading: true,
    },
    Dependents {
        flags: &["sync", "sync-every", "journal-max", "keep-journal", "abandon-journal"],
        needs: STATE,
        is_used: |asked| asked.keeps_state(),
        is_of_reading: true,
    },
    Dependents {
        flags: &["sync-every"],
        needs: "--sync epoch",
        is_used: |asked| asked.flags.state.sync == SyncPolicy::Epoch,
        is_of_reading: true,
    },
    Dependents {
        flags: &["write"],
        needs: "a database or an index in --to",
        is_used: |asked| asked.has_database(),
        is_of_reading: false,
    },
    Dependents {
        flags: &["suffix"],
        needs: "a path prefix or an object store in --to",
        is_used: |asked| asked.to != Target::Stdout,
        is_of_reading: false,
    },
    Dependents {
        flags: &["time-zone"],
        needs: "--layout hive",
        // An output without folders is named in the refusal of its own.
        is_used: |asked| asked.flags.output.layout == FolderLayout::Hive || asked.has_database(),
        is_of_reading: false,
    },
    Dependents {
        flags: &["oss-endpoint", "oss-region"],
        needs: OSS,
        is_used: |asked| asked.has_bucket("oss://"),
        is_of_reading: false,
    },
    Dependents {
        flags: &["s3-endpoint", "s3-region", "s3-addressing"],
        needs: S3,
        is_used: |asked| asked.has_bucket("s3://"),
        is_of_reading: false,
    },
    Dependents {
        flags: &["ca-file"],
        needs: "a server in --to, or a bucket in --watch",
        is_used: |asked| asked.has_server(),
        is_of_reading: false,
    },
    Dependents {
        flags: &["allow-http"],
        needs: "a bucket or an index in --to, or a bucket in --watch",
        is_used: |asked| matches!(asked.to, Target::Search(_)) || asked.has_any_bucket(),
        is_of_reading: false,
    },
    Dependents {
        flags: &["hostfile", "mesh-key-file", "start-timeout", "stall-timeout"],
        needs: "-n",
        is_used: |asked| asked.has_cluster(),
        is_of_reading: false,
    },
    Dependents {
        flags: &["events-max"],
        needs: "--events",
        is_used: |asked| asked.flags.profile.events.is_some(),
        is_of_reading: false,
    },
];

/// Refuses flags that were typed and do nothing in this `kind` of run, which publishes `to` that
/// output. The output is asked for only if such a flag was typed.
///
/// # Errors
///
/// `Usage`, naming the flag, and what it belongs to. Those of `to`.
pub fn check(flags: &JobFlags, kind: RunKind, to: impl FnOnce() -> Result<Target>) -> Result<()> {
    if environment::is_launched() {
        // The launcher has checked the same arguments.
        return Ok(());
    }
    let is_judged = |those: &&Dependents| kind != RunKind::Replay || !those.is_of_reading;
    let typed = |those: &Dependents| -> Option<&'static str> {
        those.flags.iter().copied().find(|flag| given_flags::was_typed(flag))
    };
    let typed = DEPENDENT.iter().filter(is_judged).filter_map(|those| Some((those, typed(those)?)));
    let mut typed = typed.peekable();
    if typed.peek().is_none() {
        return Ok(());
    }
    let asked = Asked { flags, kind, to: to()? };
    let mut useless_flags = typed.filter(|(those, _)| !(those.is_used)(&asked));
    useless_flags.next().map_or(Ok(()), |(those, flag)| Err(useless(flag, those.needs)))
}

/// Refuses flags of words for a definition that has none: one that archives lines, and one that
/// counts fields, where they are not split.
///
/// # Errors
///
/// `Usage`, naming the flag.
pub fn check_words(dataflow: &Dataflow) -> Result<()> {
    let unused: &[&str] = match dataflow {
        Dataflow::LineArchive => &["split", "lowercase", "max-word-bytes"],
        Dataflow::FieldCount(_) => &["split"],
        _ => &[],
    };
    match unused.iter().find(|flag| given_flags::was_typed(flag)) {
        Some(flag) if !environment::is_launched() => {
            Err(useless(flag, "a dataflow that splits lines into words"))
        }
        _ => Ok(()),
    }
}

/// Returns the error of a flag without what it belongs to.
pub fn useless(flag: &str, needs: &str) -> Error {
    let message = format!("--{flag} does nothing here: it belongs to {needs}");
    Error::new(ErrorKind::Usage, message).hint(format!("give that, or leave --{flag} out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags that every run uses, or that other checks refuse.
    const OTHERS: [&str; 37] = [
        "connect",
        "listen",
        "file",
        "listen-http",
        "kafka",
        "stdin",
        "watch",
        "once",
        "max-line-bytes",
        "max-word-bytes",
        "to",
        "format",
        "compress",
        "layout",
        "parts",
        "empty-epochs",
        "sort",
        "interval",
        "epochs",
        "split",
        "lowercase",
        "threads",
        "processes",
        "process",
        "restart",
        "state",
        "no-state",
        "results-memory",
        "stop-timeout",
        "http",
        "log-format",
        "verbose",
        "quiet",
        "events",
        "config",
        "take-over",
        "addresses",
    ];

    #[test]
    fn every_flag_is_judged() {
        let command = super::super::commands::command();
        let run = command.find_subcommand("run").expect("a command");
        let judged = |flag: &str| DEPENDENT.iter().any(|those| those.flags.contains(&flag));
        let flags = run.get_arguments().filter_map(clap::Arg::get_long);
        for flag in flags.filter(|flag| *flag != "help") {
            assert!(judged(flag) != OTHERS.contains(&flag), "--{flag} needs a decision");
        }
    }
}
