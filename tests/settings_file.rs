//! Settings from a file, and `wordtide config`, which prints one.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use crate::rig::Rig;

const JOB: &str = "dataflow = \"top_k\"\nk = 3\nstdin = true\nto = \"-\"\nformat = \"tsv\"\nonce = false\n\
                   connect = []\nsuffix = \"007\"\n";

#[test]
fn settings_file_stands_for_the_command_line() {
    let rig = Rig::new();
    rig.file("job.toml", JOB);
    rig.file("lines", "a a b\n");
    let lines = || std::fs::File::open(rig.path("lines")).expect("lines");
    for run in ["--config job.toml", "run --config=job.toml", "run top_k --config job.toml"] {
        let ended = rig.wordtide(run).stdin(lines()).start().end().expect(0);
        assert_eq!(String::from_utf8_lossy(&ended.stdout), "a\t2\nb\t1\n", "{ended}");
    }
    // Each place wins over the ones after it: line, environment, file.
    let run = rig.wordtide("run --config job.toml").env("WORDTIDE_K", "1").stdin(lines());
    let ended = run.start().end().expect(0);
    assert_eq!(ended.stdout, b"a\t2\n");
    let run = rig.wordtide("--format csv").env("WORDTIDE_CONFIG", "job.toml").stdin(lines());
    let ended = run.start().end().expect(0);
    assert_eq!(ended.stdout, b"a,2\nb,1\n");
}

#[test]
fn printed_settings_work_again_as_a_file() {
    let rig = Rig::new();
    rig.file("job.toml", JOB);
    let run = rig.wordtide("config --config job.toml -w 2 -v").env("WORDTIDE_SORT", "word");
    let printed = String::from_utf8(run.start().end().expect(0).stdout).expect("text");
    for line in [
        "dataflow = \"top_k\"  # file job.toml",
        "k = 3  # file job.toml",
        "suffix = \"007\"  # file job.toml",
        "once = false  # file job.toml",
        "threads = 2  # flag",
        "verbose = 1  # flag",
        "sort = \"word\"  # env WORDTIDE_SORT",
        "interval = \"10s\"  # default",
        "# parts =  # default",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
    }
    rig.file("again.toml", &printed);
    let again = rig.run("config --config again.toml").expect(0).stdout;
    let values = |text: &str| {
        let values = text.lines().map(|line| line.split("  # ").next().map(str::to_owned));
        values.collect::<Vec<_>>()
    };
    assert_eq!(values(&String::from_utf8(again).expect("text")), values(&printed));
}

#[test]
fn printed_flag_that_replaces_default_works_again() {
    let rig = Rig::new();
    rig.file("in.txt", "a=1\nb=2\na=3\n");
    let printed = rig.run("config field_count --regex ^[a-z] --file in.txt --no-state").expect(0);
    rig.file("again.toml", String::from_utf8(printed.stdout).expect("text"));
    let counted = rig.run("run --config again.toml --once --to - -q").expect(0).stdout;
    assert_eq!(String::from_utf8(counted).expect("text"), "('a', 2)\n('b', 1)\n");
}

#[test]
fn mistakes_in_a_settings_file_are_refused() {
    for (text, code, expected) in [
        ("intervall = \"1s\"", 2, ["\"intervall\"", "did you mean interval?"]),
        ("interval = 10", 2, ["--interval", "job.toml"]),
        ("interval = 1.5", 2, ["interval", "job.toml"]),
        ("interval = [\"1s\"]", 2, ["interval", "one value"]),
        ("once = \"maybe\"", 2, ["once", "true, 1, yes"]),
        ("interval = ", 2, ["job.toml line 1", "not TOML"]),
        ("[sources]\nfile = \"x\"", 2, ["\"sources\"", "job.toml"]),
        ("dataflow = \"topk\"", 2, ["job.toml", "did you mean top_k?"]),
        ("epochs = 0", 2, ["--epochs", "job.toml"]),
        ("file = [\"absent\"]", 78, ["absent", "job.toml"]),
        ("state = \"a\"\nno-state = true", 2, ["--no-state", "job.toml"]),
        ("config = \"job.toml\"", 2, ["\"config\"", "job.toml"]),
        ("dataflow = [\"top_k\"]", 2, ["dataflow is", "wordtide list"]),
        ("state = false", 2, ["state is false", "not true or false"]),
        ("to = true", 2, ["to is true", "not true or false"]),
        ("file = [\"x\", false]", 2, ["file is", "not true or false"]),
        ("producer = \"x\"", 2, ["\"producer\"", "job.toml"]),
    ] {
        let rig = Rig::new();
        rig.file("job.toml", text);
        let ended = rig.run("run --config job.toml").expect(code).says(&expected);
        assert_eq!(rig.tree(), ["job.toml"], "{ended}");
    }
    Rig::new().run("run --config absent").expect(78).says(&["absent", "--config"]);
    Rig::new().run("config top-k").expect(2).says(&["did you mean top_k?"]);
}

