//! Tests of assignments: they are the best where that can be known, always keep their limits, and
//! are good on instances of the literature.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and says what it skips")]

mod data;

use std::time::Duration;

use hetero_assign::{Aim, Assigned, Assignment, Ended, Error};
use proptest::collection::vec;
use proptest::prelude::*;

/// Returns costs that are whole numbers, which are often equal, or seconds.
fn costs(jobs: usize, devices: usize) -> impl Strategy<Value = Vec<Vec<Option<f64>>>> {
    let table = |cost: BoxedStrategy<f64>| vec(vec(prop::option::weighted(0.85, cost), devices), jobs);
    prop_oneof![
        table((0..12_u8).prop_map(f64::from).boxed()),
        table((0..1000_u16).prop_map(f64::from).boxed()),
        table((0.0..1e-3_f64).boxed()),
        table((0.0..1e12_f64).boxed()),
    ]
}

/// Returns a problem of up to seven jobs and four devices, with budgets of which many are tight and
/// some too tight.
/// A job may be claimed by no device.
fn problem(aim: fn(Vec<u64>) -> Aim) -> impl Strategy<Value = Result<Assignment, Error>> {
    (1..8_usize, 1..5_usize)
        .prop_flat_map(|(jobs, devices)| {
            let unit = prop_oneof![Just(1_u64), Just(1 << 40)];
            (costs(jobs, devices), vec(vec(0..20_u64, devices), jobs), vec(0..80_u64, devices), unit)
        })
        .prop_map(move |(costs, resources, budgets, unit)| {
            let resources: Vec<Vec<u64>> =
                resources.iter().map(|row| row.iter().map(|held| held * unit).collect()).collect();
            Assignment::new(&costs, &resources, aim(budgets.iter().map(|budget| budget * unit).collect()))
        })
}

fn objective(problem: &Assignment, devices: &[usize]) -> Option<f64> {
    let loads = problem.loads(devices).ok()?;
    let held: u64 = loads.iter().map(|load| load.1).sum();
    let within = |budgets: &[u64]| loads.iter().zip(budgets).all(|(load, budget)| load.1 <= *budget);
    let kept = match problem.aim() {
        Aim::TotalWithin(budget) => held <= *budget,
        Aim::TotalWithinEach(budgets) | Aim::MakespanWithinEach(budgets) => within(budgets),
        _ => true,
    };
    let costs = loads.iter().map(|load| load.0);
    kept.then(|| match problem.aim() {
        Aim::TotalWithin(_) | Aim::TotalWithinEach(_) => costs.sum(),
        _ => costs.fold(0.0, f64::max),
    })
}

