//! Fingerprints: numbers that tell programs apart.

use std::fmt;

use crate::dtype::DType;
use crate::graph::{Attribute, Graph, Node, TensorType};
use crate::tensor::Tensor;

/// A number of 128 bits that tells programs apart by their nodes, attributes, types and ports, and
/// by samples of their constants.
///
/// The number is the same in every process and build, so that plans and caches can be kept under
/// it.
/// It is no proof against forgery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub u128);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The number of bytes at each end of a constant that count.
const ENDS: usize = 256;
/// The number of bytes of each piece in between that counts.
const PIECE: usize = 64;
/// The number of the pieces in between.
const PIECES: usize = 16;

/// A hash in the making: two lanes of folded multiplication, which take eight bytes a step.
pub(crate) struct Digest {
    lanes: [u64; 2],
}

impl Digest {
    pub(crate) fn new() -> Self {
        Digest { lanes: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344] }
    }

    #[inline]
    pub(crate) fn word(&mut self, word: u64) {
        const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];
        for (lane, factor) in self.lanes.iter_mut().zip(FACTORS) {
            let product = u128::from(*lane ^ word) * u128::from(factor);
            *lane = (product as u64) ^ (product >> 64) as u64 ^ word.rotate_left(32);
        }
    }

    /// Takes in bytes and their number, so that two texts in a row differ from two others with the
    /// same joined bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut padded = [0; 8];
            padded[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(padded));
        }
    }

    pub(crate) fn finish(mut self) -> Fingerprint {
        self.word(0);
        self.word(1);
        Fingerprint(u128::from(self.lanes[0]) << 64 | u128::from(self.lanes[1]))
    }

    /// Takes in the type, the shape, and a sample of the bytes: both ends, and pieces in between.
    pub(crate) fn tensor(&mut self, tensor: &Tensor) {
        self.bytes(tensor.dtype().name().as_bytes());
        self.word(tensor.shape().len() as u64);
        tensor.shape().iter().for_each(|&size| self.word(size as u64));
        if tensor.dtype() == DType::String {
            for text in tensor.strings().unwrap_or_default() {
                self.bytes(text.as_bytes());
            }
            return;
        }
        if tensor.dtype().is_parts() {
            tensor.parts().unwrap_or_default().iter().for_each(|part| self.tensor(part));
            return;
        }
        let bytes = tensor.bytes();
        if bytes.len() <= 2 * ENDS + PIECES * PIECE {
            return self.bytes(bytes);
        }
        self.bytes(&bytes[..ENDS]);
        self.bytes(&bytes[bytes.len() - ENDS..]);
        let step = bytes.len() / (PIECES + 1);
        for piece in 1..=PIECES {
            self.bytes(&bytes[piece * step..][..PIECE.min(bytes.len() - piece * step)]);
        }
    }

    /// Digests a value's content, or that it has none.
    pub(crate) fn constant(&mut self, constant: Option<&Tensor>) {
        self.word(u64::from(constant.is_some()));
        if let Some(constant) = constant {
            self.tensor(constant);
        }
    }

    pub(crate) fn node(&mut self, node: &Node) {
        self.bytes(node.name.as_bytes());
        self.bytes(node.operator.domain.as_bytes());
        self.bytes(node.operator.name.as_bytes());
        self.word(u64::from(node.operator.version));
        self.word(node.operator.attributes.len() as u64);
        for (name, value) in &node.operator.attributes {
            self.bytes(name.as_bytes());
            self.attribute(value);
        }
        for list in [&node.inputs, &node.outputs] {
            self.word(list.len() as u64);
            list.iter().for_each(|id| self.word(id.map_or(u64::MAX, |id| u64::from(id.0))));
        }
    }

    /// The kind counts too: an integer and a float may have the same bits.
    fn attribute(&mut self, attribute: &Attribute) {
        let mut begin = |kind: u64, count: usize| {
            self.word(kind);
            self.word(count as u64);
        };
        match attribute {
            Attribute::Int(value) => {
                begin(1, 1);
                self.word(*value as u64);
            }
            Attribute::Float(value) => {
                begin(2, 1);
                self.word(u64::from(value.to_bits()));
            }
            Attribute::String(text) => {
                begin(3, 1);
                self.bytes(text);
            }
            Attribute::Tensor(tensor) => {
                begin(4, 1);
                self.tensor(tensor);
            }
            Attribute::Graph(graph) => {
                begin(5, 1);
                self.graph(graph);
            }
            Attribute::Ints(values) => {
                begin(6, values.len());
                values.iter().for_each(|value| self.word(*value as u64));
            }
            Attribute::Floats(values) => {
                begin(7, values.len());
                values.iter().for_each(|value| self.word(u64::from(value.to_bits())));
            }
            Attribute::Strings(texts) => {
                begin(8, texts.len());
                texts.iter().for_each(|text| self.bytes(text));
            }
            Attribute::Tensors(tensors) => {
                begin(9, tensors.len());
                tensors.iter().for_each(|tensor| self.tensor(tensor));
            }
            Attribute::Graphs(graphs) => {
                begin(10, graphs.len());
                graphs.iter().for_each(|graph| self.graph(graph));
            }
            Attribute::Type(ty) => {
                begin(11, 1);
                self.ty(ty);
            }
        }
    }

    fn ty(&mut self, ty: &TensorType) {
        self.bytes(ty.to_string().as_bytes());
    }

    fn graph(&mut self, graph: &Graph) {
        self.word(graph.nodes.len() as u64);
        graph.nodes.iter().for_each(|node| self.node(node));
        self.word(graph.values.len() as u64);
        for value in &graph.values {
            self.bytes(value.name.as_bytes());
            self.ty(&value.ty);
            self.constant(value.constant.as_ref());
        }
        for ids in [&graph.inputs, &graph.outputs] {
            self.word(ids.len() as u64);
            ids.iter().for_each(|id| self.word(u64::from(id.0)));
        }
        self.word(graph.captures.len() as u64);
        for capture in &graph.captures {
            self.word(u64::from(capture.outer.0) << 32 | u64::from(capture.inner.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Fingerprint {
        let mut digest = Digest::new();
        digest.bytes(bytes);
        digest.finish()
    }

    #[test]
    fn one_changed_bit_changes_the_fingerprint() {
        let mut seen = std::collections::HashSet::new();
        for length in 0..64usize {
            assert!(seen.insert(of(&vec![0; length])), "{length} zeros");
            for bit in 0..length * 8 {
                let mut bytes = vec![0; length];
                bytes[bit / 8] |= 1 << (bit % 8);
                assert!(seen.insert(of(&bytes)), "bit {bit} of {length} bytes");
            }
        }
    }

    #[test]
    fn large_constants_differ_by_any_sampled_piece() {
        let whole = Tensor::from_vec(&[5000], vec![0f32; 5000]).unwrap();
        let of = |tensor: &Tensor| {
            let mut digest = Digest::new();
            digest.tensor(tensor);
            digest.finish()
        };
        for changed in [0, 4999, 5000 / 17 + 1] {
            let mut content = vec![0f32; 5000];
            content[changed] = 1.0;
            assert_ne!(of(&whole), of(&Tensor::from_vec(&[5000], content).unwrap()), "{changed}");
        }
        assert_eq!(of(&whole), of(&whole.clone()));
    }
}
