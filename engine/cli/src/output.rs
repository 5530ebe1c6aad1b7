//! What the command prints: the one place where text leaves it.
//!
//! Results go to the standard output, a line or a document at a time, and notes to the standard
//! error.
//! Whatever a line holds is shown on one line: all that is no printable character is escaped, so
//! that a name out of a file can neither move the cursor nor pass for a line of its own.
//!
//! Drivers print too, to descriptor 1 for the most part.
//! Therefore [`start`] moves the standard output to a descriptor that only this module knows, and
//! lets descriptor 1 be the standard error.

use std::borrow::Cow;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use crate::failure::{Failure, Result};
use crate::progress;

/// Prints one line of the result, made as `format!` makes it.
macro_rules! say {
    () => { $crate::output::line("") };
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
/// Prints one line to the standard error, made as `format!` makes it.
macro_rules! note {
    ($($text:tt)*) => { $crate::output::remark(format_args!($($text)*)) };
}
pub(crate) use {note, say};

/// The standard output, once it has moved.
static MOVED: OnceLock<File> = OnceLock::new();

/// Moves the standard output to a descriptor of its own, before a driver is loaded.
///
/// The standard library has opened the null device in place of standard descriptors that were
/// closed when the process began, so that no file can get their numbers.
#[cfg(unix)]
pub(crate) fn start() -> Result<()> {
    use std::os::fd::AsFd;

    let moved = || -> io::Result<File> {
        let own = io::stdout().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        Ok(own.into())
    };
    let moved = moved().map_err(|error| Failure::failed(format!("cannot set up the standard output: {error}")))?;
    let _ = MOVED.set(moved);
    Ok(())
}

/// Does nothing: drivers of this system do not print to the standard output's handle.
#[cfg(not(unix))]
pub(crate) fn start() -> Result<()> {
    Ok(())
}

/// Prints one line of the result; whatever else the text holds is escaped.
pub(crate) fn line(text: impl Display) -> Result<()> {
    put(&format!("{}\n", shown(&text.to_string())))
}

/// Prints a text of several lines, which are escaped one by one.
/// It is for texts that no file has a part in.
pub(crate) fn lines(text: impl Display) -> Result<()> {
    text.to_string().lines().try_for_each(line)
}

/// Prints a JSON document.
/// JSON has escapes of its own for what a terminal may not get, and they change no string's value.
pub(crate) fn document(json: impl Display) -> Result<()> {
    let keeps = |character| character == '\n' || is_plain(character);
    let escape = |character: char| {
        let units: Vec<u16> = character.encode_utf16(&mut [0; 2]).to_vec();
        units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>()
    };
    put(&format!("{}\n", escaped(&json.to_string(), keeps, escape)))
}

/// Prints one line to the standard error; whatever else the text holds is escaped.
/// Nobody is told where this fails: there is no place left to tell it.
pub(crate) fn remark(text: impl Display) {
    let text = format!("{}\n", shown(&text.to_string()));
    progress::aside(|| tell(&text));
}

/// Prints a report of a failure, whose words are escaped already and whose styles are its own.
pub(crate) fn report(text: &str) {
    tell(&format!("{text}\n"));
}

/// Prints the help that was asked for, or what is wrong with the arguments, and returns the exit
/// code.
pub(crate) fn usage(error: &clap::Error) -> Result<ExitCode> {
    let text = error.render();
    let plain = text.to_string();
    let clean = plain.lines().all(|line| line.chars().all(is_plain));
    let terminal = if error.use_stderr() {
        io::stderr().is_terminal()
    } else {
        MOVED.get().map_or_else(|| io::stdout().is_terminal(), File::is_terminal)
    };
    let text = if clean && terminal && has_colours() {
        text.ansi().to_string()
    } else {
        plain.lines().map(|line| format!("{}\n", shown(line))).collect()
    };
    if error.use_stderr() {
        tell(&text);
    } else {
        put(&text)?;
    }
    Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)))
}

/// Tells whether a terminal takes escape sequences for colours, by the usual variables.
fn has_colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|value| value == "dumb");
    cfg!(unix) && !refused && !dumb
}

/// Writes to the standard output, without a buffer that could fail later.
fn put(text: &str) -> Result<()> {
    let written = match MOVED.get() {
        Some(mut moved) => moved.write_all(text.as_bytes()),
        None => {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        }
    };
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::unread(),
        _ => Failure::failed(format!("cannot write to the standard output: {error}")),
    })
}

fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Tells whether a character is shown as itself: it is printable, or it is the plain space.
pub(crate) fn is_plain(character: char) -> bool {
    // Rust escapes a combining mark only where it has nothing to combine with.
    let behind_a_letter = || String::from_iter(['a', character]).escape_debug().count() == 2;
    matches!(character, ' '..='~') || (!character.is_ascii() && behind_a_letter())
}

/// Returns a text as it is shown on one line.
/// Control characters, line breaks, marks that turn the direction of text, and all else that is not
/// printable become `\n`, `\t`, `\u{1b}` and the like, as Rust writes them; printable text of any
/// script stays.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, is_plain, |character| character.escape_debug().to_string())
}

/// Returns a text with all characters escaped but those that are kept.
fn escaped(text: &str, keeps: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if text.chars().all(&keeps) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if keeps(character) {
            escaped.push(character);
        } else {
            escaped += &escape(character);
        }
    }
    Cow::Owned(escaped)
}

/// Returns the path under which a file is opened: the standard output's names are those of
/// descriptor 1, which has become another.
#[cfg(unix)]
pub(crate) fn path(named: PathBuf) -> PathBuf {
    use std::os::fd::AsRawFd;

    let names = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
    match MOVED.get() {
        Some(moved) if names.iter().any(|name| named == Path::new(name)) => {
            format!("/dev/fd/{}", moved.as_raw_fd()).into()
        }
        _ => named,
    }
}

/// Returns the path as it is: no path names the standard output.
#[cfg(not(unix))]
pub(crate) fn path(named: PathBuf) -> PathBuf {
    named
}

/// Returns what the system knows of the file that the standard output goes to, where it has moved.
pub(crate) fn metadata() -> Option<std::fs::Metadata> {
    MOVED.get().and_then(|moved| moved.metadata().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_printable_characters_are_shown_as_they_are() {
        for plain in ["", "conv1/Conv:0", "it's \"a\" \\ b", "输入 层", "ввод é e\u{301} हिन्दी", "µs ± 3 — … ×2 ÷"]
        {
            assert_eq!(shown(plain), plain);
        }
        for (text, expected) in [
            ("a\x1b[31mb", "a\\u{1b}[31mb"),
            ("a\nb\r\tc\0", "a\\nb\\r\\tc\\0"),
            ("\u{9b}2J\u{7f}\u{85}", "\\u{9b}2J\\u{7f}\\u{85}"),
            ("a\u{202e}b\u{2066}c\u{200f}", "a\\u{202e}b\\u{2066}c\\u{200f}"),
            ("\u{2028}\u{2029}\u{feff}\u{e0041}", "\\u{2028}\\u{2029}\\u{feff}\\u{e0041}"),
        ] {
            assert_eq!(shown(text), expected);
            assert_eq!(shown(expected), expected, "what was escaped is not escaped again");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_shown_stays_on_its_line(text in proptest::prelude::any::<String>()) {
            let shown = shown(&text);
            let turns = |character: char| ('\u{202a}'..='\u{202e}').contains(&character);
            let moves = shown.contains(|character: char| character.is_control() || turns(character));
            proptest::prop_assert!(!moves);
        }
    }
}
