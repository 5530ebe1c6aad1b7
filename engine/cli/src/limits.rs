//! The deadline of the whole command.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hetero::hal::Allowance;

use crate::output;

/// The moment at which the command gives up; it belongs to the process, as its watch does.
static DEADLINE: OnceLock<Instant> = OnceLock::new();

/// The time that the command has to end by itself once its deadline has passed.
const GRACE: Duration = Duration::from_millis(500);

/// Sets the command's deadline, and watches over it.
/// Work that looks at its deadline ends with a report; a driver that does not is left behind by the
/// end of the process.
pub(crate) fn watch(time: Duration) {
    let Some(deadline) = Instant::now().checked_add(time) else { return };
    if DEADLINE.set(deadline).is_err() {
        return;
    }
    let watch = move || {
        std::thread::sleep(time.saturating_add(GRACE));
        output::report(&format!("the command passed its deadline of {time:?}, inside work that cannot be interrupted"));
        // Handlers of drivers run at the exit, and may wait for the very work that hangs.
        #[cfg(unix)]
        let _ = std::thread::Builder::new().name("end".to_owned()).spawn(|| {
            std::thread::sleep(GRACE);
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        });
        std::process::exit(1);
    };
    // Without a thread there is no watch, and work that looks at its deadline ends all the same.
    let _ = std::thread::Builder::new().name("deadline".to_owned()).spawn(watch);
}

/// Returns the time that is left to the command, where it has a deadline.
pub(crate) fn left() -> Option<Duration> {
    DEADLINE.get().map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

/// Returns what reading a model may take: the memory limit, where there is one, and the command's
/// time.
pub(crate) fn allowance(memory_limit: Option<u64>) -> Allowance {
    let bytes = memory_limit.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    bytes.map_or_else(Allowance::default, Allowance::new).until(DEADLINE.get().copied())
}
