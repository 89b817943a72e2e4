//! A small OSS server on a loopback port, that judges and misbehaves on order. Speaks [S3](s3) too.
//!
//! It believes nothing: V4 signatures are computed [anew](signature), path-style requests and wrong
//! Content-MD5s are refused, as the real service does. It knows the requests a sink makes and no
//! others, counts the puts of each key, and injects each fault that a network has, by script.

pub(crate) mod s3;
mod signature;
mod time;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use md5::{Digest, Md5};
use signature::Signed;
use wire::{Answer, Request, base64, decode, etag_of};
use wordtide::internals::epoch::{Clock, SystemClock};

pub(crate) const BUCKET: &str = "demo";
pub(crate) const ENDPOINT: &str = "oss-cn-hangzhou.aliyuncs.com";
/// A domain of the user's that is bound to the bucket; the double's own address is another.
pub(crate) const DOMAIN: &str = "files.example.com";
pub(crate) const REGION: &str = "cn-hangzhou";
pub(crate) const KEY_ID: &str = "LTAIdouble";
pub(crate) const SECRET: &str = "secret-of-the-double";
pub(crate) const TOKEN: &str = "token-of-the-double==";

/// The fate of one request instead of, or beside, its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This status, and no work.
    Status(u16),
    /// 403 with this code, and no work.
    Refused(&'static str),
    /// This status with this code, and no work.
    Code(u16, &'static str),
    /// A web page and no work.
    Page,
    /// Closed before anything is read.
    ResetBefore,
    /// Closed in the middle of the body.
    ResetInside,
    /// The work is done and the connection closed without an answer.
    AnswerLost,
    /// No work and no answer, for as long as the client waits.
    Stall,
}

type Script = Box<dyn FnMut(&str, &str) -> Option<Fault> + Send>;

/// How the double treats a request that creates an object which exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Conditions {
    /// It refuses it, as OSS and S3 do.
    #[default]
    Honour,
    /// It does not see the header and replaces the object.
    Ignore,
    /// It answers 501 to every request with such a header.
    Lack,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    /// Content type and content encoding of each object.
    types: BTreeMap<String, [String; 2]>,
    /// When each object was stored, in seconds since 1970 by the double's clock.
    modified: HashMap<String, u64>,
    conditions: Conditions,
    /// Seconds that the double's clock is ahead of this machine's.
    ahead_s: i64,
    puts: HashMap<String, u32>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    uploads_begun: u32,
    /// Keys of objects that were uploaded in parts.
    in_parts: BTreeSet<String>,
    /// Method, decoded path with query, and status of each answered request.
    log: Vec<(String, String, u16)>,
    script: Option<Script>,
    outage: bool,
    versioning: &'static str,
}

