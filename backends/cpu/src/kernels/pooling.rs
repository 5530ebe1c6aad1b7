//! Pooling over two spatial dimensions, and over all of space, on f32.

use hetero_hal::{DType, Operator, Result};
use hetero_reference::Window;

use super::planes::{Fold, Frame, Planes};
use super::tile::piece;
use super::vector::{Pairwise, Second};
use super::{Kernel, PLACES, Runtime, Site, TABLE, keeps_table};
use crate::image::Image;
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(shape) = site.shape(0).filter(|shape| shape.len() >= 3) else {
        return Ok(None);
    };
    let operator = site.operator();
    if !site.all(DType::F32) || site.node.outputs.len() > 1 {
        return Ok(None);
    }
    let average = operator.name.ends_with("AveragePool");
    if operator.name.starts_with("Global") {
        let plane = shape[2..].iter().product();
        return Ok(Some(Box::new(Global { isa: site.isa, plane, average })));
    }
    let (&[_, _, ref spatial @ ..], Some(kernel)) = (shape, operator.ints("kernel_shape")?) else {
        return Ok(None);
    };
    if spatial.len() > 2 {
        return Ok(None);
    }
    let kernel: Vec<usize> = kernel.iter().map(|&size| size.max(0) as usize).collect();
    let window = Window::resolve(operator, spatial, &kernel)?;
    if !keeps_table(&window.kernel, TABLE) || !keeps_table(&window.output, PLACES) {
        return Ok(None);
    }
    let with_padding = operator.int("count_include_pad")?.unwrap_or(0) != 0;
    // One dimension is taken as a row.
    let axis = |list: &[usize], one: usize| if let [only] = *list { [one, only] } else { [list[0], list[1]] };
    let frame = Frame {
        input: axis(spatial, 1),
        output: axis(&window.output, 1),
        kernel: axis(&window.kernel, 1),
        strides: axis(&window.strides, 1),
        dilations: axis(&window.dilations, 1),
        begin: axis(&window.begin, 0),
    };
    let Some(planes) = Planes::new(site.isa, frame) else { return Ok(None) };
    let mut shares = Vec::new();
    let along = |axis: usize, at: usize| {
        let (taps, padded) = reach(&window, axis, at, spatial[axis]);
        (taps.count(), padded)
    };
    for row in 0..if average { frame.output[0] } else { 0 } {
        let (vertical, padded_rows) = if spatial.len() == 1 { (1, 1) } else { along(0, row) };
        for column in 0..frame.output[1] {
            let (horizontal, padded_columns) = along(spatial.len() - 1, column);
            let inside = vertical * horizontal;
            let count = if with_padding { padded_rows * padded_columns } else { inside };
            shares.push(1.0 / count as f32);
        }
    }
    let ones = vec![1.0; frame.kernel[0] * frame.kernel[1]];
    let shares = average.then_some(shares);
    Ok(Some(Box::new(Pool { isa: site.isa, plane: spatial.iter().product(), planes, ones, shares })))
}

struct Global {
    isa: Isa,
    plane: usize,
    average: bool,
}

impl Kernel for Global {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = arguments.output::<f32>(0)?;
        let planes = output.len();
        let output = Shared::new(output);
        let pieces = runtime.pieces(planes, self.plane * 4);
        runtime.for_each(pieces, |number, _| {
            for channel in piece(planes, pieces, number) {
                let plane = &input[channel * self.plane..][..self.plane];
                // SAFETY: each element is one task's.
                let into = unsafe { output.slice(channel, 1) };
                // SAFETY: the job has no further conditions.
                into[0] = unsafe { self.isa.run(Whole { plane, average: self.average }) };
            }
        });
        Ok(())
    }
}

/// The average of a plane, or its largest value, where NaN wins.
struct Whole<'a> {
    plane: &'a [f32],
    average: bool,
}

impl Job for Whole<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: each vector lies in the plane.
        unsafe {
            let chunks = self.plane.chunks_exact(S::LANES * 4);
            let rest = chunks.remainder();
            let start = S::splat(if self.average { 0.0 } else { f32::NEG_INFINITY });
            let (mut results, mut checks) = ([start; 4], S::splat(0.0));
            for chunk in chunks {
                for (index, result) in results.iter_mut().enumerate() {
                    let x = S::load(chunk.as_ptr().add(index * S::LANES));
                    *result = if self.average { S::add(*result, x) } else { S::max(*result, x) };
                    // 0 times anything finite is 0.
                    // NaN stays NaN, and infinities are checked again below.
                    checks = if self.average { checks } else { S::fma(x, S::splat(0.0), checks) };
                }
            }
            if self.average {
                let sum = results.into_iter().fold(S::splat(0.0), |a, b| S::add(a, b));
                return (S::sum(sum) + rest.iter().sum::<f32>()) / self.plane.len() as f32;
            }
            if S::sum(checks).is_nan() && self.plane.iter().any(|x| x.is_nan()) {
                return f32::NAN;
            }
            let most = results.into_iter().fold(start, |a, b| S::max(a, b));
            rest.iter().copied().fold(S::largest(most), |a, b| if b > a || b.is_nan() { b } else { a })
        }
    }
}

