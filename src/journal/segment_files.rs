//! The files of a log, looked at without opening the journal.

use std::sync::Arc;

use super::disk::{Disk, File};
use super::read_back::damage_error;
use super::record::Entry;
use super::record_bytes::Fault;
use super::scan_segment::{Cursor, Step};
use super::segment::{self, HEADER, Header, read_header};
use super::shared_state::disk_error;
use crate::error::Result;

/// The segment files of a folder in order, opened when looked at.
pub struct Log<'d> {
    /// The folder of the log.
    pub disk: &'d dyn Disk,
    /// The position of the first byte of each segment, ascending.
    pub bases: Vec<u64>,
}

impl<'d> Log<'d> {
    /// Lists the segments.
    ///
    /// Fails with `Disk` if the folder cannot be read.
    pub fn list(disk: &'d dyn Disk) -> Result<Log<'d>> {
        let names = disk.list().map_err(|error| {
            disk_error(format!("listing {} failed: {error}", disk.place("")), error)
        })?;
        let mut bases: Vec<u64> = names.iter().filter_map(|name| segment::base(name)).collect();
        bases.sort_unstable();
        Ok(Log { disk, bases })
    }

    /// Returns the error of a segment that cannot be read.
    pub fn failed(&self, at: usize, error: std::io::Error) -> crate::Error {
        let place = self.disk.place(&segment::name(self.bases[at]));
        disk_error(format!("reading {place} failed: {error}"), error)
    }

    /// Opens a segment.
    ///
    /// Fails with `Disk`, naming the segment.
    pub fn open(&self, at: usize) -> Result<Arc<dyn File>> {
        let name = segment::name(self.bases[at]);
        self.disk.open(&name).map_err(|error| self.failed(at, error))
    }

    /// Returns the segment's file, its length, and the first position that it cannot hold.
    ///
    /// Fails with `Disk` if the segment cannot be opened.
    pub fn extent(&self, at: usize) -> Result<(Arc<dyn File>, u64, u64)> {
        let file = self.open(at)?;
        let bytes = file.bytes().map_err(|error| self.failed(at, error))?;
        let end = self.bases[at].saturating_add(bytes.saturating_sub(HEADER));
        Ok((file, bytes, end))
    }

    /// Returns the header of a segment, `None` if it cannot be trusted or is another journal's.
    ///
    /// Fails with `Disk` if the segment cannot be read.
    pub fn header(&self, at: usize, id: Option<u128>) -> Result<Option<Header>> {
        let file = self.open(at)?;
        let header = read_header(&file, self.bases[at]).map_err(|e| self.failed(at, e))?;
        Ok(header.filter(|header| id.is_none_or(|id| id == header.id)))
    }

    /// Returns where the next segment begins; `None` for the last one.
    pub fn next_base(&self, at: usize) -> Option<u64> {
        self.bases.get(at + 1).copied()
    }

    /// Returns the error of a damaged record: it names file, offset and the epochs that are lost.
    pub fn damage(&self, at: usize, position: u64, fault: Fault, epochs: &str) -> crate::Error {
        let base = self.bases[at];
        damage_error(&self.disk.place(&segment::name(base)), base, position, fault, epochs)
    }

    /// Reads the record at a place that another record states.
    ///
    /// Fails with `Disk` if it is not there or not of the kind that `take` expects: damage.
    pub fn record_at<T>(
        &self,
        seed: u32,
        position: u64,
        take: impl FnOnce(&Entry<'_>) -> Option<T>,
    ) -> Result<T> {
        let at = self.bases.partition_point(|&base| base <= position).saturating_sub(1);
        let (file, _, end) = self.extent(at)?;
        let limit = self.next_base(at).unwrap_or(u64::MAX).min(end);
        let mut cursor = Cursor::for_control(file, seed, self.bases[at], position);
        let fault = match cursor.next(limit).map_err(|error| self.failed(at, error))? {
            Step::Entry(entry) => match take(&entry) {
                Some(taken) => return Ok(taken),
                None => Fault::Payload,
            },
            Step::Bad(fault) => fault,
            Step::End => Fault::Missing,
        };
        Err(self.damage(at, position, fault, "those not committed"))
    }
}
