//! Sampling of planes at points between their elements, on f32: GridSample and RoiAlign.
//!
//! Where a point lies is the same in all channels, so the places and weights of the elements around
//! some points are found once, in f64 as the oracle has them, and then applied to each plane.

use hetero_hal::{DType, Error, Result};

use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// The points whose places and weights are found together.
const POINTS: usize = 64;

/// The most elements around a point: those of a cubic in two dimensions.
const AROUND: usize = 16;

/// The place of an element that counts as 0.
const NOWHERE: u32 = u32::MAX;

/// The elements around some points, with their weights: all points of the first element, then all
/// of the second, and so on.
struct Taps {
    places: [[u32; POINTS]; AROUND],
    weights: [[f32; POINTS]; AROUND],
    /// Whether each element is one of the plane.
    inside: bool,
}

impl Taps {
    const EMPTY: Taps = Taps { places: [[0; POINTS]; AROUND], weights: [[0.0; POINTS]; AROUND], inside: true };
}

/// The sums of the elements around points of one plane.
struct Weigh<'a> {
    taps: &'a Taps,
    around: usize,
    plane: &'a [f32],
    into: &'a mut [f32],
}

impl Job for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Weigh { taps, around, plane, into } = self;
        into.fill(0.0);
        for (places, weights) in taps.places[..around].iter().zip(&taps.weights) {
            let all = into.iter_mut().zip(places.iter().zip(weights));
            if taps.inside {
                all.for_each(|(into, (&place, weight))| *into += weight * plane[place as usize]);
            } else {
                all.filter(|(_, (place, _))| **place != NOWHERE)
                    .for_each(|(into, (&place, weight))| *into += weight * plane[place as usize]);
            }
        }
    }
}

/// How elements beyond the border are read.
#[derive(Clone, Copy, PartialEq)]
enum Beyond {
    Zeros,
    Border,
    Reflection,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

struct Grid {
    isa: Isa,
    batch: usize,
    channels: usize,
    /// The sizes of the input's plane, two or three.
    space: Vec<usize>,
    /// The points of each image.
    points: usize,
    mode: Mode,
    beyond: Beyond,
    align: bool,
}

pub(super) fn grid(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(grid), Some(output)) = (site.input(0), site.input(1), site.output(0)) else {
        return Ok(None);
    };
    let operator = site.operator();
    let (&[batch, channels, ref space @ ..], &[images, ref points @ .., rank]) =
        (input.shape.as_slice(), grid.shape.as_slice())
    else {
        return Ok(None);
    };
    let mode = match operator.text("mode")?.unwrap_or("linear") {
        "nearest" => Mode::Nearest,
        "linear" | "bilinear" => Mode::Linear,
        "cubic" | "bicubic" => Mode::Cubic,
        _ => return Ok(None),
    };
    let beyond = match operator.text("padding_mode")? {
        None | Some("zeros") => Beyond::Zeros,
        Some("border") => Beyond::Border,
        Some("reflection") => Beyond::Reflection,
        Some(_) => return Ok(None),
    };
    let dimensions = if mode == Mode::Cubic { 2..3 } else { 1..4 };
    let plane: usize = space.iter().product();
    let fits = images == batch
        && rank == space.len()
        && points.len() == rank
        && dimensions.contains(&rank)
        && plane > 0
        && plane < NOWHERE as usize
        && site.all(DType::F32)
        && output.elements() > 0;
    if !fits {
        return Ok(None);
    }
    Ok(Some(Box::new(Grid {
        isa: site.isa,
        batch,
        channels,
        space: space.to_vec(),
        points: points.iter().product(),
        mode,
        beyond,
        align: operator.int("align_corners")?.unwrap_or(0) != 0,
    })))
}

/// Reflects a position at the borders until it lies between them.
fn reflect(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let distance = (x - low).rem_euclid(2.0 * range);
    low + if distance > range { 2.0 * range - distance } else { distance }
}

/// The convolution kernel of Keys (1981) with a = -3/4, at a distance.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.75;
    match x {
        x if x <= 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A,
        _ => 0.0,
    }
}

