//! The suite as tests with names: each case, network and rule is one of them.

use std::sync::Arc;

use hetero_hal::{Device, Result};

use crate::{
    Case, ContractCase, Outcome, ProgramCase, WeightCase, check, check_contract, check_limits, check_network,
    check_program, check_weights, contract_cases, limits, network, program_cases, suite, weight_cases,
};

/// One test of the suite: it has a name, and an outcome on each device.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DeviceTest {
    /// A generated case of one operator.
    Operator(Case),
    /// A case of numbers at their limits, which is compared by the kind of each number.
    Limit(Case),
    /// A small program: values in between that are rounded, and indexes that lie outside.
    Program(ProgramCase),
    /// A random network, which this seed decides.
    Network {
        /// The number of the network among those of one suite.
        number: u64,
        /// The seed of the network.
        seed: u64,
    },
    /// A rule about a member of the contract.
    Contract(ContractCase),
    /// A rule about weights.
    Weights(WeightCase),
}

impl DeviceTest {
    /// Returns the tests of a seed: all cases of operators and of limits, small programs, this many
    /// networks, and all rules.
    /// No two seeds have a network in common, where both make equally many.
    ///
    /// # Errors
    /// The errors of [`suite`].
    pub fn all(seed: u64, networks: u64) -> Result<Vec<DeviceTest>> {
        let of_seed = |number| DeviceTest::Network { number, seed: seed.wrapping_mul(networks).wrapping_add(number) };
        let mut tests: Vec<_> = suite(seed)?.into_iter().map(DeviceTest::Operator).collect();
        tests.extend(limits()?.into_iter().map(DeviceTest::Limit));
        tests.extend(program_cases()?.into_iter().map(DeviceTest::Program));
        tests.extend((0..networks).map(of_seed));
        tests.extend(contract_cases().into_iter().map(DeviceTest::Contract));
        tests.extend(weight_cases().into_iter().map(DeviceTest::Weights));
        Ok(tests)
    }

    /// Tells whether the test is of numbers at their limits, of a small program, or of more
    /// operands than a kernel binds.
    #[must_use]
    pub fn is_of_limits(&self) -> bool {
        let many = |name: &str| name.contains(" of 40 ") || name.contains(" of 3000 ");
        matches!(self, DeviceTest::Limit(_) | DeviceTest::Program(_)) || many(&self.name())
    }

    /// Returns the name: the operator or member of the contract, then what is special about it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            DeviceTest::Operator(case) | DeviceTest::Limit(case) => case.name.clone(),
            DeviceTest::Program(case) => case.name().to_owned(),
            DeviceTest::Network { number, .. } => format!("network {number}"),
            DeviceTest::Contract(rule) => rule.name(),
            DeviceTest::Weights(rule) => rule.name(),
        }
    }

    /// Tells whether the test looks at what the device says of itself, such as the bytes that it
    /// has allocated, so that nothing else may use the device meanwhile.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        matches!(self, DeviceTest::Contract(_) | DeviceTest::Weights(_))
    }

    /// Runs the test.
    /// `peers` are other devices, for rules about two devices.
    #[must_use]
    pub fn run(&self, device: &dyn Device, peers: &[Arc<dyn Device>]) -> Outcome {
        match self {
            DeviceTest::Operator(case) => check(device, case),
            DeviceTest::Limit(case) => check_limits(device, case),
            DeviceTest::Program(case) => check_program(device, case),
            DeviceTest::Network { seed, .. } => match network(*seed) {
                Ok((program, inputs)) => check_network(device, &program, &inputs),
                Err(error) => Outcome::Failed(format!("the network: {error}")),
            },
            DeviceTest::Contract(rule) => check_contract(device, peers, rule),
            DeviceTest::Weights(rule) => check_weights(device, rule),
        }
    }
}
