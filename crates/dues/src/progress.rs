//! Lines on a terminal that say how far something is, below the log.

use std::{
    io::{self, IsTerminal as _, stderr},
    sync::LazyLock,
};

use dues_indexer::{IndexerHealth, Pace};
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;

/// All of them; none where standard error is no terminal.
static LINES: LazyLock<MultiProgress> = LazyLock::new(|| {
    let terminal = stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    MultiProgress::with_draw_target(target)
});

/// A new line, in the words of indicatif's `template`.
///
/// # Errors
/// Where `template` is none.
pub(crate) fn line(template: &str) -> anyhow::Result<ProgressBar> {
    Ok(LINES.add(ProgressBar::no_length().with_style(ProgressStyle::with_template(template)?)))
}

/// Says how far the backfill of the chain `name` is, for as long as there is an indexer of it.
pub(crate) async fn watch(name: String, mut health: watch::Receiver<IndexerHealth>) -> anyhow::Result<()> {
    let mut line: Option<ProgressBar> = None;
    while health.changed().await.is_ok() {
        let IndexerHealth { checkpoint, head, pace, .. } = health.borrow_and_update().clone();
        let left = pace.and_then(|pace| pace.seconds_left).unwrap_or_default();
        match (pace, &line) {
            (Some(pace), Some(line)) => show(line, checkpoint, head, pace),
            // What is over within a second needs no line.
            (Some(pace), None) if left > 0 => {
                let new = self::line("{msg} {wide_bar} {human_pos} of {human_len} blocks, {prefix}")?;
                new.set_message(name.clone());
                show(&new, checkpoint, head, pace);
                line = Some(new);
            }
            (Some(_), None) => {}
            (None, _) => clear(line.take()),
        }
    }
    clear(line);
    Ok(())
}

fn show(line: &ProgressBar, checkpoint: Option<u64>, head: Option<u64>, pace: Pace) {
    line.set_length(head.unwrap_or_default());
    line.set_position(checkpoint.unwrap_or_default());
    line.set_prefix(in_words(pace));
}

fn in_words(pace: Pace) -> String {
    let speed = format!("{} events/s", HumanCount(pace.events_per_second));
    match pace.seconds_left {
        Some(left) => format!("{speed}, {:02}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60),
        None => speed,
    }
}

fn clear(line: Option<ProgressBar>) {
    if let Some(line) = line {
        line.finish_and_clear();
        LINES.remove(&line);
    }
}

/// Standard error for the log: what is written there stands above the lines, and they stay whole.
#[derive(Debug)]
pub(crate) struct AboveLines;

impl io::Write for AboveLines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        LINES.suspend(|| stderr().write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_in_hours_minutes_and_seconds() {
        let pace = |seconds_left| Pace { events_per_second: 12_345, seconds_left };
        assert_eq!(in_words(pace(Some(3_725))), "12,345 events/s, 01:02:05 left");
        assert_eq!(in_words(pace(None)), "12,345 events/s");
    }
}
