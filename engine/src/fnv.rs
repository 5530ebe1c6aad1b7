//! FNV-1a, 64 bits: tells contents apart, the same in every build. It is no proof against forgery.

/// A hash in the making.
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Sixteen digits.
    pub(crate) fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}
