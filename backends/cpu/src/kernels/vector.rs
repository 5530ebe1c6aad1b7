//! Functions of contiguous elements, in vectors.

use crate::simd::{self, Isa, Job, Simd};

/// A function of one element.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Activation {
    /// The element limited to a range; NaN stays.
    Clamp(f32, f32),
    /// `x`, or `x` times this slope below 0.
    Leaky(f32),
    Sigmoid,
    Tanh,
    /// `clamp(a * x + b, 0, 1)`.
    HardSigmoid(f32, f32),
    /// `x * clamp(x / 6 + 1 / 2, 0, 1)`.
    HardSwish,
    Exp,
    Erf,
    Sqrt,
    Abs,
    Neg,
    Reciprocal,
    /// `a * x + b`.
    Affine(f32, f32),
    Log,
    Softplus,
    Softsign,
    /// `x`, or `a * (exp(x) - 1)` below 0.
    Elu(f32),
    /// The same as `Elu`, with `exp(x / a)`.
    Celu(f32),
    /// `b * x`, or `b * a * (exp(x) - 1)` up to 0.
    Selu(f32, f32),
    /// The Gelu by the error function.
    Gelu,
    /// The Gelu by the hyperbolic tangent.
    GeluTanh,
    Mish,
    /// `x * sigmoid(a * x)`.
    Swish(f32),
    /// `x` above the limit, else 0.
    Threshold(f32),
    /// Outside the limit, `x` moved towards 0 by the bias; inside the limit, 0.
    Shrink(f32, f32),
    Round,
    Floor,
    Ceil,
    Sign,
    Sin,
    Cos,

    /// A function that is called for one element at a time.
    Each(fn(f32) -> f32),
}

impl Activation {
    /// Applies the function in place.
    pub(crate) fn apply(self, isa: Isa, values: &mut [f32]) {
        // SAFETY: the job's pointers are those of the slice.
        unsafe { isa.run(Apply(self, values)) };
    }

    /// Tells whether the function is 0 for 0, so that unused lanes stay 0.
    pub(crate) fn keeps_zero(self) -> bool {
        match self {
            Activation::Clamp(low, high) => low <= 0.0 && high >= 0.0,
            Activation::Leaky(_) | Activation::Tanh | Activation::HardSwish | Activation::Erf => true,
            Activation::Sqrt | Activation::Abs | Activation::Neg => true,
            Activation::Softsign | Activation::Elu(_) | Activation::Celu(_) | Activation::Gelu => true,
            Activation::GeluTanh | Activation::Mish => true,
            Activation::Selu(a, b) => a.is_finite() && b.is_finite(),
            Activation::Swish(a) => a.is_finite(),
            Activation::Round | Activation::Floor | Activation::Ceil | Activation::Sign | Activation::Sin => true,
            Activation::Affine(_, shift) => shift == 0.0,
            Activation::Threshold(limit) | Activation::Shrink(limit, _) => limit >= 0.0,
            Activation::Sigmoid | Activation::HardSigmoid(..) | Activation::Exp | Activation::Softplus => false,
            Activation::Reciprocal | Activation::Log | Activation::Cos | Activation::Each(_) => false,
        }
    }

