//! The addresses of a cluster: names are resolved, this process's own address is bound.
//!
//! A wrong address or a taken port is reported at once and not after the others came. A name that
//! does not resolve yet is another matter: Kubernetes publishes the name of a pod some 30 s after
//! the pod has started. So names are asked for again, with back-off, until the start's deadline.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::cause::seconds;
use super::settings::{ClusterSettings, host_of};
use crate::error::{Error, ErrorKind, Result};

/// First wait before a name is asked for again. It doubles up to [`RESOLVE_WAIT_MAX`].
const RESOLVE_WAIT_MIN: Duration = Duration::from_millis(250);
const RESOLVE_WAIT_MAX: Duration = Duration::from_secs(2);

/// Binds this process's address, then resolves those of all others. Returns the listeners.
///
/// Fails with `Configuration` if the own address cannot be bound, if a key is missing, or if the
/// others cannot reach this process; with `Temporary` if a name does not resolve before `deadline`.
pub(super) async fn prepare(
    settings: &ClusterSettings,
    deadline: Instant,
) -> Result<Vec<TcpListener>> {
    let written = settings.addresses.iter().map(|address| address.parse().into_iter().collect());
    require_key(settings, &written.collect::<Vec<_>>())?;
    let own = resolve(settings, settings.process, deadline).await?;
    let listeners = bind(settings, &own)?;
    let each = (0..settings.processes).map(async |process| match process == settings.process {
        true => Ok(own.clone()),
        false => resolve(settings, process, deadline).await,
    });
    let addresses = futures::future::try_join_all(each).await?;
    require_key(settings, &addresses)?;
    require_reachable(settings, &addresses, is_of_this_host)?;
    Ok(listeners)
}

/// Resolves the address of `process`. A failure is reported once, and then only at the deadline.
async fn resolve(
    settings: &ClusterSettings,
    process: usize,
    deadline: Instant,
) -> Result<Vec<SocketAddr>> {
    let address = &settings.addresses[process];
    let mut wait = RESOLVE_WAIT_MIN;
    let mut is_reported = false;
    loop {
        let lookup = tokio::time::timeout_at(deadline, tokio::net::lookup_host(address));
        let why = match lookup.await {
            Ok(Ok(found)) => match found.collect::<Vec<_>>() {
                found if found.is_empty() => "it has no address".to_owned(),
                found => return Ok(found),
            },
            Ok(Err(cause)) => cause.to_string(),
            Err(_) => "the name service does not answer".to_owned(),
        };
        let limit = seconds(settings.start_timeout);
        if Instant::now() + wait >= deadline {
            let message = format!("cannot resolve {address} of process {process}: {why}");
            return Err(Error::new(ErrorKind::Temporary, message).hint(format!(
                "it was tried for {limit} s; see --hostfile, --addresses and --start-timeout"
            )));
        }
        if !std::mem::replace(&mut is_reported, true) {
            tracing::warn!(
                "cannot resolve {address} of process {process} yet: {why}; trying again for up to \
                 {limit} s (--start-timeout)"
            );
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RESOLVE_WAIT_MAX);
    }
}

/// Fails if an address is not on loopback and no key file was given: the key of the user, which is
/// used then, is not known to the other hosts.
fn require_key(settings: &ClusterSettings, addresses: &[Vec<SocketAddr>]) -> Result<()> {
    match addresses.iter().position(|found| !all_loopback(found)) {
        Some(process) if settings.mesh_key.is_none() => {
            let shown = settings.shown(process);
            let message = format!("{shown} is not on loopback, and there is no mesh key");
            Err(Error::new(ErrorKind::Configuration, message)
                .hint("give every process the same secret with --mesh-key-file"))
        }
        _ => Ok(()),
    }
}

fn all_loopback(addresses: &[SocketAddr]) -> bool {
    addresses.iter().all(|address| address.ip().is_loopback())
}

