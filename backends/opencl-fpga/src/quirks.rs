//! Vendors' deviations from what the standard leads one to expect, in one table.

use std::ops::RangeInclusive;

use hetero_hal::DeviceKind;

use crate::processor::{self, Processor};

/// The properties of a driver's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quirks {
    /// Whether it stands for a chip that is not there.
    pub(crate) emulated: bool,
    /// Whether the thread that waits in `clFinish` does a part of the work, or is the first to hear
    /// of its end.
    /// Where only an event tells of the end, that thread is missing: with Intel's driver for
    /// processors, one of two cores was idle.
    /// A kernel there runs on the host's processor, so a kernel that never ends could not be given
    /// up in either way.
    pub(crate) finishes: bool,
    /// The options for its compiler.
    pub(crate) options: &'static str,
    /// Whether its compiler makes machine code for the host's processor, and makes wrong code for
    /// one that [`KNOWN`] does not list.
    pub(crate) compiles_for_host: bool,
}

/// The properties of Intel's processors, and of Intel's emulator, which is the same library.
const INTEL: Quirks = Quirks { emulated: false, finishes: true, options: "-cl-std=CL1.2", compiles_for_host: true };

/// The beginning of a platform's name, a part of a device's name, and the properties of such
/// devices.
const TABLE: &[(&str, &str, Quirks)] = &[
    ("Intel(R) FPGA Emulation", "", Quirks { emulated: true, ..INTEL }),
    ("Intel(R) OpenCL Graphics", "", Quirks { compiles_for_host: false, ..INTEL }),
    ("Intel(R) OpenCL HD Graphics", "", Quirks { compiles_for_host: false, ..INTEL }),
    ("Intel(R) OpenCL", "", INTEL),
    ("Portable Computing Language", "", Quirks { finishes: true, ..STANDARD }),
];

/// The properties that the standard promises, and no more.
const STANDARD: Quirks =
    Quirks { emulated: false, finishes: false, options: "-cl-std=CL1.2", compiles_for_host: false };

/// The processors that a driver knows.
struct Known {
    /// The first driver version that this row holds for; it holds until the next row's version.
    since: &'static [u32],
    /// The vendors by CPUID, and their families.
    families: &'static [(&'static str, &'static [RangeInclusive<u32>])],
}

/// The processors that Intel's drivers that compile for the host know, in the order of their
/// versions.
///
/// The row is the behaviour of driver 2024.18.12 (PyPI: intel-opencl-rt 2025.0.5) under
/// `qemu-x86_64 -cpu max,family=N`.
/// For all other families and vendors it prints 'Unknown host CPU', and convolutions come out
/// wrong.
/// The model does not matter: within a family, the driver asks the processor for its features.
const KNOWN: &[Known] = &[Known {
    since: &[2024, 18],
    families: &[("AuthenticAMD", &[4..=6, 15..=16, 20..=23, 25..=25]), ("GenuineIntel", &[3..=6, 15..=15])],
}];

