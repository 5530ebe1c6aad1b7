//! A node with its values, as the families of operators see it.

use hetero_hal::{Node, Operator, Program, ProgramValue, Tensor, ValueId};

use crate::Target;
use crate::draft::{Argument, Draft, Operand, Store};
use crate::fold::Folded;
use crate::language::{Access, Number, Scalar};

/// The reason why a node is turned down.
pub(crate) type Decline = String;
/// The answer of a family of operators.
pub(crate) type Answer<T> = std::result::Result<T, Decline>;

/// A node of a program that is to be lowered for a device.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) program: &'a Program,
    pub(crate) node: &'a Node,
    pub(crate) target: &'a Target,
}

impl<'a> Site<'a> {
    pub(crate) fn operator(&self) -> &'a Operator {
        &self.node.operator
    }

    /// Returns an input, or `None` where it is left out.
    pub(crate) fn input(&self, index: usize) -> Option<&'a ProgramValue> {
        self.value(self.id(index)?)
    }

    pub(crate) fn value(&self, id: ValueId) -> Option<&'a ProgramValue> {
        self.program.values().get(id.index())
    }

    /// Returns the id of an input, or `None` where it is left out.
    pub(crate) fn id(&self, index: usize) -> Option<ValueId> {
        self.node.inputs.get(index).copied().flatten()
    }

    pub(crate) fn need(&self, index: usize) -> Answer<&'a ProgramValue> {
        self.input(index).ok_or_else(|| format!("its input {index} is missing"))
    }

    /// Returns the content of an input, where it is known when compiling.
    pub(crate) fn constant(&self, index: usize) -> Option<&'a Tensor> {
        self.input(index)?.constant.as_ref()
    }

    /// Returns the whole numbers of an input, which must be known when compiling.
    pub(crate) fn numbers(&self, index: usize) -> Answer<Option<Vec<i64>>> {
        if self.input(index).is_none() {
            return Ok(None);
        }
        let content = self.constant(index).ok_or_else(|| format!("its input {index} is not known when compiling"))?;
        content.to_i64_vec().map(Some).map_err(|error| error.to_string())
    }

    pub(crate) fn output(&self, index: usize) -> Option<&'a ProgramValue> {
        self.value(self.output_id(index)?)
    }

    pub(crate) fn output_id(&self, index: usize) -> Option<ValueId> {
        self.node.outputs.get(index).copied().flatten()
    }

    pub(crate) fn result(&self) -> Answer<&'a ProgramValue> {
        self.output(0).ok_or_else(|| "it has no output".to_owned())
    }

    pub(crate) fn int(&self, name: &str, default: i64) -> Answer<i64> {
        Ok(self.operator().int(name).map_err(|error| error.to_string())?.unwrap_or(default))
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> Answer<f32> {
        Ok(self.operator().float(name).map_err(|error| error.to_string())?.unwrap_or(default))
    }

    pub(crate) fn text(&self, name: &str) -> Answer<Option<&'a str>> {
        self.operator().text(name).map_err(|error| error.to_string())
    }

    pub(crate) fn ints(&self, name: &str) -> Answer<Option<&'a [i64]>> {
        self.operator().ints(name).map_err(|error| error.to_string())
    }

    /// Returns the axis that an attribute names, counted from the front.
    pub(crate) fn axis(&self, name: &str, default: i64, rank: usize) -> Answer<usize> {
        axis(self.int(name, default)?, rank)
    }

    /// Turns the node down where an input is not computed as float.
    pub(crate) fn floats(&self, indexes: &[usize]) -> Answer<()> {
        for &index in indexes {
            if let Some(value) = self.input(index)
                && Scalar::of(value.dtype) != Some(Scalar::Float)
            {
                return Err(format!("its kernel computes on floats, not on {}", value.dtype));
            }
        }
        Ok(())
    }

    /// Adds the buffer argument that reads an input.
    pub(crate) fn reads(&self, draft: Draft, name: &str, index: usize) -> Answer<Draft> {
        let value = self.need(index)?;
        let id = self.id(index).ok_or("an input is missing")?;
        Ok(draft.read(name, value.dtype, value.elements(), Operand::Value(id)))
    }
}

