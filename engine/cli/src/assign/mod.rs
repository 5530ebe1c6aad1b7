//! `hetero assign`: gives the jobs of a problem in a file to devices.

mod job;
pub(crate) mod options;

use std::time::{Duration, Instant};

use hetero_assign::{Aim, Assigned, Assignment, Ended};
use serde_json::json;

use job::failure;

use crate::arguments::AssignOptions;
use crate::failure::Result;
use crate::output::{document, say};

pub(crate) fn assign(options: &AssignOptions) -> Result<()> {
    let problem = job::problem(options)?;
    let began = Instant::now();
    let result = problem.solve(options.seed, Duration::from_secs_f64(options.seconds)).map_err(failure)?;
    let seconds = began.elapsed().as_secs_f64();
    if options.output.json { print_json(&problem, &result, seconds) } else { print(&problem, &result, seconds) }
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
    document(json!({
        "objective": objective(problem.aim()),
        "value": result.objective,
        "bound": result.bound,
        "gap": result.gap(),
        "proved": result.ended == Ended::Proved,
        "seconds": seconds,
        "assignment": result.devices,
        "devices": devices,
    }))?;
    Ok(())
}

fn print(problem: &Assignment, result: &Assigned, seconds: f64) -> Result<()> {
    let loads = problem.loads(&result.devices).map_err(failure)?;
    say!("{:>6}  {:>6}  {:>14}  {:>14}  {:>14}", "device", "jobs", "cost", "resources", "budget")?;
    for (device, (cost, held)) in loads.iter().enumerate() {
        let jobs = result.devices.iter().filter(|of| **of == device).count();
        let budget = budget(problem.aim(), device).map_or_else(|| "-".to_owned(), |budget| budget.to_string());
        say!("{device:>6}  {jobs:>6}  {cost:>14.6}  {held:>14}  {budget:>14}")?;
    }
    if let Aim::TotalWithin(budget) = problem.aim()
        && *budget != u64::MAX
    {
        say!("held in all: {} of {budget}", loads.iter().map(|load| load.1).sum::<u64>())?;
    }
    say!("{}: {}, of {} jobs in {seconds:.2} s", objective(problem.aim()), result.objective, problem.jobs())?;
    match result.ended {
        Ended::Proved => say!("proven: there is none better")?,
        Ended::Stopped => say!("bound: {}; at most {:.4} % above the best", result.bound, result.gap() * 100.0)?,
    }
    Ok(())
}
