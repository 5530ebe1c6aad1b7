//! Ensembles of decision trees.
//!
//! Many rows are walked tree by tree in blocks, so that a tree stays in the cache while the rows of
//! a block go through it.
//! Few rows are walked through several trees at once, which threads share.
//! Either way the votes for a row are added in the order of the trees, in the type of the votes, so
//! that results do not depend on the number of threads or of rows.

use hetero_hal::{DType, Error, Result};
use hetero_reference::ml::{Aggregate, Ensemble};

use super::forest::{Double, Forest, LANES, Narrow, Number, Record, Tree, Votes, Wide};
use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};

/// The most rows of a block.
const BLOCK: usize = 128;
/// The most numbers of a block's rows, or of its sums, unless one group of rows has more.
const NUMBERS: usize = 1 << 13;
/// The most targets: a thread has sums for each target of several rows.
const TARGETS: usize = 1 << 16;
/// The scalar operations of a walk of one row through one tree.
const WALK: usize = 40;
/// The same, where threads share the trees of one row: as a walk of eight trees takes no longer
/// than to wake a thread, it counts for less.
const SHARED_WALK: usize = 10;

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(input) = site.input(0) else { return Ok(None) };
    let (rows, features) = match *input.shape.as_slice() {
        [features] => (1, features),
        [rows, features] => (rows, features),
        _ => return Ok(None),
    };
    let known = matches!(input.dtype, DType::F32 | DType::F64 | DType::I32 | DType::I64);
    // A classifier has its labels before the scores.
    let scores = usize::from(site.operator().name.ends_with("Classifier"));
    let targets = match site.output(scores) {
        Some(scores) => scores.shape.last().copied(),
        // Nobody wants the scores.
        None => Some(Ensemble::of(site.operator())?.targets),
    };
    let Some(targets) = targets.filter(|&targets| known && targets <= TARGETS && rows > 0 && features > 0) else {
        return Ok(None);
    };
    let shape = Shape { rows, features, targets, input: input.dtype, scores };
    if site.weights.is_none() {
        // The question is only whether there is a kernel; trees were checked when types were
        // inferred.
        return Ok(Some(Box::new(Trees::<Narrow>::none(shape))));
    }
    let ensemble = Ensemble::of(site.operator())?;
    if ensemble.double || input.dtype == DType::F64 {
        return planted::<Double>(ensemble, shape);
    }
    match Forest::<Narrow>::plant(&ensemble, features)? {
        Some(forest) => Ok(Some(Box::new(Trees::new(forest, ensemble, shape)))),
        None => planted::<Wide>(ensemble, shape),
    }
}

fn planted<R: Record>(ensemble: Ensemble, shape: Shape) -> Result<Option<Box<dyn Kernel>>> {
    let forest = Forest::<R>::plant(&ensemble, shape.features)?;
    Ok(forest.map(|forest| Box::new(Trees::new(forest, ensemble, shape)) as Box<dyn Kernel>))
}

#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    features: usize,
    targets: usize,
    input: DType,
    /// The position of the scores among the outputs.
    scores: usize,
}

impl Shape {
    /// Returns the numbers of a row with the NaN behind it.
    fn stride(self) -> usize {
        self.features + 1
    }

    /// Returns the groups of rows that walk in step.
    fn groups(self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Returns the groups of a block.
    fn block(self) -> usize {
        let rows = (NUMBERS / self.stride().max(self.targets)).clamp(LANES, BLOCK) / LANES;
        rows.min(self.groups())
    }
}

struct Trees<R: Record> {
    forest: Option<Forest<R>>,
    /// The ensemble without its branches, which says what becomes of sums.
    ensemble: Option<Ensemble>,
    shape: Shape,
    /// Whether each target has votes, whatever the row is; empty where that depends on the row.
    voted: Vec<bool>,
}

/// A thread's part of the workspace.
struct Desk<'a, T> {
    rows: &'a mut [T],
    sums: &'a mut [T],
    voted: &'a mut [bool],
    scores: &'a mut [f64],
}

/// The places of the outputs.
#[derive(Clone, Copy)]
struct Results {
    labels: Option<Shared<i64>>,
    single: Option<Shared<f32>>,
    double: Option<Shared<f64>>,
}

impl<R: Record> Trees<R> {
    fn none(shape: Shape) -> Self {
        Trees { forest: None, ensemble: None, shape, voted: Vec::new() }
    }

    fn new(forest: Forest<R>, mut ensemble: Ensemble, shape: Shape) -> Self {
        let sum = matches!(ensemble.aggregate, Aggregate::Sum | Aggregate::Average);
        let mut voted = Vec::new();
        match &forest.votes {
            Votes::One if sum => {
                voted = vec![false; shape.targets];
                for tree in &forest.trees {
                    voted[tree.target as usize] = true;
                }
            }
            Votes::Rows(_) if sum => voted = vec![!forest.trees.is_empty(); shape.targets],
            _ => {}
        }
        // The forest has all of this.
        ensemble.branches = Vec::new();
        ensemble.members = Vec::new();
        Trees { forest: Some(forest), ensemble: Some(ensemble), shape, voted }
    }

