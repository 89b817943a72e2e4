//! A connection to one broker: TCP or TLS, the versions that both sides speak, SASL, then requests
//! and their answers, one after the other.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::dial;
use super::super::host_port::HostPort;
use super::client_properties::{ClientProperties, SaslCredentials};
use super::error_kinds::{BrokerFailure, ErrorCode};
use super::sasl::Conversation;
use super::wire_types::{WireReader, WireWriter};

/// Bytes of an answer besides what its limits count: names, partitions and aborted transactions.
const ANSWER_HEAD_BYTES: usize = 16 << 20;

/// Most bytes that are made room for before they arrive: a length may be no length at all.
const ROOM_BYTES: usize = 1 << 20;

/// A request of Kafka's protocol that is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Records of partitions, from an offset on.
    Fetch,
    /// The first and the next offset of a partition.
    ListOffsets,
    /// The brokers, and the leaders of partitions.
    Metadata,
    /// The mechanisms of SASL that the broker has.
    SaslHandshake,
    /// The versions of each request that the broker speaks.
    Versions,
    /// One message of a SASL conversation.
    SaslAuthenticate,
}

impl Api {
    /// Returns the number of the request in the protocol.
    fn key(self) -> i16 {
        match self {
            Api::Fetch => 1,
            Api::ListOffsets => 2,
            Api::Metadata => 3,
            Api::SaslHandshake => 17,
            Api::Versions => 18,
            Api::SaslAuthenticate => 36,
        }
    }

    /// Returns the lowest and the highest version that are spoken here.
    fn versions(self) -> (i16, i16) {
        match self {
            // From 4 on with aborted transactions; from 12 on flexible; from 13 on with the topic's
            // id in place of its name.
            Api::Fetch => (4, 13),
            Api::ListOffsets => (2, 2),
            // 4 is the last that creates no topic and has no more than is needed, 12 the first with
            // the id of the topic whose null name is allowed.
            Api::Metadata => (4, 12),
            Api::SaslHandshake => (1, 1),
            Api::Versions => (0, 0),
            Api::SaslAuthenticate => (0, 0),
        }
    }
}

/// The bytes of a connection, encrypted or not.
trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A connection that is ready for requests.
pub struct BrokerConnection {
    /// Plain or encrypted.
    stream: Box<dyn ByteStream>,
    /// The client id, which brokers show in their logs.
    client: String,
    /// How long nothing may come of an answer, or nothing be taken of a request.
    silence_max: Duration,
    /// How long a broker may wait for records before it answers a fetch.
    wait_max: Duration,
    /// Longest answer in bytes that is believed.
    answer_bytes_max: usize,
    /// The number of the last request, which its answer repeats.
    correlation: i32,
    /// Lowest and highest version that the broker speaks, by the key of the request.
    spoken: Vec<(i16, i16, i16)>,
}

impl BrokerConnection {
    /// Connects to a broker and authenticates the user.
    ///
    /// # Errors
    ///
    /// `Lost` if it is out of reach, `Refused` if it refuses the credentials, its certificate is
    /// refused, or it does not speak what the settings ask for.
    pub async fn open(
        address: &HostPort,
        properties: &ClientProperties,
    ) -> Result<BrokerConnection, BrokerFailure> {
        let opened = timeout(properties.request_timeout, Self::connect(address, properties));
        opened.await.unwrap_or_else(|_| Err(timed_out(properties.request_timeout)))
    }

    /// Connects to `address`, by TLS if the settings ask for it.
    ///
    /// Fails with `Unresolved` if the name has no address, with `Lost` if none accepts or the
    /// connection ends, and with `Refused` if the broker does not let the client in.
    async fn connect(
        address: &HostPort,
        properties: &ClientProperties,
    ) -> Result<BrokerConnection, BrokerFailure> {
        let addresses = dial::resolve(address).await.map_err(BrokerFailure::Unresolved)?;
        let stream = dial::connect_once(addresses).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn ByteStream> = match &properties.tls {
            None => Box::new(stream),
            Some(config) => Box::new(secured(address, config.connector(), stream).await?),
        };
        let mut connection = BrokerConnection {
            stream,
            client: properties.client_id.clone(),
            silence_max: properties.request_timeout,
            wait_max: properties.fetch.wait_max,
            answer_bytes_max: answer_bytes_max(properties),
            correlation: 0,
            spoken: Vec::new(),
        };
        connection.ask_versions(properties).await?;
        if let Some(credentials) = &properties.credentials {
            connection.authenticate(credentials).await?;
        }
        Ok(connection)
    }

