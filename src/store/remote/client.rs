//! The HTTP client: trust, proxies, time-outs.

use std::fmt;
use std::time::Duration;

use super::super::settings::StoreSettings;
use crate::error::{Error, ErrorKind, Result};

/// The HTTP client, through the environment's proxies if `proxied`.
pub(super) fn client(settings: &StoreSettings, proxied: bool) -> Result<reqwest::Client> {
    let configuration = |message: String| Error::new(ErrorKind::Configuration, message);
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("wordtide/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        // A redirect would carry a signature to a host it was not made for.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(settings.request_timeout)
        // Below the time after which stores close a connection.
        .pool_idle_timeout(Duration::from_secs(30))
        .tcp_keepalive(Duration::from_secs(30));
    if !proxied {
        builder = builder.no_proxy();
    }
    for (host, address) in &settings.resolve {
        builder = builder.resolve(host, *address);
    }
    if let Some(path) = &settings.ca_file {
        let unusable = |error: &dyn fmt::Display| {
            configuration(format!("--ca-file {} cannot be used: {error}", path.display()))
        };
        let pem = std::fs::read(path).map_err(|error| unusable(&error))?;
        let certificates =
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
        if certificates.is_empty() {
            return Err(unusable(&"no certificate in it"));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| configuration(format!("HTTP client cannot be set up: {error}")))
}
