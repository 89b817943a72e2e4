//! What a user may tune about object stores: plain data, no handles, no secrets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// How a bucket's name gets into a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Addressing {
    /// By the endpoint: OSS below `aliyuncs.com` and AWS virtual-hosted, other OSS endpoints as a
    /// custom domain, other S3 endpoints by path.
    #[default]
    Auto,
    /// In front of the endpoint's host: `https://BUCKET.ENDPOINT/KEY`.
    VirtualHosted,
    /// As the first path segment: `https://ENDPOINT/BUCKET/KEY`. OSS refuses it.
    Path,
    /// Not at all, the domain is bound to the bucket: `https://ENDPOINT/KEY`. OSS only.
    CustomDomain,
}

/// Settings of the object stores. The local directory has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StoreSettings {
    /// OSS endpoint, a host with an optional port and scheme (`https` without one). The one in
    /// `oss://BUCKET.ENDPOINT/` goes before it, then `OSS_ENDPOINT` and `~/.ossutilconfig` follow.
    pub oss_endpoint: Option<String>,
    /// OSS region id such as `cn-hangzhou`; derived from the endpoint where its name holds it.
    pub oss_region: Option<String>,
    /// How OSS requests name the bucket.
    pub oss_addressing: Addressing,
    /// S3 endpoint with an optional scheme; AWS's own for the region without one.
    pub s3_endpoint: Option<String>,
    /// S3 region; else `AWS_REGION`, and `us-east-1` for an endpoint that is not AWS's.
    pub s3_region: Option<String>,
    /// How S3 requests name the bucket.
    pub s3_addressing: Addressing,
    /// Allow plain `http` to hosts other than this one. Requests are signed, the text is readable.
    pub allow_http: bool,
    /// PEM file with certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Hosts whose address is given instead of looked up: private networks without DNS.
    pub resolve: Vec<(String, SocketAddr)>,
    /// Bodies longer than this are uploaded in parts. At most 5 GB, the longest single upload.
    pub multipart_bytes_min: u64,
    /// Length of an upload's parts, at least 8 MiB; longer where 10,000 parts would not do.
    pub part_bytes: u64,
    /// Parts of one upload under way at a time.
    pub parts_in_flight_max: usize,
    /// Objects being uploaded at a time; others wait.
    pub uploads_in_flight_max: usize,
    /// How long one request may take, beside what its bytes need at 128 KiB/s.
    pub request_timeout: Duration,
    /// Quick tries of one request, the first included. What lasts longer is the caller's to retry.
    pub attempts_max: usize,
    /// How long a credential source that asks the network may take.
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

/// The shortest parts: S3 takes none below 5 MiB but the last.
const PART_BYTES_MIN: u64 = 8 << 20;

/// The longest single upload both OSS and S3 take.
const SINGLE_BYTES_MAX: u64 = 5_000_000_000;

impl StoreSettings {
    /// Refuses what no store could work with, by the setting's name.
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
    fn the_defaults_are_valid_and_each_limit_is_checked() {
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
