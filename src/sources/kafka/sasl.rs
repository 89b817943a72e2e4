//! SASL: authenticates a user to a broker, by PLAIN or by SCRAM (RFC 5802, RFC 7677).
//!
//! SCRAM never sends the password. The client proves that it knows it, and then checks that the
//! broker knows it, too.

use crate::hex_varint::hex;
use base64::prelude::{BASE64_STANDARD, Engine};
use std::num::NonZeroU32;

use ring::digest;
use ring::hmac;
use ring::pbkdf2;

use super::client_properties::{SaslCredentials, SaslMechanism};
use super::error_kinds::BrokerFailure;
use crate::random::random_bytes;

/// Bytes of the client's nonce, before they are written as hexadecimal digits.
const NONCE_BYTES: usize = 24;

/// Most rounds of the key derivation that a broker may ask for: a hostile one could otherwise keep
/// this process busy for ever.
const ITERATIONS_MAX: u32 = 1_000_000;

/// One conversation with a broker.
pub struct Conversation<'a> {
    /// The user and the secret.
    credentials: &'a SaslCredentials,
    /// The answer that the broker owes.
    step: SaslStep,
}

/// The next message.
enum SaslStep {
    /// Nothing was sent yet.
    First,
    /// SCRAM: the broker's challenge is awaited, in answer to this.
    Proof { first_bare: String },
    /// SCRAM: the broker must show this.
    Verify { signature: Vec<u8> },
    /// The user is authenticated.
    Done,
}

impl<'a> Conversation<'a> {
    /// A conversation that has not begun.
    pub fn new(credentials: &'a SaslCredentials) -> Self {
        Conversation { credentials, step: SaslStep::First }
    }

    /// Returns the answer to `challenge`, which is empty at first; `None` when nothing is left to
    /// be sent.
    ///
    /// # Errors
    ///
    /// `Malformed` for a challenge that cannot be; `Refused` if the broker does not know the
    /// password itself.
    pub fn answer(&mut self, challenge: &[u8]) -> Result<Option<Vec<u8>>, BrokerFailure> {
        let SaslCredentials { mechanism, username, password } = self.credentials;
        let hash = match mechanism {
            SaslMechanism::Plain => {
                return Ok(match std::mem::replace(&mut self.step, SaslStep::Done) {
                    SaslStep::First => {
                        Some(format!("\0{username}\0{}", password.expose()).into_bytes())
                    }
                    _ => None,
                });
            }
            SaslMechanism::ScramSha256 => &SHA_256,
            SaslMechanism::ScramSha512 => &SHA_512,
        };
        match std::mem::replace(&mut self.step, SaslStep::Done) {
            SaslStep::First => {
                let name = username.replace('=', "=3D").replace(',', "=2C");
                let first_bare = format!("n={name},r={}", nonce()?);
                let message = format!("n,,{first_bare}").into_bytes();
                self.step = SaslStep::Proof { first_bare };
                Ok(Some(message))
            }
            SaslStep::Proof { first_bare } => {
                let (message, signature) =
                    proof(hash, &first_bare, challenge, password.expose().as_bytes())?;
                self.step = SaslStep::Verify { signature };
                Ok(Some(message))
            }
            SaslStep::Verify { signature } => {
                let text = std::str::from_utf8(challenge).map_err(|_| MALFORMED)?;
                if let Some(error) = text.strip_prefix("e=") {
                    return Err(BrokerFailure::Refused(format!("SASL failed: {error}")));
                }
                let shown = field(text, "v=")?;
                if decode_base64(shown)? != signature {
                    return Err(BrokerFailure::Refused(
                        "the broker does not know the password itself: it may be another one's"
                            .to_owned(),
                    ));
                }
                Ok(None)
            }
            SaslStep::Done => Ok(None),
        }
    }
}

/// The functions of one SCRAM mechanism.
struct ScramHash {
    /// The keyed hash.
    hmac: hmac::Algorithm,
    /// The hash itself.
    digest: &'static digest::Algorithm,
    /// The function that makes a key of a password, salted and iterated.
    pbkdf2: pbkdf2::Algorithm,
}

