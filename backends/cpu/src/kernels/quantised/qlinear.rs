//! QLinearMatMul: products of bytes whose sums are quantised again, exactly as the standard says.

use half::{bf16, f16};
use hetero_hal::{DType, Error, Result};

use super::matmul::{Stack, fits_lines, right_of, signed};
use super::product::{Operands, Product, Shape};
use super::tile::Finish;
use crate::kernels::{Kernel, Packed, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::WIDEST;
use crate::simd::dot::Dot;

/// The sums as quantised numbers: `saturate(round(sum · scale) + zero)`.
/// It is computed in f64, because the nearest whole number of a product in f32 is often another.
#[derive(Clone, Copy)]
struct Quantised {
    out: *mut u8,
    row: usize,
    /// A vector of factors for each vector of the tile, contiguous.
    scales: *const f64,
    zero: f64,
    /// The least and the largest number.
    limits: (f64, f64),
}

/// Rounds to a whole number, halves to even, for any number.
#[inline(always)]
fn rounded(x: f64) -> f64 {
    // Adding 2^52 leaves no bits for a fraction, and there is none above.
    const SHIFT: f64 = 4_503_599_627_370_496.0;
    if x.abs() < SHIFT { ((x.abs() + SHIFT) - SHIFT).copysign(x) } else { x }
}

impl Finish for Quantised {
    #[inline(always)]
    unsafe fn take<D: Dot>(self, sums: D::V, row: usize, vector: usize, count: usize) {
        let (mut whole, mut codes) = ([0i32; WIDEST], [0u8; WIDEST]);
        // SAFETY: the caller's promise; no vector has more lanes than the widest, and those of
        // factors are whole.
        unsafe {
            D::store(whole.as_mut_ptr(), sums);
            for lane in 0..D::LANES {
                let scale = *self.scales.add(vector * D::LANES + lane);
                let moved = rounded(f64::from(whole[lane]) * scale) + self.zero;
                // What is no number becomes 0.
                let moved = if moved.is_nan() { 0.0 } else { moved };
                codes[lane] = moved.max(self.limits.0).min(self.limits.1) as i32 as u8;
            }
            let at = self.out.add(row * self.row + vector * D::LANES);
            std::ptr::copy_nonoverlapping(codes.as_ptr(), at, count);
        }
    }
}

struct QLinear {
    stack: Stack,
    product: Product,
    /// The type of the scales.
    scales: DType,
    /// Whether the result is signed.
    signed: bool,
}

/// Makes the kernel of a QLinearMatMul with one scale and zero point for each operand, or one for
/// each column of the right matrix.
pub(crate) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let inputs = [0, 1, 2, 3, 4, 5, 6, 7].map(|index| site.input(index));
    let [Some(a), Some(a_scale), Some(a_zero), Some(b), Some(b_scale), Some(b_zero), Some(y_scale), Some(y_zero)] =
        inputs
    else {
        return Ok(None);
    };
    let Some(y) = site.output(0) else { return Ok(None) };
    let (Some(first), Some(second), Some(third)) = (signed(a.dtype), signed(b.dtype), signed(y.dtype)) else {
        return Ok(None);
    };
    let scales = a_scale.dtype;
    let typed = a_zero.dtype == a.dtype && b_zero.dtype == b.dtype && y_zero.dtype == y.dtype;
    let alike = [b_scale.dtype, y_scale.dtype] == [scales; 2];
    let one = [a_scale, a_zero, y_scale, y_zero].iter().all(|value| value.elements() == 1);
    let columns = if b.shape.len() > 1 { b.shape.last().copied().unwrap_or(1) } else { 1 };
    let each = [b_scale, b_zero].iter().all(|value| fits_lines(Some(&value.shape), columns));
    let known = matches!(scales, DType::F32 | DType::F16 | DType::BF16);
    let Some(stack) = Stack::of(&a.shape, &b.shape, (first, second)) else { return Ok(None) };
    if !typed || !alike || !one || !each || !known {
        return Ok(None);
    }
    let right = right_of(site, 3).filter(|_| stack.is_one());
    let product = Product::new(site, stack.shape, right.as_ref())?;
    Ok(product.map(|product| Box::new(QLinear { stack, product, scales, signed: third }) as Box<dyn Kernel>))
}

