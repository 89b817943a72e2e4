//! Opens the output of a job.

use super::objects::{ObjectForm, ObjectOutput};
use super::output::Output;
use crate::error::Result;
use crate::store::{StoreSettings, Target};

/// The settings of all kinds of outputs.
#[derive(Clone, Debug)]
pub struct OutputSettings {
    /// How an object store is reached.
    pub store: StoreSettings,
    /// The names of objects and the bytes of rows.
    pub form: ObjectForm,
}

/// Returns whether process 0 alone writes to the output: its workers then own all parts.
pub fn is_single(target: &Target) -> bool {
    *target == Target::Stdout
}

/// Opens the output of `target`. Asks no server yet.
///
/// # Errors
///
/// `Usage` or `Configuration` if a setting is missing or wrong, and the errors of creating a local
/// directory.
pub fn open(target: &Target, settings: &OutputSettings) -> Result<Box<dyn Output>> {
    let OutputSettings { store, form } = settings;
    Ok(Box::new(ObjectOutput::open(target, store, form.clone())?))
}
