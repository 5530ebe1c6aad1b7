//! What vendors do otherwise than the standard leads one to expect: one table.

use hetero_hal::DeviceKind;

/// What holds for the devices of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quirks {
    /// It stands for a chip that isn't there.
    pub(crate) emulated: bool,
    /// The thread that waits in `clFinish` does a part of the work, or is the first to hear of its end; where only an event tells, a thread is missing: with Intel's driver for
    /// processors one of two cores was idle. A kernel there runs on the host's processor, so one that never ends could not be given up in any way.
    pub(crate) finishes: bool,
    /// Options for its compiler.
    pub(crate) options: &'static str,
}

/// The driver's platform name begins so, the device's name has this in it, and what holds then.
const TABLE: &[(&str, &str, Quirks)] = &[
    ("Intel(R) FPGA Emulation", "", Quirks { emulated: true, finishes: true, options: "-cl-std=CL1.2" }),
    ("Intel(R) OpenCL", "", Quirks { emulated: false, finishes: true, options: "-cl-std=CL1.2" }),
    ("Portable Computing Language", "", Quirks { emulated: false, finishes: true, options: "-cl-std=CL1.2" }),
];

/// What the standard promises, and no more.
const STANDARD: Quirks = Quirks { emulated: false, finishes: false, options: "-cl-std=CL1.2" };

pub(crate) fn of(platform: &str, device: &str) -> Quirks {
    let found = TABLE.iter().find(|(start, part, _)| platform.starts_with(start) && device.contains(part));
    let mut quirks = found.map_or(STANDARD, |(_, _, quirks)| *quirks);
    // An emulator that the table does not know says so itself.
    quirks.emulated |= device.to_lowercase().contains("emulat");
    quirks
}

/// The kind of a device by its bits of `CL_DEVICE_TYPE`.
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
}
