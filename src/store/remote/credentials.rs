//! Finds credentials in the places where the vendors' tools keep them, in a fixed order.
//!
//! A key is never a flag and is never part of a message; a message names the *source* instead. Each
//! source has a time limit, because a metadata address does not answer on a machine outside the
//! cloud.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqsign_aliyun_oss as aliyun;
use reqsign_aws_v4 as aws;
use reqsign_core::time::Timestamp;
use reqsign_core::{Context, FileRead, ProvideCredential, ProvideCredentialDyn, SigningCredential};
use reqsign_file_read_tokio::TokioFileRead;

use super::environment::{Environment, OSSUTIL_SECTIONS, ini_value};

/// One place that may have a key of type `K`.
struct KeySource<K> {
    /// The name in messages.
    name: &'static str,
    /// Returns the keys, if this place has them.
    provider: Box<dyn ProvideCredentialDyn<Credential = K>>,
}

/// The result of a search for keys. It holds no secret.
#[derive(Clone, Debug, Default)]
pub struct KeySearch {
    /// The source of the key, if one was found.
    pub used: Option<&'static str>,
    /// The sources without a key, separated by commas, each with the reason if it failed.
    pub tried: String,
}

/// Searches its sources in order and returns the first usable key.
pub struct Chain<K> {
    /// The places, in the order in which they are asked.
    sources: Vec<KeySource<K>>,
    /// The longest time for one source.
    timeout: Duration,
    /// Receives the result of each search.
    search: Arc<Mutex<KeySearch>>,
}

impl<K> Chain<K> {
    /// Returns a chain without sources.
    fn new(timeout: Duration, search: Arc<Mutex<KeySearch>>) -> Self {
        Chain { sources: Vec::new(), timeout, search }
    }

    /// Adds a source after the others.
    fn or(mut self, name: &'static str, provider: impl ProvideCredential<Credential = K>) -> Self {
        let provider = Box::new(provider);
        self.sources.push(KeySource { name, provider });
        self
    }
}

impl<K> fmt::Debug for Chain<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.sources.iter().map(|source| source.name);
        f.debug_list().entries(names).finish()
    }
}

/// A key whose values can be cleaned.
pub trait Clean {
    /// Removes blanks and line breaks around each value; an empty token becomes `None`. Returns
    /// false if a value cannot be part of a request's header.
    fn clean(&mut self) -> bool;
}

/// Cleans identifier, secret and token; see [`Clean::clean`]. A secret that was pasted into a file
/// often has a line break after it, which no header may have.
fn clean(values: [&mut String; 2], token: &mut Option<String>) -> bool {
    *token = token.take().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    let [id, secret] = values;
    for value in [&mut *id, &mut *secret] {
        *value = value.trim().to_owned();
    }
    [Some(&*id), Some(&*secret), token.as_ref()]
        .into_iter()
        .flatten()
        .all(|value| value.chars().all(|c| c.is_ascii_graphic()))
}

impl Clean for aliyun::Credential {
    /// Cleans the three values of an Alibaba Cloud key.
    fn clean(&mut self) -> bool {
        clean([&mut self.access_key_id, &mut self.access_key_secret], &mut self.security_token)
    }
}

impl Clean for aws::Credential {
    /// Cleans the three values of an AWS key.
    fn clean(&mut self) -> bool {
        clean([&mut self.access_key_id, &mut self.secret_access_key], &mut self.session_token)
    }
}

impl<K: SigningCredential + Clean> ProvideCredential for Chain<K> {
    type Credential = K;

    /// Asks one source after the other for keys, each for at most the time limit. Keys that are
    /// incomplete or have expired are passed over. The result of the search is noted for messages.
    async fn provide_credential(&self, ctx: &Context) -> reqsign_core::Result<Option<K>> {
        let mut tried = String::new();
        let mut found = None;
        for KeySource { name, provider } in &self.sources {
            let asked = provider.provide_credential_dyn(ctx);
            // A provider's message may quote an answer, or a URL with a token, so it is not used.
            let why = match tokio::time::timeout(self.timeout, asked).await {
                Ok(Ok(Some(mut key))) => match key.clean() {
                    true if key.is_valid_at(Timestamp::now()) => {
                        found = Some((*name, key));
                        break;
                    }
                    true => " (incomplete or expired)",
                    false => " (with a blank or a control character in it)",
                },
                Ok(Ok(None)) => "",
                Ok(Err(_)) => " (failed)",
                Err(_) => " (no answer)",
            };
            let comma = if tried.is_empty() { "" } else { ", " };
            tried.extend([comma, name, why]);
        }
        let used = found.as_ref().map(|(name, _)| *name);
        // Replaced as a whole, so a panic elsewhere leaves nothing half-done.
        *self.search.lock().unwrap_or_else(PoisonError::into_inner) = KeySearch { used, tried };
        Ok(found.map(|(_, key)| key))
    }
}