/// Returns the least objective of any assignment, found by trying them all.
fn least(problem: &Assignment) -> Option<f64> {
    let (jobs, devices) = (problem.jobs() as u32, problem.devices());
    (0..devices.pow(jobs))
        .filter_map(|number| {
            let of: Vec<usize> = (0..jobs).map(|job| number / devices.pow(job) % devices).collect();
            objective(problem, &of)
        })
        .min_by(f64::total_cmp)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

fn is_the_best(problem: Result<Assignment, Error>, seed: u64) -> Result<(), TestCaseError> {
    let problem = match problem {
        Ok(problem) => problem,
        Err(error) => {
            prop_assert!(matches!(error, Error::Unclaimed(_)), "{}", error);
            return Ok(());
        }
    };
    // The limit is far above the number of calls that these problems need, because a test that
    // hangs says less than one that fails.
    let mut asked = 0_u64;
    let result = problem.solve_until(seed, &mut || {
        asked += 1;
        asked > 1_000_000
    });
    match (result, least(&problem)) {
        (Ok(result), Some(least)) => {
            prop_assert_eq!(problem.check(&result), Ok(()));
            prop_assert_eq!(result.ended, Ended::Proved);
            prop_assert!(close(result.objective, least), "{} instead of {}", result.objective, least);
            prop_assert!(close(result.bound, least));
        }
        (Err(error), None) => prop_assert!(matches!(error, Error::Infeasible(_)), "{}", error),
        (result, least) => prop_assert!(false, "{:?} where the least is {:?}", result, least),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn one_budget_for_all(problem in problem(|budgets| Aim::TotalWithin(budgets.iter().sum())), seed in any::<u64>()) {
        is_the_best(problem, seed)?;
    }

    #[test]
    fn a_budget_for_each(problem in problem(Aim::TotalWithinEach), seed in any::<u64>()) {
        is_the_best(problem, seed)?;
    }

    #[test]
    fn the_makespan(problem in problem(|_| Aim::Makespan), seed in any::<u64>()) {
        is_the_best(problem, seed)?;
    }

    #[test]
    fn the_makespan_within_budgets(problem in problem(Aim::MakespanWithinEach), seed in any::<u64>()) {
        is_the_best(problem, seed)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Checks larger problems with little time: limits are kept, and bounds hold for the results of
    /// other seeds.
    #[test]
    fn results_are_sound(
        (costs, resources, tightness) in (1..9_usize, 1..60_usize).prop_flat_map(|(devices, jobs)| {
            (costs(jobs, devices), vec(vec(1..100_u64, devices), jobs), 0.6..1.5_f64)
        }),
        kind in 0..3_u8,
        asked in 1..400_u32,
    ) {
        let devices = costs[0].len();
        let sum: u64 = resources.iter().flatten().sum();
        let budget = (sum as f64 / (devices * devices) as f64 * tightness) as u64;
        let aim = match kind {
            0 => Aim::TotalWithin(budget * devices as u64),
            1 => Aim::TotalWithinEach(vec![budget; devices]),
            _ => Aim::MakespanWithinEach(vec![budget; devices]),
        };
        let Ok(problem) = Assignment::new(&costs, &resources, aim) else { return Ok(()) };
        let solve = |seed| {
            let mut left = asked;
            problem.solve_until(seed, &mut || { left = left.saturating_sub(1); left == 0 })
        };
        let (first, second) = (solve(1), solve(2));
        prop_assert_eq!(&solve(1), &first);
        for result in [&first, &second].into_iter().flatten() {
            prop_assert_eq!(problem.check(result), Ok(()));
        }
        if let (Ok(first), Ok(second)) = (&first, &second) {
            prop_assert!(first.bound <= second.objective * (1.0 + 1e-9) && second.bound <= first.objective * (1.0 + 1e-9));
        }
        if let (Ok(_), Err(error)) | (Err(error), Ok(_)) = (&first, &second) {
            prop_assert!(!matches!(error, Error::Infeasible(_)), "one found an assignment, and the other that there is none");
        }
    }

    #[test]
    fn no_text_makes_reading_panic(cut in any::<prop::sample::Index>(), noise in ".{0,8}") {
        for (text, read) in [
            ("2 3\n1 2 3\n4 5.5 6\n1 1 1\n2 2 2\n3 4\n", Assignment::from_text as fn(&str) -> Result<Assignment, Error>),
            (r#"{"objective": "makespan", "work": [1, 2], "speeds": [1, 0.5], "resources": [1, 2], "budget": [9, 9]}"#, Assignment::from_json),
            (r#"{"costs": [[1, null], [2, 3]], "resources": [[1, 2], [3, 4]], "budget": 7}"#, Assignment::from_json),
        ] {
            prop_assert!(read(text).is_ok());
            let mut text = text.to_owned();
            text.insert_str(cut.index(text.len()), &noise);
            if let Ok(problem) = read(&text) {
                let _ = problem.solve(1, Duration::ZERO);
            }
        }
    }
}

/// Returns instances of the literature with their bounds: name, problem, proven lower bound, best
/// known upper bound.
fn literature() -> Option<Vec<(String, Assignment, f64, f64)>> {
    let bounds = data::read("gap/bounds.tsv")?;
    let rows = bounds.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let read = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let text = data::read(&format!("gap/{name}.txt")).unwrap();
        let mut number = || words.next().unwrap().parse().unwrap();
        (name, Assignment::from_text(&text).unwrap(), number(), number())
    };
    Some(rows.map(read).collect())
}

fn solve(problem: &Assignment, mut asked: u32) -> Assigned {
    let result = problem.solve_until(1, &mut || {
        asked = asked.saturating_sub(1);
        asked == 0
    });
    let result = result.unwrap();
    problem.check(&result).unwrap();
    result
}

/// Checks instances of the literature with so little search that a test has time for it.
/// `cargo xtask bench assign` gives each instance ten seconds, and demands better results.
#[test]
fn instances_of_the_literature() {
    for (name, problem, lower, upper) in literature().unwrap_or_default() {
        let result = solve(&problem, 1200);
        assert!(result.bound <= upper && result.objective >= lower, "{name}: {result:?}");
        let above = result.objective / upper - 1.0;
        println!(
            "{name}: {} and bound {}, best known {upper}, {:.3} % above",
            result.objective,
            result.bound,
            above * 100.0
        );
        assert!(above <= 0.01, "{name}: {} is {above} above {upper}", result.objective);
    }
}
