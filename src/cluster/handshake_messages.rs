//! The messages of a handshake: hello, proof and verdict.
//!
//! Every message has a fixed length, so an unknown peer can make a process wait for, or allocate,
//! at most a few hundred bytes:
//!
//! 1. The connector sends its [`Hello`], and the listener answers with its own.
//! 2. The connector proves that it has the mesh key: it sends a keyed hash of both hellos and its
//!    role. The nonces of the hellos are fresh, so an old proof is not valid.
//! 3. The listener answers with a [`HandshakeVerdict`] and a proof of its own, which includes it.
//!
//! The connector proves first, so unknown peers cannot make a listener compute proofs. On loopback,
//! without a key file, the key of the user ([`user_key`](super::user_key)) is used. The handshake
//! authenticates the start of a connection. Later bytes are neither encrypted nor signed.

use super::settings::{ClusterSettings, JobFingerprint, MeshKey};
use crate::error::Result;
use crate::random::random_bytes;

/// The first bytes of each hello of every version.
const MAGIC: [u8; 8] = *b"wordtide";
/// The version of the bytes after the magic, and of the control frames.
pub const FORMAT: u16 = 2;
/// Length of an encoded hello, in bytes.
pub const HELLO_BYTES: usize = 124;
/// Length of a verdict with its proof, in bytes.
pub const VERDICT_BYTES: usize = 33;
/// Length of a proof, in bytes.
pub const PROOF_BYTES: usize = 32;

/// The use of a connection: timely's data, the control link, or blocks of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Carries timely's messages.
    Data = 0,
    /// Carries control messages and heartbeats.
    Control = 1,
    /// Carries blocks of lines.
    Blocks = 2,
}

impl Purpose {
    /// All purposes, in the order of their numbers.
    pub const ALL: [Purpose; 3] = [Purpose::Data, Purpose::Control, Purpose::Blocks];
}

/// One `T` for each purpose, in the order of [`Purpose::ALL`].
pub type Each<T> = [T; Purpose::ALL.len()];

/// The identity of one run of a process. Two connections with equal incarnations come from one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// A random number, chosen once in each run.
    pub number: u64,
    /// The host of the run: a hash of its boot id. Without a boot id the value is random, so the
    /// process counts as one on a host of its own.
    pub host: [u8; 16],
}

impl Incarnation {
    /// Returns the incarnation of this process.
    ///
    /// Fails with `Failed` if the kernel has no random bytes.
    pub fn of_this_process() -> Result<Incarnation> {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id");
        let boot = boot.ok().filter(|boot| !boot.is_empty());
        let host = match boot {
            Some(boot) => {
                let mut host = [0; 16];
                let digest = blake3::derive_key("wordtide host 1", &boot);
                host.copy_from_slice(&digest[..16]);
                host
            }
            None => random_bytes()?,
        };
        Ok(Incarnation { number: u64::from_le_bytes(random_bytes()?), host })
    }
}

/// The identity of a process and the cluster that it wants to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The version of the format of a handshake.
    pub format: u16,
    /// The use of the connection.
    pub purpose: Purpose,
    /// Number of processes.
    pub processes: u32,
    /// Number of workers in each process.
    pub threads: u32,
    /// The index of the sender.
    pub process: u32,
    /// The index that the receiver has in the settings of the sender.
    pub target: u32,
    /// The start of the cluster to which the sender belongs.
    pub generation: u64,
    /// The start of the process that the sender belongs to.
    pub incarnation: Incarnation,
    /// The digests of the [`JobFingerprint`].
    pub fingerprint: [u8; 32],
    /// Random bytes that make the proof fresh.
    pub nonce: [u8; 32],
}

/// A reason for which bytes are not a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHello {
    /// They do not begin with the magic.
    Magic,
    /// They have another version.
    Format(u16),
    /// Their purpose is unknown.
    Purpose,
}

/// The decision of a listener about a process that connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeVerdict {
    /// The link is up.
    Accepted = 0,
    /// It did not prove that it has the key.
    Key = 1,
    /// It runs another job or another shape of cluster.
    Mismatch = 2,
    /// Its index is taken by a live process, or is one that does not connect here.
    Taken = 3,
    /// It belongs to another start of the cluster.
    Generation = 4,
}

