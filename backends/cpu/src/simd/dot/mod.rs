//! Vectors of i32 that sum products of bytes, four at a time: one trait, an implementation for each
//! set of instructions, and one table that chooses among them.
//!
//! Which of these instructions a processor has does not follow from its [`Isa`]: there are
//! processors with AVX2 and the 256-bit products, and those with AVX-512 and none.
//! So [`Dots`] is chosen at run time too, among those whose vectors are as wide as the `Isa`'s.
//!
//! Every implementation is exact: sums wrap at 32 bits, and nothing saturates on the way.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use super::{Isa, Simd};

/// The bytes of each operand that one lane multiplies at a time.
pub(crate) const GROUP: usize = 4;

/// Vectors of i32 that sum products of bytes.
/// The methods are unsafe to call where the processor lacks the instructions.
/// Their pointers need no alignment, and must be valid for the lanes that are read or written.
pub(crate) trait Dot: Copy + Send + Sync + 'static {
    /// The vectors of f32 that have as many lanes.
    type S: Simd;
    /// A vector of i32.
    type V: Copy;
    /// A vector of groups of the right operand, ready for products with many left ones.
    type W: Copy;
    /// A group of the left operand in every lane, ready for products with many right ones.
    type X: Copy;
    /// The lanes of a vector: 8 or 16.
    const LANES: usize;
    /// The rows of the microkernel's tile, where it is two vectors wide.
    const ROWS: usize;
    /// Whether bytes of the left operand are signed; those of the right one always are.
    const SIGNED: bool;

    unsafe fn splat(x: i32) -> Self::V;
    unsafe fn load(at: *const i32) -> Self::V;
    unsafe fn store(at: *mut i32, v: Self::V);
    /// Stores the first `count` lanes.
    unsafe fn store_first(at: *mut i32, count: usize, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// Returns the low 32 bits of each product.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// Returns the lanes as f32, rounded to the nearest.
    unsafe fn real(v: Self::V) -> <Self::S as Simd>::V;
    /// Loads a group of the right operand for each lane.
    unsafe fn right(at: *const i8) -> Self::W;
    /// Returns a group of the left operand, whose first byte in memory is the first of `group`.
    unsafe fn left(group: u32) -> Self::X;
    /// Adds to each lane the four products of its groups.
    unsafe fn dot(sum: Self::V, x: Self::X, w: Self::W) -> Self::V;
}

/// Work on bytes that is compiled for every set of instructions.
pub(crate) trait DotJob {
    type Output;

    /// Does the work.
    /// Implementations must be `#[inline(always)]`, or they are not compiled for `D`.
    ///
    /// # Safety
    /// The processor must have the instructions of `D`.
    /// The job says where it is made what else it needs.
    unsafe fn run<D: Dot>(self) -> Self::Output;
}

/// A set of instructions for products of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dots {
    /// Eight lanes, without any intrinsic.
    Portable,
    /// Arm's widening multiplies.
    #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
    Neon,
    /// Arm's products of bytes.
    #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
    NeonDot,
    /// AVX2, whose products are of 16 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-VNNI: products of bytes in AVX2's vectors.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512, whose products are of 16 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// AVX-512 VNNI, and AMX for what has several rows.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// Every set of instructions of this architecture, the better ones of each `Isa` behind the others.
const ALL: &[Dots] = &[
    Dots::Portable,
    #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
    Dots::Neon,
    #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
    Dots::NeonDot,
    #[cfg(target_arch = "x86_64")]
    Dots::Avx2,
    #[cfg(target_arch = "x86_64")]
    Dots::AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Dots::Avx512,
    #[cfg(target_arch = "x86_64")]
    Dots::Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Dots::Amx,
];

/// Evaluates an expression in which `$of` is the implementation that a value stands for.
macro_rules! each {
    ($dots:expr, $of:ident => $expression:expr) => {
        match $dots {
            Dots::Portable => {
                type $of = portable::Portable;
                $expression
            }
            #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
            Dots::Neon => {
                type $of = neon::Widening;
                $expression
            }
            #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
            Dots::NeonDot => {
                type $of = neon::Products;
                $expression
            }
            #[cfg(target_arch = "x86_64")]
            Dots::Avx2 => {
                type $of = x86::Avx2;
                $expression
            }
            #[cfg(target_arch = "x86_64")]
            Dots::AvxVnni => {
                type $of = x86::AvxVnni;
                $expression
            }
            #[cfg(target_arch = "x86_64")]
            Dots::Avx512 => {
                type $of = x86::Avx512;
                $expression
            }
            #[cfg(target_arch = "x86_64")]
            Dots::Avx512Vnni | Dots::Amx => {
                type $of = x86::Avx512Vnni;
                $expression
            }
        }
    };
}