/// The names that these drivers have for sets of instructions, the largest first, with the features
/// that a processor must offer for each.
const TARGETS: &[(&str, &[&str])] = &[
    ("skx", &["avx2", "fma", "bmi1", "bmi2", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"]),
    ("core-avx2", &["avx2", "fma", "bmi1", "bmi2", "f16c", "lzcnt", "movbe"]),
    ("corei7-avx", &["avx", "popcnt"]),
    ("corei7", &["sse4.2", "popcnt"]),
];

/// Tells whether a driver of this version, such as `2024.18.12.0.05_160000`, knows a processor.
/// Where the version is unknown, or older than all versions in the table, the oldest row answers.
fn knows(version: Option<&str>, processor: &Processor) -> bool {
    let version: Vec<u32> =
        version.into_iter().flat_map(|text| text.split(['.', '_'])).map_while(|part| part.parse().ok()).collect();
    let row = KNOWN.iter().rfind(|known| known.since <= &version[..]).or(KNOWN.first());
    row.is_some_and(|known| {
        let of_vendor = known.families.iter().filter(|(vendor, _)| *vendor == processor.vendor);
        of_vendor.flat_map(|(_, families)| *families).any(|families| families.contains(&processor.family))
    })
}

/// Returns the target for which a driver that compiles for the host is to compile, where it does
/// not know the processor.
/// Returns `None` where the driver knows the processor, and where the processor offers less than
/// any set of instructions that the driver has a name for.
pub(crate) fn substitute(version: Option<&str>, processor: &Processor) -> Option<&'static str> {
    if !cfg!(target_arch = "x86_64") || knows(version, processor) {
        return None;
    }
    TARGETS.iter().find(|(_, features)| processor.has(features)).map(|(target, _)| *target)
}

/// Returns one line for a person, where a driver that compiles for the host does not know the
/// processor.
/// `told` is the target that the driver was told to compile for.
pub(crate) fn notice(version: &str, processor: &Processor, told: &str) -> Option<String> {
    if !cfg!(target_arch = "x86_64") || knows(Some(version), processor) {
        return None;
    }
    let unknown = format!("the driver does not know this processor ({})", processor.kind());
    Some(if told.is_empty() {
        let known = TARGETS.iter().find(|(_, features)| processor.has(features)).map_or("one", |(target, _)| *target);
        let variable = processor::VARIABLE;
        let off = if processor::remedies() { String::new() } else { format!(", or leave out {}", processor::REMEDIES) };
        format!("{unknown}; its results may be wrong: set {variable} to a target that it knows ({known}){off}")
    } else {
        format!("{unknown}; compiled for {told} instead")
    })
}

pub(crate) fn of(platform: &str, device: &str) -> Quirks {
    let found = TABLE.iter().find(|(start, part, _)| platform.starts_with(start) && device.contains(part));
    let mut quirks = found.map_or(STANDARD, |(_, _, quirks)| *quirks);
    // The name of an emulator that the table does not know says that it is one.
    quirks.emulated |= device.to_lowercase().contains("emulat");
    quirks
}

/// Returns the kind of a device by its bits of `CL_DEVICE_TYPE`.
pub(crate) fn kind(bits: u64) -> DeviceKind {
    match bits {
        bits if bits & cl3::device::CL_DEVICE_TYPE_GPU != 0 => DeviceKind::Gpu,
        bits if bits & cl3::device::CL_DEVICE_TYPE_ACCELERATOR != 0 => DeviceKind::Fpga,
        bits if bits & cl3::device::CL_DEVICE_TYPE_CPU != 0 => DeviceKind::Cpu,
        _ => DeviceKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulators_are_known_by_table_and_by_name() {
        assert!(of("Intel(R) FPGA Emulation Platform for OpenCL(TM)", "Intel(R) FPGA Emulation Device").emulated);
        assert!(of("Some Vendor", "Emulator Device").emulated);
        assert!(!of("Portable Computing Language", "pthread-haswell").emulated);
        assert_eq!(of("Unheard of", "Chip"), STANDARD);
    }

    #[test]
    fn intels_drivers_for_processors_compile_for_the_host_and_those_for_graphics_do_not() {
        assert!(of("Intel(R) OpenCL", "AMD EPYC").compiles_for_host);
        assert!(of("Intel(R) FPGA Emulation Platform for OpenCL(TM)", "").compiles_for_host);
        assert!(!of("Intel(R) OpenCL Graphics", "Intel(R) Arc(TM) A770").compiles_for_host);
        assert!(!of("Portable Computing Language", "pthread-haswell").compiles_for_host);
    }

    const DRIVER: &str = "2024.18.12.0.05_160000";
    const AVX2: &[&str] = &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sse4.2"];
    const AVX512: &[&str] = &["avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"];

    fn processor(vendor: &str, family: u32, model: u32, features: &[&[&'static str]]) -> Processor {
        Processor { vendor: vendor.into(), family, model, stepping: 0, features: features.concat() }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn processors_that_the_driver_knows_are_left_to_it() {
        let zen1 = processor("AuthenticAMD", 0x17, 0x01, &[AVX2]);
        let zen4 = processor("AuthenticAMD", 0x19, 0x11, &[AVX2, AVX512]);
        let sapphire_rapids = processor("GenuineIntel", 6, 0x8f, &[AVX2, AVX512]);
        for known in [zen1, zen4, sapphire_rapids] {
            assert_eq!(substitute(Some(DRIVER), &known), None, "{known}");
            assert_eq!(substitute(None, &known), None, "{known}");
            assert_eq!(notice(DRIVER, &known, ""), None, "{known}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn for_other_processors_the_largest_set_that_they_offer_is_compiled_for() {
        let cases = [
            (processor("AuthenticAMD", 0x1a, 0x44, &[AVX2, AVX512]), Some("skx")),
            (processor("AuthenticAMD", 0x1a, 0x24, &[AVX2, &AVX512[..4]]), Some("core-avx2")),
            (processor("GenuineIntel", 18, 1, &[AVX2]), Some("core-avx2")),
            (processor("HygonGenuine", 0x18, 1, &[AVX2]), Some("core-avx2")),
            (processor("FutureVendor", 200, 3, &[&["sse4.2", "popcnt", "avx"]]), Some("corei7-avx")),
            (processor("FutureVendor", 200, 3, &[&["sse4.2", "popcnt"]]), Some("corei7")),
            (processor("FutureVendor", 200, 3, &[]), None),
        ];
        for (unknown, target) in cases {
            assert_eq!(substitute(Some(DRIVER), &unknown), target, "{unknown}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_driver_of_another_version_is_taken_for_the_nearest_older_one_of_the_table() {
        let zen5 = processor("AuthenticAMD", 0x1a, 0x44, &[AVX2, AVX512]);
        for version in ["2023.16.7.0.21_160000", "2025.20.6.0.04_224945", "", "unheard of"] {
            assert_eq!(substitute(Some(version), &zen5), Some("skx"), "{version}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_notice_names_processor_and_target() {
        let zen5 = processor("AuthenticAMD", 0x1a, 0x44, &[AVX2, AVX512]);
        let told = "the driver does not know this processor (AMD family 0x1A); compiled for skx instead";
        assert_eq!(notice(DRIVER, &zen5, "skx").as_deref(), Some(told));
        assert!(notice(DRIVER, &zen5, "").is_some_and(|notice| notice.contains(processor::VARIABLE)));
    }
}
