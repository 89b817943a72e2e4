//! Failures of a request to a broker.

use std::fmt;
use std::io;

/// The reason why a request to a broker has no result.
#[derive(Debug)]
pub enum BrokerFailure {
    /// The broker cannot be reached, or the connection was lost.
    Lost(io::Error),
    /// The name of the broker does not resolve.
    Unresolved(io::Error),
    /// An answer has so many bytes, more than the settings allow.
    TooLong(usize),
    /// The broker does not speak as Kafka does.
    Malformed(&'static str),
    /// The broker, or its certificate, refuses the settings: a second attempt does not help unless
    /// a setting is changed.
    Refused(String),
    /// The broker answered with an error code.
    Code(ErrorCode),
}

impl fmt::Display for BrokerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerFailure::Lost(error) => write!(f, "{error}"),
            BrokerFailure::Unresolved(error) => write!(f, "its name does not resolve: {error}"),
            BrokerFailure::TooLong(bytes) => write!(
                f,
                "an answer of {bytes} bytes is too long; allow larger batches with --kafka-config \
                 receive.message.max.bytes"
            ),
            BrokerFailure::Malformed(what) => f.write_str(what),
            BrokerFailure::Refused(why) => f.write_str(why),
            BrokerFailure::Code(code) => write!(f, "{code}"),
        }
    }
}

impl From<io::Error> for BrokerFailure {
    fn from(error: io::Error) -> Self {
        BrokerFailure::Lost(error)
    }
}

/// An error code of Kafka's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(pub(super) i16);

impl ErrorCode {
    /// The offset is not in the log of the partition: retention has removed it, or it is in the
    /// future.
    pub const OFFSET_OUT_OF_RANGE: ErrorCode = ErrorCode(1);
    /// The broker does not know the topic, or does not lead the partition any more.
    pub const UNKNOWN_TOPIC_OR_PARTITION: ErrorCode = ErrorCode(3);
    /// The partition is between two leaders.
    pub const LEADER_NOT_AVAILABLE: ErrorCode = ErrorCode(5);
    /// The name of the topic breaks a rule.
    pub const INVALID_TOPIC: ErrorCode = ErrorCode(17);
    /// The user may not read the topic.
    pub const TOPIC_AUTHORIZATION_FAILED: ErrorCode = ErrorCode(29);
    /// The broker does not have the mechanism that was asked for.
    pub const UNSUPPORTED_SASL_MECHANISM: ErrorCode = ErrorCode(33);
    /// User or password are wrong.
    pub const SASL_AUTHENTICATION_FAILED: ErrorCode = ErrorCode(58);

    /// Returns an error unless the code states success.
    pub fn check(code: i16) -> Result<(), BrokerFailure> {
        if code == 0 { Ok(()) } else { Err(BrokerFailure::Code(ErrorCode(code))) }
    }

    /// Returns true if a retry cannot help unless rights or settings are changed.
    pub fn is_refusal(self) -> bool {
        [Self::TOPIC_AUTHORIZATION_FAILED, Self::INVALID_TOPIC, Self::SASL_AUTHENTICATION_FAILED]
            .contains(&self)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            1 => "the offset is out of range",
            2 => "the broker found a damaged record",
            3 => "the topic or partition is not there",
            5 => "the partition has no leader",
            6 => "the broker is not the leader of the partition any more",
            7 => "the broker did not answer in time",
            9 => "the replica is not available",
            17 => "the name of the topic is not valid",
            29 => "the user may not read the topic",
            31 => "the user may not use the cluster",
            33 => "the broker does not support this sasl.mechanism",
            35 => "the broker is too old or too new for this version",
            56 => "the broker's disk failed",
            58 => "the user or the password is wrong",
            74 | 75 => "the leader of the partition is changing",
            100 | 103 => {
                "the broker knows no topic of this id: it was deleted, or is being created"
            }
            code => return write!(f, "error {code} of the broker"),
        };
        write!(f, "{text} (error {})", self.0)
    }
}
