//! The addresses of a cluster: resolves names and binds the address of this process.
//!
//! A wrong address or a taken port is reported at once, before any peer is waited for. A name that
//! does not resolve yet is retried with back-off until the deadline of the start: Kubernetes
//! publishes the name of a pod about 30 s after the pod has started.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::loss_cause::seconds;
use super::settings::{ClusterSettings, host_of};
use crate::backoff::BackoffPolicy;
use crate::error::{Error, ErrorKind, Result};
use crate::loopback::is_loopback;

/// The pauses before a name is asked for again.
const RESOLVE_PAUSES: BackoffPolicy =
    BackoffPolicy::doubling(Duration::from_millis(250), Duration::from_secs(2));

/// Binds this process's address, then resolves those of all others. Returns the listeners.
///
/// Fails with `Configuration` if the own address cannot be bound, if a key is missing, or if the
/// others cannot reach this process; with `Temporary` if a name does not resolve before `deadline`.
pub async fn prepare(settings: &ClusterSettings, deadline: Instant) -> Result<Vec<TcpListener>> {
    // Addresses that are written as numbers are checked before any name is resolved, so a missing
    // key is reported at once.
    let written = settings.addresses.iter().map(|address| address.parse().into_iter().collect());
    require_key(settings, &written.collect::<Vec<_>>())?;
    let own = resolve(settings, settings.process, deadline).await?;
    let listeners = bind(settings, &own)?;
    // All names are resolved at the same time: each may take until the deadline.
    let each = (0..settings.processes).map(async |process| match process == settings.process {
        true => Ok(own.clone()),
        false => resolve(settings, process, deadline).await,
    });
    let addresses = futures::future::try_join_all(each).await?;
    require_key(settings, &addresses)?;
    require_reachable(settings, &addresses, is_of_this_host)?;
    Ok(listeners)
}

/// Resolves the address of `process`; retries until `deadline`. Logs the first failure.
///
/// Fails with `Temporary` if the name does not resolve in time.
async fn resolve(
    settings: &ClusterSettings,
    process: usize,
    deadline: Instant,
) -> Result<Vec<SocketAddr>> {
    let address = &settings.addresses[process];
    let mut backoff = RESOLVE_PAUSES.start();
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
        let (limit, pause) = (seconds(settings.start_timeout), backoff.next_pause());
        if Instant::now() + pause >= deadline {
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
        tokio::time::sleep(pause).await;
    }
}

/// Checks that there is a key file if an address is not on loopback. Without one the key of the
/// user is used, and other hosts do not have it.
///
/// Fails with `Configuration`, naming the first such process.
fn require_key(settings: &ClusterSettings, addresses: &[Vec<SocketAddr>]) -> Result<()> {
    match addresses.iter().position(|found| !all_loopback(found)) {
        Some(process) if settings.mesh_key.is_none() => Err(settings.keyless(process)),
        _ => Ok(()),
    }
}

/// Returns true if every address is on loopback.
fn all_loopback(addresses: &[SocketAddr]) -> bool {
    addresses.iter().all(|address| is_loopback(address.ip()))
}

/// Checks that the processes which connect to this one can reach it. These are the processes with
/// a higher index. From another host they cannot reach an address on loopback.
///
/// Debian's `/etc/hosts` gives a host's own name the address 127.0.1.1, so one name in a hostfile
/// means loopback on this host and the right address on others. That is an error. An address that
/// is written as loopback may be the end of a tunnel, so it is only logged.
///
/// Fails with `Configuration` if the own name resolves to loopback and a peer is on another host.
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

/// Returns true if `ip` is an address of this host.
///
/// A socket can be bound only to an address of its host, so the check binds a UDP socket to it. No
/// packet is sent.
fn is_of_this_host(ip: IpAddr) -> bool {
    is_loopback(ip) || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// Binds every address of the own name, and no other.
///
/// Fails with `Configuration` if an address cannot be bound. An address that this host does not
/// have is skipped as long as another one is bound.
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

/// Returns the error for an own address that cannot be bound.
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

    /// Runs the check of process `own` of two.
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
    fn loopback_is_accepted_without_remote_peers() {
        let names = ["debian:2101", "other:2101"];
        // The other listens, and this process connects to it.
        reach(1, ["other:2101", "debian:2101"], ["192.0.2.2:2101", "127.0.1.1:2101"])
            .expect("it connects");
        reach(0, names, ["127.0.1.1:2101", "192.0.2.1:2101"]).expect("one host");
        reach(0, names, ["192.0.2.1:2101", "192.0.2.2:2101"]).expect("no loopback");
        reach(0, ["127.0.0.1:1", "other:1"], ["127.0.0.1:1", "192.0.2.2:1"]).expect("a tunnel");
    }
}
