//! Settings of the client, as `--kafka-config KEY=VALUE` gives them. Keys are those of Kafka's own
//! clients, so that a working configuration can be carried over.

use std::fmt;
use std::time::Duration;

use super::tls_settings::{TlsSettings, read, unreadable};
use crate::error::{Error, ErrorKind, Result};

/// Every key that is known, with what its value means.
const KEYS: &[&str] = &[
    "client.id",
    "fetch.max.bytes",
    "fetch.max.wait.ms",
    "isolation.level",
    "max.partition.fetch.bytes",
    "metadata.max.age.ms",
    "receive.message.max.bytes",
    "request.timeout.ms",
    "sasl.mechanism",
    "sasl.password",
    "sasl.password.file",
    "sasl.username",
    "security.protocol",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
];

/// Default of the largest batch and value. Brokers take batches of 1 MiB unless they are set
/// otherwise.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password itself, which only TLS protects.
    Plain,
    /// SCRAM with SHA-256.
    ScramSha256,
    /// SCRAM with SHA-512.
    ScramSha512,
}

impl SaslMechanism {
    /// Returns the name of the mechanism in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    /// Returns the mechanism with this name, in any case of letters.
    fn parse(text: &str) -> Option<SaslMechanism> {
        let all = [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512];
        all.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(text))
    }
}

/// A password, which no output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Returns the secret. The caller must not print it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A user and the proof that he is it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaslCredentials {
    /// The mechanism that authenticates the user.
    pub mechanism: SaslMechanism,
    /// The name of the user.
    pub username: String,
    /// The secret, which nothing prints.
    pub password: Password,
}

/// Limits of a fetch, and what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchLimits {
    /// How long the broker may wait for records.
    pub wait_max: Duration,
    /// Most bytes of an answer, one batch excepted.
    pub bytes_max: i32,
    /// Most bytes of one partition, one batch excepted.
    pub partition_bytes_max: i32,
    /// Most bytes of a batch, and of a value after decompression. Both are held as a whole.
    pub message_bytes_max: usize,
    /// Transactions that are open or aborted are hidden.
    pub read_committed: bool,
}

/// The settings of a client, checked.
#[derive(Clone, Debug)]
pub struct ClientProperties {
    /// `client.id`: the name of this client in the logs of brokers.
    pub client_id: String,
    /// `request.timeout.ms`: longest wait for an answer.
    pub request_timeout: Duration,
    /// How often a topic is looked at for new partitions.
    pub metadata_age_max: Duration,
    /// How much a broker sends at once, and how long it waits for that.
    pub fetch: FetchLimits,
    /// The user, where `security.protocol` asks for SASL.
    pub credentials: Option<SaslCredentials>,
    /// TLS, where `security.protocol` asks for it.
    pub tls: Option<TlsSettings>,
}

/// Settings as they were given: keys and values in order. A later one replaces an earlier one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaProperties {
    /// Keys and values in the order in which they were given. A later value replaces an earlier
    /// one.
    given: Vec<(String, String)>,
}

impl fmt::Debug for KafkaProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        f.debug_list().entries(self.given.iter().map(|(key, _)| key)).finish()
    }
}

