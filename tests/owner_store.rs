//! Two jobs on one prefix of an object store: the second is refused, or fences the first.

use rustix::process::Signal;

use crate::rig::{Ended, Output, Rig, Running, Server, random, side_by_side};
use crate::store::oss_double::s3::S3_REGION;
use crate::store::oss_double::{Conditions, OssDouble};
use crate::store_program::{PREFIX, TO, oss, program, stored};

/// The kinds of stores that separate two jobs.
const STORES: [&str; 2] = ["oss", "s3"];

/// A bucket with jobs in it.
struct Bucket {
    rig: Rig,
    double: OssDouble,
    kind: &'static str,
}

impl Bucket {
    fn new(kind: &'static str) -> Bucket {
        Bucket { rig: Rig::new(), double: OssDouble::start(), kind }
    }

    /// Starts a job with this state that reads from `server`.
    fn start(&self, server: &Server, flags: &str) -> Running {
        self.run(&format!("{} {flags}", server.flag()))
    }

    fn run(&self, flags: &str) -> Running {
        let run = format!("run --interval 50ms --format tsv --parts 2 {flags}");
        match self.kind {
            "oss" => oss(&self.rig, &self.double, &format!("{run} {TO}")).start(),
            _ => {
                let endpoint = format!("--s3-endpoint http://{}", self.double.address);
                let to = format!("--to s3://demo/{PREFIX} --suffix txt");
                program(&self.rig, &format!("{run} --s3-region {S3_REGION} {endpoint} {to}"))
                    .start()
            }
        }
    }

    /// Reads the output back, each marker checked against its parts.
    fn output(&self) -> Output {
        stored(&self.rig, &self.double)
    }

    fn words(&self, word: &str) -> u64 {
        self.output().counts().get(word.as_bytes()).copied().unwrap_or(0)
    }
}

/// Fails unless the run ended because another is the owner, and names it.
fn fenced(ended: Ended, owner: &str) {
    ended.expect(78).says(&["output", &format!("process {owner} on"), "with state", "--to"]);
}

#[test]
fn second_job_is_refused_while_the_first_runs() {
    side_by_side(STORES.to_vec(), |kind| {
        let (bucket, first, second) = (Bucket::new(kind), Server::new(), Server::new());
        let a = bucket.start(&first, "--state a");
        let mut peer = first.accept();
        peer.send("mine\n");
        a.wait_for_lines(1);
        let owner = a.pid().to_string();
        bucket.rig.file("text", "theirs\n");
        let others = [bucket.start(&second, "--state b"), bucket.run("--file text --no-state")];
        others.into_iter().for_each(|other| fenced(other.end(), &owner));
        peer.send("mine\n");
        a.wait_for_lines(2);
        a.stop().expect(0);
        assert_eq!((bucket.words("mine"), bucket.words("theirs")), (2, 0), "{kind}");
        // It has given the prefix back: the next job need not wait.
        bucket.run("--file text --no-state").end().expect(0);
        assert_eq!(bucket.words("theirs"), 1, "{kind}");
    });
}

#[test]
fn one_of_two_that_start_together_is_refused() {
    side_by_side(STORES.to_vec(), |kind| {
        let (bucket, first, second) = (Bucket::new(kind), Server::new(), Server::new());
        let runs = [bucket.start(&first, "--state a"), bucket.start(&second, "--state b")];
        let [a, b] = runs;
        let (owner, server, other) = match a.lives_until("connected") {
            true => (a, &first, b),
            false => (b, &second, a),
        };
        fenced(other.end(), &owner.pid().to_string());
        server.accept().send("word\n");
        owner.wait_for_lines(1);
        owner.stop().expect(0);
        assert_eq!(bucket.words("word"), 1, "{kind}");
    });
}

#[test]
fn take_over_fences_the_owner() {
    side_by_side(STORES.to_vec(), |kind| {
        let (bucket, first, second) = (Bucket::new(kind), Server::new(), Server::new());
        let a = bucket.start(&first, "--state a");
        let mut peer = first.accept();
        peer.send("mine\n");
        a.wait_for_lines(1);
        let before = bucket.double.objects();
        let b = bucket.start(&second, "--state b --take-over");
        let mut other = second.accept();
        other.send("theirs\n");
        b.wait_for_lines(1);
        fenced(a.end(), &b.pid().to_string());
        let after = bucket.double.objects();
        let changed = before
            .iter()
            .find(|(key, body)| !key.contains("_wordtide/") && after.get(*key) != Some(*body));
        assert!(changed.is_none(), "{kind}: {:?} was changed", changed.map(|(key, _)| key));
        // A crash of the owner keeps its own restart out no longer than the start itself.
        b.signal(Signal::KILL);
        b.end();
        let again = bucket.start(&second, "--state b");
        second.accept().send("theirs\n");
        again.wait_for_lines(1);
        again.stop().expect(0);
        assert_eq!((bucket.words("mine"), bucket.words("theirs")), (1, 2), "{kind}");
    });
}