    fn number_of_trees(&self) -> usize {
        self.forest.as_ref().map_or(0, |forest| forest.trees.len())
    }

    /// Returns the 8-byte words of the parts of a desk for this many rows: rows, sums, flags and
    /// scores.
    fn words(&self, rows: usize) -> [usize; 4] {
        let Shape { targets, .. } = self.shape;
        let words = |count: usize, size: usize| (count * size).div_ceil(8);
        let size = size_of::<R::Number>();
        [words(rows * self.shape.stride(), size), words(rows * targets, size), words(rows * targets, 1), targets]
    }

    /// Divides a part of the workspace.
    ///
    /// # Safety
    /// There must be as many words as [`Trees::words`] says, which nobody else uses meanwhile.
    unsafe fn desk<'a>(&self, words: *mut u64, rows: usize) -> Desk<'a, R::Number> {
        let [first, second, third, _] = self.words(rows);
        let Shape { targets, .. } = self.shape;
        // SAFETY: the parts lie behind each other, each aligned for 8 bytes; the bytes of the flags
        // are written before they are read as such.
        unsafe {
            let flags = words.add(first + second).cast::<u8>();
            flags.write_bytes(0, rows * targets);
            Desk {
                rows: std::slice::from_raw_parts_mut(words.cast(), rows * self.shape.stride()),
                sums: std::slice::from_raw_parts_mut(words.add(first).cast(), rows * targets),
                voted: std::slice::from_raw_parts_mut(flags.cast(), rows * targets),
                scores: std::slice::from_raw_parts_mut(words.add(first + second + third).cast(), targets),
            }
        }
    }

    /// Copies rows from `first` on, each with a NaN behind it; rows behind the last one are NaN.
    fn fill(&self, into: &mut [R::Number], first: usize, arguments: &Arguments<'_>) -> Result<()> {
        let Shape { rows, features, input, .. } = self.shape;
        fn copy<A: Copy, T: Number>(into: &mut [T], from: &[A], features: usize, convert: impl Fn(A) -> T) {
            let mut from = from.chunks_exact(features);
            for into in into.chunks_exact_mut(features + 1) {
                match from.next() {
                    Some(from) => {
                        into.iter_mut().zip(from).for_each(|(into, &from)| *into = convert(from));
                        into[features] = T::NAN;
                    }
                    None => into.fill(T::NAN),
                }
            }
        }
        let range = first * features..rows * features;
        match input {
            DType::F32 => copy(into, &arguments.input::<f32>(0)?[range], features, |x| R::Number::of(f64::from(x))),
            DType::F64 => copy(into, &arguments.input::<f64>(0)?[range], features, R::Number::of),
            DType::I32 => copy(into, &arguments.input::<i32>(0)?[range], features, |x| R::Number::up(i64::from(x))),
            DType::I64 => copy(into, &arguments.input::<i64>(0)?[range], features, R::Number::up),
            other => return Err(Error::internal(format!("trees with a {other} input"))),
        }
        Ok(())
    }

    /// Adds what a row's leaf of a tree holds to the row's sums.
    #[inline(always)]
    fn vote(
        forest: &Forest<R>,
        aggregate: Aggregate,
        tree: Tree,
        leaf: R::Number,
        sums: &mut [R::Number],
        voted: &mut [bool],
    ) {
        let count = sums.len();
        let mut vote = |target: usize, weight: R::Number| {
            let (sum, voted) = (&mut sums[target], &mut voted[target]);
            let wins = match aggregate {
                Aggregate::Sum | Aggregate::Average => {
                    *sum = sum.plus(weight);
                    false
                }
                Aggregate::Min => !*voted || weight < *sum,
                Aggregate::Max => !*voted || weight > *sum,
            };
            if wins {
                *sum = weight;
            }
            *voted = true;
        };
        match &forest.votes {
            Votes::One => vote(tree.target as usize, leaf),
            Votes::Rows(rows) => {
                let row = &rows[leaf.index() as usize * count..][..count];
                for (target, &weight) in row.iter().enumerate() {
                    vote(target, weight);
                }
            }
            Votes::Lists(starts, votes) => {
                let leaf = leaf.index() as usize;
                for &(target, weight) in &votes[starts[leaf] as usize..starts[leaf + 1] as usize] {
                    vote(target as usize, weight);
                }
            }
        }
    }

