//! The settings of a cluster as plain data, and the parsing of flags and files into them.
//!
//! This module opens no socket. A wrong flag is [`ErrorKind::Usage`], and a file with wrong content
//! is [`ErrorKind::Configuration`]. Each message names the flag.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::loopback::is_loopback;

/// Most processes of one cluster: each holds three sockets and three threads for every other.
pub const PROCESSES_MAX: usize = 1024;

/// Shortest secret that is accepted, in bytes after trimming: 16 random bytes cannot be guessed.
const KEY_BYTES_MIN: usize = 16;
/// Longest key file that is read, in bytes.
const KEY_BYTES_MAX: u64 = 4096;

/// The first port of the default addresses. It is timely's.
const PORT_BASE: usize = 2101;

/// Digests of the settings that all processes of a job must share, one for each setting, so that a
/// difference can be named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobFingerprint {
    /// The names of the settings, as messages show them.
    names: [&'static str; JobFingerprint::THINGS],
    /// A digest of each, of which two processes compare theirs.
    digests: [u8; 32],
}

impl JobFingerprint {
    /// The number of digests.
    pub const THINGS: usize = 8;

    /// Returns the fingerprint of these settings, each with its name in messages. The last one
    /// stands for all settings without a name of their own, so it is named only if no other
    /// differs.
    pub fn of(things: [(&'static str, String); JobFingerprint::THINGS]) -> JobFingerprint {
        let mut fingerprint = JobFingerprint::default();
        let (digests, _) = fingerprint.digests.as_chunks_mut::<4>();
        for ((name, digest), (thing, text)) in
            fingerprint.names.iter_mut().zip(digests).zip(&things)
        {
            *name = thing;
            digest.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..4]);
        }
        fingerprint
    }

    /// Returns the digests as they are sent.
    pub fn digests(&self) -> [u8; 32] {
        self.digests
    }

    /// Returns the names of the settings in which a process with digests `theirs` differs.
    pub fn differences(&self, theirs: &[u8; 32]) -> Vec<&'static str> {
        let (ours, theirs) = (self.digests.as_chunks::<4>().0, theirs.as_chunks::<4>().0);
        let each = self.names.iter().zip(ours.iter().zip(theirs));
        let mut names: Vec<_> =
            each.filter(|(_, (ours, theirs))| ours != theirs).map(|(name, _)| *name).collect();
        if names.len() > 1 && names.last() == self.names.last() {
            names.pop();
        }
        names
    }
}

/// The members of a cluster, and its limits and timeouts.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Worker threads of this process (`-w`); the same in every process.
    pub threads: usize,
    /// Processes of the cluster (`-n`).
    pub processes: usize,
    /// Index of this process (`-p`), below `processes`.
    pub process: usize,
    /// `HOST:PORT` of every process in order of index; not used if `processes` is 1.
    pub addresses: Vec<String>,
    /// The secret that all processes of the cluster share; `None` for the key of the user.
    pub mesh_key: Option<MeshKey>,
    /// Limit of the time that a start waits for the other processes.
    pub start_timeout: Duration,
    /// Limit of the time that a peer may be silent while its host acknowledges.
    pub stall_timeout: Duration,
    /// Time between two heartbeats on a control link.
    pub heartbeat_interval: Duration,
    /// Limit of the time that the peer's host may leave sent bytes unacknowledged.
    pub link_timeout: Duration,
    /// Limit of the time that a handshake may take.
    pub handshake_timeout: Duration,
    /// Limit of unfinished handshakes; one more closes the oldest.
    pub strangers_max: usize,
    /// Limit of control messages that wait to be read.
    pub inbox_messages_max: usize,
    /// The number of this start of the cluster. Processes of different starts do not join.
    pub generation: u64,
    /// The fingerprint of the job. Processes of different jobs do not join.
    pub fingerprint: JobFingerprint,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        ClusterSettings {
            threads: 1,
            processes: 1,
            process: 0,
            addresses: Vec::new(),
            mesh_key: None,
            start_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            heartbeat_interval: Duration::from_millis(500),
            link_timeout: Duration::from_secs(7),
            handshake_timeout: Duration::from_secs(2),
            strangers_max: 64,
            inbox_messages_max: 1024,
            generation: 0,
            fingerprint: JobFingerprint::default(),
        }
    }
}

