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
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid_argument(format!("'{text}' is no fault")).with_remedy(
                "write lose:N, lose-running:N, compile:N, memory:N, hang:N or delay:500us, N counting from 0",
            )
        };
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_written() {
        for text in ["lose:3", "lose-running:0", "compile:1", "memory:2", "hang:9", "delay:500us:7"] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        assert_eq!("delay:2ms".parse::<Fault>().unwrap().to_string(), "delay:2000us:0");
        for bad in ["", "lose", "lose:x", "melt:1", "delay:5", "delay:5s", "delay:5us:x"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
