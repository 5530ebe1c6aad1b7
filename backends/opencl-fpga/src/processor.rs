//! The host's processor, and how a driver that compiles for it is told what to compile for.
//!
//! Some drivers compile kernels for the processor that they run on.
//! On a processor that is newer than they are, Intel's drivers compile for a processor without
//! vectors and call functions for one with vectors.
//! Their results are then wrong, or they crash, and only a line on the standard error output says
//! so.
//! When they start, they read the environment variable [`VARIABLE`], which names the instruction
//! set to compile for.
//! Their settings file `cl.cfg` can say the same.
//! But that file lies beside the vendor's library and holds for every program of the machine, so a
//! library should not write it.

use std::fmt;
use std::sync::{Once, OnceLock};

/// The variable by which Intel's drivers are told what to compile for.
pub(crate) const VARIABLE: &str = "CL_CONFIG_CPU_TARGET_ARCH";

/// A processor, as its instruction CPUID describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Processor {
    /// The vendor's twelve letters, such as `AuthenticAMD`, or the architecture's name where there
    /// is no such instruction.
    pub(crate) vendor: String,
    pub(crate) family: u32,
    pub(crate) model: u32,
    pub(crate) stepping: u32,
    /// The instruction sets that processor and operating system offer, by Rust's names, of those
    /// that a compiler may use.
    pub(crate) features: Vec<&'static str>,
}

impl Processor {
    /// Returns the processor that this process runs on.
    pub(crate) fn host() -> &'static Self {
        static HOST: OnceLock<Processor> = OnceLock::new();
        HOST.get_or_init(read)
    }

    /// Tells whether the processor offers all of these instruction sets.
    pub(crate) fn has(&self, features: &[&str]) -> bool {
        features.iter().all(|feature| self.features.contains(feature))
    }

    /// Returns vendor and family, for a person to read: `AMD family 0x1A`.
    pub(crate) fn kind(&self) -> String {
        let vendor = match &*self.vendor {
            "AuthenticAMD" => "AMD",
            "GenuineIntel" => "Intel",
            other => other,
        };
        format!("{vendor} family {:#X}", self.family)
    }
}

/// Writes all properties that tell the processor from others for which a binary may not be right.
impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Processor { vendor, family, model, stepping, features } = self;
        write!(f, "{vendor} {family}.{model}.{stepping} {}", features.join(","))
    }
}

/// Returns family, model and stepping of CPUID's leaf 1; two fields are extended by others, for
/// large numbers.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
fn signature(word: u32) -> (u32, u32, u32) {
    let (base, model) = (word >> 8 & 0xf, word >> 4 & 0xf);
    let family = if base == 0xf { base + (word >> 20 & 0xff) } else { base };
    let model = if base == 0xf || base == 6 { (word >> 16 & 0xf) << 4 | model } else { model };
    (family, model, word & 0xf)
}

#[cfg(target_arch = "x86_64")]
// Compilers newer than the oldest supported one know that every such processor has the instruction.
#[allow(unused_unsafe)]
fn read() -> Processor {
    use std::arch::is_x86_feature_detected;
    use std::arch::x86_64::__cpuid;

    // SAFETY: every processor of this architecture has the instruction and these two leaves of it.
    let (name, version) = unsafe { (__cpuid(0), __cpuid(1)) };
    let letters: Vec<u8> = [name.ebx, name.edx, name.ecx].into_iter().flat_map(u32::to_le_bytes).collect();
    let (family, model, stepping) = signature(version.eax);
    macro_rules! offered {
        ($($feature:tt),*) => { [$(($feature, is_x86_feature_detected!($feature))),*] };
    }
    let features = offered!(
        "sse4.2",
        "avx",
        "avx2",
        "bmi1",
        "bmi2",
        "f16c",
        "fma",
        "lzcnt",
        "movbe",
        "popcnt",
        "avx512f",
        "avx512dq",
        "avx512bw",
        "avx512vl",
        "avx512cd",
        "avx512ifma",
        "avx512vbmi",
        "avx512vbmi2",
        "avx512vnni",
        "avx512bitalg",
        "avx512vpopcntdq",
        "avx512bf16",
        "avx512fp16",
        "avx512vp2intersect",
        "vaes",
        "vpclmulqdq",
        "gfni"
    );
    let features = features.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
    Processor { vendor: String::from_utf8_lossy(&letters).into_owned(), family, model, stepping, features }
}

