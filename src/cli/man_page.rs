//! The man page: sections 1 to 8 of a page of section 1, from the same declarations as `--help`.
//!
//! NAME, DESCRIPTION and OPTIONS come from clap. SYNOPSIS, COMMANDS, ENVIRONMENT, FILES, EXIT
//! STATUS and EXAMPLES are written here, because a page is read without the program at hand.

use std::io::{self, Write};

use clap::Command;

use super::commands::{self, EXAMPLES};
use super::{environment, exit_codes};

/// The usual ways to call the program.
const SYNOPSIS: &[&str] = &[
    "wordtide",
    "wordtide HOST PORT [FLAGS]",
    "wordtide run [DATAFLOW] [FLAGS]",
    "wordtide COMMAND [ARGUMENTS]",
];

/// Variables beside those of the flags.
const VARIABLES: &[(&str, &str)] = &[
    (environment::DATAFLOW, "The dataflow of a run that names none."),
    (
        "OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET, OSS_SESSION_TOKEN",
        "Credentials of OSS. Also ALIBABA_CLOUD_ACCESS_KEY_ID and its like, and profiles: see \
         docs/object-stores.md. Secrets are never flags.",
    ),
    (
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN",
        "Credentials of S3. Also AWS_PROFILE, AWS_REGION and AWS_ENDPOINT_URL.",
    ),
    ("HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "Proxies on the way to an object store."),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID",
        "Set by a service manager: the program reports that it is ready, its status, its \
         progress, and that it stops.",
    ),
    ("XDG_STATE_HOME", "Folder of the key that processes of one user share."),
];

/// Files that the program reads or makes.
const FILES: &[(&str, &str)] = &[
    ("./wordtide-out/", "Results, where --to is not given."),
    (
        "./wordtide-state/DATAFLOW-HASH/",
        "State of a job, where --state is not given. `wordtide state` lists it and removes it.",
    ),
    ("PREFIX-EPOCH/_SUCCESS", "The marker of a committed epoch, one line of JSON."),
    ("/etc/wordtide/NAME.toml", "Settings of the service wordtide@NAME, a file for --config."),
    ("/etc/wordtide/NAME.env", "Credentials of that service, as lines NAME=value."),
    ("/var/lib/wordtide/NAME/", "Working directory and state of that service."),
    (
        "~/.local/state/wordtide/mesh-key",
        "Key of processes on this host, where --mesh-key-file is not given.",
    ),
];

/// Writes the page in roff. Fails if `out` does.
pub fn render(out: &mut dyn Write) -> io::Result<()> {
    let command = commands::command();
    let man = clap_mangen::Man::new(command.clone().version(None))
        .source(format!("wordtide {}", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    man.render_title(out)?;
    // A word of a name or a path is not to be parted at a line's end.
    writeln!(out, ".nh")?;
    section(out, "NAME")?;
    writeln!(out, "wordtide \\- {}", escape(&first_words_down(&about(&command))))?;
    section(out, "SYNOPSIS")?;
    for line in SYNOPSIS {
        writeln!(out, ".B {}\n.br", escape(line))?;
    }
    man.render_description_section(out)?;
    section(out, "COMMANDS")?;
    commands_below(out, &command, "")?;
    man.render_options_section(out)?;
    environment_section(out, &command)?;
    table(out, "FILES", FILES)?;
    table(out, "EXIT STATUS", exit_codes::CODES)?;
    section(out, "EXAMPLES")?;
    writeln!(out, ".nf")?;
    // The first line is a heading of its own in help.
    for line in EXAMPLES.lines().skip(1) {
        writeln!(out, "{}", escape(line.strip_prefix("  ").unwrap_or(line)))?;
    }
    writeln!(out, ".fi")?;
    section(out, "SEE ALSO")?;
    writeln!(out, "{}", escape("nc(1), systemd.service(5), /usr/share/doc/wordtide/"))
}

/// Writes each command with its positional arguments and what it does, those of two words in place.
fn commands_below(out: &mut dyn Write, command: &Command, before: &str) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let name = format!("{before}{}", below.get_name());
        if below.is_subcommand_required_set() {
            commands_below(out, below, &format!("{name} "))?;
            continue;
        }
        let mut shown = name;
        for argument in below.get_positionals() {
            shown = format!("{shown} {argument}");
        }
        if below.get_subcommands().next().is_some() {
            shown.push_str(" [DATAFLOW]");
        }
        entry(out, &shown, &about(below))?;
    }
    Ok(())
}

/// Writes the variables of all flags of a run, then the others.
fn environment_section(out: &mut dyn Write, command: &Command) -> io::Result<()> {
    section(out, "ENVIRONMENT")?;
    for flag in command.get_arguments() {
        if let (Some(variable), Some(long)) = (flag.get_env(), flag.get_long()) {
            entry(out, &variable.to_string_lossy(), &format!("The same as --{long}."))?;
        }
    }
    VARIABLES.iter().try_for_each(|(name, text)| entry(out, name, text))
}

/// Writes a section of tags with texts.
fn table(out: &mut dyn Write, name: &str, entries: &[(&str, &str)]) -> io::Result<()> {
    section(out, name)?;
    entries.iter().try_for_each(|(tag, text)| entry(out, tag, text))
}

/// Writes the head of a section.
fn section(out: &mut dyn Write, name: &str) -> io::Result<()> {
    writeln!(out, ".SH \"{name}\"")
}

/// A paragraph with a tag in bold.
fn entry(out: &mut dyn Write, tag: &str, text: &str) -> io::Result<()> {
    writeln!(out, ".TP\n\\fB{}\\fR\n{}", escape(tag), escape(text))
}

/// Returns the short description of a command.
fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// Makes the first letter small and drops the last full stop, as the NAME of a page has it.
fn first_words_down(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

/// Escapes what roff takes for a request, and hyphens, which a terminal must show as typed.
fn escape(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if escaped.starts_with('.') { format!("\\&{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> String {
        let mut page = Vec::new();
        render(&mut page).expect("memory takes it");
        String::from_utf8(page).expect("text")
    }

    #[test]
    fn page_has_the_usual_sections() {
        let page = page();
        for name in
            ["NAME", "SYNOPSIS", "COMMANDS", "ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES"]
        {
            let heading = format!(".SH \"{name}\"\n");
            assert_eq!(page.matches(&heading).count(), 1, "{name}");
        }
        assert!(page.contains(".SH DESCRIPTION") && page.contains(".SH OPTIONS"));
    }

    #[test]
    fn page_names_every_command_flag_and_variable() {
        let (page, command) = (page(), commands::command());
        for below in command.get_subcommands() {
            assert!(page.contains(&format!("\\fB{}", below.get_name())), "{}", below.get_name());
        }
        for flag in command.get_arguments() {
            let names = flag.get_long().map(|long| format!("--{long}"));
            let variable = flag.get_env().map(|name| name.to_string_lossy().into_owned());
            for name in names.into_iter().chain(variable) {
                assert!(page.contains(&escape(&name)), "{name}");
            }
        }
    }

    #[test]
    fn roff_requests_in_text_are_escaped() {
        assert_eq!(escape("./a\\b 'c' --d"), "\\&./a\\eb \\(aqc\\(aq \\-\\-d");
    }
}
