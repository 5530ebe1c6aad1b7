//! The way from a program to launches: which nodes are one kernel, which values are only another
//! name, and where everything lies in memory.

use std::collections::HashMap;

use hetero_arena::Request;
use hetero_hal::{Error, Node, NodeId, Program, Result, Tensor, ValueId};

use crate::Target;
use crate::draft::{Draft, Drafts, FAULT, MOST_ELEMENTS, Operand, resolve};
use crate::elementwise;
use crate::families;
use crate::faults::KernelFault;
use crate::fold::{Folds, folds};
use crate::language::{Access, Dialect, Port, Source, prelude};
use crate::site::{Answer, Output, Site};

/// A program as a device runs it: launches in order.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    /// The kernels, each of them once.
    pub kernels: Vec<Kernel>,
    /// The text in front of the kernels' texts, for C dialects.
    /// It is empty for WGSL, where each kernel's text is a module.
    pub prelude: String,
    /// The launches, in order: each of them sees what the ones before it have written.
    pub launches: Vec<Launch>,
    /// The constants that a backend uploads.
    pub constants: Vec<Tensor>,
    /// The size of the scratch memory in bytes; the memory must be aligned to
    /// [`Target::alignment`].
    pub scratch: usize,
    /// What kernels may find wrong in a run, by the number that they store at [`Place::Fault`],
    /// counted from 1.
    /// Where there is nothing, no launch binds that place.
    pub faults: Vec<KernelFault>,
}

impl Lowered {
    /// Returns the whole source text, for a C dialect.
    #[must_use]
    pub fn source(&self) -> String {
        let mut text = self.prelude.clone();
        for kernel in &self.kernels {
            text += &kernel.code;
        }
        text
    }
}

/// The text of a kernel, with its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The name of the entry point, which is unique for the text.
    pub entry: String,
    /// The source text.
    pub code: String,
    /// The access to each buffer, in the order of the kernel's arguments or bindings.
    pub buffers: Vec<Access>,
    /// The number of 32-bit numbers that the kernel takes behind the buffers.
    /// They are arguments in a C dialect, and in WGSL a uniform buffer at the next binding.
    pub numbers: usize,
    /// The work items of a group, along the first dimension.
    pub items: u32,
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel, as an index into [`Lowered::kernels`].
    pub kernel: usize,
    /// The ranges that are bound to [`Kernel::buffers`].
    pub buffers: Vec<BufferRange>,
    /// The bits of each number.
    pub numbers: Vec<u32>,
    /// The number of work groups along x, y and z, none of which is 0.
    pub groups: [u32; 3],
    /// The nodes that the launch does, wholly or in part.
    pub nodes: Vec<NodeId>,
}

/// A range of memory that a launch binds.
/// A range that is written overlaps no other range of its launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferRange {
    /// The memory that the range is in.
    pub place: Place,
    /// The first byte in that memory, aligned to [`Target::alignment`].
    pub offset: usize,
    /// The length in bytes, which is not 0.
    /// Kernels may touch the memory up to the next multiple of 4.
    pub bytes: usize,
}

/// The memory that a range is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The program's binding with this number, counting inputs and then outputs.
    Binding(usize),
    /// The scratch buffer.
    Scratch,
    /// The constant with this index in [`Lowered::constants`].
    Constant(usize),
    /// A word of a run's own, which is 0 before the run.
    /// A run after which it is not 0 has failed, with that one of [`Lowered::faults`].
    Fault,
}

/// Nodes that become one kernel.
struct Group {
    nodes: Vec<usize>,
    /// Whether the first node is not element-wise.
    based: bool,
}

/// The largest number of nodes of a kernel.
const MOST_NODES: usize = 24;

/// Tells whether a node only gives its input another shape.
fn renames(node: &Node) -> bool {
    let single = node.outputs.iter().skip(1).all(Option::is_none);
    single
        && node.operator.domain.is_empty()
        && matches!(&*node.operator.name, "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity")
        || &*node.operator.name == "Dropout" && single && node.inputs.get(2).is_none_or(Option::is_none)
}

