//! Cases of the operators that vision models use besides convolutions and pooling: resizing,
//! sampling, boxes, blocks, and the other normalisations.

use hetero_hal::{Attribute, DType, Operator, Tensor};

use crate::cases::{Drawn, Suite, cast, evaluate, i64s, ints, scalar, text};
use crate::types::{FLOATS, OPSET};

impl Suite {
    pub(crate) fn vision(&mut self) {
        self.resizing();
        self.sampling();
        self.boxes();
        self.blocks();
        self.deformed();
        self.other_normalisations();
        self.other_pools();
        self.transposed();
    }

    fn resizing(&mut self) {
        let scales = |values: &[f32]| Some(Tensor::from_vec(&[values.len()], values.to_vec()));
        for mode in ["nearest", "linear", "cubic"] {
            for transform in [
                "half_pixel",
                "asymmetric",
                "align_corners",
                "pytorch_half_pixel",
                "half_pixel_symmetric",
                "tf_crop_and_resize",
            ] {
                for factors in [[1.0, 1.0, 1.5, 0.6], [1.0, 1.0, 0.3, 2.7]] {
                    let mut operator = Operator::new("Resize", 19)
                        .with("mode", text(mode))
                        .with("coordinate_transformation_mode", text(transform));
                    if mode == "nearest" {
                        let rule = ["round_prefer_floor", "floor", "ceil", "round_prefer_ceil"][transform.len() % 4];
                        operator = operator.with("nearest_mode", text(rule));
                    }
                    if mode != "nearest" && transform == "half_pixel" {
                        operator = operator.with("antialias", Attribute::Int(1));
                    }
                    if mode == "cubic" && transform == "asymmetric" {
                        operator = operator.with("exclude_outside", Attribute::Int(1));
                    }
                    let roi = if transform == "tf_crop_and_resize" {
                        scales(&[0.0, 0.0, 0.1, 0.2, 1.0, 1.0, 0.9, 1.1])
                    } else {
                        None
                    };
                    let input = self.random.between(&[1, 2, 7, 5], -1.0, 1.0);
                    let inputs = vec![Some(input), roi, scales(&factors)];
                    self.add_partial(&format!("{mode} {transform} {factors:?}"), operator, inputs, &[1, 2], 1);
                }
            }
            for (policy, axes) in
                [("stretch", [-1, -2]), ("not_larger", [3, 2]), ("not_smaller", [3, 2]), ("not_smaller", [-2, -1])]
            {
                let operator = Operator::new("Resize", 19)
                    .with("mode", text(mode))
                    .with("axes", ints(&axes))
                    .with("keep_aspect_ratio_policy", text(policy));
                let input = self.random.between(&[1, 2, 7, 5], -1.0, 1.0);
                let inputs = vec![Some(input), None, None, Some(i64s(&[11, 3]))];
                self.add_partial(&format!("{mode} {policy} {axes:?}"), operator, inputs, &[3], 1);
            }
            if mode == "cubic" {
                continue;
            }
            for dtype in FLOATS.into_iter().chain([DType::U8, DType::I32]) {
                let input = self.numbers(dtype, &[1, 2, 3, 5], 0.0, 9.0);
                let inputs = vec![Some(input), None, scales(&[1.0, 1.0, 2.0, 2.0])];
                let operator = Operator::new("Resize", 13).with("mode", text(mode));
                self.add_partial(&format!("{mode} {dtype}"), operator, inputs, &[2], 1);
            }
            let input = self.random.between(&[1, 2, 3, 5], -1.0, 1.0);
            let inputs = vec![Some(input), scales(&[1.0, 1.0, 2.0, 3.0])];
            self.add_partial(mode, Operator::new("Upsample", 9).with("mode", text(mode)), inputs, &[1], 1);
        }
    }

