//! All settings of a job in one structure. The builder fills it, [`plan`](super::plan) checks it,
//! and the plan of a running job keeps it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::ClusterSettings;
use crate::epoch::{Clock, SystemClock};
use crate::journal::JournalSettings;
use crate::lines::LongLine;
use crate::meters::Meters;
use crate::outputs::{FormSettings, OnCommit, SqlSettings};
use crate::settings::Settings;
use crate::sources::{Source, Stop};
use crate::state::Identity;
use crate::store::{StoreSettings, Target};
use crate::worker::Definition;

/// Where the state of a job is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StatePlace {
    /// Nowhere: a crash loses what was not committed, and a restart is a new job.
    #[default]
    None,
    /// In exactly this directory.
    Dir(PathBuf),
    /// In a directory below this one, named by definition and identity, so that a job with other
    /// flags is another job.
    Below(PathBuf),
}

impl StatePlace {
    /// Returns the folder of the job with this identity; `None` for a job without state.
    pub(crate) fn dir(&self, identity: &Identity) -> Option<PathBuf> {
        match self {
            StatePlace::None => None,
            StatePlace::Dir(dir) => Some(dir.clone()),
            StatePlace::Below(dir) => {
                Some(dir.join(format!("{}-{}", identity.definition_name(), identity.digest())))
            }
        }
    }
}

/// The settings of a job, as its owner gives them.
#[derive(Clone)]
pub struct JobSettings {
    /// The sources, each with the process that reads it, where one was named.
    pub sources: Vec<(Source, Option<usize>)>,
    /// The definition and its name, which is part of the identity. A job needs one.
    pub definition: Option<(String, Definition)>,
    /// The time from the end of a window to the next, if the definition has windows.
    pub slide: Option<Duration>,
    /// The output. A job needs one.
    pub target: Option<Target>,
    /// The names and the bytes of objects.
    pub form: FormSettings,
    /// Where state is kept.
    pub state: StatePlace,
    /// The limits of the journals, and when they are synced.
    pub journal: JournalSettings,
    /// Ids of journals that are given up, with the lines in them.
    pub abandoned: Vec<String>,
    /// A kept journal that is run again in place of sources.
    pub replay: Option<PathBuf>,
    /// Intervals, workers and limits.
    pub settings: Settings,
    /// How an object store is reached.
    pub store: StoreSettings,
    /// How rows come into a database or an index.
    pub sql: SqlSettings,
    /// True if a prefix may be taken from another job.
    pub take_over: bool,
    /// The processes that take part, and which of them this is.
    pub cluster: ClusterSettings,
    /// The clock, of which epochs get their names.
    pub clock: Arc<dyn Clock>,
    /// Asks the job to stop, and ends every wait of its start.
    pub stop: Stop,
    /// Called with every committed epoch, in order.
    pub on_commit: Option<OnCommit>,
    /// The rule for lines above the limit.
    pub on_long_line: LongLine,
    /// The figures of the process.
    pub meters: Meters,
}

impl Default for JobSettings {
    fn default() -> JobSettings {
        JobSettings {
            sources: Vec::new(),
            definition: None,
            slide: None,
            target: None,
            form: FormSettings::default(),
            state: StatePlace::default(),
            journal: JournalSettings::default(),
            abandoned: Vec::new(),
            replay: None,
            settings: Settings::default(),
            store: StoreSettings::default(),
            sql: SqlSettings::default(),
            take_over: false,
            cluster: ClusterSettings::default(),
            clock: SystemClock::shared(),
            stop: Stop::new(),
            on_commit: None,
            on_long_line: LongLine::CutAtSpace,
            meters: Meters::default(),
        }
    }
}