/// A running double. It ends with the process.
#[derive(Clone)]
pub(crate) struct OssDouble {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl OssDouble {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let double = OssDouble { address: listener.local_addr().unwrap(), state: Arc::default() };
        let server = double.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that leaves ends its thread; whatever it sent is judged by then.
                thread::spawn(move || server.serve(stream).unwrap_or_default());
            }
        });
        double
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Decides each request's fault by its method and its path with query.
    pub(crate) fn script(&self, script: impl FnMut(&str, &str) -> Option<Fault> + Send + 'static) {
        self.lock().script = Some(Box::new(script));
    }

    /// The next `count` requests of this method, with a path that contains `part`, meet `fault`.
    pub(crate) fn fail_next(
        &self,
        mut count: u32,
        fault: Fault,
        method: &'static str,
        part: &'static str,
    ) {
        self.script(move |found, path| {
            let hit = count > 0 && found == method && path.contains(part);
            count -= u32::from(hit);
            hit.then_some(fault)
        });
    }

    /// Every connection is dropped while the store is away.
    pub(crate) fn outage(&self, away: bool) {
        self.lock().outage = away;
    }

    pub(crate) fn versioning(&self, state: &'static str) {
        self.lock().versioning = state;
    }

    pub(crate) fn conditions(&self, conditions: Conditions) {
        self.lock().conditions = conditions;
    }

    /// Stores an object as another client would.
    pub(crate) fn plant(&self, key: &str, body: &[u8]) {
        let mut state = self.lock();
        let now_s = state.now_s();
        state.modified.insert(key.to_owned(), now_s);
        state.objects.insert(key.to_owned(), body.to_vec());
    }

    /// Sets the double's clock so many seconds ahead of this machine's.
    pub(crate) fn clock_ahead(&self, ahead_s: i64) {
        self.lock().ahead_s = ahead_s;
    }

    pub(crate) fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().objects.clone()
    }

    /// Sets or removes an object, as another program does.
    pub(crate) fn set_object(&self, key: &str, bytes: Option<&[u8]>) {
        let objects = &mut self.lock().objects;
        match bytes {
            Some(bytes) => drop(objects.insert(key.to_owned(), bytes.to_vec())),
            None => drop(objects.remove(key)),
        }
    }

    /// Returns content type and content encoding of each object, by key.
    pub(crate) fn types(&self) -> BTreeMap<String, [String; 2]> {
        self.lock().types.clone()
    }

    /// How many objects have such a key.
    pub(crate) fn count(&self, matches: impl Fn(&str) -> bool) -> usize {
        self.lock().objects.keys().filter(|key| matches(key)).count()
    }

    /// How often `key` was stored.
    pub(crate) fn puts(&self, key: &str) -> u32 {
        self.lock().puts.get(key).copied().unwrap_or(0)
    }

    /// Uploads in parts that were begun and neither completed nor aborted.
    pub(crate) fn open_uploads(&self) -> usize {
        self.lock().uploads.len()
    }

    pub(crate) fn log(&self) -> Vec<(String, String, u16)> {
        self.lock().log.clone()
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = std::io::BufReader::new(stream.try_clone()?);
        while let Some(mut request) = Request::read_head(&mut reader)? {
            let path = format!("{}?{}", decode(&request.path), request.query);
            let Some(fault) = self.next_fault(&request.method, &path) else {
                return Ok(());
            };
            match fault {
                Some(Fault::ResetBefore) => return Ok(()),
                Some(Fault::ResetInside) => {
                    return request.read_body(&mut reader, 2);
                }
                Some(Fault::Stall) => {
                    request.read_body(&mut reader, 1)?;
                    // Until the client hangs up.
                    return Request::read_head(&mut reader).map(|_| ());
                }
                _ => request.read_body(&mut reader, 1)?,
            }
            let answer = match fault {
                Some(Fault::Status(status)) => Answer::error(status, "ServiceUnavailable"),
                Some(Fault::Refused(code)) => Answer::error(403, code),
                Some(Fault::Page) => Answer::page(),
                Some(Fault::Code(status, code)) => Answer::error(status, code),
                _ => self.judge(&request).unwrap_or_else(|refusal| refusal),
            };
            let method = request.method.clone();
            self.lock().log.push((method, path, answer.status));
            if fault == Some(Fault::AnswerLost) {
                return Ok(());
            }
            let now_s = self.lock().now_s();
            answer.write(&request.method, now_s, &stream)?;
        }
        Ok(())
    }

    /// The script's word on a request; `None` in an outage.
    fn next_fault(&self, method: &str, path: &str) -> Option<Option<Fault>> {
        let mut state = self.lock();
        if state.outage {
            return None;
        }
        let mut script = state.script.take();
        // A script may plant objects, so it runs without the lock.
        drop(state);
        let fault = script.as_mut().and_then(|script| script(method, path));
        let mut state = self.lock();
        if state.script.is_none() {
            state.script = script;
        }
        Some(fault)
    }

    fn judge(&self, request: &Request) -> Result<Answer, Answer> {
        let authorization = request.header("authorization");
        let key = match authorization.strip_prefix("AWS4-HMAC-SHA256 ") {
            Some(fields) => s3::check(request, fields)?,
            None => {
                check_host(request.header("host"))?;
                let key = decode(request.path.trim_start_matches('/'));
                check_signature(request, &key)?;
                key
            }
        };
        let md5 = request.header("content-md5");
        if !md5.is_empty() && md5 != base64(&Md5::digest(&request.body)) {
            return Err(Answer::error(400, "InvalidDigest"));
        }
        let mut state = self.lock();
        match (request.method.as_str(), key.as_str()) {
            ("GET", "") => state.about_the_bucket(request),
            ("GET" | "HEAD", _) => state.read(&key, request),
            ("PUT", _) if request.has("uploadId") => state.part(request),
            ("PUT", _) => state.put(request, key),
            ("POST", _) if request.has("uploads") => {
                state.check_conditions(request, &key)?;
                Ok(state.begin_upload(&key))
            }
            ("POST", _) if request.has("uploadId") => state.end_upload(request, key),
            ("DELETE", _) if request.has("uploadId") => {
                state.uploads.remove(&request.value("uploadId"));
                Ok(Answer::new(204))
            }
            ("DELETE", _) => {
                state.objects.remove(&key);
                Ok(Answer::new(204))
            }
            _ => Err(Answer::error(501, "NotImplemented")),
        }
    }
}

