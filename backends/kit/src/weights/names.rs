//! Names of constants, for people to read.

use std::collections::HashMap;

use hetero_hal::{Program, Tensor};

/// The names of a program's constants, found by their bytes: for backends that lower a program to
/// tensors without names.
pub struct ConstantNames<'a>(HashMap<(usize, usize), &'a str>);

impl<'a> ConstantNames<'a> {
    /// Collects the names of all constants of a program.
    #[must_use]
    pub fn of(program: &'a Program) -> Self {
        let named = program.values().iter().filter_map(|value| Some((value.constant.as_ref()?.place(), &*value.name)));
        ConstantNames(named.collect())
    }

    /// Returns the name of a constant, or `table` for one that the program does not have, because
    /// the backend has made it itself.
    #[must_use]
    pub fn find(&self, content: &Tensor) -> &'a str {
        self.0.get(&content.place()).copied().unwrap_or("table")
    }
}
