//! Families of operators.

use hetero_hal::Operator;

/// A family of operators that cost alike: what is measured of one holds for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Family {
    /// Convolutions of all channels with all.
    Convolution,
    /// Convolutions in groups; depthwise ones have one channel in each group.
    GroupedConvolution,
    /// Matrix products.
    MatrixProduct,
    /// Pooling, over windows or over everything.
    Pooling,
    /// Functions of single elements, broadcast ones too: an element of the output depends only on
    /// the elements of the inputs at its place.
    Elementwise,
    /// Reductions, and softmax, which is made of two.
    Reduction,
    /// Normalisations.
    Normalization,
    /// Operators that only move elements.
    Movement,
    /// Recurrent layers.
    Recurrent,
}

impl Family {
    /// All families.
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

    /// Returns the family of an operator of the standard, or `None` for one that costs like no
    /// other.
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

    /// Returns the family's name in profiles.
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

    /// Returns the family of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.name() == name)
    }
}
