//! What a process finds around it: the user's folder for caches, environment variables, and files
//! that may change under a name.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Returns hetero's folder in the user's folder for caches: `hetero` in `XDG_CACHE_HOME`, or in
/// `.cache` of `HOME`.
/// Returns `None` where neither variable is set.
/// The folder need not exist, and need not be one that can be written.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(base.join("hetero"))
}

/// Returns the environment variables whose names begin with one of these texts, sorted, a line for
/// each.
/// A backend puts it into [`DeviceInfo::identity`](hetero_hal::DeviceInfo::identity), with the
/// beginnings of the names that its driver reads.
#[must_use]
pub fn variables(beginnings: &[&str]) -> String {
    let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
    let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let mut read: Vec<String> = all
        .filter(|(name, _)| beginnings.iter().any(|beginning| name.starts_with(beginning)))
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    read.sort_unstable();
    read.concat()
}

/// Returns a line that changes where somebody writes another file in the place of this one: the
/// path, the bytes, and the time of the last change.
#[must_use]
pub fn file_identity(path: &Path) -> String {
    let about = std::fs::metadata(path).ok();
    let changed = about.as_ref().and_then(|about| about.modified().ok()?.duration_since(UNIX_EPOCH).ok());
    let bytes = about.map_or(0, |about| about.len());
    format!("{} {bytes} {}\n", path.display(), changed.map_or(0, |time| time.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_anew_has_another_identity() {
        let path = std::env::temp_dir().join(format!("hetero-identity-{}", std::process::id()));
        let absent = file_identity(&path);
        std::fs::write(&path, "one").unwrap();
        let one = file_identity(&path);
        std::fs::write(&path, "three").unwrap();
        let three = file_identity(&path);
        std::fs::remove_file(&path).unwrap();
        assert!(absent != one && one != three);
        assert_eq!(file_identity(&path), absent);
    }

    #[test]
    fn only_the_variables_that_are_asked_for_are_told() {
        // Cargo sets these for every test.
        let told = variables(&["CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR"]);
        assert_eq!(
            told,
            format!("CARGO_PKG_NAME=hetero-kit\nCARGO_PKG_VERSION_MAJOR={}\n", env!("CARGO_PKG_VERSION_MAJOR"))
        );
        assert_eq!(variables(&[]), "");
    }
}
