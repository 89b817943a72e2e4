//! Finds the endpoint of a bucket: scheme, host, region, and how requests name the bucket.
//!
//! People paste what a console shows them: a host, a URL, the domain of the bucket, a path below a
//! gateway. Each of these is understood where it can only mean one thing, and refused with the
//! flag's name where it cannot.

use http::uri::Authority;

use super::super::settings::{Addressing, StoreSettings};
use super::super::target::check_oss_endpoint;
use super::environment::Environment;
use crate::error::{Error, ErrorKind, Result};
use crate::loopback::{host_of, is_loopback_name};

/// A resolved endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host, with the port if one was given.
    pub host: String,
    /// The path below which a gateway serves S3. Empty, or begins with `/` and does not end with
    /// one.
    pub path: String,
    /// The region in signatures.
    pub region: String,
    /// How requests name the bucket. Never `Auto`.
    pub addressing: Addressing,
}

impl Endpoint {
    /// Returns scheme, host and path.
    pub fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.host, self.path)
    }

    /// Returns host and port of every request for `bucket`.
    ///
    /// Fails with `Configuration` if they form no host name.
    pub fn authority(&self, bucket: &str) -> Result<Authority> {
        let host = match self.addressing {
            Addressing::VirtualHosted | Addressing::Auto => format!("{bucket}.{}", self.host),
            Addressing::Path | Addressing::CustomDomain => self.host.clone(),
        };
        host.parse().map_err(|_| configuration(format!("{} is not a host name", self.host)))
    }

    /// Returns the URL of the bucket, without a `/` at its end.
    pub fn bucket_url(&self, bucket: &str) -> String {
        let Endpoint { scheme, host, path, .. } = self;
        match self.addressing {
            Addressing::VirtualHosted | Addressing::Auto => format!("{scheme}://{bucket}.{host}"),
            Addressing::Path => format!("{scheme}://{host}{path}/{bucket}"),
            Addressing::CustomDomain => format!("{scheme}://{host}"),
        }
    }

    /// Returns the endpoint of an OSS bucket: from the URL, the setting, the environment or the
    /// region, in this order.
    ///
    /// Fails with `Configuration` if endpoint or region is unknown, and with `Usage` if one is not
    /// valid.
    pub fn of_oss(
        bucket: &str,
        in_url: Option<&str>,
        settings: &StoreSettings,
        environment: &Environment,
    ) -> Result<Endpoint> {
        let region = first([
            settings.oss_region.clone(),
            environment.var("OSS_REGION"),
            environment.ossutil_value("region"),
        ])
        .map(|region| region.trim_start_matches("oss-").to_owned());
        let set = settings.oss_endpoint.as_deref();
        let given = first([
            chosen(in_url, set)?,
            environment.var("OSS_ENDPOINT"),
            environment.ossutil_value("endpoint"),
            region.as_ref().map(|region| format!("oss-{region}.aliyuncs.com")),
        ])
        .ok_or_else(|| {
            configuration("no OSS endpoint is known").hint(
                "give --oss-endpoint oss-REGION.aliyuncs.com, or oss-REGION-internal.aliyuncs.com \
                 from inside Alibaba Cloud, or --to oss://BUCKET.ENDPOINT/PREFIX",
            )
        })?;
        let (scheme, host, path) = split(&given, "--oss-endpoint")?;
        if !path.is_empty() {
            return Err(no_path("--oss-endpoint"));
        }
        // The console shows the domain of the bucket, which begins with the bucket's name.
        let host = match host.strip_prefix(bucket).and_then(|rest| rest.strip_prefix('.')) {
            // A bucket may have the name of the first label of the endpoint, so what remains must
            // be an endpoint.
            Some(endpoint) if oss_region(endpoint).is_some() || is_accelerated(endpoint) => {
                endpoint
            }
            _ => host,
        };
        check_oss_endpoint(host, "--oss-endpoint")?;
        if host.starts_with("s3.") {
            let hint = "give --oss-endpoint the name without s3. in front";
            return Err(configuration(format!("{host} is OSS's S3 face")).hint(hint));
        }
        let region = region.or_else(|| oss_region(host)).ok_or_else(|| {
            configuration(format!("the region cannot be told from the OSS endpoint {host}"))
                .hint("give --oss-region, for instance cn-hangzhou")
        })?;
        let addressing = match settings.oss_addressing {
            Addressing::Auto if is_aliyun(host) => Addressing::VirtualHosted,
            Addressing::Auto => Addressing::CustomDomain,
            set => set,
        };
        let scheme = allowed(scheme, host, settings)?;
        Ok(Endpoint { scheme, host: host.to_owned(), path: String::new(), region, addressing })
    }

    /// Returns the endpoint of an S3 bucket: from the setting, the environment or the region, in
    /// this order.
    ///
    /// Fails as [`Endpoint::of_oss`].
    pub fn of_s3(
        bucket: &str,
        settings: &StoreSettings,
        environment: &Environment,
    ) -> Result<Endpoint> {
        let given = first([
            settings.s3_endpoint.clone(),
            environment.var("AWS_ENDPOINT_URL_S3"),
            environment.var("AWS_ENDPOINT_URL"),
            environment.aws_value("endpoint_url"),
        ]);
        let region = first([
            settings.s3_region.clone(),
            environment.var("AWS_REGION"),
            environment.var("AWS_DEFAULT_REGION"),
            environment.aws_value("region"),
            given.as_ref().map(|_| "us-east-1".to_owned()),
        ])
        .ok_or_else(|| {
            configuration("no S3 region is known")
                .hint("give --s3-region or --s3-endpoint, or run `aws configure`")
        })?;
        let own = given.is_none();
        let given = given.unwrap_or_else(|| format!("s3.{region}.amazonaws.com"));
        let (scheme, host, path) = split(&given, "--s3-endpoint")?;
        // A console shows the URL of the bucket, which has the bucket's name in host or path.
        let in_host = host.strip_prefix(bucket).and_then(|rest| rest.strip_prefix('.'));
        let in_host = in_host.filter(|rest| rest.starts_with("s3.") || rest.starts_with("s3-"));
        if path.rsplit('/').next() == Some(bucket) {
            let message = "--s3-endpoint ends in the bucket's name, which --to gives already";
            return Err(
                Error::new(ErrorKind::Usage, message).hint("give --s3-endpoint without the bucket")
            );
        }
        let host = in_host.unwrap_or(host);
        let own = own || in_host.is_some();
        let addressing = match settings.s3_addressing {
            // No certificate is valid for a bucket with dots in front of the host.
            Addressing::Auto if own && !bucket.contains('.') => Addressing::VirtualHosted,
            Addressing::Auto => Addressing::Path,
            set => set,
        };
        if !path.is_empty() && addressing == Addressing::VirtualHosted {
            return Err(no_path("--s3-endpoint with --s3-addressing virtual-hosted"));
        }
        Ok(Endpoint {
            scheme: allowed(scheme, host, settings)?,
            host: host.to_owned(),
            path: path.to_owned(),
            region,
            addressing,
        })
    }
}