impl QLinear {
    /// Returns the scales of an operand.
    fn scales<'a>(&self, arguments: &Arguments<'a>, index: usize) -> Result<Scales<'a>> {
        Ok(match self.scales {
            DType::F16 => Scales::F16(arguments.input(index)?),
            DType::BF16 => Scales::BF16(arguments.input(index)?),
            _ => Scales::F32(arguments.input(index)?),
        })
    }
}

/// Scales of one of the types that there are.
enum Scales<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
}

impl Scales<'_> {
    /// Returns the scale of a line, or the only one.
    fn at(&self, index: usize) -> f64 {
        let of = |count: usize| if count == 1 { 0 } else { index };
        match self {
            Scales::F32(list) => list.get(of(list.len())).copied().map_or(0.0, f64::from),
            Scales::F16(list) => list.get(of(list.len())).copied().map_or(0.0, f64::from),
            Scales::BF16(list) => list.get(of(list.len())).copied().map_or(0.0, f64::from),
        }
    }
}

impl Kernel for QLinear {
    fn name(&self) -> &'static str {
        "quantised::QLinearMatMul"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Shape { m, n, k, .. } = self.stack.shape;
        let padded = self.product.padded();
        let panels = self.product.panels()?;
        let a = arguments.input::<u8>(0)?;
        let b = if panels.is_some() { &[][..] } else { arguments.input::<u8>(3)? };
        let (left_zeros, right_zeros) = (arguments.input::<u8>(2)?, arguments.input::<u8>(5)?);
        let zero = arguments.input::<u8>(7)?.first().copied().unwrap_or(0);
        let (zero, limits) = match self.signed {
            true => (f64::from(zero as i8), (-128.0, 127.0)),
            false => (f64::from(zero), (0.0, 255.0)),
        };
        let workspace = arguments.workspace::<f64>()?;
        if workspace.len() < padded {
            return Err(Error::internal("a product has less memory than it said"));
        }
        let (scales, rest) = workspace.split_at_mut(padded);
        scales.fill(0.0);
        let (left, right, result) =
            (self.scales(arguments, 1)?, self.scales(arguments, 4)?, self.scales(arguments, 6)?);
        for (column, scale) in scales.iter_mut().take(n).enumerate() {
            *scale = left.at(0) * right.at(column) / result.at(0);
        }
        let scales = Shared::new(scales);
        // SAFETY: every pattern of bits is a number, and the words of the one are halves of the
        // other's.
        let words = unsafe { std::slice::from_raw_parts_mut(rest.as_mut_ptr().cast::<i32>(), 2 * rest.len()) };
        let output = arguments.output::<u8>(0)?;
        if m * n == 0 {
            return Ok(());
        }
        for (into, &(first, second)) in output.chunks_exact_mut(m * n).zip(self.stack.pairs()) {
            let operands = Operands {
                left: a.get(first * m * k..).unwrap_or_default(),
                right: b.get(second * k * n..).unwrap_or_default(),
                panels: panels.as_ref().map(|panels| &panels[..]),
                left_zeros,
                right_zeros,
            };
            let into = Shared::new(into);
            let finish = |row: usize, column: usize| {
                // SAFETY: the product's rows and columns lie in the result, and vectors of scales
                // are whole.
                let (out, scales) = unsafe { (into.at(row * n + column), scales.at(column).cast_const()) };
                Quantised { out, row: n, scales, zero, limits }
            };
            // SAFETY: the result has the product's rows and columns, and each tile is one task's.
            unsafe { self.product.run(operands, words, runtime, finish)? };
        }
        Ok(())
    }

    fn workspace(&self, _: usize) -> usize {
        (self.product.padded() + self.product.workspace().div_ceil(2)) * size_of::<f64>()
    }

    fn weights(&self) -> Vec<&Packed> {
        self.product.packed().into_iter().collect()
    }

    fn reads(&self, input: usize) -> bool {
        input != 3 || self.product.packed().is_none()
    }
}
