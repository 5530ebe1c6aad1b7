//! `hetero assign`: gives the jobs of a problem in a file to devices.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use hetero_assign::{Aim, Assigned, Assignment, Ended, Error};
use serde_json::json;

use crate::arguments::{AssignObjective, AssignOptions};
use crate::failure::{Failure, Result};

/// The bytes that a file may have: twice the size of the largest problem in either form.
const LARGEST: u64 = 1 << 28;

pub(crate) fn assign(options: &AssignOptions) -> Result<()> {
    let text = read(&options.file)?;
    let problem =
        if text.trim_start().starts_with('{') { Assignment::from_json(&text) } else { Assignment::from_text(&text) };
    let problem = problem
        .map_err(|error| Failure::Usage { message: format!("{}: {error}", options.file.display()), help: None })?;
    let problem = match options.objective {
        None => problem,
        Some(objective) => {
            let aim = aimed(problem.aim(), objective).ok_or_else(|| {
                Failure::usage(
                    "the makespan is not minimised within one budget for all devices",
                    "give a list of budgets, one for each device",
                )
            })?;
            problem.with_aim(aim).map_err(failure)?
        }
    };
    let began = Instant::now();
    let result = problem.solve(options.seed, Duration::from_secs_f64(options.seconds)).map_err(failure)?;
    let seconds = began.elapsed().as_secs_f64();
    if options.output.json { print_json(&problem, &result, seconds) } else { print(&problem, &result, seconds) }
}

/// Returns the text of a file that is not larger than any problem.
fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| Failure::file("read", path, &error))?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|error| Failure::file("read", path, &error))?;
    if text.len() as u64 > LARGEST {
        return Err(Failure::file("read", path, &format!("it is larger than {} MiB, as no problem is", LARGEST >> 20)));
    }
    Ok(text)
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

fn failure(error: Error) -> Failure {
    match error {
        Error::Unfinished => {
            Failure::Failed { message: error.to_string(), help: Some("`--seconds N` gives more time".to_owned()) }
        }
        _ => Failure::failed(error.to_string()),
    }
}

/// Returns how much a device may hold, where something limits that.
fn budget(aim: &Aim, device: usize) -> Option<u64> {
    match aim {
        Aim::TotalWithinEach(budgets) | Aim::MakespanWithinEach(budgets) => budgets.get(device).copied(),
        _ => None,
    }
}

fn objective(aim: &Aim) -> &'static str {
    match aim {
        Aim::Makespan | Aim::MakespanWithinEach(_) => "makespan",
        _ => "total",
    }
}

fn print_json(problem: &Assignment, result: &Assigned, seconds: f64) -> Result<()> {
    let loads = problem.loads(&result.devices).map_err(failure)?;
    let devices: Vec<_> = loads
        .iter()
        .enumerate()
        .map(|(device, (cost, held))| {
            let jobs = result.devices.iter().filter(|of| **of == device).count();
            json!({ "jobs": jobs, "cost": cost, "resources": held, "budget": budget(problem.aim(), device) })
        })
        .collect();
    println!(
        "{}",
        json!({
            "objective": objective(problem.aim()),
            "value": result.objective,
            "bound": result.bound,
            "gap": result.gap(),
            "proved": result.ended == Ended::Proved,
            "seconds": seconds,
            "assignment": result.devices,
            "devices": devices,
        })
    );
    Ok(())
}

fn print(problem: &Assignment, result: &Assigned, seconds: f64) -> Result<()> {
    let loads = problem.loads(&result.devices).map_err(failure)?;
    println!("{:>6}  {:>6}  {:>14}  {:>14}  {:>14}", "device", "jobs", "cost", "resources", "budget");
    for (device, (cost, held)) in loads.iter().enumerate() {
        let jobs = result.devices.iter().filter(|of| **of == device).count();
        let budget = budget(problem.aim(), device).map_or_else(|| "-".to_owned(), |budget| budget.to_string());
        println!("{device:>6}  {jobs:>6}  {cost:>14.6}  {held:>14}  {budget:>14}");
    }
    if let Aim::TotalWithin(budget) = problem.aim()
        && *budget != u64::MAX
    {
        println!("held in all: {} of {budget}", loads.iter().map(|load| load.1).sum::<u64>());
    }
    println!("{}: {}, of {} jobs in {seconds:.2} s", objective(problem.aim()), result.objective, problem.jobs());
    match result.ended {
        Ended::Proved => println!("proven: there is none better"),
        Ended::Stopped => println!("bound: {}; at most {:.4} % above the best", result.bound, result.gap() * 100.0),
    }
    Ok(())
}