/// Returns an axis, counted from the front.
pub(crate) fn axis(axis: i64, rank: usize) -> Answer<usize> {
    let counted = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let fits = counted.and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < rank.max(1));
    fits.ok_or_else(|| format!("axis {axis} of {rank} dimensions"))
}

/// Returns how many elements lie between one element and the next, along each dimension of a
/// row-major tensor.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// The element-wise nodes that are part of a kernel, and change its result before it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    pub(crate) store: Store,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) numbers: Vec<(String, Number, u32)>,
}

/// The place of a kernel's result.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    pub(crate) id: ValueId,
    pub(crate) value: &'a ProgramValue,
    pub(crate) tail: Option<&'a Tail>,
    /// Weights that take the place of the node's own weights.
    pub(crate) folded: Option<&'a Folded>,
}

impl Output<'_> {
    /// Gives a draft whose body says `RESULT(index, value);` its output, and the tail of nodes
    /// before it.
    pub(crate) fn attach(&self, mut draft: Draft) -> Draft {
        let store = match self.tail {
            Some(tail) => {
                draft.arguments.extend(tail.arguments.iter().cloned());
                draft.numbers.extend(tail.numbers.iter().cloned());
                tail.store.clone()
            }
            None => Store { statements: String::new(), value: "v0".to_owned() },
        };
        draft.result = Some(store);
        draft.write("y", self.value.dtype, self.value.elements(), Operand::Value(self.id))
    }
}

/// Returns the index expression of an operand that is repeated over a result, and adds the numbers
/// that the expression needs.
///
/// The expression finds, for the index `at` of an element of `target`, the index in `shape`, which
/// broadcasts to `target`.
pub(crate) fn broadcast(
    name: &str,
    at: &str,
    shape: &[usize],
    target: &[usize],
    numbers: &mut Vec<(String, Number, u32)>,
) -> String {
    let lead = target.len().saturating_sub(shape.len());
    let own = strides(shape);
    // For each dimension of the target: its size, and the operand's stride in it.
    let mut terms: Vec<(usize, usize)> = Vec::new();
    for (axis, &size) in target.iter().enumerate() {
        if size == 1 {
            continue;
        }
        let stride = if axis < lead || shape[axis - lead] == 1 { 0 } else { own[axis - lead] };
        match terms.last_mut() {
            // Dimensions that follow each other in memory are one, and so are those over both of
            // which the operand is repeated.
            Some((before, outer)) if *outer == stride * size => {
                *before *= size;
                *outer = stride;
            }
            _ => terms.push((size, stride)),
        }
    }
    indexed(name, at, &terms, numbers)
}

/// Returns the sum of coordinate times stride over dimensions, outermost first.
/// `index` is the row-major number that the coordinates come from.
pub(crate) fn indexed(
    name: &str,
    index: &str,
    terms: &[(usize, usize)],
    numbers: &mut Vec<(String, Number, u32)>,
) -> String {
    let mut parts = Vec::new();
    let mut inner = 1usize;
    for (position, &(size, stride)) in terms.iter().enumerate().rev() {
        if stride != 0 {
            let mut part = index.to_owned();
            if inner > 1 {
                let divisor = format!("{name}_d{position}");
                part = format!("{part} / {divisor}");
                numbers.push((divisor, Number::Uint, inner as u32));
            }
            if position > 0 {
                let modulus = format!("{name}_m{position}");
                part = if inner > 1 { format!("({part}) % {modulus}") } else { format!("{part} % {modulus}") };
                numbers.push((modulus, Number::Uint, size as u32));
            }
            if stride > 1 {
                let factor = format!("{name}_s{position}");
                part = format!("({part}) * {factor}");
                numbers.push((factor, Number::Uint, stride as u32));
            }
            parts.push(part);
        }
        inner *= size;
    }
    if parts.is_empty() { "0u".to_owned() } else { parts.join(" + ") }
}

/// Makes the argument that reads a value.
pub(crate) fn reading(name: String, id: ValueId, value: &ProgramValue) -> Argument {
    Argument { name, dtype: value.dtype, access: Access::Read, operand: Operand::Value(id), elements: value.elements() }
}
