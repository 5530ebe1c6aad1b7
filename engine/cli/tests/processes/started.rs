//! A process under way, whose steps are heard when they begin.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// The time after which a command counts as hung.
const HANGS: Duration = Duration::from_secs(120);

/// A process, in a group of its own as a terminal's jobs are.
pub(crate) struct Started {
    child: Child,
    /// The lines of its standard error, each with the moment at which it came.
    lines: Receiver<(Instant, String)>,
    printed: Option<JoinHandle<Vec<u8>>>,
    heard: Vec<(Instant, String)>,
}

impl Started {
    pub(crate) fn new(command: &mut Command) -> Started {
        let mut child = command.process_group(0).spawn().unwrap();
        let (error, mut output) = (child.stderr.take().unwrap(), child.stdout.take().unwrap());
        let (told, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(error).split(b'\n') {
                let Ok(line) = line else { break };
                let _ = told.send((Instant::now(), String::from_utf8_lossy(&line).into_owned()));
            }
        });
        let printed = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = output.read_to_end(&mut bytes);
            bytes
        });
        Started { child, lines, printed: Some(printed), heard: vec![] }
    }

    /// Waits for a line of the standard error; returns `false` where the process ends without it.
    pub(crate) fn hear(&mut self, step: &str) -> bool {
        while let Ok((at, line)) = self.lines.recv_timeout(HANGS) {
            let found = line == step;
            self.heard.push((at, line));
            if found {
                return true;
            }
        }
        false
    }

    /// Sends a signal to the process and to those that it started, as a terminal does.
    pub(crate) fn signal(&self, signal: Signal) {
        // It fails where all of them have ended.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// Kills the process alone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for the end of the process, and returns the time that it took.
    pub(crate) fn wait(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, began.elapsed());
            }
            if began.elapsed() > HANGS {
                self.signal(Signal::KILL);
                panic!("the process hangs");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Returns all lines of the standard error, once the process has ended.
    pub(crate) fn lines(&mut self) -> &[(Instant, String)] {
        while let Ok(line) = self.lines.recv_timeout(HANGS) {
            self.heard.push(line);
        }
        &self.heard
    }

    /// Waits for the end of the process, and returns what it printed.
    pub(crate) fn end(mut self) -> Output {
        let (status, _) = self.wait();
        let stderr = self.lines().iter().flat_map(|(_, line)| format!("{line}\n").into_bytes()).collect();
        let stdout = self.printed.take().unwrap().join().unwrap();
        Output { status, stdout, stderr }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Returns the standard error without the breaks of a report's lines.
pub(crate) fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).replace(['\n', '│'], " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
