//! Writes `_SUCCESS`, the marker that commits an epoch.

use tokio::sync::watch;

use super::marker_json::Marker;
use super::put_objects::Publisher;
use crate::crash_points::crash_point;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::store::Body;

/// Notes the epoch, whose parts are durable, in the commit log, stores the marker, and makes its
/// name durable.
///
/// The note comes before the marker, because a reader may remove the epoch as soon as the marker
/// exists. The bytes of the marker are prepared meanwhile. Returns when the epoch is committed.
pub async fn write_marker(publisher: &Publisher, epoch: Epoch, marker: &Marker) -> Result<()> {
    let layout = &publisher.form.layout;
    let key = layout.marker(epoch);
    let (noted, is_noted) = watch::channel(false);
    let note = async {
        publisher.note_attempt(epoch, marker.parts.len()).await?;
        crash_point("output.before_marker");
        noted.send_replace(true);
        Ok(())
    };
    let create = publisher.create_marker(epoch, &key, Body::from(marker.to_bytes()), is_noted);
    futures::try_join!(note, create)?;
    publisher.seal(&layout.dir(epoch)).await?;
    publisher.note_commit(epoch);
    crash_point("output.after_marker");
    Ok(())
}
