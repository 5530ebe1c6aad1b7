//! Pipes: those that this process was given, and waiting at them, within a limit.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};

/// The seconds for which nothing may pass through a pipe before the wait is given up.
#[cfg(not(test))]
const PATIENCE: i64 = 10;
#[cfg(test)]
const PATIENCE: i64 = 1;

/// Tells whether a path names a descriptor that this process was given.
pub(super) fn is_given(path: &Path) -> bool {
    let descriptors = ["/dev/fd", "/proc/self/fd"];
    let streams = ["/dev/stdin", "/dev/stdout", "/dev/stderr"];
    streams.iter().any(|stream| path == Path::new(stream))
        || descriptors.iter().any(|folder| path.parent() == Some(Path::new(folder)))
}

/// Opens a path where it names a pipe that this process was given.
pub(crate) fn given_pipe(path: &Path) -> Result<Option<impl Read + use<>>> {
    if !is_given(path) {
        return Ok(None);
    }
    let file = super::open(path)?;
    let is_pipe = file.metadata()?.file_type().is_fifo();
    Ok(is_pipe.then_some(Patient(file)))
}

/// A file that does not block, read and written as one that waits, though not for ever.
pub(super) struct Patient(pub(super) File);

impl Patient {
    /// Does a step as soon as the file is ready for it.
    fn when<T>(
        &mut self,
        ready: PollFlags,
        mut step: impl FnMut(&mut File) -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        loop {
            match step(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            let limit = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
            match poll(&mut [PollFd::new(&self.0, ready)], Some(&limit)) {
                Ok(0) => return Err(Error::Stalled { seconds: PATIENCE.unsigned_abs() }.into()),
                // A signal that did not end the process interrupts the wait.
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for Patient {
    fn read(&mut self, memory: &mut [u8]) -> std::io::Result<usize> {
        self.when(PollFlags::IN, |file| file.read(memory))
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.when(PollFlags::OUT, |file| file.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
