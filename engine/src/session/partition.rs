//! Compiled partitions: the device that each runs on, and the values that it reads and writes.

use std::sync::Arc;
use std::time::Instant;

use foldhash::{HashMap, HashSet};
use hetero_hal::{
    BindingInfo, CompileOptions, Device, Direction, Error as HalError, ErrorKind, Executable, Node, NodeId, Program,
    Source, ValueId,
};

use crate::fleet::Fleet;
use crate::names::NodesByName;
use crate::{Error, Result};

/// A partition, compiled for its device.
pub(super) struct Partition {
    /// The position among the session's devices.
    pub(super) device: usize,
    pub(super) executable: Arc<dyn Executable>,
    /// The value of each binding.
    pub(super) bindings: Vec<(ValueId, Direction)>,
}

/// A group of tiles that several devices take from each other.
#[derive(Clone)]
pub(super) struct Group {
    /// The name of the node that the tiles were cut from.
    pub(super) name: String,
    /// The numbers of the partitions: the tiles of the first member's share, then those of the next
    /// one's.
    pub(super) tiles: Vec<usize>,
    pub(super) members: Vec<Member>,
}

/// A device that takes part in a group.
#[derive(Clone)]
pub(super) struct Member {
    /// The position among the session's devices.
    pub(super) device: usize,
    /// The seconds that the plan expects of a tile.
    pub(super) seconds: f64,
    /// The number of tiles in the member's share.
    pub(super) share: usize,
    /// The executable of each tile of the group; tiles that differ only in the values that they
    /// bind have one in common.
    pub(super) executables: Vec<Arc<dyn Executable>>,
}

/// A unit of work that is submitted as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A partition, by its number.
    Partition(usize),
    /// A group of tiles, by its number.
    Group(usize),
}

/// A compiled plan.
pub(super) struct Compiled {
    /// The devices that the plan uses, in the engine's order.
    pub(super) devices: Vec<Arc<dyn Device>>,
    /// The partitions, in the plan's order.
    pub(super) partitions: Vec<Partition>,
    /// The groups of tiles: partitions that several devices may take.
    pub(super) groups: Vec<Group>,
    /// The number of groups that lie before each partition.
    pub(super) levels: Vec<usize>,
}

/// Compiles a plan.
///
/// # Errors
/// `UnknownDevice` where the plan uses a device that was not added.
/// `Device` where a device cannot compile, with its id.
pub(super) fn compile(
    fleet: &Fleet,
    program: &Program,
    plan: &hetero_scheduler::Partitioning,
    held: u64,
) -> Result<Compiled> {
    let compiler = Compiler { fleet, held };
    let mut used = Vec::with_capacity(plan.partitions.len());
    for partition in &plan.partitions {
        used.push(fleet.position_of(&partition.device).ok_or_else(|| Error::UnknownDevice {
            device: partition.device.clone(),
            reason: "the plan uses it, but it was not added".to_owned(),
        })?);
    }
    let wanted = plan.partitions.iter().filter_map(|partition| partition.tiles.as_ref());
    let takers = wanted.flat_map(|tiles| tiles.devices.keys()).filter_map(|id| fleet.position_of(id));
    let mut places: Vec<usize> = used.iter().copied().chain(takers).collect();
    places.sort_unstable();
    places.dedup();
    let devices: Vec<Arc<dyn Device>> = places.iter().map(|&place| fleet.devices()[place].clone()).collect();
    let mut names = NodesByName::new(program.nodes());
    let parts = plan.partitions.iter().enumerate().map(|(number, partition)| {
        let nodes = partition.tasks.iter().filter_map(|task| names.find(task).map(|(id, _)| id));
        (format!("{}#{number}", program.name()), nodes.collect())
    });
    let mut parts: Vec<(String, Vec<NodeId>)> = parts.collect();
    parts.iter_mut().for_each(|(_, nodes)| nodes.sort_unstable());
    let programs = program.divide(&parts)?;
    let value_of = ports(program, &programs);
    let mut partitions = Vec::with_capacity(used.len());
    let mut tiles = Tiles { programs: Vec::new(), made: Vec::new() };
    let cuts = plan.partitions.iter().zip(used).zip(programs.into_iter().zip(&parts));
    for (number, ((partition, place), (part, (_, nodes)))) in cuts.enumerate() {
        let device = places.iter().position(|&other| other == place).unwrap_or_default();
        let binding = |info: BindingInfo| match value_of.get(&info.name) {
            Some(&value) => Ok((value, info.direction)),
            None => Err(HalError::internal(format!("a partition binds the unknown value '{}'", info.name))),
        };
        let bindings = BindingInfo::of(&part).into_iter().map(binding).collect::<std::result::Result<_, _>>()?;
        let executable = match &partition.tiles {
            Some(_) => tiles.compile(number, part, device, &devices[device], compiler),
            None => compiler.compile(&devices[device], &part),
        };
        let executable = executable.map_err(|error| outside(error, nodes))?;
        partitions.push(Partition { device, executable, bindings });
    }
    let levels = levels(program, plan)?;
    let groups = group(compiler, program, plan, &devices, &partitions, &mut tiles)?;
    Ok(Compiled { devices, partitions, groups, levels })
}