/// The functions of SCRAM-SHA-256.
static SHA_256: ScramHash = ScramHash {
    hmac: hmac::HMAC_SHA256,
    digest: &digest::SHA256,
    pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
};
/// The functions of SCRAM-SHA-512.
static SHA_512: ScramHash = ScramHash {
    hmac: hmac::HMAC_SHA512,
    digest: &digest::SHA512,
    pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512,
};

/// The failure of a challenge that has not the form of RFC 5802.
const MALFORMED: BrokerFailure = BrokerFailure::Malformed("a SASL challenge cannot be read");

/// Returns the client's last message for a challenge, and the signature that the broker must show.
fn proof(
    hash: &ScramHash,
    first_bare: &str,
    challenge: &[u8],
    password: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), BrokerFailure> {
    let challenge = std::str::from_utf8(challenge).map_err(|_| MALFORMED)?;
    let nonce = field(challenge, "r=")?;
    let own = field(first_bare, "r=")?;
    if !nonce.starts_with(own) || nonce.len() == own.len() {
        return Err(BrokerFailure::Malformed("a SASL challenge answers somebody else"));
    }
    let salt = decode_base64(field(challenge, "s=")?)?;
    let rounds: u32 = field(challenge, "i=")?.parse().map_err(|_| MALFORMED)?;
    let rounds = NonZeroU32::new(rounds).filter(|rounds| rounds.get() <= ITERATIONS_MAX);
    let rounds = rounds.ok_or(MALFORMED)?;

    let mut salted = vec![0; hash.digest.output_len()];
    pbkdf2::derive(hash.pbkdf2, rounds, &salt, password, &mut salted);
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hash.hmac, key), text);
    let client_key = sign(&salted, b"Client Key");
    let stored_key = digest::digest(hash.digest, client_key.as_ref());
    let without_proof = format!("c={},r={nonce}", BASE64_STANDARD.encode(b"n,,"));
    let message = format!("{first_bare},{challenge},{without_proof}");
    let signature = sign(stored_key.as_ref(), message.as_bytes());
    let pairs = client_key.as_ref().iter().zip(signature.as_ref());
    let proof: Vec<u8> = pairs.map(|(key, signed)| key ^ signed).collect();
    let server_key = sign(&salted, b"Server Key");
    let expected = sign(server_key.as_ref(), message.as_bytes());
    let last = format!("{without_proof},p={}", BASE64_STANDARD.encode(&proof));
    Ok((last.into_bytes(), expected.as_ref().to_vec()))
}

/// Returns the value of a field of a SCRAM message.
fn field<'a>(message: &'a str, name: &str) -> Result<&'a str, BrokerFailure> {
    message.split(',').find_map(|field| field.strip_prefix(name)).ok_or(MALFORMED)
}

/// Returns random printable text, which makes each conversation another one.
fn nonce() -> Result<String, BrokerFailure> {
    let bytes = random_bytes::<NONCE_BYTES>()
        .map_err(|error| BrokerFailure::Lost(std::io::Error::other(error)))?;
    Ok(hex(&bytes))
}

/// Decodes base64.
///
/// Fails with `Malformed` for any other text.
fn decode_base64(text: &str) -> Result<Vec<u8>, BrokerFailure> {
    BASE64_STANDARD.decode(text).map_err(|_| MALFORMED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(BASE64_STANDARD.encode(bytes.as_bytes()), text);
            assert_eq!(decode_base64(text).expect(text), bytes.as_bytes());
        }
        assert!(decode_base64("a b").is_err());
    }

    #[test]
    fn proof_is_that_of_rfc_7677() {
        let first = "n=user,r=rOprNGfwEbeRWgbNEkqO";
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, expected) =
            proof(&SHA_256, first, challenge.as_bytes(), b"pencil").expect("a proof");
        let proof = String::from_utf8(last).expect("text");
        assert!(proof.ends_with("p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), "{proof}");
        assert_eq!(
            BASE64_STANDARD.encode(&expected),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn challenge_to_somebody_else_is_refused() {
        let first = "n=user,r=mine";
        for challenge in ["r=theirs,s=QQ==,i=4096", "r=mine,s=QQ==,i=4096", "r=mine1,s=QQ==,i=0"] {
            assert!(proof(&SHA_256, first, challenge.as_bytes(), b"").is_err(), "{challenge}");
        }
    }
}