    /// Walks groups of rows through all trees, and adds up their votes.
    ///
    /// # Safety
    /// `MISSING` must be set where the forest's `missing` is.
    unsafe fn block<const MISSING: bool>(
        &self,
        forest: &Forest<R>,
        aggregate: Aggregate,
        desk: &mut Desk<'_, R::Number>,
    ) {
        let (stride, targets) = (self.shape.stride(), self.shape.targets);
        let plain = !self.voted.is_empty();
        for &tree in &forest.trees {
            let groups = desk.rows.chunks_exact(LANES * stride).zip(desk.sums.chunks_exact_mut(LANES * targets));
            match &forest.votes {
                Votes::One if plain => {
                    for (rows, sums) in groups {
                        // SAFETY: the group has that many rows.
                        let leaves = unsafe { forest.rows::<MISSING>(tree, rows.as_ptr(), stride) };
                        for (leaf, sums) in leaves.into_iter().zip(sums.chunks_exact_mut(targets)) {
                            let sum = &mut sums[tree.target as usize];
                            *sum = sum.plus(leaf);
                        }
                    }
                }
                Votes::Rows(votes) if plain => {
                    for (rows, sums) in groups {
                        // SAFETY: as above.
                        let leaves = unsafe { forest.rows::<MISSING>(tree, rows.as_ptr(), stride) };
                        for (leaf, sums) in leaves.into_iter().zip(sums.chunks_exact_mut(targets)) {
                            let votes = &votes[leaf.index() as usize * targets..][..targets];
                            sums.iter_mut().zip(votes).for_each(|(sum, &vote)| *sum = sum.plus(vote));
                        }
                    }
                }
                _ => {
                    for ((rows, sums), voted) in groups.zip(desk.voted.chunks_exact_mut(LANES * targets)) {
                        // SAFETY: as above.
                        let leaves = unsafe { forest.rows::<MISSING>(tree, rows.as_ptr(), stride) };
                        let places = sums.chunks_exact_mut(targets).zip(voted.chunks_exact_mut(targets));
                        for (leaf, (sums, voted)) in leaves.into_iter().zip(places) {
                            Self::vote(forest, aggregate, tree, leaf, sums, voted);
                        }
                    }
                }
            }
        }
    }

    /// Writes the label and the scores of a row.
    ///
    /// # Safety
    /// The row must be the caller's alone.
    unsafe fn finish(
        &self,
        ensemble: &Ensemble,
        row: usize,
        (sums, voted): (&[R::Number], &[bool]),
        scores: &mut [f64],
        results: Results,
    ) {
        scores.iter_mut().zip(sums).for_each(|(score, sum)| *score = sum.wide());
        let label = ensemble.finish(scores, if self.voted.is_empty() { voted } else { &self.voted });
        // SAFETY: the outputs have an element for each row, or for each row and target; the row is
        // the caller's.
        unsafe {
            if let Some(labels) = results.labels {
                *labels.at(row) = ensemble.label(label);
            }
            if let Some(single) = results.single {
                let into = single.slice(row * scores.len(), scores.len());
                into.iter_mut().zip(&*scores).for_each(|(into, &score)| *into = score as f32);
            }
            if let Some(double) = results.double {
                double.slice(row * scores.len(), scores.len()).copy_from_slice(scores);
            }
        }
    }

    fn by_rows<const MISSING: bool>(
        &self,
        (forest, ensemble): (&Forest<R>, &Ensemble),
        arguments: &Arguments<'_>,
        (workspace, results): (Shared<u64>, Results),
        runtime: &Runtime<'_>,
    ) {
        let Shape { rows, targets, .. } = self.shape;
        let (groups, block) = (self.shape.groups(), self.shape.block());
        let desk_words: usize = self.words(block * LANES).iter().sum();
        let pieces = runtime.pieces(groups, forest.trees.len().saturating_mul(LANES * WALK));
        runtime.for_each(pieces, |number, thread| {
            let range = piece(groups, pieces, number);
            for start in range.clone().step_by(block) {
                let here = block.min(range.end - start) * LANES;
                // SAFETY: each thread has its own part of the workspace, which is large enough for
                // a whole block.
                let mut desk = unsafe { self.desk(workspace.at(thread * desk_words), here) };
                desk.sums.fill(R::Number::default());
                let first = start * LANES;
                if self.fill(desk.rows, first, arguments).is_err() {
                    // The same call for the first row was fine.
                    return;
                }
                // SAFETY: `MISSING` is the forest's.
                unsafe { self.block::<MISSING>(forest, ensemble.aggregate, &mut desk) };
                for row in first..rows.min(first + here) {
                    let range = (row - first) * targets..(row - first + 1) * targets;
                    let found = (&desk.sums[range.clone()], &desk.voted[range]);
                    // SAFETY: rows are divided among the tasks.
                    unsafe { self.finish(ensemble, row, found, desk.scores, results) };
                }
            }
        });
    }

