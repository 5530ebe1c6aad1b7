//! Blocks: chains of requests that take one another's memory over, as single shapes to place.

use crate::Request;

/// A range of consecutive steps in which a block has one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: usize,
    /// The last step, which is included.
    pub(crate) last: usize,
    pub(crate) bytes: usize,
}

/// A chain of requests at one offset: a shape in steps and bytes.
#[derive(Debug)]
pub(crate) struct Block {
    /// The spans, which are disjoint and in the order of their steps.
    pub(crate) spans: Vec<Span>,
    /// The size of the largest span.
    pub(crate) bytes: usize,
    pub(crate) alignment: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Block {
    fn new(request: &Request) -> Self {
        let (first, last, bytes) = (request.first, request.last, request.bytes);
        Self { spans: vec![Span { first, last, bytes }], bytes, alignment: request.alignment, first, last }
    }

    /// Appends a request whose first step is the last step so far.
    /// In that step both are alive and the larger one counts.
    fn append(&mut self, request: &Request) {
        let (step, last, bytes) = (request.first, request.last, request.bytes);
        match self.spans.last_mut() {
            Some(span) if span.bytes == bytes => span.last = last,
            Some(span) if span.bytes > bytes => {
                if step < last {
                    self.spans.push(Span { first: step + 1, last, bytes });
                }
            }
            Some(span) if span.first < step => {
                span.last = step - 1;
                self.spans.push(Span { first: step, last, bytes });
            }
            _ => {
                self.spans.pop();
                self.spans.push(Span { first: step, last, bytes });
            }
        }
        self.bytes = self.bytes.max(bytes);
        self.alignment = self.alignment.max(request.alignment);
        self.last = last;
    }

    /// Returns the sizes of the largest spans of `self` and `other` that share a step: the other
    /// has to keep clear of that much of each.
    /// Returns `None` where the two can lie on the same bytes.
    pub(crate) fn meet(&self, other: &Block) -> Option<(usize, usize)> {
        if self.last < other.first || other.last < self.first {
            return None;
        }
        if let ([mine], [theirs]) = (self.spans.as_slice(), other.spans.as_slice()) {
            return (mine.bytes > 0 && theirs.bytes > 0).then_some((mine.bytes, theirs.bytes));
        }
        let (mut mine, mut theirs) = (self.spans.as_slice(), other.spans.as_slice());
        let (mut own, mut others) = (0, 0);
        while let ([a, rest_of_mine @ ..], [b, rest_of_theirs @ ..]) = (mine, theirs) {
            let share_a_step = a.first <= b.last && b.first <= a.last;
            if share_a_step && a.bytes > 0 && b.bytes > 0 {
                own = own.max(a.bytes);
                others = others.max(b.bytes);
            }
            if a.last < b.last {
                mine = rest_of_mine;
            } else {
                theirs = rest_of_theirs;
            }
        }
        (own > 0).then_some((own, others))
    }
}

/// Returns, for each request, the candidate whose memory it takes over: the one that saves most
/// bytes and, among those, is nearest in size.
pub(crate) fn choose_sharing(requests: &[Request]) -> Vec<Option<usize>> {
    let mut taken = vec![false; requests.len()];
    let mut shared = Vec::with_capacity(requests.len());
    for request in requests {
        let saved = |candidate: usize| requests[candidate].bytes.min(request.bytes);
        let choice = request
            .in_place_of
            .iter()
            .copied()
            .filter(|&candidate| !taken[candidate] && saved(candidate) > 0)
            .min_by_key(|&candidate| {
                (std::cmp::Reverse(saved(candidate)), requests[candidate].bytes.abs_diff(request.bytes))
            });
        if let Some(candidate) = choice {
            taken[candidate] = true;
        }
        shared.push(choice);
    }
    shared
}

/// Joins requests into blocks; returns these and, for each request, the index of its block.
///
/// `shared` names for each request an earlier one, each at most once, whose last step is the
/// request's first.
pub(crate) fn coalesce(requests: &[Request], shared: &[Option<usize>]) -> (Vec<Block>, Vec<usize>) {
    let mut blocks: Vec<Block> = Vec::new();
    let mut block_of: Vec<usize> = Vec::with_capacity(requests.len());
    for (request, shared) in requests.iter().zip(shared) {
        match *shared {
            Some(earlier) => {
                let block = block_of[earlier];
                blocks[block].append(request);
                block_of.push(block);
            }
            None => {
                block_of.push(blocks.len());
                blocks.push(Block::new(request));
            }
        }
    }
    (blocks, block_of)
}

/// The number of bytes that are alive in each step in which some span starts; no other step has
/// more.
pub(crate) struct Breadth {
    /// The steps, ascending, each once.
    steps: Vec<usize>,
    /// The bytes that are alive in each of `steps`.
    live: Vec<usize>,
}

impl Breadth {
    pub(crate) fn of(blocks: &[Block]) -> Self {
        let spans = || blocks.iter().flat_map(|block| &block.spans);
        let mut steps: Vec<usize> = spans().map(|span| span.first).collect();
        steps.sort_unstable();
        steps.dedup();
        let mut starting = vec![0; steps.len() + 1];
        let mut ended = vec![0; steps.len() + 1];
        for span in spans() {
            starting[steps.partition_point(|&step| step < span.first)] += span.bytes;
            ended[steps.partition_point(|&step| step <= span.last)] += span.bytes;
        }
        let mut now = 0;
        let live = (0..steps.len())
            .map(|index| {
                now = now + starting[index] - ended[index];
                now
            })
            .collect();
        Self { steps, live }
    }