/// Returns the sources of Alibaba Cloud keys, in the order of its own tools: environment, role of a
/// pod, files, a URI, role of the machine.
pub fn aliyun_chain(
    timeout: Duration,
    search: &Arc<Mutex<KeySearch>>,
) -> Chain<aliyun::Credential> {
    Chain::new(timeout, Arc::clone(search))
        .or(
            "environment ALIBABA_CLOUD_ACCESS_KEY_ID or OSS_ACCESS_KEY_ID",
            aliyun::EnvCredentialProvider::new(),
        )
        // Before the metadata service, which on ACK answers with the role of the node.
        .or(
            "RRSA by ALIBABA_CLOUD_OIDC_TOKEN_FILE",
            aliyun::AssumeRoleWithOidcCredentialProvider::new(),
        )
        .or("~/.oss/credentials", aliyun::OssProfileCredentialProvider::new())
        .or(
            "~/.alibabacloud/credentials.ini or ~/.aliyun/credentials.ini",
            aliyun::CredentialsFileCredentialProvider::new(),
        )
        .or("~/.aliyun/config.json", aliyun::ConfigFileCredentialProvider::new())
        .or("~/.ossutilconfig", OssutilConfig)
        .or("ALIBABA_CLOUD_CREDENTIALS_URI", aliyun::CredentialsUriCredentialProvider::new())
        .or("ECS RAM role by metadata service", aliyun::EcsRamRoleCredentialProvider::new())
}

/// Returns the sources of AWS keys, in the order of its own tools. `credential_process` is not run:
/// it would start a program that a file names.
pub fn aws_chain(timeout: Duration, search: &Arc<Mutex<KeySearch>>) -> Chain<aws::Credential> {
    Chain::new(timeout, Arc::clone(search))
        .or("environment AWS_ACCESS_KEY_ID", aws::EnvCredentialProvider::new())
        .or(
            "web identity by AWS_WEB_IDENTITY_TOKEN_FILE",
            aws::AssumeRoleWithWebIdentityCredentialProvider::default(),
        )
        .or("~/.aws/credentials or ~/.aws/config", aws::ProfileCredentialProvider::default())
        .or("AWS SSO", aws::SSOCredentialProvider::default())
        .or("ECS container role", aws::ECSCredentialProvider::default())
        .or("EC2 instance role by metadata service", aws::IMDSv2CredentialProvider::default())
}

/// Reads keys from `~/.ossutilconfig`, which `ossutil config` writes: version 1 has a section
/// `[Credentials]`, version 2 a section `[default]`.
#[derive(Debug)]
struct OssutilConfig;

impl ProvideCredential for OssutilConfig {
    type Credential = aliyun::Credential;

    /// Reads the file; returns `None` if there is none or it has no keys.
    async fn provide_credential(
        &self,
        ctx: &Context,
    ) -> reqsign_core::Result<Option<aliyun::Credential>> {
        let Some(path) = ctx.expand_home_dir("~/.ossutilconfig") else {
            return Ok(None);
        };
        let Ok(text) = ctx.file_read_as_string(&path).await else {
            return Ok(None);
        };
        let value = |names: &[&str]| ini_value(&text, &OSSUTIL_SECTIONS, names);
        let (id, secret) = (value(&["accesskeyid"]), value(&["accesskeysecret"]));
        Ok(id.zip(secret).map(|(id, secret)| aliyun::Credential {
            access_key_id: id,
            access_key_secret: secret,
            security_token: value(&["ststoken", "securitytoken"]),
            expires_in: None,
        }))
    }
}

/// Reads files for the sources, with quotes and backslashes escaped in INI files.
///
/// The sources' parser interprets quotes and backslashes in INI files, but the tools that write
/// these files mean them literally. The file of a token often ends in a line break that is not part
/// of the token; blanks at both ends are removed.
#[derive(Debug)]
struct LiteralFiles;

