//! Decision trees in the form in which rows walk through them.
//!
//! A tree is an array of records of one kind: a row whose feature is at most the record's value
//! goes to the second record of a pair, and any other row to the first one.
//! All comparisons of the standard become this one, with the next smaller number as the value where
//! that is needed; sets become a search.
//! A leaf leads to itself, whatever the row has, so that several rows walk in step, without a
//! branch of the program, until all of them stand still.

use std::collections::VecDeque;

use hetero_hal::{Error, ErrorKind, Result};
use hetero_reference::ml::{Branch, Comparison, Ensemble, Next, Vote};

/// A number that features, values and weights have.
pub(super) trait Number: Copy + PartialOrd + Default + Send + Sync + 'static {
    const NAN: Self;
    fn of(value: f64) -> Self;
    fn wide(self) -> f64;
    /// Returns a number that only stands for an index.
    fn of_index(index: u32) -> Self;
    fn index(self) -> u32;
    fn next_smaller(self) -> Self;
    /// Returns the smallest number of this type that is not smaller than a whole number: it is at
    /// most exactly those numbers of this type that the whole number is at most.
    fn up(value: i64) -> Self;
    fn plus(self, other: Self) -> Self;
}

macro_rules! number {
    ($rust:ty, $bits:ty) => {
        impl Number for $rust {
            const NAN: Self = <$rust>::NAN;
            #[inline(always)]
            fn of(value: f64) -> Self {
                value as $rust
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn of_index(index: u32) -> Self {
                <$rust>::from_bits(<$bits>::from(index))
            }
            #[inline(always)]
            fn index(self) -> u32 {
                self.to_bits() as u32
            }
            fn next_smaller(self) -> Self {
                // Nothing is smaller than negative infinity, and nothing is at most NaN.
                if self == <$rust>::NEG_INFINITY { <$rust>::NAN } else { self.next_down() }
            }
            #[inline(always)]
            fn up(value: i64) -> Self {
                let near = value as $rust;
                if (near as i128) < i128::from(value) { near.next_up() } else { near }
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }
        }
    };
}
number!(f32, u32);
number!(f64, u64);

/// A record of a tree.
pub(super) trait Record: Copy + Send + Sync + 'static {
    type Number: Number;
    /// The most features of a row, and the most records of a tree.
    const MOST: (usize, usize);
    /// Makes a record from which the pair to which it leads is so many records away.
    fn new(value: Self::Number, feature: usize, missing: bool, away: isize) -> Self;
    /// The value with which the feature is compared; the vote of a leaf.
    fn value(self) -> Self::Number;
    /// The feature; `FLAGGED` says that records may say something of NaN.
    fn feature<const FLAGGED: bool>(self) -> usize;
    /// Whether a feature that is NaN counts as at most the value.
    fn missing(self) -> bool;
    /// How many records away the first record of the pair is to which the record leads; 0 for a
    /// leaf.
    fn away(self) -> isize;
}

macro_rules! record {
    ($name:ident, $number:ty, $short:ty, $signed:ty) => {
        #[derive(Clone, Copy)]
        #[repr(C)]
        pub(super) struct $name {
            value: $number,
            /// The feature, and in the highest bit whether NaN counts as at most the value.
            feature: $short,
            away: $signed,
        }

        impl Record for $name {
            type Number = $number;
            const MOST: (usize, usize) = (<$short>::MAX as usize / 2 - 1, <$signed>::MAX as usize);
            fn new(value: $number, feature: usize, missing: bool, away: isize) -> Self {
                let flag = if missing { 1 << (<$short>::BITS - 1) } else { 0 };
                $name { value, feature: feature as $short | flag, away: away as $signed }
            }
            #[inline(always)]
            fn value(self) -> $number {
                self.value
            }
            #[inline(always)]
            fn feature<const FLAGGED: bool>(self) -> usize {
                (if FLAGGED { self.feature & (<$short>::MAX >> 1) } else { self.feature }) as usize
            }
            #[inline(always)]
            fn missing(self) -> bool {
                self.feature >> (<$short>::BITS - 1) != 0
            }
            #[inline(always)]
            fn away(self) -> isize {
                self.away as isize
            }
        }
    };
}
record!(Narrow, f32, u16, i16);
record!(Wide, f32, u32, i32);
record!(Double, f64, u32, i32);

