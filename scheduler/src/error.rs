//! The error of this crate.

/// A reason why there is no problem, no schedule or no plan.
/// Tasks and devices are named as in the graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no device to run on.
    #[error("there is no device to plan for; open at least one")]
    NoDevice,
    /// Two devices have one id.
    #[error("two devices have the id '{0}'; give each its own")]
    DuplicateDevice(String),
    /// A [`DeviceIndex`](crate::DeviceIndex) belongs to other devices.
    #[error("there is no device number {index} among {count}; use the numbers of these devices")]
    UnknownDevice {
        /// The number that no device has.
        index: usize,
        /// The number of devices.
        count: usize,
    },
    /// There are more of something than can be numbered or kept in a table.
    #[error("there are {count} {what}, and at most {limit} are supported; plan for fewer")]
    TooMany {
        /// The name of the things that are too many.
        what: &'static str,
        /// The number of things there are.
        count: usize,
        /// The largest number that is supported.
        limit: usize,
    },
    /// Two tasks have one name.
    #[error("two tasks have the name '{0}'; give each its own")]
    DuplicateTask(String),
    /// A [`TaskId`](crate::TaskId) belongs to another graph.
    #[error("there is no task number {index} among {count}; use the ids that this graph gave out")]
    UnknownTask {
        /// The number that no task has.
        index: usize,
        /// The number of tasks.
        count: usize,
    },
    /// A number is that of no partition of a [`Replay`](crate::sim::Replay).
    #[error("there is no partition number {index} among {count}; use the numbers of this replay")]
    UnknownPartition {
        /// The number that no partition has.
        index: usize,
        /// The number of partitions.
        count: usize,
    },
    /// Tasks wait for each other in a circle.
    #[error("task '{0}' waits for its own result; remove the cycle through it")]
    Cycle(String),
    /// A task has costs for another number of devices.
    #[error("task '{task}' has {found} costs for {devices} devices; give one for each")]
    CostRow {
        /// The name of the task.
        task: String,
        /// The number of costs that the task has.
        found: usize,
        /// The number of devices.
        devices: usize,
    },
    /// A number is not possible as a cost, a latency, a bandwidth or an energy.
    #[error("{what} is {value}; give {wanted}")]
    Number {
        /// The name of the quantity.
        what: String,
        /// The value of the quantity.
        value: f64,
        /// A description of the values that are possible.
        wanted: &'static str,
    },
    /// Numbers such as bytes or seconds add up to more than their type holds.
    #[error("{0} add up to more than can be counted; give smaller ones")]
    Overflow(&'static str),
    /// No device claims a task.
    #[error("no device claims task '{0}'; open one that does")]
    Unclaimed(String),
    /// Wherever the other tasks go, the values that a task reads or writes have no way to pass.
    #[error(
        "no device that claims task '{0}' is linked with those of its neighbours; add a link, or open a device that claims both"
    )]
    Unreachable(String),
    /// No device that could run a task has enough memory left for it.
    #[error(
        "no device has the {bytes} bytes left that task '{task}' holds; raise a memory limit, or open another device"
    )]
    OutOfMemory {
        /// The name of the task.
        task: String,
        /// The bytes that the task holds.
        bytes: u64,
    },
    /// All tasks together spend more than the budget, wherever they run.
    #[error("the tasks spend {least} J at least, and the budget is {budget} J; raise it, or open a thriftier device")]
    EnergyBudget {
        /// The joules that the tasks spend at least.
        least: f64,
        /// The budget, in joules.
        budget: f64,
    },
    /// A strategy found no schedule, for a reason of its own.
    #[error("strategy '{strategy}' found no schedule: {reason}")]
    Strategy {
        /// The name of the [`Partitioner`](crate::Partitioner).
        strategy: String,
        /// The reason that the strategy gives, and what to do about it.
        reason: String,
    },
    /// A schedule breaks a rule of the problem.
    #[error("the schedule is wrong at {at}: {reason}; report this to the strategy's author")]
    Schedule {
        /// The task or the device that breaks the rule.
        at: String,
        /// The rule, and how it is broken.
        reason: String,
    },
    /// The text is not a plan.
    #[error("this is not a plan: {0}; make one with the planner")]
    PlanSyntax(String),
    /// The plan is of another version.
    #[error("the plan is of version {found}, and version {supported} is read here; make it again")]
    PlanVersion {
        /// The version of the plan.
        found: u32,
        /// The version that this crate reads and writes.
        supported: u32,
    },
    /// A plan contradicts itself or the tasks that it is for.
    #[error("the plan is wrong at {at}: {reason}; make it again")]
    Plan {
        /// The task, the device or the partition with the fault.
        at: String,
        /// The fault of that part.
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