/// Checks that kernels can do this node.
///
/// # Errors
/// The reason why they cannot.
pub fn support(program: &Program, node: &Node, target: &Target) -> std::result::Result<(), String> {
    let site = Site { program, node, target };
    if !node.operator.domain.is_empty() {
        return Err(format!("operators of the domain '{}' have no kernel", node.operator.domain));
    }
    let made = node.outputs.iter().flatten().map(|&id| (id, true));
    let (mut empty, mut full) = (false, false);
    for (id, output) in node.uses().map(|id| (id, false)).chain(made) {
        let value = site.value(id).ok_or("a value is missing")?;
        if value.is_dynamic() {
            return Err(format!("the size of '{}' depends on data", value.name));
        }
        if value.elements() > MOST_ELEMENTS {
            return Err(format!("'{}' has 2^31 elements or more", value.name));
        }
        if value.dtype.bits() < 8 || matches!(value.dtype, hetero_hal::DType::String) {
            return Err(format!("kernels do not take {}", value.dtype));
        }
        empty |= value.elements() == 0 && !output;
        full |= value.elements() > 0 && output;
    }
    if empty && full {
        return Err("it makes something of an empty tensor".to_owned());
    }
    if renames(node) {
        return Ok(());
    }
    drafts(site, &[node], false, &Folds::new()).map(|_| ())
}

/// Makes the launches of nodes that are one kernel.
fn drafts(site: Site<'_>, nodes: &[&Node], based: bool, folds: &Folds) -> Answer<Drafts> {
    let target = site.target;
    let last = nodes.last().ok_or("no nodes")?;
    let result = Site { node: last, ..site };
    let id = result.output_id(0).ok_or("it has no output")?;
    let output = Output { id, value: result.result()?, tail: None, folded: None };
    let drafts = match nodes {
        [node] if !elementwise::is(node) && !elementwise::joins(node) => {
            families::drafts(Site { node, ..site }, output)?
        }
        [node] if !elementwise::is(node) => elementwise::joined(Site { node, ..site }, output)?,
        // A node whose operands are more than a kernel of this device binds is several kernels.
        [node] if elementwise::joins(node) => {
            let site = Site { node, ..site };
            let one = elementwise::kernel(site, nodes, output)?;
            if one.launches.iter().all(|draft| check(draft, target).is_ok()) {
                one
            } else {
                elementwise::joined(site, output)?
            }
        }
        [base, rest @ ..] if based => {
            let base = Site { node: base, ..site };
            let from = base.output_id(0);
            let is_of = |node: &Node, id: ValueId| node.outputs.first() == Some(&Some(id));
            let folded = from.and_then(|from| folds.get(&from));
            let folded = folded.filter(|folded| rest.iter().any(|node| is_of(node, folded.result)));
            let rest: Vec<&Node> = match folded {
                Some(folded) => rest.iter().copied().filter(|node| !is_of(node, folded.result)).collect(),
                None => rest.to_vec(),
            };
            let from = folded.map_or(from, |folded| Some(folded.result));
            let tail = if rest.is_empty() { None } else { Some(elementwise::chain(site, &rest, from)?) };
            families::drafts(base, Output { tail: tail.as_ref(), folded, ..output })?
        }
        _ => elementwise::kernel(site, nodes, output)?,
    };
    for draft in &drafts.launches {
        check(draft, target)?;
    }
    Ok(drafts)
}

/// Checks that a launch keeps to the device's limits.
fn check(draft: &Draft, target: &Target) -> Answer<()> {
    let mut bound = 0;
    for argument in &draft.arguments {
        let bytes = argument.dtype.bytes_for(argument.elements).unwrap_or(usize::MAX) as u64;
        bound += bytes.div_ceil(target.binding_bytes).max(1);
        let dtype = argument.dtype;
        if !crate::computes(dtype, target) {
            return Err(format!("kernels do not take {dtype} on this device"));
        }
    }
    if bound > u64::from(target.buffers) {
        return Err(format!("a kernel of it binds {bound} buffers, and the device allows {}", target.buffers));
    }
    // A buffer is a pointer.
    let arguments = 8 * bound + 4 * draft.numbers.len() as u64;
    if arguments > u64::from(target.argument_bytes) {
        let most = target.argument_bytes;
        return Err(format!("a kernel of it takes {arguments} bytes of arguments, and the device allows {most}"));
    }
    if draft.groups.iter().any(|&count| count > target.groups) || draft.items > target.items {
        return Err(format!("{:?} groups of {} items are more than the device allows", draft.groups, draft.items));
    }
    Ok(())
}

/// The values that are other names of the same memory.
struct Names {
    /// For each value, the value whose memory it has.
    of: Vec<ValueId>,
    /// For each node, whether it copies although it only renames.
    copied: Vec<bool>,
    /// The binding in which a value with other names lies.
    bound: HashMap<ValueId, usize>,
}