    /// Returns the most bytes alive in any step.
    pub(crate) fn peak(&self) -> usize {
        self.live.iter().copied().max().unwrap_or(0)
    }

    /// Returns the most bytes alive in any step of a block's life.
    pub(crate) fn around(&self, block: &Block) -> usize {
        let from = self.steps.partition_point(|&step| step < block.first);
        let to = self.steps.partition_point(|&step| step <= block.last);
        self.live[from..to].iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(requests: &[Request]) -> Block {
        let shared: Vec<_> = (0..requests.len()).map(|index| index.checked_sub(1)).collect();
        coalesce(requests, &shared).0.remove(0)
    }

    fn spans(requests: &[Request]) -> Vec<(usize, usize, usize)> {
        block(requests).spans.iter().map(|span| (span.first, span.last, span.bytes)).collect()
    }

    fn request(bytes: usize, first: usize, last: usize) -> Request {
        Request::new(bytes, first, last)
    }

    #[test]
    fn the_larger_one_counts_where_two_meet() {
        assert_eq!(spans(&[request(9, 0, 3), request(5, 3, 7)]), [(0, 3, 9), (4, 7, 5)]);
        assert_eq!(spans(&[request(5, 0, 3), request(9, 3, 7)]), [(0, 2, 5), (3, 7, 9)]);
        assert_eq!(spans(&[request(5, 0, 3), request(5, 3, 7)]), [(0, 7, 5)]);
        assert_eq!(spans(&[request(9, 0, 3), request(5, 3, 3)]), [(0, 3, 9)]);
        assert_eq!(spans(&[request(5, 0, 0), request(9, 0, 2)]), [(0, 2, 9)]);
        assert_eq!(spans(&[request(5, 0, 3), request(9, 3, 3), request(4, 3, 4)]), [(0, 2, 5), (3, 3, 9), (4, 4, 4)]);
    }

    #[test]
    fn blocks_meet_by_the_spans_that_share_a_step() {
        let stairs = block(&[request(9, 0, 3), request(5, 3, 7)]);
        assert_eq!(stairs.meet(&block(&[request(2, 4, 5)])), Some((5, 2)));
        assert_eq!(stairs.meet(&block(&[request(2, 2, 5)])), Some((9, 2)));
        assert_eq!(stairs.meet(&block(&[request(2, 8, 9)])), None);
        assert_eq!(stairs.meet(&block(&[request(0, 0, 9)])), None);
        assert_eq!(stairs.meet(&block(&[request(1, 3, 4), request(6, 4, 4)])), Some((9, 6)));
    }
}