fn check_host(host: &str) -> Result<(), Answer> {
    let own = [DOMAIN, "127.0.0.1"].iter().any(|domain| host.starts_with(domain));
    if own || host.starts_with(&format!("{BUCKET}.")) {
        return Ok(());
    }
    Err(match host.starts_with("oss-cn-hangzhou.") {
        true => Answer::error(403, "SecondLevelDomainForbidden"),
        false => Answer::error(404, "NoSuchBucket"),
    })
}

fn check_signature(request: &Request, key: &str) -> Result<(), Answer> {
    let authorization = request.header("authorization");
    let Some(fields) = authorization.strip_prefix("OSS4-HMAC-SHA256 ") else {
        return Err(Answer::error(403, "AccessDenied"));
    };
    let field = |name: &str| {
        let found = fields.split(',').find_map(|field| {
            let (known, value) = field.trim().split_once('=')?;
            (known == name).then_some(value)
        });
        found.unwrap_or_default()
    };
    let additional = field("AdditionalHeaders");
    let additional: Vec<_> =
        additional.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let signed = Signed {
        method: &request.method,
        bucket: BUCKET,
        key: (!key.is_empty()).then_some(key),
        query: &request.query,
        headers: &request.headers,
        additional: &additional,
        region: REGION,
    };
    let (id, scope) = field("Credential").split_once('/').unwrap_or_default();
    let temporary = id.starts_with("STS.");
    if id.trim_start_matches("STS.") != KEY_ID {
        return Err(Answer::error(403, "InvalidAccessKeyId"));
    }
    if temporary && request.header("x-oss-security-token") != TOKEN {
        return Err(Answer::error(403, "InvalidSecurityToken"));
    }
    if scope != signed.scope() {
        return Err(Answer::error(400, "InvalidArgument"));
    }
    if field("Signature") != signed.signature(SECRET) {
        return Err(Answer::error(403, "SignatureDoesNotMatch"));
    }
    Ok(())
}

impl State {
    fn put(&mut self, request: &Request, key: String) -> Result<Answer, Answer> {
        self.store(request, key, request.body.clone())
    }

    fn store(&mut self, request: &Request, key: String, body: Vec<u8>) -> Result<Answer, Answer> {
        self.check_conditions(request, &key)?;
        *self.puts.entry(key.clone()).or_default() += 1;
        let answer = Answer::new(200).etag(etag_of(&body));
        self.in_parts.remove(&key);
        let types =
            ["content-type", "content-encoding"].map(|name| request.header(name).to_owned());
        self.types.insert(key.clone(), types);
        self.modified.insert(key.clone(), self.now_s());
        self.objects.insert(key, body);
        Ok(answer)
    }

    /// Judges a request by its condition, whose header depends on the dialect.
    fn check_conditions(&self, request: &Request, key: &str) -> Result<(), Answer> {
        let forbid = request.header("x-oss-forbid-overwrite") == "true";
        let if_absent = request.header("if-none-match") == "*";
        let exists = self.objects.contains_key(key);
        match self.conditions {
            Conditions::Ignore => Ok(()),
            Conditions::Lack if forbid || if_absent => Err(Answer::error(501, "NotImplemented")),
            // No effect in a versioned bucket, as with the real one.
            _ if forbid && exists && self.versioning.is_empty() => {
                Err(Answer::error(409, "FileAlreadyExists"))
            }
            _ if if_absent && exists => Err(Answer::error(412, "PreconditionFailed")),
            _ => Ok(()),
        }
    }

    fn now_s(&self) -> u64 {
        (SystemClock::new().wall_ms() / 1000).saturating_add_signed(self.ahead_s)
    }

    fn read(&self, key: &str, request: &Request) -> Result<Answer, Answer> {
        let found = self.objects.get(key);
        let body = found.ok_or_else(|| Answer::error(404, "NoSuchKey"))?;
        let (etag, wanted) = (self.etag(key, body), request.header("if-match"));
        if !wanted.is_empty() && wanted.trim_matches('"') != etag {
            return Err(Answer::error(412, "PreconditionFailed"));
        }
        let answer = Answer::new(200).etag(etag);
        let modified = self.modified.get(key).copied().unwrap_or_default();
        Ok(answer.body(body.clone()).modified(modified).range(request.header("range")))
    }

