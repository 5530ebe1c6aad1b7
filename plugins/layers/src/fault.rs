//! Faults: the failures that can be provoked, and how they are written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hetero_hal::{Error, Result};

/// A failure that is provoked on a device.
/// Counts begin at 0 with the device's opening.
///
/// A fault is written as `lose:3`, `lose-running:3`, `compile:0`, `memory:2`, `hang:3`, or
/// `delay:500us` (`ms` or `us`).
/// A delay may be followed by a seed, as in `delay:500us:7`.
/// Faults of a driver as it always is have no number: `wrong`, `crash-compile`, `crash-run`,
/// `hang-compile` and `hang-run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The device is lost when this submission is handed over, and refuses the submission.
    Lose {
        /// The number of the submission.
        submission: u64,
    },
    /// The device takes this submission, and is lost when its turn comes: once all points that it
    /// waits for are reached.
    LoseRunning {
        /// The number of the submission.
        submission: u64,
    },
    /// This compilation fails.
    Compile {
        /// The number of the compilation.
        compilation: u64,
    },
    /// There is no memory for this allocation.
    OutOfMemory {
        /// The number of the allocation.
        allocation: u64,
    },
    /// The device takes this submission, which then never ends.
    Hang {
        /// The number of the submission.
        submission: u64,
    },
    /// Every submission takes longer, by a pseudo-random time.
    Delay {
        /// The longest delay.
        most: Duration,
        /// The seed of the pseudo-random times.
        seed: u64,
    },
    /// The half of each output is wrong, and nothing says so.
    Wrong,
    /// Every compilation aborts the process.
    CrashCompile,
    /// Every run aborts the process.
    CrashRun,
    /// No compilation returns, whatever its deadline.
    HangCompile,
    /// No submission of a run returns.
    HangRun,
}

/// The faults that are written without a number.
const STANDING: [(&str, Fault); 5] = [
    ("wrong", Fault::Wrong),
    ("crash-compile", Fault::CrashCompile),
    ("crash-run", Fault::CrashRun),
    ("hang-compile", Fault::HangCompile),
    ("hang-run", Fault::HangRun),
];

impl Fault {
    /// Tells whether the driver always has the fault, so that an examination of the device meets
    /// it.
    /// The other faults are events of one opened device, which another one does not have.
    #[must_use]
    pub fn is_standing(self) -> bool {
        STANDING.iter().any(|(_, standing)| *standing == self)
    }
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid_argument(format!("'{text}' is no fault")).with_remedy(
                "write lose:N, lose-running:N, compile:N, memory:N, hang:N or delay:500us, N counting from 0; \
                 or wrong, crash-compile, crash-run, hang-compile or hang-run",
            )
        };
        if let Some((_, fault)) = STANDING.iter().find(|(name, _)| *name == text) {
            return Ok(*fault);
        }
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        if kind == "delay" {
            let (time, seed) = rest.split_once(':').unwrap_or((rest, "0"));
            let (digits, unit) = match time.strip_suffix("ms") {
                Some(digits) => (digits, 1000),
                None => (time.strip_suffix("us").ok_or_else(wrong)?, 1),
            };
            let most = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or_else(wrong)?;
            let seed = seed.parse().map_err(|_| wrong())?;
            return Ok(Fault::Delay { most: Duration::from_micros(most), seed });
        }
        let number = rest.parse().map_err(|_| wrong())?;
        Ok(match kind {
            "lose" => Fault::Lose { submission: number },
            "lose-running" => Fault::LoseRunning { submission: number },
            "compile" => Fault::Compile { compilation: number },
            "memory" => Fault::OutOfMemory { allocation: number },
            "hang" => Fault::Hang { submission: number },
            _ => return Err(wrong()),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Lose { submission } => write!(f, "lose:{submission}"),
            Fault::LoseRunning { submission } => write!(f, "lose-running:{submission}"),
            Fault::Compile { compilation } => write!(f, "compile:{compilation}"),
            Fault::OutOfMemory { allocation } => write!(f, "memory:{allocation}"),
            Fault::Hang { submission } => write!(f, "hang:{submission}"),
            Fault::Delay { most, seed } => write!(f, "delay:{}us:{seed}", most.as_micros()),
            standing => f.write_str(STANDING.iter().find(|(_, fault)| fault == standing).map_or("", |(name, _)| *name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_written() {
        for text in ["lose:3", "lose-running:0", "compile:1", "memory:2", "hang:9", "delay:500us:7"] {
            let fault: Fault = text.parse().unwrap();
            assert!(fault.to_string() == text && !fault.is_standing());
        }
        for (text, fault) in STANDING {
            assert_eq!((text.parse::<Fault>().unwrap(), fault.to_string().as_str()), (fault, text));
            assert!(fault.is_standing());
        }
        assert_eq!("delay:2ms".parse::<Fault>().unwrap().to_string(), "delay:2000us:0");
        for bad in ["", "lose", "lose:x", "melt:1", "delay:5", "delay:5s", "delay:5us:x"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
