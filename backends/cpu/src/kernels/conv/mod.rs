//! Convolution over one or two spatial dimensions, on f32.

mod blocked;
mod depthwise;
mod plain;
mod pooled;
mod winograd;

use hetero_hal::{DType, Error, Operator, Result, Tensor};
use hetero_reference::Window;

pub(super) use self::blocked::Blocked;
pub(super) use self::depthwise::{Depthwise, PlainDepthwise};
pub(super) use self::plain::Plain;
pub(super) use self::pooled::Pooled;
pub(super) use self::winograd::Winograd;
use super::panels::{self, Panels};
use super::vector::Activation;
use super::{Constant, Kernel, Packed, Site};
use crate::floats::Floats;
use crate::image::{Halo, Image};
use crate::saved::Packer;
use crate::simd::{Half, floats, widened_bytes};

/// Returns the kernel for plain operands, where a convolution could not be given a better layout.
pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(geometry) = Geometry::of(site)? else { return Ok(None) };
    Ok(Some(if geometry.channels == 1 {
        Box::new(PlainDepthwise::new(site.isa, geometry)?)
    } else {
        Box::new(Plain::new(site.isa, geometry)?)
    }))
}

/// Tells whether one kernel pays for a convolution into a blocked layout and the pooling of its
/// result.
/// `filters` says whether minimal filtering is an alternative.
pub(crate) fn pools(geometry: &Geometry, lanes: usize, filters: bool) -> bool {
    let filtered = filters && !geometry.takes_plain(lanes) && Winograd::pays(geometry, lanes);
    !geometry.is_depthwise() && !filtered && Pooled::pays(geometry)
}

/// The operations on the sums of a convolution besides the bias.
/// `lower` makes them of the nodes that follow.
#[derive(Clone, Debug)]
pub(crate) struct Finish {
    /// The factor of each filter's weights; empty where all factors are 1.
    pub(crate) scale: Vec<f32>,
    /// The bias of each filter.
    pub(crate) bias: Vec<f32>,
    /// Whether a second input, of the output's shape and layout, is added.
    pub(crate) addend: bool,
    /// The least and the largest result.
    pub(crate) clamp: (f32, f32),
    /// Any other function, which is applied last.
    pub(crate) activation: Option<Activation>,
}

/// The constant weights of a convolution, and the source of their packed forms.
#[derive(Clone, Copy)]
pub(crate) struct Filters<'a> {
    weights: Packer<'a>,
    constant: &'a Constant,
}

impl<'a> Filters<'a> {
    pub(super) fn of(site: Site<'a>, constant: &'a Constant) -> Result<Self> {
        let weights = site.weights.ok_or_else(|| Error::internal("there is nowhere to pack weights"))?;
        Ok(Filters { weights, constant })
    }

    /// Returns the weights as the model has them.
    pub(super) fn content(&self) -> &Tensor {
        &self.constant.content
    }

    /// Returns the form of `elements` elements that `pack` makes of the weights and of the factors
    /// of `finish`.
    /// `layout` says all else that the form depends on.
    fn packed(
        self,
        finish: &Finish,
        (layout, elements): (&str, usize),
        pack: impl Fn(&[f32], &[f32]) -> Result<Floats> + Send + Sync + 'static,
    ) -> Result<Packed> {
        let mut sources = vec![self.constant.content.clone()];
        if !finish.scale.is_empty() {
            sources.push(Tensor::from_vec(&[finish.scale.len()], finish.scale.clone())?);
        }
        // One of 16 bits is packed as f32 first, which are twice as many words.
        let wide = Half::of(self.constant.content.dtype()).map_or(0, |_| elements.saturating_mul(8));
        let beside = widened_bytes(&self.constant.content).saturating_add(wide);
        self.weights.get(&self.constant.name, &sources, (layout, elements, beside), move |sources| {
            let scale = sources.get(1).map(|scale| scale.view::<f32>()).transpose()?;
            pack(&floats(&sources[0])?, scale.as_deref().unwrap_or_default())
        })
    }

    /// Returns the packed form for the microkernel, which keeps weights of 16 bits so.
    /// `changed` says whether `pack` does more than to order the weights.
    fn panels(
        self,
        finish: &Finish,
        (layout, elements): (&str, usize),
        changed: bool,
        pack: impl Fn(&[f32], &[f32]) -> Result<Floats> + Send + Sync + 'static,
    ) -> Result<Panels> {
        let content = &self.constant.content;
        let mut half = Half::of(content.dtype());
        if half.is_some() && (changed || !finish.scale.is_empty()) {
            let largest = |list: &[f32]| list.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let scale = if finish.scale.is_empty() { 1.0 } else { largest(&finish.scale) };
            half = panels::format(half, largest(&floats(content)?) * scale);
        }
        let Some(half) = half else {
            return Ok(Panels { packed: self.packed(finish, (layout, elements), pack)?, half });
        };
        let layout = (&*format!("{layout}, {half:?}"), Panels::words(Some(half), elements));
        let packed =
            self.packed(finish, layout, move |weights, scale| panels::narrowed(half, &pack(weights, scale)?))?;
        Ok(Panels { packed, half: Some(half) })
    }

    /// Returns the weights as they stand, times their filters' factors.
    fn scaled(self, finish: &Finish) -> Result<Packed> {
        let elements = self.constant.content.shape().iter().product();
        self.packed(finish, ("as they stand, times factors", elements), |weights, scale| {
            let mut scaled = Floats::zeros(weights.len())?;
            scaled.copy_from_slice(weights);
            if !scale.is_empty() {
                let each = (weights.len() / scale.len()).max(1);
                for (filter, scale) in scaled.chunks_mut(each).zip(scale) {
                    filter.iter_mut().for_each(|weight| *weight *= scale);
                }
            }
            Ok(scaled)
        })
    }
}