impl ClusterSettings {
    /// Checks all settings without using the network.
    ///
    /// # Errors
    /// `Usage` for numbers out of range, `Configuration` for addresses that cannot be used.
    pub fn validate(&self) -> Result<()> {
        let usage = |message: String| Err(Error::new(ErrorKind::Usage, message));
        if self.threads == 0 {
            return usage("-w/--threads is 0; a process has at least one worker thread".into());
        }
        if self.processes == 0 || self.processes > PROCESSES_MAX {
            let n = self.processes;
            return usage(format!("-n/--processes is {n}; it may be 1 to {PROCESSES_MAX}"));
        }
        if self.process >= self.processes {
            return usage(format!(
                "-p/--process is {}, but -n/--processes is {}: indices go from 0 to {}",
                self.process,
                self.processes,
                self.processes - 1
            ));
        }
        if self.processes == 1 && self.addresses.len() < 2 {
            return Ok(());
        }
        if self.addresses.len() != self.processes {
            return usage(format!(
                "{} addresses for -n/--processes {}; give one to each (--hostfile, --addresses)",
                self.addresses.len(),
                self.processes
            ));
        }
        if self.link_timeout < 2 * self.heartbeat_interval || self.heartbeat_interval.is_zero() {
            return usage("the link timeout must be at least two heartbeat intervals".into());
        }
        let stall_min = 2 * self.heartbeat_interval;
        if self.stall_timeout < stall_min {
            return usage(format!(
                "--stall-timeout is {:?}; it must be at least {stall_min:?}",
                self.stall_timeout
            ));
        }
        if self.start_timeout.is_zero() {
            return usage("--start-timeout is 0s; give the other processes time to come".into());
        }
        check_addresses(&self.addresses)?;
        let is_far = |address: &String| {
            address.parse::<SocketAddr>().is_ok_and(|address| !is_loopback(address.ip()))
        };
        match self.addresses.iter().position(is_far) {
            Some(process) if self.mesh_key.is_none() => Err(self.keyless(process)),
            _ => Ok(()),
        }
    }

    /// Returns the error of a process that other hosts can reach while there is no key.
    pub(crate) fn keyless(&self, process: usize) -> Error {
        let message =
            format!("{} is not on loopback, and there is no mesh key", self.shown(process));
        Error::new(ErrorKind::Configuration, message)
            .hint("give every process the same secret with --mesh-key-file")
    }

    /// Returns the index and the address of a process, for messages.
    pub(crate) fn shown(&self, process: usize) -> String {
        let address = self.addresses.get(process).map_or("?", String::as_str);
        format!("process {process} ({address})")
    }
}

/// Checks the form of all addresses, and that no two are equal.
fn check_addresses(addresses: &[String]) -> Result<()> {
    for (index, address) in addresses.iter().enumerate() {
        let (host, _) = split_address(address).ok_or_else(|| {
            let message = format!("address {address:?} of process {index} is not HOST:PORT");
            Error::new(ErrorKind::Configuration, message).hint("see --hostfile and --addresses")
        })?;
        if host == "0.0.0.0" || host == "[::]" {
            let message = format!("address {address} of process {index} names no host");
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("give the address by which the others reach it (--hostfile, --addresses)"));
        }
        if let Some(first) = addresses[..index].iter().position(|other| other == address) {
            let message = format!("processes {first} and {index} have the same address {address}");
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("give each its own (--hostfile, --addresses)"));
        }
    }
    Ok(())
}

/// Returns the host of `HOST:PORT`, without brackets.
pub fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

/// Splits `HOST:PORT`; an IPv6 host stands in brackets. Returns `None` for any other form.
fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.contains([':', '[', ']']) && !host.contains(char::is_whitespace);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    ((bracketed || plain) && !host.is_empty()).then_some((host, port))
}

/// Reads the addresses of `processes` processes from a hostfile: one `HOST:PORT` a line, in order
/// of index. Blank lines and text after `#` are ignored, as are lines after the last process.
///
/// # Errors
/// `Configuration` if the file cannot be read, is too short, or has a line of another form.
pub fn read_hostfile(path: &Path, processes: usize) -> Result<Vec<String>> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|cause| {
        let message = format!("cannot read hostfile {name}: {cause}");
        Error::new(ErrorKind::Configuration, message).hint("see -h/--hostfile").cause(cause)
    })?;
    parse_hostfile(&text, processes).map_err(|error| {
        Error::new(ErrorKind::Configuration, format!("hostfile {name}: {error}"))
            .hint("see -h/--hostfile")
    })
}

