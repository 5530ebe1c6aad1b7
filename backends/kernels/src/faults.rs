//! What kernels find wrong in a run, and the word by which they tell it.

use std::sync::{Mutex, PoisonError};

use hetero_hal::{Buffer, Error, ErrorKind, NodeId, Result};

/// What a kernel may find wrong in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFault {
    /// The node that cannot be computed.
    pub node: NodeId,
    /// The node's operator and name.
    pub name: String,
    /// What is wrong.
    pub what: String,
}

impl KernelFault {
    /// Returns the error of a run whose word of faults has this number; 0 is none.
    ///
    /// # Errors
    /// `Execution`, naming the node.
    pub fn check(faults: &[KernelFault], number: u32) -> Result<()> {
        let Some(at) = (number as usize).checked_sub(1) else { return Ok(()) };
        let fault = faults.get(at).ok_or_else(|| Error::internal(format!("a kernel found the fault {number}")))?;
        let error = Error::new(ErrorKind::Execution, fault.what.clone()).at_node(fault.node, fault.name.clone());
        Err(error.with_remedy("give it indices within the dimension"))
    }
}

/// The faults of an executable, with the words of memory in which its runs are told of them.
///
/// As many runs as go on at once have a word each.
#[derive(Debug, Default)]
pub struct FaultWords {
    faults: Vec<KernelFault>,
    /// Words of 0 for runs to come.
    words: Mutex<Vec<Buffer>>,
}

impl FaultWords {
    /// Makes the words for these faults; of no faults, there are none.
    #[must_use]
    pub fn new(faults: Vec<KernelFault>) -> FaultWords {
        FaultWords { faults, words: Mutex::default() }
    }

    /// Returns the word of one run, or `None` where kernels find nothing wrong.
    /// `allocate` makes four bytes of the device's memory.
    ///
    /// # Errors
    /// Those of the memory.
    pub fn take(&self, allocate: impl FnOnce() -> Result<Buffer>) -> Result<Option<Buffer>> {
        if self.faults.is_empty() {
            return Ok(None);
        }
        if let Some(word) = self.words.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(Some(word));
        }
        let word = allocate()?;
        word.write(0, &[0; 4])?;
        Ok(Some(word))
    }

    /// Takes back the word of a run that is over.
    ///
    /// # Errors
    /// The fault that the kernels have found, or the memory's error.
    pub fn examine(&self, word: Buffer) -> Result<()> {
        let mut found = [0; 4];
        word.read(0, &mut found)?;
        KernelFault::check(&self.faults, u32::from_le_bytes(found))?;
        self.words.lock().unwrap_or_else(PoisonError::into_inner).push(word);
        Ok(())
    }
}
