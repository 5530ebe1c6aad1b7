//! Costs that were measured: families of operators, and the model that a profile gives.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hetero_comm::{Profile, Usability};
use hetero_hal::{DeviceId, DeviceInfo, Node, Operator, OperatorSet, Program, Quality};

use crate::lower::{CostModel, Roofline, bytes, flops};

/// Operators that cost alike: what is measured of one holds for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Family {
    /// Convolutions of all channels with all.
    Convolution,
    /// Convolutions in groups; depthwise ones have a channel in each.
    GroupedConvolution,
    /// Matrix products.
    MatrixProduct,
    /// Pooling, over windows or everything.
    Pooling,
    /// Functions of single elements, broadcast ones too.
    Elementwise,
    /// Reductions, and softmax, which is made of two.
    Reduction,
    /// Normalisations.
    Normalization,
    /// What only moves elements.
    Movement,
    /// Recurrent layers.
    Recurrent,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 9] = [
        Family::Convolution,
        Family::GroupedConvolution,
        Family::MatrixProduct,
        Family::Pooling,
        Family::Elementwise,
        Family::Reduction,
        Family::Normalization,
        Family::Movement,
        Family::Recurrent,
    ];

    /// The family of an operator of the standard; `None` for one that costs like no other.
    #[must_use]
    pub fn of(operator: &Operator) -> Option<Family> {
        if !operator.domain.is_empty() {
            return None;
        }
        Some(match &*operator.name {
            "Conv" if operator.int("group").ok().flatten().is_some_and(|groups| groups > 1) => {
                Family::GroupedConvolution
            }
            "Conv" => Family::Convolution,
            "Gemm" | "MatMul" => Family::MatrixProduct,
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                Family::Pooling
            }
            "Abs" | "Neg" | "Sign" | "Relu" | "Ceil" | "Floor" | "Round" | "Sqrt" | "Reciprocal" | "Exp" | "Log"
            | "Sin" | "Cos" | "Tan" | "Asin" | "Acos" | "Atan" | "Sinh" | "Cosh" | "Asinh" | "Acosh" | "Atanh"
            | "Tanh" | "Erf" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "Softplus" | "Softsign" | "Elu" | "Celu"
            | "Selu" | "LeakyRelu" | "ThresholdedRelu" | "Mish" | "Gelu" | "Shrink" | "Swish" | "Add" | "Sub"
            | "Mul" | "Div" | "Pow" | "PRelu" | "Sum" | "Mean" | "Max" | "Min" | "Mod" | "Equal" | "Greater"
            | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" | "Xor" | "Not" | "BitwiseAnd" | "BitwiseOr"
            | "BitwiseXor" | "BitwiseNot" | "BitShift" | "IsNaN" | "IsInf" | "Where" | "Clip" | "Cast" => {
                Family::Elementwise
            }
            "Softmax" | "LogSoftmax" | "Hardmax" | "ArgMax" | "ArgMin" | "ReduceMean" | "ReduceSum" | "ReduceMax"
            | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp"
            | "ReduceSumSquare" => Family::Reduction,
            "BatchNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "LayerNormalization"
            | "RMSNormalization"
            | "LpNormalization"
            | "MeanVarianceNormalization"
            | "LRN" => Family::Normalization,
            "Transpose" | "Concat" | "Slice" | "Split" | "Pad" | "Gather" | "GatherElements" | "GatherND"
            | "Expand" | "Tile" | "DepthToSpace" | "SpaceToDepth" | "Identity" | "Reshape" | "Flatten" | "Squeeze"
            | "Unsqueeze" => Family::Movement,
            "LSTM" | "GRU" | "RNN" => Family::Recurrent,
            _ => return None,
        })
    }

    /// Its name in profiles.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Family::Convolution => "convolution",
            Family::GroupedConvolution => "grouped convolution",
            Family::MatrixProduct => "matrix product",
            Family::Pooling => "pooling",
            Family::Elementwise => "element-wise",
            Family::Reduction => "reduction",
            Family::Normalization => "normalisation",
            Family::Movement => "data movement",
            Family::Recurrent => "recurrent",
        }
    }

    /// The family of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.name() == name)
    }
}

/// A run of an operator: how much work it was, and how long it took.
#[derive(Clone, Copy, Debug)]
struct Run {
    flops: f64,
    bytes: f64,
    seconds: f64,
}

