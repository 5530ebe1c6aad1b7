//! Functions of vectors.
//! Errors are in units in the last place (ulp) of f32, measured by the tests against f64.

use super::{Simd, WIDEST};

/// The exponential function, to 2 ulp.
/// It is 0 below -87.3, where f32 would be subnormal, and infinite above 88.72.
///
/// `exp(x) = 2^n * exp(r)` with `|r| <= ln 2 / 2`, where `exp(r)` is the Taylor polynomial of
/// degree 7.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the instruction set is there by the caller's promise.
    unsafe {
        // These are ln 2 in two parts, the first with few enough bits that its product with n is
        // exact.
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
        // The factor 2^n is applied in two steps, because 2^128 is no f32.
        let half = S::round(S::mul(n, S::splat(0.5)));
        let result = S::scale(S::scale(p, half), S::sub(n, half));
        let result = S::select_lt(x, S::splat(-87.336_54), S::splat(0.0), result);
        S::select_lt(S::splat(88.722_83), x, S::splat(f32::INFINITY), result)
    }
}

/// The numbers up to which quarters of a turn are taken off exactly enough.
const FAR: f32 = 8192.0;

/// The sine, or the cosine where `QUARTER` is set, to 2 ulp and, near its zeros, to 2⁻⁴⁵.
///
/// `x = n * pi / 2 + r` with `|r| <= pi / 4`, where `n` says which polynomial of `r` is the result,
/// and with which sign.
/// Beyond [`FAR`], lanes are computed one by one.
#[inline(always)]
pub(crate) unsafe fn sine<S: Simd, const QUARTER: bool>(x: S::V) -> S::V {
    // SAFETY: the instruction set is there by the caller's promise.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        let magnitude = |x| S::max(S::sub(zero, x), x);
        let n = S::round(S::mul(x, S::splat(std::f32::consts::FRAC_2_PI)));
        // These are pi / 2 in four parts, the first of so few bits that their products with n are
        // exact.
        let r = S::fma(n, S::splat(-1.5703125), x);
        let r = S::fma(n, S::splat(-0.000_483_751_3), r);
        let r = S::fma(n, S::splat(-7.549_533_6e-8), r);
        let r = S::fma(n, S::splat(-2.563_344e-12), r);
        let square = S::mul(r, r);
        let mut odd = S::splat(1.0 / 362_880.0);
        for c in [-1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0] {
            odd = S::fma(odd, square, S::splat(c));
        }
        let odd = S::fma(S::mul(odd, square), r, r);
        let mut even = S::splat(-1.0 / 3_628_800.0);
        for c in [1.0 / 40_320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0] {
            even = S::fma(even, square, S::splat(c));
        }
        // The quarter of the turn, from -2 to 2.
        let quarter = S::sub(n, S::mul(S::splat(4.0), S::round(S::mul(n, S::splat(0.25)))));
        let is_odd = magnitude(S::sub(magnitude(quarter), one));
        let (half, below) = (S::splat(0.5), S::splat(-0.5));
        let result = if QUARTER {
            let result = S::select_lt(is_odd, half, odd, even);
            let flipped = S::sub(zero, result);
            let result_of = S::select_lt(half, quarter, flipped, result);
            S::select_lt(quarter, S::splat(-1.5), flipped, result_of)
        } else {
            let result = S::select_lt(is_odd, half, even, odd);
            let flipped = S::sub(zero, result);
            let result_of = S::select_lt(S::splat(1.5), quarter, flipped, result);
            S::select_lt(quarter, below, flipped, result_of)
        };
        // The sine of -0 is -0, and what is so small is its own sine.
        let result = if QUARTER { result } else { S::select_lt(magnitude(x), S::splat(1e-6), x, result) };
        if !S::any_lt(S::splat(FAR), magnitude(x)) {
            return result;
        }
        let (mut given, mut found) = ([0.0; WIDEST], [0.0; WIDEST]);
        S::store(given.as_mut_ptr(), x);
        S::store(found.as_mut_ptr(), result);
        for (found, &x) in found.iter_mut().zip(&given).filter(|(_, x)| x.abs() > FAR) {
            *found = if QUARTER { x.cos() } else { x.sin() };
        }
        S::load(found.as_ptr())
    }
}

