//! Einsum by equations that models have, and by random ones.

use hetero_hal::{DType, Operator, Tensor};

use super::super::Random;
use super::{Made, agree, case, text};

/// Equations as models write them, and their relatives.
const USUAL: &[&str] = &[
    "bhid,bhjd->bhij",
    "bhij,bhjd->bhid",
    "bij,bjk->bik",
    "ij,jk->ik",
    "ij,jk",
    "ij,kj->ik",
    "ji,jk->ki",
    "bqhd,bkhd->bhqk",
    "bhqk,bkhd->bqhd",
    "...ij,...jk->...ik",
    "bchw,cd->bdhw",
    "nct,ncp->ntp",
    "ibk,jbk->ijb",
    "abc,dc->abd",
    "i,j->ij",
    "bi,bj->bij",
    "bij,bj->bi",
    "bi,bij->bj",
    "ij,ij->ij",
    "ij,ij->",
    "ii->i",
    "ii",
    "bii->b",
    "ijk->kji",
    "ijk->ik",
    "ijk->j",
    "bhwc,hkc->bhwk",
    "ij,jk,kl->il",
    "bij,bjk,bkl,bl->bi",
    "aij,jb->aib",
    "ab,cd->abcd",
    "abx,cby->ca",
    "iij,jk->ik",
];

/// Returns an equation of random letters for one to three operands.
fn equation(random: &mut Random) -> String {
    let letters = ['a', 'b', 'c', 'd', 'e'];
    let mut terms = Vec::new();
    for _ in 0..random.size(1, 3) {
        terms.push((0..random.size(1, 4)).map(|_| random.pick(&letters)).collect::<String>());
    }
    let mut all: Vec<char> = terms.concat().chars().collect();
    all.sort_unstable();
    all.dedup();
    let mut result = String::new();
    while !all.is_empty() {
        let letter = all.swap_remove(random.size(0, all.len() - 1));
        if !random.chance(3) {
            result.push(letter);
        }
    }
    format!("{}->{result}", terms.join(","))
}

/// Returns operands of an equation; some sizes of 1 are repeated.
fn operands(random: &mut Random, equation: &str, sizes: &[usize], dtype: DType) -> Vec<Option<Tensor>> {
    let left = equation.split("->").next().unwrap_or_default().replace("...", "z");
    let of: Vec<usize> = (0..26).map(|_| random.pick(sizes)).collect();
    let mut shape = |term: &str| -> Vec<usize> {
        let size = |letter: char| of[letter as usize - 'a' as usize];
        term.chars().map(|letter| if random.chance(12) { 1 } else { size(letter) }).collect()
    };
    let shapes: Vec<Vec<usize>> = left.split(',').map(&mut shape).collect();
    let numbers = |random: &mut Random, shape: &[usize]| match dtype {
        DType::F32 => random.tensor(shape, 1.0).unwrap(),
        _ => {
            let values = random.floats(shape.iter().product(), 9.0).into_iter().map(|x| x as i32).collect();
            Tensor::from_vec::<i32>(shape, values).unwrap()
        }
    };
    shapes.iter().map(|shape| Some(numbers(random, shape))).collect()
}

/// Tells whether an axis that a term names twice has the same size there.
fn consistent(equation: &str, operands: &[Option<Tensor>]) -> bool {
    let left = equation.split("->").next().unwrap_or_default().replace("...", "z");
    left.split(',').zip(operands).all(|(term, operand)| {
        let shape = operand.as_ref().map_or(&[][..], Tensor::shape);
        let named: Vec<(char, usize)> = term.chars().zip(shape.iter().copied()).collect();
        named.iter().all(|(letter, size)| named.iter().all(|(other, own)| letter != other || size == own))
    })
}

fn made(random: &mut Random, sizes: &[usize], dtype: DType, any: bool) -> Made {
    loop {
        let equation = if any { equation(random) } else { random.pick(USUAL).to_owned() };
        let inputs = operands(random, &equation, sizes, dtype);
        if !consistent(&equation, &inputs) {
            continue;
        }
        let operator = Operator::new("Einsum", 12).with("equation", text(&equation));
        return (case(operator, inputs, &[], 1), true);
    }
}

#[test]
fn usual_equations() {
    agree(41, 300, |random| made(random, &[1, 2, 3, 7, 18], DType::F32, false));
}

#[test]
fn random_equations() {
    agree(42, 500, |random| made(random, &[1, 2, 3, 5, 17], DType::F32, true));
}

#[test]
fn equations_of_whole_numbers() {
    agree(43, 150, |random| made(random, &[1, 2, 3, 5, 9], DType::I32, true));
}

#[test]
fn large_products() {
    const LARGE: &[&str] =
        &["bhid,bhjd->bhij", "bhij,bhjd->bhid", "bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd", "bij,bjk->bik"];
    agree(44, 8, |random| {
        let equation = random.pick(LARGE);
        let inputs = operands(random, equation, &[2, 60, 190], DType::F32);
        let operator = Operator::new("Einsum", 12).with("equation", text(equation));
        (case(operator, inputs, &[], 1), true)
    });
    agree(45, 4, |random| {
        let inputs = operands(random, "ki,jk->ij", &[140, 300, 270], DType::F32);
        let operator = Operator::new("Einsum", 12).with("equation", text("ki,jk->ij"));
        (case(operator, inputs, &[], 1), true)
    });
}
