//! An examination in a process of its own, which may crash, hang and print as it likes.

use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::exam::late;
use crate::verdict::{FailureKind, Verdict, shortened};
use crate::wire::{Answer, LONGEST, REQUEST, Request};

/// The most bytes of a line that are looked at; an answer has about a thousand.
const LONGEST_LINE: usize = 32 << 10;
/// The most bytes of the driver's words that are kept.
const MOST_WORDS: usize = 4 << 10;
/// The most characters of the driver's words that a verdict has.
const MOST_SAID: usize = 400;
/// The time that a program has to say that it examines devices, which it does before anything else.
const GREETING: Duration = Duration::from_secs(10);
/// The time after which it is looked again whether the process has ended.
const PAUSE: Duration = Duration::from_millis(20);
/// The time that a process has to end after its answer or after it was killed, and its output after
/// its end.
const PATIENCE: Duration = Duration::from_secs(2);

/// The variable that names the user's folder for caches, for hetero and for many drivers.
const CACHES: &str = "XDG_CACHE_HOME";

/// A program that examines devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Examiner {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
}

/// The reason why no process examined the device.
#[derive(Debug)]
pub(crate) enum NotExamined {
    /// There is no such program, it is no examiner, or it does not know the device.
    NoExaminer,
    /// The system starts no process now, for want of descriptors, processes or memory.
    NotStarted(std::io::Error),
}

impl From<std::io::Error> for NotExamined {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied => NotExamined::NoExaminer,
            _ => NotExamined::NotStarted(error),
        }
    }
}

/// What the process has told so far.
#[derive(Default)]
struct Heard {
    /// Whether the process is an examiner.
    begun: bool,
    /// Whether the process does not know the device.
    unknown: bool,
    /// The question that the device was asked last.
    asked: Option<String>,
    found: Option<Verdict>,
    /// What the driver printed.
    words: String,
}

impl Heard {
    fn take(&mut self, mark: &str, line: &str) {
        // A driver may have left the beginning of the line without its end.
        let Some((before, text)) = line.split_once(mark) else {
            if self.begun && self.words.len() < MOST_WORDS && !line.trim().is_empty() {
                self.words.extend(line.trim_end().chars().take(MOST_WORDS));
                self.words.push('\n');
            }
            return;
        };
        if !before.is_empty() {
            self.take(mark, before);
        }
        match serde_json::from_str(text.trim_end()) {
            Ok(Answer::Begun) => self.begun = true,
            Ok(Answer::Unknown) => self.unknown = true,
            Ok(Answer::Asks(question)) => self.asked = Some(question),
            Ok(Answer::Found(verdict)) => self.found = Some(verdict),
            Err(_) => {}
        }
    }

    fn question(&self) -> &str {
        self.asked.as_deref().unwrap_or("opening the device")
    }

    fn said(&self) -> String {
        shortened(&self.words, MOST_SAID)
    }
}

/// Examines a device by a process of the examiner's.
pub(crate) fn examine(examiner: &Examiner, request: &Request) -> Result<Verdict, NotExamined> {
    let began = Instant::now();
    let (request, _in_use) = request.clone().with_caches();
    let heard = Running::start(examiner, &request).map(|mut running| {
        let heard = running.hear(&request.mark(), began + request.limit());
        running.stop();
        heard
    });
    request.remove_caches();
    let (heard, end) = heard?;
    let mut verdict = match (heard.found.clone(), end) {
        _ if heard.unknown || !heard.begun => return Err(NotExamined::NoExaminer),
        (Some(verdict), _) => verdict,
        (None, End::Late) => late(heard.question(), request.limit()),
        (None, End::Ended(status)) => ended(&heard, status),
    };
    if let Some(failure) = &mut verdict.failure {
        failure.said = heard.said();
    }
    verdict.seconds = began.elapsed().as_secs_f64();
    Ok(verdict)
}

/// Returns the verdict about a driver whose process ended without an answer.
fn ended(heard: &Heard, status: Option<ExitStatus>) -> Verdict {
    let question = heard.question();
    if let Some(signal) = status.and_then(signal) {
        if let Some((_, name)) = FROM_OUTSIDE.iter().find(|(number, _)| *number == signal) {
            return Verdict::unknown(format!("the examination was ended from outside ({name}) at: {question}"));
        }
        return Verdict::failed(FailureKind::Crashed, format!("signal {signal}{} at: {question}", name(signal)));
    }
    let code =
        status.and_then(|status| status.code()).map_or_else(String::new, |code| format!(" with exit code {code}"));
    Verdict::failed(FailureKind::Crashed, format!("it ended the process{code} at: {question}"))
}

/// The signals by which users and systems end processes; a driver does not crash by them.
const FROM_OUTSIDE: [(i32, &str); 4] =
    [(1, "SIGHUP"), (2, "SIGINT"), (9, "SIGKILL, perhaps for want of memory"), (15, "SIGTERM")];

fn name(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        8 => " (SIGFPE)",
        11 => " (SIGSEGV)",
        _ => "",
    }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}