/// A pooling on plain planes.
struct Pool {
    isa: Isa,
    plane: usize,
    planes: Planes,
    /// A weight of one for each tap.
    ones: Vec<f32>,
    /// For an average, the factor of each sum.
    shares: Option<Vec<f32>>,
}

/// Returns the taps of one window along one axis: their positions on the input, and how many lie on
/// input or padding.
fn reach(window: &Window, axis: usize, at: usize, size: usize) -> (impl Iterator<Item = usize> + Clone, usize) {
    let (stride, dilation, begin) = (window.strides[axis], window.dilations[axis], window.begin[axis]);
    let limit = size + begin + window.end[axis];
    let taps = (0..window.kernel[axis]).map(move |tap| at * stride + tap * dilation);
    let padded = taps.clone().filter(|&tap| tap < limit).count();
    (taps.filter_map(move |tap| tap.checked_sub(begin).filter(|&tap| tap < size)), padded)
}

impl Kernel for Pool {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = arguments.output::<f32>(0)?;
        let workspace = arguments.workspace::<f32>()?;
        let fold = match self.shares {
            Some(_) => Fold::Sum { weights: &self.ones, bias: 0.0 },
            None => Fold::Max,
        };
        let finish = |_: usize, into: &mut [f32]| {
            if let Some(shares) = &self.shares {
                Pairwise::Mul.apply(self.isa, into, Second::Same(shares), false);
            }
        };
        let plane = |number: usize| &input[number * self.plane..][..self.plane];
        let count = input.len() / self.plane.max(1);
        self.planes.run_all(count, workspace, output, runtime, (plane, |_| fold, finish));
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        self.planes.workspace(threads)
    }
}

/// Tells whether there is a kernel for the pooling in a blocked layout.
pub(crate) fn fits(site: Site<'_>) -> Result<bool> {
    if site.operator().name.starts_with("Global") {
        // A list names all rows of the input, and another all of its columns.
        return Ok(site.shape(0).is_some_and(|shape| shape.iter().skip(2).all(|&size| size <= TABLE)));
    }
    let Some(shape) = site.shape(0).filter(|shape| matches!(shape.len(), 3 | 4)) else { return Ok(false) };
    let Some(kernel) = site.operator().ints("kernel_shape")? else { return Ok(false) };
    // Columns lie as rows in a blocked layout.
    let column = |shape: Option<&[usize]>| matches!(shape, Some([_, _, height, 1]) if *height > 1);
    if column(Some(shape)) || column(site.output(0).map(|value| value.shape.as_slice())) {
        return Ok(false);
    }
    if kernel.len() + 2 != shape.len() || !kernel.iter().all(|&size| (1..1 << 31).contains(&size)) {
        return Ok(false);
    }
    // Each output along an axis has a list of its taps on the input.
    let outputs = site.output(0).map_or(&[][..], |value| value.shape.get(2..).unwrap_or_default());
    let taps = kernel.iter().zip(&shape[2..]).zip(outputs);
    Ok(taps.into_iter().all(|((&kernel, &input), &output)| keeps_table(&[output, input.min(kernel as usize)], PLACES)))
}

/// A pooling in a blocked layout: a block's lanes are a vector of channels.
pub(crate) struct Blocked {
    isa: Isa,
    input: Image,
    output: Image,
    /// The taps along rows and along columns: for each output, its taps on the input, and how many
    /// lie on input or padding.
    taps: [Taps; 2],
    average: bool,
    with_padding: bool,
}

/// The taps of each output along an axis: their positions on the input, and how many lie on input
/// or padding.
pub(crate) type Taps = Vec<(Vec<usize>, usize)>;

