//! FNV-1a, 64 bits, with a step for whole words: tells contents apart, the same in every build.
//! It is no proof against forgery.

use hetero_hal::{Attribute, Graph, Operator, Tensor};

/// Bytes at each end of a content that count.
const SAMPLE: usize = 1024;

/// A hash in the making.
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// A number in one step, for what is hashed often.
    pub(crate) fn add_word(&mut self, word: u64) {
        // The multiplication carries only upwards: the upper half is brought down, so that every
        // bit reaches the others.
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        self.0 ^= self.0 >> 32;
    }

    /// The length of a content, and both its ends.
    pub(crate) fn add_sample(&mut self, bytes: &[u8]) {
        self.add_word(bytes.len() as u64);
        let (first, last) = (&bytes[..bytes.len().min(SAMPLE)], &bytes[bytes.len().saturating_sub(SAMPLE)..]);
        for end in [first, last] {
            let (words, rest) = end.as_chunks::<8>();
            words.iter().for_each(|word| self.add_word(u64::from_le_bytes(*word)));
            self.add(rest);
        }
    }

    /// An operator with its version and all attributes.
    pub(crate) fn add_operator(&mut self, operator: &Operator) {
        self.add(operator.domain.as_bytes());
        self.add(operator.name.as_bytes());
        self.add_word(u64::from(operator.version));
        for (name, attribute) in &operator.attributes {
            self.add(name.as_bytes());
            self.add_attribute(attribute);
        }
    }

    fn add_attribute(&mut self, attribute: &Attribute) {
        match attribute {
            Attribute::Int(value) => self.add(&value.to_le_bytes()),
            Attribute::Float(value) => self.add(&value.to_le_bytes()),
            Attribute::String(value) => self.add(value),
            Attribute::Ints(values) => values.iter().for_each(|&value| self.add_word(value as u64)),
            Attribute::Floats(values) => values.iter().for_each(|value| self.add(&value.to_le_bytes())),
            Attribute::Strings(values) => values.iter().for_each(|value| self.add(value)),
            Attribute::Tensor(value) => self.add_tensor(value),
            Attribute::Tensors(values) => values.iter().for_each(|value| self.add_tensor(value)),
            Attribute::Graph(graph) => self.add_graph(graph),
            Attribute::Graphs(graphs) => graphs.iter().for_each(|graph| self.add_graph(graph)),
            other => self.add(format!("{other:?}").as_bytes()),
        }
    }

    fn add_tensor(&mut self, tensor: &Tensor) {
        self.add(tensor.dtype().name().as_bytes());
        tensor.shape().iter().for_each(|&size| self.add_word(size as u64));
        self.add_sample(tensor.bytes());
    }

    fn add_graph(&mut self, graph: &Graph) {
        for node in &graph.nodes {
            self.add_operator(&node.operator);
            for id in node.inputs.iter().chain(&node.outputs) {
                self.add_word(id.map_or(u64::MAX, |id| u64::from(id.0)));
            }
        }
        graph.captures.iter().for_each(|capture| self.add_word(u64::from(capture.outer.0)));
        graph.values.iter().filter_map(|value| value.constant.as_ref()).for_each(|content| self.add_tensor(content));
    }

    /// Sixteen digits.
    pub(crate) fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}
