//! Measured costs: the cost model that a profile gives.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hetero_comm::{Profile, Usability};
use hetero_hal::{DeviceId, DeviceInfo, Node, NodeId, OperatorSet, Program, Quality};

use crate::family::Family;
use crate::fit::{Corrected, Run};
use crate::model::CostModel;
use crate::roofline::{Roofline, bytes, flops};
use crate::signature::signatures;

/// The cost model of a [`Profile`].
/// A node costs what nodes of the same [signature](signatures) took in runs of whole models, where
/// these were measured.
/// Otherwise it costs, for its device and family of operators, what the roofline says that best
/// fits the measurements, corrected by the runs of about the same size.
/// A node that was never measured costs what [`Roofline`] says, as does every node on a device
/// whose product or driver is another than the profile's.
///
/// Sizes are measured with f32; other element types count by their bytes.
/// The time of an empty submission is left out of each operator's: a partition is submitted once,
/// and the link to it has that time.
pub struct Calibrated {
    profile: Arc<Profile>,
    history: HashMap<DeviceId, HashMap<String, f64>>,
    fits: HashMap<(DeviceId, Family, bool), Corrected>,
    guess: Roofline,
}

impl Calibrated {
    /// Fits the measurements of a profile.
    #[must_use]
    pub fn new(profile: Arc<Profile>, operators: Arc<dyn OperatorSet>) -> Self {
        let (mut history, mut fits) = (HashMap::new(), HashMap::new());
        for device in &profile.devices {
            let submission = device.submission.map_or(0.0, |spread| spread.median);
            let mut runs: BTreeMap<(Family, bool), Vec<Run>> = BTreeMap::new();
            for operator in &device.operators {
                let Some(family) = Family::from_name(&operator.family) else { continue };
                let whole = operator.seconds.median;
                // The two medians are of different runs, so that the difference can be anything.
                // A twentieth of the whole is always left.
                let seconds = (whole - submission).max(whole / 20.0);
                let run = Run { flops: operator.flops as f64, bytes: operator.bytes as f64, seconds };
                runs.entry((family, operator.slow)).or_default().push(run);
            }
            for node in device.nodes.iter().filter(|node| node.seconds.median > 0.0) {
                let Some(family) = Family::from_name(&node.family) else { continue };
                let run = Run { flops: node.flops as f64, bytes: node.bytes as f64, seconds: node.seconds.median };
                runs.entry((family, node.slow)).or_default().push(run);
            }
            let nodes = device.nodes.iter().map(|node| (node.signature.clone(), node.seconds.median));
            history.insert(device.id.clone(), nodes.collect());
            for ((family, slow), runs) in runs {
                if let Some(fit) = Corrected::of(&runs) {
                    fits.insert((device.id.clone(), family, slow), fit);
                }
            }
        }
        Calibrated { profile, history, fits, guess: Roofline { operators } }
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

    fn all(&self, program: &Program, nodes: &[(NodeId, &Quality)], device: &DeviceInfo) -> Vec<f64> {
        let usable = self.profile.usability(device) == Usability::Fits;
        let history = self.history.get(&device.id).filter(|history| usable && !history.is_empty());
        let signatures = if history.is_some() { signatures(program) } else { Vec::new() };
        let of = |&(id, quality): &(NodeId, &Quality)| {
            let known = history.and_then(|history| history.get(signatures.get(id.index())?));
            let guess = || program.nodes().get(id.index()).map(|node| self.seconds(program, node, device, quality));
            known.copied().or_else(guess).unwrap_or(0.0)
        };
        nodes.iter().map(of).collect()
    }

    /// The share within which the times of split plans are predicted.
    fn uncertainty(&self) -> f64 {
        0.15
    }
}

#[cfg(test)]
mod tests {
    use hetero_comm::{DeviceProfile, NodeProfile, OperatorProfile, Spread};
    use hetero_hal::{Attribute, DType, DeviceKind, Graph, Operator, TensorType, Value, ValueId};
    use hetero_reference::Standard;

    use super::*;

    #[test]
    fn every_family_has_a_name_and_operators() {
        for family in Family::ALL {
            assert_eq!(Family::from_name(family.name()), Some(family));
        }
        let of = |name: &str| Family::of(&Operator::new(name, 17));
        assert_eq!((of("Conv"), of("LSTM"), of("NonZero")), (Some(Family::Convolution), Some(Family::Recurrent), None));
        let depthwise = Operator::new("Conv", 17).with("group", Attribute::Int(8));
        assert_eq!(Family::of(&depthwise), Some(Family::GroupedConvolution));
        // A misspelt name would never be asked for.
        // There are 120 names, and more when operators are added.
        let known: std::collections::HashSet<&str> =
            Standard::definitions().map(|definition| definition.name).collect();
        let families = known.iter().filter(|name| of(name).is_some()).count();
        assert!(families >= 120, "{families}");
    }

    fn chip() -> DeviceInfo {
        let mut info = DeviceInfo::new(DeviceId::new("gpu", 0), DeviceKind::Gpu, "chip");
        info.vendor = "us".into();
        info.driver_version = "1".into();
        info.emulated = false;
        info
    }

    /// Returns a program of one Relu with the given number of elements.
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
        let info = chip();
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
        let mut newer = info.clone();
        newer.driver_version = "2".into();
        let guessed = guess.seconds(&program, node, &newer, &Quality::Native);
        assert!((costs.seconds(&program, node, &newer, &Quality::Native) - guessed).abs() < 1e-12);
    }

    /// The measurement of a node with the same signature comes before any roofline, for the device
    /// that it was measured on.
    #[test]
    fn nodes_that_were_measured_cost_what_they_took() {
        let info = chip();
        let (program, other) = (relu(1000), relu(1001));
        let mut device = DeviceProfile::new(&info);
        device.take_nodes(vec![NodeProfile {
            signature: signatures(&program).remove(0),
            family: Family::Elementwise.name().to_owned(),
            case: String::new(),
            slow: false,
            flops: 1000,
            bytes: 8000,
            seconds: Spread { median: 0.125, deviation: 0.0, count: 3 },
        }]);
        let mut profile = Profile::new();
        profile.devices.push(device);
        let costs = Calibrated::new(Arc::new(profile), Arc::new(Standard));
        let of = |program: &Program, info: &DeviceInfo| costs.all(program, &[(NodeId(0), &Quality::Native)], info)[0];
        assert_eq!(of(&program, &info), 0.125);
        // A size that was not measured costs what the roofline through the measurements says.
        assert!((of(&other, &info) - 0.125).abs() < 1e-3 && of(&other, &info) > 0.125);
        let mut newer = info.clone();
        newer.driver_version = "2".into();
        assert!(of(&program, &newer) < 0.01);
        assert_ne!(signatures(&program), signatures(&other));
        assert_eq!(signatures(&program), signatures(&relu(1000)));
    }
}
