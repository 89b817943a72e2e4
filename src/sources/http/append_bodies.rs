//! Appends bodies to the log, on the task that owns it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use tokio::sync::{mpsc, oneshot};

use super::super::log::{LogProducer, SourceLog};
use super::super::stop_signal::Stop;
use super::producer_id::ProducerId;
use super::receive_body::Received;
use super::request::PieceEnd;
use super::responses::Refusal;
use crate::error::Result;
use crate::journal::Durable;
use crate::lines::StreamEnd;

/// Bytes of the journal that a body may take beside its own: heads of records.
const RECORD_ROOM: u64 = 512 << 10;
/// A producer that has been silent for so long can be forgotten, in milliseconds: a day.
const SILENT_MS: u64 = 24 * 3600 * 1000;

/// A request to the log.
#[derive(Debug)]
pub enum Ask {
    /// Append lines. With `ends`, nothing more comes from anyone.
    Lines { body: Received, ends: bool },
    /// Append a piece of a producer's stream, which begins at `offset`.
    Piece { producer: ProducerId, offset: u64, end: PieceEnd, body: Received },
    /// Return the position that comes next in the stream of a producer.
    Next { producer: String },
    /// Check that the log has room for a body of so many bytes.
    Room { bytes: u64 },
}

/// A request that waits for one of two to take it: the task of the log, which carries it out,
/// or the server, which refuses it since it has waited for too long.
#[derive(Clone, Debug)]
pub struct OpenAsk(Arc<Mutex<Option<Ask>>>);

impl OpenAsk {
    /// Returns an ask that is not taken.
    pub fn new(ask: Ask) -> OpenAsk {
        OpenAsk(Arc::new(Mutex::new(Some(ask))))
    }

    /// Takes it; returns `None` if it was taken before.
    pub fn take(&self) -> Option<Ask> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A request to the log, and where its reply goes.
#[derive(Debug)]
pub struct LogRequest {
    /// The change that is asked for.
    pub ask: OpenAsk,
    /// Takes the answer when what it states is durable.
    pub reply: oneshot::Sender<Reply>,
}

/// The reply to a request.
#[derive(Debug)]
pub struct Reply {
    /// The position that comes next in the stream of the producer.
    pub next: u64,
    /// The tag of the producer that was asked for.
    pub tag: Option<String>,
    /// Resolves when all that the reply speaks of is durable; `None` without state.
    pub durable: Option<Durable>,
    /// The reason for which the request was not carried out.
    pub refusal: Option<Refusal>,
}

/// Appends bodies to the log, one after the other.
pub struct Appender<'a> {
    /// The log, which this task owns.
    log: &'a mut SourceLog,
    /// Ends the server when nothing more can come; `None` unless the source is read once.
    closing: Option<Stop>,
    /// Producers that have sent pieces in this run and whose stream goes on.
    open: BTreeSet<String>,
}