#[test]
fn paused_owner_wakes_up_fenced() {
    side_by_side(STORES.to_vec(), |kind| {
        let (bucket, first, second) = (Bucket::new(kind), Server::new(), Server::new());
        let a = bucket.start(&first, "--state a");
        let mut peer = first.accept();
        peer.send("mine\n");
        a.wait_for_lines(1);
        assert!(a.halt(), "it runs");
        peer.send("late\n");
        // It is not renewed, so the other takes the prefix without `--take-over`.
        let b = bucket.start(&second, "--state b");
        second.accept().send("theirs\n");
        b.wait_for_lines(1);
        a.signal(Signal::CONT);
        fenced(a.end(), &b.pid().to_string());
        b.stop().expect(0);
        let output = (bucket.words("mine"), bucket.words("theirs"), bucket.words("late"));
        assert_eq!(output, (1, 1, 0), "{kind}");
    });
}

#[test]
fn schedules_at_random_never_mix_an_epoch() {
    side_by_side((0..4).collect(), |seed: u64| {
        let bucket = Bucket::new(STORES[seed as usize % 2]);
        let mut random_state = seed;
        let mut below = |n: u64| random(&mut random_state) % n;
        let (mut sent, mut states, mut peers) = (0, 0, Vec::new());
        let mut server = Server::new();
        let mut owner = bucket.start(&server, "--state state-0");
        for _ in 0..3 {
            let mut peer = server.accept();
            let lines = 1 + below(3);
            (0..lines).for_each(|_| peer.send("word\n"));
            peers.push(peer);
            sent += lines;
            owner.wait_for_lines(lines);
            if below(2) == 0 {
                // The same job again.
                owner.signal(if below(2) == 0 { Signal::TERM } else { Signal::KILL });
                owner.end();
                owner = bucket.start(&server, &format!("--state state-{states}"));
                continue;
            }
            let is_paused = below(2) == 0 && owner.halt();
            states += 1;
            server = Server::new();
            let flags = format!("--state state-{states} --take-over");
            let next = bucket.start(&server, &flags);
            let mut peer = server.accept();
            peer.send("word\n");
            peers.push(peer);
            sent += 1;
            next.wait_for_lines(1);
            if is_paused {
                owner.signal(Signal::CONT);
            }
            fenced(owner.end(), &next.pid().to_string());
            next.stop().expect(0);
            owner = bucket.start(&server, &format!("--state state-{states}"));
        }
        assert!(owner.lives_until("connected"), "seed {seed}");
        owner.stop().expect(0);
        assert_eq!(bucket.words("word"), sent, "seed {seed}");
    });
}

#[test]
fn store_without_conditional_puts_is_reported() {
    let bucket = Bucket::new("s3");
    bucket.double.conditions(Conditions::Ignore);
    bucket.rig.file("text", "word\n");
    let ended = bucket.run("--file text --no-state").end().expect(0);
    ended.says(&["warning", "cannot keep a second job"]);
    assert_eq!(bucket.words("word"), 1);
}

#[test]
fn unreadable_claims_refuse_the_start() {
    side_by_side(STORES.to_vec(), |kind| {
        let bucket = Bucket::new(kind);
        bucket.rig.file("text", "mine\n");
        bucket.run("--file text --state a").end().expect(0);
        let objects = bucket.double.objects();
        let claim = objects.keys().find(|key| key.contains("/owner-")).expect("a claim");
        let too_long = vec![b'x'; 70_000];
        for content in [&b""[..], b"{", br#"{"format":99}"#, &[0xff; 9], &too_long] {
            bucket.double.plant(claim, content);
            let ended = bucket.run("--file text --state a").end().expect(78);
            ended.says(&[claim, "remove the object", "--to"]);
        }
        assert_eq!(bucket.words("mine"), 1, "{kind}");
    });
}
