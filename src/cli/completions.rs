//! `watchmark completions`

use clap::Args;
use clap_complete::Shell;

use super::{failure::Failure, output::Output};

const AFTER_HELP: &str = "\
Examples:
  watchmark completions bash > /etc/bash_completion.d/watchmark
  watchmark completions zsh > /usr/local/share/zsh/site-functions/_watchmark";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Flags {
    /// For which shell
    shell: Shell,
}

pub(super) fn run(
    flags: &Flags,
    mut grammar: clap::Command,
    output: &mut Output,
) -> Result<(), Failure> {
    // Printed afterwards: the library panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut grammar, "watchmark", &mut script);
    output.bytes(&script)
}