/// A tree among the records of a forest.
#[derive(Clone, Copy)]
pub(super) struct Tree {
    /// The position of the first record.
    start: usize,
    /// The number of steps that each row makes at least.
    shallow: u32,
    /// The number of steps that a row makes at most.
    deep: u32,
    /// The target of all leaves, where each of them has one vote.
    pub(super) target: u32,
}

/// What leaves hold.
pub(super) enum Votes<T> {
    /// The one vote for the target of the tree.
    One,
    /// The position of a row with a vote for each target.
    Rows(Vec<T>),
    /// The number of a leaf, with the start of each leaf's list, and the votes of all leaves.
    Lists(Vec<u32>, Vec<(u32, T)>),
}

/// All trees of an ensemble.
pub(super) struct Forest<R: Record> {
    records: Vec<R>,
    pub(super) trees: Vec<Tree>,
    pub(super) votes: Votes<R::Number>,
    /// Whether a record wants to know whether a feature is NaN.
    pub(super) missing: bool,
}

/// Returns an empty list with room for `count` elements.
fn room<T>(count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|error| {
        let bytes = count.saturating_mul(size_of::<T>()) as u64;
        Error::new(ErrorKind::OutOfMemory, "cannot allocate memory for decision trees")
            .with_sizes(bytes, None)
            .with_remedy("evict weights, or divide the model among more devices")
            .caused_by(error)
    })?;
    Ok(list)
}

/// What is to stand at a place of a tree.
#[derive(Clone, Copy)]
enum Place {
    Next(Next),
    /// What is left of a comparison for equality, once it is known that the feature is not larger.
    Equal(u32),
    /// The search among the bounds of a set from the first to the second position, for the branch
    /// that asks for members.
    Search(u32, u32, u32),
}

/// The making of a forest.
struct Planting<'a, R: Record> {
    ensemble: &'a Ensemble,
    /// The number of features of a row; behind them each row has a NaN, which leaves look at.
    features: usize,
    records: Vec<R>,
    /// The pair of each branch that is in the tree already.
    pairs: Vec<u32>,
    /// The branches that have a pair.
    placed: Vec<u32>,
    /// The bounds of all sets: a feature is a member where the number of bounds below it is odd.
    bounds: Vec<R::Number>,
    votes: &'a Votes<R::Number>,
    /// The most records of all trees together.
    most: usize,
    /// Whether a tree was turned down because its leaves are not alike.
    mixed: bool,
}

const UNPLACED: u32 = u32::MAX;

