//! What a process must know to find its cluster, as plain data, and how the flags become that data.
//!
//! Nothing here opens a socket. A wrong flag is [`ErrorKind::Usage`]; a file that says something
//! unusable is [`ErrorKind::Configuration`]; each message names the flag.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// Most processes of one cluster: each holds three sockets and three threads for every other.
pub const PROCESSES_MAX: usize = 1024;

/// Shortest key file that is taken, in bytes after trimming: 16 random bytes cannot be guessed.
const KEY_BYTES_MIN: usize = 16;
/// Longest key file that is read, in bytes.
const KEY_BYTES_MAX: u64 = 4096;

/// The first port of the addresses that are assumed when none are given, as timely has it.
const PORT_BASE: usize = 2101;

/// What the processes of a job must have in common, so told apart that they can name what differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    names: [&'static str; Fingerprint::THINGS],
    digests: [u8; 32],
}

impl Fingerprint {
    /// How many things are told apart.
    pub const THINGS: usize = 8;

    /// The fingerprint of these things, each with the name under which a difference is told. The
    /// last is all that has no name of its own: it is told only where no other differs.
    pub fn of(things: [(&'static str, String); Fingerprint::THINGS]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        let (digests, _) = fingerprint.digests.as_chunks_mut::<4>();
        for ((name, digest), (thing, text)) in
            fingerprint.names.iter_mut().zip(digests).zip(&things)
        {
            *name = thing;
            digest.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..4]);
        }
        fingerprint
    }

    pub(super) fn digests(&self) -> [u8; 32] {
        self.digests
    }

    /// The names of the things in which a process with digests `theirs` differs.
    pub(super) fn differences(&self, theirs: &[u8; 32]) -> Vec<&'static str> {
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

/// Who takes part in a cluster, and how patient its processes are with each other.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Worker threads of this process (`-w`); the same in every process.
    pub threads: usize,
    /// Processes of the cluster (`-n`).
    pub processes: usize,
    /// Index of this process (`-p`), below `processes`.
    pub process: usize,
    /// `HOST:PORT` of every process in order of index; not read when `processes` is 1.
    pub addresses: Vec<String>,
    /// What all processes of the cluster know and nobody else does.
    pub mesh_key: Option<MeshKey>,
    /// How long to wait for the others at start.
    pub start_timeout: Duration,
    /// How long a peer may be silent while its host still acknowledges what it is sent.
    pub stall_timeout: Duration,
    /// How often each side of a control link says that it lives.
    pub heartbeat_interval: Duration,
    /// How long sent bytes may stay unacknowledged by the peer's host before the link is lost.
    pub link_timeout: Duration,
    /// How long a connection may take to say who it is, during bring-up.
    pub handshake_timeout: Duration,
    /// Most connections that are being questioned at once; one more ends the oldest.
    pub strangers_max: usize,
    /// Most control messages that may wait for [`Inbox::recv`](super::Inbox::recv).
    pub inbox_messages_max: usize,
    /// Which start of the cluster this is; processes of different ones do not join.
    pub generation: u64,
    /// What the job is. Processes that differ in it do not join.
    pub fingerprint: Fingerprint,
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
            fingerprint: Fingerprint::default(),
        }
    }
}

impl ClusterSettings {
    /// Checks what can be checked without the network.
    ///
    /// # Errors
    /// `Usage` for numbers that cannot be, `Configuration` for addresses that cannot be.
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
        check_addresses(&self.addresses)
    }

    /// How the address of a process is shown in messages.
    pub(super) fn shown(&self, process: usize) -> String {
        let address = self.addresses.get(process).map_or("?", String::as_str);
        format!("process {process} ({address})")
    }
}

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
pub(super) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

/// Host and port of `HOST:PORT`; an IPv6 host stands in brackets.
fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.contains([':', '[', ']']) && !host.contains(char::is_whitespace);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    ((bracketed || plain) && !host.is_empty()).then_some((host, port))
}

