//! Parses the value of `--to`: the store, its root, and the prefix of keys.
//!
//! The value is not parsed as a URL. A prefix is a plain string, in which `+`, `?`, `#`, `%` and
//! blanks are literal as in Hadoop's `Path`, and a URL parser would silently resolve `..`. Messages
//! do not repeat the parts of a value in which people put keys and secrets.

mod database_target;
mod search_target;

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
pub use database_target::{DatabaseKind, DatabaseTarget, SslMode};
pub use search_target::{SearchProduct, SearchTarget};

/// The longest prefix of a key that leaves room for epoch, suffix and part within the 1023 bytes
/// that OSS allows a key.
const PREFIX_BYTES_MAX: usize = 900;

/// The output of a job, as given by `--to`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// `-`: whole epochs on standard output.
    Stdout,
    /// A path prefix: `out/counts` means files below `out` whose names begin with `counts`.
    Local {
        /// The directory: all up to the last `/`, or `.`.
        root: PathBuf,
        /// The rest, which may be empty.
        prefix: String,
    },
    /// `oss://BUCKET/PREFIX` or `oss://BUCKET.ENDPOINT/PREFIX`.
    Oss {
        /// The bucket's name.
        bucket: String,
        /// Host and optional port of the endpoint, if the URL has them.
        endpoint: Option<String>,
        /// All that follows the bucket's slash.
        prefix: String,
    },
    /// `s3://BUCKET/PREFIX`.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// All that follows the bucket's slash.
        prefix: String,
    },
    /// `sqlite:PATH`, `postgres://…` or `mysql://…`.
    Database(Box<DatabaseTarget>),
    /// `opensearch(s)://HOST:PORT/INDEX` or `elasticsearch(s)://HOST:PORT/INDEX`.
    Search(Box<SearchTarget>),
}

impl Target {
    /// Parses the value of `--to`.
    ///
    /// # Errors
    ///
    /// `Usage` if the value is not valid, `Configuration` if it contains credentials. The message
    /// names the flag and repeats no part of the value that may be a secret.
    pub fn parse(to: &str) -> Result<Target> {
        if to == "-" {
            return Ok(Target::Stdout);
        }
        if to.bytes().any(|byte| byte == 0) {
            return Err(usage("the output holds a NUL byte", "remove it from --to"));
        }
        if let Some(path) = to.strip_prefix("file:") {
            return file_url(path);
        }
        if let Some(database) = DatabaseTarget::parse(to)? {
            return Ok(Target::Database(Box::new(database)));
        }
        if let Some(index) = SearchTarget::parse(to)? {
            return Ok(Target::Search(Box::new(index)));
        }
        match to.split_once("://") {
            Some(("oss", rest)) => oss(rest),
            Some(("s3", rest)) => s3(rest),
            Some((scheme, _)) if is_scheme(scheme) => Err(usage(
                format!("the output's scheme {scheme}:// is not known"),
                "give --to as oss://BUCKET/PREFIX, s3://BUCKET/PREFIX, sqlite:PATH, \
                 postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE, \
                 opensearch://HOST:PORT/INDEX, elasticsearch://HOST:PORT/INDEX, a path prefix \
                 or -",
            )),
            _ => match to.split_once(':') {
                // A path may hold a colon, but none begins with the name of a store by intent.
                Some((scheme @ ("oss" | "s3" | "hdfs"), _)) => Err(usage(
                    format!("the output's {scheme}: URL has no //"),
                    "give --to as oss://BUCKET/PREFIX or s3://BUCKET/PREFIX; ./ before it makes a \
                     path of it",
                )),
                _ => local(to),
            },
        }
    }

    /// Returns the root that keys are relative to, as a person would name it. Empty for standard
    /// output.
    pub fn root(&self) -> String {
        match self {
            Target::Stdout => String::new(),
            Target::Search(index) => index.to_string(),
            Target::Local { root, .. } => root.display().to_string(),
            Target::Oss { bucket, .. } => format!("oss://{bucket}"),
            Target::S3 { bucket, .. } => format!("s3://{bucket}"),
            Target::Database(database) => database.to_string(),
        }
    }

    /// Returns the prefix of every key, relative to the root of the store. Empty for standard
    /// output.
    pub fn prefix(&self) -> &str {
        match self {
            Target::Stdout | Target::Database(_) | Target::Search(_) => "",
            Target::Local { prefix, .. }
            | Target::Oss { prefix, .. }
            | Target::S3 { prefix, .. } => prefix,
        }
    }
}

