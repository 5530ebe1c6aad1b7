//! The harness: a test binary in which each test of the suite stands under its own name.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use hetero_hal::{Device, ErrorKind, Result};
use libtest_mimic::{Arguments, Completion, Failed, Trial, run};

use crate::{DeviceTest, Expectations, Outcome, SuiteReport};

/// The number of random networks, unless the caller says otherwise.
const NETWORKS: u64 = 20;

type Open = dyn Fn() -> Result<Arc<dyn Device>> + Send + Sync;

/// The suite on one device, for a test with `harness = false`.
///
/// `cargo test` lists, filters and runs each test of the suite by its name.
/// A test that the device does not take is ignored, with the reason.
/// `cargo nextest` starts a process for each test, which would make the thousands of cases anew
/// each time.
/// There, all tests whose names begin with the same word, such as an operator's, are one test, and
/// its failure names each case.
///
/// ```no_run
/// use std::process::ExitCode;
/// use hetero_conformance::DeviceTests;
/// use hetero_hal::{Driver, OpenOptions};
///
/// fn main() -> ExitCode {
///     DeviceTests::new(|| hetero_cpu::CpuDriver.open(0, &OpenOptions::default())).main()
/// }
/// ```
pub struct DeviceTests {
    prefix: String,
    open: Box<Open>,
    seed: u64,
    networks: u64,
    expectations: Expectations,
    complete: bool,
}

impl DeviceTests {
    /// Makes tests of the device that `open` returns, which is called before the first test runs.
    #[must_use]
    pub fn new(open: impl Fn() -> Result<Arc<dyn Device>> + Send + Sync + 'static) -> Self {
        DeviceTests {
            prefix: String::new(),
            open: Box::new(open),
            seed: 1,
            networks: NETWORKS,
            expectations: Expectations::default(),
            complete: false,
        }
    }

    /// Returns the same tests with a text behind each name, which tells them from another device's.
    #[must_use]
    pub fn on(self, device: &str) -> Self {
        DeviceTests { prefix: format!(" on {device}"), ..self }
    }

    /// Returns the same tests with cases of another seed, which is 1 otherwise.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        DeviceTests { seed, ..self }
    }

    /// Returns the same tests with another number of random networks.
    #[must_use]
    pub fn with_networks(self, networks: u64) -> Self {
        DeviceTests { networks, ..self }
    }

    /// Returns the same tests, weighed against what the backend says that it does not support.
    #[must_use]
    pub fn expecting(self, expectations: Expectations) -> Self {
        DeviceTests { expectations, ..self }
    }

    /// Returns the same tests for a device that takes everything but what the expectations list.
    /// Where it does not take anything else, that is wrong, whatever reason it gives.
    #[must_use]
    pub fn taking_all_else(self) -> Self {
        DeviceTests { complete: true, ..self }
    }

    /// Runs what the command line asks for.
    #[must_use]
    pub fn main(self) -> ExitCode {
        DeviceTests::main_of([self])
    }

    /// Runs what the command line asks for, on several devices.
    #[must_use]
    pub fn main_of(devices: impl IntoIterator<Item = DeviceTests>) -> ExitCode {
        let arguments = Arguments::from_args();
        // Nextest sets this variable, also when it lists tests.
        let grouped = std::env::var_os("NEXTEST").is_some();
        let mut trials = Vec::new();
        for tests in devices {
            let made = DeviceTest::all(tests.seed, tests.networks);
            let opened = Arc::new(Opened { tests, device: OnceLock::new(), exclusive: RwLock::new(()) });
            match made {
                Ok(made) if grouped => trials.extend(groups(made).into_iter().map(|group| opened.group(group))),
                Ok(made) => trials.extend(made.into_iter().map(|test| opened.trial(test))),
                Err(error) => trials.push(Trial::test("suite", move || Err(Failed::from(error)))),
            }
        }
        run(&arguments, trials).exit_code()
    }
}

/// Returns tests whose names begin with the same word together, in the order of the first of them.
fn groups(tests: Vec<DeviceTest>) -> Vec<(String, Vec<DeviceTest>)> {
    let mut groups: Vec<(String, Vec<DeviceTest>)> = Vec::new();
    for test in tests {
        let name = test.name();
        let word = name.split(' ').next().unwrap_or_default();
        match groups.iter_mut().find(|(known, _)| known == word) {
            Some((_, group)) => group.push(test),
            None => groups.push((word.to_owned(), vec![test])),
        }
    }
    groups
}