impl<R: Record> Planting<'_, R> {
    /// Adds a tree; `None` where it does not fit records of this kind, or where trees share so much
    /// that the forest would become far larger than the ensemble.
    fn tree(&mut self, root: Next) -> Option<Tree> {
        let start = self.records.len();
        for branch in self.placed.drain(..) {
            self.pairs[branch as usize] = UNPLACED;
        }
        self.records.push(R::new(R::Number::NAN, self.features, false, 0));
        let mut queue = VecDeque::from([(Place::Next(root), 0usize, 0u32)]);
        let (mut shallow, mut deep, mut shared, mut target) = (None, 0, false, None);
        while let Some((place, at, level)) = queue.pop_front() {
            let record = match place {
                Place::Next(Next::Leaf(leaf)) => {
                    shallow.get_or_insert(level);
                    deep = deep.max(level);
                    let vote = match (self.votes, self.ensemble.votes(leaf)) {
                        (Votes::One, &[vote]) if *target.get_or_insert(vote.target) == vote.target => {
                            R::Number::of(vote.weight)
                        }
                        (Votes::One, _) => {
                            self.mixed = true;
                            return None;
                        }
                        _ => R::Number::of_index(leaf),
                    };
                    R::new(vote, self.features, false, 0)
                }
                Place::Next(Next::Branch(branch)) => {
                    let Branch { comparison, feature, value, missing, yes, no } =
                        self.ensemble.branches[branch as usize];
                    let exact = R::Number::of(value);
                    let (value, missing, children) = match comparison {
                        // Nothing compares with NaN, but everything is unequal to it.
                        Comparison::IsNot if value.is_nan() => (exact, false, [Place::Next(yes); 2]),
                        _ if value.is_nan() && !matches!(comparison, Comparison::Member(..)) => {
                            (exact, missing, [Place::Next(no), Place::Next(yes)])
                        }
                        Comparison::AtMost => (exact, missing, [Place::Next(no), Place::Next(yes)]),
                        Comparison::Below => (exact.next_smaller(), missing, [Place::Next(no), Place::Next(yes)]),
                        Comparison::Above => (exact, !missing, [Place::Next(yes), Place::Next(no)]),
                        Comparison::AtLeast => (exact.next_smaller(), !missing, [Place::Next(yes), Place::Next(no)]),
                        Comparison::Is => (exact, missing, [Place::Next(no), Place::Equal(branch)]),
                        // What is NaN is not equal, whatever is said of what is missing.
                        Comparison::IsNot => (exact, false, [Place::Next(yes), Place::Equal(branch)]),
                        Comparison::Member(start, end) => {
                            let (first, last) = self.set(start as usize, end as usize)?;
                            let search = Place::Search(first, last, branch);
                            (R::Number::NAN, missing, [search, Place::Next(yes)])
                        }
                    };
                    let known = self.pairs[branch as usize];
                    if known == UNPLACED {
                        let pair = self.pair(start)?;
                        self.pairs[branch as usize] = pair as u32;
                        self.placed.push(branch);
                        queue.extend([(children[0], pair, level + 1), (children[1], pair + 1, level + 1)]);
                    } else {
                        shared = true;
                    }
                    let pair = self.pairs[branch as usize] as usize;
                    R::new(value, feature as usize, missing, pair as isize - at as isize)
                }
                Place::Equal(branch) => {
                    let Branch { comparison, feature, value, yes, no, .. } = self.ensemble.branches[branch as usize];
                    let (same, other) = if comparison == Comparison::Is { (yes, no) } else { (no, yes) };
                    let pair = self.pair(start)?;
                    queue.extend([(Place::Next(same), pair, level + 1), (Place::Next(other), pair + 1, level + 1)]);
                    R::new(R::Number::of(value).next_smaller(), feature as usize, false, (pair - at) as isize)
                }
                Place::Search(first, last, branch) => {
                    let Branch { feature, yes, no, .. } = self.ensemble.branches[branch as usize];
                    let middle = first + (last - first) / 2;
                    let end = |from: u32, to: u32| match (from == to, from % 2) {
                        (true, 0) => Place::Next(no),
                        (true, _) => Place::Next(yes),
                        (false, _) => Place::Search(from, to, branch),
                    };
                    let pair = self.pair(start)?;
                    queue.extend([(end(middle + 1, last), pair, level + 1), (end(first, middle), pair + 1, level + 1)]);
                    R::new(self.bounds[middle as usize], feature as usize, false, (pair - at) as isize)
                }
            };
            self.records[start + at] = record;
        }
        // Where ways join, the longest one is not known; rows then walk until they stand still.
        let deep = if shared { (self.records.len() - start) as u32 } else { deep };
        Some(Tree { start, shallow: shallow.unwrap_or(0), deep, target: target.unwrap_or(0) })
    }

    /// Adds two records, and returns the position of the first one in its tree.
    fn pair(&mut self, start: usize) -> Option<usize> {
        let pair = self.records.len() - start;
        if pair + 2 > R::MOST.1 || self.records.len() + 2 > self.most {
            return None;
        }
        self.records.extend([R::new(R::Number::NAN, self.features, false, 0); 2]);
        Some(pair)
    }

    /// Adds the bounds of a set, and returns their positions.
    /// Both are even, so that a position tells whether what lies before its bound is in the set.
    fn set(&mut self, start: usize, end: usize) -> Option<(u32, u32)> {
        let mut members: Vec<f64> = self.ensemble.members[start..end].to_vec();
        members.sort_by(f64::total_cmp);
        let first = self.bounds.len();
        for member in members {
            let bound = R::Number::of(member);
            let below = bound.next_smaller();
            if below.wide().is_nan() {
                return None;
            }
            match self.bounds.last() {
                Some(&last) if self.bounds.len() > first && last >= bound => {}
                Some(&last) if self.bounds.len() > first && last == below => {
                    // Nothing lies between both.
                    self.bounds.pop();
                    self.bounds.push(bound);
                }
                _ => self.bounds.extend([below, bound]),
            }
        }
        // An empty set gets bounds that nothing lies between.
        if self.bounds.len() == first {
            self.bounds.extend([R::Number::NAN; 2]);
        }
        Some((u32::try_from(first).ok()?, u32::try_from(self.bounds.len()).ok()?))
    }
}