    fn sampling(&mut self) {
        for mode in ["linear", "nearest", "cubic"] {
            for padding in ["zeros", "border", "reflection"] {
                for align in [0, 1] {
                    let operator = Operator::new("GridSample", 20)
                        .with("mode", text(mode))
                        .with("padding_mode", text(padding))
                        .with("align_corners", Attribute::Int(align));
                    let inputs = vec![
                        self.random.between(&[2, 3, 5, 7], -1.0, 1.0),
                        self.random.between(&[2, 4, 3, 2], -1.3, 1.3),
                    ];
                    self.add(&format!("{mode} {padding} {align}"), operator.clone(), inputs, &[], 1);
                    if mode != "cubic" {
                        let inputs = vec![
                            self.random.between(&[1, 2, 3, 4, 5], -1.0, 1.0),
                            self.random.between(&[1, 2, 3, 2, 3], -1.3, 1.3),
                        ];
                        self.add(&format!("{mode} {padding} {align} of volumes"), operator, inputs, &[], 1);
                    }
                }
            }
        }
        for dtype in FLOATS {
            let x = self.numbers(dtype, &[1, 2, 5, 7], -1.0, 1.0);
            let grid = self.numbers(dtype, &[1, 3, 3, 2], -1.0, 1.0);
            self.add(dtype.name(), Operator::new("GridSample", 22), vec![x, grid], &[], 1);
            for (theta, size) in [(&[2, 2, 3][..], &[2, 3, 5, 7][..]), (&[1, 3, 4], &[1, 2, 3, 5, 2])] {
                for align in [0, 1] {
                    let operator = Operator::new("AffineGrid", 20).with("align_corners", Attribute::Int(align));
                    let inputs = vec![self.numbers(dtype, theta, -1.0, 1.0), i64s(size)];
                    self.add(&format!("{dtype} {size:?} {align}"), operator, inputs, &[1], 1);
                }
            }
        }
    }

    /// Makes boxes with corners in order, in an image of the given size.
    fn corners(&mut self, count: usize, size: f32) -> Drawn {
        let starts = self.random.between(&[count, 2], 0.0, size * 0.6);
        let sides = self.random.between(&[count, 2], size * 0.1, size * 0.4);
        let add = Operator::new("Add", OPSET);
        let ends = evaluate(&add, &[starts.clone(), sides]);
        let concat = Operator::new("Concat", OPSET).with("axis", Attribute::Int(1));
        evaluate(&concat, &[starts, ends])
    }

    fn boxes(&mut self) {
        for centre in [0, 1] {
            for (limit, overlap, score) in
                [(0, 0.5f32, 0.0f32), (3, 0.5, 0.0), (7, 0.3, 0.4), (20, 0.0, 0.9), (5, 1.0, -1.0)]
            {
                let boxes = (0..2).map(|_| self.corners(17, 10.0)).collect::<Vec<_>>();
                let stack = Operator::new("Concat", OPSET).with("axis", Attribute::Int(0));
                let boxes = evaluate(&stack, &boxes);
                let reshape = Operator::new("Reshape", OPSET);
                let boxes = evaluate(&reshape, &[boxes, i64s(&[2, 17, 4])]);
                let scores = self.random.between(&[2, 3, 17], 0.0, 1.0);
                let limits = [scalar(limit as i64), scalar(overlap), scalar(score)];
                let operator = Operator::new("NonMaxSuppression", 11).with("center_point_box", Attribute::Int(centre));
                let inputs = [vec![boxes, scores], limits.to_vec()].concat();
                self.add(&format!("{centre} {limit} {overlap} {score}"), operator, inputs, &[2, 3, 4], 1);
            }
        }
        for dtype in FLOATS {
            for mode in ["avg", "max"] {
                for transform in ["half_pixel", "output_half_pixel"] {
                    for ratio in [0, 2] {
                        let operator = Operator::new("RoiAlign", 16)
                            .with("mode", text(mode))
                            .with("coordinate_transformation_mode", text(transform))
                            .with("output_height", Attribute::Int(3))
                            .with("output_width", Attribute::Int(2))
                            .with("sampling_ratio", Attribute::Int(ratio))
                            .with("spatial_scale", Attribute::Float(0.5));
                        let rois = self.corners(5, 20.0);
                        let x = self.numbers(dtype, &[2, 3, 11, 13], -1.0, 1.0);
                        let inputs = vec![x, cast(rois, dtype), i64s(&[0, 1, 1, 0, 1])];
                        self.add(&format!("{dtype} {mode} {transform} {ratio}"), operator, inputs, &[], 1);
                    }
                }
            }
        }
        for shape in [[2, 3], [1, 1], [5, 2]] {
            let operator = Operator::new("MaxRoiPool", 1)
                .with("pooled_shape", ints(&shape))
                .with("spatial_scale", Attribute::Float(0.5));
            let corners = self.corners(3, 20.0);
            let batch = Tensor::from_vec(&[3, 1], vec![0.0f32, 1.0, 1.0]);
            let concat = Operator::new("Concat", OPSET).with("axis", Attribute::Int(1));
            let rois = evaluate(&concat, &[batch, corners]);
            let x = self.random.between(&[2, 3, 11, 13], -1.0, 1.0);
            self.add(&format!("{shape:?}"), operator, vec![x, rois], &[], 1);
        }
    }