/// Checks that the processes which connect to this one, those with a higher index, can reach it: on
/// another host they cannot if its own address is on loopback.
///
/// Debian's `/etc/hosts` gives a host's own name the address 127.0.1.1, so the same name in one
/// hostfile means loopback here and the right address elsewhere. That is an error. A loopback
/// address that was written as one may be the end of a tunnel: that is only reported.
fn require_reachable(
    settings: &ClusterSettings,
    addresses: &[Vec<SocketAddr>],
    is_of_this_host: impl Fn(IpAddr) -> bool,
) -> Result<()> {
    let own = settings.process;
    let is_elsewhere = |found: &Vec<SocketAddr>| !found.iter().any(|at| is_of_this_host(at.ip()));
    if !all_loopback(&addresses[own]) {
        return Ok(());
    }
    let Some(peer) = (own + 1..addresses.len()).find(|peer| is_elsewhere(&addresses[*peer])) else {
        return Ok(());
    };
    let (shown, peer) = (settings.shown(own), settings.shown(peer));
    let ip = addresses[own].first().map_or("loopback".to_owned(), |found| found.ip().to_string());
    let message = format!(
        "{shown}, this process, listens on loopback ({ip}), where {peer} on another host cannot \
         reach it"
    );
    let host = host_of(&settings.addresses[own]);
    if host == "localhost" || host.parse::<IpAddr>().is_ok() {
        tracing::warn!("{message}; see --hostfile and --addresses");
        return Ok(());
    }
    Err(Error::new(ErrorKind::Configuration, message).hint(format!(
        "this host resolves {host} to itself (see /etc/hosts): give its address on the network \
         (--hostfile, --addresses)"
    )))
}

/// Returns true if `ip` is an address of this host: only those can be bound.
fn is_of_this_host(ip: IpAddr) -> bool {
    ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// Binds every address that the own name has, and nothing else.
fn bind(settings: &ClusterSettings, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut failed = None;
    for address in addresses {
        let bound = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        match bound {
            Ok(listener) => listeners.push(listener),
            // `localhost` names ::1 also where IPv6 is switched off.
            Err(cause) if cause.kind() == std::io::ErrorKind::AddrNotAvailable => {
                failed = Some(cause);
            }
            Err(cause) => return Err(cannot_listen(settings, cause)),
        }
    }
    match failed {
        Some(cause) if listeners.is_empty() => Err(cannot_listen(settings, cause)),
        _ => Ok(listeners),
    }
}

fn cannot_listen(settings: &ClusterSettings, cause: std::io::Error) -> Error {
    let shown = settings.shown(settings.process);
    let hint = match cause.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another program, or a second process with this -p, has it"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this host does not have that address: see -p, --hostfile and --addresses"
        }
        _ => "see --hostfile and --addresses",
    };
    let message = format!("cannot listen on the address of {shown}: {cause}");
    Error::new(ErrorKind::Configuration, message).hint(hint).cause(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks process `own` of two whether the other can reach it.
    fn reach(own: usize, names: [&str; 2], resolved: [&str; 2]) -> Result<()> {
        let settings = ClusterSettings {
            processes: 2,
            process: own,
            addresses: names.map(str::to_owned).to_vec(),
            ..ClusterSettings::default()
        };
        let addresses = resolved.map(|address| vec![address.parse().expect("an address")]);
        let here: IpAddr = "192.0.2.1".parse().expect("an address");
        require_reachable(&settings, &addresses, |ip| ip.is_loopback() || ip == here)
    }

    #[test]
    fn own_name_on_loopback_is_refused_at_once() {
        let names = ["debian:2101", "other:2101"];
        let error = reach(0, names, ["127.0.1.1:2101", "192.0.2.2:2101"]).expect_err("loopback");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.contains("debian:2101") && text.contains("127.0.1.1"), "{text}");
        assert!(text.contains("process 1 (other:2101)"), "{text}");
    }

    #[test]
    fn loopback_serves_where_nobody_elsewhere_connects() {
        let names = ["debian:2101", "other:2101"];
        // The other listens, and this process connects to it.
        reach(1, ["other:2101", "debian:2101"], ["192.0.2.2:2101", "127.0.1.1:2101"])
            .expect("it connects");
        reach(0, names, ["127.0.1.1:2101", "192.0.2.1:2101"]).expect("one host");
        reach(0, names, ["192.0.2.1:2101", "192.0.2.2:2101"]).expect("no loopback");
        reach(0, ["127.0.0.1:1", "other:1"], ["127.0.0.1:1", "192.0.2.2:1"]).expect("a tunnel");
    }
}
