//! The examination itself, in whatever process and thread: the device answers questions, and its
//! answers are compared with the oracle's.

use std::time::{Duration, Instant};

use hetero_hal::{Device, Driver, ErrorKind, OpenOptions, Result};

use crate::questions::{self, Question};
use crate::run::run_program;
use crate::verdict::{FailureKind, Verdict, shortened};
use crate::{difference, threshold};

/// The most characters of an error that a verdict keeps.
const LONGEST: usize = 160;

/// What came of one question.
enum Answer {
    Right,
    Wrong(String),
    /// The device does not take the question's nodes, or turns them down when it compiles.
    Declined,
    Refused(String),
    Late,
}

/// Opens a device and examines it; `about` is told of each question before it is asked.
pub(crate) fn examine(
    driver: &dyn Driver,
    ordinal: usize,
    options: &OpenOptions,
    limit: Duration,
    about: &mut dyn FnMut(&str),
) -> Verdict {
    let began = Instant::now();
    let verdict = match driver.open(ordinal, options) {
        Ok(device) => ask_all(&*device, limit, began + limit, about),
        Err(error) => Verdict::unknown(shortened(&format!("it cannot be opened: {error}"), LONGEST)),
    };
    Verdict { seconds: began.elapsed().as_secs_f64(), ..verdict }
}

fn ask_all(device: &dyn Device, limit: Duration, deadline: Instant, about: &mut dyn FnMut(&str)) -> Verdict {
    let questions = match questions::all() {
        Ok(questions) => questions,
        Err(error) => return Verdict::unknown(shortened(&error.to_string(), LONGEST)),
    };
    let mut verdict = Verdict::new();
    let mut wrong: Vec<(&str, String)> = Vec::new();
    for question in &questions {
        about(question.name);
        match ask(device, question, deadline) {
            Ok(Answer::Right) => verdict.passed.push(question.name.to_owned()),
            Ok(Answer::Wrong(how)) => wrong.push((question.name, how)),
            Ok(Answer::Declined) => {}
            Ok(Answer::Late) => return Verdict { failure: late(question.name, limit).failure, ..verdict },
            Ok(Answer::Refused(why)) => verdict.refused.push(format!("{}: {why}", question.name)),
            Err(error) => verdict.refused.push(shortened(&format!("{}: {error}", question.name), LONGEST)),
        }
    }
    if let [(first, how), others @ ..] = &wrong[..] {
        let others: Vec<&str> = others.iter().map(|(name, _)| *name).collect();
        let others = if others.is_empty() { String::new() } else { format!("; wrong too: {}", others.join(", ")) };
        verdict.failure = Verdict::failed(FailureKind::Wrong, format!("{first}: {how}{others}")).failure;
    }
    verdict
}

/// Returns the verdict about a device that does not answer a question in time.
pub(crate) fn late(question: &str, limit: Duration) -> Verdict {
    Verdict::failed(FailureKind::Hung, format!("{question} did not end within {} s", limit.as_secs_f64()))
}

fn ask(device: &dyn Device, question: &Question, deadline: Instant) -> Result<Answer> {
    let claimed: usize = device.claims(&question.program).iter().map(|claim| claim.nodes.len()).sum();
    if claimed < question.program.nodes().len() {
        return Ok(Answer::Declined);
    }
    let expected = question.answer()?;
    let actual = match run_program(device, &question.program, &question.inputs, deadline) {
        Ok(actual) => actual,
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Answer::Declined),
        Err(error) if error.kind() == ErrorKind::Timeout => return Ok(Answer::Late),
        Err(error) => return Ok(Answer::Refused(shortened(&error.to_string(), LONGEST))),
    };
    if actual.len() != expected.len() {
        return Ok(Answer::Wrong(format!("{} outputs instead of {}", actual.len(), expected.len())));
    }
    for (actual, expected) in actual.iter().zip(&expected) {
        let allowed = threshold(expected.dtype());
        match difference(actual, expected) {
            Ok(error) if error <= allowed => {}
            Ok(error) => return Ok(Answer::Wrong(format!("normalised error {}, allowed {allowed:e}", short(error)))),
            Err(how) => return Ok(Answer::Wrong(shortened(&how, LONGEST))),
        }
    }
    Ok(Answer::Right)
}

/// Writes an error as a person would: `0.31`, `3e-5`.
fn short(error: f64) -> String {
    if (0.01..1000.0).contains(&error) { format!("{error:.2}") } else { format!("{error:.0e}") }
}
