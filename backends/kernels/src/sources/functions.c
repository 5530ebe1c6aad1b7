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

// Powers as C defines them: negative bases to whole exponents, and 1 for an exponent of 0.
float power(float x, float y) {
  const float a = pow(abs_float(x), y);
  const float whole = floor(y);
  const float odd = abs_float(y - 2.0f * floor(y * 0.5f));
  const float negative = pick(whole == y, pick(odd == 1.0f, -a, a), bits_float(0x7fc00000u | (float_bits(x) & 1u)));
  return pick(y == 0.0f, 1.0f, pick(x < 0.0f, negative, a));
}

// The remainder with the sign of the divisor, and with that of the dividend.
float modulo(float a, float b) {
  const float r = a - b * trunc(a / b);
  return pick(r != 0.0f && ((r < 0.0f) != (b < 0.0f)), r + b, r);
}

float remainder_(float a, float b) {
  return pick(is_inf(b) && !is_inf(a), a, a - b * trunc(a / b));
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

float asinh_(float x) {
  const float a = abs_float(x);
  const float far = log(a + sqrt(a * a + 1.0f));
  const float near = a * (1.0f - a * a * (0.16666667f - 0.075f * a * a));
  const float value = pick(a < 0.1f, near, far);
  return pick(x < 0.0f, -value, value);
}

float atanh_(float x) {
  const float s = x * x;
  const float near = x * (1.0f + s * (0.33333334f + s * (0.2f + s * 0.14285715f)));
  return pick(abs_float(x) < 0.1f, near, 0.5f * log((1.0f + x) / (1.0f - x)));
}

float sinh_(float x) {
  const float e = expm1_(x);
  const float far = 0.5f * (exp(x) - exp(-x));
  return pick(abs_float(x) < 0.25f, 0.5f * (e + e / (e + 1.0f)), far);
}

float cosh_(float x) {
  return 0.5f * (exp(x) + exp(-x));
}