/// Returns the addresses in the text of a hostfile; see [`read_hostfile`].
///
/// # Errors
/// `Configuration` if the text is too short or has a line of another form.
pub fn parse_hostfile(text: &str, processes: usize) -> Result<Vec<String>> {
    let mut addresses = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if addresses.len() == processes {
            break;
        }
        let address = line.split('#').next().unwrap_or_default().trim();
        if address.is_empty() {
            continue;
        }
        if split_address(address).is_none() {
            let message = format!("line {}: {address:?} is not HOST:PORT", number + 1);
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        addresses.push(address.to_owned());
    }
    if addresses.len() < processes {
        let found = addresses.len();
        let message = format!("addresses: {found}, but -n/--processes is {processes}");
        return Err(Error::new(ErrorKind::Configuration, message));
    }
    Ok(addresses)
}

/// Returns the addresses in the value of `--addresses`: `a:p,b:p,…`.
///
/// # Errors
/// `Usage` if an entry is not `HOST:PORT`.
pub fn parse_addresses(list: &str) -> Result<Vec<String>> {
    let check = |entry: &str| match split_address(entry.trim()) {
        Some(_) => Ok(entry.trim().to_owned()),
        None => {
            let message = format!("--addresses: {entry:?} is not HOST:PORT");
            Err(Error::new(ErrorKind::Usage, message))
        }
    };
    list.split(',').map(check).collect()
}

/// Returns the default addresses, which are timely's: `localhost:2101` and the ports after it.
pub fn default_addresses(processes: usize) -> Vec<String> {
    (0..processes).map(|index| format!("localhost:{}", PORT_BASE + index)).collect()
}

/// Returns the index for `-p auto`: the number at the end of this host's name.
///
/// # Errors
/// `Usage` if the name cannot be read or does not end in a number.
pub fn process_of_this_host() -> Result<usize> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME"))
        .map_err(|_| Error::new(ErrorKind::Usage, "-p auto: the host's name is unknown"))?;
    process_of_host(name.trim())
}

/// Returns the number at the end of a host's name, before its domain: 2 for
/// `wordtide-2.wordtide.svc`.
///
/// # Errors
/// `Usage` if the name does not end in a number.
pub fn process_of_host(name: &str) -> Result<usize> {
    let label = name.split('.').next().unwrap_or_default();
    let stem = label.trim_end_matches(|c: char| c.is_ascii_digit());
    label[stem.len()..].parse().map_err(|_| {
        let message = format!("-p auto: the host's name {name:?} does not end in a number");
        Error::new(ErrorKind::Usage, message).hint("give -p/--process a number")
    })
}

/// A key that all processes of a cluster share. It is never printed or sent.
#[derive(Clone)]
pub struct MeshKey([u8; 32]);

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshKey(hidden)")
    }
}