impl HandshakeVerdict {
    /// Returns the verdict with this number, if there is one.
    pub fn from_byte(byte: u8) -> Option<HandshakeVerdict> {
        use HandshakeVerdict::{Accepted, Generation, Key, Mismatch, Taken};
        [Accepted, Key, Mismatch, Taken, Generation]
            .into_iter()
            .find(|verdict| *verdict as u8 == byte)
    }
}

impl Hello {
    /// Returns the hello of this process. [`ClusterSettings::validate`] has checked the numbers.
    pub fn new(
        settings: &ClusterSettings,
        (purpose, target): (Purpose, usize),
        incarnation: Incarnation,
        nonce: [u8; 32],
    ) -> Hello {
        Hello {
            format: FORMAT,
            purpose,
            processes: settings.processes as u32,
            threads: settings.threads as u32,
            process: settings.process as u32,
            target: target as u32,
            generation: settings.generation,
            incarnation,
            fingerprint: settings.fingerprint.digests(),
            nonce,
        }
    }

    /// Returns the bytes of the hello.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = Vec::with_capacity(HELLO_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.format.to_le_bytes());
        bytes.extend_from_slice(&[self.purpose as u8, 0]);
        for number in [self.processes, self.threads, self.process, self.target] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.incarnation.number.to_le_bytes());
        bytes.extend_from_slice(&self.incarnation.host);
        bytes.extend_from_slice(&self.fingerprint);
        bytes.extend_from_slice(&self.nonce);
        let mut hello = [0; HELLO_BYTES];
        hello.copy_from_slice(&bytes);
        hello
    }

    /// Decodes a hello. The version is compared before any later byte is read.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> std::result::Result<Hello, NotHello> {
        if bytes[..8] != MAGIC {
            return Err(NotHello::Magic);
        }
        let format = u16::from_le_bytes(field(bytes, 8));
        if format != FORMAT {
            return Err(NotHello::Format(format));
        }
        let purpose = match bytes[10] {
            0 => Purpose::Data,
            1 => Purpose::Control,
            2 => Purpose::Blocks,
            _ => return Err(NotHello::Purpose),
        };
        Ok(Hello {
            format,
            purpose,
            processes: u32::from_le_bytes(field(bytes, 12)),
            threads: u32::from_le_bytes(field(bytes, 16)),
            process: u32::from_le_bytes(field(bytes, 20)),
            target: u32::from_le_bytes(field(bytes, 24)),
            generation: u64::from_le_bytes(field(bytes, 28)),
            incarnation: Incarnation {
                number: u64::from_le_bytes(field(bytes, 36)),
                host: field(bytes, 44),
            },
            fingerprint: field(bytes, 60),
            nonce: field(bytes, 92),
        })
    }

    /// Returns the first difference between this process, which runs `job`, and `theirs`, as text,
    /// or `None` if the two can join.
    pub fn mismatch(&self, job: &JobFingerprint, theirs: &Hello) -> Option<String> {
        if (self.processes, self.threads) != (theirs.processes, theirs.threads) {
            return Some(format!(
                "peer runs -n {} -w {}, this process -n {} -w {}",
                theirs.processes, theirs.threads, self.processes, self.threads
            ));
        }
        if theirs.target != self.process {
            return Some(format!(
                "peer takes this process for process {}, but it is process {}: \
                 --hostfile or --addresses differ, or -p is wrong",
                theirs.target, self.process
            ));
        }
        let differences = job.differences(&theirs.fingerprint);
        (!differences.is_empty())
            .then(|| format!("peer runs another job: it differs in {}", differences.join(", ")))
    }
}

/// Returns the text for a peer of another version.
pub fn format_differs(format: u16) -> String {
    format!("peer speaks mesh format {format}, this process {FORMAT}: run one version everywhere")
}

