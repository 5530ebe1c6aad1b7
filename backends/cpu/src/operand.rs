//! The memory that kernels read and write: typed views of raw memory, in one place.

use hetero_hal::{Element, Error, Result, Tensor};

/// A value's bytes while a program runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub(crate) address: *mut u8,
    pub(crate) bytes: usize,
}

impl Operand {
    /// Returns a tensor's bytes as an operand that is only read.
    pub(crate) fn constant(tensor: &Tensor) -> Operand {
        let bytes = tensor.bytes();
        Operand { address: bytes.as_ptr().cast_mut(), bytes: bytes.len() }
    }

    /// Returns a part of the operand; what lies outside is left out.
    pub(crate) fn part(self, offset: usize, bytes: usize) -> Operand {
        let offset = offset.min(self.bytes);
        Operand { address: self.address.wrapping_add(offset), bytes: bytes.min(self.bytes - offset) }
    }

    /// Returns the bytes.
    ///
    /// # Safety
    /// The operand is alive, and nobody writes it for the time of the result.
    pub(crate) unsafe fn read<'a>(self) -> &'a [u8] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }

    /// Copies the bytes of another operand to the front of this one, unless they are there already.
    ///
    /// # Safety
    /// Both operands are alive, nobody writes the source, and nobody else accesses this one.
    pub(crate) unsafe fn copy_from(self, source: Operand) {
        if source.address != self.address {
            // SAFETY: the caller's promise; the length is that of the shorter one.
            unsafe { std::ptr::copy(source.address, self.address, source.bytes.min(self.bytes)) };
        }
    }
}

// SAFETY: an operand is an address.
// Who reads and writes behind it is settled by the order of a program's steps and, between
// submissions, by points; see `Arguments`.
unsafe impl Send for Operand {}
// SAFETY: as above.
unsafe impl Sync for Operand {}

/// Memory that the tasks of a parallel region divide among themselves.
#[derive(Debug)]
pub(crate) struct Shared<T = f32>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: it is an address; who accesses the memory behind it is settled where `at` and `slice` are
// called.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(memory: &mut [T]) -> Self {
        Shared(memory.as_mut_ptr())
    }

    /// Returns memory that is only read.
    pub(crate) fn constant(memory: *const T) -> Self {
        Shared(memory.cast_mut())
    }

    /// Returns the same memory as elements of another type, which must be aligned no more strictly.
    pub(crate) fn cast<U>(self) -> Shared<U> {
        const { assert!(align_of::<U>() <= align_of::<T>()) };
        Shared(self.0.cast())
    }

    /// Returns the address of an element.
    ///
    /// # Safety
    /// The memory must have that many elements, and whoever reads or writes there must make sure
    /// that nobody else writes.
    #[inline]
    pub(crate) unsafe fn at(self, index: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }

    /// Returns a part of the memory.
    ///
    /// # Safety
    /// The part must lie inside, and nobody else may access it meanwhile.
    #[inline]
    pub(crate) unsafe fn slice<'a>(self, start: usize, count: usize) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), count) }
    }
}

/// The operands of one step.
///
/// While a step runs, nobody else writes its outputs and workspace, and nobody writes its inputs.
/// The one exception is that the first output may be the same memory as an input whose kernel works
/// in place.
/// Inside a program the arena's plan ensures this, and outside it the caller's points.
/// Kernels that work in place reach such an input only through [`Arguments::start_from`].
pub(crate) struct Arguments<'a> {
    pub(crate) inputs: &'a [Option<Operand>],
    pub(crate) outputs: &'a [Option<Operand>],
    pub(crate) workspace: Operand,
}

impl<'a> Arguments<'a> {
    fn typed<T: Element>(operand: Operand) -> Result<(*mut T, usize)> {
        let count = operand.bytes / size_of::<T>();
        let address = operand.address.cast::<T>();
        if count > 0 && !address.is_aligned() {
            return Err(Error::invalid_argument(format!("memory at {address:p} is not aligned for {}", T::DTYPE)));
        }
        Ok((if count == 0 { std::ptr::dangling_mut() } else { address }, count))
    }

    fn find(list: &[Option<Operand>], index: usize, what: &str) -> Result<Operand> {
        list.get(index).copied().flatten().ok_or_else(|| Error::internal(format!("a kernel lacks its {what} {index}")))
    }

    /// Returns the elements of a required input.
    pub(crate) fn input<T: Element>(&self, index: usize) -> Result<&'a [T]> {
        let (address, count) = Self::typed::<T>(Self::find(self.inputs, index, "input")?)?;
        // SAFETY: the operand is alive and holds `count` elements for the step's time; by the
        // type's rule nothing writes them.
        Ok(unsafe { std::slice::from_raw_parts(address, count) })
    }

    /// Returns the elements of an optional input.
    pub(crate) fn optional<T: Element>(&self, index: usize) -> Result<Option<&'a [T]>> {
        match self.inputs.get(index).copied().flatten() {
            None => Ok(None),
            Some(_) => self.input(index).map(Some),
        }
    }

    /// Returns an input that may share its memory with the output.
    pub(crate) fn shared_input<T: Element>(&self, index: usize) -> Result<Shared<T>> {
        let (address, _) = Self::typed::<T>(Self::find(self.inputs, index, "input")?)?;
        Ok(Shared::constant(address))
    }

    /// Tells whether an output is wanted.
    pub(crate) fn wants(&self, index: usize) -> bool {
        self.outputs.get(index).copied().flatten().is_some()
    }

    /// Returns the elements of an output.
    /// It is called once for each output of a step.
    pub(crate) fn output<T: Element>(&mut self, index: usize) -> Result<&'a mut [T]> {
        let (address, count) = Self::typed::<T>(Self::find(self.outputs, index, "output")?)?;
        // SAFETY: the operand is alive and holds `count` elements for the step's time; by the
        // type's rule nobody else accesses them, and the caller takes each output once.
        Ok(unsafe { std::slice::from_raw_parts_mut(address, count) })
    }

    /// Returns the first output, filled with the content of input `index`: in the same memory where
    /// the plan shares it, and else by a copy.
    pub(crate) fn start_from<T: Element>(&mut self, index: usize) -> Result<&'a mut [T]> {
        let source = Self::find(self.inputs, index, "input")?;
        let target = Self::find(self.outputs, 0, "output")?;
        if source.address != target.address {
            let bytes = source.bytes.min(target.bytes);
            // SAFETY: both are alive for `bytes`; they do not overlap, because memory is shared at
            // the same address or not at all.
            unsafe { std::ptr::copy_nonoverlapping(source.address, target.address, bytes) };
        }
        self.output(0)
    }

    /// Returns the elements of the step's workspace.
    pub(crate) fn workspace<T: Element>(&mut self) -> Result<&'a mut [T]> {
        let (address, count) = Self::typed::<T>(self.workspace)?;
        // SAFETY: as for an output.
        Ok(unsafe { std::slice::from_raw_parts_mut(address, count) })
    }
}
