//! A product whose tiles are all one device's is run whole, in place of its tiles.
//!
//! Tiles are there for devices to take from each other.
//! The plan may let no second device have any: of the devices that share a processor, the quickest
//! would do each tile sooner.
//! Then that device would only do them one after the other.
//! It would copy rows and columns out, bring the same columns into its own order for each tile
//! again, and wait at the end of each tile for its last thread.
//! The plan keeps its tiles, for the day that it is divided again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hetero_hal::Program;
use hetero_scheduler::{Partition, Partitioning};

use crate::Result;
use crate::fleet::Fleet;
use crate::passes::tile::TileGroup;
use crate::planner::{self, Planned, Planner};
use crate::session::TileShare;

/// A plan in which products stand in place of their tiles.
pub(crate) struct Joined {
    pub(crate) program: Arc<Program>,
    pub(crate) partitioning: Partitioning,
    /// The tiles of each product, as the report tells them.
    pub(crate) tiles: Vec<TileShare>,
}

/// Returns the plan with products in place of their tiles, where each product's tiles are one
/// device's and no other device may take them.
/// Returns `None` where tiles have to stay tiles, or there are none.
///
/// # Errors
/// The error of a pass that fails.
pub(crate) fn joined(
    planner: &Planner,
    fleet: &Fleet,
    planned: &Planned,
    partitioning: &Partitioning,
) -> Result<Option<Joined>> {
    let Some(groups) = alone(partitioning) else { return Ok(None) };
    // A plan that was divided again does not record the parts of its batch.
    let parts = planner::parts(&planned.partitioning);
    let program = planner.split(&planned.unsplit, &parts, 0, &fleet.allowance())?.program;
    let names: BTreeSet<&str> = program.nodes().iter().map(|node| &*node.name).collect();
    let joined = join(partitioning, &groups, &planned.annotated.tiles, &names);
    // The check fails where nodes differ in more than their tiles: values that products had in
    // common.
    let nodes: Vec<&str> = names.into_iter().collect();
    if joined.check(&nodes).is_err() {
        return Ok(None);
    }
    let share = |(group, (device, count)): (&str, (&str, usize))| TileShare {
        group: group.to_owned(),
        device: device.to_owned(),
        planned: count,
        done: count,
        stolen: 0,
    };
    let tiles = groups.into_iter().map(share).collect();
    Ok(Some(Joined { program, partitioning: joined, tiles }))
}

/// Returns the device of each group of tiles, and the number of its tiles.
/// Returns `None` where there is no group, or several devices may take tiles of one.
fn alone(partitioning: &Partitioning) -> Option<BTreeMap<&str, (&str, usize)>> {
    let mut groups: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    for partition in &partitioning.partitions {
        let Some(tiles) = &partition.tiles else { continue };
        let known = groups.entry(&tiles.group).or_insert((&partition.device, 0));
        known.1 += 1;
        if known.0 != partition.device || tiles.devices.keys().any(|id| *id != partition.device) {
            return None;
        }
    }
    (!groups.is_empty()).then_some(groups)
}

/// Returns the plan of the nodes of these names.
/// Nodes that are gone are left out, and each product stands where its result was put together.
fn join(
    partitioning: &Partitioning,
    groups: &BTreeMap<&str, (&str, usize)>,
    tiles: &[TileGroup],
    names: &BTreeSet<&str>,
) -> Partitioning {
    let joined = tiles.iter().filter(|group| groups.contains_key(&*group.product));
    let product_of: BTreeMap<&str, &str> = joined.map(|group| (&*group.whole, &*group.product)).collect();
    let mut partitions: Vec<Partition> = Vec::new();
    for partition in partitioning.partitions.iter().filter(|partition| partition.tiles.is_none()) {
        let mut rest = Partition { tasks: vec![], ..partition.clone() };
        for task in &partition.tasks {
            match product_of.get(&**task) {
                Some(&group) if groups.get(group).is_some_and(|(device, _)| *device == partition.device) => {
                    rest.tasks.push(group.to_owned());
                }
                Some(&group) => {
                    // The result was put together on another device than the product's.
                    // The nodes before it on that device do not depend on the product, so they
                    // become a partition of their own.
                    let before = Partition { tasks: std::mem::take(&mut rest.tasks), ..partition.clone() };
                    let device = groups.get(group).map_or_else(String::new, |(device, _)| (*device).to_owned());
                    partitions.push(before);
                    partitions.push(Partition { device, tasks: vec![group.to_owned()], ..partition.clone() });
                }
                None if names.contains(&**task) => rest.tasks.push(task.clone()),
                None => {}
            }
        }
        partitions.push(rest);
    }
    partitions.retain(|partition| !partition.tasks.is_empty());
    let stays = |task: &String| names.contains(&**task);
    let transfers = partitioning.transfers.iter().filter(|one| stays(&one.from_task) && stays(&one.to_task)).cloned();
    Partitioning {
        partitions: one_of_all(partitions),
        transfers: transfers.collect(),
        tile_size: None,
        ..partitioning.clone()
    }
}

/// Joins partitions that were cut at tiles: where all are one device's, they become one partition.
fn one_of_all(mut partitions: Vec<Partition>) -> Vec<Partition> {
    let same = partitions.windows(2).all(|pair| pair[0].device == pair[1].device);
    let (Some(last), true) = (partitions.last().map(|last| last.estimated_finish), same) else { return partitions };
    let rest: Vec<String> = partitions.iter_mut().skip(1).flat_map(|one| std::mem::take(&mut one.tasks)).collect();
    partitions.truncate(1);
    for first in &mut partitions {
        first.tasks.extend(rest.iter().cloned());
        first.estimated_finish = last;
    }
    partitions
}
