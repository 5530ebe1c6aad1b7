//! Intel's AMX: products of tiles of 16 rows of 64 bytes, each in one instruction.
//!
//! A thread says how many rows its tiles have before it uses them, and says when it needs them no
//! longer, as the kernel saves them with the thread; [`Unit`](super::Unit) does both.
//! The stable compiler has no intrinsics for this, so the instructions stand here as text.
//! The compiler itself never uses a tile, so that what one block of them leaves in a tile is there
//! in the next.
//!
//! Tiles 0 to 3 are sums, of up to 32 rows and two vectors; 4 and 5 are of the left operand, 6 and
//! 7 of the right one.

use std::arch::asm;
use std::sync::OnceLock;

/// The rows of a tile, which are also the lanes of its vectors.
pub(crate) const ROWS: usize = 16;

/// The bytes of each row that are multiplied at a time.
pub(crate) const BLOCK: usize = 64;

/// The most rows of a tile of sums: those of two tiles.
pub(crate) const MOST_ROWS: usize = 2 * ROWS;

/// The bytes of a block of the right operand for one vector.
const RIGHT: usize = ROWS * BLOCK;

/// Tells whether the processor has tiles of bytes, and the system lets this process use them.
pub(super) fn present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    *PRESENT.get_or_init(|| {
        /// The feature bits of the tiles and of their products of bytes.
        const TILES: u32 = 1 << 24 | 1 << 25;
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        leaf.edx & TILES == TILES && permitted()
    })
}

/// Asks the system for the tiles, whose content it saves with a thread only where a process has
/// asked.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory; a system that does not know it
    // returns an error.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What the instruction for the set-up reads.
#[repr(C, align(64))]
struct Setup {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// Sets the tiles up for sums of so many rows, 1 to [`MOST_ROWS`], and two vectors.
///
/// # Safety
/// [`present`] must hold.
pub(super) unsafe fn set_up(rows: usize) {
    let (first, second) = (rows.min(ROWS) as u8, rows.saturating_sub(ROWS) as u8);
    let mut setup = Setup { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
    setup.bytes[..8].fill(BLOCK as u16);
    setup.rows[..8].copy_from_slice(&[first, first, second, second, first, second, 16, 16]);
    if second == 0 {
        for unused in [2, 3, 5] {
            setup.bytes[unused] = 0;
        }
    }
    // SAFETY: the set-up is valid, and the caller promises that there are tiles.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const setup, options(nostack, readonly, preserves_flags)) };
}

/// Gives the tiles back.
///
/// # Safety
/// [`present`] must hold.
pub(super) unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
}

/// Makes all sums zero.
///
/// # Safety
/// The thread's tiles must be set up.
#[inline(always)]
pub(crate) unsafe fn clear(two: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem, preserves_flags));
        if two {
            asm!("tilezero tmm2", "tilezero tmm3", options(nostack, nomem, preserves_flags));
        }
    }
}

/// The rows of the left operand: those of each tile, with the bytes between them.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub(crate) at: [*const u8; 2],
    pub(crate) row: [usize; 2],
}

/// Adds the products of `blocks` blocks along the depth, at least one.
/// `right` has the groups of the first vector and of the second, which is not read where `vectors`
/// is 1.
/// `two` says whether there is a second tile of rows.
///
/// # Safety
/// The thread's tiles must be set up for these rows, which are valid for the blocks as are the
/// groups.
#[inline(always)]
pub(crate) unsafe fn add(two: bool, vectors: usize, left: Left, right: [*const i8; 2], blocks: usize) {
    macro_rules! each {
        ($($line:literal)*; $($row:tt)*) => {
            asm!(
                "2:",
                $($line,)*
                "add {x}, 64",
                "add {y}, 64",
                "add {w}, {right}",
                "add {v}, {right}",
                "sub {blocks}, 1",
                "jnz 2b",
                x = inout(reg) left.at[0] => _,
                y = inout(reg) left.at[1] => _,
                x_row = in(reg) left.row[0],
                $($row)*
                w = inout(reg) right[0] => _,
                v = inout(reg) right[1] => _,
                w_row = in(reg) BLOCK,
                right = const RIGHT,
                blocks = inout(reg) blocks => _,
                options(nostack, readonly),
            )
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        match (two, vectors) {
            (true, 2) => each!(
                "tileloadd tmm4, [{x} + {x_row}*1]"
                "tileloadd tmm6, [{w} + {w_row}*1]"
                "tdpbusd tmm0, tmm4, tmm6"
                "tileloadd tmm7, [{v} + {w_row}*1]"
                "tdpbusd tmm1, tmm4, tmm7"
                "tileloadd tmm5, [{y} + {y_row}*1]"
                "tdpbusd tmm2, tmm5, tmm6"
                "tdpbusd tmm3, tmm5, tmm7";
                y_row = in(reg) left.row[1],
            ),
            (true, _) => each!(
                "tileloadd tmm4, [{x} + {x_row}*1]"
                "tileloadd tmm6, [{w} + {w_row}*1]"
                "tdpbusd tmm0, tmm4, tmm6"
                "tileloadd tmm5, [{y} + {y_row}*1]"
                "tdpbusd tmm2, tmm5, tmm6";
                y_row = in(reg) left.row[1],
            ),
            (false, 2) => each!(
                "tileloadd tmm4, [{x} + {x_row}*1]"
                "tileloadd tmm6, [{w} + {w_row}*1]"
                "tdpbusd tmm0, tmm4, tmm6"
                "tileloadd tmm7, [{v} + {w_row}*1]"
                "tdpbusd tmm1, tmm4, tmm7";
            ),
            (false, _) => each!(
                "tileloadd tmm4, [{x} + {x_row}*1]"
                "tileloadd tmm6, [{w} + {w_row}*1]"
                "tdpbusd tmm0, tmm4, tmm6";
            ),
        }
    }
}

/// The sums of a tile: rows of two vectors.
#[repr(align(64))]
pub(crate) struct Sums(pub(crate) [[i32; 2 * ROWS]; MOST_ROWS]);

/// Writes the sums.
///
/// # Safety
/// The thread's tiles must be set up.
#[inline(always)]
pub(crate) unsafe fn store(two: bool, into: &mut std::mem::MaybeUninit<Sums>) {
    let (at, row) = (into.as_mut_ptr(), 2 * BLOCK);
    // SAFETY: the caller's promise; the rows lie in the sums.
    unsafe {
        asm!(
            "tilestored [{at} + {row}*1], tmm0",
            "tilestored [{at} + {row}*1 + 64], tmm1",
            at = in(reg) at, row = in(reg) row, options(nostack, preserves_flags),
        );
        if two {
            asm!(
                "tilestored [{at} + {row}*1], tmm2",
                "tilestored [{at} + {row}*1 + 64], tmm3",
                at = in(reg) at.byte_add(ROWS * row), row = in(reg) row, options(nostack, preserves_flags),
            );
        }
    }
}
