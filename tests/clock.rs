//! A wall clock that jumps, under a run that keeps state: names only grow, and no line suffers.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use wordtide::dataflows::network_wordcount;
use wordtide::internals::epoch::Clock;
use wordtide::internals::outputs::format::Format;
use wordtide::job::{Commits, StatePlace};
use wordtide::{Job, Settings, Source, Target};

use crate::oracle;
use crate::rig::{Output, Server};

const SECOND: Duration = Duration::from_secs(1);
/// Some day, not at the end of an epoch.
const START_MS: i64 = 1_795_345_210_300;

/// A clock that the test moves.
#[derive(Clone, Debug)]
pub(crate) struct HandClock {
    wall_ms: Arc<Mutex<i64>>,
    monotonic: watch::Sender<Duration>,
}

impl HandClock {
    /// Returns a clock that stands at a time in milliseconds.
    pub(crate) fn at(wall_ms: i64) -> HandClock {
        let wall_ms = Arc::new(Mutex::new(wall_ms));
        HandClock { wall_ms, monotonic: watch::Sender::new(Duration::ZERO) }
    }

    /// Sets the wall clock, as an administrator or a leap second does.
    pub(crate) fn jump(&self, by_ms: i64) {
        *self.wall_ms.lock().expect("nobody panicked") += by_ms;
    }

    /// Lets two seconds go by: an epoch lasts that long at most.
    fn tick(&self) {
        self.pass(2_000);
    }

    /// Lets so much time go by, as the wall clock has it, and two seconds in truth.
    pub(crate) fn pass(&self, wall_ms: i64) {
        self.jump(wall_ms);
        self.monotonic.send_modify(|now| *now += 2 * SECOND);
    }
}

impl Clock for HandClock {
    fn wall_ms(&self) -> u64 {
        *self.wall_ms.lock().expect("nobody panicked") as u64
    }

    fn monotonic(&self) -> Duration {
        *self.monotonic.borrow()
    }

    fn wait_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let mut now = self.monotonic.subscribe();
        Box::pin(async move { drop(now.wait_for(|now| *now >= deadline).await) })
    }
}

fn start(dir: &Path, server: &Server, clock: &HandClock) -> Job {
    let address = format!("127.0.0.1:{}", server.port());
    Job::builder()
        .source(Source::Connect(address.parse().expect("an address")))
        .dataflow("network_wordcount", network_wordcount::dataflow)
        .to(Target::Local { root: dir.join("out"), prefix: "c".to_owned() })
        .format(Format::Tsv)
        .state(StatePlace::Dir(dir.join("state")))
        .settings(Settings { interval: SECOND, ..Settings::default() })
        .clock(Arc::new(clock.clone()))
        .start()
        .expect("a job")
}

/// Lets time go by until a line is committed; notes the names of the epochs on the way.
fn until_a_line(clock: &HandClock, commits: &mut Commits, epochs: &mut Vec<u64>) {
    loop {
        clock.tick();
        let committed = commits.next().expect("an epoch was due");
        epochs.push(committed.epoch);
        if committed.tally.lines > 0 {
            return;
        }
    }
}

#[test]
fn jumping_clock_counts_every_line_once() {
    const HOUR: i64 = 3_600_000;
    let jumps = [-24 * HOUR, -HOUR, -1_000, 1_000, HOUR, 24 * HOUR, 999, -999, -HOUR];
    let dir = tempfile::tempdir().expect("a directory");
    let (clock, server) = (HandClock::at(START_MS), Server::new());
    let (mut epochs, mut sent) = (Vec::new(), Vec::new());
    // Every other jump falls into the time between two runs.
    for between in [false, true] {
        let mut job = start(dir.path(), &server, &clock);
        let (mut commits, mut peer) = (job.committed(), server.accept());
        for (n, jump) in jumps.iter().enumerate() {
            if between {
                job.stop();
                drop(peer);
                job.wait().expect("all committed");
                epochs.extend(commits.map(|committed| committed.epoch));
                clock.jump(*jump);
                job = start(dir.path(), &server, &clock);
                (commits, peer) = (job.committed(), server.accept());
            } else {
                clock.jump(*jump);
            }
            let line = format!("{between} {n}\n");
            peer.send(&line);
            sent.extend_from_slice(line.as_bytes());
            until_a_line(&clock, &mut commits, &mut epochs);
        }
        job.stop();
        job.wait().expect("all committed");
        epochs.extend(commits.map(|committed| committed.epoch));
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    let gaps = epochs.windows(2).filter(|pair| pair[1] - pair[0] > 2_000).count();
    let forward = 2 * jumps.iter().filter(|jump| **jump > 0).count();
    assert!(gaps <= forward, "{gaps} names were skipped to: {epochs:?}");
    let output = Output::read(dir.path(), "out/c", None);
    assert!(output.uncommitted.is_empty(), "{:?}", output.uncommitted);
    assert_eq!(output.counts(), oracle::count(&sent, oracle::words_python));
}
