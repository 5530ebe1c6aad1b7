//! Attention of random sizes, masks, caches and attributes.

use hetero_hal::{Attribute, Bool, Operator, Tensor};

use super::super::Random;
use super::{Made, agree, case, int, numbers};

/// Returns a mask that broadcasts to the scores, of booleans or of numbers.
/// Some queries may see nothing.
fn mask(random: &mut Random, [batch, heads, steps, keys]: [usize; 4], any: bool) -> Tensor {
    let keys = if random.chance(4) { random.size(1, keys) } else { keys };
    let mut shape = vec![random.pick(&[1, batch]), random.pick(&[1, heads]), random.pick(&[1, steps]), keys];
    shape.drain(..random.size(0, 2));
    let count = shape.iter().product();
    if any {
        let mut flags: Vec<Bool> = (0..count).map(|_| Bool::from(random.chance(2))).collect();
        // Whole rows of nothing are rare enough to be missed.
        flags[..count.min(random.size(0, keys))].fill(Bool::from(false));
        return Tensor::from_vec(&shape, flags).unwrap();
    }
    let hidden =
        |random: &mut Random| if random.chance(3) { f32::NEG_INFINITY } else { random.size(0, 9) as f32 * 0.3 };
    Tensor::from_vec(&shape, (0..count).map(|_| hidden(random)).collect()).unwrap()
}

fn made(random: &mut Random, long: bool) -> Made {
    let (batch, heads, group) = (random.size(1, 2), random.size(1, 3), random.pick(&[1, 1, 2, 5]));
    let (width, v_width) = (random.pick(&[1, 4, 7, 16, 40, 64]), random.pick(&[1, 5, 16, 33, 64, 80]));
    let steps = if long { random.pick(&[1, 2, 150, 300]) } else { random.size(1, 40) };
    let (past, fresh) = match long {
        true => (random.pick(&[0, 129, 1100]), random.pick(&[1, 130, 257, 1500])),
        false => (random.pick(&[0, 0, 1, 5, 20]), random.size(1, 40)),
    };
    let keys = past + fresh;
    let flat = random.chance(2);
    let shape = |heads: usize, steps: usize, width: usize| match flat {
        true => vec![batch, steps, heads * width],
        false => vec![batch, heads, steps, width],
    };
    let q_heads = heads * group;
    let mut operator = Operator::new("Attention", 24).with("is_causal", int(random.size(0, 1)));
    if flat {
        operator = operator.with("q_num_heads", int(q_heads)).with("kv_num_heads", int(heads));
    }
    if random.chance(3) {
        operator = operator.with("softcap", Attribute::Float(2.0));
    }
    if random.chance(3) {
        operator = operator.with("scale", Attribute::Float(0.3));
    }
    let mut inputs = vec![
        Some(numbers(random, &shape(q_heads, steps, width))),
        Some(random.tensor(&shape(heads, fresh, width), 1.0).unwrap()),
        Some(random.tensor(&shape(heads, fresh, v_width), 1.0).unwrap()),
    ];
    let any = random.chance(2);
    inputs.push(random.chance(2).then(|| mask(random, [batch, q_heads, steps, keys], any)));
    let earlier = past > 0;
    inputs.push(earlier.then(|| random.tensor(&[batch, heads, past, width], 1.0).unwrap()));
    inputs.push(earlier.then(|| random.tensor(&[batch, heads, past, v_width], 1.0).unwrap()));
    if random.chance(4) {
        let lengths = (0..batch).map(|_| random.size(0, keys) as i64).collect();
        inputs.push(Some(Tensor::from_vec(&[batch], lengths).unwrap()));
    }
    let outputs = random.pick(&[1, 1, 3, 4]);
    if outputs == 4 {
        operator = operator.with("qk_matmul_output_mode", int(random.size(0, 3)));
    }
    (case(operator, inputs, &[], outputs), true)
}

#[test]
fn attention() {
    agree(31, 300, |random| made(random, false));
}

#[test]
fn attention_over_many_keys() {
    agree(32, 12, |random| made(random, true));
}
