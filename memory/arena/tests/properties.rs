//! Properties that hold for any requests, checked against plain quadratic versions of the rules.

use hetero_arena::{Error, Layout, Request, plan, validate};
use proptest::collection::vec;
use proptest::prelude::*;

/// Makes requests in the order of their first steps, as operators of a program make them.
/// Candidates are some of the requests that end in the step.
fn requests(most: usize, sizes: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Request>> {
    let request = (0..3_usize, 0..12_usize, sizes, 0..8_u32, any::<u64>());
    vec(request, 0..most).prop_map(|drawn| {
        let mut requests: Vec<Request> = Vec::new();
        let mut step = 0;
        for (after, length, bytes, shift, pick) in drawn {
            step += after;
            let candidates: Vec<usize> = (0..requests.len())
                .filter(|&index| requests[index].last == step && (pick >> (index % 64)) & 1 == 1)
                .collect();
            requests.push(Request::new(bytes, step, step + length).aligned_to(1 << shift).may_take_over(candidates));
        }
        requests
    })
}

fn meet(a: &Request, b: &Request) -> bool {
    a.first <= b.last && b.first <= a.last
}

/// Returns the first request of the chain that a request belongs to.
fn root(layout: &Layout, mut index: usize) -> usize {
    while let Some(earlier) = layout.shared[index] {
        index = earlier;
    }
    index
}

/// Returns the pairs that are alive together and lie on the same bytes though they are of different
/// chains.
fn collisions(requests: &[Request], layout: &Layout) -> Vec<(usize, usize)> {
    let range = |index: usize| layout.offsets[index]..layout.offsets[index] + requests[index].bytes;
    let mut found = Vec::new();
    for b in 0..requests.len() {
        for a in 0..b {
            let bytes = range(a).start.max(range(b).start)..range(a).end.min(range(b).end);
            if meet(&requests[a], &requests[b]) && !bytes.is_empty() && root(layout, a) != root(layout, b) {
                found.push((a, b));
            }
        }
    }
    found
}

/// Returns the bytes that are alive in the busiest step, found by a look at each step.
fn peak(requests: &[Request], layout: &Layout) -> usize {
    let last = requests.iter().map(|request| request.last).max().unwrap_or(0);
    (0..=last)
        .map(|step| {
            let mut largest = vec![0; requests.len()];
            for (index, request) in
                requests.iter().enumerate().filter(|(_, request)| (request.first..=request.last).contains(&step))
            {
                let chain = root(layout, index);
                largest[chain] = request.bytes.max(largest[chain]);
            }
            largest.iter().sum()
        })
        .max()
        .unwrap_or(0)
}

proptest! {
    #[test]
    fn plans_are_valid_and_within_their_bounds(requests in requests(60, 0..5000)) {
        let layout = plan(&requests).unwrap();
        prop_assert_eq!(validate(&requests, &layout), Ok(()));
        prop_assert_eq!(collisions(&requests, &layout), vec![]);
        prop_assert_eq!(layout.peak_live, peak(&requests, &layout));
        prop_assert!(layout.bytes >= layout.peak_live);
        let apart: usize = requests.iter().map(|request| request.bytes.next_multiple_of(layout.alignment)).sum();
        prop_assert!(layout.bytes <= apart, "{} > {apart}", layout.bytes);
        prop_assert_eq!(plan(&requests).unwrap(), layout);
    }

    /// There are few sizes, so that chains are long and gaps fit exactly.
    #[test]
    fn small_sizes_too(requests in requests(120, 0..4)) {
        let layout = plan(&requests).unwrap();
        prop_assert_eq!(validate(&requests, &layout), Ok(()));
        prop_assert_eq!(collisions(&requests, &layout), vec![]);
    }

    #[test]
    fn validation_finds_what_a_look_at_each_pair_finds(requests in requests(20, 0..64), at in any::<prop::sample::Index>(), to in 0..256_usize) {
        let mut layout = plan(&requests).unwrap();
        prop_assume!(!requests.is_empty());
        // A whole chain is moved, so that sharing stays right, and room is made at the end.
        let moved = root(&layout, at.index(requests.len()));
        let alignment = layout.alignment;
        for index in (0..requests.len()).filter(|&index| root(&layout, index) == moved).collect::<Vec<_>>() {
            layout.offsets[index] = to.next_multiple_of(alignment);
        }
        layout.bytes += to + 128 + 64;
        let found = validate(&requests, &layout);
        let expected = collisions(&requests, &layout);
        match found {
            Ok(()) => prop_assert_eq!(expected, vec![]),
            Err(Error::Overlap { first, second, step }) => {
                prop_assert!(expected.contains(&(first.min(second), first.max(second))));
                prop_assert!([first, second].iter().all(|&index| (requests[index].first..=requests[index].last).contains(&step)));
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn no_request_makes_it_panic(drawn in vec((any::<usize>(), any::<usize>(), any::<usize>(), any::<usize>(), vec(0..9_usize, 0..3)), 0..8)) {
        let requests: Vec<Request> = drawn
            .into_iter()
            .map(|(bytes, alignment, first, last, candidates)| Request::new(bytes, first, last).aligned_to(alignment).may_take_over(candidates))
            .collect();
        if let Ok(layout) = plan(&requests) {
            prop_assert_eq!(validate(&requests, &layout), Ok(()));
        }
    }
}
