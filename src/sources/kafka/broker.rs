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
use super::super::host::HostPort;
use super::failure::{BrokerFailure, ErrorCode};
use super::properties::{ClientProperties, Credentials};
use super::sasl::Conversation;
use super::wire::{WireReader, WireWriter};

/// Largest answer that is taken. A broker exceeds the limits of a fetch for one batch that is
/// larger than they are, but nobody has batches of this size.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Most bytes that are made room for before they arrive: a length may be no length at all.
const ROOM_BYTES: usize = 1 << 20;

/// A request of Kafka's protocol that is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Fetch,
    ListOffsets,
    Metadata,
    SaslHandshake,
    Versions,
    SaslAuthenticate,
}

impl Api {
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
            // From 4 on with aborted transactions; from 12 on flexible.
            Api::Fetch => (4, 11),
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
pub(super) struct BrokerConnection {
    stream: Box<dyn ByteStream>,
    client: String,
    request_timeout: Duration,
    correlation: i32,
    /// Lowest and highest version that the broker speaks, by the key of the request.
    spoken: Vec<(i16, i16, i16)>,
}

impl BrokerConnection {
    /// Connects to a broker and proves who the user is.
    ///
    /// # Errors
    ///
    /// `Lost` if it is out of reach, `Refused` if it refuses the credentials, its certificate is
    /// refused, or it does not speak what the settings say.
    pub(super) async fn open(
        address: &HostPort,
        properties: &ClientProperties,
    ) -> Result<BrokerConnection, BrokerFailure> {
        let opened = timeout(properties.request_timeout, Self::connect(address, properties));
        opened.await.unwrap_or_else(|_| Err(timed_out(properties.request_timeout)))
    }

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
            request_timeout: properties.request_timeout,
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
    pub(super) fn version(&self, api: Api) -> Result<i16, BrokerFailure> {
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
    /// `Lost` if there is no answer in time; `Malformed` if it is none.
    pub(super) async fn ask(
        &mut self,
        api: Api,
        version: i16,
        body: &[u8],
    ) -> Result<Bytes, BrokerFailure> {
        let limit = self.request_timeout;
        let answered = timeout(limit, self.exchange(api, version, body));
        answered.await.unwrap_or_else(|_| Err(timed_out(limit)))
    }

    async fn exchange(
        &mut self,
        api: Api,
        version: i16,
        body: &[u8],
    ) -> Result<Bytes, BrokerFailure> {
        self.correlation = self.correlation.wrapping_add(1);
        let is_flexible = api == Api::Metadata && version >= 9;
        let mut head = WireWriter::default();
        head.i16(api.key()).i16(version).i32(self.correlation).string(&self.client);
        if is_flexible {
            head.no_tags();
        }
        let head = head.into_bytes();
        let mut frame = WireWriter::default();
        frame.i32((head.len() + body.len()) as i32).raw(&head).raw(body);
        self.stream.write_all(&frame.into_bytes()).await?;
        self.stream.flush().await?;

        let mut len = [0; 4];
        self.stream.read_exact(&mut len).await?;
        let len = answer_length(len)?;
        let mut answer = Vec::with_capacity(len.min(ROOM_BYTES));
        let read = (&mut self.stream).take(len as u64).read_to_end(&mut answer).await?;
        if read < len {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
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

    async fn authenticate(&mut self, credentials: &Credentials) -> Result<(), BrokerFailure> {
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

/// Takes the length of an answer for what it is, or for the words of another protocol.
fn answer_length(bytes: [u8; 4]) -> Result<usize, BrokerFailure> {
    match bytes {
        // An alert of TLS: its type, and its version.
        [0x15, 0x03, ..] => Err(BrokerFailure::Refused(
            "the broker speaks TLS there; give --kafka-config security.protocol=SSL or SASL_SSL"
                .to_owned(),
        )),
        _ => match usize::try_from(i32::from_be_bytes(bytes)) {
            Ok(len) if (4..=ANSWER_BYTES_MAX).contains(&len) => Ok(len),
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

fn timed_out(limit: Duration) -> BrokerFailure {
    let message = format!("no answer within {} s", limit.as_secs_f64());
    BrokerFailure::Lost(io::Error::new(io::ErrorKind::TimedOut, message))
}
