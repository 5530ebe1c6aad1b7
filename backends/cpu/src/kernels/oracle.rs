//! Any operator, by the reference implementation, which is slow and right.

use std::collections::HashMap;

use hetero_hal::{DType, Error, Evaluation, ExtentId, LateId, Operator, OperatorSet, Result, Tensor, ValueId};
use hetero_reference::Standard;

use super::finders::{self, Finder};
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Operand};

/// The type of a value, and where the true sizes of its dimensions are found.
struct Signature {
    dtype: DType,
    shape: Vec<usize>,
    extents: Vec<Option<ExtentId>>,
    /// The place of the content, where the value is late.
    late: Option<LateId>,
    /// The content, where it is constant and has no bytes.
    constant: Option<Tensor>,
}

impl Signature {
    /// Returns the true shape in this run.
    fn shape(&self, runtime: &Runtime<'_>) -> Result<Vec<usize>> {
        let mut shape = self.shape.clone();
        for (size, extent) in shape.iter_mut().zip(&self.extents) {
            if let (Some(extent), Some(extents)) = (extent, runtime.extents) {
                *size = extents.get(*extent)?.min(*size);
            }
        }
        Ok(shape)
    }
}

/// The reference implementation of one node.
pub(super) struct Oracle {
    operator: Operator,
    inputs: Vec<Option<Signature>>,
    /// The values that subgraphs capture; their operands stand behind the inputs' operands.
    captured: Vec<(ValueId, Signature)>,
    outputs: Vec<Option<Signature>>,
    /// A faster way for most inputs, where there is one.
    finder: Option<Finder>,
}

impl Oracle {
    pub(super) fn new(site: Site<'_>) -> Result<Self> {
        let signature = |value: &hetero_hal::ProgramValue| Signature {
            dtype: value.dtype,
            shape: value.shape.clone(),
            extents: value.extents.clone(),
            late: value.late,
            constant: value.constant.clone().filter(|_| value.dtype.bits() == 0),
        };
        if Standard.find(site.operator()).is_none() {
            return Err(Error::unsupported(format!("operator {}", site.operator())));
        }
        let given = site.node.inputs.iter().flatten().count();
        let captured = site.node.uses().skip(given);
        let captured = captured.map(|id| Ok((id, signature(site.program.value(id)?)))).collect::<Result<_>>()?;
        Ok(Oracle {
            operator: site.operator().clone(),
            inputs: (0..site.node.inputs.len()).map(|index| site.input(index).map(signature)).collect(),
            captured,
            finder: finders::find(site),
            outputs: (0..site.node.outputs.len()).map(|index| site.output(index).map(signature)).collect(),
        })
    }
}

/// Returns a tensor of a copy of the operand's bytes, or the content of a late value.
fn tensor(signature: &Signature, operand: Operand, runtime: &Runtime<'_>) -> Result<Tensor> {
    if let Some(content) = &signature.constant {
        return Ok(content.clone());
    }
    if let Some(late) = signature.late {
        return runtime.late(late);
    }
    let shape = signature.shape(runtime)?;
    let count = hetero_hal::element_count(&shape).and_then(|count| signature.dtype.bytes_for(count));
    let bytes = count.filter(|&bytes| bytes <= operand.bytes);
    let bytes = bytes.ok_or_else(|| Error::internal("an operand is smaller than its value"))?;
    let view = Arguments { inputs: &[Some(operand)], outputs: &[], workspace: operand };
    Tensor::from_bytes(signature.dtype, &shape, view.input::<u8>(0)?[..bytes].to_vec().into())
}

impl Kernel for Oracle {
    fn name(&self) -> &'static str {
        if self.finder.is_some() { "finders::Finder" } else { "oracle::Oracle" }
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let operand = |index: usize| {
            arguments.inputs.get(index).copied().flatten().ok_or_else(|| Error::internal("an operand is missing"))
        };
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (index, signature) in self.inputs.iter().enumerate() {
            inputs.push(signature.as_ref().map(|s| tensor(s, operand(index)?, runtime)).transpose()?);
        }
        let mut outer = HashMap::new();
        for (index, (id, signature)) in self.captured.iter().enumerate() {
            outer.insert(*id, tensor(signature, operand(self.inputs.len() + index)?, runtime)?);
        }
        let outer = |id| outer.get(&id).cloned();
        let evaluation =
            Evaluation::new(&self.operator, &inputs, self.outputs.len(), &Standard, &runtime.allowance).inside(&outer);
        let found = self.finder.map_or(Ok(None), |finder| finder(&evaluation, runtime))?;
        let results = found.map_or_else(|| evaluation.compute(), Ok)?;
        for (index, (signature, result)) in self.outputs.iter().zip(results).enumerate() {
            let Some(signature) = signature else { continue };
            let sizes = |extents: &hetero_hal::Extents| {
                result.shape().iter().zip(&signature.extents).try_for_each(|(size, extent)| match extent {
                    Some(extent) => extents.set(*extent, *size),
                    None => Ok(()),
                })
            };
            if let Some(late) = signature.late {
                if result.dtype() != signature.dtype {
                    let text = format!("output {index} is {result:?}, and inference said {}", signature.dtype);
                    return Err(Error::internal(text));
                }
                runtime.extents.map_or(Ok(()), sizes)?;
                runtime.put(late, result)?;
                continue;
            }
            let fits = result.dtype() == signature.dtype
                && result.rank() == signature.shape.len()
                && result.shape().iter().zip(&signature.shape).all(|(size, bound)| size <= bound)
                && (!signature.extents.is_empty() || result.shape() == signature.shape);
            if !fits {
                return Err(Error::internal(format!(
                    "output {index} is {result:?}, which inference said to be {}{:?}",
                    signature.dtype, signature.shape
                )));
            }
            let bytes = result.bytes();
            arguments.output::<u8>(index)?[..bytes.len()].copy_from_slice(bytes);
            runtime.extents.map_or(Ok(()), sizes)?;
        }
        Ok(())
    }
}
