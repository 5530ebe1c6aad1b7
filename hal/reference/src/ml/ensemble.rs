//! Ensembles of decision trees as data, whichever operator they come from.

use foldhash::{HashMap, HashMapExt};
use hetero_hal::{DType, Error, Operator, Result, Tensor};

use super::scores::{ClassLabels, Transform, largest};
use super::{doubles, numbers, texts, wrong};

/// The comparison of a feature with the value of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The feature is not larger.
    AtMost,
    /// The feature is smaller.
    Below,
    /// The feature is not smaller.
    AtLeast,
    /// The feature is larger.
    Above,
    /// The feature is equal.
    Is,
    /// The feature is not equal; NaN is not equal to anything.
    IsNot,
    /// The feature is one of the members between these positions of [`Ensemble::members`].
    Member(u32, u32),
}

/// What stands at the end of an edge of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A branch, by its position.
    Branch(u32),
    /// A leaf, by its position.
    Leaf(u32),
}

/// A node of a tree that sends a row one way or the other.
#[derive(Clone, Copy, Debug)]
pub struct Branch {
    /// The comparison that decides.
    pub comparison: Comparison,
    /// The feature of the row that is compared.
    pub feature: u32,
    /// The value with which the feature is compared.
    pub value: f64,
    /// Whether a feature that is NaN goes the way of a comparison that holds.
    pub missing: bool,
    /// The way of a comparison that holds.
    pub yes: Next,
    /// The way of a comparison that does not hold.
    pub no: Next,
}

/// What a leaf says of one target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vote {
    /// The target or class.
    pub target: u32,
    /// The weight.
    pub weight: f64,
}

/// The way in which the votes for a target become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// The sum divided by the number of trees.
    Average,
    /// The sum.
    Sum,
    /// The smallest one.
    Min,
    /// The largest one.
    Max,
}

/// The way in which a classifier's two classes relate to its votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Classes {
    /// Each class has votes, and the largest sum wins.
    Each,
    /// All votes are for the class at position 0, but they say how probable the other one is.
    OneSum,
    /// All votes are for the class at position 1.
    SecondOnly,
    /// There is one class.
    Single,
}

/// An ensemble of decision trees.
///
/// All positions that it holds are inside its lists, and no branch leads back to itself.
/// Branches may share what follows them: converters write sets of categories that way.
#[derive(Clone, Debug)]
pub struct Ensemble {
    /// The number of targets or classes, which is the number of columns of the result.
    pub targets: usize,
    /// The branches of all trees.
    pub branches: Vec<Branch>,
    /// The first node of each tree.
    pub roots: Vec<Next>,
    /// The members of sets.
    pub members: Vec<f64>,
    /// How votes become one number.
    pub aggregate: Aggregate,
    /// Whether values or weights are doubles that may be no singles.
    pub double: bool,
    /// The least number of features that rows need.
    pub features: usize,
    /// The first vote of each leaf, and behind the last leaf the number of votes.
    starts: Vec<u32>,
    votes: Vec<Vote>,
    base: Vec<f64>,
    transform: Transform,
    labels: Option<(ClassLabels, Classes)>,
    /// Whether no vote is negative, so that a sum is a share of 1.
    shares: bool,
}

/// Returns a list of whole numbers that must have this many elements.
fn ints<'a>(operator: &'a Operator, name: &str, count: usize) -> Result<&'a [i64]> {
    let list = operator.ints(name)?.unwrap_or_default();
    if list.len() != count {
        let what = format_args!("'{name}' has {} elements, and {count} are needed", list.len());
        return Err(wrong(operator, what));
    }
    Ok(list)
}

fn flags<'a>(operator: &'a Operator, name: &str, count: usize) -> Result<Option<&'a [i64]>> {
    match operator.ints(name)? {
        None | Some([]) => Ok(None),
        Some(_) => ints(operator, name, count).map(Some),
    }
}

fn position(operator: &Operator, name: &str, value: i64, limit: usize) -> Result<u32> {
    let inside = usize::try_from(value).is_ok_and(|value| value < limit);
    u32::try_from(value)
        .ok()
        .filter(|_| inside)
        .ok_or_else(|| wrong(operator, format_args!("'{name}' has {value}, and there are {limit}")))
}

fn feature(operator: &Operator, value: i64) -> Result<u32> {
    let feature = u32::try_from(value).ok().filter(|&value| value < u32::MAX);
    feature.ok_or_else(|| wrong(operator, format_args!("'nodes_featureids' has {value}")))
}

