//! Plans an arena: lifetimes and sizes in, offsets out.
//!
//! Tensors whose lifetimes do not meet may share bytes; a tensor may take over the bytes of one that ends where it begins, where its
//! operator works in place. The planner is pure: it knows steps and sizes, no tensor and no device. It is used inside backends, for
//! the values of a partition, and by the engine, for the values between partitions.
//!
//! ```
//! use hetero_arena::{Request, plan};
//!
//! // Three values in a chain: the third may lie where the first was.
//! let chain = [
//!     Request::new(1024, 0, 1),
//!     Request::new(2048, 1, 2),
//!     Request::new(512, 2, 3),
//! ];
//! let layout = plan(&chain)?;
//! assert_eq!(layout.bytes, 3072);
//! assert_eq!(layout.offsets[0], layout.offsets[2]);
//! # Ok::<(), hetero_arena::Error>(())
//! ```

#![forbid(unsafe_code)]

/// What an arena cannot be planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An alignment is not a power of two.
    #[error("request {0}: its alignment is not a power of two")]
    Alignment(usize),
    /// A lifetime ends before it begins.
    #[error("request {0}: its lifetime ends before it begins")]
    Lifetime(usize),
    /// A request names one to take over that is not before it in the list.
    #[error("request {0}: it may only take over an earlier request")]
    Takeover(usize),
    /// The sizes add up to more than the address space.
    #[error("the sizes of the requests overflow the address space")]
    Overflow,
}

/// Memory that is wanted over some steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes.
    pub bytes: usize,
    /// Alignment of the first byte, a power of two.
    pub alignment: usize,
    /// Step that first writes it.
    pub first: usize,
    /// Step that last reads it, at or after `first`.
    pub last: usize,
    /// Earlier requests whose bytes this one may take over in step `first`, best first: their last step must be this one's first, and
    /// they must be large enough.
    pub in_place_of: Vec<usize>,
}

impl Request {
    /// So many bytes from one step to another, aligned to 64 bytes, in place of nothing.
    #[must_use]
    pub fn new(bytes: usize, first: usize, last: usize) -> Self {
        Request { bytes, alignment: 64, first, last, in_place_of: Vec::new() }
    }
}

/// Where everything lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Offset of each request.
    pub offsets: Vec<usize>,
    /// For each request, the one whose bytes it takes over.
    pub shared: Vec<Option<usize>>,
    /// Size of the arena.
    pub bytes: usize,
    /// Most bytes that are alive in one step, what is taken over counting once: no plan with the same takeovers is smaller.
    pub peak_live: usize,
}

/// Requests that share bytes one after the other, laid out as one.
#[derive(Clone, Copy)]
struct Block {
    bytes: usize,
    alignment: usize,
    first: usize,
    last: usize,
}

/// Plans by greedy size order: the largest block first, each in the smallest gap that holds it between the blocks alive with it
/// (Pisarchyk and Lee, *Efficient Memory Management for Deep Neural Net Inference*, 2020). Blocks in order of their first step are tried too,
/// and the smaller arena counts.
///
/// # Errors
/// See [`Error`].
pub fn plan(requests: &[Request]) -> Result<Layout, Error> {
    check(requests)?;
    let shared = takeovers(requests);
    // Each request's block is that of the first of its chain.
    let mut blocks: Vec<Block> = Vec::with_capacity(requests.len());
    let mut block_of = vec![0; requests.len()];
    for (index, request) in requests.iter().enumerate() {
        match shared[index] {
            Some(previous) => {
                block_of[index] = block_of[previous];
                let block = &mut blocks[block_of[index]];
                block.last = block.last.max(request.last);
                block.alignment = block.alignment.max(request.alignment);
            }
            None => {
                block_of[index] = blocks.len();
                let Request { bytes, alignment, first, last, .. } = *request;
                blocks.push(Block { bytes, alignment, first, last });
            }
        }
    }
    let mut by_size: Vec<usize> = (0..blocks.len()).collect();
    by_size.sort_by_key(|&b| (std::cmp::Reverse(blocks[b].bytes), blocks[b].first, b));
    let mut by_start: Vec<usize> = (0..blocks.len()).collect();
    by_start.sort_by_key(|&b| (blocks[b].first, std::cmp::Reverse(blocks[b].bytes), b));
    let (mut offsets, mut bytes) = place(&blocks, &by_size)?;
    let peak_live = peak(&blocks);
    if bytes > peak_live {
        let (other, smaller) = place(&blocks, &by_start)?;
        if smaller < bytes {
            (offsets, bytes) = (other, smaller);
        }
    }
    let offsets = block_of.iter().map(|&block| offsets[block]).collect();
    Ok(Layout { offsets, shared, bytes, peak_live })
}

