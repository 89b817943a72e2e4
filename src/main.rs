//! The program `wordtide`: everything is in the library's [`wordtide::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    wordtide::cli::main()
}