/// Seconds by the roofline of a family on a device: an overhead, and the longer of operations at a rate and bytes at a bandwidth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Fit {
    overhead: f64,
    per_flop: f64,
    per_byte: f64,
}

/// Runs that a fit looks at; of more, it takes a selection. The search below takes their fifth power of steps.
const MOST_RUNS: usize = 16;
/// Logarithm of the largest ratio that counts, 4.
const MOST_OFF: f64 = 2.0 * std::f64::consts::LN_2;

impl Fit {
    fn seconds(&self, flops: f64, bytes: f64) -> f64 {
        self.overhead + (self.per_flop * flops).max(self.per_byte * bytes)
    }

    /// How badly it fits: the sum of the absolute logarithms of the ratios, so that small runs count as much as large ones. What is more than four times off
    /// counts as four times: how wild a wild run is says nothing.
    fn loss(&self, runs: &[Run]) -> f64 {
        let off = |run: &Run| (self.seconds(run.flops, run.bytes) / run.seconds).ln().abs();
        runs.iter().map(off).map(|off| if off.is_finite() { off.min(MOST_OFF) } else { f64::INFINITY }).sum()
    }

    /// The fit with the least loss among those that go through some of the runs, as the best fit by absolute deviations does. `None` without
    /// a run.
    fn of(runs: &[Run]) -> Option<Fit> {
        let step = runs.len().div_ceil(MOST_RUNS).max(1);
        let sound = |run: &&Run| [run.flops, run.bytes, run.seconds].iter().all(|x| x.is_finite()) && run.seconds > 0.0;
        let runs: Vec<Run> = runs.iter().step_by(step).filter(sound).copied().collect();
        if runs.is_empty() {
            return None;
        }
        let mut overheads = vec![0.0];
        for (index, a) in runs.iter().enumerate() {
            overheads.push(a.seconds);
            for b in &runs[index + 1..] {
                // Where the line through both meets no work at all.
                for (x, y) in [(a.flops, b.flops), (a.bytes, b.bytes)] {
                    let meets = (a.seconds * y - b.seconds * x) / (y - x);
                    if meets.is_finite() && meets > 0.0 {
                        overheads.push(meets);
                    }
                }
            }
        }
        let fits = overheads.into_iter().flat_map(|overhead| {
            let none = Fit { overhead, ..Fit::default() };
            // The two slopes in turn, from either side.
            let by_flops = none.with_rate(&runs).with_bandwidth(&runs).with_rate(&runs);
            [by_flops, none.with_bandwidth(&runs).with_rate(&runs).with_bandwidth(&runs)]
        });
        // Infinite where a fit gives no time at all.
        fits.map(|fit| (fit.loss(&runs), fit))
            .filter(|(loss, _)| loss.is_finite())
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, fit)| fit)
    }

    fn with_rate(self, runs: &[Run]) -> Fit {
        self.best(runs, |run| run.flops, |slope| Fit { per_flop: slope, ..self })
    }

    fn with_bandwidth(self, runs: &[Run]) -> Fit {
        self.best(runs, |run| run.bytes, |slope| Fit { per_byte: slope, ..self })
    }

    /// The best of the fits with a slope of 0, or one that goes through a run.
    fn best(self, runs: &[Run], work: impl Fn(&Run) -> f64, with: impl Fn(f64) -> Fit) -> Fit {
        let slopes = runs.iter().map(|run| (run.seconds - self.overhead) / work(run));
        let slopes = std::iter::once(0.0).chain(slopes.filter(|slope| slope.is_finite() && *slope > 0.0));
        let loss = |fit: &Fit| if fit.seconds(1.0, 1.0) > 0.0 { fit.loss(runs) } else { f64::INFINITY };
        slopes
            .map(with)
            .map(|fit| (loss(&fit), fit))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
            .map_or(self, |(_, fit)| fit)
    }
}

/// The cost model of a [`Profile`]: for each device and family of operators, the roofline that fits best what was measured there. What was never measured costs
/// what [`Roofline`] says, as does everything on a device whose product or driver is another than the profile's.
///
/// Sizes are measured with f32; other element types count by their bytes. The time of an empty submission is left out of each
/// operator's: a partition is submitted once, and the link to it has that time.
pub struct Calibrated {
    profile: Arc<Profile>,
    fits: HashMap<(DeviceId, Family, bool), Fit>,
    guess: Roofline,
}

