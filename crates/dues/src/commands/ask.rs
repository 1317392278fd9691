//! Asking somebody at a terminal before something is done.

use std::io::{BufRead as _, IsTerminal as _, Write as _, stderr, stdin};

/// Whether anybody is there to be asked.
pub(super) fn somebody_is_there() -> bool {
    stdin().is_terminal()
}

/// Asks `question`, and takes anything but yes for no.
pub(super) fn confirm(question: &str) -> anyhow::Result<bool> {
    eprint!("{question} [y/N] ");
    stderr().flush()?;
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