impl Dots {
    /// Returns the sets that this processor has among those of an instruction set, the best last.
    pub(crate) fn available(isa: Isa) -> impl Iterator<Item = Dots> {
        ALL.iter().copied().filter(move |dots| dots.isa() == isa && dots.present())
    }

    /// Returns the best set that this processor has among those of an instruction set.
    pub(crate) fn best(isa: Isa) -> Dots {
        Self::available(isa).last().unwrap_or(Dots::Portable)
    }

    /// Returns the instruction set whose vectors have as many lanes.
    pub(crate) fn isa(self) -> Isa {
        match self {
            Dots::Portable => Isa::Portable,
            #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
            Dots::Neon | Dots::NeonDot => Isa::Neon,
            #[cfg(target_arch = "x86_64")]
            Dots::Avx2 | Dots::AvxVnni => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Dots::Avx512 | Dots::Avx512Vnni | Dots::Amx => Isa::Avx512,
        }
    }

    fn present(self) -> bool {
        match self {
            Dots::Portable => true,
            #[cfg(all(feature = "emulated-neon", not(target_arch = "aarch64")))]
            Dots::Neon | Dots::NeonDot => true,
            #[cfg(target_arch = "aarch64")]
            Dots::Neon => self.isa().present(),
            #[cfg(target_arch = "aarch64")]
            Dots::NeonDot => self.isa().present() && std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "x86_64")]
            Dots::Avx2 | Dots::Avx512 => self.isa().present(),
            #[cfg(target_arch = "x86_64")]
            Dots::AvxVnni => self.isa().present() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Dots::Avx512Vnni => self.isa().present() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Dots::Amx => Dots::Avx512Vnni.present() && amx::present(),
        }
    }

    /// Returns the lanes of a vector.
    pub(crate) fn lanes(self) -> usize {
        each!(self, D => D::LANES)
    }

    /// Returns the rows of the microkernel's tile, where it is two vectors wide.
    pub(crate) fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Dots::Amx => amx::MOST_ROWS,
            _ => self.vector_rows(),
        }
    }

    /// Returns the rows of which the sums fit in the registers of vectors, where there are two for
    /// each row.
    pub(crate) fn vector_rows(self) -> usize {
        each!(self, D => D::ROWS)
    }

    /// Begins a thread's work with these instructions.
    pub(crate) fn unit(self) -> Unit {
        Unit {
            dots: self,
            #[cfg(target_arch = "x86_64")]
            rows: Cell::new(0),
            thread: PhantomData,
        }
    }

    /// Tells whether bytes of the left operand are signed; those of the right one always are.
    ///
    /// Operands of the other kind are moved by 128, which changes their highest bit, and their zero
    /// points with them.
    pub(crate) fn is_signed(self) -> bool {
        each!(self, D => D::SIGNED)
    }

    /// Does a job with these instructions.
    ///
    /// # Safety
    /// The job's own conditions must hold.
    /// This type ensures that the processor has the instructions, because only
    /// [`Dots::available`] makes it.
    #[inline]
    pub(crate) unsafe fn run<J: DotJob>(self, job: J) -> J::Output {
        // SAFETY: the caller's promise, and `present`.
        unsafe {
            match self {
                Dots::Portable => portable::run(job),
                #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
                Dots::Neon => neon::run(job),
                #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
                Dots::NeonDot => neon::run_products(job),
                #[cfg(target_arch = "x86_64")]
                Dots::Avx2 => x86::run_avx2(job),
                #[cfg(target_arch = "x86_64")]
                Dots::AvxVnni => x86::run_avx_vnni(job),
                #[cfg(target_arch = "x86_64")]
                Dots::Avx512 => x86::run_avx512(job),
                #[cfg(target_arch = "x86_64")]
                Dots::Avx512Vnni | Dots::Amx => x86::run_avx512_vnni(job),
            }
        }
    }
}

