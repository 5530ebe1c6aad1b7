//! Signs of life on long work; where nobody watches a terminal, there are none unless asked for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, WeakProgressBar};

use crate::output::{note, shown};

/// Whether each step is told as a line, too.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Tells each step from now on as a line on the standard error, which need not be a terminal.
pub(crate) fn tell_steps() {
    TOLD.store(true, Ordering::Relaxed);
}

/// The spinner that is on the screen now, if there is one.
static SHOWN: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// A spinner on stderr that vanishes when it is dropped.
/// It is hidden where stderr is no terminal.
/// It changes no state of the terminal, so a command may end at any time with one on the screen.
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    pub(crate) fn start(message: impl AsRef<str>) -> Self {
        let bar = ProgressBar::new_spinner();
        *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.downgrade());
        let spinner = Spinner(bar);
        spinner.say(message);
        if !spinner.0.is_hidden() {
            spin(spinner.0.downgrade());
        }
        spinner
    }

    pub(crate) fn say(&self, message: impl AsRef<str>) {
        self.0.set_message(shown(message.as_ref()).into_owned());
        if TOLD.load(Ordering::Relaxed) {
            note!("{}", message.as_ref());
        }
    }
}

/// Turns a spinner on a thread of its own, for as long as it is there.
/// It stands still where the system gives no thread.
fn spin(bar: WeakProgressBar) {
    let turn = move || {
        while let Some(bar) = bar.upgrade() {
            bar.tick();
            drop(bar);
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let _ = std::thread::Builder::new().name("spinner".to_owned()).spawn(turn);
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Prints something beside the spinner, which makes room for it.
pub(crate) fn aside(print: impl FnOnce()) {
    let spinner = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(WeakProgressBar::upgrade);
    match spinner {
        Some(spinner) => spinner.suspend(print),
        None => print(),
    }
}
