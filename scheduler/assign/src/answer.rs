//! What the searches know so far and answer in the end.

/// The best known assignment, if any, and its cost.
#[derive(Clone, Debug)]
pub(super) struct Incumbent {
    pub(super) of: Option<Vec<usize>>,
    pub(super) cost: f64,
}

impl Incumbent {
    pub(super) const NONE: Self = Self { of: None, cost: f64::INFINITY };
}

/// The best assignment that was found, and a bound, which is infinite where there is no assignment.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) best: Incumbent,
    pub(super) bound: f64,
}
