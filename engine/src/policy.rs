//! Policies: how much a caller wants a device to be used.

use serde::Deserialize;

/// How much a caller wants a device to be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The device is needed: it is an error, with the reason, where it is absent, where a plan
    /// gives it nothing, or where it is lost.
    /// No other device takes its nodes over.
    /// Plans are made as for a preferred device, and one that leaves the device out is taken only
    /// where there is no other.
    Require,
    /// The device is used where it is there, and keeps every node that it takes, unless another
    /// device does that node in less time by a larger share than
    /// [`CostModel::uncertainty`](crate::CostModel::uncertainty).
    /// A plan that was made without this wish is taken instead where it is shorter as a whole by a
    /// larger share than that.
    /// A device that is absent drops out, and [`Plan::notes`](crate::Plan::notes) says so; of one
    /// that is lost, others take the nodes over, and [`Report::moved`](crate::Report::moved) says
    /// so.
    Prefer,
    /// The planner decides.
    /// A device that is named and absent is an error.
    #[default]
    Allow,
}

impl Policy {
    /// Every policy's name.
    pub const NAMES: [&str; 3] = ["require", "prefer", "allow"];

    /// The policy of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Policy> {
        match name {
            "require" => Some(Policy::Require),
            "prefer" => Some(Policy::Prefer),
            "allow" => Some(Policy::Allow),
            _ => None,
        }
    }

    /// The policy's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::Require => "require",
            Policy::Prefer => "prefer",
            Policy::Allow => "allow",
        }
    }
}
