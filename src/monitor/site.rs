//! The things that the server shows, and to whom.

use std::sync::Arc;

use tokio::sync::watch;

use super::access::Access;
use super::events::Events;
use crate::meters::Meters;

/// The things that a server shows, and to whom.
#[derive(Debug)]
pub(super) struct Site {
    /// The figures of the run.
    pub(super) meters: Meters,
    /// The rules by which requests are answered.
    pub(super) access: Access,
    /// The committed epochs, as events.
    pub(super) events: Arc<Events>,
    /// True when the run has ended.
    pub(super) ended: watch::Receiver<bool>,
}

impl Site {
    /// Returns a site that shows `meters` until `ended` becomes true.
    pub(super) fn new(meters: Meters, access: Access, ended: watch::Receiver<bool>) -> Site {
        let events = Arc::new(Events::new(meters.clone()));
        Site { meters, access, events, ended }
    }
}