/// Returns what leaves hold, where `one` says that each leaf may have one vote in its record.
fn votes<T: Number>(ensemble: &Ensemble, one: bool) -> Result<Votes<T>> {
    let leaves = ensemble.leaves() as u32;
    let lists = || (0..leaves).map(|leaf| ensemble.votes(leaf));
    if one && lists().all(|votes| votes.len() == 1) {
        return Ok(Votes::One);
    }
    let count: usize = lists().map(<[_]>::len).sum();
    let full = |votes: &[Vote]| {
        votes.len() == ensemble.targets && votes.iter().zip(0u32..).all(|(vote, target)| vote.target == target)
    };
    if lists().all(full) {
        let mut rows = room(count)?;
        rows.extend(lists().flatten().map(|vote| T::of(vote.weight)));
        return Ok(Votes::Rows(rows));
    }
    let (mut starts, mut all) = (room(leaves as usize + 1)?, room(count)?);
    starts.push(0);
    for votes in lists() {
        all.extend(votes.iter().map(|vote| (vote.target, T::of(vote.weight))));
        starts.push(all.len() as u32);
    }
    Ok(Votes::Lists(starts, all))
}

impl<R: Record> Forest<R> {
    /// Makes the forest of an ensemble for rows of this many features.
    /// `None` says that the ensemble does not fit records of this kind.
    ///
    /// # Errors
    /// `OutOfMemory` where the system has no memory for it.
    pub(super) fn plant(ensemble: &Ensemble, features: usize) -> Result<Option<Self>> {
        if features < ensemble.features || features > R::MOST.0 {
            return Ok(None);
        }
        for one in [true, false] {
            let votes = votes(ensemble, one)?;
            // Each branch and each member has a pair or two, and each tree has a first record.
            let sizes = [ensemble.branches.len(), ensemble.members.len()];
            let sizes = sizes.iter().fold(ensemble.roots.len(), |sum, size| sum.saturating_add(size.saturating_mul(8)));
            let mut planting = Planting::<R> {
                ensemble,
                features,
                records: room(ensemble.branches.len().saturating_mul(2).saturating_add(ensemble.roots.len()))?,
                pairs: vec![UNPLACED; ensemble.branches.len()],
                placed: Vec::new(),
                bounds: Vec::new(),
                votes: &votes,
                most: sizes,
                mixed: false,
            };
            let trees: Option<Vec<Tree>> = ensemble.roots.iter().map(|&root| planting.tree(root)).collect();
            let Planting { mut records, mixed, .. } = planting;
            if mixed {
                continue;
            }
            records.shrink_to_fit();
            let missing = records.iter().any(|record| record.missing());
            return Ok(trees.map(|trees| Forest { records, trees, votes, missing }));
        }
        Ok(None)
    }

