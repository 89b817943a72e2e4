//! Stores objects on OSS and S3, through opendal.
//!
//! A request passes four layers. [`put`] limits the uploads under way. opendal's retry layer
//! repeats a failed request a few times, quickly and with jitter. opendal's service builds the
//! request and reads the answer. [`sign::Transport`] signs the request, sets a deadline and removes
//! secrets from errors. A failure that outlasts the quick retries is returned as a [`StoreError`];
//! the sink retries it for longer.
//!
//! | module | holds |
//! | --- | --- |
//! | [`endpoint`] | host, region and addressing of a bucket |
//! | [`client`] | the HTTP client: certificates, proxies, names |
//! | [`credentials`], [`environment`] | the sources of keys and of other settings |
//! | [`sign`] | signing and sending a request |
//! | [`server_answer`] | answers as typed values |
//! | [`request_error`] | failed requests as [`StoreError`] with a hint |
//! | [`put`] | uploads, and requests that may not replace an object |

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt, TryStreamExt};
use opendal::layers::{RetryEvent, RetryLayer};
use opendal::options::{ListOptions, ReadOptions};
use opendal::{Buffer, EntryMode, HttpTransporter, Metadata, OperationContext, Operator};
use tokio::sync::Semaphore;

use super::settings::{Addressing, StoreSettings};
use super::{
    Body, ConditionalPuts, Listing, ObjectEntry, Page, Store, StoreError, StoreErrorKind,
    StoreFacts, StoreResult, Stored, Versioning, check_key,
};
use crate::epoch::SystemClock;
use crate::error::{Error, ErrorKind, Result};

mod client;
mod credentials;
mod endpoint;
mod environment;
mod proxy_exemptions;
mod put;
mod request_error;
mod server_answer;
mod sign;

use client::Clients;
use endpoint::Endpoint;
pub use environment::Environment;
use server_answer::{RefusedRequest, element};

/// Returns an HTTP client with the certificates of `settings`, and with the proxies of the
/// environment if it `is_proxied`. The server is HOST:PORT; `is_plain` if it needs no certificates.
///
/// # Errors
///
/// `Configuration` if a certificate or a proxy cannot be used.
pub fn http_client(
    settings: &StoreSettings,
    environment: &Environment,
    (is_plain, host): (bool, &str),
    is_proxied: bool,
) -> Result<reqwest::Client> {
    let clients = Clients { settings, environment, is_plain, host };
    if is_proxied { clients.proxied() } else { clients.direct() }
}

use sign::{SignedService, SigningSettings, Transport};

/// Deletes under way at a time when a directory is emptied.
const DELETES_IN_FLIGHT_MAX: usize = 8;
/// Attempts to read an object that is replaced meanwhile.
const READ_ATTEMPTS: u32 = 5;

/// A bucket on OSS or S3.
pub struct RemoteStore {
    /// OSS or S3.
    service: SignedService,
    /// The name of the bucket.
    bucket: String,
    /// Where the bucket is.
    endpoint: Endpoint,
    /// Makes the requests.
    operator: Operator,
    /// Signs and sends them.
    transport: Transport,
    /// The settings of the store.
    settings: StoreSettings,
    /// One permit for each object that is being uploaded.
    uploads: Semaphore,
    /// The bucket's answer to the question whether it keeps old versions, once there is one.
    versioning: OnceLock<Versioning>,
    /// The result of the newest probe.
    conditional_puts: Mutex<ConditionalPuts>,
}

impl RemoteStore {
    /// Returns a store for the OSS bucket `bucket`. `in_url` is the endpoint in the URL of `--to`,
    /// if it has one.
    ///
    /// # Errors
    ///
    /// `Configuration` or `Usage` if the endpoint, the region or a setting is missing or wrong.
    pub fn oss(
        bucket: &str,
        in_url: Option<&str>,
        settings: &StoreSettings,
        environment: &Environment,
    ) -> Result<Self> {
        let endpoint = Endpoint::of_oss(bucket, in_url, settings, environment)?;
        let style = match endpoint.addressing {
            Addressing::CustomDomain => "cname",
            _ => "virtual",
        };
        let wanted = [("addressing_style", style)];
        let operator = operator("oss", bucket, &endpoint, &wanted)?;
        Self::over(operator, SignedService::Oss, bucket, endpoint, settings, environment)
    }

