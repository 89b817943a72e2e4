//! The settings of object stores: plain data, without handles and without secrets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The place of the bucket's name in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Addressing {
    /// Chosen by the endpoint: `VirtualHosted` for OSS below `aliyuncs.com` and for AWS,
    /// `CustomDomain` for other OSS endpoints, `Path` for other S3 endpoints.
    #[default]
    Auto,
    /// In front of the endpoint's host: `https://BUCKET.ENDPOINT/KEY`.
    VirtualHosted,
    /// As the first path segment: `https://ENDPOINT/BUCKET/KEY`. OSS refuses it.
    Path,
    /// Nowhere, because the domain is bound to the bucket: `https://ENDPOINT/KEY`. OSS only.
    CustomDomain,
}

/// Settings of the object stores. The local directory has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StoreSettings {
    /// OSS endpoint: a host with an optional scheme (`https` by default) and port. The endpoint in
    /// `oss://BUCKET.ENDPOINT/` has precedence. Without both, `OSS_ENDPOINT` and `~/.ossutilconfig`
    /// are read.
    pub oss_endpoint: Option<String>,
    /// OSS region id such as `cn-hangzhou`. Most endpoints contain it.
    pub oss_region: Option<String>,
    /// How OSS requests name the bucket.
    pub oss_addressing: Addressing,
    /// S3 endpoint with an optional scheme. The default is the endpoint of AWS in the region.
    pub s3_endpoint: Option<String>,
    /// S3 region. The default is `AWS_REGION`, or `us-east-1` if an endpoint is given.
    pub s3_region: Option<String>,
    /// How S3 requests name the bucket.
    pub s3_addressing: Addressing,
    /// Allows plain `http` to other hosts. Requests are signed, but the text is not encrypted.
    pub allow_http: bool,
    /// PEM file with trusted certificates, in addition to those of the system.
    pub ca_file: Option<PathBuf>,
    /// Hosts with fixed addresses, for private networks without DNS.
    pub resolve: Vec<(String, SocketAddr)>,
    /// Bodies longer than this are uploaded in parts. At most 5 GB, the longest single upload.
    pub multipart_bytes_min: u64,
    /// Length of the parts of an upload, at least 8 MiB. Longer if 10,000 parts do not suffice.
    pub part_bytes: u64,
    /// The most parts of one upload that are sent at the same time.
    pub parts_in_flight_max: usize,
    /// The most objects that are uploaded at the same time. Others wait.
    pub uploads_in_flight_max: usize,
    /// The longest time for one request, in addition to its length divided by 128 KiB/s.
    pub request_timeout: Duration,
    /// The most quick attempts of one request, the first included. The caller retries after them.
    pub attempts_max: usize,
    /// The longest time for one source of credentials.
    pub credentials_timeout: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        StoreSettings {
            oss_endpoint: None,
            oss_region: None,
            oss_addressing: Addressing::Auto,
            s3_endpoint: None,
            s3_region: None,
            s3_addressing: Addressing::Auto,
            allow_http: false,
            ca_file: None,
            resolve: Vec::new(),
            multipart_bytes_min: 64 << 20,
            part_bytes: PART_BYTES_MIN,
            parts_in_flight_max: 4,
            uploads_in_flight_max: 8,
            request_timeout: Duration::from_secs(10),
            attempts_max: 4,
            credentials_timeout: Duration::from_secs(3),
        }
    }
}

/// The shortest part. S3 refuses parts below 5 MiB except for the last one.
const PART_BYTES_MIN: u64 = 8 << 20;

/// The longest single upload of both OSS and S3.
const SINGLE_BYTES_MAX: u64 = 5_000_000_000;

impl StoreSettings {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// `Usage` if no store can work with a setting. The message names the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::new(ErrorKind::Usage, message));
        if self.oss_addressing == Addressing::Path {
            return wrong("oss-addressing is path, which OSS refuses: take virtual-hosted");
        }
        if self.s3_addressing == Addressing::CustomDomain {
            return wrong("s3-addressing is custom-domain, which only OSS has");
        }
        if self.part_bytes < PART_BYTES_MIN {
            return wrong("part-bytes is below 8 MiB");
        }
        if self.multipart_bytes_min > SINGLE_BYTES_MAX {
            return wrong("multipart-bytes-min is above 5 GB, the longest single upload");
        }
        if self.request_timeout.is_zero() || self.credentials_timeout.is_zero() {
            return wrong("request-timeout or credentials-timeout is 0");
        }
        let counts = [self.parts_in_flight_max, self.uploads_in_flight_max, self.attempts_max];
        if counts.contains(&0) {
            return wrong("parts-in-flight-max, uploads-in-flight-max or attempts-max is 0");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_limits_checked() {
        StoreSettings::default().validate().unwrap();
        let wrong: [fn(&mut StoreSettings); 7] = [
            |s| s.oss_addressing = Addressing::Path,
            |s| s.s3_addressing = Addressing::CustomDomain,
            |s| s.part_bytes = 1 << 20,
            |s| s.multipart_bytes_min = 6_000_000_000,
            |s| s.attempts_max = 0,
            |s| s.uploads_in_flight_max = 0,
            |s| s.request_timeout = Duration::ZERO,
        ];
        for spoil in wrong {
            let mut settings = StoreSettings::default();
            spoil(&mut settings);
            assert_eq!(settings.validate().unwrap_err().kind(), ErrorKind::Usage);
        }
    }
}