/// Returns an error of kind `Configuration`.
fn configuration(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, message)
}

/// Returns the first value that is not blank, trimmed.
fn first<const N: usize>(given: [Option<String>; N]) -> Option<String> {
    let trimmed = given.into_iter().flatten().map(|text| text.trim().to_owned());
    trimmed.into_iter().find(|text| !text.is_empty())
}

/// Returns the endpoint of URL and setting. If both name the same host, the setting is returned,
/// because it may have a scheme.
///
/// Fails with `Usage` if they differ.
fn chosen(in_url: Option<&str>, set: Option<&str>) -> Result<Option<String>> {
    let set = set.map(str::trim).filter(|set| !set.is_empty());
    let bare = |text: &str| split(text, "--oss-endpoint").map(|(_, host, _)| host.to_owned());
    match (in_url, set) {
        (Some(url), Some(set)) if bare(set)? != url => {
            Err(Error::new(ErrorKind::Usage, "--oss-endpoint names another endpoint than --to")
                .hint("give the endpoint once"))
        }
        (_, Some(set)) => Ok(Some(set.to_owned())),
        (url, None) => Ok(url.map(str::to_owned)),
    }
}

/// Splits an endpoint into scheme, host and path. The path has no `/` at its end. Without a scheme
/// it is `https`.
///
/// Fails with `Usage`, naming `flag` and not the value, for anything else.
fn split<'a>(endpoint: &'a str, flag: &str) -> Result<(&'static str, &'a str, &'a str)> {
    let (scheme, rest) = match endpoint.split_once("://") {
        None => ("https", endpoint),
        Some((name, rest)) if name.eq_ignore_ascii_case("https") => ("https", rest),
        Some((name, rest)) if name.eq_ignore_ascii_case("http") => ("http", rest),
        Some(_) => ("", ""),
    };
    let rest = rest.trim_end_matches('/');
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    let is_path = path.chars().all(is_plain) && !path.contains("//") && !path.contains("/.");
    // A secret may precede an `@`, so the message does not repeat the value.
    if host.is_empty() || host.contains(['@', '?', '#', '%', '\\']) || !is_path {
        let message = format!("{flag} is not a host name");
        let hint = "give a host, with https:// or http:// in front if need be, and nothing after";
        return Err(Error::new(ErrorKind::Usage, message).hint(hint));
    }
    if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let message = format!("{flag} holds a blank or a control character");
        return Err(Error::new(ErrorKind::Usage, message).hint("give a host"));
    }
    Ok((scheme, host, path))
}

