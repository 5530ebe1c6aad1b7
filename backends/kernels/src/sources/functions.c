// Functions that kernels call and dialects lack, or have with less care for infinities and NaN. Each begins with its type at a line's start and
// ends with a brace at a line's start.

bool is_nan(float x) {
  return (float_bits(x) & 0x7fffffffu) > 0x7f800000u;
}

bool is_inf(float x) {
  return (float_bits(x) & 0x7fffffffu) == 0x7f800000u;
}

// The larger one; NaN where one of them is.
float max2(float a, float b) {
  return pick(is_nan(a) || a > b, a, b);
}

float min2(float a, float b) {
  return pick(is_nan(a) || a < b, a, b);
}

int max2_int(int a, int b) {
  return pick(a > b, a, b);
}

int min2_int(int a, int b) {
  return pick(a < b, a, b);
}

uint max2_uint(uint a, uint b) {
  return pick(a > b, a, b);
}

uint min2_uint(uint a, uint b) {
  return pick(a < b, a, b);
}

long max2_long(long a, long b) {
  return pick(a > b, a, b);
}

long min2_long(long a, long b) {
  return pick(a < b, a, b);
}

ulong max2_ulong(ulong a, ulong b) {
  return pick(a > b, a, b);
}

ulong min2_ulong(ulong a, ulong b) {
  return pick(a < b, a, b);
}

