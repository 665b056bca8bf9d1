//! How far something is that takes long: a bar on stderr, on a terminal, after half a second.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use crate::control::protocol::ProgressRow;

/// What takes less time than this needs no bar.
const PATIENCE: Duration = Duration::from_millis(500);

struct Shown {
    bar: ProgressBar,
    what: String,
    visible: bool,
}

static SHOWN: Mutex<Option<Shown>> = Mutex::new(None);

/// Notes how far it is.
pub fn show(row: &ProgressRow) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let mut shown = SHOWN.lock();
    let shown = shown.get_or_insert_with(|| Shown {
        bar: ProgressBar::with_draw_target(Some(row.total), ProgressDrawTarget::hidden()),
        what: String::new(),
        visible: false,
    });
    if !shown.visible && shown.bar.elapsed() >= PATIENCE {
        shown.bar.set_draw_target(ProgressDrawTarget::stderr());
        shown.visible = true;
    }
    if shown.what != row.what {
        shown.what.clone_from(&row.what);
        shown.bar.set_message(row.what.clone());
        let template = if row.total > 0 { "{msg:12} {bar:30} {pos}/{len} {prefix}" } else { "{msg:12} {pos} {prefix}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            shown.bar.set_style(style);
        }
    }
    if row.bytes > 0 {
        shown.bar.set_prefix(super::output::size(row.bytes));
    }
    shown.bar.set_length(row.total);
    shown.bar.set_position(row.done);
}

/// Takes the bar away: it is done, or something else is to be seen.
pub fn clear() {
    if let Some(shown) = SHOWN.lock().take() {
        shown.bar.finish_and_clear();
    }
}