    /// Returns the highest version of a request that both sides speak.
    ///
    /// # Errors
    ///
    /// `Refused` if there is none.
    pub fn version(&self, api: Api) -> Result<i16, BrokerFailure> {
        let (lowest, highest) = api.versions();
        let spoken = self.spoken.iter().find(|(key, ..)| *key == api.key());
        let common = spoken.map(|(_, from, to)| (lowest.max(*from), highest.min(*to)));
        match common {
            Some((from, to)) if from <= to => Ok(to),
            _ => Err(BrokerFailure::Refused(format!(
                "the broker does not speak a version of {api:?} that is known here; Kafka 1.0 or \
                 newer is needed"
            ))),
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    ///
    /// `Lost` if nothing comes for too long; `Malformed` if it is no answer.
    pub async fn ask(
        &mut self,
        api: Api,
        version: i16,
        body: &[u8],
    ) -> Result<Bytes, BrokerFailure> {
        self.correlation = self.correlation.wrapping_add(1);
        let is_flexible = match api {
            Api::Metadata => version >= 9,
            Api::Fetch => version >= 12,
            _ => false,
        };
        let mut head = WireWriter::default();
        head.i16(api.key()).i16(version).i32(self.correlation).string(&self.client);
        if is_flexible {
            head.no_tags();
        }
        let head = head.into_bytes();
        let mut frame = WireWriter::default();
        frame.i32((head.len() + body.len()) as i32).raw(&head).raw(body);
        // A broker waits for records before it begins to answer.
        let waits = if api == Api::Fetch { self.wait_max } else { Duration::ZERO };
        let (limit, stream) = (self.silence_max + waits, &mut self.stream);
        let mut len = [0; 4];
        in_time(limit, async {
            stream.write_all(&frame.into_bytes()).await?;
            stream.flush().await?;
            stream.read_exact(&mut len).await
        })
        .await?;
        let len = answer_length(len, self.answer_bytes_max)?;
        let answer = self.answer(len).await?;
        let mut reader = WireReader::new(&answer);
        if reader.i32()? != self.correlation {
            return Err(BrokerFailure::Malformed("an answer belongs to another request"));
        }
        if is_flexible {
            reader.skip_tags()?;
        }
        let start = reader.position();
        Ok(Bytes::from(answer).slice(start..))
    }

    /// Reads an answer of `len` bytes. It may take long as long as something comes.
    async fn answer(&mut self, len: usize) -> Result<Vec<u8>, BrokerFailure> {
        let mut answer = Vec::new();
        let mut body = (&mut self.stream).take(len as u64);
        while answer.len() < len {
            if answer.len() == answer.capacity() {
                // Room for twice as much, and never for more than all.
                answer.reserve_exact((len - answer.len()).min(answer.len().max(ROOM_BYTES)));
            }
            if in_time(self.silence_max, body.read_buf(&mut answer)).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(answer)
    }

    /// Asks which versions the broker speaks, and keeps the greatest of each that this client
    /// speaks too.
    async fn ask_versions(&mut self, properties: &ClientProperties) -> Result<(), BrokerFailure> {
        let (_, version) = Api::Versions.versions();
        let answer = self.ask(Api::Versions, version, &[]).await.map_err(|failure| {
            // A broker that wants TLS or SASL closes the connection without a word.
            let is_closed = matches!(&failure, BrokerFailure::Lost(error)
                if error.kind() == io::ErrorKind::UnexpectedEof
                    || error.kind() == io::ErrorKind::ConnectionReset);
            if is_closed && properties.tls.is_none() {
                let message = "it closed the connection at the first request; if it wants TLS, \
                               give --kafka-config security.protocol=SSL or SASL_SSL";
                return BrokerFailure::Lost(io::Error::new(
                    io::ErrorKind::ConnectionReset,
                    message,
                ));
            }
            failure
        })?;
        let mut reader = WireReader::new(&answer);
        ErrorCode::check(reader.i16()?)?;
        for _ in 0..reader.array()? {
            self.spoken.push((reader.i16()?, reader.i16()?, reader.i16()?));
        }
        Ok(())
    }

    /// Authenticates the user.
    ///
    /// Fails with `Refused` if the broker has no such mechanism or does not accept the proof.
    async fn authenticate(&mut self, credentials: &SaslCredentials) -> Result<(), BrokerFailure> {
        let mechanism = credentials.mechanism.name();
        let mut body = WireWriter::default();
        body.string(mechanism);
        let version = self.version(Api::SaslHandshake)?;
        let answer = self.ask(Api::SaslHandshake, version, &body.into_bytes()).await?;
        let mut reader = WireReader::new(&answer);
        let code = ErrorCode(reader.i16()?);
        if code == ErrorCode::UNSUPPORTED_SASL_MECHANISM {
            let known =
                (0..reader.array()?).map(|_| reader.string()).collect::<Result<Vec<_>, _>>()?;
            return Err(BrokerFailure::Refused(format!(
                "the broker does not support sasl.mechanism={mechanism}; it supports {}",
                known.join(", ")
            )));
        }
        ErrorCode::check(code.0)?;
        let version = self.version(Api::SaslAuthenticate)?;
        let mut conversation = Conversation::new(credentials);
        let mut challenge = Vec::new();
        while let Some(message) = conversation.answer(&challenge)? {
            let mut body = WireWriter::default();
            body.bytes(&message);
            let answer = self.ask(Api::SaslAuthenticate, version, &body.into_bytes()).await?;
            let mut reader = WireReader::new(&answer);
            let (code, text) = (ErrorCode(reader.i16()?), reader.string()?);
            if code == ErrorCode::SASL_AUTHENTICATION_FAILED {
                return Err(BrokerFailure::Refused(format!(
                    "the broker refuses user {:?}: {text}",
                    credentials.username
                )));
            }
            ErrorCode::check(code.0)?;
            challenge = reader.bytes()?.to_vec();
        }
        Ok(())
    }
}

/// Returns the most bytes of an answer: what a fetch asks for, or one batch that is larger.
fn answer_bytes_max(properties: &ClientProperties) -> usize {
    let fetch = &properties.fetch;
    fetch.message_bytes_max.max(fetch.bytes_max as usize) + ANSWER_HEAD_BYTES
}

/// Waits for a step of a request, which must happen within `limit`.
async fn in_time<T>(
    limit: Duration,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, BrokerFailure> {
    match timeout(limit, step).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(timed_out(limit)),
    }
}

/// Takes the length of an answer for what it is, or for the words of another protocol.
fn answer_length(bytes: [u8; 4], most: usize) -> Result<usize, BrokerFailure> {
    match bytes {
        // An alert of TLS: its type, and its version.
        [0x15, 0x03, ..] => Err(BrokerFailure::Refused(
            "the broker speaks TLS there; give --kafka-config security.protocol=SSL or SASL_SSL"
                .to_owned(),
        )),
        _ => match usize::try_from(i32::from_be_bytes(bytes)) {
            Ok(len) if (4..=most).contains(&len) => Ok(len),
            // The first bytes of other protocols are far greater lengths.
            Ok(len) if (most..1 << 30).contains(&len) => Err(BrokerFailure::TooLong(len)),
            _ => Err(BrokerFailure::Malformed("it does not answer as a Kafka broker does")),
        },
    }
}

/// Makes a connection a TLS connection.
async fn secured(
    address: &HostPort,
    connector: TlsConnector,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, BrokerFailure> {
    let name = ServerName::try_from(address.host.clone()).map_err(|_| {
        BrokerFailure::Refused(format!("{:?} is not a name that a certificate has", address.host))
    })?;
    connector.connect(name, stream).await.map_err(|error| {
        let refused = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match refused {
            Some(rustls::Error::InvalidCertificate(why)) => BrokerFailure::Refused(format!(
                "the certificate of {address} is refused: {why:?}; see --kafka-config \
                 ssl.ca.location"
            )),
            Some(rustls::Error::AlertReceived(alert)) => {
                BrokerFailure::Refused(format!("{address} refuses the TLS connection: {alert:?}"))
            }
            Some(rustls::Error::InvalidMessage(_)) => BrokerFailure::Refused(format!(
                "{address} does not speak TLS; see --kafka-config security.protocol"
            )),
            _ => BrokerFailure::Lost(error),
        }
    })
}

/// Returns the failure of an answer that did not come within `limit`.
fn timed_out(limit: Duration) -> BrokerFailure {
    let message = format!("no answer within {} s", limit.as_secs_f64());
    BrokerFailure::Lost(io::Error::new(io::ErrorKind::TimedOut, message))
}

#[cfg(test)]
mod tests {
    use super::super::client_properties::KafkaProperties;
    use super::*;

    #[test]
    fn slow_answer_is_no_lost_one() {
        let (limit, slowness) = (Duration::from_secs(2), Duration::from_millis(140));
        let (stream, mut broker) = tokio::io::duplex(1 << 10);
        let mut connection = BrokerConnection {
            stream: Box::new(stream),
            client: String::new(),
            silence_max: limit,
            wait_max: Duration::ZERO,
            answer_bytes_max: 100,
            correlation: 0,
            spoken: Vec::new(),
        };
        // All of it takes longer than nothing may come for.
        let mut frame = WireWriter::default();
        frame.i32(20).i32(1).raw(&[7; 16]);
        let answers = async {
            for byte in frame.into_bytes() {
                tokio::time::sleep(slowness).await;
                broker.write_all(&[byte]).await.expect("it is read");
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let (answer, ()) = runtime
            .expect("a runtime")
            .block_on(async { tokio::join!(connection.ask(Api::ListOffsets, 2, &[]), answers) });
        assert_eq!(answer.expect("it has come")[..], [7; 16]);
    }

    #[test]
    fn answer_above_the_limit_names_the_setting() {
        let mut properties = KafkaProperties::default();
        properties.add("receive.message.max.bytes=1048576").expect("a setting");
        properties.add("fetch.max.bytes=1048576").expect("a setting");
        let most = answer_bytes_max(&properties.check().expect("settings"));
        assert_eq!(answer_length((most as i32).to_be_bytes(), most).expect("it fits"), most);
        let long = answer_length((most as i32 + 1).to_be_bytes(), most).expect_err("too long");
        assert!(long.to_string().contains("receive.message.max.bytes"), "{long}");
        let http = answer_length(*b"HTTP", most).expect_err("no answer");
        assert!(matches!(http, BrokerFailure::Malformed(_)), "{http}");
    }
}
