//! Two hosts made of network namespaces, with a router between them: what it drops, both ends can
//! only miss. Where the test may not build them (no root, no `ip`) it reports that and passes.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::loss::told_once;
use super::same::{ONE_EPOCH, objects, text};
use super::{all_done, end};
use crate::rig::{Rig, Running};

/// One network at a time: the addresses are the same in each.
static ONE: Mutex<()> = Mutex::new(());

/// Namespaces `…-0` (10.213.0.2), `…-1` (10.213.1.2) and the router between them.
struct Network {
    name: String,
}

fn run(script: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-ec", script]).output().map_err(|e| e.to_string())?;
    let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said()) }
}

impl Network {
    /// Builds the network, or prints why it cannot.
    fn new() -> Option<Network> {
        let name = format!("wordtide-{}", std::process::id());
        let network = Network { name };
        let Network { name, .. } = &network;
        let side = |k: usize| {
            format!(
                "ip netns add {name}-{k}
                 ip link add veth netns {name}-{k} type veth peer name to{k} netns {name}-r
                 ip -n {name}-{k} address add 10.213.{k}.2/24 dev veth
                 ip -n {name}-{k} link set lo up
                 ip -n {name}-{k} link set veth up
                 ip -n {name}-r address add 10.213.{k}.1/24 dev to{k}
                 ip -n {name}-r link set to{k} up
                 ip -n {name}-{k} route add default via 10.213.{k}.1\n"
            )
        };
        let script = format!("ip netns add {name}-r\n{}{}", side(0), side(1));
        match run(&script).and_then(|()| network.forward(true)) {
            Ok(()) => Some(network),
            Err(why) => {
                eprintln!("SKIPPED: cannot build network namespaces here: {why}");
                None
            }
        }
    }

    /// Switches the router on or off; while off it drops everything without a word.
    fn forward(&self, on: bool) -> Result<(), String> {
        let on = u8::from(on);
        let name = &self.name;
        run(&format!("ip netns exec {name}-r sh -c 'echo {on} > /proc/sys/net/ipv4/ip_forward'"))
    }

    /// Drops everything for so many seconds, then no more.
    fn cut_for(&self, seconds: u32) {
        self.forward(false).expect("our router");
        run(&format!("sleep {seconds}")).expect("a shell");
        self.forward(true).expect("our router");
    }

    fn start(&self, rig: &Rig, host: usize, arguments: &str) -> Running {
        let name = format!("{}-{host}", self.name);
        rig.wordtide_by(&["ip", "netns", "exec", &name], arguments).stdin(Stdio::piped()).start()
    }

    /// Three processes, two of them on host 0, with flags of their own.
    fn three(&self, rig: &Rig, arguments: &str) -> Vec<Running> {
        rig.file("hosts.txt", "10.213.0.2:2101\n10.213.1.2:2101\n10.213.0.2:2102\n");
        let key = rig.file("mesh.key", "only these three know it");
        std::fs::set_permissions(key, PermissionsExt::from_mode(0o600)).expect("our file");
        let start = |p: usize| {
            let flags = format!("-n 3 -p {p} -h hosts.txt --mesh-key-file mesh.key");
            self.start(rig, p % 2, &format!("{arguments} {flags}"))
        };
        (0..3).map(start).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for part in ["0", "1", "r"] {
            run(&format!("ip netns del {}-{part}", self.name)).ok();
        }
    }
}

/// A job that commits an empty epoch every 50 ms as long as its standard input is open.
const TICKING: &str = "run --stdin --interval 50ms --format tsv --no-state --to out/c";

fn wait_for_epochs(process: &Running, epochs: usize) {
    let committed = |line: &&String| line.contains(" committed: ");
    process.wait_until("epochs", |said| {
        (said.iter().filter(committed).count() >= epochs).then_some(())
    });
}

fn committed(process: &Running) -> usize {
    let committed = |line: &&String| line.contains(" committed: ");
    process.wait_until("a look", |said| Some(said.iter().filter(committed).count()))
}

#[test]
fn hosts_write_the_same_bytes_as_one() {
    let _alone = ONE.lock();
    let Some(network) = Network::new() else { return };
    let input = text();
    let arguments = format!("run --file input --parts 5 {ONE_EPOCH}");
    let (alone, together) = (Rig::new(), Rig::new());
    alone.file("input", &input);
    together.file("input", &input);
    alone.run(&arguments).expect(0);
    all_done(network.three(&together, &arguments));
    assert!(objects(&alone) == objects(&together), "other bytes over a network");
}

#[test]
fn permanent_cut_ends_all() {
    let _alone = ONE.lock();
    let Some(network) = Network::new() else { return };
    let rig = Rig::new();
    let mut processes = network.three(&rig, TICKING);
    let stdin = processes[0].stdin();
    wait_for_epochs(&processes[0], 5);
    network.forward(false).expect("our router");
    let ended = end(processes);
    let [zero, one, two] = ended.try_into().expect("three processes");
    told_once(zero, 1);
    told_once(two, 1);
    one.expect(69).says(&["lost process"]);
    drop(stdin);
}

#[test]
fn cut_of_three_seconds_is_survived() {
    let _alone = ONE.lock();
    let Some(network) = Network::new() else { return };
    let rig = Rig::new();
    let mut processes = network.three(&rig, TICKING);
    let stdin = processes[0].stdin();
    wait_for_epochs(&processes[0], 5);
    network.cut_for(3);
    let before = committed(&processes[0]);
    wait_for_epochs(&processes[0], before + 5);
    drop(stdin);
    all_done(processes);
}