/// How the examination came to its end.
enum End {
    /// The process has ended, or told all that it knows.
    Ended(Option<ExitStatus>),
    /// The time is over.
    Late,
}

/// The process, and what it prints.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(examiner: &Examiner, request: &Request) -> Result<Running, NotExamined> {
        let text = serde_json::to_string(request).ok().filter(|text| text.len() <= LONGEST);
        let text = text.ok_or(NotExamined::NoExaminer)?;
        // One pipe for both outputs keeps the driver's words and the answers in their order.
        let (output, input) = std::io::pipe()?;
        let mut command = Command::new(&examiner.program);
        command.args(&examiner.arguments).env(REQUEST, text);
        request.caches.iter().for_each(|folder| {
            command.env(CACHES, folder);
        });
        // The process ends when the other end of its standard input is closed, which the system
        // does where this process ends.
        command.stdin(Stdio::piped()).stdout(input.try_clone()?).stderr(input);
        let child = command.spawn()?;
        // The command holds the pipe's writing end, and the reader would never see the end of it.
        drop(command);
        let (told, lines) = sync_channel(64);
        let read = move || read(output, &told);
        let mut running = Running { child, lines };
        match std::thread::Builder::new().name("examination's output".to_owned()).spawn(read) {
            Ok(_) => Ok(running),
            Err(error) => {
                running.stop();
                Err(error.into())
            }
        }
    }

    /// Listens until the process has answered or ended, or the time is over.
    fn hear(&mut self, mark: &str, deadline: Instant) -> (Heard, End) {
        let mut heard = Heard::default();
        let greeted = Instant::now() + GREETING;
        // The end of the process, and the moment until which the rest of its output is awaited.
        let mut ended: Option<(Option<ExitStatus>, Instant)> = None;
        loop {
            match self.lines.recv_timeout(PAUSE) {
                Ok(line) => heard.take(mark, &line),
                Err(RecvTimeoutError::Timeout) => {}
                // The output is closed, and so the process has ended, or answers no more.
                Err(RecvTimeoutError::Disconnected) => return (heard, End::Ended(self.await_end(PATIENCE))),
            }
            if heard.found.is_some() || heard.unknown {
                return (heard, End::Ended(self.await_end(PATIENCE)));
            }
            match &ended {
                // A process that the driver has started may keep the output open.
                Some((status, until)) if Instant::now() >= *until => return (heard, End::Ended(*status)),
                Some(_) => {}
                None => ended = self.child.try_wait().ok().flatten().map(|s| (Some(s), Instant::now() + PATIENCE / 10)),
            }
            let until = if heard.begun { deadline } else { deadline.min(greeted) };
            if ended.is_none() && Instant::now() >= until {
                return (heard, End::Late);
            }
        }
    }

    /// Waits for the end of the process, for a while.
    fn await_end(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                outcome => return outcome.ok().flatten(),
            }
        }
    }

    /// Ends the process where it has not ended by itself.
    fn stop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            // It fails where the process has ended meanwhile.
            let _ = self.child.kill();
            let _ = self.await_end(PATIENCE);
        }
    }
}

/// Hands on what the process prints, line by line; what is longer than a line may be is cut.
fn read(mut output: impl Read, told: &SyncSender<String>) {
    let (mut line, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        let count = match output.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for &byte in bytes.iter().take(count) {
            line.push(byte);
            if byte == b'\n' || line.len() >= LONGEST_LINE {
                let text = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                // Where nobody listens any more, what is printed is still read, so that no process
                // waits for room in the pipe or is ended by it.
                let _ = told.send(text);
            }
        }
    }
    let _ = told.send(String::from_utf8_lossy(&line).into_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "@hetero 7 ";

    #[test]
    fn answers_are_told_from_a_drivers_words_wherever_these_end() {
        let mut heard = Heard::default();
        let found = serde_json::to_string(&Answer::Found(Verdict::new())).unwrap();
        for line in [
            "words of the program\n",
            &format!("{MARK}\"Begun\"\n"),
            "Unknown host CPU\n",
            "@hetero 8 \"Unknown\"\n",
            &format!("half a line{MARK}{{\"Asks\":\"Conv 3×3\"}}\n"),
            &format!("{MARK}no answer\n"),
            &format!("{MARK}{found}\n"),
        ] {
            heard.take(MARK, line);
        }
        assert_eq!(heard.said(), "Unknown host CPU / @hetero 8 \"Unknown\" / half a line");
        assert_eq!((heard.question(), heard.unknown, heard.begun), ("Conv 3×3", false, true));
        assert!(heard.found.is_some());
    }

    #[test]
    fn words_without_end_are_cut() {
        let mut heard = Heard { begun: true, ..Heard::default() };
        (0..100_000).for_each(|_| heard.take(MARK, "never mind\n"));
        assert!(heard.words.len() < 2 * MOST_WORDS && heard.said().chars().count() <= MOST_SAID + 1);
        let (told, lines) = sync_channel(64);
        std::thread::spawn(move || read(std::io::repeat(b'x').take(10 * LONGEST_LINE as u64), &told));
        assert!(lines.iter().all(|line| line.len() <= LONGEST_LINE));
    }
}