/// The sizes of a convolution over two spatial dimensions; one dimension is taken as two, the first
/// of size 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) batch: usize,
    /// The input channels of a group.
    pub(crate) channels: usize,
    /// The filters of a group.
    pub(crate) outputs: usize,
    pub(crate) groups: usize,
    pub(crate) input: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) strides: [usize; 2],
    pub(crate) dilations: [usize; 2],
    /// The padding before the first row and column.
    pub(crate) begin: [usize; 2],
    pub(crate) output: [usize; 2],
}

impl Geometry {
    /// Returns the sizes of a node `Conv`, or `None` where this crate has no kernel for its types
    /// or rank.
    pub(crate) fn of(site: Site<'_>) -> Result<Option<Geometry>> {
        let (Some(x), Some(w)) = (site.shape(0), site.shape(1)) else {
            return Ok(None);
        };
        if !site.all(DType::F32) {
            return Ok(None);
        }
        if site.shape(2).is_some_and(|bias| bias != [w[0]]) {
            return Err(Error::invalid_model(format!("the bias {:?} does not fit {} outputs", site.shape(2), w[0])));
        }
        Geometry::sized(site.operator(), x, w)
    }

    /// Returns the sizes of a convolution of an input and weights of these shapes by an operator's
    /// attributes, or `None` where this crate has no kernel for their rank.
    pub(crate) fn sized(operator: &Operator, x: &[usize], w: &[usize]) -> Result<Option<Geometry>> {
        if !(3..=4).contains(&x.len()) || w.len() != x.len() {
            return Ok(None);
        }
        let groups = usize::try_from(operator.int("group")?.unwrap_or(1)).unwrap_or(0);
        if groups == 0 || w[1] * groups != x[1] || !w[0].is_multiple_of(groups) {
            return Err(Error::invalid_model(format!("{groups} groups do not fit {x:?} and {w:?}")));
        }
        let resolved = Window::resolve(operator, &x[2..], &w[2..])?;
        // A column is treated as a row, because kernels divide rows.
        let column = matches!((&x[2..], &w[2..]), ([height, 1], [_, 1]) if *height > 1) && resolved.output[1] == 1;
        let axis = |list: &[usize], one: usize| match *list {
            [only] => [one, only],
            [first, second, ..] if column => [second, first],
            [first, second, ..] => [first, second],
            [] => [one, one],
        };
        Ok(Some(Geometry {
            batch: x[0],
            channels: w[1],
            outputs: w[0] / groups,
            groups,
            input: axis(&x[2..], 1),
            kernel: axis(&resolved.kernel, 1),
            strides: axis(&resolved.strides, 1),
            dilations: axis(&resolved.dilations, 1),
            begin: axis(&resolved.begin, 0),
            output: axis(&resolved.output, 1),
        }))
    }

    /// Returns the sizes of the input in a blocked layout.
    pub(crate) fn input_image(&self, halo: Halo, lanes: usize) -> Image {
        let (channels, [height, width]) = (self.groups * self.channels, self.input);
        Image { batch: self.batch, channels, height, width, halo, lanes }
    }

    /// Returns the sizes of the output in a blocked layout.
    pub(crate) fn output_image(&self, halo: Halo, lanes: usize) -> Image {
        let (channels, [height, width]) = (self.groups * self.outputs, self.output);
        Image { batch: self.batch, channels, height, width, halo, lanes }
    }

    pub(crate) fn input_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    pub(crate) fn output_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Tells whether the convolution is a product on the input as it stands.
    pub(crate) fn pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.strides == [1, 1] && self.begin == [0, 0] && self.output == self.input
    }

    /// Tells whether a plain input is rewritten with channels last, because its channels would fill
    /// less than half a vector.
    pub(crate) fn takes_plain(&self, lanes: usize) -> bool {
        self.groups == 1 && self.channels * 2 < lanes
    }

    /// Tells whether both sides are columns or neither is, as a blocked layout needs, in which
    /// columns lie as rows.
    pub(crate) fn keeps_columns(&self) -> bool {
        let column = |size: [usize; 2]| size[1] == 1 && size[0] > 1;
        !column(self.input) && !column(self.output)
    }

    /// Tells whether there is a kernel into a blocked layout that wastes less than half of it.
    pub(crate) fn fits_blocks(&self, lanes: usize) -> bool {
        if !self.keeps_columns() {
            return false;
        }
        let whole = |channels: usize| self.groups == 1 || channels.is_multiple_of(lanes);
        whole(self.channels) && whole(self.outputs) && self.outputs * 2 >= lanes
    }

    /// Tells whether each channel is convolved by itself.
    pub(crate) fn is_depthwise(&self) -> bool {
        self.channels == 1 && self.outputs == 1 && self.groups > 1
    }

    /// Returns the offsets of a window's taps from its first row and column.
    pub(crate) fn windows(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (kernel, dilations) = (self.kernel, self.dilations);
        (0..kernel[0]).flat_map(move |y| (0..kernel[1]).map(move |x| (y * dilations[0], x * dilations[1])))
    }

    /// Returns the zeros around the input that the windows reach.
    pub(crate) fn halo(&self) -> Halo {
        let behind = |axis: usize| {
            let last = self.output[axis].saturating_sub(1) * self.strides[axis];
            let reach = last + self.kernel[axis].saturating_sub(1) * self.dilations[axis] + 1;
            reach.saturating_sub(self.begin[axis] + self.input[axis])
        };
        Halo { top: self.begin[0], left: self.begin[1], bottom: behind(0), right: behind(1) }
    }
}
