//! Scans and events of a folder, on a clock that the tests own.

use super::*;
use crate::sources::watch::found_file::FileId;

const EVERY: Duration = Duration::from_secs(1);

fn facts(version: u64) -> FileFacts {
    of_file(1, version)
}

/// A version of the file with this inode. It was renamed after it was written.
fn of_file(inode: u64, version: u64) -> FileFacts {
    let (version, id) = (Version(version), FileId { inode, born_ns: 1 });
    FileFacts { version, id, written_ns: -1, ..FileFacts::default() }
}

fn state(version: u64) -> FileState {
    FileState { version: Version(version), id: FileId::default() }
}

/// Known files by their names.
fn known<const N: usize>(files: [(&str, FileState); N]) -> HashMap<NameHash, FileState> {
    files.map(|(name, state)| (hash_of(name.as_bytes()), state)).into()
}

fn at(appeared_ns: i128, version: u64) -> FileFacts {
    FileFacts { appeared_ns, ..facts(version) }
}

/// Scans a folder with these files at second `second`.
fn scan(arrivals: &mut Arrivals, second: u64, files: &[(&str, FileFacts)]) -> Vec<String> {
    arrivals.begin_scan();
    for (name, facts) in files {
        let now = Duration::from_secs(second);
        arrivals.seen(OsStr::new(name), facts.clone(), Some(Duration::ZERO), now);
    }
    arrivals.end_scan(true);
    shown(arrivals)
}

fn shown(arrivals: &mut Arrivals) -> Vec<String> {
    let show = |arrival| match arrival {
        WatchEvent::Found(file) => String::from_utf8(file.name).expect("text"),
        WatchEvent::Changed(file) => format!("changed {}", file.path().display()),
        WatchEvent::Gone(_) => "gone".to_owned(),
        WatchEvent::Renamed(files) => {
            let name = |file: RenamedFile| String::from_utf8(file.name).expect("text");
            format!("renamed {}", files.into_iter().map(name).collect::<Vec<_>>().join(" "))
        }
        WatchEvent::Device(device) => format!("on {device}"),
    };
    arrivals.take().into_iter().map(show).collect()
}

fn empty() -> Arrivals {
    Arrivals::new(&HashMap::new(), EVERY)
}

#[test]
fn file_that_grows_waits_for_equal_scans() {
    let mut arrivals = empty();
    assert!(scan(&mut arrivals, 0, &[("a", facts(1))]).is_empty());
    assert!(arrivals.is_waiting());
    assert!(scan(&mut arrivals, 1, &[("a", facts(2))]).is_empty());
    assert_eq!(scan(&mut arrivals, 2, &[("a", facts(2))]), ["a"]);
    assert!(scan(&mut arrivals, 3, &[("a", facts(2))]).is_empty(), "given out once");
    assert!(!arrivals.is_waiting());
}

#[test]
fn quick_scans_do_not_make_file_whole() {
    let mut arrivals = empty();
    for _ in 0..3 {
        assert!(scan(&mut arrivals, 5, &[("a", facts(1))]).is_empty());
    }
}

#[test]
fn old_file_is_whole_at_once() {
    let mut arrivals = empty();
    arrivals.begin_scan();
    arrivals.seen(OsStr::new("a"), facts(1), Some(SETTLED), EVERY);
    arrivals.end_scan(true);
    assert_eq!(shown(&mut arrivals), ["a"]);
}

#[test]
fn files_of_scan_come_in_order_of_appearance() {
    let mut arrivals = empty();
    let files = [("b", at(2, 1)), ("c", at(1, 2)), ("a", at(2, 3))];
    scan(&mut arrivals, 0, &files);
    assert_eq!(scan(&mut arrivals, 1, &files), ["c", "a", "b"]);
}

#[test]
fn writer_that_pauses_is_waited_for() {
    let mut arrivals = empty();
    arrivals.created(OsStr::new("a"), Some(facts(1)));
    arrivals.opened(OsStr::new("a"));
    for second in 0..100 {
        assert!(scan(&mut arrivals, second, &[("a", facts(1))]).is_empty());
    }
    arrivals.closed(OsStr::new("a"), facts(2));
    assert_eq!(shown(&mut arrivals), ["a"]);
    assert!(scan(&mut arrivals, 101, &[("a", facts(2))]).is_empty());
}

#[test]
fn file_linked_from_nowhere_needs_no_close() {
    let mut arrivals = empty();
    arrivals.created(OsStr::new("a"), Some(facts(1)));
    scan(&mut arrivals, 0, &[("a", facts(1))]);
    assert_eq!(scan(&mut arrivals, 1, &[("a", facts(1))]), ["a"]);
    let linked = FileFacts { has_links: true, ..of_file(2, 3) };
    arrivals.created(OsStr::new("b"), Some(linked));
    assert_eq!(shown(&mut arrivals), ["b"]);
}