impl FileRead for LiteralFiles {
    /// Reads a file as the parser of the source has to see it: see [`literal`].
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let bytes = TokioFileRead.file_read(path).await?;
        Ok(literal(&bytes))
    }
}

/// Returns the content of a file as the sources' parser has to see it: without a byte order mark
/// and blanks at both ends, and, in an INI file, with quotes and backslashes escaped.
fn literal(bytes: &[u8]) -> Vec<u8> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii();
    let is_ini = text.split(|&byte| byte == b'\n').any(|line| line.trim_ascii().starts_with(b"["))
        && !text.starts_with(b"{");
    if !is_ini {
        return text.to_vec();
    }
    let mut escaped = Vec::with_capacity(text.len() + 16);
    for &byte in text {
        if matches!(byte, b'\\' | b'"' | b'\'') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

/// Returns the environment, the files and the HTTP client of the sources.
pub fn context(environment: &Environment, send: CredentialSend) -> Context {
    Context::new().with_file_read(LiteralFiles).with_http_send(send).with_env(environment.clone())
}

/// The hosts of metadata services: of ECS, of EC2, of containers, of this machine.
const NEAR: [&str; 7] = [
    "100.100.100.200",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "127.0.0.1",
    "localhost",
    "[::1]",
];

/// The longest answer of a credential source, in bytes.
const KEYS_BYTES_MAX: usize = 64 << 10;

/// Sends the HTTP requests of the sources.
pub struct CredentialSend {
    /// Sends through the proxy of the environment.
    pub client: reqwest::Client,
    /// Sends without a proxy, since a metadata service answers only to the machine itself.
    pub direct: reqwest::Client,
}

impl fmt::Debug for CredentialSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialSend").finish_non_exhaustive()
    }
}