impl MeshKey {
    /// Derives the key from a secret text of at least 16 bytes, without the white space around it.
    ///
    /// # Errors
    /// `Configuration` if the text is too short.
    pub fn from_secret(secret: &[u8]) -> Result<MeshKey> {
        let secret = secret.trim_ascii();
        if secret.len() < KEY_BYTES_MIN {
            let message = format!("the mesh key has fewer than {KEY_BYTES_MIN} bytes");
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("make one with: openssl rand -hex 32 > FILE; see --mesh-key-file"));
        }
        Ok(MeshKey(blake3::derive_key("wordtide mesh key 1", secret)))
    }

    /// Reads the key in the file of `--mesh-key-file`.
    ///
    /// The group may read the file, because Kubernetes grants a secret to a user other than root in
    /// this way. Others may not read it, and only the owner may write.
    ///
    /// # Errors
    /// `Configuration` if the file cannot be read, is open to others, or holds no key.
    pub fn read(path: &Path) -> Result<MeshKey> {
        let name = path.display();
        let unreadable = |cause: std::io::Error| {
            let message = format!("cannot read mesh key file {name}: {cause}");
            Error::new(ErrorKind::Configuration, message).hint("see --mesh-key-file").cause(cause)
        };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o027 != 0 {
            let message = format!("mesh key file {name} is open to other users (mode {mode:04o})");
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("chmod 600 it; see --mesh-key-file"));
        }
        let mut secret = Vec::new();
        file.take(KEY_BYTES_MAX + 1).read_to_end(&mut secret).map_err(unreadable)?;
        if secret.len() as u64 > KEY_BYTES_MAX {
            let message = format!("mesh key file {name} has more than {KEY_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Configuration, message).hint("see --mesh-key-file"));
        }
        MeshKey::from_secret(&secret)
    }

    /// Returns the key for the hash function.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn hostfile_skips_comments_and_blank_lines() {
        let text = "# the cluster\n\n  a.example:2101 \nb:2102 # second\r\n[::1]:2103\nnot read\n";
        let addresses = parse_hostfile(text, 3).unwrap();
        assert_eq!(addresses, ["a.example:2101", "b:2102", "[::1]:2103"]);
    }

    #[test]
    fn bad_hostfile_error_names_the_fault() {
        let short = parse_hostfile("a:1\n", 2).unwrap_err();
        assert_eq!(short.kind(), ErrorKind::Configuration);
        assert_eq!(short.to_string(), "addresses: 1, but -n/--processes is 2");
        for bad in ["a", "a:", "a:0", "a:65536", ":1", "a b:1", "::1:5"] {
            let error = parse_hostfile(&format!("x:1\n{bad}\n"), 2).unwrap_err();
            assert!(error.to_string().starts_with("line 2: "), "{bad}: {error}");
        }
        let absent = read_hostfile(Path::new("/nonexistent"), 2).unwrap_err();
        assert!(absent.to_string().contains("--hostfile"));
    }

    #[test]
    fn addresses_are_split_at_commas_and_checked() {
        assert_eq!(parse_addresses("a:1, b:2").unwrap(), ["a:1", "b:2"]);
        let error = parse_addresses("a:1,,b:2").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("--addresses"));
        assert_eq!(default_addresses(2), ["localhost:2101", "localhost:2102"]);
    }

    #[test]
    fn process_index_ends_the_host_name() {
        assert_eq!(process_of_host("wordtide-12").unwrap(), 12);
        assert_eq!(process_of_host("wt-0.wt.default.svc.cluster.local").unwrap(), 0);
        for name in ["wordtide", "", "3a", "n99999999999999999999999"] {
            let error = process_of_host(name).unwrap_err();
            assert!(error.to_string().contains("-p"), "{name}");
        }
    }

    #[test]
    fn impossible_settings_are_refused_by_flag() {
        let good = ClusterSettings {
            processes: 2,
            addresses: default_addresses(2),
            ..ClusterSettings::default()
        };
        good.validate().unwrap();
        let refused = |change: fn(&mut ClusterSettings), flag: &str| {
            let mut settings = good.clone();
            change(&mut settings);
            let text = settings.validate().unwrap_err().to_string();
            assert!(text.contains(flag), "{flag}: {text}");
        };
        refused(|s| s.threads = 0, "-w/--threads");
        refused(|s| s.processes = 0, "-n/--processes");
        refused(|s| s.process = 2, "-p/--process");
        refused(|s| s.addresses.truncate(1), "--hostfile");
        refused(|s| s.addresses[1] = s.addresses[0].clone(), "same address");
        refused(|s| s.addresses[1] = "0.0.0.0:5".into(), "names no host");
        refused(|s| s.stall_timeout = Duration::from_millis(900), "--stall-timeout");
    }

    fn key_file(mode: u32, text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).write(true).mode(mode).open(&path).unwrap();
        std::io::Write::write_all(&mut file, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn key_file_must_be_private_and_long() {
        let secret = b"0123456789abcdef0123456789abcdef\n";
        let (_dir, path) = key_file(0o600, secret);
        let key = MeshKey::read(&path).unwrap();
        assert_eq!(key.bytes(), MeshKey::from_secret(secret.trim_ascii()).unwrap().bytes());
        assert_eq!(format!("{key:?}"), "MeshKey(hidden)");
        for mode in [0o644, 0o660, 0o604] {
            let (_dir, path) = key_file(mode, secret);
            let error = MeshKey::read(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        let (_dir, path) = key_file(0o600, b"too short");
        assert!(MeshKey::read(&path).unwrap_err().to_string().contains("fewer than 16"));
        let (_dir, path) = key_file(0o600, &[b'x'; 5000]);
        assert!(MeshKey::read(&path).unwrap_err().to_string().contains("more than 4096"));
    }
}