impl Calibrated {
    /// Fits the measurements of a profile.
    #[must_use]
    pub fn new(profile: Arc<Profile>, operators: Arc<dyn OperatorSet>) -> Self {
        let mut fits = HashMap::new();
        for device in &profile.devices {
            let submission = device.submission.map_or(0.0, |spread| spread.median);
            let mut runs: BTreeMap<(Family, bool), Vec<Run>> = BTreeMap::new();
            for operator in &device.operators {
                let Some(family) = Family::from_name(&operator.family) else { continue };
                let whole = operator.seconds.median;
                // The two medians are of different runs, so that the difference can be anything; a twentieth is always left.
                let seconds = (whole - submission).max(whole / 20.0);
                let run = Run { flops: operator.flops as f64, bytes: operator.bytes as f64, seconds };
                runs.entry((family, operator.slow)).or_default().push(run);
            }
            for ((family, slow), runs) in runs {
                if let Some(fit) = Fit::of(&runs) {
                    fits.insert((device.id.clone(), family, slow), fit);
                }
            }
        }
        Calibrated { profile, fits, guess: Roofline { operators } }
    }
}

impl CostModel for Calibrated {
    fn seconds(&self, program: &Program, node: &Node, device: &DeviceInfo, quality: &Quality) -> f64 {
        let fit = Family::of(&node.operator)
            .and_then(|family| self.fits.get(&(device.id.clone(), family, *quality != Quality::Native)))
            .filter(|_| self.profile.usability(device) == Usability::Fits);
        match fit {
            Some(fit) => fit.seconds(flops(program, node, &*self.guess.operators) as f64, bytes(program, node) as f64),
            None => self.guess.seconds(program, node, device, quality),
        }
    }
}

#[cfg(test)]
mod tests {
    use hetero_comm::{DeviceProfile, OperatorProfile, Spread};
    use hetero_hal::{Attribute, DType, DeviceKind, Graph, TensorType, Value, ValueId};
    use hetero_reference::Standard;
    use proptest::prelude::*;

    use super::*;

    const TRUE: Fit = Fit { overhead: 5e-6, per_flop: 1e-11, per_byte: 2e-10 };

    /// Work of several sizes, half of it bound by operations.
    fn runs(fit: Fit) -> Vec<Run> {
        let work = (0..6).flat_map(|step| {
            let size = 4f64.powi(step) * 1e4;
            [(size * 100.0, size), (size, size)]
        });
        work.map(|(flops, bytes)| Run { flops, bytes, seconds: fit.seconds(flops, bytes) }).collect()
    }

    #[test]
    fn every_family_has_a_name_and_operators() {
        for family in Family::ALL {
            assert_eq!(Family::from_name(family.name()), Some(family));
        }
        let of = |name: &str| Family::of(&Operator::new(name, 17));
        assert_eq!((of("Conv"), of("LSTM"), of("NonZero")), (Some(Family::Convolution), Some(Family::Recurrent), None));
        let depthwise = Operator::new("Conv", 17).with("group", Attribute::Int(8));
        assert_eq!(Family::of(&depthwise), Some(Family::GroupedConvolution));
        // A misspelt name would never be asked for; there are 120, and more when some are added.
        let known: std::collections::HashSet<&str> =
            Standard::definitions().map(|definition| definition.name).collect();
        let families = known.iter().filter(|name| of(name).is_some()).count();
        assert!(families >= 120, "{families}");
    }

    #[test]
    fn the_fit_finds_the_roofline() {
        let fit = Fit::of(&runs(TRUE)).unwrap();
        for run in runs(TRUE) {
            assert!((fit.seconds(run.flops, run.bytes) / run.seconds - 1.0).abs() < 0.05, "{fit:?}");
        }
        assert_eq!(Fit::of(&[]), None);
        // Only one size, and no operation at all.
        let single = Fit::of(&[Run { flops: 0.0, bytes: 1e6, seconds: 1e-3 }]).unwrap();
        assert!((single.seconds(0.0, 1e6) - 1e-3).abs() < 1e-9);
    }