impl Names {
    fn find(program: &Program) -> Names {
        let mut of: Vec<ValueId> = (0..program.values().len() as u32).map(ValueId).collect();
        let mut copied = vec![false; program.nodes().len()];
        let mut bound: HashMap<ValueId, usize> = HashMap::new();
        for (position, &id) in program.inputs().iter().chain(program.outputs()).enumerate() {
            bound.insert(id, position);
        }
        for (number, node) in program.nodes().iter().enumerate().filter(|(_, node)| renames(node)) {
            let (Some(Some(input)), Some(Some(output))) = (node.inputs.first(), node.outputs.first()) else { continue };
            let root = of[input.index()];
            let constant = program.values()[root.index()].constant.is_some();
            match bound.get(output).copied() {
                // The result has to be in the caller's memory, and only a value that has no place
                // yet can be computed there.
                Some(_) if constant || bound.contains_key(&root) => copied[number] = true,
                Some(position) => {
                    of[output.index()] = root;
                    bound.insert(root, position);
                }
                None => of[output.index()] = root,
            }
        }
        Names { of, copied, bound }
    }
}

/// Lowers a program to launches of kernels.
///
/// # Errors
/// `Unsupported`, naming the node that kernels cannot do.
pub fn lower(program: &Program, target: &Target) -> Result<Lowered> {
    let refused = |id: NodeId, node: &Node, why: String| Error::unsupported(why).at_node(id, node.to_string());
    for (id, node) in program.node_ids() {
        support(program, node, target).map_err(|why| refused(id, node, why))?;
    }
    let producers = program.producers();
    for &id in program.outputs() {
        let value = program.value(id)?;
        if value.constant.is_some() || producers[id.index()].is_none() {
            return Err(Error::unsupported(format!("'{}' is an output that nothing computes", value.name)));
        }
    }
    let names = Names::find(program);
    let mut lowering = Lowering {
        program,
        target,
        names,
        folds: folds(program, target),
        lowered: Lowered::default(),
        kernels: HashMap::new(),
        tables: HashMap::new(),
        uses: Vec::new(),
        called: Default::default(),
        halves: false,
    };
    for group in lowering.group() {
        let nodes: Vec<&Node> = group.nodes.iter().map(|&number| &program.nodes()[number]).collect();
        let (Some(last), Some(&number)) = (nodes.last(), group.nodes.last()) else { continue };
        let site = Site { program, node: last, target };
        let mut made = last.outputs.iter().flatten().filter_map(|&id| site.value(id));
        if made.all(|value| value.elements() == 0) {
            continue;
        }
        let drafts = if renames(last) {
            let id = site.output_id(0).ok_or_else(|| Error::internal("a node without an output"))?;
            let output = Output { id, value: program.value(id)?, tail: None, folded: None };
            families::copy(site, output)
                .and_then(|drafts| drafts.launches.iter().try_for_each(|draft| check(draft, target)).map(|()| drafts))
        } else {
            drafts(site, &nodes, group.based, &lowering.folds)
        };
        let drafts = drafts.map_err(|why| refused(NodeId(number as u32), last, why))?;
        lowering.place(&drafts, &group.nodes)?;
    }
    lowering.finish()
}

/// The memory of a launch's buffer, before scratch memory is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Home {
    Placed(Place),
    /// A value that lies in scratch memory.
    Value(ValueId),
    /// A workspace, numbered across all launches.
    Workspace(usize),
}

/// The use of a buffer by a launch.
struct Use {
    launch: usize,
    home: Home,
    bytes: usize,
    /// The size of the whole workspace or value, in bytes.
    whole: usize,
}

struct Lowering<'a> {
    program: &'a Program,
    target: &'a Target,
    names: Names,
    folds: Folds,
    lowered: Lowered,
    kernels: HashMap<(&'static str, Source), usize>,
    /// The constants, by the program's value or by content.
    tables: HashMap<Content, usize>,
    uses: Vec<Use>,
    called: std::collections::HashSet<String>,
    halves: bool,
}

#[derive(PartialEq, Eq, Hash)]
enum Content {
    Value(ValueId),
    Bytes(bytes::Bytes),
}

