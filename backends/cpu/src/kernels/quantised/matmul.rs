//! The operators that multiply matrices of bytes: MatMulInteger, and what lowering makes of it
//! together with the conversion of its result.

use hetero_hal::{DType, Result};

use super::product::{Operands, Product, Shape};
use super::tile::Whole;
use crate::kernels::{Constant, Kernel, PLACES, Packed, Runtime, Site, keeps_table, matmul};
use crate::operand::{Arguments, Shared};
use crate::simd::Isa;
use crate::simd::dot::Dots;

/// Returns the type of bytes, as whether they are signed.
pub(crate) fn signed(dtype: DType) -> Option<bool> {
    match dtype {
        DType::U8 => Some(false),
        DType::I8 => Some(true),
        _ => None,
    }
}

/// The products of two stacks of matrices, whose vectors are matrices of one row or column.
pub(crate) struct Stack {
    pub(crate) shape: Shape,
    /// For each product, the numbers of its two matrices.
    pairs: Vec<(usize, usize)>,
}

impl Stack {
    /// Returns the products of operands of these shapes, as NumPy's `matmul` has them.
    pub(crate) fn of(a: &[usize], b: &[usize], signed: (bool, bool)) -> Option<Stack> {
        let (a_batch, &[m, k]) = match a {
            [k] => (&[][..], &[1, *k]),
            [batch @ .., m, k] => (batch, &[*m, *k]),
            [] => return None,
        };
        let (b_batch, &[_, n]) = match b {
            [k] => (&[][..], &[*k, 1]),
            [batch @ .., k, n] => (batch, &[*k, *n]),
            [] => return None,
        };
        let shape = |m: usize| Shape { m, n, k, a: (k, 1), b: (n, 1), signed };
        // The rows of a stack times one matrix are one product.
        if b_batch.iter().all(|&size| size == 1) && a_batch.len() >= b_batch.len() {
            let rows = a_batch.iter().try_fold(m, |rows, &size| rows.checked_mul(size))?;
            return Some(Stack { shape: shape(rows), pairs: vec![(0, 0)] });
        }
        let rank = a_batch.len().max(b_batch.len());
        let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
        let batch: Vec<usize> = (0..rank)
            .map(|axis| match (size(a_batch, axis), size(b_batch, axis)) {
                (1, other) => other,
                (own, _) => own,
            })
            .collect();
        if !keeps_table(&batch, PLACES) {
            return None;
        }
        Some(Stack { shape: shape(m), pairs: matmul::pairs(&batch, a_batch, b_batch) })
    }

    /// Tells whether memory could hold the operands.
    pub(crate) fn is_possible(&self, isa: Isa) -> bool {
        Product::is_possible(Dots::best(isa), self.shape)
    }

    /// Returns for each product the numbers of its two matrices.
    pub(super) fn pairs(&self) -> &[(usize, usize)] {
        &self.pairs
    }

    /// Tells whether there is one product, so that a constant right matrix is packed.
    pub(crate) fn is_one(&self) -> bool {
        self.pairs == [(0, 0)]
    }
}

/// Tells whether zero points are none, one for all lines, or one for each line.
pub(super) fn fits_lines(shape: Option<&[usize]>, lines: usize) -> bool {
    shape.is_none_or(|shape| hetero_hal::element_count(shape).is_some_and(|count| count == 1 || count == lines))
}

/// Makes the kernel of a MatMulInteger.
pub(crate) fn integer(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(product) = Integer::of(site)? else { return Ok(None) };
    Ok(Some(Box::new(product)))
}

struct Integer {
    stack: Stack,
    product: Product,
}

/// Returns the products of a MatMulInteger, where bytes and zero points are of the usual kinds.
pub(crate) fn stack(site: Site<'_>) -> Option<Stack> {
    let (a, b) = (site.input(0)?, site.input(1)?);
    let stack = Stack::of(&a.shape, &b.shape, (signed(a.dtype)?, signed(b.dtype)?))?;
    let typed = |index: usize, dtype: DType| site.input(index).is_none_or(|value| value.dtype == dtype);
    let lines = |shape: &[usize], rank: usize| if shape.len() > 1 { shape[shape.len() - rank] } else { 1 };
    let fits = typed(2, a.dtype)
        && typed(3, b.dtype)
        && fits_lines(site.shape(2), lines(&a.shape, 2))
        && fits_lines(site.shape(3), lines(&b.shape, 1));
    // One product is of the rows of all matrices, and zero points are of one matrix's.
    let whole = stack.shape.m == lines(&a.shape, 2) || site.shape(2).is_none_or(|shape| shape.iter().all(|&n| n == 1));
    (fits && whole).then_some(stack)
}

impl Integer {
    fn of(site: Site<'_>) -> Result<Option<Self>> {
        let (Some(stack), Some(output)) = (stack(site), site.output(0)) else { return Ok(None) };
        if output.dtype != DType::I32 {
            return Ok(None);
        }
        let right = right_of(site, 1).filter(|_| stack.is_one());
        Ok(Product::new(site, stack.shape, right.as_ref())?.map(|product| Integer { stack, product }))
    }
}

/// Returns an input as a weight, where it is constant.
pub(crate) fn right_of(site: Site<'_>, index: usize) -> Option<Constant> {
    let value = site.input(index)?;
    Some(Constant { name: value.name.clone(), content: value.constant.clone()? })
}

