//! The HTTP client: trusted certificates, proxies, names, time-outs.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::super::settings::StoreSettings;
use super::environment::Environment;
use crate::error::{Error, ErrorKind, Result};

/// The HTTP clients of one store.
pub(super) struct Clients<'a> {
    pub(super) settings: &'a StoreSettings,
    pub(super) environment: &'a Environment,
    /// The store is asked by `http` only.
    pub(super) is_plain: bool,
}

impl Clients<'_> {
    /// A client that goes through the environment's proxies.
    pub(super) fn proxied(&self) -> Result<reqwest::Client> {
        self.build(!self.environment.has_no_proxy())
    }

    /// A client that goes through no proxy.
    pub(super) fn direct(&self) -> Result<reqwest::Client> {
        self.build(false)
    }

    fn build(&self, proxied: bool) -> Result<reqwest::Client> {
        let certificates = self.certificates()?;
        let all = self.builder(proxied)?.tls_certs_merge(certificates.clone());
        let failed = match all.build() {
            Ok(client) => return Ok(client),
            Err(failed) => failed,
        };
        // This machine has no certificates to trust. Plain http needs none, and those of --ca-file
        // may be all that are needed.
        if self.is_plain || !certificates.is_empty() {
            let own = self.builder(proxied)?.tls_certs_only(certificates);
            return own.build().map_err(|error| unusable(&error));
        }
        Err(unusable(&failed).hint(
            "install this machine's CA certificates (package ca-certificates), or give --ca-file",
        ))
    }

    fn builder(&self, proxied: bool) -> Result<reqwest::ClientBuilder> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("wordtide/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            // A redirect would carry a signature to a host it was not made for.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.settings.request_timeout)
            // Below the time after which stores close a connection.
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_keepalive(Duration::from_secs(30))
            .dns_resolver(SystemNames);
        // The client's own reading of the environment takes an empty variable for a value.
        builder = builder.no_proxy();
        if proxied {
            for proxy in self.proxies()? {
                builder = builder.proxy(proxy);
            }
        }
        for (host, address) in &self.settings.resolve {
            builder = builder.resolve(host, *address);
        }
        Ok(builder)
    }

    /// The proxies that the environment names, and the hosts that it exempts from them.
    fn proxies(&self) -> Result<Vec<reqwest::Proxy>> {
        type Make = fn(&str) -> reqwest::Result<reqwest::Proxy>;
        let kinds: [(&[&str], Make); 3] = [
            (&["http_proxy", "HTTP_PROXY"], |url| reqwest::Proxy::http(url)),
            (&["https_proxy", "HTTPS_PROXY"], |url| reqwest::Proxy::https(url)),
            (&["all_proxy", "ALL_PROXY"], |url| reqwest::Proxy::all(url)),
        ];
        let exempt = reqwest::NoProxy::from_string(&self.environment.no_proxy());
        let mut proxies = Vec::new();
        for (names, make) in kinds {
            let found = names.iter().find_map(|name| Some((name, self.environment.var(name)?)));
            let Some((name, url)) = found else { continue };
            // The URL can hold a password.
            let proxy = make(&url).map_err(|_| {
                Error::new(ErrorKind::Configuration, format!("{name} is not a proxy's URL"))
                    .hint(format!("set {name} to http://HOST:PORT, or unset it"))
            })?;
            proxies.push(proxy.no_proxy(exempt.clone()));
        }
        Ok(proxies)
    }

    /// The certificates of `--ca-file`.
    fn certificates(&self) -> Result<Vec<reqwest::Certificate>> {
        let Some(path) = &self.settings.ca_file else { return Ok(Vec::new()) };
        let unusable = |error: &dyn fmt::Display| {
            let message = format!("--ca-file {} cannot be used: {error}", path.display());
            Error::new(ErrorKind::Configuration, message)
        };
        let pem = std::fs::read(path).map_err(|error| unusable(&error))?;
        let certificates =
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
        if certificates.is_empty() {
            return Err(unusable(&"no certificate in it"));
        }
        Ok(certificates)
    }
}

/// An error that names each of its causes: the first one of a builder says nothing.
fn unusable(error: &reqwest::Error) -> Error {
    let mut message = format!("HTTP client cannot be set up: {error}");
    let mut next = error.source();
    while let Some(cause) = next {
        message = format!("{message}: {cause}");
        next = cause.source();
    }
    Error::new(ErrorKind::Configuration, message)
}

/// A host's name that could not be resolved.
#[derive(Debug)]
pub(super) struct LookupFailed {
    host: String,
    error: std::io::Error,
}

impl fmt::Display for LookupFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot resolve {}: {}", self.host, self.error)
    }
}

impl StdError for LookupFailed {}

/// The names that the operating system knows, with a typed error.
struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await;
            match found.map(Iterator::collect::<Vec<_>>) {
                Ok(found) => Ok(Box::new(found.into_iter()) as Addrs),
                Err(error) => Err(Box::new(LookupFailed { host, error }) as _),
            }
        })
    }
}
