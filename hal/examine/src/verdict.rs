//! What an examination found.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use hetero_hal::{DeviceInfo, Unavailable, UnavailableReason};
use serde::{Deserialize, Serialize};

/// The seconds for which a verdict is kept that may have come of the machine's state instead of the
/// driver's, such as of too little memory or too much load.
const A_DAY: u64 = 24 * 3600;

/// What an examination of a device found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The time of the examination, in seconds since 1970.
    pub examined: u64,
    /// The seconds that the examination took.
    pub seconds: f64,
    /// The names of the questions that the device answered rightly.
    pub passed: Vec<String>,
    /// The questions that the device claimed and then answered with an error, which is no wrong
    /// answer: whoever runs a model is told of it.
    pub refused: Vec<String>,
    /// The reason why the device is not to be used; `None` where nothing speaks against it.
    pub failure: Option<Failure>,
}

/// The reason why a device is not to be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The kind of the failure.
    pub kind: FailureKind,
    /// The question and what came of it.
    pub detail: String,
    /// What the driver printed meanwhile, shortened, with control characters escaped.
    pub said: String,
}

/// The kinds of failures of an examination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// The device's results are not the oracle's.
    Wrong,
    /// The driver ended the process that examined the device.
    Crashed,
    /// The device did not answer in the time that it had.
    Hung,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FailureKind::Wrong => "wrong results",
            FailureKind::Crashed => "the driver crashed",
            FailureKind::Hung => "no answer",
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)?;
        if self.said.is_empty() { Ok(()) } else { write!(f, " (the driver said: {})", self.said) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.failure, &self.passed[..], &self.refused[..]) {
            (Some(failure), _, _) => write!(f, "{failure}"),
            (None, [], []) => f.write_str("takes none of the questions"),
            (None, passed, []) => write!(f, "{} questions answered rightly", passed.len()),
            (None, passed, refused) => {
                write!(f, "{} questions answered rightly, {} with an error: ", passed.len(), refused.len())?;
                f.write_str(&refused.join("; "))
            }
        }
    }
}

impl Verdict {
    /// Returns a verdict of this moment about nothing yet.
    pub(crate) fn new() -> Verdict {
        Verdict { examined: now(), seconds: 0.0, passed: Vec::new(), refused: Vec::new(), failure: None }
    }

    /// Returns a verdict of this moment with a failure.
    pub(crate) fn failed(kind: FailureKind, detail: impl Into<String>) -> Verdict {
        let failure = Failure { kind, detail: detail.into(), said: String::new() };
        Verdict { failure: Some(failure), ..Verdict::new() }
    }

    /// Returns a verdict of this moment by which nothing is known, for a reason.
    pub(crate) fn unknown(reason: impl Into<String>) -> Verdict {
        Verdict { refused: vec![reason.into()], ..Verdict::new() }
    }

    /// Tells whether something is known by it: the device answered a question, took none, or
    /// failed.
    pub(crate) fn is_conclusive(&self) -> bool {
        self.failure.is_some() || !self.passed.is_empty() || self.refused.is_empty()
    }

    /// Tells whether the verdict, which was kept, still holds.
    /// One without failures and errors does as long as its key is the same.
    pub(crate) fn holds(&self) -> bool {
        let age = now().checked_sub(self.examined);
        let clean = self.failure.is_none() && self.refused.is_empty();
        clean || age.is_some_and(|age| age < A_DAY)
    }

    /// Returns the reason why the device is not to be used, with what to do about it; `None` where
    /// nothing speaks against the device.
    #[must_use]
    pub fn unavailable(&self, info: &DeviceInfo) -> Option<Unavailable> {
        let failure = self.failure.as_ref()?;
        let notice = info.notice.as_ref().map(|notice| format!("{notice}; or ")).unwrap_or_default();
        Some(Unavailable {
            reason: UnavailableReason::Untrusted,
            detail: failure.to_string(),
            remedy: format!(
                "{notice}install another version of the driver ({}), or use another device; \
                 `hetero check --compatibility` examines it anew",
                if info.driver_version.is_empty() { "of unknown version" } else { &info.driver_version }
            ),
        })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Returns the beginning of a text for one line of a message: control characters are escaped, and
/// line breaks become strokes.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut left = most;
    for character in text.trim().chars() {
        let shown: String = match character {
            '\n' => " / ".into(),
            character if character.is_control() => character.escape_default().collect(),
            character => character.into(),
        };
        let Some(rest) = left.checked_sub(shown.chars().count()) else {
            line.push('…');
            break;
        };
        left = rest;
        line.push_str(&shown);
    }
    line
}

#[cfg(test)]
mod tests {
    use hetero_hal::{DeviceId, DeviceKind};

    use super::*;

    #[test]
    fn a_failure_is_a_typed_reason_with_the_drivers_own_remedy_in_front() {
        let mut info = DeviceInfo::new(DeviceId::new("x", 0), DeviceKind::Gpu, "Chip");
        info.driver_version = "7.1".into();
        assert_eq!(Verdict::new().unavailable(&info), None);
        let verdict = Verdict::failed(FailureKind::Wrong, "Conv 3×3: normalised error 0.31, allowed 1e-6");
        info.notice = Some("set ARCH to a target".into());
        let why = verdict.unavailable(&info).unwrap();
        assert_eq!(why.reason, UnavailableReason::Untrusted);
        assert_eq!(why.detail, "wrong results: Conv 3×3: normalised error 0.31, allowed 1e-6");
        assert!(why.remedy.starts_with("set ARCH to a target; or install another version of the driver (7.1)"));
    }

    #[test]
    fn what_may_have_come_of_the_machine_is_kept_for_a_day() {
        let old = |verdict: Verdict, age| Verdict { examined: now() - age, ..verdict };
        assert!(old(Verdict::new(), 400 * A_DAY).holds());
        for made in [Verdict::failed(FailureKind::Hung, "x"), Verdict::unknown("no memory")] {
            assert!(old(made.clone(), A_DAY - 60).holds() && !old(made.clone(), A_DAY).holds());
            // The clock was put back since.
            assert!(!Verdict { examined: now() + 3600, ..made }.holds());
        }
    }

    #[test]
    fn drivers_words_fit_a_line_and_have_no_control_characters() {
        assert_eq!(shortened("  one\ntwo\u{1b}[31m\r ", 100), "one / two\\u{1b}[31m");
        assert_eq!(shortened("abcdef", 3), "abc…");
    }
}