/// `exp(x) - 1`, to 3 ulp: near 0, where the difference would cancel, by its Taylor polynomial.
#[inline(always)]
pub(crate) unsafe fn exp_m1<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let one = S::splat(1.0);
        let magnitude = S::max(S::sub(S::splat(0.0), x), x);
        let mut p = S::splat(1.0 / 40_320.0);
        for c in [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
            p = S::fma(p, x, S::splat(c));
        }
        let small = S::fma(S::mul(p, x), x, x);
        S::select_lt(magnitude, S::splat(0.4), small, S::sub(exp::<S>(x), one))
    }
}

/// The natural logarithm, to 2 ulp; NaN below 0, where it is not defined.
///
/// `ln(2^e * (1 + f)) = e * ln 2 + ln(1 + f)`.
/// With `s = f / (2 + f)` the last term is `f - (f^2/2 - s * (f^2/2 + R(s^2)))`, which keeps all
/// bits of `f`; `R` is the rest of the series of `2 * artanh(s)`.
#[inline(always)]
pub(crate) unsafe fn ln<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        // As in `exp`.
        const HIGH: f32 = 355.0 / 512.0;
        const LOW: f32 = -2.121_944_4e-4;
        let (zero, one, least) = (S::splat(0.0), S::splat(1.0), S::splat(f32::MIN_POSITIVE));
        // A subnormal number is made normal first.
        let normal = S::select_lt(x, least, S::mul(x, S::splat(8_388_608.0)), x);
        let (m, e) = S::split(normal);
        let e = S::sub(e, S::select_lt(x, least, S::splat(23.0), zero));
        let middle = S::splat(std::f32::consts::SQRT_2);
        let e = S::add(e, S::select_lt(middle, m, one, zero));
        let f = S::sub(S::select_lt(middle, m, S::mul(m, S::splat(0.5)), m), one);
        let s = S::div(f, S::add(f, S::splat(2.0)));
        let z = S::mul(s, s);
        let mut r = S::splat(2.0 / 9.0);
        for c in [2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0] {
            r = S::fma(r, z, S::splat(c));
        }
        let half = S::mul(S::mul(f, f), S::splat(0.5));
        let rest = S::fma(s, S::fma(r, z, half), S::mul(e, S::splat(LOW)));
        let result = S::fma(e, S::splat(HIGH), S::sub(f, S::sub(half, rest)));
        let result = S::select_lt(S::splat(f32::MAX), x, x, result);
        let other = S::select_lt(x, zero, S::splat(f32::NAN), S::select_nan(x, S::splat(f32::NEG_INFINITY)));
        S::select_lt(zero, x, result, other)
    }
}

/// `ln(1 + x)` for `x >= 0`, to 4 ulp: a factor removes the rounding error of `1 + x`.
#[inline(always)]
pub(crate) unsafe fn ln_1p<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let one = S::splat(1.0);
        let sum = S::add(one, x);
        let seen = S::sub(sum, one);
        S::select_lt(S::splat(0.0), seen, S::mul(ln::<S>(sum), S::div(x, seen)), x)
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

/// The hyperbolic tangent, to 5 ulp, as `x P(x²) / Q(x²)`.
/// The coefficients are those with the least maximum of the relative error up to 8.8 (5.8e-9, by
/// Remez's exchange in f64).
/// Beyond 8.8, the magnitude of the result is 1.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as above.
    unsafe {
        let square = S::mul(x, x);
        let mut p = S::splat(-9.195_625e-14);
        for c in [5.549_767_2e-11, -2.078_526_5e-8, 1.129_189_8e-5, 3.117_107_8e-3, 0.130_957_9, 1.0] {
            p = S::fma(p, square, S::splat(c));
        }
        let mut q = S::splat(2.565_294_3e-4);
        for c in [2.454_756_8e-2, 0.464_291_2, 1.0] {
            q = S::fma(q, square, S::splat(c));
        }
        // Below that bound rounding may lead beyond 1, and above it the quotient may overflow to
        // NaN; a NaN of the input passes through.
        let (one, minus_one) = (S::splat(1.0), S::splat(-1.0));
        let result = S::max(minus_one, S::min(one, S::div(S::mul(p, x), q)));
        let result = S::select_lt(S::splat(8.8), x, one, result);
        S::select_lt(x, S::splat(-8.8), minus_one, result)
    }
}

