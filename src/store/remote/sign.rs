//! Signing: the HTTP transport below opendal, which signs, addresses and bounds every request.
//!
//! opendal's OSS service signs with V1 only, which new accounts and buckets refuse. It is therefore
//! configured not to sign, and each attempt is signed here, with V4. S3 requests are signed here
//! too, so that both services find their keys alike, name the source, and drop a cached key when
//! the store refuses it: rotated keys are read again without a restart.
//!
//! [`super::answer`] judges what comes back.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{DATE, ETAG, HOST};
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

use super::answer::{Asked, NoCredentials};
use super::credentials::{Told, aliyun_chain, aws_chain};
use super::put::MD5_INLINE_BYTES_MAX;
use crate::supervise;

/// What the slowest link that is still worth waiting for moves in a second.
const BYTES_PER_SECOND_MIN: u64 = 128 << 10;

/// Signs as one of the two services wants it.
#[derive(Clone)]
enum Signing {
    Oss(Signer<aliyun::Credential>),
    S3(Signer<aws::Credential>),
}

/// Which service signatures are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Oss,
    S3,
}

impl Service {
    /// The name of the signature's version.
    pub(super) fn signature(self) -> &'static str {
        match self {
            Service::Oss => "OSS V4",
            Service::S3 => "AWS SigV4",
        }
    }

    /// The flag that says where the service is.
    pub(super) fn endpoint_flag(self) -> &'static str {
        match self {
            Service::Oss => "--oss-endpoint",
            Service::S3 => "--s3-endpoint",
        }
    }
}

/// What is needed to sign.
pub(super) struct Keys {
    pub(super) service: Service,
    pub(super) bucket: String,
    /// Host and port of every request.
    pub(super) authority: Authority,
    /// Whether the bucket is named neither in host nor path.
    pub(super) custom_domain: bool,
    pub(super) region: String,
    /// What credentials are looked for in and asked with.
    pub(super) context: Context,
    /// How long one credential source may take.
    pub(super) patience: Duration,
}

struct Inner {
    http: ReqwestTransport,
    keys: Keys,
    request_timeout: Duration,
    told: Arc<Mutex<Told>>,
    signing: Mutex<Signing>,
    /// The store's clock as of its last answer, and when that came.
    store_time: Mutex<Option<(SystemTime, Instant)>>,
}

/// Signs each request and sends it. Clones share keys and connections.
#[derive(Clone)]
pub(super) struct Transport(Arc<Inner>);

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each is replaced as a whole, so a panic elsewhere leaves nothing half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transport {
    pub(super) fn new(client: reqwest::Client, keys: Keys, request_timeout: Duration) -> Self {
        let told = Arc::default();
        Transport(Arc::new(Inner {
            http: ReqwestTransport::new(client),
            signing: Mutex::new(keys.signing(&told)),
            keys,
            request_timeout,
            told,
            store_time: Mutex::new(None),
        }))
    }

    /// Where the keys of the last signature came from, and what else was looked at.
    pub(super) fn told(&self) -> Told {
        lock(&self.0.told).clone()
    }

    /// The store's clock, as far as its last answer tells it.
    pub(super) fn store_time(&self) -> Option<SystemTime> {
        lock(&self.0.store_time).map(|(then, at)| then + at.elapsed())
    }

    /// Sends one request that opendal has no call for.
    pub(super) async fn get(&self, url: &str) -> Result<(StatusCode, Bytes)> {
        let built = Request::get(url).body(Buffer::new());
        let request = built.map_err(|error| {
            Error::new(ErrorKind::ConfigInvalid, "URL is not valid").set_source(error)
        })?;
        let (parts, mut body) = self.fetch(request).await?.into_parts();
        Ok((parts.status, body.to_buffer().await?.to_bytes()))
    }

    async fn sign(&self, parts: &mut Parts) -> Result<()> {
        let uri = parts.uri.clone();
        if self.0.keys.custom_domain {
            parts.uri = with_bucket(&self.0.keys.bucket, &uri);
        }
        let signing = lock(&self.0.signing).clone();
        let signed = match &signing {
            Signing::Oss(signer) => signer.sign(parts, None).await,
            Signing::S3(signer) => signer.sign(parts, None).await,
        };
        // The signer adds a Host header; the client's own is the one that fits the connection.
        parts.headers.remove(HOST);
        parts.uri = uri;
        signed.map_err(|_| {
            // The signer's own words may quote a key.
            let told = self.told();
            let missing = match told.used {
                None => NoCredentials { tried: told.tried },
                Some(used) => NoCredentials { tried: format!("{used} (cannot be signed with)") },
            };
            Error::new(ErrorKind::PermissionDenied, missing.to_string()).set_source(missing)
        })
    }

    /// Forgets the keys, so that the next request looks for them again.
    fn forget_keys(&self) {
        *lock(&self.0.signing) = self.0.keys.signing(&self.0.told);
    }

    fn note_time(&self, response: &Response<HttpBody>) {
        let date = response.headers().get(DATE);
        let date = date.and_then(|date| date.to_str().ok());
        if let Some(Ok(then)) = date.map(Timestamp::parse_rfc2822) {
            *lock(&self.0.store_time) = Some((then.as_system_time(), Instant::now()));
        }
    }

    /// How long moving so many bytes may take.
    fn allowed(&self, bytes: u64) -> Duration {
        self.0.request_timeout + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
    }
}

