//! Tests that the null device passes what it claims, and that the suite sees what it does not
//! claim.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hetero_conformance::{
    Case, Expectations, Outcome, check, contract_cases, run_contract_cases, run_suite, run_weight_cases, suite,
    weight_cases,
};
use hetero_hal::{
    Buffer, BufferLayout, Capabilities, Claim, CompileOptions, DType, Device, DeviceInfo, Driver, Executable,
    ExternalMemory, HostSemantics, OpenOptions, Program, Queue, QueueOptions, Result, Source,
};
use hetero_null::NullDriver;

/// A device that claims nothing and does not say why.
struct Silent(Arc<dyn Device>);

impl Device for Silent {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
    fn claims(&self, _: &Program) -> Vec<Claim> {
        Vec::new()
    }
    fn allocate(&self, layout: BufferLayout) -> Result<Buffer> {
        self.0.allocate(layout)
    }
    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer> {
        self.0.import(memory, semantics)
    }
    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>> {
        self.0.queue(options)
    }
    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>> {
        self.0.compile(source, options)
    }
}

/// Tells whether a case has only the null device's type, f32.
fn plain(case: &Case) -> bool {
    case.inputs.iter().flatten().all(|tensor| tensor.dtype() == DType::F32)
}

#[test]
fn claimed_cases_pass_and_the_others_are_seen() {
    let device = NullDriver.open(0, &OpenOptions::default()).unwrap();
    let (own, other): (Vec<_>, Vec<_>) = suite(3)
        .unwrap()
        .into_iter()
        .partition(|case| ["Relu", "Identity"].contains(&&*case.operator.name) && plain(case));
    let report = run_suite(&*device, &own, &Expectations::default());
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
    assert_eq!(report.passed, own.len());
    assert!(other.iter().all(|case| matches!(check(&*device, case), Outcome::Unclaimed(Some(_)))));
    let silent = Silent(device.clone());
    assert!(other.iter().all(|case| matches!(check(&silent, case), Outcome::Unclaimed(None))));
    // The suite notices an unclaimed case that is not listed and has no reason, and a pass that is
    // listed as unsupported.
    assert_eq!(run_suite(&silent, &other[..5], &Expectations::default()).wrong.len(), 5);
    let listed = Expectations { unsupported: vec![("Relu", "says the list")], failing: vec![] };
    assert!(!run_suite(&*device, &own, &listed).wrong.is_empty());
}

#[test]
fn a_device_without_weights_is_held_to_no_rule_about_them() {
    let device = NullDriver.open(0, &OpenOptions::default()).unwrap();
    let report = run_weight_cases(&*device);
    assert_eq!((report.passed, report.unsupported, report.wrong.len()), (0, weight_cases().len(), 0));
}

#[test]
fn the_null_device_keeps_the_contract_and_what_it_leaves_out_is_counted() {
    let device = NullDriver.open(0, &OpenOptions::default()).unwrap();
    let report = run_contract_cases(&*device, &[NullDriver.open(1, &OpenOptions::default()).unwrap()]);
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
    // The terms are traces, imports, telemetry, native waits and serial forms.
    assert_eq!(report.unsupported, 4 + 6 + 2 + 1 + 4, "{:?}", report.reasons);
    assert_eq!(report.passed, contract_cases().len() - report.unsupported);
}