/// Returns the values of a program that are ports of its parts, by name.
fn ports(program: &Program, parts: &[Program]) -> HashMap<Arc<str>, ValueId> {
    let ports = parts.iter().flat_map(|part| part.inputs().iter().chain(part.outputs()).map(move |&id| part.value(id)));
    let wanted: HashSet<Arc<str>> = ports.flatten().map(|value| value.name.clone()).collect();
    let all = (0u32..).map(ValueId).zip(program.values());
    all.filter(|(_, value)| wanted.contains(&value.name)).map(|(id, value)| (value.name.clone(), id)).collect()
}

/// Returns how many groups of tiles lie before each partition.
///
/// # Errors
/// `Plan` where a group waits for itself.
/// `Plan` also where a partition has tasks of different levels, as it would wait for itself.
fn levels(program: &Program, plan: &hetero_scheduler::Partitioning) -> Result<Vec<usize>> {
    if plan.partitions.iter().all(|partition| partition.tiles.is_none()) {
        return Ok(vec![0; plan.partitions.len()]);
    }
    let group_of = plan.partitions.iter().flat_map(|partition| {
        let group = partition.tiles.as_ref().map(|tiles| &*tiles.group);
        partition.tasks.iter().map(move |task| (&**task, group))
    });
    let group_of: HashMap<&str, Option<&str>> = group_of.collect();
    let nodes = program.nodes();
    let groups: Vec<Option<&str>> = nodes.iter().map(|node| group_of.get(&*node.name).copied().flatten()).collect();
    let producers = program.producers();
    let mut edges = Vec::new();
    for (id, node) in program.node_ids() {
        edges.extend(node.uses().filter_map(|value| producers[value.index()]).map(|from| (from.index(), id.index())));
    }
    let wrong = |at: String, reason: &str| Error::Plan(hetero_scheduler::Error::Plan { at, reason: reason.to_owned() });
    let found = hetero_scheduler::levels(&edges, &groups).map_err(|error| match error {
        hetero_scheduler::Error::Cycle(group) => wrong(format!("group of tiles '{group}'"), "it waits for itself"),
        other => Error::Plan(other),
    })?;
    let level_of: HashMap<&str, usize> = nodes.iter().zip(found).map(|(node, level)| (&*node.name, level)).collect();
    let of = |(number, partition): (usize, &hetero_scheduler::Partition)| {
        let mut all = partition.tasks.iter().filter_map(|task| level_of.get(&**task).copied());
        let first = all.next().unwrap_or(0);
        let reason = "it feeds tiles of a group and reads others";
        if all.all(|level| level == first) {
            Ok(first)
        } else {
            Err(wrong(format!("partition number {number}"), reason))
        }
    };
    plan.partitions.iter().enumerate().map(of).collect()
}

