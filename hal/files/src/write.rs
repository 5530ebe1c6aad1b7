//! Writing: a file is replaced as a whole or not at all.

use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Result;
use crate::system::{Target, remove_abandoned, target};

/// The beginning and the end of a draft's name; between them are the numbers of the process and of
/// the draft.
const DRAFT: (&str, &str) = (".hetero-", ".tmp");

/// Writes these bytes to a file, as [`replace_with`] does.
///
/// # Errors
/// The errors of [`replace_with`].
pub fn replace(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    replace_with(path, |out| out.write_all(bytes.as_ref()))
}

/// Writes a file: the old content stays until the new one is complete, and no part of a new one
/// remains where writing fails.
///
/// The content is written to a draft beside the file, which then takes its name.
/// Where the path is a link, the file that it leads to is replaced.
/// A file that was there keeps its permissions; other names of it (hard links) keep the old
/// content.
/// What is no file is written to as it is: a device, a pipe that somebody reads from, and the
/// standard output under the name `/dev/stdout`.
/// A pipe whose reader takes nothing for ten seconds is given up.
///
/// # Errors
/// `System` where the system refuses, such as on a full disk, `NotRegular` for a folder, and
/// `Stalled`.
pub fn replace_with(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    match target(path.as_ref())? {
        Target::Stream(mut stream) => written(&mut stream, write),
        Target::File(mut draft) => {
            written(&mut draft.file, write)?;
            draft.keep()
        }
    }
}

/// Removes the drafts in a folder that were left by processes that the system ended while they
/// wrote.
/// Whether a writer has ended is told by the lock that it has on its draft.
/// Where the file system has no locks, a draft of the last hour may still be written, and stays.
pub fn remove_old_drafts(folder: impl AsRef<Path>) {
    const OLD: Duration = Duration::from_secs(3600);
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_draft = entry.file_name().to_str().is_some_and(|name| {
            name.strip_prefix(DRAFT.0)
                .and_then(|rest| rest.strip_suffix(DRAFT.1))
                .is_some_and(|middle| middle.split('-').all(|number| number.parse::<u64>().is_ok()))
        });
        if !is_draft || remove_abandoned(&entry.path()) {
            continue;
        }
        let age = entry.metadata().and_then(|about| about.modified()).ok().and_then(|then| then.elapsed().ok());
        if age.is_some_and(|age| age > OLD) {
            // Another process may have removed it already.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Returns a name for a draft, which no other draft of this process has.
/// It is as long as it has to be, whatever the file's own name.
pub(crate) fn draft_name() -> OsString {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    format!("{}{}-{number}{}", DRAFT.0, std::process::id(), DRAFT.1).into()
}

fn written(out: &mut dyn Write, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let done = write(&mut out).and_then(|()| out.flush());
    // What is left in a writer that failed would be written again when it is dropped.
    let _ = out.into_parts();
    Ok(done?)
}
