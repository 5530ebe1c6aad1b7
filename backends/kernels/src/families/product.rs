//! Products of matrices.

use hetero_hal::ProgramValue;

use crate::draft::{Draft, Drafts, Operand};
use crate::language::{Dialect, Number};
use crate::site::{Answer, Output, Site, broadcast};

/// How the work of a product is divided: the rows and columns of a tile, the work items of a group
/// along each, and the depth of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_items: usize,
    pub(super) column_items: usize,
    pub(super) depth: usize,
}

impl Tiling {
    /// Returns a tiling for a product of the given rows and columns, with tiles no larger than the
    /// product.
    pub(super) fn of(rows: usize, columns: usize) -> Tiling {
        // Columns lie together in memory, so a work group is wide where it can be.
        let (row_items, per_row) = match rows {
            0..=1 => (1, 1),
            2..=8 => (2, 4),
            9..=32 => (8, 4),
            _ => (8, 8),
        };
        let (column_items, per_column) = match columns {
            0..=1 => (1, 1),
            2..=16 => (8, 2),
            17..=64 => (8, 4),
            _ => (16, 4),
        };
        Tiling { rows: row_items * per_row, columns: column_items * per_column, row_items, column_items, depth: 8 }
    }

    /// Makes a launch of lanes for a product of the given depth.
    /// Compilers of OpenCL C make one vector load of loads of neighbours, and a processor has
    /// registers for about eight or sixteen sums.
    /// Software rasterisers load lane after lane, ten times as slowly as they multiply a vector
    /// (seen with llvmpipe).
    /// There a load serves more products, though the sums are then in memory.
    /// Code for very many sums takes half a second to compile, and is for large products only.
    pub(super) fn lanes(draft: Draft, [rows, columns, depth]: [usize; 3], batch: usize, site: &Site<'_>) -> Draft {
        let large = rows.saturating_mul(columns).saturating_mul(depth) >= LARGE;
        let (items, per_item, across) = match site.target.dialect {
            Dialect::Wgsl if large => (8, share(rows, 16), share(columns.div_ceil(8), 8)),
            Dialect::Wgsl => (8, share(rows, 8), share(columns.div_ceil(8), 4)),
            _ => {
                let per_item = match rows {
                    0..=1 => 1,
                    2..=3 => 2,
                    4..=7 => 4,
                    _ => 8,
                };
                if columns > 2 * LANES { (16, per_item, 2) } else { (LANES, per_item, 1) }
            }
        };
        draft
            .constant("RM", per_item)
            .constant("RN", across)
            .constant("ITEMS", items)
            .flag("WIDE", across > 1)
            .grid([columns.div_ceil(items * across), rows.div_ceil(per_item), batch], items)
    }

    pub(super) fn items(&self) -> usize {
        self.row_items * self.column_items
    }

    pub(super) fn describe(&self, draft: Draft, rows: usize, columns: usize, batch: usize) -> Draft {
        draft
            .constant("TM", self.rows)
            .constant("TN", self.columns)
            .constant("TK", self.depth)
            .constant("GM", self.row_items)
            .constant("GN", self.column_items)
            .constant("RM", self.rows / self.row_items)
            .constant("RN", self.columns / self.column_items)
            .constant("ITEMS", self.items())
            .grid([columns.div_ceil(self.columns), rows.div_ceil(self.rows), batch], self.items())
    }
}

/// Returns the largest of equal shares, of at most `most`, into which `count` is divided.
fn share(count: usize, most: usize) -> usize {
    let shares = count.div_ceil(most).max(1);
    count.div_ceil(shares).max(1)
}

/// The number of multiplications from which on a product of matrices is large.
const LARGE: usize = 1 << 24;
/// The work items of a group, where they are lanes.
const LANES: usize = 64;