// The nearest bfloat16, ties to even.
uint bfloat_bits(float x) {
  const uint b = float_bits(x);
  const uint rounded = (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
  return pick(is_nan(x), (b >> 16u) | 64u, rounded);
}

// The nearest bfloat16, as a float.
float to_bfloat(float x) {
  return bits_float(bfloat_bits(x) << 16u);
}

// The nearest 16-bit float, ties to even, as a float: below the least normal one, a multiple of 2^-24.
float to_half(float x) {
  const float a = abs_float(x);
  const uint b = float_bits(a);
  const float normal = bits_float((b + 0xfffu + ((b >> 13u) & 1u)) & 0xffffe000u);
  const float small = round_even(a * 16777216.0f) * 5.9604644775390625e-8f;
  // The bits of an infinity that no compiler takes for a constant, which WGSL forbids.
  const float infinity = bits_float((b & 0u) | 0x7f800000u);
  const float far = pick(a >= 65520.0f, infinity, normal);
  const float r = pick(a < 6.103515625e-5f, small, far);
  return pick(is_nan(x), x, bits_float(float_bits(r) | (float_bits(x) & 0x80000000u)));
}

float sigmoid(float x) {
  return 1.0f / (1.0f + exp(-x));
}

// Saturates by itself, where a quotient of exponentials would be NaN.
float tanh_(float x) {
  const float a = abs_float(x);
  const float e = exp(-2.0f * min2(a, 20.0f));
  const float far = (1.0f - e) / (1.0f + e);
  const float s = x * x;
  const float near = x * (1.0f + s * (-0.33333334f + s * (0.13333334f - 0.053968254f * s)));
  const float signed_far = pick(x < 0.0f, -far, far);
  return pick(is_nan(x), x, pick(a < 0.25f, near, signed_far));
}

// Abramowitz and Stegun, 7.1.26, refined: a series near 0, where the relative error would show.
float erf_(float x) {
  const float a = abs_float(x);
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  const float p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float far = 1.0f - p * exp(-min2(a * a, 80.0f));
  const float s = x * x;
  const float near = x * (1.1283791671f + s * (-0.3761263890f + s * (0.1128379167f + s * (-0.0268661706f + s * 0.0052239776f))));
  const float signed_far = pick(x < 0.0f, -far, far);
  return pick(is_nan(x), x, pick(a < 0.5f, near, signed_far));
}

// log(1 + exp(x)).
float softplus(float x) {
  return max2(x, 0.0f) + log(1.0f + exp(-abs_float(x)));
}

float sign_(float x) {
  return pick(x > 0.0f, 1.0f, pick(x < 0.0f, -1.0f, x));
}

// exp(x) - 1, exact near 0.
float expm1_(float x) {
  const float near = x * (1.0f + x * (0.5f + x * (0.16666667f + x * (0.041666668f + x * 0.0083333333f))));
  return pick(abs_float(x) < 0.25f, near, exp(x) - 1.0f);
}

// Powers as C defines them, also where a dialect's own power leaves them open: 1 for an exponent of 0
// and for a base of 1, whole exponents of negative bases and of -0, and infinities.
float power(float x, float y) {
  const float a = abs_float(x);
  const float infinity = bits_float((float_bits(a) & 0u) | 0x7f800000u);
  const bool grows = (a > 1.0f) == (y > 0.0f);
  const float limit = pick(a == 1.0f, 1.0f, pick(grows, infinity, 0.0f));
  const bool open = is_inf(y) || is_inf(a) || a == 0.0f;
  const float size = pick(open, limit, pow(a, y));
  const float whole = floor(y);
  const bool odd = whole == y && !is_inf(y) && abs_float(y - 2.0f * floor(y * 0.5f)) == 1.0f;
  const bool negative = (float_bits(x) >> 31u) == 1u;
  const float signed_ = pick(negative && odd, -size, size);
  const float undefined = bits_float(0x7fc00000u | (float_bits(x) & 1u));
  const bool none = is_nan(x) || is_nan(y) || (x < 0.0f && whole != y && !is_inf(x));
  return pick(y == 0.0f || x == 1.0f, 1.0f, pick(none, undefined, signed_));
}

// The remainder with the sign of the dividend, by long division: eight bits of the quotient at a time,
// because a quotient that is rounded leaves another remainder.
float remainder_(float a, float b) {
  const uint x = float_bits(a) & 0x7fffffffu;
  const uint y = float_bits(b) & 0x7fffffffu;
  const uint xe = max2_uint(x >> 23u, 1u);
  const uint ye = max2_uint(y >> 23u, 1u);
  const uint divisor = max2_uint((y & 0x7fffffu) | pick(y >= 0x800000u, 0x800000u, 0u), 1u);
  uint rest = ((x & 0x7fffffu) | pick(x >= 0x800000u, 0x800000u, 0u)) % divisor;
  for (uint n = pick(xe > ye, xe - ye, 0u); n > 0u; n = n - min2_uint(n, 8u)) {
    rest = (rest << min2_uint(n, 8u)) % divisor;
  }
  const float size = to_float(rest) * 1.1920928955078125e-7f * bits_float(ye << 23u);
  const float signed_ = bits_float(float_bits(size) | (float_bits(a) & 0x80000000u));
  const float undefined = bits_float(0x7fc00000u | (float_bits(a) & 1u));
  const bool none = x >= 0x7f800000u || y > 0x7f800000u || y == 0u;
  return pick(none, undefined, pick(x < y, a, signed_));
}

// The remainder with the sign of the divisor.
float modulo(float a, float b) {
  const float r = remainder_(a, b);
  return pick(r != 0.0f && ((r < 0.0f) != (b < 0.0f)), r + b, r);
}

// Whole numbers towards zero: the nearest one where there is none, and 0 for NaN.
int cut_int(float x) {
  const int far = pick(x >= 2147483648.0f, 2147483647, -2147483647 - 1);
  return pick(is_nan(x), 0, pick(abs_float(x) >= 2147483648.0f, far, to_int(x)));
}

uint cut_uint(float x) {
  return pick(is_nan(x) || x <= 0.0f, 0u, pick(x >= 4294967296.0f, ~0u, to_uint(x)));
}

long cut_long(float x) {
  const long least = to_long(1) << 63u;
  const long far = pick(x > 0.0f, ~least, least);
  return pick(is_nan(x), to_long(0), pick(abs_float(x) >= 9223372036854775808.0f, far, to_long(x)));
}

ulong cut_ulong(float x) {
  const ulong most = ~to_ulong(0u);
  return pick(is_nan(x) || x <= 0.0f, to_ulong(0u), pick(x >= 18446744073709551616.0f, most, to_ulong(x)));
}

int modulo_int(int a, int b) {
  const int r = a % pick(b == 0, 1, b);
  return pick(r != 0 && ((r < 0) != (b < 0)), r + b, r);
}

long modulo_long(long a, long b) {
  const long r = a % pick(b == to_long(0), to_long(1), b);
  return pick(r != to_long(0) && ((r < to_long(0)) != (b < to_long(0))), r + b, r);
}

int power_int(int x, int y) {
  const int odd = pick((y & 1) == 1, -1, 1);
  int result = pick(y < 0, pick(x == 1, 1, pick(x == -1, odd, 0)), 1);
  int base = x;
  for (uint n = to_uint(pick(y < 0, 0, y)); n > 0u; n = n / 2u) {
    if ((n & 1u) == 1u) {
      result = result * base;
    }
    base = base * base;
  }
  return result;
}

long power_long(long x, long y) {
  const long one = to_long(1);
  const long odd = pick((y & one) == one, -one, one);
  long result = pick(y < to_long(0), pick(x == one, one, pick(x == -one, odd, to_long(0))), one);
  long base = x;
  for (long n = pick(y < to_long(0), to_long(0), y); n > to_long(0); n = n / to_long(2)) {
    if ((n & one) == one) {
      result = result * base;
    }
    base = base * base;
  }
  return result;
}

// The square of a large number overflows, and its logarithm does not.
float asinh_(float x) {
  const float a = abs_float(x);
  const float far = pick(a > 1e9f, log(a) + 0.69314718f, log(a + sqrt(a * a + 1.0f)));
  const float near = a * (1.0f - a * a * (0.16666667f - 0.075f * a * a));
  const float size = pick(a < 0.1f, near, far);
  return pick(is_nan(x), x, bits_float(float_bits(size) | (float_bits(x) & 0x80000000u)));
}

float acosh_(float x) {
  const float size = pick(x > 1e9f, log(x) + 0.69314718f, log(x + sqrt((x - 1.0f) * (x + 1.0f))));
  return pick(x < 1.0f, bits_float(0x7fc00000u | (float_bits(x) & 1u)), size);
}

float atanh_(float x) {
  const float s = x * x;
  const float near = x * (1.0f + s * (0.33333334f + s * (0.2f + s * 0.14285715f)));
  return pick(abs_float(x) < 0.1f, near, 0.5f * log((1.0f + x) / (1.0f - x)));
}

// Where exp(x) overflows and its half does not, exp(x / 2) twice does not either.
float sinh_(float x) {
  const float a = abs_float(x);
  const float e = expm1_(a);
  const float h = exp(0.5f * a);
  const float far = pick(a > 80.0f, 0.5f * h * h, 0.5f * (exp(a) - exp(-a)));
  const float size = pick(a < 0.25f, 0.5f * (e + e / (e + 1.0f)), far);
  return pick(is_nan(x), x, bits_float(float_bits(size) | (float_bits(x) & 0x80000000u)));
}

float cosh_(float x) {
  const float a = abs_float(x);
  const float h = exp(0.5f * a);
  return pick(a > 80.0f, 0.5f * h * h, 0.5f * (exp(a) + exp(-a)));
}

// The upper half of a product.
uint upper_product(uint a, uint b) {
  const uint al = a & 0xffffu;
  const uint ah = a >> 16u;
  const uint bl = b & 0xffffu;
  const uint bh = b >> 16u;
  const uint inner = ah * bl + ((al * bl) >> 16u);
  const uint outer = al * bh + (inner & 0xffffu);
  return ah * bh + (inner >> 16u) + (outer >> 16u);
}

// Word `i` of 2 / pi, behind two words of zero.
uint two_by_pi(uint i) {
  const uint near = pick(i < 3u, pick(i < 2u, 0u, 0xa2f9836eu), pick(i < 4u, 0x4e441529u, 0xfc2757d1u));
  const uint far = pick(i < 7u, pick(i < 6u, 0xf534ddc0u, 0xdb629599u), 0x3c439041u);
  return pick(i < 5u, near, far);
}

// sin(x + turn * pi / 2), for dialects whose own sine leaves large arguments open. The rest of x about
// multiples of pi / 2 comes from as many bits of 2 / pi as count (Payne and Hanek, 1983).
float circular(float x, uint turn) {
  const float a = abs_float(x);
  const uint b = float_bits(a);
  const bool small = a < 0.78539816f;
  const uint mantissa = (b << 8u) | 0x80000000u;
  const uint place = pick(small, 0u, (b >> 23u) - 96u);
  const uint word = place >> 5u;
  const uint shift = place & 31u;
  // Shifts by a word's width are not defined, so the second part goes in two.
  const uint back = 31u - shift;
  const uint w0 = (two_by_pi(word) << shift) | ((two_by_pi(word + 1u) >> 1u) >> back);
  const uint w1 = (two_by_pi(word + 1u) << shift) | ((two_by_pi(word + 2u) >> 1u) >> back);
  const uint w2 = (two_by_pi(word + 2u) << shift) | ((two_by_pi(word + 3u) >> 1u) >> back);
  const uint low = mantissa * w1;
  const uint fine = low + upper_product(mantissa, w2);
  const uint coarse = upper_product(mantissa, w1) + pick(fine < low, 1u, 0u) + mantissa * w0;
  const bool over = (coarse & 0x20000000u) != 0u;
  const uint fine_size = pick(over, ~fine + 1u, fine);
  const uint coarse_size = pick(over, ~coarse + pick(fine == 0u, 1u, 0u), coarse) & 0x3fffffffu;
  // pi / 2 in units of 2^-62.
  const float size = (to_float(coarse_size) * 4294967296.0f + to_float(fine_size)) * 3.4061215800e-19f;
  const float rest = pick(small, a, pick(over, -size, size));
  const uint whole = pick(small, 0u, (coarse >> 30u) + pick(over, 1u, 0u));
  const bool negative = (float_bits(x) >> 31u) == 1u;
  const float r = pick(negative, -rest, rest);
  const uint quadrant = (pick(negative, 4u - (whole & 3u), whole) + turn) & 3u;
  const float s = r * r;
  const float sine = r * (1.0f + s * (-0.16666667f + s * (8.3333333e-3f + s * (-1.9841270e-4f + s * 2.7557319e-6f))));
  const float cosine = 1.0f + s * (-0.5f + s * (4.1666667e-2f + s * (-1.3888889e-3f + s * 2.4801587e-5f)));
  const float v = pick((quadrant & 1u) == 1u, cosine, sine);
  const float undefined = bits_float(0x7fc00000u | (float_bits(x) & 1u));
  return pick(b >= 0x7f800000u, undefined, pick(quadrant >= 2u, -v, v));
}

float sin_(float x) {
  return circular(x, 0u);
}

float cos_(float x) {
  return circular(x, 1u);
}

float tan_(float x) {
  return circular(x, 0u) / circular(x, 1u);
}

// The arc sine of a number up to 1 / 2: the least polynomial that a float does not tell from it.
float arc(float x) {
  const float s = x * x;
  const float low = 0.16666666f + s * (0.07500099f + s * 0.04459804f);
  const float high = 0.03111609f + s * (0.01707811f + s * 0.03380539f);
  return x * (1.0f + s * (low + s * s * s * high));
}

// For dialects whose own inverse functions are not exact to a float, or lose NaN.
float asin_(float x) {
  const float a = abs_float(x);
  const float far = 1.5707963f - 2.0f * arc(sqrt(max2(0.5f * (1.0f - a), 0.0f)));
  const float size = pick(a > 0.5f, far, arc(a));
  const float undefined = bits_float(0x7fc00000u | (float_bits(x) & 1u));
  const float v = bits_float(float_bits(size) | (float_bits(x) & 0x80000000u));
  return pick(is_nan(x) || a > 1.0f, undefined, v);
}

float acos_(float x) {
  const float a = abs_float(x);
  const float far = 2.0f * arc(sqrt(max2(0.5f * (1.0f - a), 0.0f)));
  const float near = 1.5707963f - arc(x);
  const float undefined = bits_float(0x7fc00000u | (float_bits(x) & 1u));
  const float v = pick(a > 0.5f, pick(x < 0.0f, 3.1415927f - far, far), near);
  return pick(is_nan(x) || a > 1.0f, undefined, v);
}

float atan_(float x) {
  return pick(is_nan(x) || x == 0.0f, x, atan(x));
}