/// The error function, with an absolute error below 1e-6.
/// Formula 7.1.26 of Abramowitz and Stegun contributes 1.5e-7 of that, and f32 the rest.
/// Near 0 it is the Taylor polynomial, so that small arguments keep their relative precision.
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
        ExpM1,
        Ln,
        Ln1p,
        Round,
        Sin,
        Cos,
    }

    struct Apply<'a>(Function, &'a mut [f32; WIDEST]);

    impl Job for Apply<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for chunk in self.1.chunks_mut(S::LANES) {
                // SAFETY: a chunk has all lanes, because 16 is a multiple of their number.
                unsafe {
                    let x = S::load(chunk.as_ptr());
                    let y = match self.0 {
                        Function::Exp => super::exp::<S>(x),
                        Function::Sigmoid => super::sigmoid::<S>(x),
                        Function::Tanh => super::tanh::<S>(x),
                        Function::Erf => super::erf::<S>(x),
                        Function::ExpM1 => super::exp_m1::<S>(x),
                        Function::Ln => super::ln::<S>(x),
                        Function::Ln1p => super::ln_1p::<S>(x),
                        Function::Round => S::round(x),
                        Function::Sin => super::sine::<S, false>(x),
                        Function::Cos => super::sine::<S, true>(x),
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

    /// Returns the error function by its series, in f64.
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
            let tiny = 2f64.powi(-45);
            for number in -20_000..=20_000 {
                // Among these are the numbers that are nearest to quarters of a turn.
                for x in [number as f32 * 0.437, (f64::from(number) * std::f64::consts::FRAC_PI_2) as f32] {
                    let wide = f64::from(x);
                    close("sin", x, apply(isa, Function::Sin, x), wide.sin(), 2.0, tiny);
                    close("cos", x, apply(isa, Function::Cos, x), wide.cos(), 2.0, tiny);
                }
            }
            for x in [0.0f32, -0.0, 1e-30, -1e-30, f32::MIN_POSITIVE] {
                assert_eq!(apply(isa, Function::Sin, x).to_bits(), x.to_bits(), "{isa}: {x}");
                assert_eq!(apply(isa, Function::Cos, x), 1.0, "{isa}: {x}");
            }
            for function in [Function::Sin, Function::Cos] {
                assert!(apply(isa, function, f32::NAN).is_nan() && apply(isa, function, f32::INFINITY).is_nan());
            }
            for number in -20_000..=20_000 {
                let x = number as f32 * 0.000_37;
                close("exp_m1", x, apply(isa, Function::ExpM1, x), f64::from(x).exp_m1(), 3.0, 0.0);
                // These go from subnormal numbers to the largest, with many around 1.
                for x in [x.exp2(), (x * 20.0).exp2()].into_iter().filter(|x| x.is_finite() && *x > 0.0) {
                    close("ln", x, apply(isa, Function::Ln, x), f64::from(x).ln(), 2.0, 0.0);
                    close("ln_1p", x, apply(isa, Function::Ln1p, x), f64::from(x).ln_1p(), 4.0, 0.0);
                }
                let x = number as f32 * 0.05;
                assert_eq!(apply(isa, Function::Round, x).to_bits(), x.round_ties_even().to_bits(), "{isa}: {x}");
                let x = 4_194_304.0 + number as f32 * 0.5;
                assert_eq!(apply(isa, Function::Round, x), x.round_ties_even(), "{isa}: {x}");
            }
            assert_eq!(apply(isa, Function::Ln, 0.0), f32::NEG_INFINITY);
            assert_eq!(apply(isa, Function::Ln, -0.0), f32::NEG_INFINITY);
            assert_eq!(apply(isa, Function::Ln, f32::INFINITY), f32::INFINITY);
            assert!(apply(isa, Function::Ln, -1.0).is_nan() && apply(isa, Function::Ln, f32::NEG_INFINITY).is_nan());
            assert_eq!(apply(isa, Function::ExpM1, f32::NEG_INFINITY), -1.0);
            assert_eq!(apply(isa, Function::ExpM1, f32::INFINITY), f32::INFINITY);
            for function in [Function::Ln, Function::Ln1p, Function::ExpM1] {
                assert!(apply(isa, function, f32::NAN).is_nan(), "{isa}");
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