/// Checks that lists of this length can be told by positions.
fn count(operator: &Operator, length: usize) -> Result<u32> {
    let fits = u32::try_from(length).ok().filter(|&count| count < 1 << 30);
    fits.ok_or_else(|| wrong(operator, format_args!("it has {length} nodes or weights, which are too many")))
}

impl Ensemble {
    /// Reads the ensemble of an operator, and checks it.
    ///
    /// # Errors
    /// `InvalidModel` with the attribute and the numbers, where lists do not fit together, an edge
    /// leads nowhere or around in a circle, or a position is outside its list.
    pub fn of(operator: &Operator) -> Result<Self> {
        let ensemble = match &*operator.name {
            "TreeEnsemble" => Self::of_positions(operator),
            "TreeEnsembleClassifier" => Self::of_names(operator, "class"),
            "TreeEnsembleRegressor" => Self::of_names(operator, "target"),
            _ => Err(Error::internal(format!("{operator} has no trees"))),
        }?;
        ensemble.check_circles(operator)?;
        Ok(ensemble)
    }

    /// Returns about how many bytes of memory the ensemble of an operator takes, while it is read
    /// too.
    #[must_use]
    pub fn bytes(operator: &Operator) -> usize {
        let lists = operator.attributes.values().map(|attribute| match attribute {
            hetero_hal::Attribute::Ints(list) => list.len(),
            hetero_hal::Attribute::Floats(list) => list.len(),
            hetero_hal::Attribute::Strings(list) => list.len(),
            hetero_hal::Attribute::Tensor(tensor) => tensor.len(),
            _ => 0,
        });
        lists.max().unwrap_or(0).saturating_mul(256)
    }

    /// Reads `TreeEnsemble`, whose nodes name each other by positions.
    fn of_positions(operator: &Operator) -> Result<Self> {
        let tensor = |name: &str| {
            operator.tensor(name)?.ok_or_else(|| wrong(operator, format_args!("it lacks its attribute '{name}'")))
        };
        let (splits, weights, modes) = (tensor("nodes_splits")?, tensor("leaf_weights")?, tensor("nodes_modes")?);
        let (nodes, leaves) = (modes.len(), weights.len());
        count(operator, nodes)?;
        count(operator, leaves)?;
        if modes.dtype() != DType::U8 || splits.len() != nodes {
            let what = format_args!("its nodes_modes is {modes:?}, and its nodes_splits {splits:?}");
            return Err(wrong(operator, what));
        }
        let targets = operator.int("n_targets")?.unwrap_or(1);
        let targets = usize::try_from(targets).ok().filter(|&targets| targets > 0);
        let targets = targets.ok_or_else(|| wrong(operator, "n_targets is not positive"))?;
        let node_list = |name: &str| ints(operator, name, nodes);
        let (features, yes, no) =
            (node_list("nodes_featureids")?, node_list("nodes_truenodeids")?, node_list("nodes_falsenodeids")?);
        let (yes_leaf, no_leaf) = (node_list("nodes_trueleafs")?, node_list("nodes_falseleafs")?);
        let missing = flags(operator, "nodes_missing_value_tracks_true", nodes)?;
        let members = match operator.tensor("membership_values")? {
            Some(tensor) => doubles(operator, tensor)?,
            None => Vec::new(),
        };
        count(operator, members.len())?;
        let mut set_start = 0;
        let next = |name: &str, leaf: i64, at: i64| match leaf {
            0 => position(operator, name, at, nodes).map(Next::Branch),
            _ => position(operator, name, at, leaves).map(Next::Leaf),
        };
        let mut branches = Vec::with_capacity(nodes);
        let (modes, values) = (modes.view::<u8>()?, doubles(operator, splits)?);
        for node in 0..nodes {
            use Comparison::{Above, AtLeast, AtMost, Below, Is, IsNot, Member};
            let comparison = match modes[node] {
                mode @ 0..=5 => [AtMost, Below, AtLeast, Above, Is, IsNot][usize::from(mode)],
                6 if set_start < members.len() => {
                    let length = members[set_start..].iter().take_while(|value| !value.is_nan()).count();
                    let set = Member(set_start as u32, (set_start + length) as u32);
                    // A NaN stands behind each set.
                    set_start += length + 1;
                    set
                }
                6 => {
                    return Err(wrong(operator, "membership_values has fewer sets than there are nodes that need one"));
                }
                mode => return Err(wrong(operator, format_args!("nodes_modes has {mode}"))),
            };
            branches.push(Branch {
                comparison,
                feature: feature(operator, features[node])?,
                value: values[node],
                missing: missing.is_some_and(|list| list[node] != 0),
                yes: next("nodes_truenodeids", yes_leaf[node], yes[node])?,
                no: next("nodes_falsenodeids", no_leaf[node], no[node])?,
            });
        }
        if set_start < members.len() {
            return Err(wrong(operator, "membership_values has more sets than there are nodes that need one"));
        }
        let roots = operator.ints("tree_roots")?.unwrap_or_default();
        let roots = roots.iter().map(|&root| Ok(Next::Branch(position(operator, "tree_roots", root, nodes)?)));
        let roots = roots.collect::<Result<Vec<_>>>()?;
        let ids = ints(operator, "leaf_targetids", leaves)?;
        let wide = |tensor: &Tensor| tensor.dtype() == DType::F64;
        let double = wide(splits) || wide(weights) || operator.tensor("membership_values")?.is_some_and(wide);
        let weights = doubles(operator, weights)?;
        let votes = ids.iter().zip(&weights);
        let votes = votes
            .map(|(&id, &weight)| Ok(Vote { target: position(operator, "leaf_targetids", id, targets)?, weight }))
            .collect::<Result<Vec<_>>>()?;
        let aggregate = match operator.int("aggregate_function")?.unwrap_or(1) {
            number @ 0..=3 => [Aggregate::Average, Aggregate::Sum, Aggregate::Min, Aggregate::Max][number as usize],
            other => return Err(wrong(operator, format_args!("aggregate_function {other} is unknown"))),
        };
        Ok(Ensemble {
            targets,
            features: least_features(&branches),
            branches,
            roots,
            members,
            aggregate,
            double,
            starts: (0..=leaves as u32).collect(),
            votes,
            base: Vec::new(),
            transform: Transform::numbered(operator)?,
            labels: None,
            shares: false,
        })
    }

