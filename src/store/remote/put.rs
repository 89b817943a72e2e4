//! Storing an object, in one request or in parts, and telling a lost answer from a failure.
//!
//! Two answers can be wrong after a retry, both because the earlier attempt worked and its answer
//! was lost: "already exists" to a create, and "no such upload" to the end of an upload in parts.
//! Either is therefore believed only if the object in the store is not the one that was sent.

use std::io;

use md5::{Digest, Md5};
use opendal::options::{ReadOptions, WriteOptions};
use opendal::{Buffer, Metadata};

use super::super::{
    Body, ConditionalPuts, StoreError, StoreErrorKind, StoreResult, Stored, Versioning, check_key,
};
use super::RemoteStore;
use super::answer::{Refusal, cause};
use super::sign::Service;
use crate::supervise;

/// What every object is: lines of text.
const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// MD5s of longer bodies are taken on the blocking pool.
pub(super) const MD5_INLINE_BYTES_MAX: usize = 256 << 10;

/// So much of an object is read at a time when its content is compared.
const PIECE_BYTES: u64 = 1 << 20;

/// Both services take at most so many parts an upload.
const PARTS_MAX: u64 = 10_000;

/// Whether a request may replace an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// It may.
    None,
    /// The store refuses the request if the object exists.
    IfAbsent,
}

/// The object under a key, compared with a body.
enum Present {
    /// There is none.
    Absent,
    /// It has the body's bytes.
    Same,
    /// It has other bytes.
    Other,
}

impl RemoteStore {
    /// Stores `body` under `key`, in place of an object that exists.
    pub(super) async fn replace(&self, key: &str, body: &Body) -> StoreResult<Stored> {
        self.upload(key, body, Condition::None).await
    }

    /// Stores `body` under `key` if no object exists there.
    pub(super) async fn create(&self, key: &str, body: &Body) -> StoreResult<Stored> {
        check_key(key)?;
        if self.honours_conditions() {
            return self.upload(key, body, Condition::IfAbsent).await;
        }
        match self.present(key, body).await? {
            Present::Same => Ok(Stored::of(body, None)),
            Present::Other => {
                let message = format!("{key} already exists with other content");
                Err(StoreError::new(StoreErrorKind::Exists, message))
            }
            Present::Absent => self.upload(key, body, Condition::None).await,
        }
    }

    /// Whether the store refuses to create an object that exists, as far as it is known. OSS does
    /// not in a bucket with versioning.
    fn honours_conditions(&self) -> bool {
        let kept = self.versioning.get();
        let kept = matches!(kept, Some(Versioning::Enabled | Versioning::Suspended));
        let ignores = kept && self.service == Service::Oss;
        !ignores && *self.conditional_puts() != ConditionalPuts::Ignored
    }

    /// Creates `key` from `first` and then from `second`; see `Store::probe_put_new`. Sends the
    /// condition whatever is known, so that a repeated probe finds the same.
    pub(super) async fn probe_create(
        &self,
        key: &str,
        first: &Body,
        second: &Body,
    ) -> StoreResult<ConditionalPuts> {
        check_key(key)?;
        match self.send(key, first, Condition::IfAbsent).await {
            // A compatible store without such requests.
            Err(error) if cause::<Refusal>(&error).is_some_and(Refusal::is_unsupported) => {
                self.upload(key, second, Condition::None).await?;
                return Ok(ConditionalPuts::Ignored);
            }
            sent => self.settle(key, first, sent).await?,
        };
        match self.upload(key, second, Condition::IfAbsent).await {
            Ok(_) => Ok(ConditionalPuts::Ignored),
            Err(refused) if refused.kind == StoreErrorKind::Exists => Ok(ConditionalPuts::Honoured),
            Err(failed) => Err(failed),
        }
    }

    async fn upload(&self, key: &str, body: &Body, condition: Condition) -> StoreResult<Stored> {
        check_key(key)?;
        let sent = self.send(key, body, condition).await;
        self.settle(key, body, sent).await
    }

    /// Sends the object, in one request or in parts.
    async fn send(
        &self,
        key: &str,
        body: &Body,
        condition: Condition,
    ) -> opendal::Result<Metadata> {
        // Never closed, so always a permit.
        let _permit = self.uploads.acquire().await;
        if body.bytes() > MD5_INLINE_BYTES_MAX as u64 {
            let body = body.clone();
            // The body keeps it for the request.
            supervise::blocking(move || body.md5()).await;
        }
        match body.bytes() > self.settings.multipart_bytes_min {
            true => self.upload_parts(key, body, condition).await,
            false => self.upload_whole(key, body, condition).await,
        }
    }

    /// Decides by the store's answer whether the object is stored.
    async fn settle(
        &self,
        key: &str,
        body: &Body,
        sent: opendal::Result<Metadata>,
    ) -> StoreResult<Stored> {
        let metadata = match sent {
            Ok(metadata) => metadata,
            Err(error) => return self.upload_failed(key, body, error).await,
        };
        let etag = metadata.etag().map(|etag| etag.trim_matches('"').to_owned());
        if let Some(etag) = etag.as_deref().filter(|etag| is_md5(etag))
            && !etag.eq_ignore_ascii_case(&body.md5_hex())
        {
            let message = format!("{key} was stored with MD5 {etag}, which is not the one sent");
            return Err(StoreError::new(StoreErrorKind::Unavailable, message).indeterminate());
        }
        Ok(Stored::of(body, etag))
    }

