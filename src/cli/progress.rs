//! How far something is that takes long: a bar on stderr, on a terminal, after half a second; and where nobody can tell how far, that it goes on.

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

/// How often it moves while nobody says how far it is.
const TICK: Duration = Duration::from_millis(100);

/// Something begins that may take long, called this. [`show`] says more, [`clear`] is its end.
pub fn begin(what: &str) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    *SHOWN.lock() = Some(Shown { bar, what: String::new(), visible: false });
    // Without it there is no sign of life, and that is all.
    let _ = std::thread::Builder::new().name("progress".into()).spawn(|| {
        std::thread::sleep(PATIENCE);
        if let Some(shown) = SHOWN.lock().as_mut().filter(|shown| !shown.visible && shown.what.is_empty()) {
            shown.bar.set_draw_target(ProgressDrawTarget::stderr());
            shown.bar.enable_steady_tick(TICK);
            shown.visible = true;
        }
    });
}

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
        shown.bar.disable_steady_tick();
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