    /// Returns a store for the S3 bucket `bucket`.
    ///
    /// # Errors
    ///
    /// As [`RemoteStore::oss`].
    pub fn s3(bucket: &str, settings: &StoreSettings, environment: &Environment) -> Result<Self> {
        let endpoint = Endpoint::of_s3(bucket, settings, environment)?;
        let mut wanted = vec![("disable_config_load", "true")];
        if !endpoint.region.is_empty() {
            wanted.push(("region", &endpoint.region));
        }
        if endpoint.addressing == Addressing::VirtualHosted {
            wanted.push(("enable_virtual_host_style", "true"));
        }
        let operator = operator("s3", bucket, &endpoint, &wanted)?;
        Self::over(operator, SignedService::S3, bucket, endpoint, settings, environment)
    }

    /// Returns a store over `operator`, with the transport and the retry layer added to it.
    fn over(
        operator: Operator,
        service: SignedService,
        bucket: &str,
        endpoint: Endpoint,
        settings: &StoreSettings,
        environment: &Environment,
    ) -> Result<Self> {
        settings.validate()?;
        let is_plain = endpoint.scheme == "http";
        let clients = Clients { settings, environment, is_plain, host: &endpoint.host };
        let send =
            credentials::CredentialSend { client: clients.proxied()?, direct: clients.direct()? };
        let signing = SigningSettings {
            service,
            bucket: bucket.to_owned(),
            authority: endpoint.authority(bucket)?,
            custom_domain: endpoint.addressing == Addressing::CustomDomain,
            region: endpoint.region.clone(),
            context: credentials::context(environment, send),
            timeout: settings.credentials_timeout,
        };
        let transport = Transport::new(clients.proxied()?, signing, settings.request_timeout);
        let http = HttpTransporter::new(transport.clone());
        let retry = RetryLayer::new()
            .with_max_times(settings.attempts_max - 1)
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(1))
            .with_jitter()
            .with_notify(|event: RetryEvent<'_>| {
                let (kind, attempt) = (event.err.kind(), event.attempt);
                tracing::debug!(%kind, attempt, "store request is retried");
            });
        let operator =
            operator.with_context(OperationContext::new().with_http_transport(http)).layer(retry);
        Ok(RemoteStore {
            service,
            bucket: bucket.to_owned(),
            endpoint,
            operator,
            transport,
            settings: settings.clone(),
            uploads: Semaphore::new(settings.uploads_in_flight_max),
            versioning: OnceLock::new(),
            conditional_puts: Mutex::default(),
        })
    }

    /// Locks the result of the newest probe.
    fn conditional_puts(&self) -> MutexGuard<'_, ConditionalPuts> {
        // One plain value: a panic elsewhere leaves nothing half-done.
        self.conditional_puts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `error` as an error of the store. `what` is the verb for the operation on `key`.
    fn failed(&self, what: &str, key: &str, error: &opendal::Error) -> StoreError {
        let scheme = match self.service {
            SignedService::Oss => "oss",
            SignedService::S3 => "s3",
        };
        let what = format!("{what} {scheme}://{}/{key}", self.bucket);
        let described = request_error::describe(self.service, &what, error);
        let refusal = server_answer::cause::<RefusedRequest>(error);
        let is_skew = refusal.is_some_and(|refusal| refusal.code == "RequestTimeTooSkewed");
        let facts = StoreFacts { store_time: self.transport.store_time(), ..StoreFacts::default() };
        match facts.skew_ms(SystemClock::new().wall()) {
            Some(ms) if is_skew => {
                let ahead_s = ms as f64 / 1e3;
                // The difference is more precise than the hint for the code alone.
                described.hint(format!(
                    "set this machine's clock: it is {ahead_s:+.0} s against the store's"
                ))
            }
            _ => described,
        }
    }

    /// Returns bytes of an object.
    ///
    /// They are requested as a range, because the length of an answer is checked against the range.
    async fn read(&self, key: &str, range: Range<u64>, etag: Option<&str>) -> StoreResult<Buffer> {
        // A weak tag never matches: the store would refuse each attempt.
        let if_match = etag.filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
        let options = ReadOptions { range: range.into(), if_match, ..ReadOptions::default() };
        let read = self.operator.read_options(key, options).await;
        read.map_err(|error| self.failed("read", key, &error))
    }

    /// Returns one page of names below `ask.prefix`. `take` makes an item of an entry or skips it;
    /// `name` returns the name by which items are ordered.
    async fn names<T>(
        &self,
        ask: Listing<'_>,
        recursive: bool,
        name: impl Fn(&T) -> &str,
        take: impl Fn(opendal::Entry) -> Option<T>,
    ) -> StoreResult<Page<T>> {
        let failed = |error| self.failed("list", ask.prefix, &error);
        let options = ListOptions {
            recursive,
            limit: Some(ask.limit.clamp(2, 1000)),
            start_after: ask.after.map(str::to_owned),
            ..ListOptions::default()
        };
        let listed = self.operator.lister_options(ask.prefix, options).await;
        let mut listed = listed.map_err(failed)?;
        let mut items: Vec<T> = Vec::new();
        while let Some(entry) = listed.try_next().await.map_err(failed)? {
            let Some(item) = take(entry) else { continue };
            // With a delimiter a store may return the directory that contains `after` itself.
            if ask.after.is_some_and(|after| name(&item) <= after) {
                continue;
            }
            if items.len() >= ask.limit.max(1) {
                let next = items.last().map(|last| name(last).to_owned());
                return Ok(Page { items, next });
            }
            items.push(item);
        }
        Ok(Page { items, next: None })
    }

    /// Asks the bucket if it keeps old versions of objects. Returns `Unknown` if the credentials
    /// may not ask.
    async fn ask_versioning(&self) -> Versioning {
        let (query, tag) = match self.service {
            SignedService::Oss => ("?bucketInfo", "Versioning"),
            SignedService::S3 => ("?versioning", "Status"),
        };
        let url = format!("{}/{query}", self.endpoint.bucket_url(&self.bucket));
        let Ok((http::StatusCode::OK, body)) = self.transport.get(&url).await else {
            return Versioning::Unknown;
        };
        match element(&String::from_utf8_lossy(&body), tag) {
            "Enabled" => Versioning::Enabled,
            "Suspended" => Versioning::Suspended,
            _ => Versioning::Off,
        }
    }
}