    fn blocks(&mut self) {
        let types = [DType::F32, DType::F64, DType::F16, DType::BF16, DType::U8, DType::I64, DType::Bool];
        for dtype in types {
            for mode in ["DCR", "CRD"] {
                for (block, shape) in [(2, [1, 8, 3, 5]), (3, [2, 9, 1, 2]), (1, [1, 3, 2, 2])] {
                    let operator = Operator::new("DepthToSpace", 13)
                        .with("blocksize", Attribute::Int(block))
                        .with("mode", text(mode));
                    let input = self.numbers(dtype, &shape, 0.0, 9.0);
                    self.add(&format!("{dtype} {mode} {block}"), operator, vec![input], &[], 1);
                }
            }
            for (block, shape) in [(2, [1, 3, 4, 6]), (3, [2, 1, 3, 9])] {
                let operator = Operator::new("SpaceToDepth", 13).with("blocksize", Attribute::Int(block));
                let input = self.numbers(dtype, &shape, 0.0, 9.0);
                self.add(&format!("{dtype} {block}"), operator, vec![input], &[], 1);
            }
        }
        for dtype in FLOATS {
            for (image, block, strides, dilations, pads) in [
                ([5, 5], [1, 5], [1, 1], [1, 1], [0, 0, 0, 0]),
                ([7, 6], [3, 2], [2, 1], [1, 2], [0, 1, 1, 0]),
                ([5, 4], [2, 2], [3, 2], [1, 1], [1, 0, 1, 0]),
            ] {
                let operator = Operator::new("Col2Im", 18)
                    .with("strides", ints(&strides))
                    .with("dilations", ints(&dilations))
                    .with("pads", ints(&pads));
                let steps = (0..2).map(|axis| {
                    let reach = dilations[axis] * (block[axis] - 1) + 1;
                    (image[axis] + pads[axis] + pads[axis + 2] - reach) / strides[axis] + 1
                });
                let columns = steps.product::<i64>() as usize;
                let shape = [2, 3 * (block[0] * block[1]) as usize, columns];
                let inputs = vec![self.numbers(dtype, &shape, -1.0, 1.0), i64s(&image), i64s(&block)];
                self.add(&format!("{dtype} {image:?} {block:?}"), operator, inputs, &[1, 2], 1);
            }
        }
    }