    /// The ETag of an upload in parts is no MD5 of the object.
    fn etag(&self, key: &str, body: &[u8]) -> String {
        if self.in_parts.contains(key) { "0123-2".to_owned() } else { etag_of(body) }
    }

    fn begin_upload(&mut self, key: &str) -> Answer {
        self.uploads_begun += 1;
        let id = format!("upload-{}", self.uploads_begun);
        let text = format!(
            "<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{key}</Key>\
             <UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        );
        self.uploads.insert(id, BTreeMap::new());
        Answer::new(200).body(text.into_bytes())
    }

    fn part(&mut self, request: &Request) -> Result<Answer, Answer> {
        let number = request.value("partNumber").parse().unwrap_or(0);
        let upload = self.uploads.get_mut(&request.value("uploadId"));
        let upload = upload.ok_or_else(|| Answer::error(404, "NoSuchUpload"))?;
        upload.insert(number, request.body.clone());
        Ok(Answer::new(200).etag(etag_of(&request.body)))
    }

    fn end_upload(&mut self, request: &Request, key: String) -> Result<Answer, Answer> {
        let upload = self.uploads.remove(&request.value("uploadId"));
        let upload = upload.ok_or_else(|| Answer::error(404, "NoSuchUpload"))?;
        let body = upload.into_values().collect::<Vec<_>>().concat();
        let text = format!(
            "<CompleteMultipartUploadResult><Key>{key}</Key>\
             <ETag>&quot;0123-{}&quot;</ETag></CompleteMultipartUploadResult>",
            body.len()
        );
        self.store(request, key.clone(), body)?;
        self.in_parts.insert(key);
        Ok(Answer::new(200).body(text.into_bytes()))
    }

    fn about_the_bucket(&self, request: &Request) -> Result<Answer, Answer> {
        if request.has("bucketInfo") {
            let versioning = match self.versioning {
                "" => String::new(),
                state => format!("<Versioning>{state}</Versioning>"),
            };
            let text = format!("<BucketInfo><Bucket>{versioning}</Bucket></BucketInfo>");
            return Ok(Answer::new(200).body(text.into_bytes()));
        }
        if request.value("list-type") != "2" {
            return Err(Answer::error(501, "NotImplemented"));
        }
        let (prefix, delimiter) = (request.value("prefix"), request.value("delimiter"));
        let token = request.value("continuation-token");
        let after = match token.is_empty() {
            true => request.value("start-after"),
            false => token,
        };
        let limit: usize = request.value("max-keys").parse().unwrap_or(100);
        let mut found: BTreeMap<String, Option<usize>> = BTreeMap::new();
        for (key, body) in self.objects.range(prefix.clone()..) {
            let Some(rest) = key.strip_prefix(&prefix) else {
                break;
            };
            let dir = match delimiter.is_empty() {
                true => None,
                false => rest.find('/').map(|at| &key[..prefix.len() + at + 1]),
            };
            let name = dir.unwrap_or(key).to_owned();
            // As the real one: a directory is named again if any key in it comes after.
            let behind = if after.ends_with('\u{1}') {
                name.as_str() > after.trim_end_matches('\u{1}')
            } else {
                key.as_str() > after.as_str()
            };
            if behind {
                found.insert(name, dir.is_none().then_some(body.len()));
            }
        }
        let more = found.len() > limit;
        let mut text = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
        let page: Vec<_> = found.into_iter().take(limit).collect();
        if let (true, Some((last, _))) = (more, page.last()) {
            // Marked, so that a directory which ends a page is not named again by the next.
            let token = format!("{last}\u{1}").replace('\u{1}', "&#1;");
            text += &format!("<NextContinuationToken>{token}</NextContinuationToken>");
        }
        for (key, bytes) in page {
            let name = key.replace('&', "&amp;").replace('<', "&lt;");
            text += &match bytes {
                None => format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"),
                Some(bytes) => {
                    let modified = time::iso(self.modified.get(&key).copied().unwrap_or_default());
                    let etag = self.etag(&key, &self.objects[&key]);
                    format!(
                        "<Contents><Key>{name}</Key><LastModified>{modified}</LastModified>\
                         <ETag>\"{etag}\"</ETag><Size>{bytes}</Size></Contents>"
                    )
                }
            };
        }
        text += "</ListBucketResult>";
        Ok(Answer::new(200).body(text.into_bytes()))
    }
}