impl Target {
    /// Returns the same output with a prefix that names a folder, without a slash at its end. The
    /// root of a store has no name.
    #[must_use]
    pub fn as_folder(self) -> Target {
        let trimmed = |prefix: String| prefix.trim_end_matches('/').to_owned();
        match self {
            Target::Local { root, prefix } => local_folder(&root.join(prefix)),
            Target::Oss { bucket, endpoint, prefix } => {
                Target::Oss { bucket, endpoint, prefix: trimmed(prefix) }
            }
            Target::S3 { bucket, prefix } => Target::S3 { bucket, prefix: trimmed(prefix) },
            other => other,
        }
    }
}

/// Returns the directory `path` as an output: its parent and its name, or, where its last part is
/// no name, itself.
fn local_folder(path: &Path) -> Target {
    match (path.parent(), path.file_name().and_then(OsStr::to_str)) {
        (Some(parent), Some(name)) => {
            let is_here = parent.as_os_str().is_empty();
            let root = if is_here { Path::new(".") } else { parent };
            Target::Local { root: root.to_owned(), prefix: name.to_owned() }
        }
        _ => Target::Local { root: path.to_owned(), prefix: String::new() },
    }
}

impl FromStr for Target {
    type Err = Error;

    /// Parses the value of `--to`; see [`Target::parse`].
    fn from_str(to: &str) -> Result<Target> {
        Target::parse(to)
    }
}

impl fmt::Display for Target {
    /// Prints the output as it can be given to `--to`. It holds no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Stdout => f.write_str("-"),
            Target::Local { root, prefix } => write!(f, "{}", root.join(prefix).display()),
            Target::Oss { bucket, endpoint: Some(endpoint), prefix } => {
                write!(f, "oss://{bucket}.{endpoint}/{prefix}")
            }
            Target::Oss { bucket, prefix, .. } => write!(f, "oss://{bucket}/{prefix}"),
            Target::Database(database) => write!(f, "{database}"),
            Target::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Target::Search(index) => write!(f, "{index}"),
        }
    }
}

/// Returns an error of kind `Usage`.
fn usage(message: impl Into<String>, hint: &str) -> Error {
    Error::new(ErrorKind::Usage, message).hint(hint)
}

/// Returns true for text that can be the scheme of a URL.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// Parses `file:/a`, `file:///a`, `file://localhost/a` and `file:a`, which Hadoop accepts too.
fn file_url(rest: &str) -> Result<Target> {
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(rest) => match rest.strip_prefix("localhost").unwrap_or(rest) {
            path if path.starts_with('/') => path,
            _ => {
                return Err(usage(
                    "the output's file: URL names a host",
                    "give --to as file:///PATH or as a plain path",
                ));
            }
        },
    };
    local(path)
}

/// Splits a path prefix into directory and prefix, at the last slash.
///
/// Fails with `Usage` for an empty path.
fn local(path: &str) -> Result<Target> {
    if path.is_empty() {
        return Err(usage("the output's path is empty", "give --to a path prefix"));
    }
    let (root, prefix) = match path.rsplit_once('/') {
        Some(("", prefix)) => ("/", prefix),
        Some((root, prefix)) => (root, prefix),
        None => (".", path),
    };
    Ok(Target::Local { root: PathBuf::from(root), prefix: prefix.to_owned() })
}

/// Parses the part of an `oss://` URL after the scheme. No bucket's name has a dot in OSS, so the
/// first one begins the endpoint.
fn oss(rest: &str) -> Result<Target> {
    let (authority, prefix) = split_authority(rest, "oss")?;
    let (bucket, endpoint) = match authority.split_once('.') {
        Some((bucket, endpoint)) => (bucket, Some(endpoint.to_owned())),
        None => (authority, None),
    };
    check_bucket(bucket, "oss", false)?;
    if let Some(endpoint) = &endpoint {
        check_oss_endpoint(endpoint, "--to")?;
    }
    Ok(Target::Oss { bucket: bucket.to_owned(), endpoint, prefix: check_prefix(prefix)? })
}

/// Parses the part of an `s3://` URL after the scheme. A bucket's name may have dots in S3, so an
/// endpoint has a flag of its own.
fn s3(rest: &str) -> Result<Target> {
    let (authority, prefix) = split_authority(rest, "s3")?;
    check_bucket(authority, "s3", true)?;
    Ok(Target::S3 { bucket: authority.to_owned(), prefix: check_prefix(prefix)? })
}