    fn deformed(&mut self) {
        for dtype in FLOATS {
            for (groups, offsets, strides, pads, masked) in
                [(1, 1, 1, 0, false), (2, 1, 2, 1, true), (1, 2, 1, 1, true), (2, 2, 2, 0, false)]
            {
                let operator = Operator::new("DeformConv", 22)
                    .with("group", Attribute::Int(groups))
                    .with("offset_group", Attribute::Int(offsets))
                    .with("strides", ints(&[strides, 1]))
                    .with("pads", ints(&[pads, 0, pads, 1]));
                let height = ((7 + 2 * pads - 3) / strides + 1) as usize;
                let width = 5 + 1 - 2 + 1;
                let mut inputs = vec![
                    Some(self.numbers(dtype, &[2, 4, 7, 5], -1.0, 1.0)),
                    Some(self.numbers(dtype, &[6, 4 / groups as usize, 3, 2], -1.0, 1.0)),
                    Some(self.numbers(dtype, &[2, offsets as usize * 12, height, width], -1.5, 1.5)),
                    Some(self.numbers(dtype, &[6], -1.0, 1.0)),
                ];
                if masked {
                    inputs.push(Some(self.numbers(dtype, &[2, offsets as usize * 6, height, width], 0.0, 1.0)));
                } else {
                    inputs[3] = None;
                }
                self.add_partial(&format!("{dtype} {groups} {offsets} {strides} {pads}"), operator, inputs, &[1, 3], 1);
            }
        }
    }

    fn other_normalisations(&mut self) {
        for dtype in FLOATS {
            for shape in [&[2, 6, 5, 7][..], &[1, 6, 3], &[3, 6, 1, 2, 3]] {
                let channel = |suite: &mut Self, low, high| suite.numbers(dtype, &[6], low, high);
                let (scale, bias) = (channel(self, 0.5, 1.5), channel(self, -1.0, 1.0));
                let x = self.numbers(dtype, shape, -2.0, 2.0);
                let inputs = vec![x.clone(), scale.clone(), bias.clone()];
                let detail = format!("{dtype} {shape:?}");
                self.add(&detail, Operator::new("InstanceNormalization", 22), inputs.clone(), &[1, 2], 1);
                for groups in [1, 2, 3, 6] {
                    let operator = Operator::new("GroupNormalization", 21).with("num_groups", Attribute::Int(groups));
                    self.add(&format!("{detail} {groups}"), operator, inputs.clone(), &[1, 2], 1);
                }
                let (mean, variance) = (channel(self, -1.0, 1.0), channel(self, 0.5, 1.5));
                let inputs = vec![x.clone(), scale, bias, mean, variance];
                self.add(&detail, Operator::new("BatchNormalization", 15), inputs, &[1, 2, 3, 4], 1);
                for (axes, name) in [(&[0, 2][..], "some axes"), (&[-1], "last axis")] {
                    let operator = Operator::new("MeanVarianceNormalization", 13).with("axes", ints(axes));
                    self.add(&format!("{detail} {name}"), operator, vec![x.clone()], &[], 1);
                }
                for axis in [1, -1] {
                    let operator = Operator::new("LayerNormalization", 17).with("axis", Attribute::Int(axis));
                    let tail: &[usize] = if axis == 1 { &shape[1..] } else { &shape[shape.len() - 1..] };
                    let scale = self.numbers(dtype, tail, 0.5, 1.5);
                    self.add(&format!("{detail} {axis}"), operator, vec![x.clone(), scale.clone()], &[1], 3);
                    let operator = Operator::new("RMSNormalization", 23).with("axis", Attribute::Int(axis));
                    self.add(&format!("{detail} {axis}"), operator, vec![x.clone(), scale], &[1], 1);
                }
                for (axis, p) in [(1, 1), (-1, 2), (0, 2)] {
                    let operator = Operator::new("LpNormalization", 22)
                        .with("axis", Attribute::Int(axis))
                        .with("p", Attribute::Int(p));
                    self.add(&format!("{detail} {axis} {p}"), operator, vec![x.clone()], &[], 1);
                }
            }
            let operator = Operator::new("LRN", 13).with("size", Attribute::Int(3));
            let x = self.numbers(dtype, &[1, 5, 3, 2], -2.0, 2.0);
            self.add(dtype.name(), operator, vec![x], &[], 1);
        }
    }

