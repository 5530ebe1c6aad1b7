//! What the system allows this process.

/// The descriptors with which any driver gets along.
#[cfg(unix)]
const DESCRIPTORS: u64 = 256;

/// Tells whether the system gives this process and its children so little that a driver may fail
/// for it: few descriptors, or bounded memory.
#[cfg(unix)]
pub(crate) fn are_narrow() -> bool {
    use rustix::process::{Resource, getrlimit};

    let limit = |of| getrlimit(of).current;
    limit(Resource::Nofile).is_some_and(|most| most < DESCRIPTORS)
        || [Resource::As, Resource::Data].into_iter().any(|of| limit(of).is_some())
}

/// Tells whether the system gives this process little, which it does not say.
#[cfg(not(unix))]
pub(crate) fn are_narrow() -> bool {
    false
}
