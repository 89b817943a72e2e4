//! The control links as a job uses them: it sends messages, agrees on decisions and ends.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::bringup::Sockets;
use super::common_decisions::outcome_of;
use super::control_frames::{Frame, Message};
use super::control_links::{ControlLinks, LinkState, SEND_TIMEOUT};
use super::inbox::Inbox;
use super::loss_cause::{Loss, seconds};
use super::process_figures::TakeFigures;
use super::settings::ClusterSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::supervise;

/// Time between two log lines about a wait for the decision of others.
const REMIND: Duration = Duration::from_secs(60);

/// The control links of this process. Clones share the links. Dropping the last clone closes them,
/// which may take two heartbeat intervals.
#[derive(Clone, Debug)]
pub struct Control(Arc<LinkThreads>);

/// The links and their threads. Dropped with the last [`Control`], because the threads hold only
/// the `ControlLinks`.
#[derive(Debug)]
struct LinkThreads {
    /// The links of this process.
    links: Arc<ControlLinks>,
    /// One thread for each link, joined at the end.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Control {
    /// Starts one thread for each link. A panic of such a thread ends the cluster.
    ///
    /// Fails with `Failed` if a socket cannot be set up or a thread cannot be started.
    pub fn start(settings: &ClusterSettings, sockets: &Sockets) -> Result<(Control, Inbox)> {
        let io = |cause: io::Error| {
            Error::new(ErrorKind::Failed, format!("cannot start a control link: {cause}"))
                .cause(cause)
        };
        let (links, inbox) = ControlLinks::open(settings, sockets).map_err(io)?;
        let links = Arc::new(links);
        let control =
            Control(Arc::new(LinkThreads { links: Arc::clone(&links), threads: Mutex::default() }));
        for peer in links.peers() {
            let (attending, losing) = (Arc::clone(&links), Arc::clone(&links));
            let work = move || {
                attending.attend(peer);
                Ok(())
            };
            let thread = supervise::thread(
                &format!("control-{peer}"),
                move |error| {
                    let own = losing.settings.process;
                    losing.lose(Loss::new(&losing.settings, own, own, &error.to_string()));
                },
                work,
            )?;
            control.0.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok((control, inbox))
    }

    /// Sends a message to one process. A message to this process arrives in its own inbox.
    ///
    /// A message above 32 KiB is sent in pieces, and the call waits until the peer has taken them.
    /// It blocks the thread, so async code must not call it.
    ///
    /// # Errors
    ///
    /// `PeerLost` once the cluster is over; `Failed` if the message is above
    /// [`MESSAGE_BYTES_MAX`](super::MESSAGE_BYTES_MAX).
    pub fn send(&self, to: usize, message: Message) -> Result<()> {
        self.check()?;
        let links = &self.0.links;
        if to == links.settings.process {
            links.deliver(to, message);
            return Ok(());
        }
        links.send(std::iter::once(to), &Frame::Message(message))
    }

    /// Sends a message to every other process.
    ///
    /// # Errors
    ///
    /// As [`Control::send`].
    pub fn broadcast(&self, message: Message) -> Result<()> {
        self.check()?;
        let links = &self.0.links;
        links.send(links.peers(), &Frame::Message(message))
    }

    /// Calls `take` with the figures that other processes send from now on. Only the first call
    /// counts.
    pub fn on_figures(&self, take: TakeFigures) {
        self.0.links.figures.set(take);
    }

    /// Sends figures to process 0 and returns when it has taken them, or when the cluster is over.
    /// It blocks the thread, so async code must not call it.
    ///
    /// # Errors
    ///
    /// As [`Control::send`].
    pub fn send_figures(&self, figures: Vec<u8>) -> Result<()> {
        self.check()?;
        self.0.links.transmit_pieces(0, &Frame::Figures(figures).body());
        Ok(())
    }

    /// Makes one decision for the cluster. Every process calls this with its facts. Process 0
    /// merges them in order of index, and every process returns its answer or its error.
    ///
    /// # Errors
    ///
    /// The error of `merge`, in every process. `PeerLost` if the cluster ends or `timeout` passes.
    /// `Failed` if facts or answer are above [`MESSAGE_BYTES_MAX`](super::MESSAGE_BYTES_MAX).
    pub fn agree(
        &self,
        facts: Vec<u8>,
        timeout: Duration,
        merge: impl FnOnce(Vec<Vec<u8>>) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let links = &self.0.links;
        let round = links.state().rounds.round;
        if links.settings.process != 0 {
            links.send(std::iter::once(0), &Frame::Facts { round, bytes: facts })?;
            let answered = |state: &LinkState| state.rounds.is_answered();
            return self.wait(timeout, answered, |state| state.rounds.end_with_answer())?;
        }
        let peers = links.peers().count();
        let complete = |state: &LinkState| state.rounds.has_facts_of(peers);
        let others = self.wait(timeout, complete, |state| state.rounds.end_with_facts())?;
        let merged = merge(std::iter::once(facts).chain(others).collect());
        if peers > 0 {
            let outcome = outcome_of(&merged);
            links.send(links.peers(), &Frame::Answer { round, outcome })?;
        }
        merged
    }

    /// Waits until `ready`, then applies `then` to the state.
    ///
    /// Fails with the loss if the cluster ends, with `PeerLost` if `timeout` passes, and with
    /// `Stopped` if the wait was interrupted.
    fn wait<T>(
        &self,
        timeout: Duration,
        ready: impl Fn(&LinkState) -> bool,
        then: impl FnOnce(&mut LinkState) -> T,
    ) -> Result<T> {
        let links = &self.0.links;
        let waiting =
            |state: &mut LinkState| state.cause.is_none() && !state.is_interrupted && !ready(state);
        let began = Instant::now();
        let mut state = links.state();
        loop {
            let left = timeout.saturating_sub(began.elapsed());
            let waited = links.changed().wait_timeout_while(state, left.min(REMIND), waiting);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if ready(&state) {
                return Ok(then(&mut state));
            }
            let is_over = state.cause.is_some() || state.is_interrupted;
            if is_over || began.elapsed() >= timeout {
                break;
            }
            let for_whom = if links.settings.process == 0 { "all others" } else { "process 0" };
            tracing::info!("waiting for {for_whom} to open what former runs left");
        }
        Err(match &state.cause {
            Some(loss) => loss.clone().into(),
            None if state.is_interrupted => {
                Error::new(ErrorKind::Stopped, "stopped while the processes decided together")
            }
            None => {
                let message = format!("the processes did not agree in {} s", seconds(timeout));
                Error::new(ErrorKind::PeerLost, message).hint("see --start-timeout")
            }
        })
    }

    /// Waits until another process asks for a stop. Returns its index and its reason.
    pub async fn stop_asked(&self) -> (usize, String) {
        self.0.links.stop_asked().await
    }

    /// Returns true if another process has asked for a stop.
    pub fn is_stop_asked(&self) -> bool {
        self.0.links.stop_asked.borrow().is_some()
    }

    /// Ends every wait in [`Control::agree`] with an error of kind `Stopped`, now and later.
    pub fn interrupt(&self) {
        self.0.links.state().is_interrupted = true;
        self.0.links.changed().notify_all();
    }

    /// Allows waits in [`Control::agree`] again, after [`Control::interrupt`].
    pub fn resume(&self) {
        self.0.links.state().is_interrupted = false;
    }

    /// Ends the cluster because this process cannot go on. Every process reports `cause` and the
    /// index of this one. An earlier cause stays. Returns the first cause.
    pub fn fail(&self, cause: &str) -> Loss {
        let links = &self.0.links;
        let own = links.settings.process;
        let loss = Loss::new(&links.settings, own, own, cause);
        links.lose(loss.clone());
        self.cause_within(SEND_TIMEOUT).unwrap_or(loss)
    }

    /// Returns the first cause of the cluster's end, if the cluster is over.
    pub fn cause(&self) -> Option<Loss> {
        self.0.links.state().cause.clone()
    }

    /// Waits for the first cause and returns it, or `None` after `timeout`. A panic of timely may
    /// come a moment before the cause.
    pub fn cause_within(&self, timeout: Duration) -> Option<Loss> {
        let links = &self.0.links;
        let waited = links
            .changed()
            .wait_timeout_while(links.state(), timeout, |state| state.cause.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.cause.clone()
    }

    /// Ends cleanly: sends BYE, waits for the BYE of the others (at most `timeout`) and closes the
    /// links.
    ///
    /// Called after the workers of this process and timely's guard are joined. From then on the end
    /// of a link is no loss.
    ///
    /// # Errors
    /// `PeerLost` if the cluster was over before.
    pub fn finish(&self, timeout: Duration) -> Result<()> {
        self.check()?;
        let links = &self.0.links;
        links.state().leaving.get_or_insert_with(Instant::now);
        links.send(links.peers(), &Frame::Bye)?;
        let waited = links
            .changed()
            .wait_timeout_while(links.state(), timeout, |state| state.gone.contains(&false));
        // The guard must go first: closing takes the same lock.
        drop(waited);
        self.0.close();
        Ok(())
    }

    /// Returns the links, which the other modules use to report a broken socket.
    pub fn links(&self) -> &Arc<ControlLinks> {
        &self.0.links
    }

    /// Fails with the first cause if the cluster is over.
    fn check(&self) -> Result<()> {
        match self.cause() {
            Some(loss) => Err(loss.into()),
            None => Ok(()),
        }
    }
}

impl LinkThreads {
    /// Closes the links and joins their threads.
    fn close(&self) {
        self.links.close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a control link's thread panicked");
            }
        }
    }
}

impl Drop for LinkThreads {
    fn drop(&mut self) {
        self.close();
    }
}
