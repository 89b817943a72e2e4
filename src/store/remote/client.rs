//! Builds the HTTP clients of a store: certificates, proxies, names, time-outs.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::super::settings::StoreSettings;
use super::environment::Environment;
use super::proxy_exemptions::ExemptHosts;
use crate::error::{Error, ErrorKind, Result};
use crate::tls;

/// Builds the HTTP clients of one store.
pub struct Clients<'a> {
    /// The settings of the store.
    pub settings: &'a StoreSettings,
    /// Proxies and certificates of the user.
    pub environment: &'a Environment,
    /// True if the store is reached by plain `http`.
    pub is_plain: bool,
    /// The host of the store, with the port if one was given.
    pub host: &'a str,
}

impl Clients<'_> {
    /// Returns a client that uses the proxies of the environment.
    ///
    /// Fails with `Configuration` for a certificate or proxy that cannot be used.
    pub fn proxied(&self) -> Result<reqwest::Client> {
        self.build(!self.exempt_hosts().is_all())
    }

    /// Returns the hosts that the environment exempts from its proxies.
    fn exempt_hosts(&self) -> ExemptHosts {
        ExemptHosts::of(&self.environment.no_proxy(), self.host, self.is_plain)
    }

    /// Returns a client that uses no proxy.
    pub fn direct(&self) -> Result<reqwest::Client> {
        self.build(false)
    }

    /// Returns a client. Fails with `Configuration` if a certificate or a proxy is not usable.
    fn build(&self, proxied: bool) -> Result<reqwest::Client> {
        tls::install_provider();
        let certificates = self.certificates()?;
        let all = self.builder(proxied)?.tls_certs_merge(certificates.clone());
        let failed = match all.build() {
            Ok(client) => return Ok(client),
            Err(failed) => failed,
        };
        // This machine has no trusted certificates. Plain http needs none, and the certificates of
        // --ca-file may be sufficient.
        if self.is_plain || !certificates.is_empty() {
            let own = self.builder(proxied)?.tls_certs_only(certificates);
            return own.build().map_err(|error| unusable(&error));
        }
        Err(unusable(&failed).hint(
            "install this machine's CA certificates (package ca-certificates), or give --ca-file",
        ))
    }

    /// Returns a builder with all settings except certificates.
    fn builder(&self, proxied: bool) -> Result<reqwest::ClientBuilder> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("wordtide/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            // A redirect would send the signature to another host.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.settings.request_timeout)
            // Shorter than the time after which stores close an idle connection.
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_keepalive(Duration::from_secs(30))
            .dns_resolver(SystemNames);
        // The client itself would take an empty variable of the environment for a value.
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

    /// Returns the proxies of the environment, each with the hosts that are exempt from them.
    fn proxies(&self) -> Result<Vec<reqwest::Proxy>> {
        /// Makes a proxy for a kind of URL.
        type Make = fn(&str) -> reqwest::Result<reqwest::Proxy>;
        let kinds: [(&[&str], Make); 3] = [
            (&["http_proxy", "HTTP_PROXY"], |url| reqwest::Proxy::http(url)),
            (&["https_proxy", "HTTPS_PROXY"], |url| reqwest::Proxy::https(url)),
            (&["all_proxy", "ALL_PROXY"], |url| reqwest::Proxy::all(url)),
        ];
        let exempt = reqwest::NoProxy::from_string(&self.exempt_hosts().list());
        let mut proxies = Vec::new();
        for (names, make) in kinds {
            let found = names.iter().find_map(|name| Some((name, self.environment.var(name)?)));
            let Some((name, url)) = found else { continue };
            // The message does not repeat the URL, since it may contain a password.
            let proxy = make(&url).map_err(|_| {
                Error::new(ErrorKind::Configuration, format!("{name} is not a proxy's URL"))
                    .hint(format!("set {name} to http://HOST:PORT, or unset it"))
            })?;
            proxies.push(proxy.no_proxy(exempt.clone()));
        }
        Ok(proxies)
    }

    /// Returns the certificates of `--ca-file`, or none without the flag.
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

/// Returns an error that names all causes, because the outermost one of a builder is too general.
fn unusable(error: &reqwest::Error) -> Error {
    let mut message = format!("HTTP client cannot be set up: {error}");
    let mut next = error.source();
    while let Some(cause) = next {
        message = format!("{message}: {cause}");
        next = cause.source();
    }
    Error::new(ErrorKind::Configuration, message)
}

/// The error of a host name that cannot be resolved.
#[derive(Debug)]
pub struct LookupFailed {
    /// The name.
    host: String,
    /// The failure of the resolver.
    error: std::io::Error,
}

impl fmt::Display for LookupFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot resolve {}: {}", self.host, self.error)
    }
}

impl StdError for LookupFailed {}

/// Resolves names as the operating system does and fails with [`LookupFailed`].
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
