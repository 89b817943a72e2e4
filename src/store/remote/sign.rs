//! Signs requests and sends them: the HTTP transport below opendal.
//!
//! opendal's OSS service signs with V1 only, which new accounts and buckets refuse. It is therefore
//! configured not to sign, and [`Transport`] signs each attempt with V4. S3 requests are signed
//! here too. Both services thus search for keys in the same way, report the source, and drop a
//! cached key that the store refuses, so rotated keys are read again without a restart.
//!
//! The transport also sets the host of each request and limits the time and the length of its
//! answer. [`answer`](super::server_answer) checks the answer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, DATE, ETAG, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use opendal::raw::format_content_md5_iter;
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, Result};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqsign_aliyun_oss as aliyun;
use reqsign_aws_v4 as aws;
use reqsign_core::time::Timestamp;
use reqsign_core::{Context, Signer};

use super::credentials::{KeySearch, aliyun_chain, aws_chain};
use super::server_answer::{NoCredentials, SentRequest};
use crate::supervise;

/// The slowest transfer, in bytes a second, that does not exceed its deadline.
const BYTES_PER_SECOND_MIN: u64 = 128 << 10;

/// Bodies above this length are hashed on the blocking pool.
pub const MD5_INLINE_BYTES_MAX: usize = 256 << 10;

/// The signer of one of the two services.
#[derive(Clone)]
enum Signing {
    /// OSS V4.
    Oss(Signer<aliyun::Credential>),
    /// S3 V4.
    S3(Signer<aws::Credential>),
}

/// The kind of a remote store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedService {
    /// Alibaba Cloud OSS.
    Oss,
    /// AWS S3, or a store that is compatible with it.
    S3,
}

impl SignedService {
    /// Returns the name of the signature's version.
    pub fn signature(self) -> &'static str {
        match self {
            SignedService::Oss => "OSS V4",
            SignedService::S3 => "AWS SigV4",
        }
    }

    /// Returns the flag for the endpoint.
    pub fn endpoint_flag(self) -> &'static str {
        match self {
            SignedService::Oss => "--oss-endpoint",
            SignedService::S3 => "--s3-endpoint",
        }
    }
}

/// The settings of signing: service, bucket, and where keys are searched for.
pub struct SigningSettings {
    /// OSS or S3.
    pub service: SignedService,
    /// The name of the bucket, which OSS signs.
    pub bucket: String,
    /// Host and port of every request.
    pub authority: Authority,
    /// True if neither host nor path names the bucket.
    pub custom_domain: bool,
    /// The region, which both sign.
    pub region: String,
    /// Environment, files and HTTP client of the credential sources.
    pub context: Context,
    /// The longest time for one credential source.
    pub timeout: Duration,
}

/// The state that clones of a transport share.
struct TransportShared {
    /// Sends requests.
    http: ReqwestTransport,
    /// The settings of signatures.
    signing_settings: SigningSettings,
    /// Longest wait for an answer.
    request_timeout: Duration,
    /// The result of the last search for keys.
    key_search: Arc<Mutex<KeySearch>>,
    /// The signer, which caches the keys that it found.
    signing: Mutex<Signing>,
    /// The store's clock in its last answer, and the time at which the answer came.
    store_time: Mutex<Option<(SystemTime, Instant)>>,
}

