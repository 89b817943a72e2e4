//! Where keys come from: the places that people already have them in, asked in order.
//!
//! A key is never a flag and never in a message; a message names the *source* instead. A source
//! that asks the network gets a bounded time, since on a machine outside the cloud the metadata
//! address leads nowhere and would hang.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqsign_aliyun_oss as aliyun;
use reqsign_aws_v4 as aws;
use reqsign_core::time::Timestamp;
use reqsign_core::{Context, Env, ProvideCredential, ProvideCredentialDyn, SigningCredential};
use reqsign_file_read_tokio::TokioFileRead;

/// The environment variables and the home directory that credentials are looked for in.
///
/// A component, passed in so that tests have their own. `Debug` shows no value.
#[derive(Clone, Default)]
pub struct Environment {
    vars: Arc<HashMap<String, String>>,
    home: Option<PathBuf>,
}

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        Environment {
            vars: Arc::new(std::env::vars_os().filter_map(text_pair).collect()),
            home: std::env::home_dir(),
        }
    }

    /// Exactly these variables and this home directory.
    pub fn new<'a>(
        vars: impl IntoIterator<Item = (&'a str, &'a str)>,
        home: Option<PathBuf>,
    ) -> Self {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Environment { vars: Arc::new(vars.into_iter().map(own).collect()), home }
    }

    /// The value of a variable that is set and not empty.
    pub(super) fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// The endpoint that `ossutil config` wrote down.
    pub(super) fn ossutil_endpoint(&self) -> Option<String> {
        let path = self.home.as_ref()?.join(".ossutilconfig");
        let text = std::fs::read_to_string(path).ok()?;
        ini_value(&text, &["endpoint"])
    }
}

fn text_pair((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

impl Env for Environment {
    fn var(&self, key: &str) -> Option<String> {
        Environment::var(self, key)
    }

    fn vars(&self) -> HashMap<String, String> {
        // A variable that is set to nothing is as good as none.
        let mut vars = (*self.vars).clone();
        vars.retain(|_, value| !value.is_empty());
        vars
    }

    fn home_dir(&self) -> Option<PathBuf> {
        self.home.clone()
    }
}

/// One place to look.
struct Source<K> {
    name: &'static str,
    provider: Box<dyn ProvideCredentialDyn<Credential = K>>,
}

/// What the last look through the sources came to. No secret in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// The source that had a key.
    pub(super) used: Option<&'static str>,
    /// Each source that had none, and why where it failed.
    pub(super) tried: String,
}

/// The sources in order; the first that has a usable key is taken.
pub(super) struct Chain<K> {
    sources: Vec<Source<K>>,
    patience: Duration,
    told: Arc<Mutex<Told>>,
}

impl<K> Chain<K> {
    fn new(patience: Duration, told: Arc<Mutex<Told>>) -> Self {
        Chain { sources: Vec::new(), patience, told }
    }

    fn or(mut self, name: &'static str, provider: impl ProvideCredential<Credential = K>) -> Self {
        let provider = Box::new(provider);
        self.sources.push(Source { name, provider });
        self
    }
}

impl<K> fmt::Debug for Chain<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.sources.iter().map(|source| source.name);
        f.debug_list().entries(names).finish()
    }
}

impl<K: SigningCredential> ProvideCredential for Chain<K> {
    type Credential = K;

    async fn provide_credential(&self, ctx: &Context) -> reqsign_core::Result<Option<K>> {
        let mut tried = String::new();
        let mut found = None;
        for Source { name, provider } in &self.sources {
            let asked = provider.provide_credential_dyn(ctx);
            // What a provider says may quote an answer or a URL with a token: only its kind counts.
            let why = match tokio::time::timeout(self.patience, asked).await {
                Ok(Ok(Some(key))) if key.is_valid_at(Timestamp::now()) => {
                    found = Some((*name, key));
                    break;
                }
                Ok(Ok(Some(_))) => " (incomplete or expired)",
                Ok(Ok(None)) => "",
                Ok(Err(_)) => " (failed)",
                Err(_) => " (no answer)",
            };
            let comma = if tried.is_empty() { "" } else { ", " };
            tried.extend([comma, name, why]);
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.tried = tried;
        told.used = found.as_ref().map(|(name, _)| *name);
        Ok(found.map(|(_, key)| key))
    }
}

/// The sources of Alibaba Cloud keys.
pub(super) fn aliyun_chain(
    patience: Duration,
    told: &Arc<Mutex<Told>>,
) -> Chain<aliyun::Credential> {
    Chain::new(patience, Arc::clone(told))
        .or(
            "environment ALIBABA_CLOUD_ACCESS_KEY_ID or OSS_ACCESS_KEY_ID",
            aliyun::EnvCredentialProvider::new(),
        )
        // Before the metadata service, which on ACK would answer with the node's role.
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

/// The sources of AWS keys. `credential_process` is not run.
pub(super) fn aws_chain(patience: Duration, told: &Arc<Mutex<Told>>) -> Chain<aws::Credential> {
    Chain::new(patience, Arc::clone(told))
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

/// `~/.ossutilconfig`, as `ossutil config` writes it, of version 1 (`[Credentials]`) and 2
/// (`[default]`).
#[derive(Debug)]
struct OssutilConfig;

impl ProvideCredential for OssutilConfig {
    type Credential = aliyun::Credential;

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
        let id = ini_value(&text, &["accesskeyid"]);
        let secret = ini_value(&text, &["accesskeysecret"]);
        Ok(id.zip(secret).map(|(id, secret)| aliyun::Credential {
            access_key_id: id,
            access_key_secret: secret,
            security_token: ini_value(&text, &["ststoken", "securitytoken"]),
            expires_in: None,
        }))
    }
}

/// The first value of one of `names` (in lower case, without separators) in the sections that
/// ossutil reads without being told a profile.
fn ini_value(text: &str, names: &[&str]) -> Option<String> {
    let mut ours = true;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']').trim().to_ascii_lowercase();
            ours = matches!(section.as_str(), "credentials" | "default");
        } else if ours && !line.starts_with(['#', ';']) {
            let Some((name, value)) = line.split_once('=') else {
                continue;
            };
            let name = name.trim().to_ascii_lowercase().replace(['-', '_'], "");
            if names.contains(&name.as_str()) && !value.trim().is_empty() {
                return Some(value.trim().to_owned());
            }
        }
    }
    None
}