    /// Reads the older operators, whose nodes are told by the numbers of tree and node, and whose
    /// votes stand in lists with this prefix.
    fn of_names(operator: &Operator, prefix: &str) -> Result<Self> {
        let modes = texts(operator, "nodes_modes")?.unwrap_or_default();
        let nodes = modes.len();
        count(operator, nodes)?;
        let node_list = |name: &str| ints(operator, name, nodes);
        let (trees, names) = (node_list("nodes_treeids")?, node_list("nodes_nodeids")?);
        let (features, yes, no) =
            (node_list("nodes_featureids")?, node_list("nodes_truenodeids")?, node_list("nodes_falsenodeids")?);
        let missing = flags(operator, "nodes_missing_value_tracks_true", nodes)?;
        let (values, double_values) = numbers(operator, "nodes_values")?.unwrap_or_default();
        if values.len() != nodes {
            let what = format_args!("'nodes_values' has {} elements, and {nodes} are needed", values.len());
            return Err(wrong(operator, what));
        }
        // Each node is the branch or the leaf of this number.
        let mut found: HashMap<(i64, i64), Next> = HashMap::with_capacity(nodes);
        let (mut branch_count, mut leaf_count, mut roots) = (0, 0, Vec::new());
        let mut known: HashMap<i64, ()> = HashMap::new();
        for node in 0..nodes {
            let here = if &*modes[node] == b"LEAF" {
                leaf_count += 1;
                Next::Leaf(leaf_count - 1)
            } else {
                branch_count += 1;
                Next::Branch(branch_count - 1)
            };
            if found.insert((trees[node], names[node]), here).is_some() {
                let what = format_args!("tree {} has two nodes {}", trees[node], names[node]);
                return Err(wrong(operator, what));
            }
            // Nodes of a tree mostly stand together.
            let again = node > 0 && trees[node] == trees[node - 1];
            if !again && known.insert(trees[node], ()).is_none() {
                roots.push(here);
            }
        }
        let mut branches = Vec::with_capacity(branch_count as usize);
        for node in 0..nodes {
            use Comparison::{Above, AtLeast, AtMost, Below, Is, IsNot};
            let comparison = match &*modes[node] {
                b"LEAF" => continue,
                b"BRANCH_LEQ" => AtMost,
                b"BRANCH_LT" => Below,
                b"BRANCH_GTE" => AtLeast,
                b"BRANCH_GT" => Above,
                b"BRANCH_EQ" => Is,
                b"BRANCH_NEQ" => IsNot,
                other => {
                    let what = format_args!("nodes_modes has '{}'", String::from_utf8_lossy(other));
                    return Err(wrong(operator, what));
                }
            };
            let next = |list: &[i64]| {
                let child = found.get(&(trees[node], list[node])).copied();
                child.ok_or_else(|| {
                    let (tree, name, child) = (trees[node], names[node], list[node]);
                    wrong(
                        operator,
                        format_args!("node {name} of tree {tree} leads to node {child}, which is not there"),
                    )
                })
            };
            branches.push(Branch {
                comparison,
                feature: feature(operator, features[node])?,
                value: values[node],
                missing: missing.is_some_and(|list| list[node] != 0),
                yes: next(yes)?,
                no: next(no)?,
            });
        }
        let (labels, targets) = if prefix == "class" {
            let labels = ClassLabels::of(operator, "classlabels_int64s")?;
            let count = labels.len();
            (Some(labels), count)
        } else {
            let targets = operator.int("n_targets")?.and_then(|targets| usize::try_from(targets).ok());
            let targets = targets.filter(|&targets| targets > 0);
            (None, targets.ok_or_else(|| wrong(operator, "n_targets is missing or not positive"))?)
        };
        let (weights, double_weights) = numbers(operator, &format!("{prefix}_weights"))?.unwrap_or_default();
        count(operator, weights.len())?;
        let list = |what: &str| ints(operator, &format!("{prefix}_{what}"), weights.len());
        let (ids, vote_trees, vote_nodes) = (list("ids")?, list("treeids")?, list("nodeids")?);
        let mut placed = Vec::with_capacity(weights.len());
        let mut starts = vec![0u32; leaf_count as usize + 1];
        for (vote, &weight) in weights.iter().enumerate() {
            let target = position(operator, &format!("{prefix}_ids"), ids[vote], targets)?;
            let (tree, node) = (vote_trees[vote], vote_nodes[vote]);
            match found.get(&(tree, node)) {
                Some(&Next::Leaf(leaf)) => {
                    starts[leaf as usize + 1] += 1;
                    placed.push((leaf, Vote { target, weight }));
                }
                // A branch ends no way, so what it says is never heard.
                Some(Next::Branch(_)) => {}
                None => {
                    let what = format_args!("there is a weight for node {node} of tree {tree}, which is not there");
                    return Err(wrong(operator, what));
                }
            }
        }
        for leaf in 1..starts.len() {
            starts[leaf] += starts[leaf - 1];
        }
        let mut free = starts.clone();
        let mut votes = vec![Vote { target: 0, weight: 0.0 }; placed.len()];
        for (leaf, vote) in placed {
            let place = &mut free[leaf as usize];
            votes[*place as usize] = vote;
            *place += 1;
        }
        let (base, double_base) = numbers(operator, "base_values")?.unwrap_or_default();
        if !(base.len() <= 1 || base.len() == targets || (labels.is_some() && targets <= 2 && base.len() == 2)) {
            let what = format_args!("it has {} base values for {targets} targets", base.len());
            return Err(wrong(operator, what));
        }
        let aggregate = match operator.text("aggregate_function")? {
            None | Some("SUM") => Aggregate::Sum,
            Some("AVERAGE") => Aggregate::Average,
            Some("MIN") => Aggregate::Min,
            Some("MAX") => Aggregate::Max,
            Some(other) => return Err(wrong(operator, format_args!("aggregate_function '{other}' is unknown"))),
        };
        let classes = match (targets, ids.first()) {
            (1, _) => Classes::Single,
            (2, Some(&first)) if ids.iter().all(|&id| id == first) => {
                if first == 0 {
                    Classes::OneSum
                } else {
                    Classes::SecondOnly
                }
            }
            _ => Classes::Each,
        };
        Ok(Ensemble {
            targets,
            features: least_features(&branches),
            branches,
            roots,
            members: Vec::new(),
            aggregate,
            double: double_values || double_weights || double_base,
            starts,
            shares: weights.iter().all(|&weight| weight >= 0.0),
            votes,
            base,
            transform: Transform::of(operator)?,
            labels: labels.map(|labels| (labels.answers(), classes)),
        })
    }

