//! The identity of a job: all that determines the bytes it publishes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::outputs::FormSettings;
use crate::outputs::format::{Compression, Format};
use crate::settings::{EmptyEpochs, FolderLayout, RowOrder, Settings};
use crate::store::Target;
use crate::words::WordOptions;

/// All that shapes the bytes of a job, and so its identity. Where lines come from is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Name of the definition, with its parameters.
    pub definition: String,
    /// Length of an epoch.
    pub interval_ms: u64,
    /// Parts of a result.
    pub parts: u32,
    /// The rules by which lines become words.
    pub words: WordOptions,
    /// Longest line.
    pub line_bytes_max: usize,
    /// The bytes of a row.
    pub format: Format,
    /// The order of rows in a part.
    pub order: RowOrder,
    /// The objects of epochs without rows.
    pub empty_epochs: EmptyEpochs,
    /// The output.
    pub output: String,
    /// The end of the names of epochs.
    pub suffix: Option<String>,
    // What follows is left out where it is the default: a state of a release without it has the
    // same identity.
    /// The compression of parts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compress: Compression,
    /// The names of the folders of epochs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub layout: FolderLayout,
    /// The time zone in which folders are named.
    #[serde(default, skip_serializing_if = "is_default")]
    pub time_zone: Option<String>,
}

/// Returns the flags that set a field.
fn flag(field: &str) -> String {
    match field {
        "definition" => "the dataflow or its parameters".to_owned(),
        "interval_ms" => "--interval".to_owned(),
        "words" => "--split, --lowercase, --max-word-bytes".to_owned(),
        "line_bytes_max" => "--max-line-bytes".to_owned(),
        "order" => "--sort".to_owned(),
        "output" => "--to".to_owned(),
        field => format!("--{}", field.replace('_', "-")),
    }
}

/// Returns true for the default of a type.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Identity {
    /// Returns the identity of the job called `definition`.
    ///
    /// # Errors
    ///
    /// `Usage` if the time zone is not known.
    pub fn new(
        definition: String,
        settings: &Settings,
        form: &FormSettings,
        target: &Target,
    ) -> Result<Identity> {
        Ok(Identity {
            definition,
            interval_ms: settings.interval.as_millis() as u64,
            parts: settings.parts.unwrap_or(0),
            words: settings.words.clone(),
            line_bytes_max: settings.line_bytes_max,
            format: form.format,
            order: settings.order,
            empty_epochs: settings.empty_epochs,
            output: target.to_string(),
            suffix: form.suffix.clone(),
            compress: form.encoding().compression,
            layout: form.layout,
            time_zone: form.zone_name()?,
        })
    }

    /// Returns the identity that a state folder states; `None` if it cannot be read.
    pub fn of_state(state: &Path) -> Option<Identity> {
        serde_json::from_slice(&fs::read(state.join(super::IDENTITY)).ok()?).ok()
    }

    /// Returns the name of the definition, without its parameters.
    pub fn definition_name(&self) -> &str {
        self.definition.split(' ').next().unwrap_or_default()
    }

    /// Returns a hash of the identity in 16 hexadecimal digits.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).expect("plain values have a JSON form");
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&json))
    }

    /// Returns the fields that differ from `other`, with both values, and their flags.
    pub fn differences(&self, other: &Identity) -> String {
        let fields = |identity| match serde_json::to_value(identity) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (ours, theirs) = (fields(self), fields(other));
        // A field that is left out has its default.
        let shown = |value: Option<&serde_json::Value>| {
            value.map_or_else(|| "the default".to_owned(), ToString::to_string)
        };
        let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        let differing = names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name));
        let texts = differing.map(|name| {
            let (there, here) = (shown(theirs.get(name)), shown(ours.get(name)));
            format!("{name} is {there} there, {here} here ({})", flag(name))
        });
        texts.collect::<Vec<_>>().join(", ")
    }
}
