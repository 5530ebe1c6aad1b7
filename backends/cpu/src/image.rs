//! How the channels and pixels of a value lie in memory inside a program.

use crate::operand::Shared;

/// The zeros around the pixels, with which a convolution reads its padding as it reads the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Halo {
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) bottom: usize,
    pub(crate) right: usize,
}

impl Halo {
    pub(crate) const NONE: Halo = Halo { top: 0, left: 0, bottom: 0, right: 0 };

    /// Returns a halo that is as wide as both on every side.
    pub(crate) fn union(self, other: Halo) -> Halo {
        Halo {
            top: self.top.max(other.top),
            left: self.left.max(other.left),
            bottom: self.bottom.max(other.bottom),
            right: self.right.max(other.right),
        }
    }
}

/// The layout of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Layout {
    /// The standard's layout: row-major.
    Plain,
    /// The same order, in f32 where the value's own elements have 16 bits.
    Wide,
    /// A layout by batch, blocks of channels, rows, columns, and channels of the block: as many
    /// channels as a vector has lanes lie together.
    /// Lanes behind the last channel are 0.
    /// One spatial dimension counts as a row.
    Blocked(Halo),
    /// The standard's layout, of bytes of the kind that products take; see `simd::dot`.
    Moved,
    /// A layout by batch, rows, columns and channels, of bytes of that kind.
    Last,
}

/// The sizes of a value in a blocked layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) halo: Halo,
    /// The number of channels of a block.
    pub(crate) lanes: usize,
}

impl Image {
    /// Returns the sizes for a value of rank 3 or 4.
    pub(crate) fn of(shape: &[usize], halo: Halo, lanes: usize) -> Option<Image> {
        let (batch, channels, height, width) = match *shape {
            [batch, channels, width] => (batch, channels, 1, width),
            // A column is treated as a row.
            [batch, channels, height, 1] => (batch, channels, 1, height),
            [batch, channels, height, width] => (batch, channels, height, width),
            _ => return None,
        };
        Some(Image { batch, channels, height, width, halo, lanes })
    }

    pub(crate) fn blocks(&self) -> usize {
        self.channels.div_ceil(self.lanes)
    }

    /// Returns the elements of a row with its halo.
    pub(crate) fn row(&self) -> usize {
        (self.width + self.halo.left + self.halo.right) * self.lanes
    }

    /// Returns the elements of a block's plane with its halo.
    pub(crate) fn plane(&self) -> usize {
        (self.height + self.halo.top + self.halo.bottom) * self.row()
    }

    /// Returns the elements in all, or `None` where the number overflows.
    pub(crate) fn elements(&self) -> Option<usize> {
        let width = self.width.checked_add(self.halo.left)?.checked_add(self.halo.right)?;
        let height = self.height.checked_add(self.halo.top)?.checked_add(self.halo.bottom)?;
        let plane = width.checked_mul(height)?.checked_mul(self.lanes)?;
        plane.checked_mul(self.blocks())?.checked_mul(self.batch)
    }

    /// Returns where the first channel of a pixel lies in its block's plane.
    pub(crate) fn pixel(&self, y: usize, x: usize) -> usize {
        (y + self.halo.top) * self.row() + (x + self.halo.left) * self.lanes
    }

    /// Writes the zeros around row `y` of the plane that begins at `start`: beside the row, above
    /// the first row and below the last.
    ///
    /// # Safety
    /// The plane must lie in `memory`, and nobody else may access that row's halo.
    pub(crate) unsafe fn clear_around(&self, memory: Shared, start: usize, y: usize) {
        if self.halo == Halo::NONE {
            return;
        }
        let row = self.row();
        let (left, right) = (self.halo.left * self.lanes, self.halo.right * self.lanes);
        let own = start + (y + self.halo.top) * row;
        // SAFETY: the caller's promise; the ranges lie in the plane.
        unsafe {
            memory.slice(own, left).fill(0.0);
            memory.slice(own + row - right, right).fill(0.0);
            if y == 0 {
                memory.slice(start, self.halo.top * row).fill(0.0);
            }
            if y + 1 == self.height {
                memory.slice(start + (self.height + self.halo.top) * row, self.halo.bottom * row).fill(0.0);
            }
        }
    }

    /// Tells whether the layout has no halo and no unused lanes.
    pub(crate) fn is_dense(&self) -> bool {
        self.halo == Halo::NONE && self.channels.is_multiple_of(self.lanes)
    }
}