/// Reads the addresses of `processes` processes from a hostfile: one `HOST:PORT` a line, in order
/// of index. Blank lines and text after `#` do not count; lines past the last process are not read.
///
/// # Errors
/// `Configuration` when the file cannot be read, is too short, or holds something else.
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

/// The addresses in the text of a hostfile: see [`read_hostfile`].
///
/// # Errors
/// `Configuration` when the text is too short or holds something else.
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

/// The addresses in the value of `--addresses`: `a:p,b:p,…`.
///
/// # Errors
/// `Usage` when an entry is not `HOST:PORT`.
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

/// The addresses that timely assumes when none are given: `localhost:2101` and the ports after it.
pub fn default_addresses(processes: usize) -> Vec<String> {
    (0..processes).map(|index| format!("localhost:{}", PORT_BASE + index)).collect()
}

/// The index that `-p auto` stands for: the number at the end of this host's name.
///
/// # Errors
/// `Usage` when the name cannot be read or does not end in a number.
pub fn process_of_this_host() -> Result<usize> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME"))
        .map_err(|_| Error::new(ErrorKind::Usage, "-p auto: the host's name is unknown"))?;
    process_of_host(name.trim())
}

/// The number at the end of a host's name, before its domain: 2 for `wordtide-2.wordtide.svc`.
///
/// # Errors
/// `Usage` when the name does not end in a number.
pub fn process_of_host(name: &str) -> Result<usize> {
    let label = name.split('.').next().unwrap_or_default();
    let stem = label.trim_end_matches(|c: char| c.is_ascii_digit());
    label[stem.len()..].parse().map_err(|_| {
        let message = format!("-p auto: the host's name {name:?} does not end in a number");
        Error::new(ErrorKind::Usage, message).hint("give -p/--process a number")
    })
}

/// A secret that all processes of a cluster share. It is never printed, sent or compared in clear.
#[derive(Clone)]
pub struct MeshKey([u8; 32]);

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshKey(hidden)")
    }
}

impl MeshKey {
    /// The key made from any secret text of at least 16 bytes; white space around it does not
    /// count.
    ///
    /// # Errors
    /// `Configuration` when the text is too short.
    pub fn from_secret(secret: &[u8]) -> Result<MeshKey> {
        let secret = secret.trim_ascii();
        if secret.len() < KEY_BYTES_MIN {
            let message = format!("the mesh key has fewer than {KEY_BYTES_MIN} bytes");
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("make one with: openssl rand -hex 32 > FILE; see --mesh-key-file"));
        }
        Ok(MeshKey(blake3::derive_key("wordtide mesh key 1", secret)))
    }

    /// The key in the file of `--mesh-key-file`.
    ///
    /// A group may read the file, because that is how Kubernetes hands a secret to a user that is
    /// not root; others may not, and only the owner may write.
    ///
    /// # Errors
    /// `Configuration` when the file cannot be read, is open to others, or is no key.
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

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Bytes nobody can foretell, from the kernel.
///
/// # Errors
/// `Failed` where it has none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|cause| Error::new(ErrorKind::Failed, "cannot read /dev/urandom").cause(cause))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn a_hostfile_gives_its_first_n_addresses_past_comments_and_blank_lines() {
        let text = "# the cluster\n\n  a.example:2101 \nb:2102 # second\r\n[::1]:2103\nnot read\n";
        let addresses = parse_hostfile(text, 3).unwrap();
        assert_eq!(addresses, ["a.example:2101", "b:2102", "[::1]:2103"]);
    }

    #[test]
    fn a_bad_hostfile_is_refused_with_the_line_or_the_count() {
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
    fn the_index_is_the_number_that_ends_the_host_name() {
        assert_eq!(process_of_host("wordtide-12").unwrap(), 12);
        assert_eq!(process_of_host("wt-0.wt.default.svc.cluster.local").unwrap(), 0);
        for name in ["wordtide", "", "3a", "n99999999999999999999999"] {
            let error = process_of_host(name).unwrap_err();
            assert!(error.to_string().contains("-p"), "{name}");
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused_by_flag() {
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
    fn a_key_file_must_be_private_and_long_enough() {
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
