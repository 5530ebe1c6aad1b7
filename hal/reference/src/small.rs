//! Element types narrower than sixteen bits: the numbers of their codes, and their places in bytes.

use hetero_hal::{DType, Error, Result, Tensor};

/// The values of a format that are no finite numbers.
#[derive(Clone, Copy, PartialEq)]
enum Specials {
    /// The format has NaN only, with all bits of exponent and mantissa set.
    LastIsNan,
    /// The format has NaN only, in the place of negative zero.
    NegativeZeroIsNan,
    /// The format has infinities and NaN as in IEEE 754.
    Ieee,
    /// The format has finite numbers only.
    None,
}

/// A binary floating-point format with a sign bit and at most seven bits beside it.
#[derive(Clone, Copy)]
struct Format {
    bits: u32,
    mantissa: u32,
    bias: i32,
    specials: Specials,
    /// The code of the largest finite number.
    largest: u8,
}

fn format(dtype: DType) -> Option<Format> {
    use Specials::{Ieee, LastIsNan, NegativeZeroIsNan, None as Without};
    let (bits, mantissa, bias, specials, largest) = match dtype {
        DType::F8E4M3FN => (8, 3, 7, LastIsNan, 0x7e),
        DType::F8E4M3FNUZ => (8, 3, 8, NegativeZeroIsNan, 0x7f),
        DType::F8E5M2 => (8, 2, 15, Ieee, 0x7b),
        DType::F8E5M2FNUZ => (8, 2, 16, NegativeZeroIsNan, 0x7f),
        DType::F4E2M1 => (4, 1, 1, Without, 0x7),
        _ => return None,
    };
    Some(Format { bits, mantissa, bias, specials, largest })
}

impl Format {
    fn sign(self) -> u8 {
        1 << (self.bits - 1)
    }

    fn nan(self) -> u8 {
        match self.specials {
            Specials::LastIsNan => self.sign() - 1,
            // The NaN is quiet: the highest bit of the mantissa is set.
            Specials::Ieee => self.largest + 1 + (1 << (self.mantissa - 1)),
            // A format without NaN gets negative zero, as common converters have it.
            Specials::NegativeZeroIsNan | Specials::None => self.sign(),
        }
    }

    /// Returns the value of a code without its sign, as if all codes were finite.
    fn magnitude(self, code: u8) -> f64 {
        let exponent = i32::from(code >> self.mantissa);
        let fraction = f64::from(code & ((1 << self.mantissa) - 1)) / f64::from(1u32 << self.mantissa);
        if exponent == 0 {
            fraction * 2f64.powi(1 - self.bias)
        } else {
            (1.0 + fraction) * 2f64.powi(exponent - self.bias)
        }
    }

    fn decode(self, code: u8) -> f64 {
        if self.specials == Specials::NegativeZeroIsNan && code == self.sign() {
            return f64::NAN;
        }
        let plain = code & (self.sign() - 1);
        let value = match self.specials {
            Specials::LastIsNan if plain > self.largest => f64::NAN,
            Specials::Ieee if plain > self.largest + 1 => f64::NAN,
            Specials::Ieee if plain > self.largest => f64::INFINITY,
            _ => self.magnitude(plain),
        };
        if code & self.sign() == 0 { value } else { -value }
    }

    /// Returns the nearest code, ties to even.
    /// A number that is too large becomes the largest number where `saturate` is set, else infinity
    /// or NaN.
    fn encode(self, value: f64, saturate: bool) -> u8 {
        if value.is_nan() {
            return self.nan();
        }
        let size = value.abs();
        let above = (0..=self.largest).find(|&code| self.magnitude(code) >= size);
        let plain = match above {
            Some(0) => 0,
            Some(code) => {
                let (low, high) = (size - self.magnitude(code - 1), self.magnitude(code) - size);
                if low < high || (low == high && code % 2 == 1) { code - 1 } else { code }
            }
            None => {
                let next = 2.0 * self.magnitude(self.largest) - self.magnitude(self.largest - 1);
                let reach = (next + self.magnitude(self.largest)) / 2.0;
                let rounds_down = size < reach || (size == reach && self.largest.is_multiple_of(2));
                match self.specials {
                    _ if saturate || rounds_down => self.largest,
                    Specials::None => self.largest,
                    Specials::Ieee => self.largest + 1,
                    Specials::LastIsNan => self.nan(),
                    Specials::NegativeZeroIsNan => return self.nan(),
                }
            }
        };
        // A format whose negative zero is NaN has one zero only.
        let signed = value.is_sign_negative() && !(plain == 0 && self.specials == Specials::NegativeZeroIsNan);
        if signed { plain | self.sign() } else { plain }
    }
}

/// The way in which a value between two powers of two becomes an 8-bit scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoundScale {
    Up,
    Down,
    Nearest,
}

