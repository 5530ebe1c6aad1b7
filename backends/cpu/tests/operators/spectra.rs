//! Fourier transforms of any length, and rotations by position.

use hetero_hal::{Operator, Tensor};

use super::{agree, case, int};

/// Lengths of small factors, of a large one, and the least.
const LENGTHS: &[usize] = &[1, 2, 3, 4, 5, 8, 11, 12, 13, 17, 30, 34, 49, 64, 101, 128, 210];

#[test]
fn transforms_along_an_axis() {
    agree(81, 250, |random| {
        let rank = random.size(2, 4);
        let axis = random.size(0, rank - 2);
        let mut shape: Vec<usize> = (0..rank).map(|_| random.size(1, 4)).collect();
        shape[axis] = random.pick(LENGTHS);
        shape[rank - 1] = random.size(1, 2);
        let (inverse, onesided) = (random.size(0, 1), random.size(0, 1));
        if inverse == 1 && onesided == 1 {
            shape[axis] = shape[axis].max(2);
        }
        let operator = Operator::new("DFT", 20).with("inverse", int(inverse)).with("onesided", int(onesided));
        let length = random.chance(3).then(|| Tensor::scalar(random.pick(LENGTHS) as i64));
        let along = Some(Tensor::scalar(axis as i64));
        (case(operator, vec![Some(random.tensor(&shape, 1.0).unwrap()), length, along], &[1, 2], 1), true)
    });
}

#[test]
fn transforms_of_frames() {
    agree(82, 120, |random| {
        let (length, step) = (random.pick(LENGTHS), random.size(1, 20));
        let samples = length + random.size(0, 60);
        let shape = [random.size(1, 2), samples, random.size(1, 2)];
        let operator = Operator::new("STFT", 17).with("onesided", int(random.size(0, 1)));
        let window = random.chance(2).then(|| random.tensor(&[length], 1.0).unwrap());
        let given = (window.is_none() || random.chance(2)).then(|| Tensor::scalar(length as i64));
        let signal = Some(random.tensor(&shape, 1.0).unwrap());
        (case(operator, vec![signal, Some(Tensor::scalar(step as i64)), window, given], &[1, 3], 1), true)
    });
}

#[test]
fn rotations_by_position() {
    agree(83, 150, |random| {
        let (batch, heads, steps, width) =
            (random.size(1, 3), random.size(1, 4), random.size(1, 9), 2 * random.size(1, 20));
        let rotated = 2 * random.size(1, width / 2);
        let half = rotated / 2;
        let flat = random.chance(2);
        let mut operator = Operator::new("RotaryEmbedding", 23).with("interleaved", int(random.size(0, 1)));
        operator = operator.with("rotary_embedding_dim", int(rotated));
        let shape = match flat {
            true => vec![batch, steps, heads * width],
            false => vec![batch, heads, steps, width],
        };
        if flat {
            operator = operator.with("num_heads", int(heads));
        }
        let (table, positions) = match random.chance(2) {
            true => (vec![batch, steps, half], None),
            false => {
                let positions = (0..batch * steps).map(|_| random.size(0, 11) as i64).collect();
                (vec![12, half], Some(Tensor::from_vec(&[batch, steps], positions).unwrap()))
            }
        };
        let x = random.tensor(&shape, 1.0).unwrap();
        let (cos, sin) = (random.tensor(&table, 1.0).unwrap(), random.tensor(&table, 1.0).unwrap());
        (case(operator, vec![Some(x), Some(cos), Some(sin), positions], &[], 1), true)
    });
}