/// A thread's work with a set of instructions, behind which it leaves the processor as it was.
pub(crate) struct Unit {
    dots: Dots,
    /// The rows for which the thread's tiles are set up, 0 where they are not.
    #[cfg(target_arch = "x86_64")]
    rows: Cell<usize>,
    /// It stays on its thread.
    thread: PhantomData<*const ()>,
}

impl Unit {
    pub(crate) fn dots(&self) -> Dots {
        self.dots
    }

    /// Sets the tiles up for sums of so many rows, 1 to [`amx::MOST_ROWS`]; `false` where there are
    /// no tiles.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn set_up(&self, rows: usize) -> bool {
        if self.dots != Dots::Amx {
            return false;
        }
        if self.rows.replace(rows) != rows {
            // SAFETY: the processor has tiles, because only `available` makes this set.
            unsafe { amx::set_up(rows) };
        }
        true
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Unit {
    fn drop(&mut self) {
        if self.rows.get() != 0 {
            // SAFETY: the tiles were set up, so that there are some.
            unsafe { amx::release() };
        }
    }
}

impl fmt::Display for Dots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dots::Portable => "portable",
            #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
            Dots::Neon => "neon",
            #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
            Dots::NeonDot => "neon with dotprod",
            #[cfg(target_arch = "x86_64")]
            Dots::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Dots::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Dots::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Dots::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Dots::Amx => "amx",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The operations on one vector: `sum · factor + x · w`, as whole numbers and as f32.
    struct Once<'a> {
        sums: &'a [i32; 16],
        factor: i32,
        x: u32,
        w: &'a [i8; 64],
        count: usize,
    }

    impl DotJob for Once<'_> {
        type Output = ([i32; 16], [i32; 16], [f32; 16]);

        #[inline(always)]
        unsafe fn run<D: Dot>(self) -> Self::Output {
            let (mut whole, mut first, mut real) = ([0; 16], [7; 16], [0.0; 16]);
            // SAFETY: no vector has more than 16 lanes.
            unsafe {
                let sum = D::mul(D::load(self.sums.as_ptr()), D::splat(self.factor));
                let sum = D::add(D::dot(sum, D::left(self.x), D::right(self.w.as_ptr())), D::splat(0));
                D::store(whole.as_mut_ptr(), sum);
                D::store_first(first.as_mut_ptr(), self.count, sum);
                D::S::store(real.as_mut_ptr(), D::real(sum));
            }
            (whole, first, real)
        }
    }

    #[test]
    fn every_set_of_instructions_is_exact() {
        let mut random = 1u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as u32
        };
        let extremes = [0u32, u32::MAX, 0x7f7f_7f7f, 0x8080_8080, 0xff00_ff00, 0x807f_ff01];
        for isa in Isa::available() {
            for dots in Dots::available(isa) {
                assert_eq!((dots.isa(), dots.lanes()), (isa, isa.lanes()));
                for round in 0..400 {
                    let x = if round < 36 { extremes[round % 6] } else { next() << 1 ^ next() };
                    let (mut w, mut sums) = ([0i8; 64], [0i32; 16]);
                    for byte in &mut w {
                        *byte = if round < 36 { [-128, 127, 0, -1, 1, -127][round / 6] } else { (next() >> 5) as i8 };
                    }
                    sums.iter_mut().for_each(|sum| *sum = (next() << 1) as i32);
                    let (factor, count) = (next() as i32 - 7, next() as usize % (dots.lanes() + 1));
                    let job = Once { sums: &sums, factor, x, w: &w, count };
                    // SAFETY: the job has no further conditions.
                    let (whole, first, real) = unsafe { dots.run(job) };
                    for lane in 0..dots.lanes() {
                        let products = x.to_ne_bytes().into_iter().zip(&w[lane * GROUP..]).map(|(x, w)| {
                            let x = if dots.is_signed() { i32::from(x as i8) } else { i32::from(x) };
                            x * i32::from(*w)
                        });
                        let expected = products.fold(sums[lane].wrapping_mul(factor), i32::wrapping_add);
                        assert_eq!(whole[lane], expected, "{dots}, lane {lane}: {x:08x}");
                        assert_eq!(first[lane], if lane < count { expected } else { 7 }, "{dots}");
                        assert_eq!(real[lane], expected as f32, "{dots}");
                    }
                }
            }
        }
    }
}