/// Returns the nearest power of two as its exponent, biased by 127; 255 is NaN.
fn encode_scale(value: f64, saturate: bool, rounding: RoundScale) -> u8 {
    if value.is_nan() || (value.is_infinite() && !saturate) {
        return 255;
    }
    let size = value.abs();
    if size.is_infinite() {
        return 254;
    }
    if size < 2f64.powi(-127) {
        return 0;
    }
    let exponent = size.log2().floor() as i32;
    let power = 2f64.powi(exponent);
    let up = match rounding {
        RoundScale::Up => size > power,
        RoundScale::Down => false,
        RoundScale::Nearest => size >= 1.5 * power,
    };
    match exponent + i32::from(up) + 127 {
        code @ 0..=254 => code as u8,
        _ if saturate => 254,
        _ => 255,
    }
}

/// Returns the numbers of a tensor of a narrow floating-point type; `None` for any other type.
pub(crate) fn decode(tensor: &Tensor) -> Option<Vec<f64>> {
    let codes = || unpack(tensor.bytes(), tensor.dtype().bits(), tensor.len());
    if tensor.dtype() == DType::F8E8M0 {
        let value = |code| if code == 255 { f64::NAN } else { 2f64.powi(i32::from(code) - 127) };
        return Some(codes().into_iter().map(value).collect());
    }
    let format = format(tensor.dtype())?;
    Some(codes().into_iter().map(|code| format.decode(code)).collect())
}

/// Packs numbers as a narrow floating-point type.
pub(crate) fn encode(
    values: &[f64],
    dtype: DType,
    shape: &[usize],
    saturate: bool,
    rounding: RoundScale,
) -> Result<Tensor> {
    let codes: Vec<u8> = if dtype == DType::F8E8M0 {
        values.iter().map(|&value| encode_scale(value, saturate, rounding)).collect()
    } else {
        let format = format(dtype).ok_or_else(|| Error::unsupported(format!("arithmetic on {dtype}")))?;
        values.iter().map(|&value| format.encode(value, saturate)).collect()
    };
    Tensor::from_bytes(dtype, shape, pack(&codes, dtype.bits()).into())
}

/// Returns elements of `bits` bits each, low bits first, as a byte for each.
pub(crate) fn unpack(bytes: &[u8], bits: usize, count: usize) -> Vec<u8> {
    let per_byte = (8 / bits.clamp(1, 8)).max(1);
    let mask = (0xffu16 >> (8 - 8 / per_byte)) as u8;
    (0..count)
        .map(|index| bytes.get(index / per_byte).map_or(0, |byte| byte >> (index % per_byte * bits) & mask))
        .collect()
}

/// Packs codes into bytes, the opposite of [`unpack`].
pub(crate) fn pack(codes: &[u8], bits: usize) -> Vec<u8> {
    let per_byte = (8 / bits.clamp(1, 8)).max(1);
    let mask = (0xffu16 >> (8 - 8 / per_byte)) as u8;
    codes
        .chunks(per_byte)
        .map(|chunk| chunk.iter().enumerate().fold(0, |byte, (index, code)| byte | (code & mask) << (index * bits)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_a_round_trip() {
        for dtype in [DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ, DType::F4E2M1] {
            let format = format(dtype).unwrap();
            for code in 0..=(format.sign() - 1) | format.sign() {
                let value = format.decode(code);
                if value.is_nan() {
                    assert!(format.decode(format.encode(value, true)).is_nan());
                } else {
                    assert_eq!(format.encode(value, false), code, "{dtype} {code:#x}");
                }
            }
        }
    }

    #[test]
    fn ends_of_the_ranges() {
        let at = |dtype, value, saturate| format(dtype).unwrap().encode(value, saturate);
        assert_eq!(format(DType::F8E4M3FN).unwrap().decode(0x7e), 448.0);
        assert_eq!(format(DType::F8E4M3FNUZ).unwrap().decode(0x7f), 240.0);
        assert_eq!(at(DType::F8E4M3FN, 464.0, false), 0x7e);
        assert_eq!(at(DType::F8E4M3FN, 465.0, false), 0x7f);
        assert_eq!(at(DType::F8E5M2, 1e9, false), 0x7c);
        assert_eq!(at(DType::F8E5M2, -1e9, true), 0xfb);
        assert_eq!(at(DType::F4E2M1, 1e9, false), 7);
        assert_eq!(at(DType::F4E2M1, 2.5, false), 4);
        assert_eq!(encode_scale(3.0, true, RoundScale::Up), 129);
        assert_eq!(encode_scale(3.0, true, RoundScale::Down), 128);
        assert_eq!(encode_scale(2.9, true, RoundScale::Nearest), 128);
    }

    #[test]
    fn narrow_integers_lie_low_bits_first() {
        assert_eq!(pack(&[1, 2, 3], 4), [0x21, 0x03]);
        assert_eq!(unpack(&[0x21, 0x03], 4, 3), [1, 2, 3]);
        assert_eq!(unpack(&pack(&[3, 0, 2, 1, 1], 2), 2, 5), [3, 0, 2, 1, 1]);
    }
}
