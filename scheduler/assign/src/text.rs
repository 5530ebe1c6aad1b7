//! The text forms of assignment problems.

use serde::Deserialize;

use crate::Error;

use super::problem::{Aim, Assignment};

/// An assignment problem in the JSON form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    objective: Objective,
    costs: Option<Vec<Vec<Option<f64>>>>,
    work: Option<Vec<f64>>,
    speeds: Option<Vec<f64>>,
    #[serde(default)]
    resources: Resources,
    budget: Option<Budget>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Objective {
    #[default]
    Total,
    Makespan,
}

/// The resources that jobs take: on each device, or the same on any.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Resources {
    Any(Vec<u64>),
    Each(Vec<Vec<u64>>),
}

impl Default for Resources {
    fn default() -> Self {
        Self::Any(Vec::new())
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Budget {
    One(u64),
    Each(Vec<u64>),
}

/// Returns the error of text that is not an assignment problem.
fn wrong(at: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Syntax { at: at.into(), reason: reason.into() }
}

impl Assignment {
    /// Reads the text form of Beasley's OR-Library.
    /// It has the numbers of devices and of jobs; for each device its cost of each job; for each
    /// device the resources that each job takes there; and a budget for each device.
    /// White space divides numbers.
    /// The aim is the least total cost.
    ///
    /// # Errors
    /// [`Error::Syntax`] with the line where the text has another form, and the errors of
    /// [`Assignment::new`].
    pub fn from_text(text: &str) -> Result<Self, Error> {
        let lines = text.lines().enumerate();
        let mut words = lines.flat_map(|(line, text)| {
            text.split_whitespace().enumerate().map(move |(word, text)| (line + 1, word + 1, text))
        });
        let mut word = |what: &dyn Fn() -> String| {
            let (line, at, word) = words.next().ok_or_else(|| wrong("its end", format!("{} is missing", what())))?;
            Ok((format!("line {line}, number {at}"), word))
        };
        let mut size = |what: &'static str| {
            let (at, word) = word(&|| what.to_owned())?;
            let size = word.parse::<usize>().ok().filter(|&size| size > 0 && size <= Self::LIMIT);
            size.ok_or_else(|| wrong(at, format!("'{}' is not {what}", excerpt(word))))
        };
        let (devices, jobs) = (size("the number of devices")?, size("the number of jobs")?);
        let entries = jobs.saturating_mul(devices);
        // Every number takes two bytes of text, so a missing number is reported before memory is
        // taken for it.
        if entries > Self::LIMIT {
            return Err(Error::TooMany { what: "costs", count: entries, limit: Self::LIMIT });
        }
        if entries > text.len() {
            return Err(wrong("its end", format!("the costs of {jobs} jobs on {devices} devices are missing")));
        }
        let mut costs = vec![vec![None; devices]; jobs];
        for device in 0..devices {
            for (job, row) in costs.iter_mut().enumerate() {
                let (at, word) = word(&|| format!("the cost of job {job} on device {device}"))?;
                let cost = word.parse::<f64>().ok().filter(|cost| cost.is_finite() && *cost >= 0.0);
                let cost = cost
                    .ok_or_else(|| wrong(at, format!("'{}' is not a cost, finite and not negative", excerpt(word))))?;
                row[device] = Some(cost);
            }
        }
        let mut whole = |what: &dyn Fn() -> String| {
            let (at, word) = word(what)?;
            word.parse::<u64>()
                .map_err(|_| wrong(at, format!("'{}' is not {}, whole and not negative", excerpt(word), what())))
        };
        let mut resources = vec![vec![0; devices]; jobs];
        for device in 0..devices {
            for (job, row) in resources.iter_mut().enumerate() {
                row[device] = whole(&|| format!("what job {job} holds on device {device}"))?;
            }
        }
        let budgets: Vec<u64> =
            (0..devices).map(|device| whole(&|| format!("the budget of device {device}"))).collect::<Result<_, _>>()?;
        if let Some((line, word, text)) = words.next() {
            let at = format!("line {line}, number {word}");
            return Err(wrong(at, format!("'{}' follows the last budget", excerpt(text))));
        }
        Self::new(&costs, &resources, Aim::TotalWithinEach(budgets))
    }

    /// Reads the JSON form.
    /// `objective` is `"total"`, which is the default, or `"makespan"`.
    /// `costs` has a row for each job with its cost on each device, or `null` where the device does
    /// not claim it.
    /// Instead of `costs`, `work` has a number for each job, and `speeds` a number for each device.
    /// `resources` has a row for each job with the resources that it takes on each device, or one
    /// number for each job.
    /// `budget` is one number for all devices together, or a list with one number for each; without
    /// it, nothing limits resources.
    ///
    /// # Errors
    /// [`Error::Syntax`] where the text has another form, and the errors of
    /// [`Assignment::new`].
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let document: Document = serde_json::from_str(text)
            .map_err(|error| wrong(format!("line {}, column {}", error.line(), error.column()), error.to_string()))?;
        let aim = match (document.objective, document.budget) {
            (Objective::Total, None) => Aim::TotalWithin(u64::MAX),
            (Objective::Total, Some(Budget::One(budget))) => Aim::TotalWithin(budget),
            (Objective::Total, Some(Budget::Each(budgets))) => Aim::TotalWithinEach(budgets),
            (Objective::Makespan, None) => Aim::Makespan,
            (Objective::Makespan, Some(Budget::Each(budgets))) => Aim::MakespanWithinEach(budgets),
            (Objective::Makespan, Some(Budget::One(_))) => {
                return Err(wrong("budget", "the makespan is minimised within a list of budgets, one for each device"));
            }
        };
        match (document.costs, document.work, document.speeds) {
            (Some(costs), None, None) => {
                let resources = match document.resources {
                    Resources::Each(rows) => rows,
                    Resources::Any(held) => {
                        let devices = costs.first().map_or(0, Vec::len);
                        if held.len().saturating_mul(devices) > Self::LIMIT {
                            return Err(Error::TooMany {
                                what: "resources",
                                count: held.len().saturating_mul(devices),
                                limit: Self::LIMIT,
                            });
                        }
                        held.into_iter().map(|held| vec![held; devices]).collect()
                    }
                };
                Self::new(&costs, &resources, aim)
            }
            (None, Some(work), Some(speeds)) => match document.resources {
                Resources::Any(held) => Self::of_work(&work, &speeds, &held, aim),
                Resources::Each(_) => {
                    Err(wrong("resources", "with `work`, a job holds the same on any device: give one number for each"))
                }
            },
            _ => Err(wrong("costs", "give either `costs`, or both `work` and `speeds`")),
        }
    }
}