/// What the sources read and ask with.
pub(super) fn context(environment: &Environment, send: CredentialSend) -> Context {
    Context::new().with_file_read(TokioFileRead).with_http_send(send).with_env(environment.clone())
}

/// Where metadata services answer: of ECS, of EC2, of containers, of this machine.
const NEAR: [&str; 7] = [
    "100.100.100.200",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "127.0.0.1",
    "localhost",
    "[::1]",
];

/// HTTP for the sources that ask the network.
pub(super) struct CredentialSend {
    /// Through the proxy that the environment names.
    pub(super) client: reqwest::Client,
    /// Never through a proxy: metadata services answer to the machine itself.
    pub(super) direct: reqwest::Client,
}

impl fmt::Debug for CredentialSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialSend").finish_non_exhaustive()
    }
}

impl reqsign_core::HttpSend for CredentialSend {
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
        let response = client.execute(request).await.map_err(failed)?;
        let mut answer = http::Response::new(Bytes::new());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        *answer.body_mut() = response.bytes().await.map_err(failed)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Environment variables and files below the home directory.
    async fn look(
        vars: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> (Option<aliyun::Credential>, Told) {
        let home = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let off = ("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true");
        let vars = vars.iter().copied().chain([off]);
        let environment = Environment::new(vars, Some(home.path().to_owned()));
        let client = reqwest::Client::new();
        let send = CredentialSend { direct: client.clone(), client };
        let told = Arc::new(Mutex::new(Told::default()));
        let chain = aliyun_chain(Duration::from_secs(5), &told);
        let found = chain.provide_credential(&context(&environment, send)).await.unwrap();
        let told = told.lock().unwrap().clone();
        (found, told)
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
    async fn each_source_is_found_and_the_environment_comes_first() {
        let id = |found: &Option<aliyun::Credential>| found.clone().unwrap().access_key_id;
        let env = [("OSS_ACCESS_KEY_ID", "env-id"), ("OSS_ACCESS_KEY_SECRET", "s")];
        let (found, told) = look(&env, &[CLI, OSSUTIL]).await;
        assert_eq!(id(&found), "env-id");
        assert!(told.used.unwrap().contains("environment"));
        let (found, told) = look(&[], &[CLI, OSSUTIL]).await;
        assert_eq!(id(&found), "cli-id");
        assert_eq!(told.used, Some("~/.aliyun/config.json"));
        let (found, told) = look(&[], &[OSSUTIL]).await;
        assert_eq!(id(&found), "util-id");
        assert_eq!(told.used, Some("~/.ossutilconfig"));
        let found = found.unwrap();
        assert_eq!(found.access_key_secret, "util=secret");
        assert_eq!(found.security_token.as_deref(), Some("util-token"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_a_key_every_source_is_named() {
        // Half a key is none.
        let (found, told) = look(&[("OSS_ACCESS_KEY_ID", "planted")], &[]).await;
        assert!(found.is_none());
        assert_eq!(told.used, None);
        for name in ["environment", "RRSA", "config.json", "ossutilconfig", "ECS RAM role"] {
            assert!(told.tried.contains(name), "{name}: {}", told.tried);
        }
        assert!(!told.tried.contains("planted"), "{}", told.tried);
    }

    #[test]
    fn an_environment_shows_no_value() {
        let environment = Environment::new([("OSS_ACCESS_KEY_SECRET", "planted")], None);
        assert!(!format!("{environment:?}").contains("planted"));
    }

    #[test]
    fn ini_values_are_read_from_the_sections_of_both_ossutil_versions() {
        let text =
            "[default]\n accessKeyID = a \n# region=no\nregion=cn-x\n[profile dev]\nendpoint=y";
        assert_eq!(ini_value(text, &["accesskeyid"]).as_deref(), Some("a"));
        assert_eq!(ini_value(text, &["region"]).as_deref(), Some("cn-x"));
        assert_eq!(ini_value(text, &["endpoint"]), None);
    }
}
