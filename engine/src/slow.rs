//! The nodes of a plan that devices execute slowly, by their own word.

use std::fmt;
use std::sync::Arc;

use hetero_costs::CostModel;
use hetero_hal::{DeviceId, NodeId, Program, Quality};
use hetero_scheduler::Partitioning;

use crate::fleet::Fleet;
use crate::names::NodesByName;
use crate::share::Percent;

/// Nodes of one operator that a device executes slowly, for one reason.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowGroup {
    /// The device's id.
    pub device: DeviceId,
    /// The operator's name, with its domain.
    pub operator: String,
    /// The reason that the device gives.
    pub reason: String,
    /// The names of the nodes.
    pub nodes: Vec<Arc<str>>,
    /// Their share of the estimated time of all nodes, from 0 to 1.
    pub of_time: f64,
}

/// The nodes of a plan that devices execute slowly, the largest share of time first.
/// Displayed, they are one line.
///
/// Times are those by which the plan was made: measured ones where there is a profile, else guesses
/// of a cost model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlowNodes {
    /// The number of all nodes of the plan.
    pub of_nodes: usize,
    /// The slow nodes, by device, operator and reason.
    pub groups: Vec<SlowGroup>,
}

impl SlowNodes {
    /// Finds the slow nodes of a plan among what devices claimed.
    pub(crate) fn of(program: &Program, plan: &Partitioning, fleet: &Fleet, costs: &dyn CostModel) -> SlowNodes {
        let mut names = NodesByName::new(program.nodes());
        let mut found = SlowNodes { of_nodes: program.nodes().len(), groups: Vec::new() };
        let mut whole = 0.0;
        for (position, device) in fleet.devices().iter().enumerate() {
            let info = device.info();
            let own = plan
                .partitions
                .iter()
                .filter(|partition| partition.device.parse().is_ok_and(|id: DeviceId| id == info.id));
            let mut placed = vec![false; program.nodes().len()];
            for (id, _) in own.flat_map(|partition| &partition.tasks).filter_map(|task| names.find(task)) {
                placed[id.index()] = true;
            }
            let claims = fleet.claims(position, program);
            let nodes = claims.iter().flat_map(|claim| claim.nodes.iter().map(|&id| (id, &claim.quality)));
            let nodes: Vec<(NodeId, &Quality)> =
                nodes.filter(|(id, _)| placed.get(id.index()) == Some(&true)).collect();
            for (&(id, quality), seconds) in nodes.iter().zip(costs.all(program, &nodes, info)) {
                whole += seconds;
                if let (Quality::Slow(reason), Some(node)) = (quality, program.nodes().get(id.index())) {
                    found.add(&info.id, &node.operator.to_string(), reason, (node.name.clone(), seconds));
                }
            }
        }
        for group in &mut found.groups {
            group.of_time = if whole > 0.0 { group.of_time / whole } else { 0.0 };
        }
        found.groups.sort_by(|a, b| b.of_time.total_cmp(&a.of_time).then_with(|| a.operator.cmp(&b.operator)));
        found
    }

    fn add(&mut self, device: &DeviceId, operator: &str, reason: &str, (name, seconds): (Arc<str>, f64)) {
        let same =
            |group: &&mut SlowGroup| (&group.device, &*group.operator, &*group.reason) == (device, operator, reason);
        match self.groups.iter_mut().find(same) {
            Some(group) => {
                group.nodes.push(name);
                group.of_time += seconds;
            }
            None => self.groups.push(SlowGroup {
                device: device.clone(),
                operator: operator.to_owned(),
                reason: reason.to_owned(),
                nodes: vec![name],
                of_time: seconds,
            }),
        }
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Returns the number of slow nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.nodes.len()).sum()
    }

    /// Returns their share of the estimated time of all nodes, from 0 to 1.
    #[must_use]
    pub fn of_time(&self) -> f64 {
        self.groups.iter().map(|group| group.of_time).sum()
    }

    /// Returns the groups in a line, with the names of the first `names` nodes of each.
    pub(crate) fn listed(&self, names: usize) -> String {
        /// The most groups that a line has.
        const MOST: usize = 8;
        let group = |group: &SlowGroup| {
            let (count, SlowGroup { operator, reason, .. }) = (group.nodes.len(), group);
            let named: Vec<String> = group.nodes.iter().take(names).map(|name| format!("'{name}'")).collect();
            let more =
                if named.is_empty() || count <= names { String::new() } else { format!(" and {} more", count - names) };
            let named = if named.is_empty() { String::new() } else { format!(" {}{more}", named.join(", ")) };
            format!("{count} {operator}{named} ({reason})")
        };
        let mut groups: Vec<String> = self.groups.iter().take(MOST).map(group).collect();
        let rest: usize = self.groups.iter().skip(MOST).map(|group| group.nodes.len()).sum();
        if rest > 0 {
            groups.push(format!("{rest} of other operators"));
        }
        groups.join(", ")
    }
}

impl fmt::Display for SlowNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("slow: no node");
        }
        let (count, all, share) = (self.len(), self.of_nodes, Percent(self.of_time()));
        write!(f, "slow: {count} of {all} nodes, {share} of the estimated time: {}", self.listed(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow() -> SlowNodes {
        let mut slow = SlowNodes { of_nodes: 9, groups: Vec::new() };
        let device = DeviceId::new("cpu", 0);
        for (operator, reason, name, share) in
            [("Einsum", "missing", "a", 0.5), ("Einsum", "type", "b", 0.125), ("Einsum", "missing", "c", 0.25)]
        {
            slow.add(&device, operator, reason, (name.into(), share));
        }
        slow
    }

    #[test]
    fn slow_nodes_are_told_in_one_line_by_operator_and_reason() {
        assert_eq!(
            slow().to_string(),
            "slow: 3 of 9 nodes, 88 % of the estimated time: 2 Einsum (missing), 1 Einsum (type)"
        );
        assert_eq!(slow().listed(1), "2 Einsum 'a' and 1 more (missing), 1 Einsum 'b' (type)");
        assert_eq!(SlowNodes::default().to_string(), "slow: no node");
    }

    #[test]
    fn a_line_names_only_so_many_operators() {
        let mut slow = SlowNodes { of_nodes: 20, groups: Vec::new() };
        for number in 0..12 {
            slow.add(&DeviceId::new("cpu", 0), &format!("O{number}"), "missing", ("n".into(), 0.0));
        }
        assert!(slow.to_string().ends_with("1 O7 (missing), 4 of other operators"), "{slow}");
    }
}