    async fn upload_whole(
        &self,
        key: &str,
        body: &Body,
        condition: Condition,
    ) -> opendal::Result<Metadata> {
        let chunks = match body.is_on_disk() {
            true => {
                let body = body.clone();
                supervise::blocking(move || body.load()).await
            }
            false => body.load(),
        };
        let buffer = Buffer::from(chunks.map_err(unreadable)?);
        self.operator.write_options(key, buffer, options(condition)).await
    }

    /// The last request of the upload carries the condition and decides. OSS gets it with the
    /// first one, too.
    async fn upload_parts(
        &self,
        key: &str,
        body: &Body,
        condition: Condition,
    ) -> opendal::Result<Metadata> {
        let part_bytes = self.settings.part_bytes.max(body.bytes().div_ceil(PARTS_MAX));
        let options = WriteOptions {
            chunk: usize::try_from(part_bytes).ok(),
            concurrent: self.settings.parts_in_flight_max,
            ..options(condition)
        };
        let mut writer = self.operator.writer_options(key, options).await?;
        let written = async {
            for piece in body.pieces() {
                writer.write(piece.map_err(unreadable)?).await?;
            }
            writer.close().await
        };
        let written = written.await;
        if written.is_err() {
            // Parts of an unfinished upload are paid for and seen by nobody.
            if let Err(error) = writer.abort().await {
                tracing::debug!(key, kind = %error.kind(), "upload in parts could not be aborted");
            }
        }
        written
    }

    /// Decides whether a failed upload has worked all the same.
    async fn upload_failed(
        &self,
        key: &str,
        body: &Body,
        error: opendal::Error,
    ) -> StoreResult<Stored> {
        let failed = self.told("write", key, &error);
        let conflict = failed.kind == StoreErrorKind::Exists;
        if !conflict && failed.kind != StoreErrorKind::NotFound {
            return Err(failed);
        }
        match self.present(key, body).await? {
            Present::Same => return Ok(Stored::of(body, None)),
            Present::Other if conflict => return Err(failed),
            // It was removed since, so the next attempt can succeed.
            Present::Absent if conflict => {
                return Err(StoreError { kind: StoreErrorKind::Unavailable, ..failed });
            }
            Present::Absent | Present::Other => {}
        }
        if body.bytes() > self.settings.multipart_bytes_min {
            // An upload in parts that is gone: the next try begins another.
            return Err(StoreError { kind: StoreErrorKind::Unavailable, ..failed.indeterminate() });
        }
        // A store has no reason to say this of a whole object: something else has answered.
        let flag = self.service.endpoint_flag();
        let hint = format!("check {flag}, and a proxy in the environment");
        Err(StoreError { kind: StoreErrorKind::Denied, ..failed }.hint(hint))
    }

    /// Compares the object under `key` with `body`: by length, then by the MD5 that the store
    /// gives as ETag, else by reading it.
    async fn present(&self, key: &str, body: &Body) -> StoreResult<Present> {
        let metadata = match self.operator.stat(key).await {
            Ok(metadata) => metadata,
            Err(error) => {
                return match self.told("look at", key, &error) {
                    gone if gone.kind == StoreErrorKind::NotFound => Ok(Present::Absent),
                    failed => Err(failed),
                };
            }
        };
        if metadata.content_length() != body.bytes() {
            return Ok(Present::Other);
        }
        let etag = metadata.etag().map(|etag| etag.trim_matches('"'));
        if etag.is_some_and(|etag| etag.eq_ignore_ascii_case(&body.md5_hex())) {
            return Ok(Present::Same);
        }
        match self.md5_of(key, body.bytes()).await? == body.md5() {
            true => Ok(Present::Same),
            false => Ok(Present::Other),
        }
    }

    /// The MD5 of the object under `key`, read piece by piece: it may be longer than there is room.
    async fn md5_of(&self, key: &str, bytes: u64) -> StoreResult<[u8; 16]> {
        let mut hasher = Md5::new();
        let mut from = 0;
        while from < bytes {
            let to = bytes.min(from + PIECE_BYTES);
            let options = ReadOptions { range: (from..to).into(), ..ReadOptions::default() };
            let piece = self.operator.read_options(key, options).await;
            piece.map_err(|error| self.told("read", key, &error))?.for_each(|chunk| {
                hasher.update(chunk);
            });
            from = to;
        }
        Ok(hasher.finalize().into())
    }
}

/// The error of a body whose file cannot be read.
fn unreadable(error: io::Error) -> opendal::Error {
    let message = "cannot read back a result that waits on disk";
    opendal::Error::new(opendal::ErrorKind::Unexpected, message).set_source(error)
}

fn options(condition: Condition) -> WriteOptions {
    WriteOptions {
        content_type: Some(CONTENT_TYPE.to_owned()),
        if_not_exists: condition == Condition::IfAbsent,
        ..WriteOptions::default()
    }
}

/// Whether an ETag may be the MD5 of the object: that of an upload in parts has a `-` in it.
fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|b| b.is_ascii_hexdigit())
}