/// Returns the taps of a pooling along rows and along columns of an input of these sizes.
pub(crate) fn taps(operator: &Operator, sizes: [usize; 2]) -> Result<[Taps; 2]> {
    if operator.name.starts_with("Global") {
        return Ok(sizes.map(|size| vec![((0..size).collect(), size)]));
    }
    let kernel = operator.ints("kernel_shape")?.unwrap_or_default();
    let kernel: Vec<usize> = kernel.iter().map(|&size| size.max(0) as usize).collect();
    let spatial = if kernel.len() == 1 { &sizes[1..] } else { &sizes[..] };
    let window = Window::resolve(operator, spatial, &kernel)?;
    let along = |axis: usize| {
        let reach = |at: usize| {
            let (taps, padded) = reach(&window, axis, at, spatial[axis]);
            (taps.collect(), padded)
        };
        (0..window.output[axis]).map(reach).collect::<Vec<_>>()
    };
    Ok(if kernel.len() == 1 { [vec![(vec![0], 1)], along(0)] } else { [along(0), along(1)] })
}

pub(crate) fn blocked(site: Site<'_>, input: Image, output: Image) -> Result<Blocked> {
    let operator = site.operator();
    let average = operator.name.ends_with("AveragePool");
    let with_padding = operator.int("count_include_pad")?.unwrap_or(0) != 0;
    let taps = taps(operator, [input.height, input.width])?;
    Ok(Blocked { isa: site.isa, input, output, taps, average, with_padding })
}

/// A row of outputs of one block.
struct Row<'a> {
    pool: &'a Blocked,
    plane: *const f32,
    /// The rows of the plane's ring; row `y` of the plane is row `y % ring` of it.
    ring: usize,
    into: *mut f32,
    y: usize,
}

impl Blocked {
    /// Returns, for each row of the output, the rows of the input that it reads, in order.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[usize]> {
        self.taps[0].iter().map(|(rows, _)| rows.as_slice())
    }

    /// Computes row `y` of a block of the output; blocks are counted over all batch items.
    ///
    /// # Safety
    /// `plane` must be that block's plane of the input, or a ring of its rows, and nobody else may
    /// write the row.
    pub(super) unsafe fn row(&self, plane: *const f32, ring: usize, output: Shared, block: usize, y: usize) {
        let to = &self.output;
        // SAFETY: the caller's promise; the output is as large as its layout says.
        unsafe {
            let into = output.at(block * to.plane() + to.pixel(y, 0));
            self.isa.run(Row { pool: self, plane, ring, into, y });
            to.clear_around(output, block * to.plane(), y);
        }
    }
}

impl Job for Row<'_> {
    type Output = ();

    /// # Safety
    /// `plane` must be a plane of the input, or a ring of its rows, and `into` a row of the output.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (pool, image) = (self.pool, &self.pool.input);
        let (rows, padded_rows) = &pool.taps[0][self.y];
        for (x, (columns, padded_columns)) in pool.taps[1].iter().enumerate() {
            let count = if pool.with_padding { padded_rows * padded_columns } else { rows.len() * columns.len() };
            // SAFETY: the taps lie on the input.
            unsafe {
                let start = if pool.average { S::splat(0.0) } else { S::splat(f32::NEG_INFINITY) };
                let mut result = start;
                for &row in rows {
                    let line = self.plane.add(image.pixel(row % self.ring, 0));
                    for &column in columns {
                        let tap = S::load(line.add(column * S::LANES));
                        // The comparison returns its second operand for NaN, and NaN wins.
                        let largest = S::select_nan(result, S::max(result, tap));
                        result = if pool.average { S::add(result, tap) } else { largest };
                    }
                }
                if pool.average {
                    result = S::div(result, S::splat(count as f32));
                }
                S::store(self.into.add(x * S::LANES), result);
            }
        }
    }
}

impl Kernel for Blocked {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = Shared::constant(arguments.input::<f32>(0)?.as_ptr());
        let output = Shared::new(arguments.output::<f32>(0)?);
        let (from, to) = (&self.input, &self.output);
        let rows = to.batch * to.blocks() * to.height;
        let taps =
            self.taps[0].first().map_or(0, |taps| taps.0.len()) * self.taps[1].first().map_or(0, |taps| taps.0.len());
        let pieces = runtime.pieces(rows, to.width * to.lanes * taps.max(1));
        runtime.for_each(pieces, |number, _| {
            for row in piece(rows, pieces, number) {
                let (block, y) = (row / to.height, row % to.height);
                // SAFETY: each row is one task's; the operands are as large as the layouts say.
                unsafe { self.row(input.at(block * from.plane()), usize::MAX, output, block, y) };
            }
        });
        Ok(())
    }
}
