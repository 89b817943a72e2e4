//! The task that finds out where the partitions of a topic lie, again and again.
//!
//! It asks one broker after the other until one answers, then the same one at intervals, and at
//! once when the consumer wants to know.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::super::host_port::HostPort;
use super::broker::BrokerConnection;
use super::client_properties::ClientProperties;
use super::error_kinds::{BrokerFailure, ErrorCode};
use super::requests::{TopicMetadata, metadata};
use crate::backoff::{Backoff, BackoffPolicy};

use std::time::Duration;

/// Pauses between attempts. A broker that restarts should be found soon.
const PAUSES: BackoffPolicy =
    BackoffPolicy::doubling(Duration::from_millis(100), Duration::from_secs(2));

/// Most rounds in which no broker's name resolves and none ever has: they are most likely misspelt.
const RESOLVE_ROUNDS: u32 = 4;

/// The findings of the scout.
#[derive(Debug)]
pub enum Scouted {
    /// Where the partitions lie.
    Topic(TopicMetadata),
    /// The topic is not there yet, or not any more.
    NoTopic,
    /// No broker answers; why the last one does not.
    Unreachable { address: HostPort, failure: String },
    /// The names of the brokers do not resolve and never have.
    Unresolved { address: HostPort, failure: String },
    /// A broker refuses: a retry cannot help unless a setting is changed.
    Refused { address: HostPort, failure: String },
}

/// Asks where the partitions of a topic lie.
#[derive(Debug)]
pub struct Scout {
    /// The brokers that were given, which are asked in turn.
    bootstrap: Vec<HostPort>,
    /// The name of the topic.
    topic: String,
    /// The settings of the client.
    properties: ClientProperties,
    /// Asks for an answer at once.
    wanted: Arc<Notify>,
    /// Takes what was found.
    found: mpsc::Sender<Scouted>,
    /// Brokers that an answer named.
    known: Vec<HostPort>,
    /// True if the name of a broker had an address in this run: a later failure of DNS is
    /// transient.
    has_resolved: bool,
    /// Rounds in which no name had an address, in a row.
    unresolved_rounds: u32,
}

impl Scout {
    /// Returns a scout that looks at once, then when `wanted` is notified or the metadata is old.
    pub fn new(
        bootstrap: Vec<HostPort>,
        topic: String,
        properties: ClientProperties,
        wanted: Arc<Notify>,
        found: mpsc::Sender<Scouted>,
    ) -> Scout {
        let known = Vec::new();
        Scout {
            bootstrap,
            topic,
            properties,
            wanted,
            found,
            known,
            has_resolved: false,
            unresolved_rounds: 0,
        }
    }

    /// Asks until the consumer has gone.
    pub async fn run(mut self) {
        let mut pauses = PAUSES.start();
        loop {
            let mut brokers = self.bootstrap.clone();
            let others = self.known.iter().filter(|known| !self.bootstrap.contains(known));
            brokers.extend(others.cloned());
            let mut last = None;
            for address in brokers {
                match self.ask(&address, &mut pauses).await {
                    Ok(()) => return,
                    // A refusal matters more than a broker that is down.
                    Err(_) if matches!(last, Some((_, BrokerFailure::Refused(_)))) => {}
                    Err(failure) => last = Some((address, failure)),
                }
                if self.found.is_closed() {
                    return;
                }
            }
            let Some((address, failure)) = last else { return };
            let scouted = self.report(address, failure);
            if self.found.send(scouted).await.is_err() {
                return;
            }
            tokio::time::sleep(pauses.next_pause()).await;
        }
    }

    /// Asks one broker for as long as it answers. Returns without an error when the consumer has
    /// gone.
    async fn ask(&mut self, address: &HostPort, pauses: &mut Backoff) -> Result<(), BrokerFailure> {
        let opened = BrokerConnection::open(address, &self.properties).await;
        self.has_resolved |= !matches!(opened, Err(BrokerFailure::Unresolved(_)));
        let mut connection = opened?;
        loop {
            let (scouted, is_settled) = match metadata(&mut connection, &self.topic).await {
                Ok(topic) => {
                    self.known = topic.brokers.iter().map(|(_, address)| address.clone()).collect();
                    let has_leaders = topic.partitions.iter().all(|known| known.leader >= 0);
                    (Scouted::Topic(topic), has_leaders)
                }
                Err(BrokerFailure::Code(
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::LEADER_NOT_AVAILABLE,
                )) => (Scouted::NoTopic, false),
                Err(failure) => return Err(failure),
            };
            if self.found.send(scouted).await.is_err() {
                return Ok(());
            }
            let pause = pauses.next_pause();
            if is_settled {
                tokio::select! {
                    () = tokio::time::sleep(self.properties.metadata_age_max) => pauses.reset(),
                    () = self.wanted.notified() => tokio::time::sleep(pause).await,
                    () = self.found.closed() => return Ok(()),
                }
            } else {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Returns the report of a failure, and decides if it can pass by itself.
    fn report(&mut self, address: HostPort, failure: BrokerFailure) -> Scouted {
        let text = failure.to_string();
        match failure {
            BrokerFailure::Unresolved(_) if !self.has_resolved => {
                self.unresolved_rounds += 1;
                if self.unresolved_rounds >= RESOLVE_ROUNDS {
                    return Scouted::Unresolved { address, failure: text };
                }
            }
            BrokerFailure::Refused(_) => return Scouted::Refused { address, failure: text },
            BrokerFailure::Code(code) if code.is_refusal() => {
                return Scouted::Refused { address, failure: text };
            }
            _ => self.unresolved_rounds = 0,
        }
        Scouted::Unreachable { address, failure: text }
    }
}
