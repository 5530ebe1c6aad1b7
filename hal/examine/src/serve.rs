//! The process that examines a device.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use hetero_hal::{DeviceId, Driver};

use crate::exam::examine;
use crate::wire::{Answer, LONGEST, REQUEST, Request, about};

/// The exit code of a process that was not asked to examine a device, or asked in words that it
/// does not know.
const NOT_ASKED: u8 = 2;

/// Examines the device that another process asks for, with these drivers, and answers.
/// This is what the program does that [`Examination::by`](crate::Examination::by) names; the
/// process is to end with the exit code.
///
/// The request is in the environment, so the call does nothing but return a code of failure in a
/// process that nobody started for this.
#[must_use]
pub fn answer_examination(drivers: &[Arc<dyn Driver>]) -> ExitCode {
    let request = std::env::var(REQUEST).ok().filter(|text| text.len() <= LONGEST);
    let request: Option<Request> = request.and_then(|text| serde_json::from_str(&text).ok());
    let Some(request) = request else { return ExitCode::from(NOT_ASKED) };
    end_with_the_asker(&request);
    let mark = request.mark();
    let tell = |answer: &Answer| tell(&mark, answer);
    tell(&Answer::Begun);
    match find(drivers, &request) {
        Some((driver, id)) => {
            let mut asks = |question: &str| tell(&Answer::Asks(question.to_owned()));
            let verdict = examine(&**driver, id.ordinal(), &request.options(), request.limit(), &mut asks);
            tell(&Answer::Found(verdict));
        }
        None => tell(&Answer::Unknown),
    }
    ExitCode::SUCCESS
}

/// Tells whether this process was started to examine a device.
#[must_use]
pub fn is_examination() -> bool {
    std::env::var_os(REQUEST).is_some()
}

/// Returns the device that is meant: the same product, with the same driver, under the same id.
fn find<'a>(drivers: &'a [Arc<dyn Driver>], request: &Request) -> Option<(&'a Arc<dyn Driver>, DeviceId)> {
    let id: DeviceId = request.device.parse().ok()?;
    let driver = drivers.iter().find(|driver| driver.name() == id.driver())?;
    let infos = driver.probe().ok()?;
    infos.iter().any(|info| info.id == id && about(info) == request.of).then_some((driver, id))
}

/// Writes an answer as one line, whatever a driver has printed before it.
fn tell(mark: &str, answer: &Answer) {
    let Ok(text) = serde_json::to_string(answer) else { return };
    let line = format!("\n{mark}{text}\n");
    // Both outputs are the same pipe, unless the driver or the program has closed one.
    let mut output = std::io::stdout().lock();
    if output.write_all(line.as_bytes()).and_then(|()| output.flush()).is_err() {
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

/// Ends this process when the one that asked has ended: it holds the other end of this process's
/// standard input, and writes nothing to it.
fn end_with_the_asker(request: &Request) {
    let request = request.clone();
    let wait = move || {
        let mut input = std::io::stdin().lock();
        while input.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        // A driver that hangs may hang in what it does at the end of a process, too.
        let _ = std::thread::Builder::new().name("examination's end".to_owned()).spawn(|| {
            std::thread::sleep(std::time::Duration::from_secs(1));
            std::process::abort();
        });
        request.remove_caches();
        std::process::exit(i32::from(NOT_ASKED));
    };
    // Without the thread, the process ends when the device has answered.
    let _ = std::thread::Builder::new().name("examination's asker".to_owned()).spawn(wait);
}