    fn by_trees<const MISSING: bool>(
        &self,
        (forest, ensemble): (&Forest<R>, &Ensemble),
        arguments: &Arguments<'_>,
        (workspace, results): (Shared<u64>, Results),
        runtime: &Runtime<'_>,
    ) -> Result<()> {
        let trees = &forest.trees[..];
        let groups = trees.len().div_ceil(LANES);
        let desk_words: usize = self.words(1).iter().sum();
        // SAFETY: the workspace has room for a desk and for a number of each tree, and this is the
        // only use of it.
        let (desk, leaves) = unsafe {
            let leaves = workspace.at(desk_words).cast::<R::Number>();
            (self.desk(workspace.at(0), 1), std::slice::from_raw_parts_mut(leaves, groups * LANES))
        };
        // The last group repeats the last tree.
        let group_of = |group: usize| -> [Tree; LANES] {
            std::array::from_fn(|lane| trees[(group * LANES + lane).min(trees.len() - 1)])
        };
        let shared = Shared::new(leaves);
        let pieces = runtime.pieces(groups, LANES * SHARED_WALK);
        for row in 0..self.shape.rows {
            self.fill(desk.rows, row, arguments)?;
            desk.sums.fill(R::Number::default());
            desk.voted.fill(false);
            if pieces == 1 {
                // Adding up waits for the sum before, and walking goes on meanwhile.
                runtime.check()?;
                for (group, some) in trees.chunks(LANES).enumerate() {
                    // SAFETY: the row has its features and a NaN behind them.
                    let found = unsafe { forest.trees::<MISSING>(&group_of(group), desk.rows.as_ptr()) };
                    for (&tree, leaf) in some.iter().zip(found) {
                        Self::vote(forest, ensemble.aggregate, tree, leaf, desk.sums, desk.voted);
                    }
                }
            } else {
                let at = Shared::constant(desk.rows.as_ptr());
                runtime.for_each(pieces, |number, _| {
                    for group in piece(groups, pieces, number) {
                        // SAFETY: as above; each group has its part of the leaves.
                        unsafe {
                            let found = forest.trees::<MISSING>(&group_of(group), at.at(0));
                            shared.slice(group * LANES, LANES).copy_from_slice(&found);
                        }
                    }
                });
                for (index, &tree) in trees.iter().enumerate() {
                    // SAFETY: the tasks that wrote the leaves are done.
                    let leaf = unsafe { *shared.at(index) };
                    Self::vote(forest, ensemble.aggregate, tree, leaf, desk.sums, desk.voted);
                }
            }
            // SAFETY: nobody else writes.
            unsafe { self.finish(ensemble, row, (&*desk.sums, &*desk.voted), desk.scores, results) };
        }
        Ok(())
    }

    /// Tells whether there are too few rows to keep all threads busy with them.
    fn few(&self, threads: usize) -> bool {
        self.number_of_trees() > 0 && (self.shape.rows < LANES || self.shape.groups() < threads)
    }
}

impl<R: Record> Kernel for Trees<R> {
    fn workspace(&self, threads: usize) -> usize {
        let rows = self.words(self.shape.block() * LANES).iter().sum::<usize>() * threads;
        let leaves = self.number_of_trees().next_multiple_of(LANES);
        let trees = self.words(1).iter().sum::<usize>() + (leaves * size_of::<R::Number>()).div_ceil(8);
        8 * if self.few(threads) { trees } else { rows }
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (Some(forest), Some(ensemble)) = (&self.forest, &self.ensemble) else {
            return Err(Error::internal("trees were compiled without their records"));
        };
        let scores = self.shape.scores;
        let labels = (ensemble.labels().is_some() && arguments.wants(0)).then(|| arguments.output::<i64>(0));
        let mut results = Results { labels: labels.transpose()?.map(Shared::new), single: None, double: None };
        if arguments.wants(scores) {
            let bytes = arguments.outputs[scores].map_or(0, |output| output.bytes);
            if bytes == self.shape.rows * self.shape.targets * size_of::<f64>() {
                results.double = Some(Shared::new(arguments.output::<f64>(scores)?));
            } else {
                results.single = Some(Shared::new(arguments.output::<f32>(scores)?));
            }
        }
        let places = (Shared::new(arguments.workspace::<u64>()?), results);
        let whole = (forest, ensemble);
        match (self.few(runtime.pool.threads()), forest.missing) {
            (true, true) => self.by_trees::<true>(whole, arguments, places, runtime),
            (true, false) => self.by_trees::<false>(whole, arguments, places, runtime),
            (false, missing) => {
                // A failure would be the same for all rows, so it is looked for before threads run.
                self.fill(&mut [], 0, arguments)?;
                if missing {
                    self.by_rows::<true>(whole, arguments, places, runtime);
                } else {
                    self.by_rows::<false>(whole, arguments, places, runtime);
                }
                Ok(())
            }
        }
    }
}
