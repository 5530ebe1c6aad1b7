//! The planner of arenas: it lays tensors out in one arena, with lifetimes and sizes in and offsets
//! out.
//!
//! Backends use it for the inside of a partition, the engine for the tensors between partitions.
//! It is a pure function of its input: it allocates none of the memory that it plans, and equal
//! requests give equal layouts.
//!
//! ```
//! use hetero_arena::{Request, plan, validate};
//!
//! // x -> Conv -> a -> Relu -> b -> Conv -> c, a step for each operator. Relu may write over its input.
//! let requests = [
//!     Request::new(4096, 0, 1),                      // a: written in step 0, last read in step 1
//!     Request::new(4096, 1, 2).may_take_over([0]),   // b: written in step 1, last read in step 2
//!     Request::new(1024, 2, 3),                      // c: written in step 2, read until the end
//! ];
//! let layout = plan(&requests)?;
//! validate(&requests, &layout)?;
//! assert_eq!(layout.shared, [None, Some(0), None]);
//! assert_eq!(layout.offsets, [0, 0, 4096]);
//! assert_eq!(layout.bytes, 5120);
//! assert_eq!(layout.peak_live, layout.bytes, "no layout is smaller");
//! # Ok::<(), hetero_arena::Error>(())
//! ```
//!
//! # How it plans
//! 1. **Coalesce.**
//!    Requests that may work in place are joined into *blocks*: chains of requests at one offset,
//!    each of which takes over the memory of the one before it.
//!    A block is as large in each step as the requests alive in it, so a small tensor at the end of
//!    a chain does not keep the memory that the large one at its start needed.
//! 2. **Place.**
//!    Blocks are placed one by one, in the tightest gap among the blocks placed before that live at
//!    the same time, and behind them all where no gap fits.
//!    The order is by size or by breadth: *greedy by size* and *greedy by breadth* for the offset
//!    calculation problem of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
//!    Inference", 2020.
//!    The tightest and the lowest gap are both tried, and the smallest arena is kept; the search
//!    ends early where one is as small as the lower bound, to a thousandth.
//!
//!    More than 512 blocks are first placed in one sweep over the steps, each in the smallest free
//!    piece that holds it.
//!    The search follows only where the sweep's arena is larger than the lower bound by more than a
//!    sixty-fourth, and there are at most 2 048 blocks.
//!
//! The problem is NP-hard; [`Layout::peak_live`] says how far from the optimum a layout can be at
//! most.

#![forbid(unsafe_code)]

mod block;
mod error;
mod place;
mod sweep;
mod validate;

pub use error::Error;
pub use validate::validate;

/// A piece of memory that is needed for some steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The size in bytes.
    /// Zero is allowed: such a request takes no room, and its offset is 0.
    pub bytes: usize,
    /// The alignment in bytes, a power of two: the offset is a multiple of it.
    pub alignment: usize,
    /// The step that first writes it.
    pub first: usize,
    /// The step that last reads it, at or after `first`.
    /// The request is alive in both steps and in all steps between.
    pub last: usize,
    /// Earlier requests, as indices into the list, whose memory this one may take over.
    /// Each must be read for the last time in the step in which this one is first written.
    /// At most one of them is taken, and each is taken at most once.
    pub in_place_of: Vec<usize>,
}

impl Request {
    /// Makes a request for the given number of bytes from one step to another, aligned to 64 bytes,
    /// in place of nothing.
    #[must_use]
    pub fn new(bytes: usize, first: usize, last: usize) -> Self {
        Self { bytes, alignment: 64, first, last, in_place_of: Vec::new() }
    }

    /// Asks for another alignment; see [`Request::alignment`].
    #[must_use]
    pub fn aligned_to(mut self, alignment: usize) -> Self {
        self.alignment = alignment;
        self
    }

    /// Names the earlier requests whose memory this one may take over; see
    /// [`Request::in_place_of`].
    #[must_use]
    pub fn may_take_over(mut self, candidates: impl Into<Vec<usize>>) -> Self {
        self.in_place_of = candidates.into();
        self
    }
}

/// A layout: it says where each request lies in the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The distance in bytes of each request from the start of the arena.
    pub offsets: Vec<usize>,
    /// The size of the arena in bytes.
    pub bytes: usize,
    /// The alignment that the start of the arena needs for each request to be aligned: the
    /// strictest alignment asked for, at least 1.
    /// the strictest alignment asked for, at least 1.
    pub alignment: usize,
    /// The bytes alive at once in the busiest step, where a request and the one that takes its
    /// memory over count once.
    /// No layout with the same sharing is smaller.
    pub peak_live: usize,
    /// For each request, the earlier request whose memory it takes over.
    /// Both have the same offset.
    pub shared: Vec<Option<usize>>,
}