/// Splits a URL into bucket part and prefix.
///
/// A secret may precede an `@` and may contain a `/`, so the whole value is searched for secrets
/// before any part of it can become part of a message.
fn split_authority<'a>(rest: &'a str, scheme: &str) -> Result<(&'a str, &'a str)> {
    let (authority, prefix) = match rest.split_once('/') {
        Some((authority, prefix)) => (authority, Some(prefix)),
        None => (rest, None),
    };
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if authority.contains('@') || !port.is_none_or(is_port) || looks_signed(rest) {
        return Err(Error::new(
            ErrorKind::Configuration,
            format!("the {scheme}:// output holds credentials, which every user of this machine can read in the process list"),
        )
        .hint("take them out of --to and put them into the environment or a credentials file; consider these as exposed"));
    }
    match prefix {
        Some(prefix) => Ok((authority, prefix)),
        None => Err(usage(
            format!("the {scheme}:// output names a bucket and no prefix"),
            "give --to as BUCKET/PREFIX; BUCKET/ alone is allowed and means an empty prefix",
        )),
    }
}

/// Returns true if the value has the parameters of a presigned URL.
fn looks_signed(rest: &str) -> bool {
    let Some((_, query)) = rest.split_once('?') else {
        return false;
    };
    let query = query.to_ascii_lowercase();
    ["signature=", "credential=", "accesskey", "token="].iter().any(|name| query.contains(name))
}

/// Fails if `bucket` is not a valid name. Only S3 allows dots.
fn check_bucket(bucket: &str, scheme: &str, dots: bool) -> Result<()> {
    let inner =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || dots && b == b'.';
    let outer = |b: Option<u8>| b.is_some_and(|b| b != b'-' && b != b'.');
    let ok = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(inner)
        && outer(bucket.bytes().next())
        && outer(bucket.bytes().last());
    if ok {
        return Ok(());
    }
    Err(usage(
        format!("the {scheme}:// output has no valid bucket name"),
        "a bucket in --to has 3 to 63 of a-z, 0-9 and -, and begins and ends with a letter or digit",
    ))
}

/// Fails if `endpoint` is not an OSS endpoint. `flag` is the flag that gave it.
pub(crate) fn check_oss_endpoint(endpoint: &str, flag: &str) -> Result<()> {
    let host = endpoint.split(':').next().unwrap_or_default();
    if host.ends_with(".oss-dls.aliyuncs.com") {
        return Err(Error::new(
            ErrorKind::Configuration,
            format!("{host} is an OSS-HDFS endpoint, which speaks another protocol"),
        )
        .hint(format!(
            "give {flag} the bucket's OSS endpoint, oss-REGION.aliyuncs.com or oss-REGION-internal.aliyuncs.com"
        )));
    }
    let ok = !host.is_empty()
        && host.split('.').all(|label| !label.is_empty())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if ok {
        return Ok(());
    }
    Err(usage(
        "the OSS endpoint is not a host name",
        &format!("give {flag} an endpoint such as oss-cn-hangzhou.aliyuncs.com"),
    ))
}

