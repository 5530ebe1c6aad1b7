//! An assignment problem as checked and read from its file.

use std::path::Path;

use hetero_assign::{Aim, Assignment, Error};

use crate::arguments::{AssignObjective, AssignOptions};
use crate::failure::{Failure, Result};

/// The bytes that a file may have: twice the size of the largest problem in either form.
const LARGEST: u64 = 1 << 28;

/// Reads the problem of a file, with the objective that the options name.
pub(super) fn problem(options: &AssignOptions) -> Result<Assignment> {
    let text = read(&options.file)?;
    let problem =
        if text.trim_start().starts_with('{') { Assignment::from_json(&text) } else { Assignment::from_text(&text) };
    let problem = problem.map_err(|error| Failure::wrong(format!("{}: {error}", options.file.display())))?;
    let Some(objective) = options.objective else { return Ok(problem) };
    let aim = aimed(problem.aim(), objective).ok_or_else(|| {
        Failure::usage(
            "the makespan is not minimised within one budget for all devices",
            "give a list of budgets, one for each device",
        )
    })?;
    problem.with_aim(aim).map_err(failure)
}

/// Returns the text of a file that is not larger than any problem.
fn read(path: &Path) -> Result<String> {
    hetero_files::read_text(path, LARGEST).map_err(|error| Failure::file("read", path, &error))
}

/// Returns the same limits with this objective, or `None` where there is no such problem.
fn aimed(aim: &Aim, objective: AssignObjective) -> Option<Aim> {
    match (objective, aim) {
        (AssignObjective::Total, Aim::Makespan) => Some(Aim::TotalWithin(u64::MAX)),
        (AssignObjective::Total, Aim::MakespanWithinEach(budgets)) => Some(Aim::TotalWithinEach(budgets.clone())),
        (AssignObjective::Makespan, Aim::TotalWithinEach(budgets)) => Some(Aim::MakespanWithinEach(budgets.clone())),
        (AssignObjective::Makespan, Aim::TotalWithin(u64::MAX)) => Some(Aim::Makespan),
        (AssignObjective::Makespan, Aim::TotalWithin(_)) => None,
        _ => Some(aim.clone()),
    }
}

pub(super) fn failure(error: Error) -> Failure {
    match error {
        Error::Unfinished => Failure::failed(error).with_help("`--seconds N` gives more time"),
        _ => Failure::failed(error),
    }
}
