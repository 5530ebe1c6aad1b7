//! The placement by hand: patterns of nodes, and the device that each is pinned to.

use std::fmt;
use std::str::FromStr;

use hetero_hal::{DeviceId, Error as HalError, Node, Program};

use crate::Error;

/// Rules that say which nodes run where, whatever they cost there; the partitioner places the
/// others.
///
/// A placement is written `Conv*=wgpu:0,Gemm=fpga:0`.
/// A pattern is matched with the name of a node's operator and with the node's own name.
/// In it, `*` stands for any text and `?` for any character; the first pattern that matches wins.
///
/// ```
/// let placement: hetero::Placement = "Conv*=wgpu:0, Gemm=fpga:0".parse()?;
/// assert_eq!(placement.to_string(), "Conv*=wgpu:0,Gemm=fpga:0");
/// # Ok::<(), hetero::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement(Vec<(String, DeviceId)>);

impl Placement {
    /// Adds a pin behind the others.
    #[must_use]
    pub fn pin(mut self, pattern: impl Into<String>, device: DeviceId) -> Self {
        self.0.push((pattern.into(), device));
        self
    }

    /// Returns the device that a node is pinned to.
    #[must_use]
    pub fn device_of(&self, node: &Node) -> Option<&DeviceId> {
        self.0.iter().find(|(pattern, _)| matches_node(pattern, node)).map(|(_, device)| device)
    }

    /// Returns the patterns that no node of a program matches: they are misspelt, or passes have
    /// folded their nodes away.
    #[must_use]
    pub fn unmatched(&self, program: &Program) -> Vec<&str> {
        let idle = |pattern: &str| !program.nodes().iter().any(|node| matches_node(pattern, node));
        self.0.iter().map(|(pattern, _)| pattern.as_str()).filter(|pattern| idle(pattern)).collect()
    }
}

fn matches_node(pattern: &str, node: &Node) -> bool {
    matches(pattern, &node.operator.name) || matches(pattern, &node.name)
}

/// Tells whether a text matches a pattern of `*` and `?`.
/// It takes time by the product of their lengths at most: only the last `*` is tried again.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut here) = (0, 0);
    // The place behind the last `*`, and how far the text that it stands for reaches.
    let mut star: Option<(usize, usize)> = None;
    while here < text.len() {
        match pattern.get(at) {
            Some('*') => {
                at += 1;
                star = Some((at, here));
            }
            Some(&wanted) if wanted == '?' || wanted == text[here] => {
                at += 1;
                here += 1;
            }
            _ => match star {
                Some((behind, reached)) => {
                    at = behind;
                    here = reached + 1;
                    star = Some((behind, here));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&rest| rest == '*')
}

impl FromStr for Placement {
    type Err = Error;

    /// Parses pins that are separated by commas.
    ///
    /// # Errors
    /// `Device` of the kind `InvalidArgument`, with the part that is no pin.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut placement = Placement::default();
        for part in text.split(',') {
            // A device's id has no '='; the name of a node may.
            let pin = part.trim().rsplit_once('=').filter(|(pattern, _)| !pattern.trim().is_empty());
            let (pattern, device) = pin.ok_or_else(|| {
                HalError::invalid_argument(format!("'{part}' places nothing"))
                    .with_remedy("write PATTERN=DEVICE, such as Conv*=cpu:0, and commas between several")
            })?;
            placement = placement.pin(pattern.trim(), device.trim().parse()?);
        }
        Ok(placement)
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (pattern, device)) in self.0.iter().enumerate() {
            write!(f, "{}{pattern}={device}", if number > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::Operator;

    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, yes, no) in [
            ("Conv", vec!["Conv"], vec!["ConvTranspose", "conv", ""]),
            ("Conv*", vec!["Conv", "ConvTranspose"], vec!["QLinearConv"]),
            ("*Conv*", vec!["Conv", "QLinearConv", "ConvTranspose"], vec!["Con"]),
            ("?elu", vec!["Relu", "Selu"], vec!["elu", "PRelu"]),
            ("/layer*/conv?/*", vec!["/layer1/conv2/Conv", "/layer1/a/conv2/"], vec!["/layer1/conv/"]),
            ("*a*b", vec!["ab", "aab", "xaxbxb"], vec!["aba", "b"]),
            ("**", vec!["", "x"], vec![]),
            ("", vec![""], vec!["x"]),
        ] {
            for text in yes {
                assert!(matches(pattern, text), "{pattern} {text}");
            }
            for text in no {
                assert!(!matches(pattern, text), "{pattern} {text}");
            }
        }
        // A matcher that tries every `*` again would take time by a power of the length.
        assert!(!matches(&"a*".repeat(200), &format!("{}b", "a".repeat(150))));
    }

    #[test]
    fn the_first_that_matches_wins() {
        let placement: Placement = "first=a:1,Relu=a:2,*=a:3".parse().unwrap();
        let node = |name: &str, operator: &str| Node {
            name: name.into(),
            operator: Operator::new(operator, 14),
            inputs: vec![],
            outputs: vec![],
        };
        let of = |name, operator| placement.device_of(&node(name, operator)).unwrap().ordinal();
        assert_eq!((of("first", "Relu"), of("second", "Relu"), of("x", "Neg")), (1, 2, 3));
        assert_eq!(Placement::default().device_of(&node("x", "Neg")), None);
    }

    #[test]
    fn what_is_no_pin_is_said() {
        for bad in ["", "Conv", "=cpu:0", "Conv=", "Conv=cpu:x", "Conv=cpu:0,", "Conv=cpu:0,,Relu=cpu:0"] {
            assert!(bad.parse::<Placement>().is_err(), "{bad}");
        }
        assert_eq!("a=b=cpu:0".parse::<Placement>().unwrap().to_string(), "a=b=cpu:0");
    }
}
