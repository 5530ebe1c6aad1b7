//! Failures, which end a command with one readable report and an exit code.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use hetero::hal::ErrorKind;
use hetero::{Error, ModelError};
use miette::Diagnostic;

use crate::output;

/// The result of a command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// The reason why a command did not do what was asked.
/// Its words are escaped when it is made, so that a report of it shows what names hold.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    help: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The request itself is wrong.
    Usage,
    /// The run failed.
    Failed,
    /// Nobody reads the output any more.
    Unread,
}

impl Failure {
    fn new(kind: Kind, message: impl Display) -> Self {
        Failure { kind, message: output::shown(&message.to_string()).into_owned(), help: None }
    }

    /// Returns a failure whose request is wrong, with a step that the reader can take.
    pub(crate) fn usage(message: impl Display, help: impl Display) -> Self {
        Failure::wrong(message).with_help(help)
    }

    /// Returns a failure whose request is wrong, and whose message says all.
    pub(crate) fn wrong(message: impl Display) -> Self {
        Failure::new(Kind::Usage, message)
    }

    /// Returns a failure of the run.
    pub(crate) fn failed(message: impl Display) -> Self {
        Failure::new(Kind::Failed, message)
    }

    /// Returns the failure of a file that the system refused to read or write.
    pub(crate) fn file(verb: &str, path: &Path, error: &dyn Display) -> Self {
        Failure::failed(format!("cannot {verb} {}: {error}", path.display()))
    }

    /// Returns the failure of a file or folder that cannot be made, with a remedy.
    pub(crate) fn unwritten(path: &Path, error: impl Into<std::io::Error>) -> Self {
        use std::io::ErrorKind;
        let error: std::io::Error = error.into();
        let failure = Failure::file("write", path, &error);
        match error.kind() {
            ErrorKind::BrokenPipe => Failure::unread(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                failure.with_help("make room there, or name another place")
            }
            ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidInput => failure.with_help("name another place"),
            _ => failure,
        }
    }

    /// Returns the failure of a write to a pipe that nobody reads any more; it has no report.
    pub(crate) fn unread() -> Self {
        Failure::new(Kind::Unread, "nobody reads the output")
    }

    /// Returns the failure with a step that the reader can take.
    pub(crate) fn with_help(mut self, help: impl Display) -> Self {
        self.help = Some(output::shown(&help.to_string()).into_owned());
        self
    }

    /// Returns the failure with another line behind its message.
    fn with_line(mut self, line: impl Display) -> Self {
        self.message += "\n";
        self.message += &output::shown(&line.to_string());
        self
    }

    /// Returns the failure with the lines of a text behind its message.
    pub(crate) fn with_lines(self, text: &str) -> Self {
        text.lines().fold(self, Failure::with_line)
    }

    /// Returns the exit code: 2 where the request is wrong, what a shell says of a process that was
    /// ended by SIGPIPE where nobody reads the output, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Failed => 1,
            Kind::Unread => 141,
        }
    }

    /// Prints the report, where there is one, and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let code = self.exit_code();
        if self.kind != Kind::Unread {
            // Terminals break long lines themselves; our breaks would be in the middle of paths.
            // A hook that is there already is this one.
            let handler = |_: &dyn Diagnostic| miette::MietteHandlerOpts::new().wrap_lines(false).build();
            let _ = miette::set_hook(Box::new(move |diagnostic| Box::new(handler(diagnostic))));
            output::report(&format!("{:?}", miette::Report::new(self)));
        }
        ExitCode::from(code)
    }
}

impl Diagnostic for Failure {
    fn code<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        let code = if self.kind == Kind::Usage { "hetero::usage" } else { "hetero::failed" };
        Some(Box::new(code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn Display>)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            // These errors are about words that the caller typed: a device, a configuration.
            Error::UnknownDevice { .. } => Failure::usage(&error, "`hetero devices` lists what there is"),
            Error::Placement { .. } => {
                Failure::usage(&error, "`hetero devices` lists devices; `hetero plan` shows what runs where")
            }
            Error::Unclaimed { .. } => {
                Failure::failed(&error).with_help("`hetero plan MODEL --explain` shows which devices take which nodes")
            }
            Error::Required { .. } => {
                Failure::failed(&error).with_help("`--device ID?` prefers a device instead of requiring it")
            }
            Error::Slow(_) => Failure::failed(&error).with_help(
                "without `--deny-slow` the plan runs as it is; `--device` adds devices, and values in float32 have most kernels",
            ),
            Error::Config(_) => Failure::wrong(&error),
            Error::Input { .. } => Failure::usage(&error, "`hetero inspect MODEL` shows the inputs"),
            Error::Device(inner) if inner.kind() == ErrorKind::InvalidArgument => Failure::wrong(&error),
            Error::Device(inner) if inner.kind() == ErrorKind::Compile => compile(inner),
            Error::Model(ModelError::Shapes(_)) => Failure::usage(
                &error,
                "`--shape NAME=1x3x224x224` sets a shape; `hetero inspect MODEL` shows the inputs",
            ),
            Error::Model(ModelError::Missing(missing)) => missing.0.iter().fold(
                Failure::failed(format!("{} nodes use operators that hetero does not have:", missing.0.len()))
                    .with_help("register an operator set that defines them, or export the model without them"),
                |failure, one| {
                    failure.with_line(format!("  {} (opset {}) at node '{}'", one.operator, one.version, one.node))
                },
            ),
            _ => Failure::failed(&error),
        }
    }
}

/// Returns the failure of a driver's compiler, whose log has several lines.
fn compile(error: &hetero::hal::Error) -> Failure {
    let Some((first, log)) = error.message().split_once('\n') else { return Failure::failed(error) };
    Failure::failed(error.to_string().replacen(error.message(), first, 1)).with_lines(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_failures_are_escaped_line_by_line() {
        let error =
            hetero::hal::Error::new(ErrorKind::Compile, "turned down:\nline\x1b[1m 1\nline 2").at("a\nb (Conv)");
        let failure = Failure::from(Error::from(error));
        assert_eq!(failure.to_string(), "compilation failed: a\\nb (Conv): turned down:\nline\\u{1b}[1m 1\nline 2");
        let failure = Failure::usage("a\u{202e}\nb", "c\x07");
        assert_eq!((failure.to_string().as_str(), failure.help.as_deref()), ("a\\u{202e}\\nb", Some("c\\u{7}")));
    }
}
