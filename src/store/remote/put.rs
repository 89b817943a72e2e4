//! Uploads objects, in one request or in parts, and separates a lost answer from a failure.
//!
//! Two answers can be wrong after a retry, because an earlier attempt succeeded and its answer was
//! lost: "already exists" for a create, and "no such upload" for the end of an upload in parts.
//! Both count as a failure only if the object in the store differs from the one that was sent.

use std::io;

use md5::{Digest, Md5};
use opendal::options::{ReadOptions, WriteOptions};
use opendal::{Buffer, Metadata};

use super::super::{
    Body, ConditionalPuts, StoreError, StoreErrorKind, StoreResult, Stored, Versioning, check_key,
};
use super::RemoteStore;
use super::server_answer::{RefusedRequest, cause};
use super::sign::{MD5_INLINE_BYTES_MAX, SignedService};
use crate::supervise;

/// The content type of an object whose name has no known end.
const TEXT: &str = "text/plain; charset=utf-8";

/// The content types of objects by the ends of their names. A compressed object is a file of its
/// own: with a `Content-Encoding`, clients would decompress it without being asked.
const CONTENT_TYPES: [(&str, &str); 3] = [
    (".gz", "application/gzip"),
    (".zst", "application/zstd"),
    (".parquet", "application/vnd.apache.parquet"),
];

/// The bytes that one request reads when the content of an object is compared.
const PIECE_BYTES: u64 = 1 << 20;

/// The most parts that both services accept for one upload.
const PARTS_MAX: u64 = 10_000;

/// The condition of a request that stores an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PutCondition {
    /// The request may replace an object.
    None,
    /// The store refuses the request if the object exists.
    IfAbsent,
}

/// The object under a key, compared with a body.
enum Present {
    /// There is no object.
    Absent,
    /// The object has the bytes of the body.
    Same,
    /// The object has other bytes.
    Other,
}

impl RemoteStore {
    /// Stores `body` under `key` and replaces an object that exists.
    pub async fn replace(&self, key: &str, body: &Body) -> StoreResult<Stored> {
        self.upload(key, body, PutCondition::None).await
    }

    /// Stores `body` under `key` if no object exists there.
    ///
    /// Fails with `Exists` if there is another object; an equal one is taken for a retry of its
    /// own.
    pub async fn create(&self, key: &str, body: &Body) -> StoreResult<Stored> {
        check_key(key)?;
        if self.honours_conditions() {
            return self.upload(key, body, PutCondition::IfAbsent).await;
        }
        match self.present(key, body).await? {
            Present::Same => Ok(Stored::of(body, None)),
            Present::Other => {
                let message = format!("{key} already exists with other content");
                Err(StoreError::new(StoreErrorKind::Exists, message))
            }
            Present::Absent => self.upload(key, body, PutCondition::None).await,
        }
    }

    /// Returns false if the store is known to ignore the condition of a create. OSS ignores it in a
    /// bucket with versioning.
    fn honours_conditions(&self) -> bool {
        let kept = self.versioning.get();
        let kept = matches!(kept, Some(Versioning::Enabled | Versioning::Suspended));
        let ignores = kept && self.service == SignedService::Oss;
        !ignores && *self.conditional_puts() != ConditionalPuts::Ignored
    }

    /// Creates `key` from `first` and then from `second`; see `Store::probe_put_new`.
    ///
    /// Always sends the condition, so that a repeated probe has the same result.
    pub async fn probe_create(
        &self,
        key: &str,
        first: &Body,
        second: &Body,
    ) -> StoreResult<ConditionalPuts> {
        check_key(key)?;
        match self.send(key, first, PutCondition::IfAbsent).await {
            // A compatible store that does not support conditional requests.
            Err(error)
                if cause::<RefusedRequest>(&error).is_some_and(RefusedRequest::is_unsupported) =>
            {
                self.upload(key, second, PutCondition::None).await?;
                return Ok(ConditionalPuts::Ignored);
            }
            sent => self.settle(key, first, sent).await?,
        };
        match self.upload(key, second, PutCondition::IfAbsent).await {
            Ok(_) => Ok(ConditionalPuts::Ignored),
            Err(refused) if refused.kind == StoreErrorKind::Exists => Ok(ConditionalPuts::Honoured),
            Err(failed) => Err(failed),
        }
    }

    /// Sends the object and decides from the answer if it is stored.
    async fn upload(&self, key: &str, body: &Body, condition: PutCondition) -> StoreResult<Stored> {
        check_key(key)?;
        let sent = self.send(key, body, condition).await;
        self.settle(key, body, sent).await
    }

    /// Sends the object, in one request or in parts.
    async fn send(
        &self,
        key: &str,
        body: &Body,
        condition: PutCondition,
    ) -> opendal::Result<Metadata> {
        // The semaphore is never closed, so this always returns a permit.
        let _permit = self.uploads.acquire().await;
        if body.bytes() > MD5_INLINE_BYTES_MAX as u64 {
            let body = body.clone();
            // The body keeps the MD5, and the request reads it from there.
            supervise::blocking(move || body.md5()).await;
        }
        match body.bytes() > self.settings.multipart_bytes_min {
            true => self.upload_parts(key, body, condition).await,
            false => self.upload_whole(key, body, condition).await,
        }
    }

