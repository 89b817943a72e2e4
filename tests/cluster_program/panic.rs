//! By the library, since the program has no definition that panics.

use wordtide::internals::cluster::{ClusterSettings, MeshKey};
use wordtide::operators::{Counts, Lines};
use wordtide::{ErrorKind, Job, Settings, Source};

use super::Addresses;
use crate::rig::{Rig, Server};

/// Counts lines, but for one.
fn fragile<'s>(lines: Lines<'s>) -> Counts<'s> {
    let keys = lines.keys(|line, emit| {
        assert_ne!(line, b"the last straw", "a camel breaks down");
        emit(line);
    });
    keys.per_epoch().count()
}

#[test]
fn worker_panic_is_loss_to_other_processes() {
    let (rig, addresses, server) = (Rig::new(), Addresses::new(3), Server::new());
    let start = |process: usize| {
        let cluster = ClusterSettings {
            processes: 3,
            process,
            addresses: (0..3).map(|p| addresses.of(p).to_owned()).collect(),
            mesh_key: MeshKey::from_secret(b"the key of these three").ok(),
            ..ClusterSettings::default()
        };
        let source = format!("127.0.0.1:{}", server.port()).parse().expect("an address");
        let to = rig.path("out/c").to_string_lossy().parse().expect("a path");
        Job::builder()
            .source_at(1, Source::Connect(source))
            .dataflow("fragile", fragile)
            .to(to)
            .settings(Settings { threads: 2, ..Settings::default() })
            .cluster(cluster)
            .start()
            .and_then(Job::wait)
            .expect_err("no clean end")
    };
    std::thread::scope(|scope| {
        let jobs = [0, 1, 2].map(|process| scope.spawn(move || start(process)));
        server.accept().send("fine\nthe last straw\n");
        let errors = jobs.map(|job| job.join().expect("no panic leaves the library"));
        assert_eq!(errors[1].kind(), ErrorKind::Panicked);
        assert!(errors[1].to_string().contains("a camel breaks down"), "{}", errors[1]);
        for error in [&errors[0], &errors[2]] {
            assert_eq!(error.kind(), ErrorKind::PeerLost, "{error}");
            let text = error.to_string();
            assert!(
                text.starts_with("process 1 (") && text.contains("a camel breaks down"),
                "{text}"
            );
        }
    });
    assert!(rig.output("out/c").epochs.is_empty());
}