    fn other_pools(&mut self) {
        for dtype in FLOATS {
            for shape in [&[2, 3, 5, 7][..], &[1, 2, 11], &[1, 1, 2, 3, 5]] {
                let x = self.numbers(dtype, shape, -2.0, 2.0);
                for p in [1, 2, 3] {
                    let operator = Operator::new("GlobalLpPool", 2).with("p", Attribute::Int(p));
                    self.add(&format!("{dtype} {shape:?} {p}"), operator, vec![x.clone()], &[], 1);
                }
                for name in ["GlobalAveragePool", "GlobalMaxPool"] {
                    self.add(&format!("{dtype} {shape:?}"), Operator::new(name, 22), vec![x.clone()], &[], 1);
                }
            }
            for (kernel, strides, pads) in [([2, 2], [2, 2], [0; 4]), ([2, 3], [2, 2], [0, 1, 0, 0])] {
                let pool = |name: &str, version| {
                    Operator::new(name, version)
                        .with("kernel_shape", ints(&kernel))
                        .with("strides", ints(&strides))
                        .with("pads", ints(&pads))
                };
                let x = self.numbers(dtype, &[1, 2, 6, 8], -2.0, 2.0);
                let detail = format!("{dtype} {kernel:?} {pads:?}");
                let pooled = x.clone().and_then(|x| hetero_reference::evaluate(&pool("MaxPool", 22), &[Some(x)], 2));
                self.add(&format!("{detail} with places"), pool("MaxPool", 22), vec![x], &[], 2);
                let pooled =
                    pooled.map_or_else(|error| vec![Err(error)], |pooled| pooled.into_iter().map(Ok).collect());
                self.add(&detail, pool("MaxUnpool", 22), pooled, &[], 1);
            }
        }
    }

    fn transposed(&mut self) {
        for dtype in FLOATS {
            for (rank, groups, strides, pads, extra, dilations) in [
                (1, 1, 1, 0, 0, 1),
                (1, 2, 3, 1, 2, 1),
                (2, 1, 2, 1, 1, 1),
                (2, 2, 3, 0, 1, 2),
                (2, 3, 1, 1, 0, 2),
                (3, 1, 2, 1, 1, 1),
                (3, 2, 1, 0, 0, 1),
            ] {
                let list = |value: i64| ints(&vec![value; rank]);
                let operator = Operator::new("ConvTranspose", 22)
                    .with("group", Attribute::Int(groups as i64))
                    .with("strides", list(strides))
                    .with("pads", ints(&vec![pads; 2 * rank]))
                    .with("output_padding", list(extra))
                    .with("dilations", list(dilations));
                let x = [&[2, 2 * groups][..], &[5, 3, 4][..rank]].concat();
                let w = [&[2 * groups, 3][..], &[3, 2, 3][..rank]].concat();
                let mut inputs = vec![self.numbers(dtype, &x, -1.0, 1.0), self.numbers(dtype, &w, -1.0, 1.0)];
                if strides > 1 {
                    inputs.push(self.numbers(dtype, &[3 * groups], -1.0, 1.0));
                }
                self.add(
                    &format!("{dtype} {rank} D, groups {groups}, strides {strides}"),
                    operator,
                    inputs,
                    &[1, 2],
                    1,
                );
            }
        }
        for rule in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
            let operator =
                Operator::new("ConvTranspose", 11).with("auto_pad", text(rule)).with("strides", ints(&[2, 3]));
            let inputs =
                vec![self.random.between(&[1, 2, 5, 4], -1.0, 1.0), self.random.between(&[2, 3, 3, 4], -1.0, 1.0)];
            self.add(rule, operator, inputs, &[1], 1);
        }
        let operator =
            Operator::new("ConvTranspose", 11).with("output_shape", ints(&[10, 9])).with("strides", ints(&[2, 2]));
        let inputs = vec![self.random.between(&[1, 2, 5, 4], -1.0, 1.0), self.random.between(&[2, 3, 3, 3], -1.0, 1.0)];
        self.add("of a given shape", operator, inputs, &[1], 1);
    }
}
