//! The state ids of a job, which its markers bear.

use serde::{Deserialize, Serialize};

/// The state ids that a state folder knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// The id of the folder's job, 32 hexadecimal digits; none before the first start.
    pub id: Option<String>,
    /// The ids that were given up for it, newest first.
    pub former: Vec<String>,
}

impl Ids {
    /// Returns `true` if `id` is or was the id of the job.
    pub fn contains(&self, id: &str) -> bool {
        self.id.iter().chain(&self.former).any(|own| own == id)
    }
}
