//! Files that options name and commands write: no two of them are one file, and none is a file that
//! another option names to be read.

use std::collections::HashSet;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::error::ErrorKind;

use crate::failure::{Failure, Result};
use crate::output;
use crate::progress::Spinner;

/// A file that a command writes.
/// Each option for such a file has this type, by which [`check`] finds them all.
#[derive(Clone, Debug)]
pub(crate) struct OutFile {
    named: PathBuf,
    /// The path under which it is opened.
    opened: PathBuf,
}

impl OutFile {
    pub(crate) fn parser() -> impl TypedValueParser<Value = OutFile> {
        PathBufValueParser::new().map(|named| OutFile { opened: output::path(named.clone()), named })
    }

    /// Makes the file, with this content.
    pub(crate) fn write(&self, text: &str) -> Result<()> {
        let _spinner = Spinner::start(format!("writing {self}"));
        hetero_files::remove_old_drafts(folder(&self.opened));
        hetero_files::replace(&self.opened, text).map_err(|error| Failure::unwritten(&self.named, error))
    }
}

impl std::fmt::Display for OutFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.named.display().fmt(f)
    }
}

impl From<OutFile> for PathBuf {
    fn from(file: OutFile) -> PathBuf {
        file.opened
    }
}

/// What tells one file from another, whatever they are called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The device and the number of a file that there is.
    #[cfg(unix)]
    There(u64, u64),
    /// The path of a file.
    Path(PathBuf),
}

impl Place {
    /// Returns the place of a file, or `None` where any number of outputs may go at once, such as
    /// the null device.
    pub(crate) fn of(path: &Path) -> Option<Place> {
        match std::fs::metadata(path) {
            Ok(metadata) => Place::known(&metadata, path),
            Err(_) => Some(Place::Path(absolute(path))),
        }
    }

    #[cfg(unix)]
    fn known(metadata: &Metadata, _: &Path) -> Option<Place> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};

        let shared = metadata.file_type().is_char_device();
        (!shared).then(|| Place::There(metadata.dev(), metadata.ino()))
    }

    #[cfg(not(unix))]
    fn known(_: &Metadata, path: &Path) -> Option<Place> {
        Some(Place::Path(absolute(path)))
    }
}

/// Returns the path of a file that need not be there: its folder without links, and its name.
fn absolute(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // A link may lead to a file that will be made; the system follows no more links than these.
    for _ in 0..40 {
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().map_or_else(|| target.clone(), |folder| folder.join(&target));
    }
    let name = path.file_name().map(|name| {
        if cfg!(unix) && cfg!(not(target_os = "macos")) { name.to_owned() } else { name.to_ascii_lowercase() }
    });
    let folder = folder(&path);
    let folder = std::fs::canonicalize(folder).or_else(|_| std::path::absolute(folder));
    match (folder, name) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path,
    }
}

/// Returns the folder that a file is in by its path.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Checks that no two files that a command writes are one, and that it reads none of them.
///
/// # Errors
/// Bad usage, with the names of both options.
pub(crate) fn check(command: &mut clap::Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name, below)) = matches.subcommand() else { return check_one(command, matches) };
    check_one(command, matches)?;
    match command.find_subcommand_mut(name) {
        Some(command) => check(command, below),
        None => Ok(()),
    }
}

fn check_one(command: &mut clap::Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let mut written: Vec<(String, Place)> = Vec::new();
    let own = output::metadata().filter(Metadata::is_file);
    if let Some(place) = own.and_then(|metadata| Place::known(&metadata, Path::new(""))) {
        written.push(("the standard output".to_owned(), place));
    }
    let mut read: HashSet<(String, Place)> = HashSet::new();
    for id in matches.ids() {
        let label = label(command, id.as_str());
        // Options of other types than these name no file.
        if let Ok(Some(paths)) = matches.try_get_many::<PathBuf>(id.as_str()) {
            read.extend(paths.filter_map(|path| Some((label.clone(), Place::of(path)?))));
        }
    }
    for id in matches.ids() {
        let label = label(command, id.as_str());
        let Ok(Some(files)) = matches.try_get_many::<OutFile>(id.as_str()) else { continue };
        for file in files {
            let Some(place) = Place::of(&file.opened) else { continue };
            let said = output::shown(&file.to_string()).into_owned();
            if let Some((other, _)) = written.iter().find(|(_, other)| *other == place) {
                let message = format!("{label} and {other} write to one file: {said}");
                return Err(command.error(ErrorKind::ArgumentConflict, message));
            }
            if let Some((other, _)) = read.iter().find(|(_, other)| *other == place) {
                let message = format!("{label} would write over the file that {other} names: {said}");
                return Err(command.error(ErrorKind::ArgumentConflict, message));
            }
            written.push((label.clone(), place));
        }
    }
    Ok(())
}

/// Returns what users call an argument.
fn label(command: &clap::Command, id: &str) -> String {
    let argument = command.get_arguments().find(|argument| argument.get_id() == id);
    match argument.and_then(clap::Arg::get_long) {
        Some(long) => format!("--{long}"),
        None => format!("<{}>", id.to_uppercase()),
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use crate::arguments::Arguments;

    #[test]
    fn two_outputs_of_one_file_are_turned_down() {
        let folder = std::env::temp_dir().join(format!("hetero-outfile-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(folder.join("m.onnx"), "").unwrap();
        let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let kind = |arguments: &[&str]| {
            let line = std::iter::once("hetero").chain(arguments.iter().copied());
            Arguments::read(line.map(Into::into).collect()).err().map(|error| error.kind())
        };
        let (model, a, b) = (at("m.onnx"), at("a"), at("b"));
        assert_eq!(kind(&["plan", &model, "--html", &a, "--dot", &b, "-o", &at("c")]), None);
        let conflict = Some(ErrorKind::ArgumentConflict);
        for other in [a.clone(), at("./a"), at("sub/../a")] {
            assert_eq!(kind(&["plan", &model, "--html", &a, "--dot", &other]), conflict, "{other}");
        }
        assert_eq!(kind(&["plan", &model, "-o", &at("sub/../m.onnx")]), conflict);
        assert_eq!(kind(&["calibrate", &b, &model, "-o", &model]), conflict);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("a", &b).unwrap();
            assert_eq!(kind(&["plan", &model, "--html", &a, "--dot", &b]), conflict, "the link leads to no file yet");
            std::fs::write(&a, "").unwrap();
            assert_eq!(kind(&["plan", &model, "--html", &a, "--dot", &b]), conflict);
            std::fs::hard_link(&a, at("d")).unwrap();
            assert_eq!(kind(&["plan", &model, "--html", &a, "--dot", &at("d")]), conflict);
            assert_eq!(kind(&["plan", &model, "--html", "/dev/null", "--dot", "/dev/null"]), None);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
