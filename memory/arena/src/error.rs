/// The reason why requests cannot be planned, or why a layout is not one of its requests.
/// Requests are named by their index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An alignment is not a power of two.
    #[error("request {request} asks for an alignment of {alignment}; ask for a power of two")]
    Alignment {
        /// The index of the request.
        request: usize,
        /// The alignment that it asks for.
        alignment: usize,
    },
    /// A lifetime ends before it starts.
    #[error("request {request} lives from step {first} to step {last}; a lifetime ends no earlier than it starts")]
    Lifetime {
        /// The index of the request.
        request: usize,
        /// The step that first writes it.
        first: usize,
        /// The step that last reads it.
        last: usize,
    },
    /// A request would take over the memory of a request that does not exist or comes no earlier in
    /// the list.
    #[error(
        "request {request} may take over the memory of request {candidate}, which is no earlier one; name earlier requests only"
    )]
    UnknownCandidate {
        /// The index of the request.
        request: usize,
        /// The index that it names.
        candidate: usize,
    },
    /// A request would take over memory that is still read later, or that was free before.
    #[error(
        "request {request} is first written in step {first} and may take over the memory of request {candidate}, last read in step {last}; \
         the two steps must be the same"
    )]
    CandidateStep {
        /// The index of the request.
        request: usize,
        /// The index of the earlier request that it names.
        candidate: usize,
        /// The step that last reads the earlier request.
        last: usize,
        /// The step that first writes this request.
        first: usize,
    },
    /// The sizes and the padding for alignment add up to more than a `usize` holds.
    #[error("the sizes up to request {request} add up to more than {max} bytes; ask for less", max = usize::MAX)]
    Overflow {
        /// The index of the request with which the sum overflows.
        request: usize,
    },
    /// A layout has more or fewer entries than there are requests.
    #[error("the layout is one of {found} requests, not of these {expected}; plan these requests")]
    Length {
        /// The number of requests.
        expected: usize,
        /// The number of requests that the layout has entries for.
        found: usize,
    },
    /// An offset is not a multiple of the alignment asked for.
    #[error("request {request} lies at offset {offset}, which is no multiple of its alignment {alignment}; plan again")]
    Misaligned {
        /// The index of the request.
        request: usize,
        /// Its offset in bytes.
        offset: usize,
        /// The alignment that it asks for.
        alignment: usize,
    },
    /// A request ends behind the end of the arena.
    #[error("request {request} of {bytes} bytes lies at offset {offset} of an arena of {arena} bytes; plan again")]
    Outside {
        /// The index of the request.
        request: usize,
        /// Its size in bytes.
        bytes: usize,
        /// Its offset in bytes.
        offset: usize,
        /// The size of the arena in bytes.
        arena: usize,
    },
    /// Two requests that are alive in one step lie on the same bytes, and neither takes the other's
    /// memory over.
    #[error("requests {first} and {second} are both alive in step {step} and lie on the same bytes; plan again")]
    Overlap {
        /// The index of the request that lives earlier.
        first: usize,
        /// The index of the request that lives later.
        second: usize,
        /// The step in which they meet.
        step: usize,
    },
    /// A layout shares memory in a way that the requests do not allow.
    #[error("request {request} takes over the memory of request {other}: {reason}; plan again")]
    Sharing {
        /// The index of the request.
        request: usize,
        /// The index of the request whose memory it takes over.
        other: usize,
        /// The reason why it may not take that memory over.
        reason: &'static str,
    },
    /// A layout states another alignment or peak than its requests have.
    #[error("the layout states {what} of {stated}, its requests have {actual}; plan again")]
    Summary {
        /// The name of the value that is stated.
        what: &'static str,
        /// The value that the layout states.
        stated: usize,
        /// The value that is computed from the requests.
        actual: usize,
    },
}