#[test]
fn blank_values_and_elements_are_unset() {
    let rig = Rig::new();
    rig.file(
        "job.toml",
        "file = [\"one\", \"\", \" \"]\nsuffix = \" \"\nto = \"\"\nconnect = [\"\"]\n",
    );
    let printed = String::from_utf8(rig.run("config --config job.toml").expect(0).stdout);
    let printed = printed.expect("text");
    for line in [
        "file = [\"one\"]  # file job.toml",
        "# suffix =  # default",
        "# to =  # default",
        "# connect =  # default",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
    }
    for unset in ["", " ", "\n"] {
        rig.wordtide("config").env("WORDTIDE_CONFIG", unset).start().end().expect(0);
    }
    let named = rig.wordtide("config").env("WORDTIDE_CONFIG", "job.toml\n").start().end().expect(0);
    assert!(String::from_utf8_lossy(&named.stdout).contains("file = [\"one\"]"));
}

#[test]
fn passwords_are_never_printed() {
    let rig = Rig::new();
    for flags in [
        "--to postgres://u:sekret@h/db",
        "--to postgres://u:sek/ret@h/db",
        "--to postgres://h/db?password=sekret",
        "--to opensearchs://u:sek/ret@h:1/i",
        "--to s3://AK:sek/ret@b/p",
        "--watch s3://AK:sek/ret@b/p",
        "--s3-endpoint http://u:sek/ret@h:1/",
    ] {
        let printed = rig.run(&format!("config {flags}")).expect(0).stdout;
        let printed = String::from_utf8(printed).expect("text");
        assert!(!printed.contains("sek") && !printed.contains("ret@"), "{flags}\n{printed}");
    }
}

#[test]
fn commands_without_settings_need_no_settings_file() {
    let rig = Rig::new();
    for command in ["--help", "run --help", "--version", "list", "man", "completions bash"] {
        rig.wordtide(command).env("WORDTIDE_CONFIG", "absent").start().end().expect(0);
    }
    let state = rig.wordtide("state absent").env("WORDTIDE_CONFIG", "nowhere").start().end();
    assert!(!state.to_string().contains("nowhere"), "{state}");
    rig.wordtide("config").env("WORDTIDE_CONFIG", "absent").start().end().expect(78);
}

#[test]
fn piped_file_is_refused_for_several_processes() {
    let rig = Rig::new();
    rig.file("lines", "a b\n");
    for flags in ["-n 2", "--restart 1"] {
        let run = rig.wordtide(&format!("run --file lines --config /dev/stdin {flags}"));
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        writer.write_all(b"to = \"out/c\"\n").expect("room");
        drop(writer);
        run.stdin(OwnedFd::from(reader))
            .start()
            .end()
            .expect(78)
            .says(&["no regular file", "--config"]);
    }
    assert_eq!(rig.tree(), ["lines"]);
}

#[test]
fn definition_is_found_for_every_run() {
    let rig = Rig::new();
    rig.file("top.toml", "dataflow = \"top_k\"\nk = 1\nformat = \"tsv\"\n");
    rig.file("lines", "a a b\n");
    let run = "--stdin --to out/c --state st --keep-journal --interval 1h";
    let lines = std::fs::File::open(rig.path("lines")).expect("lines");
    let first = rig.wordtide(&format!("run --config top.toml {run}")).stdin(lines);
    first.start().end().expect(0);
    rig.run("replay st --config top.toml --interval 1h --to again/c").expect(0);
    assert_eq!(rig.output("again/c").counts(), rig.output("out/c").counts());
    let other = rig.run("replay st --interval 1h --format tsv --to other/c").expect(0);
    other.says(&["state of top_k k=1", "network_wordcount"]);
    // Flags alone are a run, too; without any flag the program is the demo.
    for run in ["run --file lines", "--file lines"] {
        let run = rig.wordtide(&format!("{run} --to - --format tsv"));
        let run = run.env("WORDTIDE_DATAFLOW", "top_k").env("WORDTIDE_K", "1");
        assert_eq!(run.start().end().expect(0).stdout, b"a\t2\n");
    }
}

#[test]
fn bytes_that_are_no_text_name_their_setting() {
    let odd = OsStr::from_bytes(b"f\xff");
    let rig = Rig::new();
    let run = rig.wordtide("config --stdin").env("WORDTIDE_INTERVAL", odd);
    run.start().end().expect(2).says(&["WORDTIDE_INTERVAL", "not UTF-8"]);
    let config = rig.wordtide("config --file").arg(odd).start().end();
    config.expect(2).says(&["--file", "not UTF-8", "settings file"]);
}
