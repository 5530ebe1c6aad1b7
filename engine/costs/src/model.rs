//! The cost model: what every source of costs answers.

use hetero_hal::{DeviceInfo, Node, NodeId, Program, Quality};

/// A cost model: it says what a node costs on a device.
pub trait CostModel: Send + Sync {
    /// Returns the seconds that the node takes on the device, finite and not negative.
    fn seconds(&self, program: &Program, node: &Node, device: &DeviceInfo, quality: &Quality) -> f64;

    /// Returns the seconds of several nodes of a program, for a model that looks at what is around
    /// each node.
    fn all(&self, program: &Program, nodes: &[(NodeId, &Quality)], device: &DeviceInfo) -> Vec<f64> {
        let of = |&(id, quality): &(NodeId, &Quality)| {
            program.nodes().get(id.index()).map_or(0.0, |node| self.seconds(program, node, device, quality))
        };
        nodes.iter().map(of).collect()
    }

    /// Returns the joules that the node spends on a device in the given number of seconds.
    /// Returns `None` where nothing is known; then the configured watts count.
    fn joules(&self, _program: &Program, _node: &Node, _device: &DeviceInfo, _seconds: f64) -> Option<f64> {
        None
    }

    /// Returns the share by which the seconds of a plan may be off, such as 0.25.
    /// No plan leaves the fastest device for a smaller gain than that.
    fn uncertainty(&self) -> f64 {
        0.25
    }
}