    /// Computes the function on a vector.
    /// `Each` is left to the caller.
    #[inline(always)]
    pub(crate) unsafe fn vector<S: Simd>(self, x: S::V) -> S::V {
        // SAFETY: the instruction set is there by the caller's promise.
        unsafe {
            let zero = S::splat(0.0);
            let one = S::splat(1.0);
            match self {
                Activation::Clamp(low, high) => S::min(S::splat(high), S::max(S::splat(low), x)),
                Activation::Leaky(slope) => S::select_lt(x, zero, S::mul(S::splat(slope), x), x),
                Activation::Sigmoid => simd::sigmoid::<S>(x),
                Activation::Tanh => simd::tanh::<S>(x),
                Activation::HardSigmoid(a, b) => S::min(one, S::max(zero, S::fma(S::splat(a), x, S::splat(b)))),
                Activation::HardSwish => {
                    let gate = S::fma(x, S::splat(1.0 / 6.0), S::splat(0.5));
                    S::mul(x, S::min(one, S::max(zero, gate)))
                }
                Activation::Exp => simd::exp::<S>(x),
                Activation::Erf => simd::erf::<S>(x),
                Activation::Sqrt => S::sqrt(x),
                // The sum turns -0 into 0.
                Activation::Abs => S::add(S::max(S::sub(zero, x), x), zero),
                Activation::Neg => S::mul(x, S::splat(-1.0)),
                Activation::Reciprocal => S::div(one, x),
                Activation::Affine(scale, shift) => S::add(S::mul(x, S::splat(scale)), S::splat(shift)),
                Activation::Log => simd::ln::<S>(x),
                Activation::Softplus => softplus::<S>(x),
                Activation::Softsign => S::div(x, S::add(one, S::max(S::sub(zero, x), x))),
                Activation::Elu(a) => S::select_lt(x, zero, S::mul(S::splat(a), simd::exp_m1::<S>(x)), x),
                Activation::Celu(a) => {
                    let below = S::mul(S::splat(a), simd::exp_m1::<S>(S::div(x, S::splat(a))));
                    S::add(S::max(zero, x), S::min(zero, below))
                }
                Activation::Selu(a, b) => {
                    let below = S::mul(S::splat(a), simd::exp_m1::<S>(x));
                    S::mul(S::splat(b), S::select_lt(zero, x, x, below))
                }
                Activation::Gelu => {
                    let share = S::add(one, simd::erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2))));
                    S::mul(S::mul(S::splat(0.5), x), share)
                }
                Activation::GeluTanh => {
                    let cube = S::mul(S::mul(x, x), x);
                    // The factor is the square root of 2/pi.
                    let inner = S::mul(S::splat(0.797_884_6), S::fma(S::splat(0.044_715), cube, x));
                    S::mul(S::mul(S::splat(0.5), x), S::add(one, simd::tanh::<S>(inner)))
                }
                Activation::Mish => S::mul(x, simd::tanh::<S>(softplus::<S>(x))),
                Activation::Swish(a) => S::mul(x, simd::sigmoid::<S>(S::mul(S::splat(a), x))),
                Activation::Threshold(limit) => S::select_lt(S::splat(limit), x, x, zero),
                Activation::Shrink(limit, bias) => {
                    let above = S::select_lt(S::splat(limit), x, S::sub(x, S::splat(bias)), zero);
                    S::select_lt(x, S::splat(-limit), S::add(x, S::splat(bias)), above)
                }
                Activation::Round => whole::<S>(x, S::round(x)),
                Activation::Floor => {
                    let near = S::round(x);
                    whole::<S>(x, S::select_lt(x, near, S::sub(near, one), near))
                }
                Activation::Ceil => {
                    let near = S::round(x);
                    whole::<S>(x, S::select_lt(near, x, S::add(near, one), near))
                }
                Activation::Sign => {
                    let below = S::select_lt(x, zero, S::splat(-1.0), x);
                    S::select_lt(zero, x, one, below)
                }
                Activation::Sin => simd::sine::<S, false>(x),
                Activation::Cos => simd::sine::<S, true>(x),
                Activation::Each(_) => x,
            }
        }
    }
}

/// Returns `ln(1 + exp(x))`, without overflow.
#[inline(always)]
unsafe fn softplus<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the instruction set is there by the caller's promise.
    unsafe {
        let zero = S::splat(0.0);
        let small = simd::exp::<S>(S::min(S::sub(zero, x), x));
        S::add(S::max(x, zero), simd::ln_1p::<S>(small))
    }
}

/// Returns `rounded`, or `x` itself where it is so large that it has no fraction, or NaN.
#[inline(always)]
unsafe fn whole<S: Simd>(x: S::V, rounded: S::V) -> S::V {
    // SAFETY: the instruction set is there by the caller's promise.
    unsafe { S::select_lt(S::max(S::sub(S::splat(0.0), x), x), S::splat(8_388_608.0), rounded, x) }
}

struct Apply<'a>(Activation, &'a mut [f32]);

