//! Completion scripts: those of clap_complete, in a form that also knows `wordtide HOST PORT`.
//!
//! A line begins with a command or with HOST PORT. The generators of zsh and fish know only one of
//! both: that of zsh looks for the command after all positional arguments, as in `wordtide HOST
//! PORT COMMAND`, and that of fish takes HOST for a command. So both get HOST PORT as one more
//! command, and their scripts are changed to take it where no command is named.

use clap::builder::PossibleValue;
use clap::{Arg, Args, Subcommand, ValueHint};
use clap_complete::Shell;

use super::commands::{self, Command};
use super::flags::JobFlags;

/// The name of the command that stands for HOST PORT. Scripts do not offer it.
const HOST_PORT: &str = "host_port";

/// Returns the script of a shell.
pub fn script(shell: Shell) -> Vec<u8> {
    match shell {
        Shell::Zsh => zsh(&generated(shell, split())).into_bytes(),
        Shell::Fish => fish(&generated(shell, split())).into_bytes(),
        _ => generated(shell, commands::command()).into_bytes(),
    }
}

/// Returns what the generator makes of the commands.
fn generated(shell: Shell, command: clap::Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut without_question_mark(command), "wordtide", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Returns the commands with HOST PORT as the last of them, in place of positional arguments.
fn split() -> clap::Command {
    // The flags of a run have a help flag of their own.
    let with_flags = |name| {
        let command = clap::Command::new(name).disable_help_flag(true);
        JobFlags::augment_args(command.disable_help_subcommand(true))
    };
    let top = with_flags("wordtide").version(env!("CARGO_PKG_VERSION"));
    let top = commands::add_undeclared(Command::augment_subcommands(top));
    // The command's name is the host. A port is no file.
    let port = Arg::new("port").help("Port of the host").value_hint(ValueHint::Other);
    top.subcommand(commands::refine(with_flags(HOST_PORT).arg(port), false))
}

/// Removes the short name `-?` from the help flag of a command, which shells take for a pattern.
fn without_question_mark(command: clap::Command) -> clap::Command {
    let strip = |argument: Arg| match argument.get_short() {
        Some('?') => {
            let none: Option<char> = None;
            argument.short(none).help("Print help")
        }
        _ => argument,
    };
    command.mut_args(strip).mut_subcommands(without_question_mark)
}

/// Makes HOST PORT the last case of the commands, for any other word, and offers it nowhere.
fn zsh(script: &str) -> String {
    let script = script.replace(&format!("\n'{HOST_PORT}:' \\"), "");
    let script = script.replace(&format!("\n({HOST_PORT})\n"), "\n(*)\n");
    // Flags after a command are its own: without -A zsh would offer the values of the first
    // `--format` that it meets, which is that of a run, also after `state` and `profile`.
    let options = "_arguments \"${_arguments_options[@]}\" ";
    script.replacen(options, &format!("{options}-A \"-*\" "), 1)
}

/// Takes HOST PORT where the first word is no command, and adds what the generator leaves out.
fn fish(script: &str) -> String {
    let names = split();
    let names = names.get_subcommands().map(clap::Command::get_name);
    let names = names.filter(|name| *name != HOST_PORT).collect::<Vec<_>>().join(" ");
    let (none_yet, one_of) = ("__fish_wordtide_needs_command", "__fish_wordtide_using_subcommand");
    let offer = format!("complete -c wordtide -n \"{none_yet}\" -f -a \"{HOST_PORT}\"\n");
    let script = script.replace(&offer, "");
    let is_host_port = format!("not {none_yet}; and not {one_of} {names}");
    let script = script.replace(&format!("{one_of} {HOST_PORT}"), &is_host_port);
    // A flag that still waits for its value is an error to argparse, and is before any command:
    // otherwise its values would not be offered.
    let script = script.replacen("    or return\n", "    or return 0\n", 1);
    // The generator of fish knows no positional arguments, not even those with a list of values.
    let shells = Arg::new("shell").value_parser(clap::value_parser!(Shell)).get_possible_values();
    let shells = shells.iter().map(PossibleValue::get_name).collect::<Vec<_>>().join(" ");
    format!(
        "{script}complete -c wordtide -n \"{one_of} completions\" -f -a \"{shells}\"\n\
         complete -c wordtide -n \"{is_host_port}\" -f\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(shell: Shell) -> String {
        String::from_utf8(script(shell)).expect("text")
    }

    #[test]
    fn completed_commands_do_not_contradict_each_other() {
        without_question_mark(commands::command()).debug_assert();
        without_question_mark(split()).debug_assert();
    }

    #[test]
    fn completions_hold_no_pattern() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = text(shell);
            assert!(script.contains("hostfile"), "{shell}");
            let found =
                [" -s ?", "?/help", "'-?", "\"-?"].into_iter().find(|it| script.contains(it));
            assert_eq!(found, None, "{shell}");
        }
    }

    #[test]
    fn zsh_takes_first_word_for_the_command() {
        let script = text(Shell::Zsh);
        let (before, other) = script.split_once("\n(*)\n").expect("a case of other words");
        let top = before.split("        case $line[").nth(1).expect("a case of the first word");
        assert!(top.starts_with("1] in\n"), "not the first word: {top:.20}");
        for command in commands::command().get_subcommands() {
            let case = format!("({})\n", command.get_name());
            assert!(before.contains(&case), "{case} comes after the case of all other words");
        }
        let (flags, after) = other.split_once("\n;;\n").expect("an end of the case");
        assert!(flags.contains("--interval=[") && flags.contains("'::port -- "), "{flags}");
        assert!(after.trim_start().starts_with("esac"), "cases follow that of all words");
        assert!(!script.contains(&format!("'{HOST_PORT}")), "offered as a command");
        let first = script.lines().find(|line| line.contains(" _arguments "));
        assert!(first.is_some_and(|line| line.contains(" -A \"-*\" ")), "{first:?}");
    }

    #[test]
    fn fish_offers_flags_after_host_and_port() {
        let script = text(Shell::Fish);
        assert!(!script.contains(HOST_PORT), "taken for a command");
        assert!(script.contains("    or return 0\n"), "no values before a command");
        let flags = script.lines().filter(|line| line.contains("\"not __fish_wordtide_needs"));
        let flags = flags.collect::<Vec<_>>();
        assert!(flags.iter().any(|line| line.contains(" -l interval ")), "{flags:?}");
        for command in commands::command().get_subcommands() {
            let name = command.get_name();
            let is_excluded = |line: &&str| line.split(['"', ' ']).any(|word| word == name);
            assert!(flags.iter().all(is_excluded), "{name} is taken for a host");
        }
    }

    #[test]
    fn fish_offers_the_shells() {
        let end = "completions\" -f -a \"bash elvish fish powershell zsh\"";
        assert!(text(Shell::Fish).lines().any(|line| line.ends_with(end)));
    }
}