/// A matrix within a tensor: the steps along its rows and columns.
struct Matrix {
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

/// Returns the matrix of a factor, and the sizes of its batch.
/// A vector is a matrix of one row, or of one column.
fn factor(value: &ProgramValue, first: bool) -> Answer<(Matrix, Vec<usize>)> {
    match value.shape[..] {
        [] => Err("a product of scalars".to_owned()),
        [size] if first => Ok((Matrix { rows: 1, columns: size, row_step: size, column_step: 1 }, vec![])),
        [size] => Ok((Matrix { rows: size, columns: 1, row_step: 1, column_step: 1 }, vec![])),
        [ref batch @ .., rows, columns] => {
            Ok((Matrix { rows, columns, row_step: columns, column_step: 1 }, batch.to_vec()))
        }
    }
}

/// Multiplies matrices of 8-bit numbers, whose zeros may be other numbers, into 32 bits: one
/// element after the other.
pub(super) fn integers(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let (a, b) = (site.need(0)?, site.need(1)?);
    let ((left, left_batch), (right, right_batch)) = (factor(a, true)?, factor(b, false)?);
    if left.columns != right.rows {
        return Err("its matrices do not fit each other".to_owned());
    }
    let matrix_rank = usize::from(a.shape.len() > 1) + usize::from(b.shape.len() > 1);
    let lead = output.value.shape.len().checked_sub(matrix_rank).ok_or("its result has too few dimensions")?;
    let batch = &output.value.shape[..lead];
    let mut numbers = Vec::new();
    let a_base = offset("a", &left_batch, left.rows * left.columns, batch, &mut numbers);
    let b_base = offset("b", &right_batch, right.rows * right.columns, batch, &mut numbers);
    // One zero, or one for each row of the first factor and each column of the second.
    let zero = |index: usize, name: &str, each: &str, count: usize| match site.input(index) {
        None => Ok("0".to_owned()),
        Some(value) if value.elements() == 1 => Ok(format!("to_int(LOAD({name}, 0u))")),
        Some(value) if value.shape == [count] => Ok(format!("to_int(LOAD({name}, {each}))")),
        Some(value) => Err(format!("zeros of the shape {:?}", value.shape)),
    };
    let (a_zero, b_zero) = (zero(2, "az", "row", left.rows)?, zero(3, "bz", "column", right.columns)?);
    let body = format!(
        "const uint o = LINEAR;\nif (o < n) {{\nconst uint column = o % columns;\nconst uint row = o / columns % rows;\n\
         const uint z = o / (columns * rows);\nconst uint start = {a_base} + row * a_row;\n\
         const uint by = {b_base} + column * b_column;\nconst int a_zero = {a_zero};\nconst int b_zero = {b_zero};\n\
         int sum = 0;\nfor (uint k = 0u; k < depth; k += 1u) {{\n\
         sum = sum + (to_int(LOAD(a, start + k)) - a_zero) * (to_int(LOAD(b, by + k * b_row)) - b_zero);\n}}\n\
         STORE(y, o, sum);\n}}\n"
    );
    let count = output.value.elements();
    let draft = Draft::new("product_integers", body)
        .number("n", count)
        .number("rows", left.rows)
        .number("columns", right.columns)
        .number("depth", left.columns)
        .number("a_row", left.row_step)
        .number("b_row", right.row_step)
        .number("b_column", right.column_step)
        .line(count, LANES as u32, site.target.groups);
    let mut draft = site.reads(site.reads(draft, "a", 0)?, "b", 1)?;
    for (index, name) in [(2, "az"), (3, "bz")] {
        if site.input(index).is_some() {
            draft = site.reads(draft, name, index)?;
        }
    }
    draft.numbers.extend(numbers);
    Ok(Drafts::of(draft.write("y", output.value.dtype, count, Operand::Value(output.id))))
}

pub(super) fn matmul(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    site.floats(&[0, 1])?;
    let (a, b) = (site.need(0)?, site.need(1)?);
    let ((left, left_batch), (right, right_batch)) = (factor(a, true)?, factor(b, false)?);
    let matrix_rank = usize::from(a.shape.len() > 1) + usize::from(b.shape.len() > 1);
    let lead = output.value.shape.len().checked_sub(matrix_rank).ok_or("its result has too few dimensions")?;
    let batch = &output.value.shape[..lead];
    let count: usize = batch.iter().product();
    let mut numbers = Vec::new();
    let a_base = offset("a", &left_batch, left.rows * left.columns, batch, &mut numbers);
    let b_base = offset("b", &right_batch, right.rows * right.columns, batch, &mut numbers);
    let draft = product(site, &left, &right, count, (&a_base, &b_base), "sum")?;
    let mut draft = site.reads(site.reads(draft, "a", 0)?, "b", 1)?;
    draft.numbers.extend(numbers);
    Ok(Drafts::of(output.attach(draft)))
}

/// Returns the offset of the operand's matrix that belongs to matrix `z` of a batch.
/// The operand has a matrix of `elements` elements for each index of `own`.
fn offset(
    name: &str,
    own: &[usize],
    elements: usize,
    batch: &[usize],
    numbers: &mut Vec<(String, Number, u32)>,
) -> String {
    let index = broadcast(name, "z", own, batch, numbers);
    if index == "0u" {
        return index;
    }
    numbers.push((format!("{name}_matrix"), Number::Uint, elements as u32));
    format!("({index}) * {name}_matrix")
}

fn product(
    site: Site<'_>,
    a: &Matrix,
    b: &Matrix,
    batch: usize,
    (a_base, b_base): (&str, &str),
    value: &str,
) -> Answer<Draft> {
    if a.columns != b.rows {
        return Err("its matrices do not fit each other".to_owned());
    }
    let filled = |body: &str| body.replace("$A_BASE", a_base).replace("$B_BASE", b_base).replace("$VALUE", value);
    let draft = if site.target.tiles {
        let draft = Draft::new("product", filled(include_str!("../sources/product.c")));
        Tiling::of(a.rows, b.columns)
            .describe(draft, a.rows, b.columns, batch)
            .flag("A_DEPTH_FIRST", a.column_step == 1)
    } else {
        let draft = Draft::new("product", filled(include_str!("../sources/product_lanes.c")));
        Tiling::lanes(draft, [a.rows, b.columns, a.columns], batch, &site)
    };
    Ok(draft
        .number("rows", a.rows)
        .number("columns", b.columns)
        .number("depth", a.columns)
        .number("a_row", a.row_step)
        .number("a_column", a.column_step)
        .number("b_row", b.row_step)
        .number("b_column", b.column_step))
}

pub(super) fn gemm(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    site.floats(&[0, 1, 2])?;
    let matrix = |index: usize, name: &str| -> Answer<Matrix> {
        let [rows, columns] = site.need(index)?.shape[..] else {
            return Err("a product of what is no matrix".to_owned());
        };
        Ok(if site.int(name, 0)? != 0 {
            Matrix { rows: columns, columns: rows, row_step: 1, column_step: columns }
        } else {
            Matrix { rows, columns, row_step: columns, column_step: 1 }
        })
    };
    let (a, b) = (matrix(0, "transA")?, matrix(1, "transB")?);
    let (alpha, beta) = (site.float("alpha", 1.0)?, site.float("beta", 1.0)?);
    let mut numbers = Vec::new();
    let mut value = if alpha == 1.0 { "sum".to_owned() } else { "alpha * sum".to_owned() };
    let added = site.input(2).filter(|_| beta != 0.0);
    if let Some(added) = added {
        let index = broadcast("c", "at", &added.shape, &output.value.shape, &mut numbers);
        value += if beta == 1.0 { " + " } else { " + beta * " };
        value += &format!("LOAD(c, {index})");
    }
    let draft = product(site, &a, &b, 1, ("0u", "0u"), &value)?;
    let mut draft = site.reads(site.reads(draft, "a", 0)?, "b", 1)?;
    if added.is_some() {
        draft = site.reads(draft, "c", 2)?;
    }
    if alpha != 1.0 {
        draft = draft.float("alpha", alpha);
    }
    if added.is_some() && beta != 1.0 {
        draft = draft.float("beta", beta);
    }
    draft.numbers.extend(numbers);
    Ok(Drafts::of(output.attach(draft)))
}