    /// Checks that each way through the branches ends.
    fn check_circles(&self, operator: &Operator) -> Result<()> {
        #[derive(Clone, Copy, PartialEq)]
        enum Seen {
            Never,
            Open,
            Done,
        }
        let mut seen = vec![Seen::Never; self.branches.len()];
        let mut open: Vec<(u32, u8)> = Vec::new();
        for start in 0..self.branches.len() as u32 {
            if seen[start as usize] == Seen::Never {
                seen[start as usize] = Seen::Open;
                open.push((start, 0));
            }
            while let Some((branch, way)) = open.last_mut() {
                let Branch { yes, no, .. } = self.branches[*branch as usize];
                let next = match *way {
                    0 => yes,
                    1 => no,
                    _ => {
                        seen[*branch as usize] = Seen::Done;
                        open.pop();
                        continue;
                    }
                };
                *way += 1;
                let Next::Branch(next) = next else { continue };
                match seen[next as usize] {
                    Seen::Done => {}
                    Seen::Open => {
                        let what = format_args!("a way through its branches comes back to branch {next}");
                        return Err(wrong(operator, what));
                    }
                    Seen::Never => {
                        seen[next as usize] = Seen::Open;
                        open.push((next, 0));
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the votes of a leaf.
    #[must_use]
    pub fn votes(&self, leaf: u32) -> &[Vote] {
        let leaf = leaf as usize;
        match (self.starts.get(leaf), self.starts.get(leaf + 1)) {
            (Some(&start), Some(&end)) => self.votes.get(start as usize..end as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Returns the number of leaves.
    #[must_use]
    pub fn leaves(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Returns the labels of the classes, where the trees classify.
    #[must_use]
    pub fn labels(&self) -> Option<&ClassLabels> {
        self.labels.as_ref().map(|(labels, _)| labels)
    }

    /// Returns the label at a position, where labels are whole numbers.
    #[must_use]
    pub fn label(&self, position: usize) -> i64 {
        match &self.labels {
            Some((ClassLabels::Ints(list), _)) => list.get(position).copied().unwrap_or_default(),
            _ => 0,
        }
    }

    /// Returns the leaf in which a row ends, and the number of branches on the way.
    pub(super) fn leaf(&self, root: Next, row: &[f64]) -> (u32, usize) {
        let (mut next, mut steps) = (root, 0);
        loop {
            let branch = match next {
                Next::Leaf(leaf) => return (leaf, steps),
                Next::Branch(branch) => &self.branches[branch as usize],
            };
            let (x, value) = (row[branch.feature as usize], branch.value);
            let holds = match branch.comparison {
                Comparison::AtMost => x <= value,
                Comparison::Below => x < value,
                Comparison::AtLeast => x >= value,
                Comparison::Above => x > value,
                Comparison::Is => x == value,
                Comparison::IsNot => x != value,
                Comparison::Member(start, end) => self.members[start as usize..end as usize].contains(&x),
            };
            next = if holds || (branch.missing && x.is_nan()) { branch.yes } else { branch.no };
            steps += 1;
        }
    }

    /// Turns the aggregated votes of a row into its scores, and returns the position of the row's
    /// label.
    ///
    /// `sums` has a number for each target; a smallest or largest vote where that is wanted, else a
    /// sum.
    /// `voted` tells for which targets there was a vote.
    pub fn finish(&self, sums: &mut [f64], voted: &[bool]) -> usize {
        for (index, (sum, &voted)) in sums.iter_mut().zip(voted).enumerate() {
            if !voted {
                *sum = 0.0;
            }
            if self.aggregate == Aggregate::Average {
                *sum /= self.roots.len().max(1) as f64;
            }
            *sum += match &self.base[..] {
                &[one] => one,
                base => base.get(index).copied().unwrap_or(0.0),
            };
        }
        let Some((_, classes)) = &self.labels else {
            self.transform.apply(sums);
            return 0;
        };
        // Votes that are shares of 1 choose the class that they are for from a half on.
        let enough = |sum: f64| sum > if self.shares { 0.5 } else { 0.0 };
        match (classes, &mut *sums) {
            (Classes::OneSum, &mut [ref mut first, ref mut second]) => {
                let label = usize::from(enough(*first));
                [*first, *second] = self.transform.pair(*first, !self.shares);
                label
            }
            (Classes::SecondOnly, &mut [ref mut first, second]) => {
                let label = usize::from(enough(second));
                if let [_] = self.base[..] {
                    // The base is that of the votes.
                    *first = 0.0;
                }
                self.transform.apply(sums);
                label
            }
            (Classes::Single, &mut [only]) => {
                self.transform.apply(sums);
                usize::from(only > 0.0)
            }
            _ => {
                // A class without votes is not chosen, unless each class has a base.
                let based = !self.base.is_empty();
                let counts = |index: usize| based || voted.get(index).copied().unwrap_or(false);
                let label = largest(sums.iter().enumerate().map(
                    |(index, &sum)| {
                        if counts(index) { sum } else { f64::NEG_INFINITY }
                    },
                ));
                self.transform.apply(sums);
                label
            }
        }
    }
}

fn least_features(branches: &[Branch]) -> usize {
    branches.iter().map(|branch| branch.feature as usize + 1).max().unwrap_or(0)
}
