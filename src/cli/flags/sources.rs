//! Flags of the sources: where lines come from, and how long one may be.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::parse_values::{bytes, choice, duration, trimmed};
use crate::sources::{KafkaStart, ListenSettings, TlsFiles};

/// Where lines come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source")]
pub struct SourceFlags {
    /// Connect to HOST:PORT and read lines; can be repeated. Source k belongs to process k modulo
    /// the number of processes, unless I= gives it to process I
    #[arg(long, value_name = "[I=]HOST:PORT", env = "WORDTIDE_CONNECT", value_delimiter = ',',
        value_parser = trimmed)]
    pub connect: Vec<String>,

    /// Listen on ADDR:PORT and read lines from all that connect; can be repeated. `systemd` takes
    /// the socket named listen that the service manager has opened
    #[arg(long, value_name = "[I=]ADDR:PORT", env = "WORDTIDE_LISTEN", value_delimiter = ',',
        value_parser = trimmed)]
    pub listen: Vec<String>,

    /// Most connections at a time of each source that listens, up to 8192
    #[arg(long, value_name = "COUNT", default_value_t = ListenSettings::CONNECTIONS_MAX_DEFAULT,
        value_parser = connections, env = "WORDTIDE_MAX_CONNECTIONS")]
    pub max_connections: usize,

    /// Certificate of --listen and --listen-http, in PEM: senders speak TLS
    #[arg(long, value_name = "FILE", env = "WORDTIDE_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", env = "WORDTIDE_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// Read a file once, from its beginning; can be repeated
    #[arg(long, value_name = "PATH", env = "WORDTIDE_FILE")]
    pub file: Vec<PathBuf>,

    /// Serve HTTP on ADDR:PORT: senders post lines to http://ADDR:PORT/lines; can be repeated
    #[arg(long, value_name = "[I=]ADDR:PORT", env = "WORDTIDE_LISTEN_HTTP", value_delimiter = ',',
        value_parser = trimmed)]
    pub listen_http: Vec<String>,

    /// File with the token that senders of --listen-http must know, and other hosts that read
    /// --http; needed for --listen-http at an address that other hosts can reach
    #[arg(long, value_name = "FILE", env = "WORDTIDE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Largest body that --listen-http takes, as it is sent and decompressed
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = bytes,
        env = "WORDTIDE_MAX_BODY_BYTES")]
    pub max_body_bytes: usize,

    /// Read a topic of Apache Kafka, each record a line: HOST:PORT[,HOST:PORT…]/TOPIC; can be
    /// repeated. Its partitions are spread over all processes
    #[arg(long, value_name = "BROKERS/TOPIC", env = "WORDTIDE_KAFKA", value_parser = trimmed)]
    pub kafka: Vec<String>,

    /// Where a topic that was never read is begun; latest unless --once is given
    #[arg(long, value_name = "PLACE", env = "WORDTIDE_KAFKA_START",
        value_parser = choice(&[("latest", KafkaStart::Latest), ("earliest", KafkaStart::Earliest)]))]
    pub kafka_start: Option<KafkaStart>,

    /// Setting of the Kafka client, by the name that Kafka's own clients have for it; can be
    /// repeated. Passwords are given by sasl.password.file, or in the variable
    #[arg(long, value_name = "KEY=VALUE", env = "WORDTIDE_KAFKA_CONFIG", value_delimiter = ',',
        value_parser = trimmed)]
    pub kafka_config: Vec<String>,

    /// Read standard input
    #[arg(long, env = "WORDTIDE_STDIN")]
    pub stdin: bool,

    /// Read the files that appear in a folder, or below oss://BUCKET/PREFIX or s3://BUCKET/PREFIX,
    /// each once; can be repeated
    #[arg(long, value_name = "DIR|URL", env = "WORDTIDE_WATCH")]
    pub watch: Vec<String>,

    /// Read the files that are there at the first start of --watch, too
    #[arg(long, env = "WORDTIDE_WATCH_EXISTING")]
    pub watch_existing: bool,

    /// How often the place of --watch is listed; a folder also reports new files at once
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration,
        env = "WORDTIDE_WATCH_EVERY")]
    pub watch_every: Duration,

    /// Finish when the source closes, or when all senders that came have gone
    #[arg(long, env = "WORDTIDE_ONCE")]
    pub once: bool,

    /// Longest line; a longer one is cut at a space
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = bytes,
        env = "WORDTIDE_MAX_LINE_BYTES")]
    pub max_line_bytes: usize,

    /// Longest word; a longer one is not counted, and a warning says so
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = bytes,
        env = "WORDTIDE_MAX_WORD_BYTES")]
    pub max_word_bytes: usize,
}

/// Reads `--max-connections`.
fn connections(text: &str) -> Result<usize, String> {
    let most = ListenSettings::CONNECTIONS_MAX;
    let count = text.trim().parse().ok().filter(|count| (1..=most).contains(count));
    count.ok_or_else(|| format!("give 1 to {most}"))
}

impl SourceFlags {
    /// Returns the files of the listeners' certificate, if they were named.
    pub fn tls(&self) -> Option<TlsFiles> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(TlsFiles { cert, key })
    }

    /// Returns true if no source was named.
    pub fn is_none(&self) -> bool {
        self.connect.is_empty()
            && self.listen.is_empty()
            && self.file.is_empty()
            && self.watch.is_empty()
            && self.listen_http.is_empty()
            && self.kafka.is_empty()
            && !self.stdin
    }
}
