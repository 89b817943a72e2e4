//! What two processes say to each other before either believes the other.
//!
//! Everything has a fixed length, so a stranger can make nobody wait for, or allocate, more than a
//! few hundred bytes:
//!
//! 1. the one that connects sends its [`Hello`]; the one that listens answers with its own;
//! 2. the one that connects proves that it knows the mesh key: a keyed hash over its role and both
//!    hellos, whose nonces are fresh, so that an old proof proves nothing;
//! 3. the one that listens answers with a [`Verdict`] and a proof of its own over it.
//!
//! Who connects proves first, so that a listener cannot be asked for proofs by strangers. On
//! loopback the key of the user ([`user_key`](super::user_key)) stands in for one that is not
//! given. This authenticates the start of a connection; it neither encrypts nor signs what follows.

use super::settings::{ClusterSettings, Fingerprint, MeshKey, random_bytes};
use crate::error::Result;

/// The first bytes of each hello of every version.
const MAGIC: [u8; 8] = *b"wordtide";
/// The version of all that follows the magic, and of the control frames.
pub(super) const FORMAT: u16 = 2;
/// Length of an encoded hello, in bytes.
pub(super) const HELLO_BYTES: usize = 124;
/// Length of a verdict with its proof, in bytes.
pub(super) const VERDICT_BYTES: usize = 33;
/// Length of a proof, in bytes.
pub(super) const PROOF_BYTES: usize = 32;

/// What a connection is for: timely's data, the control link beside it, or blocks of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Data = 0,
    Control = 1,
    Blocks = 2,
}

impl Purpose {
    pub(super) const ALL: [Purpose; 3] = [Purpose::Data, Purpose::Control, Purpose::Blocks];
}

/// One of something for each purpose.
pub(super) type Each<T> = [T; Purpose::ALL.len()];

/// One run of a process: two connections with the same one come from one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incarnation {
    /// Drawn once by each run.
    pub(super) number: u64,
    /// The host of the run, by its boot. A host that does not tell gets a random one, so that it is
    /// taken for a host of its own.
    pub(super) host: [u8; 16],
}

impl Incarnation {
    /// Returns that of this process.
    ///
    /// Fails with `Failed` if the kernel has no random bytes.
    pub(super) fn of_this_process() -> Result<Incarnation> {
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

/// Who a process is and which cluster it means to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) format: u16,
    pub(super) purpose: Purpose,
    pub(super) processes: u32,
    pub(super) threads: u32,
    pub(super) process: u32,
    /// The index the sender believes the receiver to have.
    pub(super) target: u32,
    pub(super) generation: u64,
    pub(super) incarnation: Incarnation,
    pub(super) fingerprint: [u8; 32],
    pub(super) nonce: [u8; 32],
}

/// Why bytes are not a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotHello {
    Magic,
    Format(u16),
    Purpose,
}

/// What a listener thinks of a process that connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted = 0,
    /// It did not prove that it knows the key.
    Key = 1,
    /// It runs another job or another shape of cluster.
    Mismatch = 2,
    /// Its index is taken by a process that lives, or is none that connects here.
    Taken = 3,
    /// It belongs to another start of the cluster.
    Generation = 4,
}

impl Verdict {
    pub(super) fn from_byte(byte: u8) -> Option<Verdict> {
        use Verdict::{Accepted, Generation, Key, Mismatch, Taken};
        [Accepted, Key, Mismatch, Taken, Generation]
            .into_iter()
            .find(|verdict| *verdict as u8 == byte)
    }
}

impl Hello {
    /// What this process says; numbers are checked by [`ClusterSettings::validate`].
    pub(super) fn new(
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

    pub(super) fn encode(&self) -> [u8; HELLO_BYTES] {
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

    pub(super) fn decode(bytes: &[u8; HELLO_BYTES]) -> std::result::Result<Hello, NotHello> {
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

    /// How `theirs` differs from this process, which runs `job`, in what must be equal, in words;
    /// `None` if it does not.
    pub(super) fn mismatch(&self, job: &Fingerprint, theirs: &Hello) -> Option<String> {
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

fn field<const N: usize>(bytes: &[u8; HELLO_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// The proof of the one that connects.
pub(super) fn connector_proof(
    key: &MeshKey,
    connector: &[u8; HELLO_BYTES],
    listener: &[u8; HELLO_BYTES],
) -> blake3::Hash {
    proof(key, b"connector", connector, listener)
}

/// The proof of the one that listens, over its verdict too, so that nobody else can turn a peer
/// away.
pub(super) fn listener_proof(
    key: &MeshKey,
    verdict: Verdict,
    connector: &[u8; HELLO_BYTES],
    listener: &[u8; HELLO_BYTES],
) -> blake3::Hash {
    proof(key, &[b'l', verdict as u8], connector, listener)
}

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

    fn job(interval: &str, digest: &str) -> Fingerprint {
        let names = ["version", "definition", "--interval", "--to", "parts", "words", "sources"];
        let mut things = [""; Fingerprint::THINGS].map(|_| ("all", digest.to_owned()));
        things.iter_mut().zip(names).for_each(|(thing, name)| *thing = (name, String::new()));
        things[2].1 = interval.to_owned();
        Fingerprint::of(things)
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
    fn a_hello_survives_the_wire() {
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
    }

    #[test]
    fn another_format_is_named_before_anything_else_is_read() {
        let mut bytes = hello().encode();
        bytes[8] = 9;
        assert_eq!(Hello::decode(&bytes), Err(NotHello::Format(9)));
        bytes[0] = b'G';
        assert_eq!(Hello::decode(&bytes), Err(NotHello::Magic));
    }

    #[test]
    fn each_difference_that_matters_is_named() {
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
    fn a_proof_depends_on_the_key_the_role_the_verdict_and_both_hellos() {
        let key = MeshKey::from_secret(b"0123456789abcdef").unwrap();
        let other = MeshKey::from_secret(b"another key of 16").unwrap();
        let (a, b) = (hello().encode(), Hello { nonce: [6; 32], ..hello() }.encode());
        let all = [
            connector_proof(&key, &a, &b),
            connector_proof(&key, &b, &a),
            connector_proof(&other, &a, &b),
            listener_proof(&key, Verdict::Accepted, &a, &b),
            listener_proof(&key, Verdict::Taken, &a, &b),
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
