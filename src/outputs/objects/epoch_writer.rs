//! Writes epochs as objects: the parts, then the marker.
//!
//! A part is created as soon as its rows are encoded, in any order and by any process. The marker
//! comes last, from worker 0, and makes the parts visible: readers wait for it.

use std::fs::File;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, try_join_all};

use super::check_ownership::Ownership;
use super::encode_rows::encode;
use super::marker_json::{MARKER_FORMAT, MarkedPart, Marker};
use super::object_names::Layout;
use super::put_objects::Publisher;
use super::take_claim;
use super::write_marker::write_marker;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::failure::Failure;
use crate::operators::{EpochRows, Tally};
use crate::outputs::durable_epochs::ROUND_PARTS_MAX;
use crate::outputs::output::{
    BegunPart, CompleteEpoch, EncodedPart, EpochWriter, PartReport, PartSteps,
};
use crate::settings::EmptyEpochs;
use crate::sources::topic_offsets;
use crate::store::StoreResult;
use crate::supervise;

impl EpochWriter for Publisher {
    /// Encodes rows as the text or file of each part, in the order and the format of the job.
    fn encode(&self, sets: &[EpochRows], parts: u32) -> Result<Vec<EncodedPart>> {
        let (order, encoding) = (self.publication.order, self.form.encoding);
        encode(sets, order, encoding, self.runtime(), parts)
    }

    /// Compresses a part, if it is to be, and creates its object. The report, which goes out by
    /// `known` while the part is stored, has the size and the MD5 for the marker.
    ///
    /// Fails with `Configuration` if there is another object of that name.
    fn write_part(
        &self,
        epoch: Epoch,
        part: EncodedPart,
        PartSteps { known, rounds, begun }: PartSteps,
    ) -> BoxFuture<'_, Result<()>> {
        let EncodedPart { part, rows, body } = part;
        async move {
            if begun.is_some() {
                // It is reported by the thread that has written it.
                let key = self.form.layout.part(epoch, part);
                return self.create_part(epoch, &key, body, (&rounds, begun)).await.map(drop);
            }
            let body = self.finish(body).await?;
            let hashed = body.clone();
            // The marker lists length and MD5, so it is prepared while the part is stored.
            let report = async move {
                let (bytes, md5) = (hashed.bytes(), supervise::blocking(move || hashed.md5_hex()));
                // It fails only when the job ends.
                let _ = known.send(PartReport { part, rows, bytes, md5: md5.await });
            };
            let key = self.form.layout.part(epoch, part);
            let create = self.create_part(epoch, &key, body, (&rounds, None));
            let (stored, ()) = futures::join!(create, report);
            stored.map(drop)
        }
        .boxed()
    }

    fn begin_part(&self, epoch: Epoch, part: &EncodedPart) -> Option<BegunPart> {
        self.begin_part(&self.form.layout.part(epoch, part.part), &part.body)
    }

    fn answered<'a>(&'a self, epoch: Epoch, work: BoxFuture<'a, bool>) -> BoxFuture<'a, ()> {
        self.answered(epoch, work).boxed()
    }

    /// Prepares the marker of an epoch, and stores it when the parts are durable.
    fn commit(&self, epoch: CompleteEpoch) -> BoxFuture<'_, Result<()>> {
        commit(self, epoch).boxed()
    }

    /// Returns the folder of the epoch.
    fn place(&self, epoch: Epoch) -> String {
        self.form.layout.dir(epoch)
    }

    /// Renews the claim on a bucket for as long as the run lasts; `None` for outputs without one.
    fn keep_claim(&self, failure: Failure) -> Option<BoxFuture<'static, Result<()>>> {
        let Ownership::Claimed(claim) = self.ownership() else { return None };
        Some(take_claim::keep(claim.clone(), failure).boxed())
    }

    /// Returns the lock of a local output, if this process holds it.
    fn lock(&self) -> Option<&Arc<File>> {
        self.ownership().lock()
    }

    /// Gives the claim back, so that the next start need not wait until it lapses.
    fn release(&self) -> BoxFuture<'_, StoreResult<()>> {
        self.ownership().release().boxed()
    }
}

/// Stores the parts without rows, if they are wanted, beside those with rows, and the marker when
/// all parts are durable.
///
/// An epoch that has rows gets all its parts, the empty ones too, so that a reader finds the same
/// names everywhere. One without rows gets what `--empty-epochs` asks for. Between the results of a
/// window nothing is published.
async fn commit(publisher: &Publisher, complete: CompleteEpoch) -> Result<()> {
    let CompleteEpoch { epoch, tally, kind, rows, publishes, parts, positions, .. } = complete;
    let (mut stored, durable) = (complete.stored, complete.durable);
    let publication = &publisher.publication;
    let empty = rows == 0;
    if !publishes {
        durable.wait().await;
        return Ok(());
    }
    let layout = &publisher.form.layout;
    let mut empties = Vec::new();
    if !empty || publication.empty_epochs == EmptyEpochs::Write {
        let body = publisher.form.encoding.empty(kind)?;
        let (bytes, md5) = (body.bytes(), body.md5_hex());
        for part in 0..parts {
            stored.entry(part).or_insert_with(|| {
                empties.push((layout.part(epoch, part), body.clone()));
                PartReport { part, rows: 0, bytes, md5: md5.clone() }
            });
        }
    }
    if empty && publication.empty_epochs == EmptyEpochs::Skip {
        durable.wait().await;
        // The results of windows after a restart build on this one.
        return publisher.note_attempt(epoch, 0).await;
    }
    let parts = stored.into_values().map(|part| marked(layout, part)).collect();
    let Tally { lines, words, .. } = tally;
    let program = concat!("wordtide ", env!("CARGO_PKG_VERSION")).to_owned();
    let (format, job) = (MARKER_FORMAT, publication.job.clone());
    let (state, started) = (Some(publication.state.clone()), Some(publication.started));
    let kafka = topic_offsets(&positions)?;
    let marker =
        Marker { format, program, job, state, started, epoch, lines, words, rows, parts, kafka };
    // The parts without rows are written before the round of the epoch begins, as the marker is.
    let is_ahead = empties.len() <= ROUND_PARTS_MAX;
    let written =
        empties.iter().map(|(key, body)| publisher.write_part(key, body.clone(), is_ahead));
    let written = try_join_all(written).await?;
    let begin = durable.begin_when_called();
    let durable = async {
        let with_rows = durable.all_durable().map(Ok);
        let empties = written.into_iter().map(async |part| {
            durable.begun().await;
            publisher.sync_part(epoch, part).await
        });
        futures::try_join!(with_rows, try_join_all(empties)).map(drop)
    };
    write_marker(publisher, &marker, begin, durable).await
}

/// Returns the entry of a part in the marker.
fn marked(layout: &Layout, part: PartReport) -> MarkedPart {
    let PartReport { part, rows, bytes, md5 } = part;
    MarkedPart { name: layout.part_name(part), rows, bytes, md5 }
}