/// Returns the error of an endpoint that must not have a path.
fn no_path(flag: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("{flag} has a path"))
        .hint("give a host and nothing after it; the bucket and the prefix are in --to")
}

/// Returns true for an endpoint that serves every region.
fn is_accelerated(host: &str) -> bool {
    let name = host_name(host).strip_suffix(".aliyuncs.com");
    name.is_some_and(|name| matches!(name, "oss-accelerate" | "oss-accelerate-overseas"))
}

/// Returns `scheme`.
///
/// Fails with `Configuration` if it would send the text unencrypted to another machine and
/// `--allow-http` is not given.
fn allowed(scheme: &'static str, host: &str, settings: &StoreSettings) -> Result<&'static str> {
    if scheme == "https" || settings.allow_http || is_loopback_name(host_of(host)) {
        return Ok(scheme);
    }
    Err(configuration(format!("plain http to {host} sends the results unencrypted"))
        .hint("write https:// in front of the endpoint, or give --allow-http"))
}

/// Returns the host of `host:port`, without brackets.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// Returns true for a host of Alibaba Cloud.
fn is_aliyun(host: &str) -> bool {
    let name = host_name(host);
    name.ends_with(".aliyuncs.com") || name.ends_with(".aliyuncs.com.cn")
}

/// Returns the region in `oss-REGION[-internal].aliyuncs.com`, `vpc100-oss-REGION.aliyuncs.com` and
/// the dual-stack `REGION.oss.aliyuncs.com`. Accelerate endpoints serve every region and contain
/// none.
fn oss_region(host: &str) -> Option<String> {
    let name = host_name(host).strip_suffix(".aliyuncs.com")?;
    let region = match name.strip_suffix(".oss") {
        Some(region) => region,
        None => name.strip_prefix("vpc100-").unwrap_or(name).strip_prefix("oss-")?,
    };
    let region = region.strip_suffix("-internal").unwrap_or(region);
    let named = !region.is_empty() && !region.starts_with("accelerate") && !region.contains('.');
    named.then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Environment {
        Environment::new([], None)
    }

    fn oss(in_url: Option<&str>, set: Option<&str>) -> Result<Endpoint> {
        let settings =
            StoreSettings { oss_endpoint: set.map(str::to_owned), ..StoreSettings::default() };
        Endpoint::of_oss("demo", in_url, &settings, &nothing())
    }

    #[test]
    fn the_region_is_read_from_every_regional_endpoint() {
        for (host, region) in [
            ("oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
            ("oss-cn-shanghai-internal.aliyuncs.com", "cn-shanghai"),
            ("oss-us-west-1.aliyuncs.com", "us-west-1"),
            ("vpc100-oss-cn-beijing.aliyuncs.com", "cn-beijing"),
            ("cn-hongkong.oss.aliyuncs.com", "cn-hongkong"),
            ("demo.oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
        ] {
            let endpoint = oss(Some(host), None).unwrap();
            assert_eq!(endpoint.region, region, "{host}");
            assert_eq!(endpoint.addressing, Addressing::VirtualHosted);
            assert!(endpoint.bucket_url("demo").starts_with("https://demo."));
        }
    }

    #[test]
    fn an_endpoint_without_a_region_demands_the_flag() {
        for host in [
            "oss-accelerate.aliyuncs.com",
            "oss-accelerate-overseas.aliyuncs.com",
            "files.example.com",
            "10.0.0.1:8080",
        ] {
            let error = oss(None, Some(host)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains("--oss-region"), "{error}");
            let settings = StoreSettings {
                oss_endpoint: Some(host.to_owned()),
                oss_region: Some("oss-cn-hangzhou".to_owned()),
                ..StoreSettings::default()
            };
            let endpoint = Endpoint::of_oss("demo", None, &settings, &nothing()).unwrap();
            assert_eq!(endpoint.region, "cn-hangzhou");
        }
        let error = oss(None, None).unwrap_err();
        assert!(error.to_string().contains("--oss-endpoint"), "{error}");
    }

    #[test]
    fn plain_http_needs_loopback_or_the_flag() {
        let far = "http://oss-cn-hangzhou.aliyuncs.com";
        let error = oss(None, Some(far)).unwrap_err();
        assert!(error.to_string().contains("--allow-http"), "{error}");
        let settings = StoreSettings {
            oss_endpoint: Some(far.to_owned()),
            allow_http: true,
            ..StoreSettings::default()
        };
        let endpoint = Endpoint::of_oss("demo", None, &settings, &nothing()).unwrap();
        assert_eq!(endpoint.url(), far);
        for near in ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9"] {
            let settings =
                StoreSettings { s3_endpoint: Some(near.to_owned()), ..StoreSettings::default() };
            let endpoint = Endpoint::of_s3("demo", &settings, &nothing()).unwrap();
            assert_eq!(endpoint.bucket_url("demo"), format!("{near}/demo"));
        }
    }

    #[test]
    fn other_endpoints_are_refused() {
        for host in [
            "cn-hangzhou.oss-dls.aliyuncs.com",
            "s3.oss-cn-hangzhou.aliyuncs.com",
            "https://oss-cn-hangzhou.aliyuncs.com/bucket",
            "https://files.example.com/gateway",
            "ftp://oss-cn-hangzhou.aliyuncs.com",
        ] {
            let error = oss(None, Some(host)).unwrap_err();
            assert!(error.to_string().contains("--oss-endpoint"), "{error}");
        }
        let error = oss(None, Some("id:sEcReT@oss-cn-hangzhou.aliyuncs.com")).unwrap_err();
        assert!(!format!("{error:?}").contains("sEcReT"), "{error:?}");
        let error = oss(Some("oss-cn-hangzhou.aliyuncs.com"), Some("oss-cn-beijing.aliyuncs.com"));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn environment_fills_in_for_flags() {
        let environment =
            Environment::new([("OSS_REGION", "cn-beijing"), ("AWS_REGION", "eu-central-1")], None);
        let settings = StoreSettings::default();
        let oss = Endpoint::of_oss("demo", None, &settings, &environment).unwrap();
        assert_eq!(oss.url(), "https://oss-cn-beijing.aliyuncs.com");
        let s3 = Endpoint::of_s3("demo", &settings, &environment).unwrap();
        assert_eq!(s3.bucket_url("demo"), "https://demo.s3.eu-central-1.amazonaws.com");
        let s3 = Endpoint::of_s3("a.b", &settings, &environment).unwrap();
        assert_eq!(s3.bucket_url("a.b"), "https://s3.eu-central-1.amazonaws.com/a.b");
    }

    #[test]
    fn buckets_may_be_named_like_their_endpoint() {
        for (bucket, host) in [
            ("oss-cn-hangzhou", "oss-cn-hangzhou.aliyuncs.com"),
            ("vpc100-oss-cn-beijing", "vpc100-oss-cn-beijing.aliyuncs.com"),
            ("cn-hongkong", "cn-hongkong.oss.aliyuncs.com"),
        ] {
            let settings =
                StoreSettings { oss_endpoint: Some(host.to_owned()), ..StoreSettings::default() };
            let endpoint = Endpoint::of_oss(bucket, None, &settings, &nothing()).unwrap();
            assert_eq!(endpoint.authority(bucket).unwrap(), format!("{bucket}.{host}").as_str());
            let own = StoreSettings {
                oss_endpoint: Some(format!("{bucket}.{host}")),
                ..StoreSettings::default()
            };
            assert_eq!(Endpoint::of_oss(bucket, None, &own, &nothing()).unwrap(), endpoint);
        }
    }

    fn s3(bucket: &str, endpoint: &str) -> Result<Endpoint> {
        let settings =
            StoreSettings { s3_endpoint: Some(endpoint.to_owned()), ..StoreSettings::default() };
        Endpoint::of_s3(bucket, &settings, &nothing())
    }

    #[test]
    fn s3_endpoints_may_have_a_path() {
        let endpoint = s3("demo", " https://files.example.com/storage/v1/s3/\n").unwrap();
        assert_eq!(endpoint.bucket_url("demo"), "https://files.example.com/storage/v1/s3/demo");
        let error = s3("demo", "https://files.example.com/demo").unwrap_err();
        assert!(error.to_string().contains("--s3-endpoint"), "{error}");
        for wrong in ["https://h/a?b", "https://h/a/../b", "https://h//a", "ftp://h", "h /a"] {
            assert_eq!(s3("demo", wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
        }
        let own = s3("demo", "https://demo.s3.eu-central-1.amazonaws.com").unwrap();
        assert_eq!(own.bucket_url("demo"), "https://demo.s3.eu-central-1.amazonaws.com");
        let alike = s3("minio", "https://minio.example.com").unwrap();
        assert_eq!(alike.bucket_url("minio"), "https://minio.example.com/minio");
    }
}