/// Returns as much of a word as a message can show.
fn excerpt(word: &str) -> String {
    word.chars().take(24).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "2 3\n1 2 3\n4 5.5 6\n1 1 1\n2 2 2\n3 4\n";

    #[test]
    fn both_forms_say_the_same() {
        let problem = Assignment::from_text(TEXT).unwrap();
        assert_eq!((problem.jobs(), problem.devices()), (3, 2));
        assert_eq!(problem.cost(1, 1), Some(5.5));
        assert_eq!(problem.resource(2, 1), Some(2));
        let json = r#"{"costs": [[1, 4], [2, 5.5], [3, 6]], "resources": [[1, 2], [1, 2], [1, 2]], "budget": [3, 4]}"#;
        assert_eq!(Assignment::from_json(json), Ok(problem));
        let work =
            r#"{"objective": "makespan", "work": [2, 3], "speeds": [1, 2], "resources": [1, 2], "budget": [9, 9]}"#;
        let problem = Assignment::from_json(work).unwrap();
        assert_eq!(problem.aim(), &Aim::MakespanWithinEach(vec![9, 9]));
        assert_eq!((problem.cost(1, 1), problem.resource(1, 0)), (Some(1.5), Some(2)));
    }

    #[test]
    fn errors_say_where() {
        let text = |text: &str| Assignment::from_text(text).unwrap_err().to_string();
        let json = |text: &str| Assignment::from_json(text).unwrap_err().to_string();
        for (said, wanted) in [
            (text(""), "its end: the number of devices is missing"),
            (text("2 x"), "line 1, number 2: 'x' is not the number of jobs"),
            (text("0 1"), "'0' is not the number of devices"),
            (text("9999999999999999999999 1"), "'9999999999999999999999' is not the number of devices"),
            (text("2 4000000"), "are missing"),
            (text("100000 100000"), "10000000000 costs, and at most"),
            (text(&TEXT.replace("5.5", "-5.5")), "line 3, number 2: '-5.5' is not a cost"),
            (text(&TEXT.replace("5.5", "inf")), "line 3, number 2: 'inf' is not a cost"),
            (text(&TEXT.replace("2 2 2", "2 2.5 2")), "line 5, number 2: '2.5' is not what job 1 holds on device 1"),
            (text(&TEXT.replace("3 4", "3")), "its end: the budget of device 1 is missing"),
            (text(&format!("{TEXT} 7")), "line 7, number 1: '7' follows the last budget"),
            (json("{\"costs\": [[1], [2]"), "line 1, column"),
            (json("{}"), "give either `costs`, or both"),
            (json(r#"{"work": [1]}"#), "give either `costs`, or both"),
            (json(r#"{"costs": [[1, 2], [3]]}"#), "'job 1' has 1 costs for 2 devices"),
            (json(r#"{"costs": [[1, 2]], "budget": [1]}"#), "1 budgets for 2 devices"),
            (json(r#"{"costs": [[1, 2]], "resources": [1, 2]}"#), "2 rows of resources for 1 jobs"),
            (json(r#"{"costs": [[1, 2]], "objective": "makespan", "budget": 3}"#), "a list of budgets"),
            (json(r#"{"work": [1], "speeds": [0]}"#), "the speed of device 0 is 0"),
        ] {
            assert!(said.contains(wanted), "'{said}' does not say '{wanted}'");
        }
    }
}