/// Signs each request and sends it. Clones share keys and connections.
#[derive(Clone)]
pub struct Transport(Arc<TransportShared>);

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// Locks a value of the transport, also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is replaced as a whole, so a panic elsewhere leaves nothing half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transport {
    /// Returns a transport over `client`. A request may take `request_timeout` and the time that
    /// its bytes need on the slowest link.
    pub fn new(
        client: reqwest::Client,
        signing_settings: SigningSettings,
        request_timeout: Duration,
    ) -> Self {
        let key_search = Arc::default();
        Transport(Arc::new(TransportShared {
            http: ReqwestTransport::new(client),
            signing: Mutex::new(signing_settings.signing(&key_search)),
            signing_settings,
            request_timeout,
            key_search,
            store_time: Mutex::new(None),
        }))
    }

    /// Returns the result of the last search for keys.
    pub fn key_search(&self) -> KeySearch {
        lock(&self.0.key_search).clone()
    }

    /// Returns the store's clock, computed from its last answer. `None` before the first answer.
    pub fn store_time(&self) -> Option<SystemTime> {
        lock(&self.0.store_time).map(|(then, at)| then + at.elapsed())
    }

    /// Sends a GET request that opendal has no call for. Returns status and body.
    ///
    /// Fails if no answer comes in time. The status is not judged.
    pub async fn get(&self, url: &str) -> Result<(StatusCode, Bytes)> {
        let built = Request::get(url).body(Buffer::new());
        let request = built.map_err(|error| {
            Error::new(ErrorKind::ConfigInvalid, "URL is not valid").set_source(error)
        })?;
        let (parts, mut body) = self.fetch(request).await?.into_parts();
        Ok((parts.status, body.to_buffer().await?.to_bytes()))
    }

    /// Adds the signature to the headers of a request.
    async fn sign(&self, parts: &mut Parts) -> Result<()> {
        let uri = parts.uri.clone();
        if self.0.signing_settings.custom_domain {
            parts.uri = with_bucket(&self.0.signing_settings.bucket, &uri);
        }
        let signing = lock(&self.0.signing).clone();
        let signed = match &signing {
            Signing::Oss(signer) => signer.sign(parts, None).await,
            Signing::S3(signer) => signer.sign(parts, None).await,
        };
        // The signer adds a Host header; the client adds the one that fits the connection.
        parts.headers.remove(HOST);
        parts.uri = uri;
        signed.map_err(|_| {
            // The signer's message may quote a key, so it is not used.
            let search = self.key_search();
            let missing = match search.used {
                None => NoCredentials { tried: search.tried },
                Some(used) => NoCredentials { tried: format!("{used} (cannot be signed with)") },
            };
            Error::new(ErrorKind::PermissionDenied, missing.to_string()).set_source(missing)
        })
    }

    /// Sends a request that is signed. The whole answer may come later.
    async fn send(&self, parts: Parts, body: Buffer) -> Result<Response<HttpBody>> {
        let allowed = self.allowed(body.len() as u64);
        let sent = self.0.http.fetch(Request::from_parts(parts, body));
        let response = within(allowed, sent).await?;
        self.note_time(&response);
        Ok(response)
    }

    /// Drops the cached keys. The next request searches for keys again.
    fn forget_keys(&self) {
        *lock(&self.0.signing) = self.0.signing_settings.signing(&self.0.key_search);
    }

    /// Notes the store's clock, if the response has a valid date.
    fn note_time(&self, response: &Response<HttpBody>) {
        let date = response.headers().get(DATE);
        let date = date.and_then(|date| date.to_str().ok());
        if let Some(Ok(then)) = date.map(Timestamp::parse_rfc2822) {
            *lock(&self.0.store_time) = Some((then.as_system_time(), Instant::now()));
        }
    }

    /// Returns the longest time for moving `bytes` bytes.
    fn allowed(&self, bytes: u64) -> Duration {
        self.0.request_timeout + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
    }
}