/// Returns an operator of the service `name` of opendal, with its settings. Requests are signed by
/// the transport.
///
/// The service is found by its name and not by its type: opendal has compiled all of it then, and
/// this crate does not do so a second time.
///
/// # Errors
///
/// `Configuration` if opendal refuses a setting.
fn operator(
    name: &str,
    bucket: &str,
    endpoint: &Endpoint,
    settings: &[(&str, &str)],
) -> Result<Operator> {
    opendal::init_default_registry();
    let url = endpoint.url();
    let place = [("bucket", bucket), ("endpoint", url.trim_end_matches('/'))];
    let settings = place.iter().chain(&[("skip_signature", "true")]).chain(settings);
    let settings = settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Operator::via_iter(name, settings).map_err(|error| misconfigured(&error))
}

/// Returns the error of an operator that opendal does not build.
fn misconfigured(error: &opendal::Error) -> Error {
    Error::new(ErrorKind::Configuration, format!("store cannot be set up: {}", error.message()))
        .hint("check --to and the endpoint")
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteStore").field(&self.describe()).finish()
    }
}

impl Store for RemoteStore {
    /// Uploads an object, also over one that is there.
    fn put<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        async move { self.replace(key, &body).await }.boxed()
    }

    /// Uploads an object that must not exist.
    ///
    /// Fails with `Exists` if there is another; an equal one is a retry of its own.
    fn put_new<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        async move { self.create(key, &body).await }.boxed()
    }

    /// Finds out if the store refuses to create an object twice.
    fn probe_put_new<'a>(
        &'a self,
        key: &'a str,
        first: Body,
        second: Body,
    ) -> BoxFuture<'a, StoreResult<ConditionalPuts>> {
        async move {
            let found = self.probe_create(key, &first, &second).await?;
            *self.conditional_puts() = found;
            Ok(found)
        }
        .boxed()
    }

    /// Downloads an object.
    ///
    /// Fails if it has more than `bytes_max` bytes.
    fn get<'a>(&'a self, key: &'a str, bytes_max: u64) -> BoxFuture<'a, StoreResult<Bytes>> {
        async move {
            for _ in 0..READ_ATTEMPTS {
                let metadata = self.operator.stat(key).await;
                let metadata = metadata.map_err(|error| self.failed("read", key, &error))?;
                let bytes = metadata.content_length();
                if bytes > bytes_max {
                    let message = format!("{key} is longer than the {bytes_max} bytes asked for");
                    return Err(StoreError::invalid(message));
                }
                // A range of no bytes is not valid.
                if bytes == 0 {
                    return Ok(Bytes::new());
                }
                match self.read(key, 0..bytes, metadata.etag()).await {
                    // It was replaced since, as a claim is when it is renewed: a part of its new
                    // content would be read.
                    Err(error) if error.kind == StoreErrorKind::Exists => {}
                    read => return Ok(read?.to_bytes()),
                }
            }
            let message = format!("{key} was replaced each time that it was read");
            Err(StoreError::new(StoreErrorKind::Unavailable, message))
        }
        .boxed()
    }

    /// Downloads a part of an object, if it is still the version that was found.
    fn get_range<'a>(
        &'a self,
        key: &'a str,
        range: Range<u64>,
        etag: Option<&'a str>,
    ) -> BoxFuture<'a, StoreResult<Bytes>> {
        async move { Ok(self.read(key, range, etag).await?.to_bytes()) }.boxed()
    }

    /// Lists the objects below a prefix, by pages.
    fn list<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<ObjectEntry>>> {
        let take = |found: opendal::Entry| {
            let is_object = found.metadata().mode() == EntryMode::FILE;
            is_object.then(|| entry(found.path().to_owned(), found.metadata()))
        };
        async move { self.names(ask, true, |entry: &ObjectEntry| entry.key.as_str(), take).await }
            .boxed()
    }

    /// Lists what stands before the next slash below a prefix, by pages.
    fn list_dirs<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<String>>> {
        let take = move |found: opendal::Entry| {
            let is_dir = found.metadata().mode() == EntryMode::DIR && found.path() != ask.prefix;
            is_dir.then(|| found.path().to_owned())
        };
        async move { self.names(ask, false, |name: &String| name, take).await }.boxed()
    }

    /// Deletes an object. One that is missing is no error.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        async move {
            check_key(key)?;
            let deleted = self.operator.delete(key).await;
            match deleted.map_err(|error| self.failed("remove", key, &error)) {
                Err(gone) if gone.kind == StoreErrorKind::NotFound => Ok(()),
                deleted => deleted,
            }
        }
        .boxed()
    }

    /// Deletes all objects below a folder; returns their number.
    fn clear<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<u64>> {
        async move {
            // The slash keeps siblings whose names begin with the directory's.
            let inside = format!("{}/", dir.trim_end_matches('/'));
            check_key(inside.trim_end_matches('/'))?;
            let mut removed = 0;
            let mut after: Option<String> = None;
            loop {
                let ask = Listing::new(&inside).after(after.as_deref());
                let page = self.list(ask).await?;
                removed += page.items.len() as u64;
                stream::iter(page.items)
                    .map(Ok)
                    .try_for_each_concurrent(DELETES_IN_FLIGHT_MAX, async |entry| {
                        self.delete(&entry.key).await
                    })
                    .await?;
                match page.next {
                    None => return Ok(removed),
                    next => after = next,
                }
            }
        }
        .boxed()
    }

    fn seal<'a>(&'a self, _dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        // An object and its name are durable before the store answers.
        futures::future::ready(Ok(())).boxed()
    }

    /// Returns bucket and endpoint.
    fn describe(&self) -> String {
        format!("bucket {} at {}", self.bucket, self.endpoint.url())
    }

    /// Returns the facts for `wordtide check`: endpoint, region, addressing, signature.
    fn facts(&self) -> BoxFuture<'_, StoreFacts> {
        async move {
            let versioning = self.ask_versioning().await;
            if versioning != Versioning::Unknown {
                self.versioning.get_or_init(|| versioning);
            }
            StoreFacts {
                endpoint: Some(self.endpoint.url()),
                region: Some(self.endpoint.region.clone()),
                addressing: Some(match self.endpoint.addressing {
                    Addressing::VirtualHosted | Addressing::Auto => "virtual-hosted",
                    Addressing::Path => "path",
                    Addressing::CustomDomain => "custom domain",
                }),
                signature: Some(self.service.signature()),
                credentials: self.transport.key_search().used,
                store_time: self.transport.store_time(),
                versioning,
                conditional_puts: *self.conditional_puts(),
            }
        }
        .boxed()
    }
}

/// Returns the entry of a listing for an object.
fn entry(key: String, metadata: &Metadata) -> ObjectEntry {
    ObjectEntry {
        key,
        bytes: metadata.content_length(),
        modified: metadata.last_modified().map(Into::into),
        etag: metadata.etag().map(str::to_owned),
    }
}
