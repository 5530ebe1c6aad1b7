//! The check that a layout is one of its requests.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::block::{self, Breadth};
use crate::{Error, Layout, Request, check, strictest_alignment};

/// Checks a layout against its requests, in O(n log n) for n requests.
/// Each request has to lie aligned and inside the arena.
/// No two requests that are alive in one step may lie on the same bytes unless one takes the
/// other's memory over.
/// Memory may be shared only where the requests allow it.
/// `alignment` and `peak_live` have to be right.
///
/// # Errors
/// The [`Error`] names the first request found wrong, in `requests` itself or in `layout`.
pub fn validate(requests: &[Request], layout: &Layout) -> Result<(), Error> {
    check(requests)?;
    for found in [layout.offsets.len(), layout.shared.len()] {
        if found != requests.len() {
            return Err(Error::Length { expected: requests.len(), found });
        }
    }
    check_sharing(requests, layout)?;
    for (index, (request, &offset)) in requests.iter().zip(&layout.offsets).enumerate() {
        if !offset.is_multiple_of(request.alignment) {
            return Err(Error::Misaligned { request: index, offset, alignment: request.alignment });
        }
        if offset.checked_add(request.bytes).is_none_or(|end| end > layout.bytes) {
            return Err(Error::Outside { request: index, bytes: request.bytes, offset, arena: layout.bytes });
        }
    }
    let (blocks, block_of) = block::coalesce(requests, &layout.shared);
    check_overlap(requests, layout, &block_of)?;
    for (what, stated, actual) in [
        ("an alignment", layout.alignment, strictest_alignment(requests)),
        ("a peak", layout.peak_live, Breadth::of(&blocks).peak()),
    ] {
        if stated != actual {
            return Err(Error::Summary { what, stated, actual });
        }
    }
    Ok(())
}

fn check_sharing(requests: &[Request], layout: &Layout) -> Result<(), Error> {
    let mut taken = vec![false; requests.len()];
    for (index, (request, shared)) in requests.iter().zip(&layout.shared).enumerate() {
        let Some(other) = *shared else { continue };
        let wrong = |reason| Err(Error::Sharing { request: index, other, reason });
        if !request.in_place_of.contains(&other) {
            return wrong("it does not name that one as a candidate");
        }
        if std::mem::replace(&mut taken[other], true) {
            return wrong("another request takes the same memory over");
        }
        if layout.offsets[other] != layout.offsets[index] {
            return wrong("the two have different offsets");
        }
    }
    Ok(())
}

/// Sweeps over the steps, with the requests alive in them ordered by offset.
/// Among those, requests of different blocks never overlap, so a new request can only run into its
/// neighbours.
fn check_overlap(requests: &[Request], layout: &Layout, block_of: &[usize]) -> Result<(), Error> {
    let mut arriving: Vec<usize> = (0..requests.len()).filter(|&index| requests[index].bytes > 0).collect();
    arriving.sort_by_key(|&index| requests[index].first);
    // The offset and index of each request that is alive, with the end of its bytes.
    let mut alive: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut leaving = BinaryHeap::new();
    for index in arriving {
        let step = requests[index].first;
        while let Some(&Reverse((last, gone))) = leaving.peek()
            && last < step
        {
            leaving.pop();
            alive.remove(&(layout.offsets[gone], gone));
        }
        let start = layout.offsets[index];
        let end = start + requests[index].bytes;
        let foreign = |entry: &(&(usize, usize), &usize)| block_of[entry.0.1] != block_of[index];
        let below = alive.range(..(start, 0)).rfind(foreign).filter(|&(_, &end)| end > start);
        let above = alive.range((start, 0)..(end, 0)).find(foreign);
        if let Some((&(_, other), _)) = below.or(above) {
            return Err(Error::Overlap { first: other, second: index, step });
        }
        alive.insert((start, index), end);
        leaving.push(Reverse((requests[index].last, index)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    fn example() -> (Vec<Request>, Layout) {
        let requests = vec![
            Request::new(100, 0, 1).aligned_to(4),
            Request::new(100, 1, 2).aligned_to(4).may_take_over([0]),
            Request::new(60, 2, 3).aligned_to(4),
            Request::new(0, 0, 9).aligned_to(4),
        ];
        let layout = plan(&requests).unwrap();
        assert_eq!(layout.offsets, [0, 0, 100, 0]);
        (requests, layout)
    }

    fn after(change: impl FnOnce(&mut Layout)) -> Result<(), Error> {
        let (requests, mut layout) = example();
        change(&mut layout);
        validate(&requests, &layout)
    }

    #[test]
    fn a_plan_passes() {
        assert_eq!(after(|_| ()), Ok(()));
    }

    #[test]
    fn each_fault_is_found() {
        assert_eq!(
            after(|layout| layout.bytes -= 1),
            Err(Error::Outside { request: 2, bytes: 60, offset: 100, arena: 159 })
        );
        assert_eq!(after(|layout| layout.offsets[2] = 96), Err(Error::Overlap { first: 1, second: 2, step: 2 }));
        assert_eq!(
            after(|layout| layout.offsets[2] = 98),
            Err(Error::Misaligned { request: 2, offset: 98, alignment: 4 })
        );
        assert!(matches!(after(|layout| layout.offsets[2] = usize::MAX - 3), Err(Error::Outside { request: 2, .. })));
        assert_eq!(after(|layout| layout.shared[1] = None), Err(Error::Overlap { first: 0, second: 1, step: 1 }));
        assert!(matches!(after(|layout| layout.shared[2] = Some(0)), Err(Error::Sharing { request: 2, other: 0, .. })));
        assert!(matches!(after(|layout| layout.offsets[1] = 4), Err(Error::Sharing { request: 1, other: 0, .. })));
        assert_eq!(
            after(|layout| layout.peak_live = 1),
            Err(Error::Summary { what: "a peak", stated: 1, actual: 160 })
        );
        assert!(matches!(after(|layout| layout.alignment = 1), Err(Error::Summary { what: "an alignment", .. })));
        assert_eq!(after(|layout| layout.shared.truncate(2)), Err(Error::Length { expected: 4, found: 2 }));
        assert_eq!(after(|layout| layout.offsets.push(0)), Err(Error::Length { expected: 4, found: 5 }));
    }

    #[test]
    fn memory_is_taken_over_once() {
        let requests = vec![
            Request::new(8, 0, 1).aligned_to(1),
            Request::new(8, 1, 1).aligned_to(1).may_take_over([0]),
            Request::new(8, 1, 1).aligned_to(1).may_take_over([0]),
        ];
        let mut layout = plan(&requests).unwrap();
        layout.shared[2] = Some(0);
        layout.offsets[2] = layout.offsets[0];
        let reason = "another request takes the same memory over";
        assert_eq!(validate(&requests, &layout), Err(Error::Sharing { request: 2, other: 0, reason }));
    }
}
