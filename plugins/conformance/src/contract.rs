//! Cases of the contract: the promises of each member of `hetero-hal`'s traits, with one rule for
//! each case, beyond the results of programs.

use std::sync::Arc;

use hetero_hal::{Device, Error};

use crate::{Expectations, Outcome, SuiteReport};

mod devices;
mod forms;
mod memory;
mod runs;
mod tools;

/// A rule about a member of the contract.
#[derive(Clone, Copy, Debug)]
pub struct ContractCase {
    member: &'static str,
    rule: &'static str,
    check: Check,
}

/// A function that holds a device to a rule.
type Check = fn(&Bench<'_>) -> Checked;

/// The devices with which a rule is checked.
pub(super) struct Bench<'a> {
    device: &'a dyn Device,
    /// The other devices, for rules about two devices.
    peers: &'a [Arc<dyn Device>],
}

/// The way in which a rule was not kept.
pub(super) enum Fault {
    /// The device does not offer the feature that the rule is about, with the reason.
    Unsupported(String),
    /// The device offers the feature and breaks the rule.
    Broken(String),
}

type Checked = Result<(), Fault>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Broken(error.to_string())
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Fault::Broken(why)
    }
}

impl ContractCase {
    /// Returns the member, and the rule in words.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.member, self.rule)
    }
}

/// Returns all rules.
#[must_use]
pub fn contract_cases() -> Vec<ContractCase> {
    let rules: [(&'static str, &'static str, Check); 30] = [
        ("BindingTable::set", "replaces one buffer of a run and keeps the others", runs::one_buffer_is_replaced),
        ("BindingTable::set", "turns down a position that the table does not have", runs::positions_are_checked),
        ("Queue::submit", "refuses a buffer that is too small", runs::small_buffers_are_refused),
        ("Queue::submit", "refuses a table with too few buffers", runs::short_tables_are_refused),
        ("Queue::submit", "orders work by points alone", runs::points_order_work),
        ("Queue::submit", "lets no small piece of work overtake what it waits for", runs::nothing_is_overtaken),
        ("Queue::submit", "fails the signals of a failed wait and does not run the work", runs::failures_travel),
        ("Queue::run", "returns when the work is over", runs::run_returns_at_the_end),
        ("Timeline", "is reached on the host where it is reached on the device", runs::native_points_are_the_hosts),
        ("TraceSink", "hears of kernels with their times and nodes", runs::kernels_are_traced),
        ("TraceSink", "hears of copies and fills with their bytes", runs::transfers_are_traced),
        ("TraceSink", "hears of a wait", runs::waits_are_traced),
        ("TraceSink", "changes no result", runs::traces_change_nothing),
        ("Device::import", "reads immutable memory in place, and nobody writes it", memory::immutable),
        ("Device::import", "shares memory that both sides write", memory::shared),
        ("Device::import", "copies what is valid during the call only", memory::copied),
        ("Device::reimport", "takes the place of a buffer that nobody holds", memory::replaced),
        ("Device::reimport", "leaves a buffer that others hold as it is", memory::held),
        ("Capabilities::alignment", "is a power of two that allocations and parts keep to", memory::aligned),
        ("Capabilities::imports", "lists kinds that work", memory::every_kind),
        ("Capabilities::dtypes", "lists no element type of which nothing is claimed", devices::element_types),
        ("Telemetry::allocated_bytes", "grows by an allocation and falls with its end", devices::allocations),
        ("Telemetry::busy", "grows with work", devices::work),
        ("Device::refusal", "names a reason where a node is not claimed", devices::refusals),
        ("Device::compile", "ends where it was cancelled or is late", devices::cancelled),
        ("Edge::wait", "lets work wait for another device's point without the host", devices::native_waits),
        ("Executable::serialize", "gives a form that compiles to the same", forms::round_trip),
        ("CompileOptions::cached", "is ignored where it is damaged", forms::damaged),
        ("CompileOptions::cached", "is ignored where it is another program's", forms::of_another_program),
        ("CompileOptions::cached", "is ignored where it is another device's", forms::of_another_device),
    ];
    rules.map(|(member, rule, check)| ContractCase { member, rule, check }).into()
}

/// Holds a device to a rule.
/// `peers` are other devices, for rules about two devices.
#[must_use]
pub fn check_contract(device: &dyn Device, peers: &[Arc<dyn Device>], case: &ContractCase) -> Outcome {
    match (case.check)(&Bench { device, peers }) {
        Ok(()) => Outcome::Passed(0.0),
        Err(Fault::Unsupported(why)) => Outcome::Unclaimed(Some(why)),
        Err(Fault::Broken(why)) => Outcome::Failed(why),
    }
}

/// Holds a device to all rules of the contract.
#[must_use]
pub fn run_contract_cases(device: &dyn Device, peers: &[Arc<dyn Device>]) -> SuiteReport {
    let mut report = SuiteReport::default();
    for case in contract_cases() {
        report.weigh(&Expectations::default(), &case.name(), &check_contract(device, peers, &case));
    }
    report
}