#[test]
fn change_is_told_once_and_not_given_out() {
    let mut arrivals = empty();
    arrivals.moved_in(OsStr::new("a"), facts(1));
    assert_eq!(shown(&mut arrivals), ["a"]);
    assert_eq!(scan(&mut arrivals, 0, &[("a", facts(2))]), ["changed a"]);
    assert!(scan(&mut arrivals, 1, &[("a", facts(3))]).is_empty());
    arrivals.closed(OsStr::new("a"), facts(4));
    assert!(shown(&mut arrivals).is_empty());
}

#[test]
fn name_that_left_is_new_again() {
    let mut arrivals = empty();
    arrivals.moved_in(OsStr::new("a"), of_file(1, 1));
    arrivals.moved_in(OsStr::new("b"), of_file(2, 2));
    arrivals.take();
    assert_eq!(scan(&mut arrivals, 0, &[("b", of_file(2, 2))]), ["gone"]);
    arrivals.moved_in(OsStr::new("a"), of_file(1, 1));
    arrivals.gone(OsStr::new("b"));
    arrivals.moved_in(OsStr::new("b"), of_file(4, 2));
    assert_eq!(shown(&mut arrivals), ["a", "b"]);
    let there = [("a", of_file(1, 1)), ("b", of_file(4, 2))];
    assert!(scan(&mut arrivals, 1, &there).is_empty(), "both have new files");
    arrivals.gone(OsStr::new("b"));
    assert_eq!(scan(&mut arrivals, 2, &there[..1]), ["gone"]);
}

#[test]
fn known_file_is_new_only_if_unfinished() {
    let mut arrivals = Arrivals::new(&known([("a", state(1)), ("b", state(2))]), EVERY);
    arrivals.may_be_unfinished(&[hash_of(b"b")].into());
    assert!(scan(&mut arrivals, 0, &[("a", facts(1)), ("b", of_file(2, 2))]).is_empty());
    arrivals.closed(OsStr::new("b"), of_file(2, 2));
    assert!(shown(&mut arrivals).is_empty(), "closed without a change");
    arrivals.closed(OsStr::new("a"), facts(3));
    arrivals.closed(OsStr::new("b"), of_file(2, 4));
    assert_eq!(shown(&mut arrivals), ["changed a", "b"]);
}

#[test]
fn unreadable_file_is_tried_when_it_changes() {
    let mut arrivals = empty();
    arrivals.moved_in(OsStr::new("a"), facts(1));
    let Some(WatchEvent::Found(file)) = arrivals.take().pop() else { panic!("found") };
    arrivals.returned(UnreadFile::Unreadable(file.clone()), Duration::ZERO);
    for second in 0..3 {
        assert!(scan(&mut arrivals, second, &[("a", facts(1))]).is_empty());
    }
    let changed = FileFacts { appeared_ns: 7, ..facts(1) };
    scan(&mut arrivals, 4, &[("a", changed.clone())]);
    assert_eq!(scan(&mut arrivals, 5, &[("a", changed.clone())]), ["a"]);
    let file = FoundFile { facts: changed.clone(), ..file };
    arrivals.returned(UnreadFile::Unreadable(file), Duration::from_secs(5));
    for second in [6, RETRY.as_secs() + 4, RETRY.as_secs() + 5] {
        assert!(scan(&mut arrivals, second, &[("a", changed.clone())]).is_empty());
    }
    assert_eq!(scan(&mut arrivals, RETRY.as_secs() + 6, &[("a", changed)]), ["a"]);
}

#[test]
fn changed_file_is_given_out_when_whole() {
    let mut arrivals = empty();
    arrivals.moved_in(OsStr::new("a"), facts(1));
    let Some(WatchEvent::Found(file)) = arrivals.take().pop() else { panic!("found") };
    arrivals.returned(UnreadFile::Changed(file.clone()), Duration::ZERO);
    assert!(scan(&mut arrivals, 1, &[("a", facts(2))]).is_empty());
    assert_eq!(scan(&mut arrivals, 2, &[("a", facts(2))]), ["a"]);
    arrivals.returned(UnreadFile::Changed(file), Duration::from_secs(2));
    assert!(scan(&mut arrivals, 3, &[("a", facts(2))]).is_empty(), "an old one came back");
}

#[test]
fn known_files_are_kept_without_their_device() {
    let mut arrivals = Arrivals::new(&known([("a", state(1)), ("b", state(2))]), EVERY);
    arrivals.were_on(Some(7));
    let mut scan_on = |device, files: &[&str]| {
        arrivals.begin_scan();
        for name in files {
            arrivals.seen(OsStr::new(name), facts(1), None, EVERY);
        }
        let is_same = arrivals.is_same_device(device);
        arrivals.end_scan(is_same);
        shown(&mut arrivals)
    };
    assert!(scan_on(8, &[]).is_empty(), "nothing is mounted");
    assert!(scan_on(8, &["stray"]).is_empty(), "this proves nothing");
    assert_eq!(scan_on(9, &["a"]), ["on 9", "gone"], "it is mounted with another number");
    assert_eq!(scan_on(9, &[]), ["gone"], "all of it is removed");
    assert_eq!(scan_on(8, &[]), ["on 8"], "nothing is known that might come back");
}