impl KafkaProperties {
    /// Adds a setting as `KEY=VALUE`.
    ///
    /// # Errors
    ///
    /// `Usage` for text without `=` and for a key that is not known, with the nearest one that is.
    pub fn add(&mut self, setting: &str) -> Result<()> {
        let Some((key, value)) = setting.split_once('=') else {
            // The text may be a password without its key.
            return Err(
                usage("a setting has no `=`".to_owned()).hint("give --kafka-config as KEY=VALUE")
            );
        };
        let (key, value) = (key.trim(), value.trim());
        let key = if key == "sasl.mechanisms" { "sasl.mechanism" } else { key };
        if !KEYS.contains(&key) {
            if self.given.last().is_some_and(|(last, _)| last == "sasl.password") {
                // It may be the rest of the password.
                return Err(usage("a setting after sasl.password has no known key".to_owned())
                    .hint("a password with a comma goes into a file: sasl.password.file=PATH"));
            }
            return Err(unknown(key));
        }
        self.given.retain(|(known, _)| known != key);
        self.given.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Returns true if the password itself was given, and not the name of a file with it.
    pub fn has_password(setting: &str) -> bool {
        setting.split_once('=').is_some_and(|(key, _)| key.trim() == "sasl.password")
    }

    /// Returns true for a setting that may be shown: it has a known key, and that is not the
    /// password's. A piece without one may be the rest of a password with a comma.
    pub fn is_public(setting: &str) -> bool {
        let key = setting.split_once('=').map_or("", |(key, _)| key.trim());
        !Self::has_password(setting) && (key == "sasl.mechanisms" || KEYS.contains(&key))
    }

    /// Returns the value of a key, or `None` if it is not given or empty.
    fn get(&self, key: &str) -> Option<&str> {
        let found = self.given.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Checks all settings together, and reads the files that they name.
    ///
    /// # Errors
    ///
    /// `Usage` for a value that cannot be and for settings that do not fit together;
    /// `Configuration` for a file that cannot be read.
    pub(crate) fn check(&self) -> Result<ClientProperties> {
        let protocol = self.get("security.protocol").unwrap_or("PLAINTEXT").to_ascii_uppercase();
        let (has_tls, has_sasl) = match protocol.as_str() {
            "PLAINTEXT" => (false, false),
            "SSL" => (true, false),
            "SASL_PLAINTEXT" => (false, true),
            "SASL_SSL" => (true, true),
            _ => return Err(self.wrong("security.protocol", PROTOCOLS)),
        };
        let credentials = if has_sasl { Some(self.credentials()?) } else { None };
        for (key, _) in &self.given {
            let is_unused =
                key.starts_with("sasl.") && !has_sasl || key.starts_with("ssl.") && !has_tls;
            if is_unused {
                return Err(usage(format!(
                    "--kafka-config {key} has no effect with security.protocol={protocol}"
                ))
                .hint(format!("give security.protocol as one of {PROTOCOLS}")));
            }
        }
        let millis = |key, default, most| {
            Ok::<_, Error>(Duration::from_millis(self.number(key, default, 1, most)?))
        };
        let isolation = self.get("isolation.level").unwrap_or("read_committed");
        let answer_max = self.number("fetch.max.bytes", 8 << 20, 1 << 10, 128 << 20)?;
        let message_max =
            self.number("receive.message.max.bytes", MESSAGE_BYTES_MAX, 1 << 10, 1 << 30)?;
        Ok(ClientProperties {
            client_id: self.get("client.id").unwrap_or("wordtide").to_owned(),
            request_timeout: millis("request.timeout.ms", 30_000, 3_600_000)?,
            metadata_age_max: millis("metadata.max.age.ms", 10_000, 86_400_000)?,
            fetch: FetchLimits {
                wait_max: millis("fetch.max.wait.ms", 500, 60_000)?,
                bytes_max: answer_max as i32,
                partition_bytes_max: self.number(
                    "max.partition.fetch.bytes",
                    1 << 20,
                    1 << 10,
                    128 << 20,
                )? as i32,
                message_bytes_max: message_max as usize,
                read_committed: match isolation {
                    "read_committed" => true,
                    "read_uncommitted" => false,
                    _ => {
                        let values = "read_committed, read_uncommitted";
                        return Err(self.wrong("isolation.level", values));
                    }
                },
            },
            credentials,
            tls: if has_tls { Some(self.tls()?) } else { None },
        })
    }

    /// Returns mechanism, user and password.
    ///
    /// Fails with `Usage` if one of them is missing or unknown, and with `Configuration` if the
    /// file of the password cannot be read.
    fn credentials(&self) -> Result<SaslCredentials> {
        /// The mechanisms that this client has.
        const MECHANISMS: &str = "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512";
        let missing = |key: &str, hint: &str| {
            usage(format!("--kafka-config {key} is missing: security.protocol asks for SASL"))
                .hint(hint)
        };
        let mechanism = self
            .get("sasl.mechanism")
            .ok_or_else(|| missing("sasl.mechanism", &format!("give it as one of {MECHANISMS}")))?;
        let mechanism = SaslMechanism::parse(mechanism)
            .ok_or_else(|| self.wrong("sasl.mechanism", MECHANISMS))?;
        let username = self
            .get("sasl.username")
            .ok_or_else(|| missing("sasl.username", "give the name of the user"))?
            .to_owned();
        let password = match (self.get("sasl.password"), self.get("sasl.password.file")) {
            (Some(_), Some(_)) => {
                return Err(usage(
                    "sasl.password and sasl.password.file were both given".to_owned(),
                )
                .hint("give one of them with --kafka-config"));
            }
            (Some(password), None) => password.to_owned(),
            (None, Some(file)) => {
                let text = read("sasl.password.file", file)?;
                let text = String::from_utf8(text)
                    .map_err(|_| unreadable("sasl.password.file", file, "it is not UTF-8"))?;
                text.trim_end_matches(['\n', '\r']).to_owned()
            }
            (None, None) => {
                let hint = "put it into a file and give sasl.password.file=PATH, or give \
                            sasl.password in WORDTIDE_KAFKA_CONFIG";
                return Err(missing("sasl.password", hint));
            }
        };
        Ok(SaslCredentials { mechanism, username, password: Password(password) })
    }

    /// Returns the TLS settings: the certificates to trust, and that of the client if there is one.
    ///
    /// Fails with `Configuration` if a file cannot be used, and with `Usage` for a certificate
    /// without its key, or the reverse.
    fn tls(&self) -> Result<TlsSettings> {
        let own = match (self.get("ssl.certificate.location"), self.get("ssl.key.location")) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            _ => {
                return Err(usage("a certificate needs its key".to_owned()).hint(
                    "give --kafka-config ssl.certificate.location and ssl.key.location together",
                ));
            }
        };
        TlsSettings::of_files(self.get("ssl.ca.location"), own)
    }

    /// Returns the number of a key, which must lie between `least` and `most`, both included.
    fn number(&self, key: &'static str, default: u64, least: u64, most: u64) -> Result<u64> {
        let Some(text) = self.get(key) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| self.wrong(key, &format!("a number from {least} to {most}")))
    }

