//! Operators that read between elements: sampling by grids and in regions.

use hetero_hal::{Attribute, Operator, Tensor};

use super::super::Random;
use super::{Made, agree, case, int, text};

#[test]
fn grids() {
    agree(71, 200, |random| {
        let (batch, channels, rank) = (random.size(1, 2), random.size(1, 5), random.size(1, 3));
        let of = |random: &mut Random, lead: &[usize], more: usize| -> Vec<usize> {
            lead.iter().copied().chain((0..rank).map(|_| random.size(1, more))).collect()
        };
        let shape = of(random, &[batch, channels], 9);
        let mut points = of(random, &[batch], 12);
        points.push(rank);
        let mode = random.pick(&["nearest", "linear", "cubic"]);
        let mode = if mode == "cubic" && rank != 2 { "linear" } else { mode };
        let operator = Operator::new("GridSample", 20)
            .with("mode", text(mode))
            .with("padding_mode", text(random.pick(&["zeros", "border", "reflection"])))
            .with("align_corners", int(random.size(0, 1)));
        let x = random.tensor(&shape, 1.0).unwrap();
        let grid = random.tensor(&points, 1.4).unwrap();
        (case(operator, vec![Some(x), Some(grid)], &[], 1), true)
    });
}

#[test]
fn regions_of_interest() {
    let made = |random: &mut Random| -> Made {
        let (batch, channels) = (random.size(1, 2), random.size(1, 5));
        let shape = [batch, channels, random.size(1, 12), random.size(1, 12)];
        let x = random.tensor(&shape, 1.0).unwrap();
        let count = random.size(1, 4);
        let corners: Vec<f32> = (0..count)
            .flat_map(|_| {
                let (y, x) = (random.size(0, 20) as f32 * 0.7, random.size(0, 20) as f32 * 0.7);
                [x, y, x + random.size(0, 20) as f32 * 0.6, y + random.size(0, 20) as f32 * 0.6]
            })
            .collect();
        let images = (0..count).map(|_| random.size(0, batch - 1) as i64).collect();
        let operator = Operator::new("RoiAlign", random.pick(&[10, 16]))
            .with("output_height", int(random.size(1, 4)))
            .with("output_width", int(random.size(1, 4)))
            .with("sampling_ratio", int(random.size(0, 12)))
            .with("spatial_scale", Attribute::Float(random.pick(&[0.5, 1.0])))
            .with("mode", text(random.pick(&["avg", "max"])));
        let inputs = vec![
            Some(x),
            Some(Tensor::from_vec(&[count, 4], corners).unwrap()),
            Some(Tensor::from_vec(&[count], images).unwrap()),
        ];
        (case(operator, inputs, &[], 1), true)
    };
    agree(72, 150, made);
}

#[test]
fn places_of_maxima() {
    agree(73, 200, |random| {
        let rank = random.size(1, 2);
        let mut shape = vec![random.size(1, 2), random.size(1, 4)];
        shape.extend((0..rank).map(|_| random.size(3, 12)));
        let list = |random: &mut Random, most: usize, count: usize| {
            Attribute::Ints((0..count).map(|_| random.size(1, most) as i64).collect())
        };
        let operator = Operator::new("MaxPool", 12)
            .with("kernel_shape", list(random, 3, rank))
            .with("strides", list(random, 3, rank))
            .with("storage_order", int(random.size(0, 1)));
        let operator = if random.chance(2) { operator.with("auto_pad", text("SAME_UPPER")) } else { operator };
        (case(operator, vec![Some(random.tensor(&shape, 1.0).unwrap())], &[], 2), true)
    });
    agree(74, 60, |random| {
        let shape = [random.size(1, 2), random.size(1, 3), random.size(1, 9), random.size(1, 9)];
        let count = shape.iter().product::<usize>();
        let places = (0..count).map(|_| random.size(0, 4 * count - 1) as i64).collect();
        let operator = Operator::new("MaxUnpool", 11)
            .with("kernel_shape", Attribute::Ints(vec![2, 2]))
            .with("strides", Attribute::Ints(vec![2, 2]));
        let inputs = vec![Some(random.tensor(&shape, 1.0).unwrap()), Some(Tensor::from_vec(&shape, places).unwrap())];
        (case(operator, inputs, &[], 1), true)
    });
}