/// Returns the `N` bytes at `at`.
fn field<const N: usize>(bytes: &[u8; HELLO_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// Returns the connector's proof.
pub fn connector_proof(
    key: &MeshKey,
    connector: &[u8; HELLO_BYTES],
    listener: &[u8; HELLO_BYTES],
) -> blake3::Hash {
    proof(key, b"connector", connector, listener)
}

/// Returns the listener's proof. It includes the verdict, so a third party cannot refuse a peer.
pub fn listener_proof(
    key: &MeshKey,
    verdict: HandshakeVerdict,
    connector: &[u8; HELLO_BYTES],
    listener: &[u8; HELLO_BYTES],
) -> blake3::Hash {
    proof(key, &[b'l', verdict as u8], connector, listener)
}

/// Returns the keyed hash of both hellos and the role.
fn proof(
    key: &MeshKey,
    role: &[u8],
    connector: &[u8; HELLO_BYTES],
    listener: &[u8; HELLO_BYTES],
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key.bytes());
    hasher.update(connector).update(listener).update(role);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(interval: &str, digest: &str) -> JobFingerprint {
        let names = ["version", "definition", "--interval", "--to", "parts", "words", "sources"];
        let mut things = [""; JobFingerprint::THINGS].map(|_| ("all", digest.to_owned()));
        things.iter_mut().zip(names).for_each(|(thing, name)| *thing = (name, String::new()));
        things[2].1 = interval.to_owned();
        JobFingerprint::of(things)
    }

    fn hello() -> Hello {
        let settings = ClusterSettings {
            threads: 2,
            processes: 3,
            process: 1,
            generation: 9,
            fingerprint: job("10s", "a digest"),
            ..ClusterSettings::default()
        };
        let incarnation = Incarnation { number: 77, host: [3; 16] };
        Hello::new(&settings, (Purpose::Control, 0), incarnation, [5; 32])
    }

    #[test]
    fn hello_decodes_to_itself() {
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
    }

    #[test]
    fn other_format_is_reported_first() {
        let mut bytes = hello().encode();
        bytes[8] = 9;
        assert_eq!(Hello::decode(&bytes), Err(NotHello::Format(9)));
        bytes[0] = b'G';
        assert_eq!(Hello::decode(&bytes), Err(NotHello::Magic));
    }

    #[test]
    fn mismatch_names_each_difference() {
        let ours = Hello { process: 0, ..hello() };
        let theirs = Hello { target: 0, ..hello() };
        let mismatch = |theirs: &Hello| ours.mismatch(&job("10s", "a digest"), theirs);
        assert_eq!(mismatch(&theirs), None);
        let other = Hello { threads: 1, ..theirs.clone() };
        assert_eq!(mismatch(&other).unwrap(), "peer runs -n 3 -w 1, this process -n 3 -w 2");
        let runs = |interval, digest| {
            let fingerprint = job(interval, digest).digests();
            mismatch(&Hello { fingerprint, ..theirs.clone() }).unwrap()
        };
        let another = "peer runs another job: it differs in ";
        assert_eq!(runs("5s", "another digest"), format!("{another}--interval"));
        assert_eq!(runs("10s", "another digest"), format!("{another}all"));
        let other = Hello { target: 2, ..theirs };
        assert!(mismatch(&other).unwrap().contains("--hostfile"));
    }

    #[test]
    fn proof_depends_on_all_its_inputs() {
        let key = MeshKey::from_secret(b"0123456789abcdef").unwrap();
        let other = MeshKey::from_secret(b"another key of 16").unwrap();
        let (a, b) = (hello().encode(), Hello { nonce: [6; 32], ..hello() }.encode());
        let all = [
            connector_proof(&key, &a, &b),
            connector_proof(&key, &b, &a),
            connector_proof(&other, &a, &b),
            listener_proof(&key, HandshakeVerdict::Accepted, &a, &b),
            listener_proof(&key, HandshakeVerdict::Taken, &a, &b),
            connector_proof(&key, &a, &a),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other != one));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_themselves_or_are_refused(bytes: [u8; 32], rest: [u8; 32]) {
            let mut input = hello().encode();
            input[8..40].copy_from_slice(&bytes);
            input[92..].copy_from_slice(&rest);
            if let Ok(hello) = Hello::decode(&input) {
                input[11] = 0;
                prop_assert_eq!(hello.encode(), input);
            }
        }
    }
}