impl<'a> Appender<'a> {
    /// Returns what appends to `log`. With `closing`, the end of all streams ends the server.
    pub fn new(log: &'a mut SourceLog, closing: Option<Stop>) -> Appender<'a> {
        Appender { log, closing, open: BTreeSet::new() }
    }

    /// Carries out requests until none can come any more.
    ///
    /// # Errors
    ///
    /// Those of the log.
    pub async fn run(&mut self, mut requests: mpsc::Receiver<LogRequest>) -> Result<()> {
        while let Some(LogRequest { ask, reply }) = self.log.serve_during(requests.recv()).await? {
            let Some(ask) = ask.take() else { continue };
            let done = self.carry_out(ask).await?;
            // It fails if the client has gone, which will ask again.
            let _ = reply.send(done);
        }
        Ok(())
    }

    /// Does what a request asks for, and returns its answer.
    async fn carry_out(&mut self, ask: Ask) -> Result<Reply> {
        let mut tag = None;
        let done = match ask {
            Ask::Room { bytes } => self.check_room(bytes)?.map(|()| 0),
            Ask::Next { producer } => {
                let known = self.known(&producer);
                tag = known.and_then(|(name, _)| ProducerId::tag_of(name));
                Ok(self.next(&producer))
            }
            Ask::Lines { body, ends } => self.lines(&body).await?.map(|()| {
                self.note_end(ends);
                0
            }),
            Ask::Piece { producer, offset, end, body } => {
                self.piece(&producer, offset, end, &body).await?
            }
        };
        let durable = self.log.durable();
        Ok(match done {
            Ok(next) => Reply { next, tag, durable, refusal: None },
            Err(refusal) => Reply { next: 0, tag, durable, refusal: Some(refusal) },
        })
    }

    /// Refuses a body that the journal has no room for as a whole, so that no append waits with a
    /// part of it for the disk.
    fn check_room(&mut self, bytes: u64) -> Result<Result<(), Refusal>> {
        if self.log.make_room(bytes + RECORD_ROOM)? {
            return Ok(Ok(()));
        }
        let message = "the journal is full until an epoch is committed (--journal-max), or its \
                       disk is full";
        Ok(Err(Refusal::later(message)))
    }

    /// Returns the producer with this id, and its name in the log.
    fn known(&self, id: &str) -> Option<(&[u8], &LogProducer)> {
        // A tag follows the id in the name.
        let (name, known) = self.log.producer_from(id.as_bytes())?;
        (ProducerId::id_of(name) == id.as_bytes()).then_some((name, known))
    }

    /// Returns the name in the log of a producer that is known.
    fn name(&self, id: &str) -> Vec<u8> {
        self.known(id).map_or_else(|| id.as_bytes().to_vec(), |(name, _)| name.to_vec())
    }

    /// Returns the offset of the next byte of a producer; 0 for one that is not known.
    fn next(&self, producer: &str) -> u64 {
        self.known(producer).map_or(0, |(_, known)| known.next)
    }

    /// Appends lines without a producer, as a connection of their own. If the run stops while the
    /// journal is full, the lines that are in it stay, and the body is refused.
    async fn lines(&mut self, body: &Received) -> Result<Result<(), Refusal>> {
        if body.len() == 0 {
            return Ok(Ok(()));
        }
        if let Err(refusal) = self.check_room(body.len() as u64)? {
            return Ok(Err(refusal));
        }
        let connection = self.log.open_connection();
        for piece in body.pieces(0) {
            if !self.log.append_acknowledged(connection, piece).await? {
                // The line that is cut off is no line.
                self.log.end_connection(connection, StreamEnd::Reset)?;
                return Ok(Err(Refusal::stopping()));
            }
        }
        self.log.end_connection(connection, StreamEnd::Fin)?;
        Ok(Ok(()))
    }

    /// Appends those bytes of a piece that are not in the log yet; returns the next position.
    async fn piece(
        &mut self,
        id: &ProducerId,
        offset: u64,
        end: PieceEnd,
        body: &Received,
    ) -> Result<Result<u64, Refusal>> {
        let producer = id.id();
        let next = self.next(producer);
        let bytes = body.len() as u64;
        let is_known = self.known(producer).is_some();
        if end == PieceEnd::Forget && !is_known && bytes == 0 {
            // The answer to the same request was lost.
            self.note_end(true);
            return Ok(Ok(offset));
        }
        let Some(known) = next.checked_sub(offset) else {
            return Ok(Err(Refusal::gap(next, offset)));
        };
        // An end is a record, too: the reserve of a full journal is for the ends of epochs.
        if (known < bytes || end != PieceEnd::Open)
            && let Err(refusal) = self.check_room(bytes.saturating_sub(known))?
        {
            return Ok(Err(refusal));
        }
        if known < bytes {
            let Some(connection) = self.open_producer(id)? else {
                return Ok(Err(too_many_producers()));
            };
            for piece in body.pieces(known as usize) {
                if !self.log.append_acknowledged(connection, piece).await? {
                    // What is in the log already is skipped when the piece is sent again.
                    return Ok(Err(Refusal::stopping()));
                }
            }
        }
        let next = self.next(producer);
        match end {
            PieceEnd::Open if bytes > 0 => drop(self.open.insert(producer.to_owned())),
            // The end of an older piece: the stream went on after it.
            _ if offset + bytes < next => {}
            PieceEnd::Open => {}
            PieceEnd::Line | PieceEnd::Forget => self.end_piece(producer, end)?,
        }
        Ok(Ok(next))
    }

    /// Ends the line of a producer, or forgets it, after a piece that asks for it.
    fn end_piece(&mut self, producer: &str, end: PieceEnd) -> Result<()> {
        if end == PieceEnd::Forget {
            self.log.forget_producer(&self.name(producer))?;
        } else {
            self.log.end_producer_line(&self.name(producer))?;
        }
        self.open.remove(producer);
        self.note_end(true);
        Ok(())
    }

    /// Opens a producer's stream. If there are too many, one that has been silent for a day is
    /// forgotten.
    fn open_producer(&mut self, id: &ProducerId) -> Result<Option<u64>> {
        if let Some((_, known)) = self.known(id.id()) {
            return Ok(Some(known.connection));
        }
        if let Some(connection) = self.log.open_producer(id.name())? {
            return Ok(Some(connection));
        }
        let producers = self.log.producers();
        let Some((name, oldest)) = producers.min_by_key(|(_, known)| known.last_epoch) else {
            return Ok(None);
        };
        if oldest.last_epoch + SILENT_MS > self.log.open_epoch() {
            return Ok(None);
        }
        let (name, next) = (name.to_vec(), oldest.next);
        tracing::warn!(
            "producer {} has been silent for a day and is forgotten, with {next} bytes, to make \
             room for another",
            String::from_utf8_lossy(ProducerId::id_of(&name))
        );
        self.log.forget_producer(&name)?;
        self.open.retain(|open| open.as_bytes() != ProducerId::id_of(&name));
        self.log.open_producer(id.name())
    }

    /// Notes that a sender has ended; with `closing`, the last one ends the server.
    fn note_end(&self, has_ended: bool) {
        if let Some(closing) = self.closing.as_ref().filter(|_| has_ended && self.open.is_empty()) {
            closing.stop();
        }
    }
}

/// Returns the refusal of a producer for which there is no room.
fn too_many_producers() -> Refusal {
    let message = "too many producers: their ids fill 64 KiB, and each was heard of within a day; \
                   end streams with end=forget, or use shorter ids";
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, message)
}