    /// A Relu of so many elements.
    fn relu(elements: usize) -> Program {
        let value =
            |name: &str| Value { name: name.into(), ty: TensorType::exact(DType::F32, &[elements]), constant: None };
        let node = Node {
            name: "relu".into(),
            operator: Operator::new("Relu", 17),
            inputs: vec![Some(ValueId(0))],
            outputs: vec![Some(ValueId(1))],
        };
        let graph = Graph {
            name: "relu".into(),
            values: vec![value("x"), value("y")],
            nodes: vec![node],
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(1)],
            captures: vec![],
        };
        Program::new(graph, vec![]).unwrap()
    }

    #[test]
    fn measured_families_cost_what_was_measured_and_others_a_guess() {
        let info = DeviceInfo {
            id: DeviceId::new("gpu", 0),
            kind: DeviceKind::Gpu,
            name: "chip".into(),
            vendor: "us".into(),
            driver_version: "1".into(),
            memory_bytes: None,
            numa_node: None,
            emulated: false,
            peak_flops: None,
            peak_bandwidth: None,
        };
        let spread = |median| Spread { median, deviation: 0.0, count: 9 };
        let mut device = DeviceProfile::new(&info);
        device.submission = Some(spread(50e-6));
        device.operators = (0..5)
            .map(|step| {
                let bytes = 8000u64 << (2 * step);
                let seconds = spread(50e-6 + 1e-6 + bytes as f64 * 1e-6);
                let family = Family::Elementwise.name().to_owned();
                OperatorProfile { family, case: String::new(), slow: false, flops: bytes / 8, bytes, seconds }
            })
            .collect();
        let mut profile = Profile::new();
        profile.devices.push(device);
        let costs = Calibrated::new(Arc::new(profile), Arc::new(Standard));
        let guess = Roofline { operators: Arc::new(Standard) };
        let program = relu(10_000);
        let node = &program.nodes()[0];
        let native = costs.seconds(&program, node, &info, &Quality::Native);
        assert!((native / 0.08 - 1.0).abs() < 0.05, "{native}");
        let slow = Quality::Slow("why".into());
        let guessed = guess.seconds(&program, node, &info, &slow);
        assert!((costs.seconds(&program, node, &info, &slow) - guessed).abs() < 1e-12);
        let newer = DeviceInfo { driver_version: "2".into(), ..info };
        let guessed = guess.seconds(&program, node, &newer, &Quality::Native);
        assert!((costs.seconds(&program, node, &newer, &Quality::Native) - guessed).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn a_wild_run_moves_no_other_size(
            wild in 0usize..12,
            factor in prop::sample::select(vec![1e-4, 1e-2, 0.2, 5.0, 1e2, 1e4]),
            noise in prop::collection::vec(0.95f64..1.05, 12),
        ) {
            let mut measured = runs(TRUE);
            measured.iter_mut().zip(noise).for_each(|(run, noise)| run.seconds *= noise);
            measured[wild].seconds *= factor;
            let fit = Fit::of(&measured).unwrap();
            // Of the wild one's own size there is no better evidence.
            for (_, run) in runs(TRUE).into_iter().enumerate().filter(|(index, _)| *index != wild) {
                let ratio = fit.seconds(run.flops, run.bytes) / run.seconds;
                prop_assert!((0.5..2.0).contains(&ratio), "{fit:?}: {ratio} at {run:?}");
            }
        }

        #[test]
        fn costs_are_times_and_grow_with_work(
            measured in prop::collection::vec((0u64..1 << 45, 0u64..1 << 40, 1e-9f64..1e6), 1..40),
            a in (0u64..1 << 50, 0u64..1 << 50),
            more in (0u64..1 << 50, 0u64..1 << 50),
        ) {
            let run = |&(flops, bytes, seconds): &(u64, u64, f64)| Run { flops: flops as f64, bytes: bytes as f64, seconds };
            let fit = Fit::of(&measured.iter().map(run).collect::<Vec<_>>()).unwrap();
            let less = fit.seconds(a.0 as f64, a.1 as f64);
            let greater = fit.seconds((a.0 + more.0) as f64, (a.1 + more.1) as f64);
            prop_assert!(less.is_finite() && less >= 0.0 && less <= greater && greater.is_finite());
        }
    }
}