#[cfg(not(target_arch = "x86_64"))]
fn read() -> Processor {
    Processor { vendor: std::env::consts::ARCH.to_owned(), family: 0, model: 0, stepping: 0, features: vec![] }
}

/// Returns what drivers of this process were told to compile for, by the user or by
/// [`tell_drivers`]; empty where nobody told them.
pub(crate) fn told() -> String {
    std::env::var_os(VARIABLE).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The variable by which a user turns remedies off: `off`.
/// A driver then does what it does without hetero, and hetero's examination of devices shows what
/// that is.
pub(crate) const REMEDIES: &str = "HETERO_OPENCL_REMEDIES";

/// Tells whether hetero may tell drivers what they do not find out by themselves.
pub(crate) fn remedies() -> bool {
    std::env::var_os(REMEDIES).is_none_or(|value| value != "off")
}

/// Names the instruction set to compile for, where this processor is one for which `substitute` has
/// another target, as drivers do not know it.
///
/// It must be called before the OpenCL loader is opened, because a driver reads the variable when
/// it starts.
/// A value that the user has set stays.
pub(crate) fn tell_drivers(substitute: impl FnOnce(&Processor) -> Option<&'static str>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(target) = substitute(Processor::host()).filter(|_| told().is_empty()) else { return };
        // SAFETY: no other thread may read or write the environment meanwhile, except through
        // `std::env`, whose lock this call holds.
        // This crate sets it here alone, once, and before it opens the OpenCL loader, so no thread
        // of a driver of this crate exists yet; hetero's own threads read the environment through
        // `std::env` only.
        // What this cannot rule out is a thread of the application, or of a library that it has
        // loaded, such as a Vulkan driver, that calls C's `getenv` or `setenv` at this moment.
        // That is a narrow chance and not none: C libraries publish the new list of variables by
        // one store and keep the strings of the old one, but promise nothing.
        // It exists only on processors that no row of the table lists, and not at all where the
        // variable is set before the process starts, as `cargo xtask` does for what it starts.
        unsafe { std::env::set_var(VARIABLE, target) };
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_models_are_put_together_from_their_fields() {
        // These are Zen 5 (Granite Ridge), Zen 4 (Genoa), Sapphire Rapids, and a Pentium whose
        // fields are not extended.
        assert_eq!(signature(0x00b4_0f40), (0x1a, 0x44, 0));
        assert_eq!(signature(0x00a1_0f11), (0x19, 0x11, 1));
        assert_eq!(signature(0x000c_06f2), (6, 0xcf, 2));
        assert_eq!(signature(0x0000_0543), (5, 4, 3));
    }

    #[test]
    fn processors_that_differ_in_any_part_have_different_names() {
        let host = Processor::host();
        let changed = [
            Processor { vendor: "Other".into(), ..host.clone() },
            Processor { family: host.family + 1, ..host.clone() },
            Processor { model: host.model + 1, ..host.clone() },
            Processor { stepping: host.stepping + 1, ..host.clone() },
            Processor { features: [&host.features[..], &["new"]].concat(), ..host.clone() },
        ];
        for other in changed {
            assert_ne!(other.to_string(), host.to_string());
        }
    }

    #[test]
    fn persons_read_vendor_and_family_in_the_form_that_vendors_use() {
        let host = Processor { vendor: "AuthenticAMD".into(), family: 0x1a, ..Processor::host().clone() };
        assert_eq!(host.kind(), "AMD family 0x1A");
    }
}
