//! `If`: a condition says which of two bodies runs.

use hetero_hal::{Buffer, CompileOptions, DType, Result, Tensor};
use hetero_onnx::BoundBody;
use hetero_reference::Standard;

use super::{
    Body, Frame, Frames, Held, Kernel, Kind, Operand, Outer, Packed, Place, Places, Planned, Runtime, Site, allowance,
    body_of, captured,
};
use crate::executable::NOTHING;
use crate::memory::{self, CpuMemory};
use crate::operand::Arguments;

/// The attributes of the two bodies.
const NAMES: [&str; 2] = ["then_branch", "else_branch"];

pub(super) fn plan(site: Site<'_>, options: &CompileOptions) -> Result<Option<Planned>> {
    if site.input(0).is_none_or(|value| value.dtype != DType::Bool || value.late.is_some()) {
        return Ok(None);
    }
    let mut bodies = Vec::with_capacity(2);
    for name in NAMES {
        let (body, _) = body_of(site, name)?;
        if !body.inputs.is_empty() || body.outputs.len() < site.node.outputs.len() {
            return Ok(None);
        }
        let wanted: Vec<bool> =
            (0..body.outputs.len()).map(|index| site.node.outputs.get(index).is_some_and(Option::is_some)).collect();
        bodies.push(BoundBody::bind(body, &captured(site, body)?, &wanted, &Standard, &allowance(options))?);
    }
    Ok(Some(Planned { kind: Kind::If, bodies }))
}

/// A branch: its body, and where what it makes is written.
struct Branch {
    body: Body,
    /// The position of the operand of the first value that it captures, and their number.
    captured: (usize, usize),
    targets: Vec<Target>,
    scratch: Place,
}

/// The memory that something is made in.
enum Target {
    /// The output of the node at this position.
    Output(usize),
    /// Memory of its own, as the output's place is not known before the run.
    Fresh(usize),
    /// A place of the workspace.
    Place(Place),
    /// The run finds the memory.
    Late,
}

/// The kernel of an `If`.
pub(super) struct If {
    outer: Outer,
    branches: Vec<Branch>,
    workspace: usize,
    frames: Frames,
}

impl If {
    pub(super) fn new(site: Site<'_>, mut outer: Outer, bodies: Vec<Body>) -> Result<If> {
        let mut branches = Vec::with_capacity(bodies.len());
        let mut workspace = 0;
        for (name, body) in NAMES.iter().zip(bodies) {
            let (graph, first) = body_of(site, name)?;
            let captured = (first, graph.captures.len());
            outer.reads_captured(first, graph.captures.len(), &body, 0);
            // Only one of the branches runs, so they have the same memory.
            let mut places = Places::default();
            let mut targets = Vec::with_capacity(body.made.len());
            for (made, output) in body.made.iter().zip(body.first_outputs(0..body.outputs.len())) {
                let port = output.and_then(|index| Some((index, outer.outputs.get(index)?.as_ref()?)));
                targets.push(match port {
                    _ if made.late.is_some() => Target::Late,
                    Some((_, port)) if port.late.is_some() => Target::Fresh(made.bytes),
                    Some((index, port)) if port.bytes >= made.bytes => Target::Output(index),
                    _ => Target::Place(places.add(made.bytes)?),
                });
            }
            let scratch = places.add(body.scratch())?;
            workspace = workspace.max(places.bytes);
            branches.push(Branch { body, captured, targets, scratch });
        }
        Ok(If { outer, branches, workspace, frames: Frames::default() })
    }

    fn take(&self, branch: &Branch, frame: &mut Frame, arguments: &Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (first, count) = branch.captured;
        for position in first..first + count {
            frame.given.push(self.outer.captured(position, arguments, runtime)?);
        }
        let mut fresh: Vec<(usize, Buffer)> = Vec::new();
        for (number, target) in branch.targets.iter().enumerate() {
            let operand: Operand = match target {
                Target::Output(index) => self.outer.place(*index, arguments).unwrap_or(NOTHING),
                Target::Place(place) => place.of(arguments.workspace),
                Target::Late => NOTHING,
                Target::Fresh(bytes) => {
                    let buffer = CpuMemory::allocate(&runtime.shared.id, *bytes, &runtime.shared.budget)?;
                    let operand = memory::operand(&buffer)?;
                    fresh.push((number, buffer));
                    operand
                }
            };
            frame.targets.push(operand);
        }
        branch.body.run(frame, branch.scratch.of(arguments.workspace), runtime)?;
        for (number, buffer) in fresh {
            let (port, shape) = (&branch.body.made[number], frame.made[number].shape());
            let bytes = memory::frozen(buffer).slice(..port.bytes_of(shape)?);
            frame.made[number] = Held::Whole(Tensor::from_bytes(port.dtype, shape, bytes)?);
        }
        for index in 0..self.outer.outputs.len() {
            if self.outer.outputs[index].is_some() {
                self.outer.give(index, &branch.body.output(index, frame)?, arguments, runtime)?;
            }
        }
        Ok(())
    }
}

impl Kernel for If {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let missing = || hetero_hal::Error::internal("an If lacks its condition");
        let holds = self.outer.input(0, arguments, runtime)?.ok_or_else(missing)?.flag()?;
        let branch = self.branches.get(usize::from(!holds)).ok_or_else(missing)?;
        self.frames.with(|frame| self.take(branch, frame, arguments, runtime))
    }

    fn workspace(&self, _: usize) -> usize {
        self.workspace
    }

    fn weights(&self) -> Vec<&Packed> {
        self.branches.iter().flat_map(|branch| branch.body.packed()).collect()
    }

    fn name(&self) -> &'static str {
        "control::If"
    }

    fn reads(&self, input: usize) -> bool {
        self.outer.reads.get(input).copied().unwrap_or(true)
    }
}
