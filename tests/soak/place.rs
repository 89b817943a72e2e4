//! Where a long run publishes: a directory, or a double that speaks OSS or S3.

use std::collections::BTreeMap;
use std::path::Path;

use crate::rig::{Invocation, Output, Rig, random};
use crate::store::oss_double::s3::S3_REGION;
use crate::store::oss_double::{Fault, OssDouble};
use crate::store_program::{TO, oss, program, stored};

/// The prefix of [`TO`].
pub(crate) const PREFIX: &str = "nyc-taxi/StreamingTest/";

pub(crate) enum Place {
    Local,
    Oss(OssDouble),
    S3(OssDouble),
}

impl Place {
    /// One of the kinds.
    pub(crate) fn at_random(seed: &mut u64) -> Place {
        match random(seed) % 3 {
            0 => Place::Local,
            1 => Place::Oss(OssDouble::start()),
            _ => Place::S3(OssDouble::start()),
        }
    }

    pub(crate) fn double(&self) -> Option<&OssDouble> {
        match self {
            Place::Local => None,
            Place::Oss(double) | Place::S3(double) => Some(double),
        }
    }

    /// Prepares a run that publishes here.
    pub(crate) fn wordtide(&self, rig: &Rig, by: &[&str], arguments: &str) -> Invocation {
        match self {
            Place::Local => {
                rig.wordtide_by(by, &format!("{arguments} --to bucket/{PREFIX} --suffix txt"))
            }
            Place::Oss(double) => oss(rig, double, &format!("{arguments} {TO}")),
            Place::S3(double) => {
                let to = format!("--to s3://demo/{PREFIX} --suffix txt --s3-region {S3_REGION}");
                let endpoint = format!("--s3-endpoint http://{}", double.address);
                program(rig, &format!("{arguments} {to} {endpoint}"))
            }
        }
    }

    /// Every object, by its key.
    pub(crate) fn objects(&self, rig: &Rig) -> BTreeMap<String, Vec<u8>> {
        match self.double() {
            Some(double) => double.objects(),
            None => files(&rig.path("bucket")),
        }
    }

    /// Markers so far.
    pub(crate) fn markers(&self, rig: &Rig) -> usize {
        match self.double() {
            Some(double) => double.count(|key| key.ends_with("/_SUCCESS")),
            None => rig.tree().iter().filter(|name| name.ends_with("/_SUCCESS")).count(),
        }
    }

    /// Reads the epochs back; fails on whatever should not be there.
    pub(crate) fn output(&self, rig: &Rig) -> Output {
        match self.double() {
            Some(double) => stored(rig, double),
            None => Output::read(&rig.path("bucket"), PREFIX, Some("txt")),
        }
    }

    pub(crate) fn set_outage(&self, is_away: bool) -> bool {
        self.double().map(|double| double.outage(is_away)).is_some()
    }

    /// So many requests of a hundred meet a fault.
    pub(crate) fn set_faults(&self, percent: u64, mut seed: u64) {
        let faults =
            [Fault::Status(503), Fault::ResetBefore, Fault::ResetInside, Fault::AnswerLost];
        if let Some(double) = self.double() {
            double.script(move |_, _| {
                let fault = faults[random(&mut seed) as usize % faults.len()];
                (random(&mut seed) % 100 < percent).then_some(fault)
            });
        }
    }
}

/// Fails if `key` is neither of an epoch nor of the program's own.
pub(crate) fn check_name(key: &str) -> Result<(), String> {
    let inner = key.strip_prefix(PREFIX).unwrap_or_default();
    let is_own = inner.starts_with("_wordtide/") || key.ends_with(".wordtide.lock");
    let (folder, name) = inner.split_once('/').unwrap_or_default();
    let epoch = folder.strip_prefix('-').and_then(|rest| rest.strip_suffix(".txt"));
    let is_epoch = epoch.is_some_and(|epoch| epoch.parse::<u64>().is_ok());
    let is_file = name == "_SUCCESS" || name.strip_prefix("part-").is_some_and(|n| n.len() == 5);
    let is_temporary = key.contains(".tmp") || key.contains(".part");
    if !is_temporary && (is_own || is_epoch && is_file) {
        Ok(())
    } else {
        Err(format!("{key} was left in the output"))
    }
}

fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in crate::rig::output::tree(root) {
        if let Ok(bytes) = std::fs::read(root.join(&name)) {
            files.insert(name, bytes);
        }
    }
    files
}

/// The objects of committed epochs, as they were seen last.
#[derive(Default)]
pub(crate) struct CommittedObjects(BTreeMap<String, Vec<u8>>);

impl CommittedObjects {
    /// Fails if an object of a committed epoch has changed or is gone; else remembers those of
    /// `objects`.
    pub(crate) fn look(&mut self, objects: BTreeMap<String, Vec<u8>>) -> Result<(), String> {
        for (key, bytes) in &self.0 {
            if objects.get(key) != Some(bytes) {
                return Err(format!("{key} was committed and has changed"));
            }
        }
        let is_committed = |key: &str| {
            let folder = key.rsplit_once('/').map(|(folder, _)| format!("{folder}/_SUCCESS"));
            folder.is_some_and(|marker| objects.contains_key(&marker))
        };
        let committed = objects.iter().filter(|(key, _)| is_committed(key));
        self.0 = committed.map(|(key, bytes)| (key.clone(), bytes.clone())).collect();
        Ok(())
    }
}