impl Kernel for Integer {
    fn name(&self) -> &'static str {
        "quantised::MatMulInteger"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Shape { m, n, k, .. } = self.stack.shape;
        let panels = self.product.panels()?;
        let a = arguments.input::<u8>(0)?;
        let b = if panels.is_some() { &[][..] } else { arguments.input::<u8>(1)? };
        let left_zeros = arguments.optional::<u8>(2)?.unwrap_or_default();
        let right_zeros = arguments.optional::<u8>(3)?.unwrap_or_default();
        let output = arguments.output::<i32>(0)?;
        let workspace = arguments.workspace::<i32>()?;
        if m * n == 0 {
            return Ok(());
        }
        for (into, &(first, second)) in output.chunks_exact_mut(m * n).zip(&self.stack.pairs) {
            let operands = Operands {
                left: a.get(first * m * k..).unwrap_or_default(),
                right: b.get(second * k * n..).unwrap_or_default(),
                panels: panels.as_ref().map(|panels| &panels[..]),
                left_zeros,
                right_zeros,
            };
            let into = Shared::new(into);
            let finish = |row: usize, column: usize| {
                // SAFETY: the product's rows and columns lie in the result.
                Whole { out: unsafe { into.at(row * n + column) }, row: n, vector: self.product.dots.lanes() }
            };
            // SAFETY: the result has the product's rows and columns, and each tile is one task's.
            unsafe { self.product.run(operands, workspace, runtime, finish)? };
        }
        Ok(())
    }

    fn workspace(&self, _: usize) -> usize {
        self.product.workspace() * size_of::<i32>()
    }

    fn weights(&self) -> Vec<&Packed> {
        self.product.packed().into_iter().collect()
    }

    fn reads(&self, input: usize) -> bool {
        input != 1 || self.product.packed().is_none()
    }
}

/// The recipe of a product whose sums become real numbers, with a bias and limits.
pub(crate) struct Scaled {
    pub(crate) stack: Stack,
    /// The right matrix, where it is constant.
    pub(crate) right: Option<Constant>,
    /// Whether there are one or two scales, the inputs behind the zero points; the product of the
    /// two has one element or one for each column.
    pub(crate) scales: usize,
    /// Whether an input behind the scales is a bias, one element or one for each column.
    pub(crate) bias: bool,
    pub(crate) clamp: (f32, f32),
}

/// A product of bytes whose sums become real numbers.
/// Its inputs are the matrices, their zero points, scales, and a bias.
pub(crate) struct ScaledProduct {
    product: Product,
    scales: usize,
    bias: bool,
    clamp: (f32, f32),
}

impl ScaledProduct {
    pub(crate) fn new(site: Site<'_>, recipe: Scaled) -> Result<Option<Self>> {
        let Scaled { stack, right, scales, bias, clamp } = recipe;
        if !stack.is_one() {
            return Ok(None);
        }
        let product = Product::new(site, stack.shape, right.as_ref())?;
        Ok(product.map(|product| ScaledProduct { product, scales, bias, clamp }))
    }
}

/// Returns an element of a list that has one for each column or one for all.
pub(super) fn each(list: &[f32], index: usize) -> f32 {
    list.get(index).or(list.first()).copied().unwrap_or(0.0)
}

impl Kernel for ScaledProduct {
    fn name(&self) -> &'static str {
        "quantised::ScaledProduct"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (n, padded) = (self.product.shape.n, self.product.padded());
        let panels = self.product.panels()?;
        let operands = Operands {
            left: arguments.input::<u8>(0)?,
            right: if panels.is_some() { &[] } else { arguments.input::<u8>(1)? },
            panels: panels.as_ref().map(|panels| &panels[..]),
            left_zeros: arguments.optional::<u8>(2)?.unwrap_or_default(),
            right_zeros: arguments.optional::<u8>(3)?.unwrap_or_default(),
        };
        let first = arguments.input::<f32>(4)?;
        let second = if self.scales > 1 { Some(arguments.input::<f32>(5)?) } else { None };
        let bias = if self.bias { Some(arguments.input::<f32>(4 + self.scales)?) } else { None };
        let output = arguments.output::<f32>(0)?;
        let workspace = arguments.workspace::<i32>()?;
        if workspace.len() < self.product.workspace() + 2 * padded || output.len() < self.product.shape.m * n {
            return Err(hetero_hal::Error::internal("a product has less memory than it said"));
        }
        let (workspace, floats) = workspace.split_at_mut(self.product.workspace());
        // SAFETY: every pattern of bits is a number, and both types are as large and as aligned.
        let floats = unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast::<f32>(), 2 * padded) };
        floats.fill(0.0);
        let (scales, shifts) = floats.split_at_mut(padded);
        for (column, scale) in scales.iter_mut().take(n).enumerate() {
            *scale = each(first, column) * second.map_or(1.0, |second| each(second, column));
        }
        if let Some(bias) = bias {
            shifts.iter_mut().take(n).enumerate().for_each(|(column, shift)| *shift = each(bias, column));
        }
        let shifts = bias.map(|_| &*shifts);
        self.product.run_real(operands, output, (scales, shifts), self.clamp, workspace, runtime)
    }

    fn workspace(&self, _: usize) -> usize {
        (self.product.workspace() + 2 * self.product.padded()) * size_of::<i32>()
    }

    fn weights(&self) -> Vec<&Packed> {
        self.product.packed().into_iter().collect()
    }

    fn reads(&self, input: usize) -> bool {
        input != 1 || self.product.packed().is_none()
    }
}
