//! The things that the server shows, and to whom.

use std::sync::Arc;

use tokio::sync::watch;

use super::authorize::Access;
use super::event_stream::Events;
use crate::meters::Meters;

/// The things that a server shows, and to whom.
#[derive(Debug)]
pub struct Site {
    /// The figures of the run.
    pub meters: Meters,
    /// The rules by which requests are answered.
    pub access: Access,
    /// The committed epochs, as events.
    pub events: Arc<Events>,
    /// True when the run has ended.
    pub ended: watch::Receiver<bool>,
}

impl Site {
    /// Returns a site that shows `meters` until `ended` becomes true.
    pub fn new(meters: Meters, access: Access, ended: watch::Receiver<bool>) -> Site {
        let events = Arc::new(Events::new(meters.clone()));
        Site { meters, access, events, ended }
    }
}