    /// Decides from the store's answer if the object is stored.
    ///
    /// Fails if the ETag is an MD5 other than the one of `body`.
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

    /// Sends the object in one request.
    async fn upload_whole(
        &self,
        key: &str,
        body: &Body,
        condition: PutCondition,
    ) -> opendal::Result<Metadata> {
        let chunks = match body.is_on_disk() {
            true => {
                let body = body.clone();
                supervise::blocking(move || body.load()).await
            }
            false => body.load(),
        };
        let buffer = Buffer::from(chunks.map_err(unreadable)?);
        self.operator.write_options(key, buffer, options(key, condition)).await
    }

    /// Sends the object in parts.
    ///
    /// The last request of the upload carries the condition. For OSS the first request carries it
    /// too.
    async fn upload_parts(
        &self,
        key: &str,
        body: &Body,
        condition: PutCondition,
    ) -> opendal::Result<Metadata> {
        let part_bytes = self.settings.part_bytes.max(body.bytes().div_ceil(PARTS_MAX));
        let options = WriteOptions {
            chunk: usize::try_from(part_bytes).ok(),
            concurrent: self.settings.parts_in_flight_max,
            ..options(key, condition)
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
            // The parts of an unfinished upload cost money and no listing of objects shows them.
            if let Err(error) = writer.abort().await {
                tracing::debug!(key, kind = %error.kind(), "upload in parts could not be aborted");
            }
        }
        written
    }

    /// Returns the stored object if a failed upload has succeeded after all, or the failure.
    async fn upload_failed(
        &self,
        key: &str,
        body: &Body,
        error: opendal::Error,
    ) -> StoreResult<Stored> {
        let failed = self.failed("write", key, &error);
        let conflict = failed.kind == StoreErrorKind::Exists;
        if !conflict && failed.kind != StoreErrorKind::NotFound {
            return Err(failed);
        }
        match self.present(key, body).await? {
            Present::Same => return Ok(Stored::of(body, None)),
            Present::Other if conflict => return Err(failed),
            // The object was removed since, so the next attempt can succeed.
            Present::Absent if conflict => {
                return Err(StoreError { kind: StoreErrorKind::Unavailable, ..failed });
            }
            Present::Absent | Present::Other => {}
        }
        if body.bytes() > self.settings.multipart_bytes_min {
            // The upload in parts is gone: the next attempt begins another one.
            return Err(StoreError { kind: StoreErrorKind::Unavailable, ..failed.indeterminate() });
        }
        // A store does not answer this to the upload of a whole object, so the answer comes from
        // something else.
        let flag = self.service.endpoint_flag();
        let hint = format!("check {flag}, and a proxy in the environment");
        Err(StoreError { kind: StoreErrorKind::Denied, ..failed }.hint(hint))
    }

    /// Compares the object under `key` with `body`: by length, by the ETag if it is an MD5, and
    /// else by reading the object.
    async fn present(&self, key: &str, body: &Body) -> StoreResult<Present> {
        let metadata = match self.operator.stat(key).await {
            Ok(metadata) => metadata,
            Err(error) => {
                return match self.failed("look at", key, &error) {
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

    /// Returns the MD5 of the object under `key`. Reads it in pieces, because it may not fit into
    /// memory.
    async fn md5_of(&self, key: &str, bytes: u64) -> StoreResult<[u8; 16]> {
        let mut hasher = Md5::new();
        let mut from = 0;
        while from < bytes {
            let to = bytes.min(from + PIECE_BYTES);
            let options = ReadOptions { range: (from..to).into(), ..ReadOptions::default() };
            let piece = self.operator.read_options(key, options).await;
            piece.map_err(|error| self.failed("read", key, &error))?.for_each(|chunk| {
                hasher.update(chunk);
            });
            from = to;
        }
        Ok(hasher.finalize().into())
    }
}

/// Returns the error of a body whose file cannot be read.
fn unreadable(error: io::Error) -> opendal::Error {
    let message = "cannot read back a result that waits on disk";
    opendal::Error::new(opendal::ErrorKind::Unexpected, message).set_source(error)
}

/// Returns opendal's options for a request that stores `key` with `condition`.
fn options(key: &str, condition: PutCondition) -> WriteOptions {
    let known = CONTENT_TYPES.iter().find(|(end, _)| key.ends_with(end));
    let content_type = known.map_or(TEXT, |(_, content_type)| content_type);
    WriteOptions {
        content_type: Some(content_type.to_owned()),
        if_not_exists: condition == PutCondition::IfAbsent,
        ..WriteOptions::default()
    }
}

/// Returns true if an ETag may be the MD5 of the object. The ETag of an upload in parts contains a
/// `-`.
fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|b| b.is_ascii_hexdigit())
}
