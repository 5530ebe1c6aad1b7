//! Policies: how much a caller wants a device to be used.

use serde::Deserialize;

/// A policy: how much a caller wants a device to be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The device is needed: it is an error, with the reason, where it is absent, where a plan
    /// gives it nothing, or where it is lost.
    /// No other device takes its nodes over.
    /// Plans are made as for a preferred device, and a plan that leaves the device out is taken
    /// only where there is no other.
    Require,
    /// The device is used where it is there.
    /// It keeps every node that it takes, unless another device does that node in less time by a
    /// larger share than [`CostModel::uncertainty`](crate::CostModel::uncertainty).
    /// A plan that was made without this wish is taken instead where it is shorter as a whole by a
    /// larger share than that.
    /// A device that is absent drops out, and [`Plan::notes`](crate::Plan::notes) says so.
    /// Where the device is lost, others take its nodes over, and
    /// [`Report::moved`](crate::Report::moved) says so.
    Prefer,
    /// The planner decides whether the device is used.
    /// A device that is named and absent is an error.
    #[default]
    Allow,
}

impl Policy {
    /// The names of all policies.
    pub const NAMES: [&str; 3] = ["require", "prefer", "allow"];

    /// Returns the policy of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Policy> {
        match name {
            "require" => Some(Policy::Require),
            "prefer" => Some(Policy::Prefer),
            "allow" => Some(Policy::Allow),
            _ => None,
        }
    }

    /// Returns the policy's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::Require => "require",
            Policy::Prefer => "prefer",
            Policy::Allow => "allow",
        }
    }
}