impl Job for Apply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Apply(function, values) = self;
        if let Activation::Each(function) = function {
            values.iter_mut().for_each(|value| *value = function(*value));
            return;
        }
        // SAFETY: each vector lies in the slice.
        unsafe {
            let mut chunks = values.chunks_exact_mut(S::LANES);
            for chunk in &mut chunks {
                S::store(chunk.as_mut_ptr(), function.vector::<S>(S::load(chunk.as_ptr())));
            }
            let rest = chunks.into_remainder();
            if !rest.is_empty() {
                let result = function.vector::<S>(S::load_first(rest.as_ptr(), rest.len()));
                S::store_first(rest.as_mut_ptr(), rest.len(), result);
            }
        }
    }
}

/// A function of two elements.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pairwise {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    /// The first operand, or the first times the second where the first is below 0.
    PRelu,
    /// Known powers of the first operand.
    Square,
    Cube,
    Inverse,
    Root,
    Each(fn(f32, f32) -> f32),
}

/// The second operand of a pairwise function.
#[derive(Clone, Copy)]
pub(crate) enum Second<'a> {
    Same(&'a [f32]),
    /// The elements of one vector, again for each vector of the first operand.
    Lanes(&'a [f32]),
    /// The first operand again.
    Itself,
    One(f32),
}

impl Pairwise {
    /// Computes `a[i] = f(a[i], b[i])`, or the same with the operands exchanged.
    pub(crate) fn apply(self, isa: Isa, values: &mut [f32], second: Second<'_>, exchanged: bool) {
        // SAFETY: the job's pointers are those of the slices.
        unsafe { isa.run(Pair(self, values, second, exchanged)) };
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(self, a: S::V, b: S::V) -> S::V {
        // SAFETY: the instruction set is there by the caller's promise.
        unsafe {
            match self {
                Pairwise::Add => S::add(a, b),
                Pairwise::Sub => S::sub(a, b),
                Pairwise::Mul => S::mul(a, b),
                Pairwise::Div => S::div(a, b),
                Pairwise::Max => S::select_nan(a, S::max(a, b)),
                Pairwise::Min => S::select_nan(a, S::min(a, b)),
                Pairwise::PRelu => S::select_lt(a, S::splat(0.0), S::mul(a, b), a),
                Pairwise::Square => S::mul(a, a),
                Pairwise::Cube => S::mul(S::mul(a, a), a),
                Pairwise::Inverse => S::div(S::splat(1.0), a),
                Pairwise::Root => {
                    // The power of -0 is 0, and the power of minus infinity is infinite, whereas
                    // their square roots are not.
                    let root = S::add(S::sqrt(a), S::splat(0.0));
                    S::select_lt(a, S::splat(f32::MIN), S::splat(f32::INFINITY), root)
                }
                Pairwise::Each(_) => a,
            }
        }
    }
}

struct Pair<'a>(Pairwise, &'a mut [f32], Second<'a>, bool);

impl Job for Pair<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Pair(function, values, second, exchanged) = self;
        if let Pairwise::Each(function) = function {
            for (index, value) in values.iter_mut().enumerate() {
                let other = match second {
                    Second::Same(other) => other[index],
                    Second::Lanes(other) => other[index % other.len()],
                    Second::Itself => *value,
                    Second::One(other) => other,
                };
                *value = if exchanged { function(other, *value) } else { function(*value, other) };
            }
            return;
        }
        let count = match second {
            Second::Same(other) => values.len().min(other.len()),
            // Whoever has less than a vector has no other operand.
            Second::Lanes(other) if other.len() < S::LANES => 0,
            Second::Lanes(_) | Second::One(_) | Second::Itself => values.len(),
        };
        // SAFETY: each vector lies in both slices.
        unsafe {
            let at = values.as_mut_ptr();
            let mut index = 0;
            while index < count {
                let lanes = (count - index).min(S::LANES);
                let whole = lanes == S::LANES;
                let load = |at: *const f32| if whole { S::load(at) } else { S::load_first(at, lanes) };
                let a = load(at.add(index));
                let b = match second {
                    Second::Same(other) => load(other.as_ptr().add(index)),
                    Second::Lanes(other) => S::load(other.as_ptr()),
                    Second::Itself => a,
                    Second::One(other) => S::splat(other),
                };
                let result = if exchanged { function.vector::<S>(b, a) } else { function.vector::<S>(a, b) };
                if whole {
                    S::store(at.add(index), result);
                } else {
                    S::store_first(at.add(index), lanes, result);
                }
                index += lanes;
            }
        }
    }
}