impl Grid {
    fn around(&self) -> usize {
        let each: usize = match self.mode {
            Mode::Nearest => 1,
            Mode::Linear => 2,
            Mode::Cubic => 4,
        };
        each.pow(self.space.len() as u32)
    }

    /// Returns the neighbours of a position along one axis, with their weights.
    fn along(&self, unit: f64, length: usize) -> ([Option<usize>; 4], [f64; 4], usize) {
        let size = length as f64;
        let x = if self.align { (unit + 1.0) / 2.0 * (size - 1.0) } else { ((unit + 1.0) * size - 1.0) / 2.0 };
        let (low, high) = if self.align { (0.0, size - 1.0) } else { (-0.5, size - 0.5) };
        let x = match self.beyond {
            Beyond::Border if x.is_finite() && self.mode == Mode::Cubic => x.clamp(-3.0, size + 2.0),
            Beyond::Border if x.is_finite() => x.clamp(0.0, size - 1.0),
            Beyond::Reflection if x.is_finite() => reflect(x, low, high),
            _ => x,
        };
        let below = x.floor();
        let share = x - below;
        let place = |at: i64| match self.beyond {
            _ if (0..length as i64).contains(&at) => Some(at as usize),
            Beyond::Zeros => None,
            Beyond::Border => Some(at.clamp(0, length as i64 - 1) as usize),
            Beyond::Reflection => Some((reflect(at as f64, low, high) as i64).clamp(0, length as i64 - 1) as usize),
        };
        let at = |step: i64| place((below as i64).saturating_add(step));
        match self.mode {
            Mode::Nearest => ([place(x.round_ties_even() as i64), None, None, None], [1.0, 0.0, 0.0, 0.0], 1),
            Mode::Linear => ([at(0), at(1), None, None], [1.0 - share, share, 0.0, 0.0], 2),
            Mode::Cubic => {
                let weights = [-1.0, 0.0, 1.0, 2.0].map(|step: f64| cubic((step - share).abs()));
                ([at(-1), at(0), at(1), at(2)], weights, 4)
            }
        }
    }

    /// Finds the elements around some points.
    fn find(&self, grid: &[f32], taps: &mut Taps) {
        let rank = self.space.len();
        taps.inside = true;
        for (number, point) in grid.chunks_exact(rank).enumerate() {
            let mut axes = [([None; 4], [0.0; 4], 1); 3];
            for (axis, (found, &length)) in axes.iter_mut().zip(&self.space).enumerate() {
                // The grid names the innermost axis first.
                *found = self.along(f64::from(point[rank - 1 - axis]), length);
            }
            for around in 0..self.around() {
                let (mut rest, mut place, mut weight, mut stride) = (around, Some(0), 1.0, 1);
                for ((places, weights, count), length) in axes[..rank].iter().zip(&self.space).rev() {
                    let own = rest % count;
                    rest /= count;
                    weight *= weights[own];
                    place = place.and_then(|place| Some(place + places[own]? * stride));
                    stride *= length;
                }
                taps.inside &= place.is_some();
                taps.places[around][number] = place.map_or(NOWHERE, |place| place as u32);
                taps.weights[around][number] = if place.is_some() { weight as f32 } else { 0.0 };
            }
        }
    }
}

impl Kernel for Grid {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (input, grid) = (arguments.input::<f32>(0)?, arguments.input::<f32>(1)?);
        let output = Shared::new(arguments.output::<f32>(0)?);
        let (rank, channels) = (self.space.len(), self.channels);
        let plane: usize = self.space.iter().product();
        let blocks = self.points.div_ceil(POINTS);
        let pieces = runtime.pieces(self.batch * blocks, POINTS * (self.around() * channels + 40));
        runtime.for_each(pieces, |number, _| {
            let mut taps = Taps::EMPTY;
            for task in piece(self.batch * blocks, pieces, number) {
                let (image, block) = (task / blocks, task % blocks);
                let own = block * POINTS..((block + 1) * POINTS).min(self.points);
                let first = image * self.points + own.start;
                self.find(&grid[first * rank..(first + own.len()) * rank], &mut taps);
                for channel in image * channels..(image + 1) * channels {
                    let plane = &input[channel * plane..][..plane];
                    // SAFETY: each block of points is one task's, in all channels.
                    let into = unsafe { output.slice(channel * self.points + own.start, own.len()) };
                    let weigh = Weigh { taps: &taps, around: self.around(), plane, into };
                    // SAFETY: the job has no further conditions.
                    unsafe { self.isa.run(weigh) };
                }
            }
        });
        Ok(())
    }
}