impl reqsign_core::HttpSend for CredentialSend {
    /// Sends a request for credentials; one to a service of this machine takes no proxy.
    async fn http_send(
        &self,
        request: http::Request<Bytes>,
    ) -> reqsign_core::Result<http::Response<Bytes>> {
        let near = request.uri().host().is_some_and(|host| NEAR.contains(&host));
        let client = if near { &self.direct } else { &self.client };
        let failed = |error: reqwest::Error| {
            reqsign_core::Error::unexpected("credential source did not answer")
                .with_source(error.without_url())
        };
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let mut response = client.execute(request).await.map_err(failed)?;
        let mut answer = http::Response::new(Bytes::new());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        // Read in chunks, because a length that a server declares is not trusted.
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > KEYS_BYTES_MAX {
                let message = "credential source answers with more than 64 KiB";
                return Err(reqsign_core::Error::unexpected(message));
            }
            body.extend_from_slice(&chunk);
        }
        *answer.body_mut() = body.into();
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches with these environment variables and files below the home directory.
    async fn look(
        vars: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> (Option<aliyun::Credential>, KeySearch) {
        let home = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let off = ("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true");
        let vars = vars.iter().copied().chain([off]);
        let environment = Environment::new(vars, Some(home.path().to_owned()));
        crate::tls::install_provider();
        let client = reqwest::Client::new();
        let send = CredentialSend { direct: client.clone(), client };
        let search = Arc::new(Mutex::new(KeySearch::default()));
        let chain = aliyun_chain(Duration::from_secs(5), &search);
        let found = chain.provide_credential(&context(&environment, send)).await.unwrap();
        let search = search.lock().unwrap().clone();
        (found, search)
    }

    const CLI: (&str, &str) = (
        ".aliyun/config.json",
        r#"{"current":"p","profiles":[{"name":"p","mode":"AK","access_key_id":"cli-id","access_key_secret":"cli-secret"}]}"#,
    );
    const OSSUTIL: (&str, &str) = (
        ".ossutilconfig",
        "[Credentials]\nlanguage=EN\nendpoint = oss-cn-hangzhou.aliyuncs.com\n\
         accessKeyID=util-id\naccessKeySecret=util=secret\nstsToken=util-token\n\
         [Bucket-Endpoint]\naccessKeyID=other\n",
    );

    #[tokio::test(flavor = "current_thread")]
    async fn sources_are_found_in_their_order() {
        let id = |found: &Option<aliyun::Credential>| found.clone().unwrap().access_key_id;
        let env = [("OSS_ACCESS_KEY_ID", "env-id"), ("OSS_ACCESS_KEY_SECRET", "s")];
        let (found, search) = look(&env, &[CLI, OSSUTIL]).await;
        assert_eq!(id(&found), "env-id");
        assert!(search.used.unwrap().contains("environment"));
        let (found, search) = look(&[], &[CLI, OSSUTIL]).await;
        assert_eq!(id(&found), "cli-id");
        assert_eq!(search.used, Some("~/.aliyun/config.json"));
        let (found, search) = look(&[], &[OSSUTIL]).await;
        assert_eq!(id(&found), "util-id");
        assert_eq!(search.used, Some("~/.ossutilconfig"));
        let found = found.unwrap();
        assert_eq!(found.access_key_secret, "util=secret");
        assert_eq!(found.security_token.as_deref(), Some("util-token"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_a_key_every_source_is_named() {
        // Half a key is none.
        let (found, search) = look(&[("OSS_ACCESS_KEY_ID", "planted")], &[]).await;
        assert!(found.is_none());
        assert_eq!(search.used, None);
        for name in ["environment", "RRSA", "config.json", "ossutilconfig", "ECS RAM role"] {
            assert!(search.tried.contains(name), "{name}: {}", search.tried);
        }
        assert!(!search.tried.contains("planted"), "{}", search.tried);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn values_are_cleaned_whatever_their_source() {
        let env = [
            ("OSS_ACCESS_KEY_ID", " id\n"),
            ("OSS_ACCESS_KEY_SECRET", "secret\r\n"),
            ("OSS_SESSION_TOKEN", " "),
        ];
        let cli = CLI.1.replace("cli-secret", "cli-secret\\n").replace("cli-id", " cli-id ");
        let util = OSSUTIL.1.replace("util-token", "");
        let profile = "[default]\naccess_key_id =  prof-id \naccess_key_secret=a\\b\"c'd\n\
                       type = access_key\nenable = true\n";
        for (vars, file, id, secret) in [
            (&env[..], CLI, "id", "secret"),
            (&[], (CLI.0, &*cli), "cli-id", "cli-secret"),
            (&[], (OSSUTIL.0, &*util), "util-id", "util=secret"),
            (&[], (".alibabacloud/credentials.ini", profile), "prof-id", "a\\b\"c'd"),
        ] {
            let (found, search) = look(vars, &[file]).await;
            let found = found.unwrap_or_else(|| panic!("{file:?}: {search:?}"));
            assert_eq!((&*found.access_key_id, &*found.access_key_secret), (id, secret));
            assert_eq!(found.security_token, None, "{file:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn keys_with_blanks_inside_name_their_source() {
        let env = [("OSS_ACCESS_KEY_ID", "a\nb"), ("OSS_ACCESS_KEY_SECRET", "s")];
        let (found, search) = look(&env, &[]).await;
        assert!(found.is_none());
        assert!(search.tried.contains("OSS_ACCESS_KEY_ID (with a blank"), "{}", search.tried);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn aws_files_are_read_literally() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let write = |name, text| std::fs::write(home.path().join(".aws").join(name), text).unwrap();
        write(
            "credentials",
            "[default]\naws_access_key_id = id\naws_secret_access_key = \"a\\/b'c\"\n\
             aws_session_token =\n[work]\naws_access_key_id = work\naws_secret_access_key=w\n",
        );
        write(
            "config",
            "[default]\nregion = eu-west-1\n[profile work]\nregion= us-east-2 \n\
             endpoint_url = http://127.0.0.1:9\n",
        );
        let off = ("AWS_EC2_METADATA_DISABLED", "true");
        for (profile, id, secret, region) in
            [("", "id", "\"a\\/b'c\"", "eu-west-1"), ("work", "work", "w", "us-east-2")]
        {
            let vars = [off, ("AWS_PROFILE", profile)];
            let environment = Environment::new(vars, Some(home.path().to_owned()));
            crate::tls::install_provider();
            let client = reqwest::Client::new();
            let send = CredentialSend { direct: client.clone(), client };
            let chain = aws_chain(Duration::from_secs(5), &Arc::default());
            let found = chain.provide_credential(&context(&environment, send)).await.unwrap();
            let found = found.unwrap();
            assert_eq!((&*found.access_key_id, &*found.secret_access_key), (id, secret));
            assert_eq!(found.session_token, None);
            assert_eq!(environment.aws_value("region").as_deref(), Some(region));
            assert_eq!(environment.aws_value("endpoint_url").is_some(), profile == "work");
        }
    }
}
