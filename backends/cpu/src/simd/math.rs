//! Functions of vectors. Errors are in units in the last place (ulp) of f32, measured by the tests against f64.

use super::Simd;

/// The exponential function, to 2 ulp; 0 below -87.3, where f32 would be subnormal, and infinite above 88.72.
///
/// `exp(x) = 2^n * exp(r)` with `|r| <= ln 2 / 2`, and the Taylor polynomial of degree 7 for the rest.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the instruction set is there by the caller's promise.
    unsafe {
        // ln 2 in two parts, the first with few enough bits that its product with n is exact.
        const HIGH: f32 = 355.0 / 512.0;
        const LOW: f32 = -2.121_944_4e-4;
        // NaN passes through `min` and `max`, as their second operand.
        let bounded = S::max(S::splat(-87.336_54), S::min(S::splat(88.722_83), x));
        let n = S::round(S::mul(bounded, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-HIGH), bounded);
        let r = S::fma(n, S::splat(-LOW), r);
        let mut p = S::splat(1.0 / 5040.0);
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = S::fma(p, r, S::splat(c));
        }
        // 2^n in two steps: 2^128 is no f32.
        let half = S::round(S::mul(n, S::splat(0.5)));
        let result = S::scale(S::scale(p, half), S::sub(n, half));
        let result = S::select_lt(x, S::splat(-87.336_54), S::splat(0.0), result);
        S::select_lt(S::splat(88.722_83), x, S::splat(f32::INFINITY), result)
    }
}

/// The logistic function `1 / (1 + exp(-x))`, to 4 ulp.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
    }
}

/// The hyperbolic tangent, to 5 ulp: an odd polynomial near 0, where the exponentials would cancel, and `1 - 2 / (exp(2x) + 1)` elsewhere.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let one = S::splat(1.0);
        let magnitude = S::max(S::sub(S::splat(0.0), x), x);
        let large = S::sub(one, S::div(S::splat(2.0), S::add(exp::<S>(S::add(magnitude, magnitude)), one)));
        let large = S::select_lt(x, S::splat(0.0), S::sub(S::splat(0.0), large), large);
        let square = S::mul(x, x);
        // Taylor's coefficients up to x^13.
        let mut p = S::splat(21_844.0 / 6_081_075.0);
        for c in [-1382.0 / 155_925.0, 62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0] {
            p = S::fma(p, square, S::splat(c));
        }
        let small = S::fma(S::mul(p, square), x, x);
        S::select_lt(magnitude, S::splat(0.4), small, large)
    }
}

/// The error function, with an absolute error below 1e-6: formula 7.1.26 of Abramowitz and Stegun gives 1.5e-7 and f32 the rest; near 0 its
/// Taylor polynomial, so that small arguments keep their relative precision.
#[inline(always)]
pub(crate) unsafe fn erf<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let one = S::splat(1.0);
        let magnitude = S::max(S::sub(S::splat(0.0), x), x);
        let t = S::div(one, S::fma(magnitude, S::splat(0.327_591_1), one));
        let mut p = S::splat(1.061_405_4);
        for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
            p = S::fma(p, t, S::splat(c));
        }
        let square = S::mul(x, x);
        let large = S::sub(one, S::mul(S::mul(p, t), exp::<S>(S::sub(S::splat(0.0), square))));
        let large = S::select_lt(x, S::splat(0.0), S::sub(S::splat(0.0), large), large);
        let mut q = S::splat(-1.0 / 1320.0);
        for c in [1.0 / 216.0, -1.0 / 42.0, 0.1, -1.0 / 3.0, 1.0] {
            q = S::fma(q, square, S::splat(c));
        }
        let small = S::mul(S::mul(q, x), S::splat(std::f32::consts::FRAC_2_SQRT_PI));
        S::select_lt(magnitude, S::splat(0.5), small, large)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Isa, Job, Simd, WIDEST};

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Sigmoid,
        Tanh,
        Erf,
    }

    struct Apply<'a>(Function, &'a mut [f32; WIDEST]);

    impl Job for Apply<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for chunk in self.1.chunks_mut(S::LANES) {
                // SAFETY: a chunk has all lanes, as 16 is a multiple of them.
                unsafe {
                    let x = S::load(chunk.as_ptr());
                    let y = match self.0 {
                        Function::Exp => super::exp::<S>(x),
                        Function::Sigmoid => super::sigmoid::<S>(x),
                        Function::Tanh => super::tanh::<S>(x),
                        Function::Erf => super::erf::<S>(x),
                    };
                    S::store(chunk.as_mut_ptr(), y);
                }
            }
        }
    }

    fn apply(isa: Isa, function: Function, x: f32) -> f32 {
        let mut lanes = [x; WIDEST];
        // SAFETY: the job has no further conditions.
        unsafe { isa.run(Apply(function, &mut lanes)) };
        assert!(lanes.iter().all(|lane| lane.to_bits() == lanes[0].to_bits()));
        lanes[0]
    }

    /// The error function by its series, in f64.
    fn erf(x: f64) -> f64 {
        if x.abs() > 6.0 {
            return x.signum();
        }
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while f64::abs(term) > 1e-20 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn functions_are_as_exact_as_they_say() {
        let close = |name: &str, x: f32, found: f32, expected: f64, ulp: f64, absolute: f64| {
            let tolerance = (expected.abs() * ulp * f64::from(f32::EPSILON)).max(absolute);
            let error = (f64::from(found) - expected).abs();
            assert!(error <= tolerance, "{name}({x}) = {found}, not {expected}");
        };
        for isa in Isa::available() {
            for number in -20_000..=20_000 {
                let x = number as f32 * 0.004_37;
                let wide = f64::from(x);
                close("exp", x, apply(isa, Function::Exp, x), wide.exp(), 2.0, 1.2e-38);
                close("sigmoid", x, apply(isa, Function::Sigmoid, x), 1.0 / (1.0 + (-wide).exp()), 4.0, 1.2e-38);
                close("tanh", x * 0.1, apply(isa, Function::Tanh, x * 0.1), f64::from(x * 0.1).tanh(), 5.0, 0.0);
                close("erf", x * 0.05, apply(isa, Function::Erf, x * 0.05), erf(f64::from(x * 0.05)), 4.0, 1e-6);
            }
            for function in [Function::Exp, Function::Sigmoid, Function::Tanh, Function::Erf] {
                assert!(apply(isa, function, f32::NAN).is_nan(), "{isa}");
            }
            assert_eq!(apply(isa, Function::Exp, f32::INFINITY), f32::INFINITY);
            assert_eq!(apply(isa, Function::Exp, f32::NEG_INFINITY), 0.0);
            assert_eq!(apply(isa, Function::Tanh, f32::NEG_INFINITY), -1.0);
            assert_eq!(apply(isa, Function::Sigmoid, f32::NEG_INFINITY), 0.0);
            assert_eq!(apply(isa, Function::Erf, f32::INFINITY), 1.0);
        }
    }
}