pub(super) fn regions(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let (Some(input), Some(regions), Some(images), Some(output)) =
        (site.input(0), site.input(1), site.input(2), site.output(0))
    else {
        return Ok(None);
    };
    let floats = [input, regions, output].iter().all(|value| value.dtype == DType::F32);
    let (&[batch, channels, height, width], &[count, 4], &[_, _, rows, columns]) =
        (input.shape.as_slice(), regions.shape.as_slice(), output.shape.as_slice())
    else {
        return Ok(None);
    };
    let plane = height.checked_mul(width).filter(|&plane| plane > 0 && plane < NOWHERE as usize);
    let whole = images.dtype == DType::I64 && images.elements() == count;
    let ratio = usize::try_from(operator.int("sampling_ratio")?.unwrap_or(0)).ok();
    let (true, true, Some(_), Some(ratio)) = (floats, whole, plane, ratio) else { return Ok(None) };
    let largest = match operator.text("mode")?.unwrap_or("avg") {
        "max" => true,
        "avg" => false,
        _ => return Ok(None),
    };
    // Before version 16 regions were not shifted by half a pixel.
    let default = if operator.version < 16 { "output_half_pixel" } else { "half_pixel" };
    Ok(Some(Box::new(Regions {
        batch,
        channels,
        height,
        width,
        count,
        rows,
        columns,
        scale: f64::from(operator.float("spatial_scale")?.unwrap_or(1.0)),
        ratio,
        half_pixel: operator.text("coordinate_transformation_mode")?.unwrap_or(default) == "half_pixel",
        largest,
    })))
}

/// Pooling of points inside the bins of regions.
struct Regions {
    batch: usize,
    channels: usize,
    height: usize,
    width: usize,
    /// The regions, each of `rows` by `columns` bins.
    count: usize,
    rows: usize,
    columns: usize,
    scale: f64,
    /// The points of a bin along each axis, or 0 where the size of the bin says so.
    ratio: usize,
    half_pixel: bool,
    /// Whether the largest is taken, and not the mean.
    largest: bool,
}

/// The most points of one bin along one axis; a region that asks for more is no region of an image.
const MOST_POINTS: f64 = 65_536.0;

/// A region's first corner, the size of its bins, and the points of each, by height and by width.
struct Bins {
    start: [f64; 2],
    size: [f64; 2],
    points: [usize; 2],
}

impl Regions {
    fn bins(&self, corners: &[f32]) -> Option<Bins> {
        let shift = if self.half_pixel { 0.5 } else { 0.0 };
        let at = |k: usize| f64::from(corners[k]) * self.scale - shift;
        let extent = |from: f64, to: f64| if self.half_pixel { to - from } else { (to - from).max(1.0) };
        let size = [extent(at(1), at(3)) / self.rows as f64, extent(at(0), at(2)) / self.columns as f64];
        let points = |size: f64| match (self.ratio, size.ceil()) {
            (0, size) if size.is_finite() && size < MOST_POINTS => Some(size.max(0.0) as usize),
            (ratio, _) if ratio > 0 && (ratio as f64) < MOST_POINTS => Some(ratio),
            _ => None,
        };
        Some(Bins { start: [at(1), at(0)], size, points: [points(size[0])?, points(size[1])?] })
    }

    /// Returns the places and weights of the elements around a point, or `None` where it lies
    /// outside.
    fn around(&self, y: f64, x: f64) -> Option<[(u32, f32); 4]> {
        let (height, width) = (self.height as f64, self.width as f64);
        if !(-1.0..=height).contains(&y) || !(-1.0..=width).contains(&x) {
            return None;
        }
        let place = |at: f64, length: usize| {
            let low = (at.max(0.0) as usize).min(length - 1);
            let share = if low == length - 1 { 0.0 } else { at.max(0.0) - low as f64 };
            (low, (low + 1).min(length - 1), share)
        };
        let ((top, bottom, v), (left, right, h)) = (place(y, self.height), place(x, self.width));
        let tap = |row: usize, column: usize, weight: f64| ((row * self.width + column) as u32, weight as f32);
        Some([
            tap(top, left, (1.0 - v) * (1.0 - h)),
            tap(top, right, (1.0 - v) * h),
            tap(bottom, left, v * (1.0 - h)),
            tap(bottom, right, v * h),
        ])
    }

