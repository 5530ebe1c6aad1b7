//! The error of this crate.

/// A reason why there is no problem or no assignment.
/// Jobs and devices are named by their numbers.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to assign.
    #[error("there is no job to assign; give at least one")]
    NoJob,
    /// There is no device to assign to.
    #[error("there is no device to assign to; give at least one")]
    NoDevice,
    /// A job has costs or resources for another number of devices.
    #[error("'{job}' has {found} costs for {devices} devices; give one for each")]
    CostRow {
        /// The name of the job.
        job: String,
        /// The number of costs that the job has.
        found: usize,
        /// The number of devices.
        devices: usize,
    },
    /// The rows of resources are made for another number of jobs.
    #[error("there are {found} rows of resources for {jobs} jobs; give one for each, or none at all")]
    ResourceRows {
        /// The number of rows of resources.
        found: usize,
        /// The number of jobs.
        jobs: usize,
    },
    /// The budgets are made for another number of devices.
    #[error("there are {found} budgets for {devices} devices; give one for each")]
    Budgets {
        /// The number of budgets.
        found: usize,
        /// The number of devices.
        devices: usize,
    },
    /// A number is not possible as a cost, as work or as a speed.
    #[error("{what} is {value}; give {wanted}")]
    Number {
        /// The name of the quantity.
        what: String,
        /// The value of the quantity.
        value: f64,
        /// A description of the values that are possible.
        wanted: &'static str,
    },
    /// There are more of something than can be kept in a table.
    #[error("there are {count} {what}, and at most {limit} are supported; give fewer")]
    TooMany {
        /// The name of the things that are too many.
        what: &'static str,
        /// The number of things there are.
        count: usize,
        /// The largest number that is supported.
        limit: usize,
    },
    /// Numbers add up to more than their type holds.
    #[error("{0} add up to more than can be counted; give smaller ones")]
    Overflow(&'static str),
    /// No device claims a job.
    #[error("no device claims '{0}'; give its cost on one that does")]
    Unclaimed(String),
    /// No assignment keeps to the limits.
    #[error("no assignment is possible: {0}; raise a budget, or take jobs away")]
    Infeasible(String),
    /// The time was over before a first assignment was found.
    #[error(
        "the time was over before an assignment was found that keeps the budgets, and none may exist; give more time, or raise a budget"
    )]
    Unfinished,
    /// The text is not an assignment problem.
    #[error("this is not an assignment problem, at {at}: {reason}; give the text form of the OR-Library, or JSON")]
    Syntax {
        /// The place in the text.
        at: String,
        /// The fault at that place.
        reason: String,
    },
    /// An assignment breaks a rule of its problem.
    #[error("the assignment is wrong at {at}: {reason}; report this to the author of the search")]
    Wrong {
        /// The job or the device that breaks the rule.
        at: String,
        /// The rule, and how it is broken.
        reason: String,
    },
}

/// Checks that a cost or work is finite and not negative.
pub(crate) fn check_cost(value: f64, what: impl FnOnce() -> String) -> Result<(), Error> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(Error::Number { what: what(), value, wanted: "a number that is finite and not negative" })
    }
}