impl Lowering<'_> {
    /// Decides which nodes are one kernel, in an order in which the groups can run.
    fn group(&self) -> Vec<Group> {
        let program = self.program;
        let (producers, consumers, outputs) = (program.producers(), program.consumers(), program.output_mask());
        // For each node, the group of which it is the last node.
        let mut groups: Vec<Option<Group>> = Vec::with_capacity(program.nodes().len());
        for (number, node) in program.nodes().iter().enumerate() {
            if renames(node) {
                groups.push(self.names.copied[number].then(|| Group { nodes: vec![number], based: false }));
                continue;
            }
            let mut group = Group { nodes: vec![number], based: false };
            if elementwise::is(node) {
                for id in node.inputs.iter().flatten() {
                    let Some(producer) = producers[id.index()].map(NodeId::index) else { continue };
                    let alone = consumers[id.index()].len() == 1 && !outputs[id.index()];
                    let shaped = program.values()[id.index()].shape
                        == node
                            .outputs
                            .first()
                            .copied()
                            .flatten()
                            .map_or(vec![], |id| program.values()[id.index()].shape.clone());
                    if !alone || !shaped || group.nodes.contains(&producer) {
                        continue;
                    }
                    let Some(other) = groups[producer].as_ref() else { continue };
                    let based = other.based || !elementwise::is(&program.nodes()[other.nodes[0]]);
                    let fits = !based || (!group.based && families::takes_tail(&program.nodes()[other.nodes[0]]));
                    if !fits || group.nodes.len() + other.nodes.len() > MOST_NODES {
                        continue;
                    }
                    let Some(other) = groups[producer].take() else { continue };
                    // The order is that of computation: the base first, the rest in the program's
                    // order.
                    let base = based.then(|| other.nodes[0]).or(group.based.then(|| group.nodes[0]));
                    let mut joined: Vec<usize> = other.nodes.iter().chain(&group.nodes).copied().collect();
                    joined.sort_unstable();
                    if let Some(base) = base {
                        joined.retain(|&node| node != base);
                        joined.insert(0, base);
                    }
                    let joined = Group { nodes: joined, based: base.is_some() };
                    let nodes: Vec<&Node> = joined.nodes.iter().map(|&number| &program.nodes()[number]).collect();
                    let site = Site { program, node, target: self.target };
                    if drafts(site, &nodes, joined.based, &self.folds).is_ok() {
                        group = joined;
                    } else {
                        groups[producer] = Some(other);
                    }
                }
            }
            groups.push(Some(group));
        }
        groups.into_iter().flatten().collect()
    }

    fn home(&mut self, operand: &Operand, workspaces: usize) -> Result<Home> {
        Ok(match operand {
            Operand::Value(id) => {
                let root = self.names.of[id.index()];
                if let Some(&position) = self.names.bound.get(&root) {
                    return Ok(Home::Placed(Place::Binding(position)));
                }
                match &self.program.value(root)?.constant {
                    Some(content) => Home::Placed(self.constant(Content::Value(root), content)),
                    None => Home::Value(root),
                }
            }
            Operand::Table(tensor) => Home::Placed(self.constant(Content::Bytes(tensor.bytes().clone()), tensor)),
            Operand::Workspace(number) => Home::Workspace(workspaces + number),
            Operand::Fault => Home::Placed(Place::Fault),
        })
    }

    fn constant(&mut self, key: Content, content: &Tensor) -> Place {
        let constants = &mut self.lowered.constants;
        let index = *self.tables.entry(key).or_insert_with(|| {
            constants.push(content.clone());
            constants.len() - 1
        });
        Place::Constant(index)
    }

    /// Adds launches to the lowered program.
    fn place(&mut self, drafts: &Drafts, nodes: &[usize]) -> Result<()> {
        let workspaces =
            self.uses.iter().filter_map(|u| if let Home::Workspace(n) = u.home { Some(n + 1) } else { None });
        let workspaces = workspaces.max().unwrap_or(0);
        for draft in &drafts.launches {
            let kernel = self.kernel(draft)?;
            let number = self.lowered.launches.len();
            for argument in &draft.arguments {
                let home = self.home(&argument.operand, workspaces)?;
                let bytes = argument.dtype.bytes_for(argument.elements).unwrap_or(0).max(1);
                let whole = match argument.operand {
                    Operand::Workspace(index) => drafts.workspaces.get(index).copied().unwrap_or(bytes).max(bytes),
                    _ => bytes,
                };
                self.uses.push(Use { launch: number, home, bytes, whole });
            }
            let node = nodes.last().map(|&node| NodeId(node as u32));
            if let (Some(what), Some(node)) = (&draft.fault, node) {
                let name = self.program.nodes().get(node.index()).map(ToString::to_string).unwrap_or_default();
                self.lowered.faults.push(KernelFault { node, name, what: what.clone() });
            }
            let fault = self.lowered.faults.len() as u32;
            let bits = |(name, _, bits): &(String, _, u32)| if name == FAULT { fault } else { *bits };
            self.lowered.launches.push(Launch {
                kernel,
                buffers: vec![],
                numbers: draft.numbers.iter().map(bits).collect(),
                groups: draft.groups,
                nodes: nodes.iter().map(|&node| NodeId(node as u32)).collect(),
            });
        }
        Ok(())
    }

    /// Returns the index of a draft's kernel, whose text is written only once.
    fn kernel(&mut self, draft: &Draft) -> Result<usize> {
        let (target, dialect) = (self.target, self.target.dialect);
        let ports = draft.arguments.iter().map(|argument| {
            let bytes = argument.dtype.bytes_for(argument.elements).unwrap_or(0) as u64;
            Port {
                name: argument.name.clone(),
                dtype: argument.dtype,
                access: argument.access,
                pieces: bytes.div_ceil(target.binding_bytes).max(1) as u32,
            }
        });
        let source = Source {
            body: resolve(draft),
            constants: draft.constants.clone(),
            ports: ports.collect(),
            numbers: draft.numbers.iter().map(|(name, number, _)| (name.clone(), *number)).collect(),
            items: draft.items,
            piece: target.binding_bytes,
            half: target.half,
        };
        let key = (draft.family, source);
        if let Some(&known) = self.kernels.get(&key) {
            return Ok(known);
        }
        let source = &key.1;
        let entry = format!("{}_{:016x}", draft.family, hash(source));
        let (mut code, called) = source.emit(dialect, &entry)?;
        self.halves |= source.ports.iter().any(|port| port.dtype == hetero_hal::DType::F16);
        if dialect == Dialect::Wgsl {
            code = wgsl_head(source) + &prelude(dialect, &called, false)? + &code;
        } else {
            self.called.extend(called);
        }
        let buffers = source.ports.iter().flat_map(|port| std::iter::repeat_n(port.access, port.pieces as usize));
        let kernel =
            Kernel { entry, code, buffers: buffers.collect(), numbers: source.numbers.len(), items: source.items };
        self.lowered.kernels.push(kernel);
        let index = self.lowered.kernels.len() - 1;
        self.kernels.insert(key, index);
        Ok(index)
    }

    /// Lays out the scratch memory.
    fn finish(mut self) -> Result<Lowered> {
        let mut index: HashMap<Home, usize> = HashMap::new();
        let mut requests: Vec<Request> = Vec::new();
        for used in &self.uses {
            if let Home::Placed(_) = used.home {
                continue;
            }
            let request = *index.entry(used.home).or_insert_with(|| {
                requests.push(Request::new(used.whole, used.launch, used.launch).aligned_to(self.target.alignment));
                requests.len() - 1
            });
            requests[request].last = used.launch;
            // Kernels touch whole words.
            requests[request].bytes = requests[request].bytes.max(used.whole).next_multiple_of(4);
        }
        let layout = hetero_arena::plan(&requests)
            .map_err(|error| Error::internal("the scratch memory cannot be planned").caused_by(error))?;
        for used in &self.uses {
            let (place, offset) = match used.home {
                Home::Placed(place) => (place, 0),
                other => (Place::Scratch, index.get(&other).map_or(0, |&request| layout.offsets[request])),
            };
            let piece = usize::try_from(self.target.binding_bytes).unwrap_or(usize::MAX);
            let mut begin = 0;
            while begin < used.bytes {
                let bytes = piece.min(used.bytes - begin);
                self.lowered.launches[used.launch].buffers.push(BufferRange { place, offset: offset + begin, bytes });
                begin += bytes;
            }
        }
        self.lowered.scratch = layout.bytes;
        if self.target.dialect != Dialect::Wgsl {
            self.lowered.prelude = prelude(self.target.dialect, &self.called, self.halves)?;
        }
        Ok(self.lowered)
    }
}

/// Returns the extensions that a WGSL module asks for.
fn wgsl_head(source: &Source) -> String {
    let half = source.half && source.ports.iter().any(|port| port.dtype == hetero_hal::DType::F16);
    if half { "enable f16;\n".to_owned() } else { String::new() }
}

/// Returns the FNV-1a hash of a kernel, which is the same in every build.
fn hash(source: &Source) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in format!("{source:?}").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
