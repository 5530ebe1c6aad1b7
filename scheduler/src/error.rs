/// Why there is no problem, no schedule or no plan. Tasks and devices are named as in the graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to run on.
    #[error("there is no device to plan for; open at least one")]
    NoDevice,
    /// Two devices have one id.
    #[error("two devices have the id '{0}'; give each its own")]
    DuplicateDevice(String),
    /// A [`DeviceIndex`](crate::DeviceIndex) of other devices.
    #[error("there is no device number {index} among {count}; use the numbers of these devices")]
    UnknownDevice {
        /// The number.
        index: usize,
        /// How many devices there are.
        count: usize,
    },
    /// There are more of something than can be numbered or kept in a table.
    #[error("there are {count} {what}, and at most {limit} are supported; plan for fewer")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Two tasks have one name.
    #[error("two tasks have the name '{0}'; give each its own")]
    DuplicateTask(String),
    /// A [`TaskId`](crate::TaskId) of another graph.
    #[error("there is no task number {index} among {count}; use the ids that this graph gave out")]
    UnknownTask {
        /// The number.
        index: usize,
        /// How many tasks there are.
        count: usize,
    },
    /// There is nothing to assign.
    #[error("there is no job to assign; give at least one")]
    NoJob,
    /// There are resources for another number of jobs.
    #[error("there are {found} rows of resources for {jobs} jobs; give one for each, or none at all")]
    ResourceRows {
        /// Rows there are.
        found: usize,
        /// Jobs there are.
        jobs: usize,
    },
    /// There are budgets for another number of devices.
    #[error("there are {found} budgets for {devices} devices; give one for each")]
    Budgets {
        /// Budgets there are.
        found: usize,
        /// Devices there are.
        devices: usize,
    },
    /// Limits cannot be kept.
    #[error("no assignment is possible: {0}; raise a budget, or take jobs away")]
    Infeasible(String),
    /// Time was over before a first result.
    #[error(
        "the time was over before an assignment was found that keeps the budgets, and none may exist; give more time, or raise a budget"
    )]
    Unfinished,
    /// Text is not an assignment problem.
    #[error("this is not an assignment problem, at {at}: {reason}; give the text form of the OR-Library, or JSON")]
    AssignmentSyntax {
        /// Where in the text.
        at: String,
        /// What is wrong there.
        reason: String,
    },
    /// Tasks wait for each other in a circle.
    #[error("task '{0}' waits for its own result; remove the cycle through it")]
    Cycle(String),
    /// A task has costs for another number of devices.
    #[error("task '{task}' has {found} costs for {devices} devices; give one for each")]
    CostRow {
        /// The task.
        task: String,
        /// Costs that it has.
        found: usize,
        /// Devices there are.
        devices: usize,
    },
    /// A cost, latency or bandwidth that cannot be one.
    #[error("{what} is {value}; give {wanted}")]
    Number {
        /// Of what.
        what: String,
        /// The value.
        value: f64,
        /// What it has to be.
        wanted: &'static str,
    },
    /// Bytes or seconds add up to more than their type holds.
    #[error("{0} add up to more than can be counted; give smaller ones")]
    Overflow(&'static str),
    /// No device claims a task.
    #[error("no device claims task '{0}'; open one that does")]
    Unclaimed(String),
    /// Wherever the other tasks go, the values that a task reads or writes find no way.
    #[error(
        "no device that claims task '{0}' is linked with those of its neighbours; add a link, or open a device that claims both"
    )]
    Unreachable(String),
    /// No device that could run a task has the memory for it left.
    #[error(
        "no device has the {bytes} bytes left that task '{task}' holds; raise a memory limit, or open another device"
    )]
    OutOfMemory {
        /// The task.
        task: String,
        /// What it holds.
        bytes: u64,
    },
    /// All tasks together spend more than the budget, wherever they run.
    #[error("the tasks spend {least} J at least, and the budget is {budget} J; raise it, or open a thriftier device")]
    EnergyBudget {
        /// What they spend at least, in joules.
        least: f64,
        /// The budget, in joules.
        budget: f64,
    },
    /// A strategy found no schedule, for a reason of its own.
    #[error("strategy '{strategy}' found no schedule: {reason}")]
    Strategy {
        /// Name of the [`Partitioner`](crate::Partitioner).
        strategy: String,
        /// What it says, and what to do.
        reason: String,
    },
    /// A schedule breaks a rule of the problem.
    #[error("the schedule is wrong at {at}: {reason}; report this to the strategy's author")]
    Schedule {
        /// The task or device.
        at: String,
        /// Which rule, and how.
        reason: String,
    },
    /// Text is not a plan.
    #[error("this is not a plan: {0}; make one with the planner")]
    PlanSyntax(String),
    /// A plan is of another version.
    #[error("the plan is of version {found}, and version {supported} is read here; make it again")]
    PlanVersion {
        /// Version of the plan.
        found: u32,
        /// Version that this crate reads and writes.
        supported: u32,
    },
    /// A plan contradicts itself or the tasks it is for.
    #[error("the plan is wrong at {at}: {reason}; make it again")]
    Plan {
        /// The task, device or partition.
        at: String,
        /// What is wrong there.
        reason: String,
    },
}

/// Checks that seconds are finite and not negative.
pub(crate) fn check_seconds(value: f64, what: impl FnOnce() -> String) -> Result<(), Error> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(Error::Number { what: what(), value, wanted: "seconds that are finite and not negative" })
    }
}