impl SigningSettings {
    /// Returns a signer without keys. It notes in `search` where it finds them.
    fn signing(&self, search: &Arc<Mutex<KeySearch>>) -> Signing {
        let context = self.context.clone();
        match self.service {
            SignedService::Oss => Signing::Oss(Signer::new(
                context,
                aliyun_chain(self.timeout, search),
                aliyun::RequestSigner::new(&self.bucket)
                    .with_region(&self.region)
                    .with_signing_version(aliyun::SigningVersion::V4),
            )),
            SignedService::S3 => Signing::S3(Signer::new(
                context,
                aws_chain(self.timeout, search),
                aws::RequestSigner::new("s3", &self.region),
            )),
        }
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        let (mut parts, body) = request.into_parts();
        if parts.method == Method::PUT
            && !body.is_empty()
            && let Some(md5) = content_md5(body.clone()).await
        {
            parts.headers.insert("content-md5", md5);
        }
        // opendal drops the first label of a host if it equals the bucket's name.
        parts.uri = with_authority(&self.0.signing_settings.authority, &parts.uri);
        let unsigned = parts.clone();
        self.sign(&mut parts).await?;

        let asked = SentRequest::of(&parts);
        let key = key_of(&parts);
        let mut response = self.send(parts, body.clone()).await?;
        if is_refusal(&response) {
            self.forget_keys();
            // The keys may have been rotated since they were read. Others are tried at once, since
            // a refusal ends a start.
            let mut parts = unsigned;
            if self.sign(&mut parts).await.is_ok() && key_of(&parts) != key {
                response = self.send(parts, body).await?;
            }
            if is_refusal(&response) {
                self.forget_keys();
            }
        }

        // The body is read as a whole and has a deadline of its own, so a body that stalls is a
        // failed request.
        let (mut parts, body) = response.into_parts();
        let allowed = self.allowed(asked.body_bytes(&parts)?);
        let mut body = asked.bounded(parts.status, body);
        let body = match within(allowed, body.to_buffer()).await {
            // The status decides, though the rest of the error is not known.
            Err(_) if !parts.status.is_success() => Buffer::new(),
            read => read?,
        };
        let body = asked.checked(&parts, body)?;
        if is_encrypted_by_key(&parts.headers) {
            // The ETag of such an object looks like an MD5 and is none.
            parts.headers.remove(ETAG);
        }
        let body = HttpBody::new(futures::stream::iter([Ok(body)]), None);
        Ok(Response::from_parts(parts, body))
    }
}

/// Returns true if the store does not accept the user.
fn is_refusal(response: &Response<HttpBody>) -> bool {
    matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Returns the name of the key in a signature, which stands in front of its scope; `None` for a
/// request that is not signed.
fn key_of(parts: &Parts) -> Option<Vec<u8>> {
    let signature = parts.headers.get(AUTHORIZATION)?.as_bytes();
    let before_scope = signature.split(|byte| *byte == b'/').next()?;
    Some(before_scope.to_vec())
}

/// Returns `uri` with the bucket in front of its host.
///
/// OSS signatures always name the bucket, and the signer reads it from the host. The host itself is
/// not signed.
fn with_bucket(bucket: &str, uri: &Uri) -> Uri {
    let authority = uri.authority().map(|host| format!("{bucket}.{host}"));
    match authority.and_then(|host| host.parse().ok()) {
        Some(authority) => with_authority(&authority, uri),
        None => uri.clone(),
    }
}

/// Returns `uri` with another host and port.
fn with_authority(authority: &Authority, uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(authority.clone());
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Returns the result of `work`, or a temporary error if it takes longer than `allowed`.
async fn within<T>(allowed: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(allowed, work).await.unwrap_or_else(|_| {
        let message = format!("no answer within {} s", allowed.as_secs());
        Err(Error::new(ErrorKind::Unexpected, message).set_temporary())
    })
}

/// Returns the `Content-MD5` header of a body.
///
/// A long body is hashed on the blocking pool. It takes 2 ms a MiB, for which the other requests of
/// an asynchronous thread would wait.
async fn content_md5(body: Buffer) -> Option<HeaderValue> {
    let length = body.len();
    let take = move || format_content_md5_iter(body).parse().ok();
    if length <= MD5_INLINE_BYTES_MAX {
        return take();
    }
    supervise::blocking(take).await
}

/// Returns true if the server has encrypted the stored bytes with a managed or a customer's key.
fn is_encrypted_by_key(headers: &http::HeaderMap) -> bool {
    let named = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let by_kms = |value: &str| value.to_ascii_lowercase().contains("kms");
    named("x-oss-server-side-encryption").is_some_and(by_kms)
        || named("x-amz-server-side-encryption").is_some_and(by_kms)
        || headers.contains_key("x-amz-server-side-encryption-customer-algorithm")
}