fn check(requests: &[Request]) -> Result<(), Error> {
    let mut total = 0usize;
    for (index, request) in requests.iter().enumerate() {
        if !request.alignment.is_power_of_two() {
            return Err(Error::Alignment(index));
        }
        if request.last < request.first {
            return Err(Error::Lifetime(index));
        }
        if request.in_place_of.iter().any(|&other| other >= index) {
            return Err(Error::Takeover(index));
        }
        let padded = request.bytes.checked_add(request.alignment).ok_or(Error::Overflow)?;
        total = total.checked_add(padded).ok_or(Error::Overflow)?;
    }
    Ok(())
}

/// For each request, the first of its candidates that ends in its first step, is large enough, and is not taken yet.
fn takeovers(requests: &[Request]) -> Vec<Option<usize>> {
    let mut taken = vec![false; requests.len()];
    requests
        .iter()
        .map(|request| {
            let fits = |&&other: &&usize| {
                let source = &requests[other];
                !taken[other]
                    && source.last == request.first
                    && source.first < request.first
                    && source.bytes >= request.bytes
            };
            let chosen = request.in_place_of.iter().find(fits).copied();
            if let Some(other) = chosen {
                taken[other] = true;
            }
            chosen
        })
        .collect()
}

fn align(offset: usize, alignment: usize) -> Option<usize> {
    offset.checked_add(alignment - 1).map(|sum| sum & !(alignment - 1))
}

/// Places blocks one by one in the smallest gap between those already placed that are alive with it, or behind them all.
fn place(blocks: &[Block], order: &[usize]) -> Result<(Vec<usize>, usize), Error> {
    let mut offsets = vec![0usize; blocks.len()];
    // Placed blocks by offset.
    let mut placed: Vec<usize> = Vec::with_capacity(blocks.len());
    let mut size = 0;
    for &index in order {
        let block = blocks[index];
        if block.bytes == 0 {
            continue;
        }
        let mut best: Option<(usize, usize)> = None;
        let mut free_from = 0;
        for &other in &placed {
            let neighbour = blocks[other];
            if neighbour.first > block.last || neighbour.last < block.first {
                continue;
            }
            let start = align(free_from, block.alignment).ok_or(Error::Overflow)?;
            let gap = offsets[other].saturating_sub(start);
            if gap >= block.bytes && best.is_none_or(|(smallest, _)| gap < smallest) {
                best = Some((gap, start));
            }
            free_from = free_from.max(offsets[other] + neighbour.bytes);
        }
        let start = match best {
            Some((_, start)) => start,
            None => align(free_from, block.alignment).ok_or(Error::Overflow)?,
        };
        offsets[index] = start;
        size = size.max(start.checked_add(block.bytes).ok_or(Error::Overflow)?);
        let position = placed.partition_point(|&other| offsets[other] <= start);
        placed.insert(position, index);
    }
    Ok((offsets, size))
}

/// Most bytes alive in one step.
fn peak(blocks: &[Block]) -> usize {
    let mut events: Vec<(usize, bool, usize)> = Vec::with_capacity(blocks.len() * 2);
    for block in blocks {
        events.push((block.first, true, block.bytes));
        events.push((block.last.saturating_add(1), false, block.bytes));
    }
    // What ends before a step goes before what begins in it.
    events.sort_unstable();
    let (mut live, mut most) = (0usize, 0);
    for (_, begins, bytes) in events {
        live = if begins { live + bytes } else { live - bytes };
        most = most.max(live);
    }
    most
}