#[test]
fn file_below_bare_mount_point_proves_nothing() {
    let mut arrivals = Arrivals::new(&known([("a", state(1))]), EVERY);
    arrivals.were_on(Some(7));
    let scan_on = |arrivals: &mut Arrivals, device, files: &[(&str, u64)]| {
        arrivals.begin_scan();
        for (name, version) in files {
            arrivals.seen(OsStr::new(name), facts(*version), None, EVERY);
        }
        let is_same = arrivals.is_same_device(device);
        arrivals.end_scan(is_same);
        shown(arrivals)
    };
    assert!(scan_on(&mut arrivals, 8, &[]).is_empty(), "nothing is mounted");
    arrivals.moved_in(OsStr::new("stray"), facts(5));
    assert_eq!(shown(&mut arrivals), ["stray"]);
    assert!(scan_on(&mut arrivals, 8, &[("stray", 5)]).is_empty(), "a is not forgotten");
    assert_eq!(scan_on(&mut arrivals, 7, &[("a", 1)]), ["gone"], "only the stray is");
    assert!(scan_on(&mut arrivals, 7, &[("a", 1)]).is_empty());
}

#[test]
fn other_file_under_known_name_is_new() {
    let known = known([("a", of_file(1, 1).state()), ("b", of_file(2, 2).state())]);
    let mut arrivals = Arrivals::new(&known, EVERY);
    let files = [("a", of_file(3, 3)), ("b", of_file(2, 4))];
    assert_eq!(scan(&mut arrivals, 0, &files), ["changed b", "gone"], "b is the same file");
    assert_eq!(scan(&mut arrivals, 1, &files), ["a"]);
    arrivals.moved_in(OsStr::new("a"), of_file(5, 3));
    assert_eq!(shown(&mut arrivals), ["a"], "an event shows it, too");
    arrivals.closed(OsStr::new("a"), of_file(5, 6));
    assert_eq!(shown(&mut arrivals), ["changed a"]);
}

#[test]
fn names_exchanged_while_down_are_known() {
    let known = known(["a", "b", "c"].map(|name| {
        let inode = u64::from(name.as_bytes()[0]);
        (name, of_file(inode, inode).state())
    }));
    let mut arrivals = Arrivals::new(&known, EVERY);
    // Two have exchanged their names, and one has left its name to a new file.
    let [a, b, c] = [97, 98, 99].map(|inode| of_file(inode, inode));
    let files = [("a", b), ("b", a), ("d", c), ("c", of_file(7, 7))];
    let [renamed] = &scan(&mut arrivals, 0, &files)[..] else { panic!("one event") };
    let mut names: Vec<_> = renamed.split(' ').collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "d", "renamed"]);
    assert_eq!(scan(&mut arrivals, 1, &files), ["c"]);
    assert!(scan(&mut arrivals, 2, &files).is_empty());
}

#[test]
fn quick_renames_keep_what_is_known() {
    let mut arrivals = empty();
    // A second name elsewhere changes nothing.
    let linked = FileFacts { has_links: true, ..of_file(1, 1) };
    arrivals.moved_in(OsStr::new("a"), linked.clone());
    arrivals.take();
    // Where the file was for a moment was not seen in time.
    arrivals.gone(OsStr::new("a"));
    arrivals.gone(OsStr::new("a2"));
    arrivals.moved_in(OsStr::new("a3"), linked.clone());
    assert_eq!(shown(&mut arrivals), ["renamed a3"]);
    arrivals.gone(OsStr::new("a3"));
    arrivals.moved_in(OsStr::new("a3"), linked.clone());
    assert!(shown(&mut arrivals).is_empty(), "it came back");
    arrivals.created(OsStr::new("b"), Some(linked.clone()));
    assert!(shown(&mut arrivals).is_empty(), "it may have been renamed again");
    let links = [("a3", linked.clone()), ("b", linked)];
    let old = |arrivals: &mut Arrivals, second| {
        arrivals.begin_scan();
        for (name, facts) in &links {
            let now = Duration::from_secs(second);
            arrivals.seen(OsStr::new(name), facts.clone(), Some(SETTLED), now);
        }
        arrivals.end_scan(true);
        shown(arrivals)
    };
    assert!(old(&mut arrivals, 1).is_empty());
    assert_eq!(old(&mut arrivals, 2), ["b"], "both names are there");
}