/// Returns the prefix with runs of `/` replaced by one and a leading `/` removed.
///
/// Hadoop's `Path` does the same. Clients of object stores treat empty path segments differently.
fn check_prefix(prefix: &str) -> Result<String> {
    let mut kept = String::with_capacity(prefix.len());
    for c in prefix.chars() {
        if c != '/' || !(kept.is_empty() || kept.ends_with('/')) {
            kept.push(c);
        }
    }
    let fault = if kept.split('/').any(|part| matches!(part, "." | "..")) {
        "has a `.` or `..` path segment"
    } else if kept.chars().any(char::is_control) {
        "holds a control character"
    } else if kept.len() > PREFIX_BYTES_MAX {
        "is longer than 900 bytes"
    } else if kept.trim_start() != kept || kept.starts_with('\\') {
        "begins with a blank or a backslash"
    } else {
        return Ok(kept);
    };
    Err(usage(format!("the output's prefix {fault}"), "correct what follows the bucket in --to"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::check_key;

    proptest! {
        #[test]
        fn accepted_targets_stay_inside_the_root(
            to in r"(oss://demo/|s3://demo/|file:|oss://demo.oss-x.aliyuncs.com/)?[a./\\ é?@:-]{0,12}"
        ) {
            if let Ok(target) = Target::parse(&to)
                && target != Target::Stdout
            {
                let key = format!("{}-1565869230000.txt/part-00000", target.prefix());
                prop_assert!(check_key(&key).is_ok(), "{to:?} gives {key:?}");
                // Clients of object stores trim keys.
                let local = matches!(target, Target::Local { .. });
                prop_assert!(local || key.trim_start() == key, "{to:?} gives {key:?}");
            }
        }
    }

    fn parsed(to: &str) -> Target {
        Target::parse(to).unwrap_or_else(|error| panic!("{to}: {error}"))
    }

    fn refused(to: &str) -> Error {
        Target::parse(to).expect_err(to)
    }

    #[test]
    fn prefix_is_all_after_the_bucket() {
        let to = "oss://bigdata-prod-tech/nyc-taxi/yellow_tripdata/StreamingTest/";
        let target = parsed(to);
        assert_eq!(target.prefix(), "nyc-taxi/yellow_tripdata/StreamingTest/");
        assert_eq!(target.to_string(), to);
        assert_eq!(parsed("s3://bucket/a b?c#d%20e+f&g").prefix(), "a b?c#d%20e+f&g");
        assert_eq!(parsed("oss://bucket/").prefix(), "");
        assert_eq!(parsed("oss://bucket//a//b").prefix(), "a/b");
    }

    #[test]
    fn endpoint_may_follow_the_bucket() {
        let target = parsed("oss://demo.oss-cn-shanghai-internal.aliyuncs.com/dir");
        let Target::Oss { bucket, endpoint, .. } = target else {
            panic!("{target:?}");
        };
        assert_eq!(bucket, "demo");
        assert_eq!(endpoint.as_deref(), Some("oss-cn-shanghai-internal.aliyuncs.com"));
    }

    #[test]
    fn a_path_is_split_at_its_last_slash() {
        let local = |to: &str| match parsed(to) {
            Target::Local { root, prefix } => (root.display().to_string(), prefix),
            other => panic!("{other:?}"),
        };
        let pair = |root: &str, prefix: &str| (root.to_owned(), prefix.to_owned());
        assert_eq!(local("counts"), pair(".", "counts"));
        assert_eq!(local("wordtide-out/counts"), pair("wordtide-out", "counts"));
        assert_eq!(local("../a/../out/"), pair("../a/../out", ""));
        assert_eq!(local("/counts"), pair("/", "counts"));
        assert_eq!(local("file:///var/out/c"), pair("/var/out", "c"));
        assert_eq!(local("file://localhost/var/c"), pair("/var", "c"));
        assert_eq!(local("file:/var/c"), pair("/var", "c"));
        assert_eq!(local("file:out/c"), pair("out", "c"));
        assert_eq!(parsed("-"), Target::Stdout);
    }

    #[test]
    fn folder_is_the_same_with_slash_and_without() {
        for (to, folder) in [
            ("counts", "./counts"),
            ("counts/", "./counts"),
            ("out/counts/", "out/counts"),
            ("out/counts", "out/counts"),
            ("/out//counts//", "/out/counts"),
            ("../counts/.", "../counts"),
            ("oss://bucket/a/b/", "oss://bucket/a/b"),
            ("s3://bucket/a/b", "s3://bucket/a/b"),
            ("s3://bucket/", "s3://bucket/"),
            ("-", "-"),
        ] {
            assert_eq!(parsed(to).as_folder().to_string(), folder, "{to}");
        }
        for to in [".", "./", "..", "out/..", "/"] {
            let Target::Local { prefix, .. } = parsed(to).as_folder() else { panic!("{to}") };
            assert_eq!(prefix, "", "{to} has no name");
        }
    }

    #[test]
    fn secrets_in_urls_are_never_repeated() {
        for to in [
            "oss://LTAIid:sEcReT@bucket.oss-cn-hangzhou.aliyuncs.com/dir",
            "oss://LTAIid:sE/cReT@bucket/dir",
            "oss://LTAIid@bucket/sEcReT",
            "s3://AKIA:sEcReT@bucket/dir",
            "oss://bucket/dir?OSSAccessKeyId=LTAIid&Signature=sEcReT",
            "s3://bucket/dir?X-Amz-Credential=LTAIid",
        ] {
            let error = refused(to);
            assert_eq!(error.kind(), ErrorKind::Configuration, "{to}");
            let text = format!("{error} {error:?}");
            assert!(text.contains("--to"), "{text}");
            assert!(!text.contains("LTAIid") && !text.contains("cReT"), "{text}");
        }
    }

    #[test]
    fn unusable_targets_are_refused_by_flag() {
        for to in [
            "",
            "file:",
            "file://elsewhere/x",
            "hdfs://host/x",
            "https://bucket.oss-cn-hangzhou.aliyuncs.com/x",
            "oss://",
            "oss:///x",
            "oss://bucket",
            "oss://No/x",
            "oss://ab/x",
            "oss://-abc/x",
            "oss://bucket./x",
            "oss://bucket.cn-hangzhou.oss-dls.aliyuncs.com/x",
            "oss://bucket/a/../b",
            "oss://bucket/..",
            "oss://bucket/./b",
            "oss://bucket/ a",
            "s3://bucket/a\u{7}",
            "out\0put",
        ] {
            let text = refused(to).to_string();
            assert!(text.contains("--to"), "{to}: {text}");
        }
        assert!(Target::parse(&format!("oss://bucket/{}", "x".repeat(901))).is_err());
    }
}