    /// Adds some elements to the bins of all channels, or takes the largest.
    fn add(&self, input: &[f32], taps: &[(u32, f32)], into: Shared, at: usize) {
        let plane = self.height * self.width;
        for (channel, pixels) in input.chunks_exact(plane).enumerate() {
            // SAFETY: each row of bins is one task's, in all channels.
            let bin = unsafe { &mut *into.at(at + channel * self.rows * self.columns) };
            let values = taps.iter().map(|&(place, weight)| weight * pixels[place as usize]);
            if self.largest {
                *bin = values.fold(*bin, |most, x| if most.is_nan() || most > x { most } else { x });
            } else {
                *bin += values.sum::<f32>();
            }
        }
    }
}

impl Kernel for Regions {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Regions { channels, rows, columns, count, .. } = *self;
        let (input, corners) = (arguments.input::<f32>(0)?, arguments.input::<f32>(1)?);
        let images = arguments.input::<i64>(2)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let image = |region: usize| usize::try_from(images[region]).ok().filter(|&image| image < self.batch);
        for region in 0..count {
            if image(region).is_none() {
                let text = format!("a region of image {} among {}", images[region], self.batch);
                return Err(Error::invalid_model(text));
            }
            if self.bins(&corners[region * 4..]).is_none() {
                return Err(Error::invalid_model(format!("region {region} is too large")));
            }
        }
        let images_size = channels * self.height * self.width;
        let tasks = count * rows;
        let pieces = runtime.pieces(tasks, columns * channels * 16);
        runtime.for_each(pieces, |number, _| {
            for task in piece(tasks, pieces, number) {
                let (region, row) = (task / rows, task % rows);
                let (Some(bins), Some(image)) = (self.bins(&corners[region * 4..]), image(region)) else { continue };
                let input = &input[image * images_size..][..images_size];
                let [points_h, points_w] = bins.points;
                let first = if self.largest && points_h * points_w > 0 { f32::NEG_INFINITY } else { 0.0 };
                for column in 0..columns {
                    let at = (region * channels * rows + row) * columns + column;
                    let bin = |channel: usize| at + channel * rows * columns;
                    // SAFETY: each row of bins is one task's, in all channels.
                    (0..channels).for_each(|channel| unsafe { *output.at(bin(channel)) = first });
                    let (mut taps, mut found) = ([(0, 0.0); 4 * POINTS], 0);
                    for point in 0..points_h * points_w {
                        let (i, j) = (point / points_w, point % points_w);
                        let along = |axis: usize, number: usize, point: usize| {
                            let (start, size) = (bins.start[axis], bins.size[axis]);
                            start + number as f64 * size + (point as f64 + 0.5) * size / bins.points[axis] as f64
                        };
                        match self.around(along(0, row, i), along(1, column, j)) {
                            Some(around) => {
                                taps[found..found + 4].copy_from_slice(&around);
                                found += 4;
                            }
                            // A point outside is 0, which the mean does not notice.
                            None if self.largest => {
                                for channel in 0..channels {
                                    // SAFETY: as above.
                                    let bin = unsafe { &mut *output.at(bin(channel)) };
                                    *bin = if bin.is_nan() || *bin > 0.0 { *bin } else { 0.0 };
                                }
                            }
                            None => {}
                        }
                        if found == taps.len() {
                            self.add(input, &taps, output, at);
                            found = 0;
                        }
                    }
                    self.add(input, &taps[..found], output, at);
                    let all = (points_h * points_w).max(1) as f32;
                    if !self.largest {
                        // SAFETY: as above.
                        (0..channels).for_each(|channel| unsafe { *output.at(bin(channel)) /= all });
                    }
                }
            }
        });
        Ok(())
    }
}