impl Compiled {
    /// Returns the units that are submitted, in the order of replay, and the groups that they
    /// count.
    /// The tiles of a group are partitions like others where a device that has a share in the group
    /// does not share its memory, or where only one device is left.
    pub(super) fn units(&self, shares_memory: impl Fn(usize) -> bool) -> (Vec<Unit>, Vec<Group>) {
        let mut groups = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let mut group = group.clone();
            group.members.retain(|member| member.share > 0 || shares_memory(member.device));
            if group.members.len() > 1 && group.members.iter().all(|member| shares_memory(member.device)) {
                groups.push(group);
            }
        }
        let mut grouped = vec![false; self.partitions.len()];
        groups.iter().flat_map(|group| &group.tiles).for_each(|&number| grouped[number] = true);
        let alone = (0..self.partitions.len()).filter(|&number| !grouped[number]);
        let mut units: Vec<(usize, usize, Unit)> =
            alone.map(|number| (self.levels[number], number, Unit::Partition(number))).collect();
        for (number, group) in groups.iter().enumerate() {
            let first = group.tiles.iter().copied().min().unwrap_or_default();
            units.push((self.levels[first], first, Unit::Group(number)));
        }
        units.sort_by_key(|&(level, number, _)| (level, number));
        (units.into_iter().map(|(_, _, unit)| unit).collect(), groups)
    }
}

/// Compiled tiles.
/// Tiles that differ only in the values that they bind are compiled once for each device.
struct Tiles {
    /// The program of each kind of tile, and the partitions that are of the kind.
    programs: Vec<(Program, Vec<usize>)>,
    /// The executables, by the kind of tile and the device's position.
    made: Vec<((usize, usize), Arc<dyn Executable>)>,
}

impl Tiles {
    fn compile(
        &mut self,
        number: usize,
        part: Program,
        place: usize,
        device: &Arc<dyn Device>,
        compiler: Compiler<'_>,
    ) -> Result<Arc<dyn Executable>> {
        let kind = self.programs.iter().position(|(other, _)| alike(other, &part)).unwrap_or_else(|| {
            self.programs.push((part, Vec::new()));
            self.programs.len() - 1
        });
        self.programs[kind].1.push(number);
        self.executable(kind, place, device, compiler)
    }

    fn executable(
        &mut self,
        kind: usize,
        place: usize,
        device: &Arc<dyn Device>,
        compiler: Compiler<'_>,
    ) -> Result<Arc<dyn Executable>> {
        if let Some((_, made)) = self.made.iter().find(|(of, _)| *of == (kind, place)) {
            return Ok(made.clone());
        }
        let made = compiler.compile(device, &self.programs[kind].0)?;
        self.made.push(((kind, place), made.clone()));
        Ok(made)
    }
}

/// Tells whether two programs of one node each compute the same, but for the names of the values
/// that they bind.
fn alike(a: &Program, b: &Program) -> bool {
    let ([one], [other]) = (a.nodes(), b.nodes()) else { return false };
    let same = |(a_id, b_id): (&Option<ValueId>, &Option<ValueId>)| match (a_id, b_id) {
        (None, None) => true,
        (Some(x), Some(y)) => match (a.value(*x), b.value(*y)) {
            (Ok(x), Ok(y)) => {
                let constants = match (&x.constant, &y.constant) {
                    (None, None) => true,
                    // Constants are compared by their addresses: equal ones are one already.
                    (Some(p), Some(q)) => p.place() == q.place(),
                    _ => false,
                };
                constants && x.dtype == y.dtype && x.shape == y.shape && !x.is_dynamic() && !y.is_dynamic()
            }
            _ => false,
        },
        _ => false,
    };
    let ports = |one: &Node, other: &Node| {
        one.inputs.len() == other.inputs.len()
            && one.outputs.len() == other.outputs.len()
            && one.inputs.iter().zip(&other.inputs).chain(one.outputs.iter().zip(&other.outputs)).all(same)
    };
    // The binding depends on which inputs are the same.
    let places = |program: &Program, node: &Node| -> Vec<Option<usize>> {
        let of = |id: &Option<ValueId>| program.inputs().iter().position(|input| Some(*input) == *id);
        node.inputs.iter().map(of).collect()
    };
    one.operator == other.operator && ports(one, other) && places(a, one) == places(b, other)
}