/// Lays requests out in as small an arena as the heuristics find.
///
/// # Errors
/// [`Error`] names the request whose alignment, lifetime or candidate is wrong, or says that the
/// sizes together do not fit in a `usize`.
pub fn plan(requests: &[Request]) -> Result<Layout, Error> {
    check(requests)?;
    let shared = block::choose_sharing(requests);
    let (blocks, block_of) = block::coalesce(requests, &shared);
    let breadth = block::Breadth::of(&blocks);
    let peak_live = breadth.peak();
    let (starts, bytes) = place::smallest(&blocks, &breadth);
    let offsets = block_of.iter().map(|&block| starts[block]).collect();
    Ok(Layout { offsets, bytes, alignment: strictest_alignment(requests), peak_live, shared })
}

fn strictest_alignment(requests: &[Request]) -> usize {
    requests.iter().map(|request| request.alignment).max().unwrap_or(1)
}

/// Checks the promises of requests.
/// Once the check has passed, no sum of sizes and paddings overflows, and the other modules add
/// freely.
fn check(requests: &[Request]) -> Result<(), Error> {
    let mut total = 0_usize;
    for (index, request) in requests.iter().enumerate() {
        if !request.alignment.is_power_of_two() {
            return Err(Error::Alignment { request: index, alignment: request.alignment });
        }
        if request.last < request.first {
            return Err(Error::Lifetime { request: index, first: request.first, last: request.last });
        }
        for &candidate in &request.in_place_of {
            if candidate >= index {
                return Err(Error::UnknownCandidate { request: index, candidate });
            }
            if requests[candidate].last != request.first {
                return Err(Error::CandidateStep {
                    request: index,
                    candidate,
                    last: requests[candidate].last,
                    first: request.first,
                });
            }
        }
        total = total
            .checked_add(request.bytes)
            .and_then(|total| total.checked_add(request.alignment - 1))
            .ok_or(Error::Overflow { request: index })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(requests: &[Request]) -> Layout {
        let layout = plan(requests).unwrap();
        validate(requests, &layout).unwrap();
        layout
    }

    #[test]
    fn nothing_needs_nothing() {
        let layout = layout(&[]);
        assert_eq!((layout.bytes, layout.peak_live, layout.alignment), (0, 0, 1));
    }

    #[test]
    fn a_chain_of_equal_tensors_needs_two() {
        let requests: Vec<_> = (0..10).map(|step| Request::new(100, step, step + 1).aligned_to(4)).collect();
        assert_eq!(layout(&requests).bytes, 200);
    }

    #[test]
    fn a_chain_in_place_needs_one() {
        let requests: Vec<_> = (0..10_usize)
            .map(|step| {
                Request::new(100, step, step + 1)
                    .aligned_to(4)
                    .may_take_over(step.checked_sub(1).into_iter().collect::<Vec<_>>())
            })
            .collect();
        let layout = layout(&requests);
        assert_eq!((layout.bytes, layout.peak_live), (100, 100));
        assert_eq!(layout.shared[9], Some(8));
    }

    /// Placing the requests in their order leaves a hole of 32 at the bottom that the 64 cannot
    /// use, and ends at 160.
    #[test]
    fn large_tensors_go_first() {
        let requests = [
            Request::new(32, 0, 1).aligned_to(1),
            Request::new(64, 1, 3).aligned_to(1),
            Request::new(64, 3, 5).aligned_to(1),
            Request::new(32, 5, 6).aligned_to(1),
        ];
        let layout = layout(&requests);
        assert_eq!((layout.bytes, layout.peak_live), (128, 128));
    }

    /// The residual connection keeps `x` alive across both convolutions; the sum may be written
    /// over either operand.
    #[test]
    fn a_residual_block_reaches_its_lower_bound() {
        let requests = [
            Request::new(1000, 0, 3),                       // x
            Request::new(4000, 1, 2),                       // wide
            Request::new(1000, 2, 3),                       // narrow
            Request::new(1000, 3, 4).may_take_over([0, 2]), // x + narrow
        ];
        let layout = layout(&requests);
        assert_eq!(layout.peak_live, 6000);
        assert!(layout.bytes <= 6000 + 2 * 64, "{}", layout.bytes);
        assert_eq!(layout.shared[3], Some(0));
    }

    #[test]
    fn the_tail_of_a_chain_frees_what_its_head_held() {
        let requests = [
            Request::new(100, 0, 1).aligned_to(1),
            Request::new(10, 1, 9).aligned_to(1).may_take_over([0]),
            Request::new(90, 2, 9).aligned_to(1),
        ];
        let layout = layout(&requests);
        assert_eq!(layout.shared[1], Some(0));
        assert_eq!((layout.bytes, layout.peak_live), (100, 100));
    }

    #[test]
    fn the_candidate_of_the_nearest_size_is_taken_once() {
        let requests = [
            Request::new(8, 0, 2).aligned_to(1),
            Request::new(96, 0, 2).aligned_to(1),
            Request::new(64, 0, 2).aligned_to(1),
            Request::new(64, 2, 3).aligned_to(1).may_take_over([0, 1, 2]),
            Request::new(64, 2, 3).aligned_to(1).may_take_over([0, 1, 2]),
        ];
        assert_eq!(layout(&requests).shared, [None, None, None, Some(2), Some(1)]);
    }

    #[test]
    fn a_block_is_as_aligned_as_its_strictest_request() {
        let requests = [
            Request::new(1, 0, 9).aligned_to(1),
            Request::new(64, 0, 1).aligned_to(4),
            Request::new(64, 1, 2).aligned_to(256).may_take_over([1]),
        ];
        let layout = layout(&requests);
        assert_eq!(layout.offsets[1], layout.offsets[2]);
        assert_eq!((layout.alignment, layout.bytes), (256, 65));
    }

    #[test]
    fn empty_requests_take_no_room() {
        let requests = [
            Request::new(0, 0, 9).aligned_to(4096),
            Request::new(16, 0, 9).aligned_to(16),
            Request::new(0, 9, 9).aligned_to(1).may_take_over([1]),
            Request::new(16, 9, 9).aligned_to(16).may_take_over([0]),
        ];
        let layout = layout(&requests);
        assert_eq!((layout.bytes, layout.peak_live), (32, 32));
        assert_eq!(layout.shared, [None; 4]);
    }

    /// A model with very many nodes must not take seconds for its memory alone.
    #[test]
    fn very_many_tensors_are_placed_in_a_sweep() {
        let chain: Vec<_> = (0..200_000).map(|step| Request::new(100, step, step + 1)).collect();
        assert!(layout(&chain).bytes <= 3 * 128);
        let together: Vec<_> = (0..100_000).map(|index| Request::new(1 + index % 64, 0, 1).aligned_to(4)).collect();
        let found = layout(&together);
        assert!(found.bytes <= found.peak_live + 3 * together.len());
        // Sizes and lifetimes of all kinds, some of them in place.
        let mixed: Vec<_> = (0..20_000_usize)
            .map(|index| {
                let request = Request::new(index * 7919 % 5000, index, index + index * 31 % 40 + 1);
                let before = index.checked_sub(1).filter(|&before| (before * 31 % 40) == 0);
                request.aligned_to(1 << (index % 9)).may_take_over(before.into_iter().collect::<Vec<_>>())
            })
            .collect();
        let found = layout(&mixed);
        assert!(found.bytes <= 2 * found.peak_live, "{} and {}", found.bytes, found.peak_live);
    }

    #[test]
    fn steps_and_sizes_may_be_as_large_as_they_go() {
        let requests = [
            Request::new(usize::MAX - 1, 0, usize::MAX).aligned_to(1),
            Request::new(1, usize::MAX, usize::MAX).aligned_to(1),
        ];
        assert_eq!(layout(&requests).bytes, usize::MAX);
        let requests = [Request::new(usize::MAX, 0, 0).aligned_to(1), Request::new(1, 1, 1).aligned_to(1)];
        assert_eq!(plan(&requests), Err(Error::Overflow { request: 1 }));
        assert_eq!(plan(&[Request::new(usize::MAX, 0, 0).aligned_to(2)]), Err(Error::Overflow { request: 0 }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(plan(&[Request::new(1, 0, 0).aligned_to(0)]), Err(Error::Alignment { request: 0, alignment: 0 }));
        assert_eq!(plan(&[Request::new(1, 0, 0).aligned_to(24)]), Err(Error::Alignment { request: 0, alignment: 24 }));
        assert_eq!(
            plan(&[Request::new(1, 3, 2).aligned_to(1)]),
            Err(Error::Lifetime { request: 0, first: 3, last: 2 })
        );
        let with = |candidate| {
            [Request::new(1, 0, 2).aligned_to(1), Request::new(1, 1, 3).aligned_to(1).may_take_over([candidate])]
        };
        assert_eq!(plan(&with(1)), Err(Error::UnknownCandidate { request: 1, candidate: 1 }));
        assert_eq!(plan(&with(7)), Err(Error::UnknownCandidate { request: 1, candidate: 7 }));
        assert_eq!(plan(&with(0)), Err(Error::CandidateStep { request: 1, candidate: 0, last: 2, first: 1 }));
    }
}
