//! Writes `_SUCCESS`, the marker that commits an epoch.

use super::marker_json::Marker;
use super::put_objects::Publisher;
use crate::crash_points::crash_point;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::store::Body;

/// Makes the names of the parts durable, notes the epoch in the commit log, stores the marker, and
/// makes its name durable.
///
/// The note comes before the marker, because a reader may remove the epoch as soon as the marker
/// exists. Returns when the epoch is committed.
pub async fn write_marker(publisher: &Publisher, epoch: Epoch, marker: &Marker) -> Result<()> {
    let layout = &publisher.form.layout;
    let dir = layout.dir(epoch);
    if !marker.parts.is_empty() {
        publisher.seal(&dir).await?;
    }
    publisher.note_attempt(epoch, marker.parts.len()).await?;
    crash_point("output.before_marker");
    publisher.create(epoch, &layout.marker(epoch), Body::from(marker.to_bytes())).await?;
    publisher.seal(&dir).await?;
    publisher.note_commit(epoch);
    crash_point("output.after_marker");
    Ok(())
}