/// What became of a test, weighed against the expectations.
enum Verdict {
    Passed,
    Ignored(String),
    Wrong(String),
}

/// The tests of a device, and the device once it is open.
struct Opened {
    tests: DeviceTests,
    device: OnceLock<Result<Arc<dyn Device>>>,
    /// Held for writing by tests that need the device for themselves.
    exclusive: RwLock<()>,
}

impl Opened {
    fn verdict(&self, test: &DeviceTest) -> Verdict {
        let device = match self.device.get_or_init(|| (self.tests.open)()) {
            Ok(device) => device,
            Err(error) if error.kind() == ErrorKind::Unavailable && !drivers_required() => {
                return Verdict::Ignored(error.to_string());
            }
            Err(error) => return Verdict::Wrong(error.to_string()),
        };
        let outcome = if test.is_exclusive() {
            let _alone = self.exclusive.write().unwrap_or_else(PoisonError::into_inner);
            test.run(&**device, &[])
        } else {
            let _beside_others = self.exclusive.read().unwrap_or_else(PoisonError::into_inner);
            test.run(&**device, &[])
        };
        // The device's own reason is no excuse, where it has to take everything.
        let (outcome, reason) = match outcome {
            Outcome::Unclaimed(Some(reason)) if self.tests.complete => {
                (Outcome::Unclaimed(None), format!(" ({reason})"))
            }
            outcome => (outcome, String::new()),
        };
        let mut report = SuiteReport::default();
        report.weigh(&self.tests.expectations, &test.name(), &outcome);
        match (report.wrong.pop(), report.reasons.pop_first()) {
            (Some(why), _) => Verdict::Wrong(why + &reason),
            (None, Some((reason, _))) => {
                // The report puts the operator in front, which is in the test's name already.
                Verdict::Ignored(reason.split_once(": ").map_or(&*reason, |(_, reason)| reason).to_owned())
            }
            (None, None) => Verdict::Passed,
        }
    }

    /// Returns a test as a trial of its own.
    fn trial(self: &Arc<Self>, test: DeviceTest) -> Trial {
        let (opened, name) = (self.clone(), format!("{}{}", test.name(), self.tests.prefix));
        Trial::ignorable_test(name, move || match opened.verdict(&test) {
            Verdict::Passed => Ok(Completion::Completed),
            Verdict::Ignored(reason) => Ok(Completion::ignored_with(reason)),
            Verdict::Wrong(why) => Err(Failed::from(why)),
        })
    }

    /// Returns several tests as one trial, which fails with all that is wrong.
    fn group(self: &Arc<Self>, (word, tests): (String, Vec<DeviceTest>)) -> Trial {
        let (opened, name) = (self.clone(), format!("{word}{}", self.tests.prefix));
        Trial::ignorable_test(name, move || {
            let (mut passed, mut ignored, mut wrong) = (0, None, Vec::new());
            for test in &tests {
                match opened.verdict(test) {
                    Verdict::Passed => passed += 1,
                    Verdict::Ignored(reason) => ignored = ignored.or(Some(reason)),
                    Verdict::Wrong(why) => wrong.push(why),
                }
            }
            match ignored {
                _ if !wrong.is_empty() => {
                    let count = format!("{} of {} cases are wrong", wrong.len(), tests.len());
                    Err(Failed::from(format!("{count}:\n{}", wrong.join("\n"))))
                }
                Some(reason) if passed == 0 => Ok(Completion::ignored_with(reason)),
                _ => Ok(Completion::Completed),
            }
        })
    }
}

/// Tells whether a driver that is absent is a failure.
fn drivers_required() -> bool {
    std::env::var_os("HETERO_REQUIRE_DRIVERS").is_some_and(|value| value == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_one_operator_are_one_group_and_none_is_lost() {
        let tests = DeviceTest::all(1, 5).unwrap();
        let count = tests.len();
        let groups = groups(tests);
        assert!(groups.len() < count / 10, "{} groups of {count} tests", groups.len());
        assert_eq!(groups.iter().map(|(_, group)| group.len()).sum::<usize>(), count);
        for (word, group) in &groups {
            assert!(group.iter().all(|test| test.name().split(' ').next() == Some(word)), "{word}");
        }
        assert!(groups.iter().any(|(word, group)| word == "network" && group.len() == 5));
    }
}
