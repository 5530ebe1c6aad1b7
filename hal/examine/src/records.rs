//! Verdicts that are kept: for this process, and for later ones in a folder.
//!
//! A file has a line of JSON and a line with the digest of the first one.
//! Whatever is not exactly so counts as absent, and the device is examined again.
//! Errors of the folder are no errors of an examination; they are kept for whoever asks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use hetero_kit::digest;
use serde::{Deserialize, Serialize};

use crate::verdict::Verdict;

/// The most bytes of a file; a verdict has about a thousand.
const LARGEST: u64 = 64 << 10;
/// The most files of the folder; those that were written first are removed first.
const MOST_FILES: usize = 64;
/// The ending of the files' names; files with another ending are left alone.
const ENDING: &str = "verdict";

/// The verdicts that this process knows, by key.
static KNOWN: Mutex<Option<HashMap<u128, Verdict>>> = Mutex::new(None);

/// What it means that verdicts cannot be kept.
pub(crate) const UNKEPT: &str = "examinations are not kept, so each process examines devices anew";

/// What went wrong with examinations, each text once, and how many of the texts were handed out.
static TROUBLES: Mutex<(Vec<String>, usize)> = Mutex::new((Vec::new(), 0));

/// Remembers what went wrong, for whoever asks.
pub(crate) fn complain(trouble: String) {
    let mut troubles = TROUBLES.lock().unwrap_or_else(PoisonError::into_inner);
    if !troubles.0.contains(&trouble) {
        troubles.0.push(trouble);
    }
}

/// Returns what went wrong since the last call.
pub(crate) fn troubles() -> Vec<String> {
    let mut troubles = TROUBLES.lock().unwrap_or_else(PoisonError::into_inner);
    let (texts, told) = &mut *troubles;
    let known = std::mem::replace(told, texts.len());
    texts.iter().skip(known).cloned().collect()
}

/// What a file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// All that the verdict depends on, as its key was made of.
    of: String,
    verdict: Verdict,
}

/// Returns the verdict about what a text describes, from this process or from the folder.
pub(crate) fn find(folder: Option<&Path>, of: &str) -> Option<Verdict> {
    let key = digest(of.as_bytes());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(verdict) = known.as_ref().and_then(|known| known.get(&key)) {
        return Some(verdict.clone());
    }
    let verdict = read(&path(folder?, key), of)?;
    known.get_or_insert_default().insert(key, verdict.clone());
    Some(verdict)
}

/// Keeps a verdict in this process, and in the folder where it says something.
pub(crate) fn keep(folder: Option<&Path>, of: &str, verdict: &Verdict) {
    let key = digest(of.as_bytes());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.get_or_insert_default().insert(key, verdict.clone());
    drop(known);
    if let Some(folder) = folder.filter(|_| verdict.is_conclusive()) {
        // Where the folder cannot be written, nothing is kept, and that is no error.
        if let Err(error) = write(&path(folder, key), &Record { of: of.to_owned(), verdict: verdict.clone() }) {
            complain(format!("{UNKEPT}: cannot write to {}: {error}", folder.display()));
        }
        let _ = trim(folder);
    }
}

fn path(folder: &Path, key: u128) -> PathBuf {
    folder.join(format!("{key:032x}.{ENDING}"))
}

fn read(path: &Path, of: &str) -> Option<Verdict> {
    let bytes = hetero_files::read(path, LARGEST).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let (line, seal) = text.strip_suffix('\n')?.split_once('\n')?;
    let record: Record = serde_json::from_str(line).ok().filter(|_| *seal == sealed(line))?;
    (record.of == of && record.verdict.holds()).then_some(record.verdict)
}

fn sealed(line: &str) -> String {
    format!("{:032x}", digest(line.as_bytes()))
}

/// Writes a file as a whole or not at all, because other processes may read it.
fn write(path: &Path, record: &Record) -> hetero_files::Result<()> {
    let line = serde_json::to_string(record).map_err(std::io::Error::from)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
        hetero_files::remove_old_drafts(folder);
    }
    hetero_files::replace(path, format!("{line}\n{}\n", sealed(&line)))
}

/// Removes the files that were written first, where there are too many.
fn trim(folder: &Path) -> std::io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let changed = entry.metadata().and_then(|about| about.modified());
        if path.extension().is_some_and(|ending| ending == ENDING) {
            files.push((changed.unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
    }
    files.sort_unstable_by(|a, b| b.cmp(a));
    for (_, path) in files.drain(..).skip(MOST_FILES) {
        // Another process may have removed the file already.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::FailureKind;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            Folder(std::env::temp_dir().join(format!("hetero-verdicts-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn verdict() -> Verdict {
        Verdict { passed: vec!["Conv 3×3".into()], ..Verdict::failed(FailureKind::Wrong, "Softmax") }
    }

    /// What another process sees, which has only the folder.
    fn from_folder(folder: &Folder, of: &str) -> Option<Verdict> {
        read(&path(&folder.0, digest(of.as_bytes())), of)
    }

    #[test]
    fn a_verdict_is_found_again_under_all_that_it_is_about_and_under_nothing_else() {
        let folder = Folder::new("again");
        keep(Some(&folder.0), "driver 1", &verdict());
        assert_eq!(from_folder(&folder, "driver 1"), Some(verdict()));
        assert_eq!(find(None, "driver 1"), Some(verdict()), "the process itself knows it");
        assert_eq!(find(Some(&folder.0), "driver 2"), None);
        // A file under a name that is not its own is no answer.
        std::fs::copy(path(&folder.0, digest(b"driver 1")), path(&folder.0, digest(b"driver 2"))).unwrap();
        assert_eq!(from_folder(&folder, "driver 2"), None);
    }

    #[test]
    fn a_damaged_file_counts_as_absent_wherever_it_is_damaged() {
        let folder = Folder::new("damaged");
        keep(Some(&folder.0), "damaged", &verdict());
        let path = path(&folder.0, digest(b"damaged"));
        let sound = std::fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 4;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(read(&path, "damaged"), None, "byte {at}");
            std::fs::write(&path, &sound[..at]).unwrap();
            assert_eq!(read(&path, "damaged"), None, "{at} bytes");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(read(&path, "damaged"), None);
    }

    #[test]
    fn what_says_nothing_is_not_kept_on_disk_and_a_folder_that_cannot_be_written_is_no_error() {
        let folder = Folder::new("nothing");
        keep(Some(&folder.0), "unknown", &Verdict::unknown("no memory"));
        assert!(!folder.0.exists());
        std::fs::write(&folder.0, "a file is in the way").unwrap();
        keep(Some(&folder.0), "in the way", &verdict());
        assert_eq!(find(Some(&folder.0), "in the way"), Some(verdict()));
        std::fs::remove_file(&folder.0).unwrap();
    }

    #[test]
    fn the_folder_does_not_grow_without_end() {
        let folder = Folder::new("many");
        for number in 0..MOST_FILES + 5 {
            keep(Some(&folder.0), &format!("many {number}"), &verdict());
        }
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), MOST_FILES);
    }
}