/// Returns the groups of tiles of a plan in which several devices take part, compiled for all of
/// these devices.
/// A device that takes part by the plan is left out where it has no tile in its share and cannot
/// compile one.
fn group(
    compiler: Compiler<'_>,
    program: &Program,
    plan: &hetero_scheduler::Partitioning,
    devices: &[Arc<dyn Device>],
    partitions: &[Partition],
    made: &mut Tiles,
) -> Result<Vec<Group>> {
    let mut names: Vec<&str> = Vec::new();
    for tiles in plan.partitions.iter().filter_map(|partition| partition.tiles.as_ref()) {
        if !names.contains(&&*tiles.group) {
            names.push(&tiles.group);
        }
    }
    let mut groups = Vec::with_capacity(names.len());
    for name in names {
        let of = |number: &usize| {
            plan.partitions[*number].tiles.as_ref().filter(|tiles| tiles.group == name).map(|tiles| &tiles.devices)
        };
        let mut tiles: Vec<usize> = (0..partitions.len()).filter(|number| of(number).is_some()).collect();
        tiles.sort_by_key(|&number| partitions[number].device);
        let mut members = Vec::new();
        for (place, device) in devices.iter().enumerate() {
            let id = device.info().id.to_string();
            let share = tiles.iter().filter(|&&number| partitions[number].device == place).count();
            let expected = |number: &usize| of(number).and_then(|devices| devices.get(&id)).copied();
            let seconds: Option<Vec<f64>> = tiles.iter().map(expected).collect();
            let Some(seconds) = seconds.or_else(|| (share > 0).then(Vec::new)) else { continue };
            let kind = |number: &usize| made.programs.iter().position(|(_, of)| of.contains(number));
            let kinds: Vec<usize> = tiles.iter().filter_map(kind).collect();
            let compiled = kinds.iter().map(|&kind| {
                let executable = made.executable(kind, place, device, compiler);
                // This is a tile of the kind, in the whole program.
                let tile = || {
                    let name = plan.partitions[*made.programs[kind].1.first()?].tasks.first()?;
                    program.node_ids().find(|(_, node)| *node.name == **name).map(|(id, _)| id)
                };
                executable.map_err(|error| outside(error, tile().as_slice()))
            });
            let compiled: Result<Vec<_>> = compiled.collect();
            let executables = match compiled {
                Ok(executables) => executables,
                Err(Error::Device(error))
                    if share == 0 && matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Compile) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            members.push(Member {
                device: place,
                seconds: seconds.iter().copied().fold(0.0, f64::max),
                share,
                executables,
            });
        }
        if members.len() > 1 {
            groups.push(Group { name: name.to_owned(), tiles, members });
        }
    }
    Ok(groups)
}

/// Returns the error with the node's id in the program that these nodes, in order, were cut from.
fn outside(error: Error, nodes: &[NodeId]) -> Error {
    let Error::Device(error) = error else { return error };
    match error.node().and_then(|inside| nodes.get(inside.index())) {
        Some(&node) => error.at_node(node, "").into(),
        None => error.into(),
    }
}

/// What compiles the partitions of a plan.
#[derive(Clone, Copy)]
struct Compiler<'a> {
    fleet: &'a Fleet,
    /// The bytes that the program's constants hold on the host.
    held: u64,
}

impl Compiler<'_> {
    /// Compiles a partition, from the result of an earlier compilation where that is kept.
    /// An error names the device.
    fn compile(self, device: &Arc<dyn Device>, program: &Program) -> Result<Arc<dyn Executable>> {
        let Compiler { fleet, held } = self;
        let reserved = if device.info().runs_on_host() { held } else { 0 };
        let deadline = Some(Instant::now() + fleet.deadline());
        let cached = fleet.cache().and_then(|cache| cache.find(program, device.info()));
        let known = cached.is_some();
        let options = CompileOptions { deadline, cached, reserved, ..CompileOptions::default() };
        let executable = device.compile(Source::Program(program), &options).map_err(|error| named(error, &**device))?;
        let expected = BindingInfo::of(program);
        if executable.bindings() != expected {
            return Err(HalError::internal("the executable's bindings are not the program's")
                .on(device.info().id.clone())
                .into());
        }
        if let (Some(cache), false) = (fleet.cache(), known) {
            cache.keep(program, device.info(), &*executable);
        }
        Ok(executable)
    }
}

/// Returns the error with the device's id, unless the error names a device.
pub(super) fn named(error: HalError, device: &dyn Device) -> HalError {
    error.or_on(&device.info().id)
}
