use std::collections::BTreeMap;

use crate::rig::watched::{ask, get, port_of};
use crate::rig::{Rig, Server};

/// The sums of all samples of each name.
fn sums(text: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a sample");
        let name = name.split('{').next().unwrap_or_default();
        *sums.entry(name.to_owned()).or_insert(0.0) += value.parse::<f64>().expect("a number");
    }
    sums
}

#[test]
fn counters_are_the_sums_of_markers() {
    for flags in ["-w 2", "-n 2"] {
        let (rig, server) = (Rig::new(), Server::new());
        let flags = format!("{} {flags} --interval 100ms --no-state --to out/c", server.flag());
        let program = rig.wordtide(&format!("run {flags} --http 127.0.0.1:0")).start();
        let mut peer = server.accept();
        let lines: String = (0..3000).map(|n| format!("w{n} tide {}\n", n % 7)).collect();
        peer.send(&lines);
        program.wait_for_lines(3000);
        let processes = if flags.contains("-n 2") { 2 } else { 1 };
        let ports = program.wait_until("each process says its address", |said| {
            let said = said.iter().filter(|line| line.contains("watch this run at"));
            // Process 0 first: a line begins with the index of its process.
            let mut lines: Vec<&String> = said.collect();
            lines.sort();
            let ports: Vec<u16> = lines.into_iter().map(|line| port_of(line)).collect();
            (ports.len() == processes).then_some(ports)
        });
        let mut all = BTreeMap::new();
        for port in &ports {
            for (name, value) in sums(&get(*port, "/metrics").expect(200).body) {
                *all.entry(name).or_insert(0.0) += value;
            }
        }
        let epochs = get(ports[0], "/api/v1/epochs?last=1000").json();
        let status = get(ports[0], "/api/v1/status").json();
        drop(peer);
        program.stop().expect(0);
        let output = rig.output("out/c");
        let counted = |name: &str| all[name] as u64;
        assert_eq!(counted("wordtide_source_lines_total"), output.total("lines"), "{flags}");
        assert_eq!(counted("wordtide_words_total"), output.total("words"), "{flags}");
        assert_eq!(counted("wordtide_source_bytes_total"), lines.len() as u64, "{flags}");
        assert!(counted("wordtide_epoch_stage_seconds_count") >= 4);
        assert!(all["wordtide_worker_busy_seconds_total"] > 0.0);
        assert_eq!((&status["lines"], &status["words"]), (&3000.into(), &9000.into()));
        let rows = epochs["epochs"].as_array().expect("a list").iter();
        let rows: u64 = rows.map(|epoch| epoch["rows"].as_u64().unwrap()).sum();
        assert_eq!(rows, output.total("rows"), "{flags}");
    }
}

#[test]
fn format_is_the_one_asked_for() {
    let (rig, server) = (Rig::new(), Server::new());
    let (program, _peer, port) = super::counting(&rig, &server, "--no-state --to out/c");
    let plain = get(port, "/metrics").expect(200);
    assert!(plain.header("content-type").starts_with("text/plain; version=0.0.4"));
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3\r\n";
    let open = ask(port, "GET /metrics", accept).expect(200);
    assert!(open.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(open.body.ends_with("# EOF\n"));
    program.stop().expect(0);
}