    /// Walks rows that lie `stride` numbers apart through a tree, and returns what their leaves
    /// hold.
    ///
    /// # Safety
    /// `rows` must point to `LANES` rows, each with the features that the forest was planted for
    /// and a NaN behind them.
    /// `MISSING` must be set where the forest's `missing` is.
    #[inline(always)]
    pub(super) unsafe fn rows<const MISSING: bool>(
        &self,
        tree: Tree,
        rows: *const R::Number,
        stride: usize,
    ) -> [R::Number; LANES] {
        // SAFETY: the tree is one of these, and the rows are the caller's promise.
        unsafe {
            let first = self.records.as_ptr().add(tree.start);
            let rows = std::array::from_fn(|lane| rows.add(lane * stride));
            walk::<R, MISSING>([first; LANES], rows, (tree.shallow, tree.deep))
        }
    }

    /// Walks one row through trees, and returns what its leaves hold.
    ///
    /// # Safety
    /// As for [`Forest::rows`], with one row.
    #[inline(always)]
    pub(super) unsafe fn trees<const MISSING: bool>(
        &self,
        trees: &[Tree; LANES],
        row: *const R::Number,
    ) -> [R::Number; LANES] {
        let shallow = trees.iter().map(|tree| tree.shallow).min().unwrap_or(0);
        let deep = trees.iter().map(|tree| tree.deep).max().unwrap_or(0);
        // SAFETY: the trees are some of these, and the row is the caller's promise.
        unsafe {
            let first = trees.map(|tree| self.records.as_ptr().add(tree.start));
            walk::<R, MISSING>(first, [row; LANES], (shallow, deep))
        }
    }
}

/// Walks from the first records of trees to leaves, and returns what these hold.
///
/// # Safety
/// The records must be first ones of a forest's trees, and the rows such as the forest was planted
/// for, each with a NaN behind it.
#[inline(always)]
unsafe fn walk<R: Record, const MISSING: bool>(
    mut at: [*const R; LANES],
    rows: [*const R::Number; LANES],
    (shallow, deep): (u32, u32),
) -> [R::Number; LANES] {
    // SAFETY: records lead to records of their own tree, and read features of the row, or the NaN
    // behind them.
    unsafe {
        for _ in 0..shallow {
            for (at, row) in at.iter_mut().zip(rows) {
                *at = step::<R, MISSING>(*at, row);
            }
        }
        for _ in shallow..deep {
            let mut moved = 0;
            for (at, row) in at.iter_mut().zip(rows) {
                let next = step::<R, MISSING>(*at, row);
                moved |= next.addr() ^ at.addr();
                *at = next;
            }
            if moved == 0 {
                break;
            }
        }
        at.map(|at| (*at).value())
    }
}

/// The rows, or trees, that walk in step: as many as hide the time that a step waits for memory.
pub(super) const LANES: usize = 8;

/// Returns the record to which a record sends a row.
///
/// # Safety
/// As for [`walk`].
#[inline(always)]
unsafe fn step<R: Record, const MISSING: bool>(at: *const R, row: *const R::Number) -> *const R {
    // SAFETY: the caller's promise.
    unsafe {
        let record = *at;
        let x = *row.add(record.feature::<MISSING>());
        let mut second = x <= record.value();
        if MISSING {
            // Only NaN is not equal to itself.
            #[allow(clippy::eq_op)]
            let is_nan = x != x;
            second |= record.missing() & is_nan;
        }
        at.offset(record.away() + isize::from(second))
    }
}
