//! Work that the host can do for any device.

use hetero_hal::{Buffer, Error, ErrorKind, HostTask, Result};

/// Copies between any two buffers through a bounded piece of host memory, which is slow but always
/// possible.
///
/// # Errors
/// `InvalidArgument` where the lengths differ, and any error that either buffer's device reports.
pub fn copy_through_host(source: &Buffer, target: &Buffer) -> Result<()> {
    const PIECE: usize = 1 << 20;
    if source.len() != target.len() {
        return Err(Error::invalid_argument(format!(
            "cannot copy {} bytes into a buffer of {}",
            source.len(),
            target.len()
        )));
    }
    let mut piece = vec![0; source.len().min(PIECE)];
    let mut offset = 0;
    while offset < source.len() {
        let bytes = PIECE.min(source.len() - offset);
        source.read(offset, &mut piece[..bytes])?;
        target.write(offset, &piece[..bytes])?;
        offset += bytes;
    }
    Ok(())
}

/// Repeats a pattern over a buffer through a bounded piece of host memory.
///
/// # Errors
/// Any error that the buffer's device reports.
/// Whether the pattern fits is checked by [`Work::check`](hetero_hal::Work::check), not here.
pub fn fill_through_host(target: &Buffer, pattern: &[u8]) -> Result<()> {
    const REPEATS: usize = 4096;
    let bytes = target.len().min(pattern.len() * REPEATS);
    let piece: Vec<u8> = pattern.iter().copied().cycle().take(bytes).collect();
    let mut offset = 0;
    while offset < target.len() && !piece.is_empty() {
        let bytes = piece.len().min(target.len() - offset);
        target.write(offset, &piece[..bytes])?;
        offset += bytes;
    }
    Ok(())
}

/// Runs a host function for a queue.
/// A function that panics fails its own submission, and neither ends the queue's thread nor leaves
/// waiters behind.
///
/// # Errors
/// The task's error, or `Execution` where the task panicked.
pub fn run_on_host(task: &dyn HostTask) -> Result<()> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task.run()));
    outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Execution, "a host task panicked")))
}
