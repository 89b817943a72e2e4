//! The arguments of `wordtide state`.

use std::path::PathBuf;

use clap::Args;

use super::super::parse_values::named;
use crate::named_values::named_values;

/// Arguments of `wordtide state`.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// State folders, or folders that hold some [default: ./wordtide-state]
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,

    /// Form of the list: text, or one JSON object a line
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = named::<ListForm>())]
    pub format: ListForm,

    /// Remove the state folders; refused (78) if a job runs or lines are not committed
    #[arg(long)]
    pub remove: bool,
}

/// The form of a list of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListForm {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

named_values!(ListForm, "--format", Text => "text", Json => "json");