    /// Returns the error of a value that is none of `values`.
    fn wrong(&self, key: &str, values: &str) -> Error {
        let value = self.get(key).unwrap_or_default();
        usage(format!("--kafka-config {key}={value:?} cannot be")).hint(format!("give {values}"))
    }
}

/// The values of `security.protocol`.
const PROTOCOLS: &str = "PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL";

/// Returns an error of kind `Usage`.
fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}

/// The error for a key that is not known: why it has no meaning here, or the nearest one that has.
fn unknown(key: &str) -> Error {
    let message = format!("--kafka-config has no key {key:?}");
    let hint = match key {
        "auto.offset.reset" => "give --kafka-start latest|earliest".to_owned(),
        "bootstrap.servers" => "give the brokers with --kafka HOST:PORT,HOST:PORT/TOPIC".to_owned(),
        "group.id" | "group.instance.id" | "enable.auto.commit" | "auto.commit.interval.ms" => {
            "positions are in the journal, and no consumer group is used".to_owned()
        }
        "sasl.jaas.config" => "give sasl.username and sasl.password.file".to_owned(),
        "ssl.truststore.location" | "ssl.truststore.certificates" => {
            "give the certificates in PEM with ssl.ca.location".to_owned()
        }
        "ssl.keystore.location" => {
            "give PEM files with ssl.certificate.location and ssl.key.location".to_owned()
        }
        _ => match nearest(key) {
            Some(known) => format!("did you mean {known}?"),
            None => format!("the keys are {}", KEYS.join(", ")),
        },
    };
    usage(message).hint(hint)
}

/// Returns the known key with the fewest differences, if they are few.
fn nearest(key: &str) -> Option<&'static str> {
    let distances = KEYS.iter().map(|known| (edits(key, known), *known));
    let (distance, known) = distances.min()?;
    (distance <= key.len() / 3).then_some(known)
}

/// Returns the number of letters to be changed, added or taken to make one text of the other.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, letter) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(letter != other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(settings: &[&str]) -> Result<ClientProperties> {
        let mut properties = KafkaProperties::default();
        settings.iter().try_for_each(|setting| properties.add(setting))?;
        properties.check()
    }

    fn refused(settings: &[&str], words: &str) {
        let error = given(settings).expect_err(words);
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn unknown_key_is_refused_with_remedy() {
        refused(&["fetch.max.byte=1"], "did you mean fetch.max.bytes?");
        refused(&["group.id=x"], "no consumer group");
        refused(&["auto.offset.reset=latest"], "--kafka-start");
        refused(&["zzz=1"], "the keys are client.id");
        refused(&["fetch.max.bytes"], "KEY=VALUE");
    }

    #[test]
    fn value_that_cannot_be_is_refused() {
        refused(&["security.protocol=TLS"], "SASL_SSL");
        refused(&["fetch.max.bytes=0"], "a number from");
        refused(&["receive.message.max.bytes=1TB"], "a number from");
        refused(&["fetch.max.wait.ms=soon"], "a number from");
        refused(&["isolation.level=any"], "read_committed");
        refused(&["sasl.username=u"], "no effect");
        refused(&["ssl.ca.location=/x"], "no effect");
        let sasl = "security.protocol=SASL_PLAINTEXT";
        refused(&[sasl], "sasl.mechanism is missing");
        refused(&[sasl, "sasl.mechanism=GSSAPI"], "SCRAM-SHA-256");
        refused(&[sasl, "sasl.mechanism=PLAIN"], "sasl.username is missing");
        refused(&[sasl, "sasl.mechanism=PLAIN", "sasl.username=u"], "sasl.password.file=PATH");
        refused(&["security.protocol=SSL", "ssl.key.location=/x"], "together");
    }

    #[test]
    fn password_is_read_from_file_and_never_shown() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "se=cret\r\n").expect("a file");
        let mut properties = KafkaProperties::default();
        let path = format!("sasl.password.file={}", file.path().display());
        for setting in
            ["security.protocol=sasl_plaintext", "sasl.mechanisms=plain", "sasl.username=u", &path]
        {
            properties.add(setting).expect(setting);
        }
        let checked = properties.check().expect("all is there");
        let credentials = checked.credentials.as_ref().expect("SASL");
        assert_eq!(credentials.password.expose(), "se=cret");
        let mut direct = properties.clone();
        direct.add("sasl.password.file=").expect("known");
        direct.add("sasl.password=se=cret").expect("known");
        assert_eq!(direct.check().expect("all is there").credentials, checked.credentials);
        for shown in [format!("{checked:?}"), format!("{direct:?}")] {
            assert!(!shown.contains("cret"), "{shown}");
        }
    }

    #[test]
    fn missing_file_is_configuration() {
        let error = given(&["security.protocol=SSL", "ssl.ca.location=/no/such/file"]);
        let error = error.expect_err("no file");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("ssl.ca.location"), "{error}");
    }
}