#[test]
fn rename_within_scan_is_known() {
    let mut arrivals = empty();
    arrivals.moved_in(OsStr::new("a"), facts(1));
    arrivals.take();
    arrivals.begin_scan();
    arrivals.seen(OsStr::new("b"), facts(1), None, EVERY);
    arrivals.gone(OsStr::new("a"));
    arrivals.moved_in(OsStr::new("b"), facts(1));
    arrivals.gone(OsStr::new("b"));
    arrivals.end_scan(true);
    assert_eq!(shown(&mut arrivals), ["renamed b"]);
    // Its name at the end of the listing was not listed.
    arrivals.moved_in(OsStr::new("c"), facts(1));
    assert_eq!(shown(&mut arrivals), ["renamed c"]);
}

#[test]
fn restored_copy_is_known() {
    let written = |inode| FileFacts { bytes: 5, ..of_file(inode, 0) };
    let copied = |inode| FileFacts { version: Version::of_file(inode, 5, -1), ..written(inode) };
    let known = known([("a", copied(1).state()), ("b", copied(2).state())]);
    let mut arrivals = Arrivals::new(&known, EVERY);
    arrivals.were_on(Some(7));
    arrivals.begin_scan();
    // A file with the same length and time that was renamed is not taken for a copy.
    let files = [("a", copied(3)), ("b", copied(4)), ("c", copied(2))];
    for (name, facts) in &files {
        arrivals.seen(OsStr::new(name), facts.clone(), Some(SETTLED), EVERY);
    }
    assert!(arrivals.is_same_device(8), "copies show that the folder was restored");
    arrivals.end_scan(true);
    let mut shown = shown(&mut arrivals);
    shown[1..2].sort_unstable();
    assert_eq!(shown, ["on 8", "renamed c a", "b"]);
    assert!(scan(&mut arrivals, 2, &files).is_empty());
}

#[test]
fn file_written_before_start_waits_longer() {
    let mut arrivals = empty();
    let written = |version| FileFacts { appeared_ns: -1, ..facts(version) };
    assert!(written(1).is_written_last());
    assert!(scan(&mut arrivals, 0, &[("a", written(1))]).is_empty());
    assert!(scan(&mut arrivals, 9, &[("a", written(1))]).is_empty());
    assert!(scan(&mut arrivals, 10, &[("a", written(2))]).is_empty(), "it was open");
    assert!(scan(&mut arrivals, 19, &[("a", written(2))]).is_empty());
    assert_eq!(scan(&mut arrivals, 20, &[("a", written(2))]), ["a"]);
    let files = [("a", written(2)), ("b", FileFacts { appeared_ns: -1, ..of_file(2, 1) })];
    assert!(scan(&mut arrivals, 21, &files).is_empty());
    assert_eq!(scan(&mut arrivals, 22, &files), ["b"], "events would show a writer");
    arrivals.lost_events();
    let files = [("c", FileFacts { appeared_ns: -1, ..of_file(3, 1) })];
    scan(&mut arrivals, 23, &files);
    assert!(scan(&mut arrivals, 24, &files).is_empty());
    arrivals.closed(OsStr::new("c"), of_file(3, 1));
    assert_eq!(shown(&mut arrivals), ["c"]);
    let mut arrivals = empty();
    for second in [7, 8, 10] {
        assert!(shown(&mut arrivals).is_empty());
        arrivals.begin_scan();
        let now = Duration::from_secs(second);
        arrivals.seen(OsStr::new("d"), written(1), Some(now), now);
        arrivals.end_scan(true);
    }
    assert_eq!(shown(&mut arrivals), ["d"], "written 10 s ago");
    let mut arrivals = empty();
    arrivals.trust_scans();
    scan(&mut arrivals, 0, &[("e", written(1))]);
    assert_eq!(scan(&mut arrivals, 1, &[("e", written(1))]), ["e"], "with --once");
}

#[test]
fn unread_file_that_was_renamed_is_new() {
    let mut arrivals = empty();
    arrivals.moved_in(OsStr::new("a"), facts(1));
    let Some(WatchEvent::Found(file)) = arrivals.take().pop() else { panic!("found") };
    arrivals.gone(OsStr::new("a"));
    arrivals.moved_in(OsStr::new("b"), facts(1));
    assert_eq!(shown(&mut arrivals), ["renamed b"]);
    arrivals.returned(UnreadFile::Changed(file.clone()), Duration::ZERO);
    scan(&mut arrivals, 1, &[("b", facts(1))]);
    assert_eq!(scan(&mut arrivals, 2, &[("b", facts(1))]), ["b"]);
    arrivals.gone(OsStr::new("b"));
    arrivals.returned(UnreadFile::Changed(file), Duration::ZERO);
    arrivals.moved_in(OsStr::new("c"), facts(1));
    assert_eq!(shown(&mut arrivals), ["c"]);
}
