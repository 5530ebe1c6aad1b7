//! The rules for callers, and breaches of them.

use std::error::Error as _;
use std::fmt;

use hetero_hal::{DeviceId, Error, ErrorKind};

/// A rule that the contract sets for callers; see 'What a caller has to do' in `hetero-hal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// A buffer whose place another import takes is used by no work under way.
    FreedInUse,
    /// Each binding has a buffer, which is long enough.
    BindingTooSmall,
    /// A binding begins at a multiple of the device's alignment.
    Misaligned,
    /// Buffers and executables are the device's own.
    WrongDevice,
    /// What work writes overlaps nothing else that the same work reads or writes.
    Overlap,
    /// Somebody signals the points that work waits for.
    NeverSignalled,
    /// A point is signalled once.
    SignalledTwice,
    /// The points of a timeline are signalled in the order of their values.
    SignalledBackwards,
    /// Points order two accesses to the same bytes, where one of them writes.
    Unordered,
    /// Memory that was imported as immutable is not written.
    ConstantWritten,
    /// A run has as much scratch memory as its executable asks for.
    ScratchTooSmall,
    /// Two runs under way have no scratch memory in common.
    ScratchShared,
    /// A binding table stays as it is while a run with it is under way.
    TableChanged,
    /// A run has room for the sizes that depend on data, where its executable has any.
    ExtentsMissing,
}

impl Rule {
    /// Returns the rule's name, such as `freed-in-use`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rule::FreedInUse => "freed-in-use",
            Rule::BindingTooSmall => "binding-too-small",
            Rule::Misaligned => "misaligned",
            Rule::WrongDevice => "wrong-device",
            Rule::Overlap => "overlap",
            Rule::NeverSignalled => "never-signalled",
            Rule::SignalledTwice => "signalled-twice",
            Rule::SignalledBackwards => "signalled-backwards",
            Rule::Unordered => "unordered",
            Rule::ConstantWritten => "constant-written",
            Rule::ScratchTooSmall => "scratch-too-small",
            Rule::ScratchShared => "scratch-shared",
            Rule::TableChanged => "table-changed",
            Rule::ExtentsMissing => "extents-missing",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rule that a caller has broken, and how.
///
/// It is the source of the [`Error`] that the call returns, where a call can return one.
/// [`Breach::of`] finds it there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail} (rule '{rule}')")]
pub struct Breach {
    /// The rule.
    pub rule: Rule,
    /// The device.
    pub device: DeviceId,
    /// What happened, for people.
    pub detail: String,
}

impl Breach {
    /// Returns the breach that is behind an error, where there is one.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Breach> {
        error.source()?.downcast_ref()
    }

    /// Returns the breach as the error of a call.
    pub(crate) fn into_error(self) -> Error {
        // A caller who waited until a deadline goes on seeing that.
        let kind = match self.rule {
            Rule::NeverSignalled => ErrorKind::Timeout,
            _ => ErrorKind::InvalidArgument,
        };
        Error::new(kind, self.to_string()).on(self.device.clone()).caused_by(self)
    }
}