/// Checks a layout: no two requests that are alive in one step overlap unless one takes over the other's bytes, alignments hold, and
/// everything is inside. Says what is wrong first.
///
/// # Errors
/// A sentence that names the requests.
pub fn validate(requests: &[Request], layout: &Layout) -> Result<(), String> {
    if layout.offsets.len() != requests.len() || layout.shared.len() != requests.len() {
        return Err("the layout is for another number of requests".into());
    }
    for (a, request) in requests.iter().enumerate() {
        let start = layout.offsets[a];
        if !start.is_multiple_of(request.alignment) {
            return Err(format!("request {a} at {start} is not aligned to {}", request.alignment));
        }
        if start + request.bytes > layout.bytes {
            return Err(format!("request {a} reaches outside the arena"));
        }
        for (b, other) in requests.iter().enumerate().skip(a + 1) {
            let meet = request.first <= other.last && other.first <= request.last;
            let overlap = start < layout.offsets[b] + other.bytes && layout.offsets[b] < start + request.bytes;
            let handed_over = layout.shared[b] == Some(a) && request.last == other.first;
            if meet && overlap && !handed_over {
                return Err(format!("requests {a} and {b} overlap"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takeovers_chain_through_elementwise_operators() {
        let mut requests = vec![Request::new(100, 0, 1), Request::new(100, 1, 2), Request::new(60, 2, 3)];
        requests[1].in_place_of = vec![0];
        requests[2].in_place_of = vec![1];
        let layout = plan(&requests).unwrap();
        assert_eq!((layout.bytes, layout.peak_live), (100, 100));
        assert_eq!(layout.shared, [None, Some(0), Some(1)]);
        validate(&requests, &layout).unwrap();
    }

    #[test]
    fn what_is_read_later_is_not_taken_over() {
        let mut requests = vec![Request::new(100, 0, 5), Request::new(100, 1, 2)];
        requests[1].in_place_of = vec![0];
        assert_eq!(plan(&requests).unwrap().shared, [None, None]);
    }

    #[test]
    fn bad_requests_are_named() {
        let with = |change: fn(&mut Request)| {
            let mut request = Request::new(8, 0, 1);
            change(&mut request);
            plan(&[Request::new(8, 0, 1), request]).unwrap_err()
        };
        assert_eq!(with(|r| r.alignment = 3), Error::Alignment(1));
        assert_eq!(with(|r| r.first = 2), Error::Lifetime(1));
        assert_eq!(with(|r| r.in_place_of = vec![1]), Error::Takeover(1));
        assert_eq!(with(|r| r.bytes = usize::MAX - 70), Error::Overflow);
    }

    prop_compose! {
        fn some_requests()(raw in prop::collection::vec((0usize..5000, 0u32..9, 0usize..40, 0usize..12, any::<u64>()), 0..60))
            -> Vec<Request> {
            let mut requests: Vec<Request> = Vec::new();
            for (index, (bytes, shift, first, length, pick)) in raw.into_iter().enumerate() {
                let in_place_of = if index > 0 { vec![pick as usize % index, (pick >> 32) as usize % index] } else { vec![] };
                requests.push(Request { bytes, alignment: 1 << shift, first, last: first + length, in_place_of });
            }
            requests
        }
    }

    proptest! {
        #[test]
        fn every_layout_is_valid_and_bounded(requests in some_requests()) {
            let layout = plan(&requests).unwrap();
            prop_assert_eq!(validate(&requests, &layout), Ok(()));
            prop_assert!(layout.bytes >= layout.peak_live);
            prop_assert!(layout.bytes <= requests.iter().map(|r| r.bytes + r.alignment).sum::<usize>());
            prop_assert_eq!(plan(&requests).unwrap(), layout);
        }
    }
}