impl Keys {
    fn signing(&self, told: &Arc<Mutex<Told>>) -> Signing {
        let context = self.context.clone();
        match self.service {
            Service::Oss => Signing::Oss(Signer::new(
                context,
                aliyun_chain(self.patience, told),
                aliyun::RequestSigner::new(&self.bucket)
                    .with_region(&self.region)
                    .with_signing_version(aliyun::SigningVersion::V4),
            )),
            Service::S3 => Signing::S3(Signer::new(
                context,
                aws_chain(self.patience, told),
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
        // opendal drops a host's first label where it equals the bucket's name.
        parts.uri = with_authority(&self.0.keys.authority, &parts.uri);
        self.sign(&mut parts).await?;

        let asked = Asked::of(&parts);
        let allowed = self.allowed(body.len() as u64);
        let sent = self.0.http.fetch(Request::from_parts(parts, body));
        let response = within(allowed, sent).await?;
        self.note_time(&response);
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.forget_keys();
        }

        // Read as a whole, within a deadline of its own: a body that stalls is a failed request.
        let (mut parts, body) = response.into_parts();
        let allowed = self.allowed(asked.body_bytes(&parts)?);
        let mut body = asked.bounded(parts.status, body);
        let body = within(allowed, body.to_buffer()).await?;
        let body = asked.checked(&parts, body)?;
        if is_encrypted_by_key(&parts.headers) {
            // No MD5 of the object then, though it looks like one.
            parts.headers.remove(ETAG);
        }
        let body = HttpBody::new(futures::stream::iter([Ok(body)]), None);
        Ok(Response::from_parts(parts, body))
    }
}

/// The URI with the bucket in front of its host. OSS signatures name the bucket whatever the
/// request does, and the signer takes it from there; host and authority themselves are not signed.
fn with_bucket(bucket: &str, uri: &Uri) -> Uri {
    let authority = uri.authority().map(|host| format!("{bucket}.{host}"));
    match authority.and_then(|host| host.parse().ok()) {
        Some(authority) => with_authority(&authority, uri),
        None => uri.clone(),
    }
}

/// The URI at another host.
fn with_authority(authority: &Authority, uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(authority.clone());
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

async fn within<T>(allowed: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(allowed, work).await.unwrap_or_else(|_| {
        let message = format!("no answer within {} s", allowed.as_secs());
        Err(Error::new(ErrorKind::Unexpected, message).set_temporary())
    })
}

/// Off the async threads, whose other requests would wait: a long body takes 2 ms a MiB.
async fn content_md5(body: Buffer) -> Option<HeaderValue> {
    let length = body.len();
    let take = move || format_content_md5_iter(body).parse().ok();
    if length <= MD5_INLINE_BYTES_MAX {
        return take();
    }
    supervise::blocking(take).await
}

/// Whether the server says that the stored bytes are encrypted with a managed or a customer's key.
fn is_encrypted_by_key(headers: &http::HeaderMap) -> bool {
    let named = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let by_kms = |value: &str| value.to_ascii_lowercase().contains("kms");
    named("x-oss-server-side-encryption").is_some_and(by_kms)
        || named("x-amz-server-side-encryption").is_some_and(by_kms)
        || headers.contains_key("x-amz-server-side-encryption-customer-algorithm")
}
