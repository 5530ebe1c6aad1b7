//! Options and status codes, in words.

use hetero_hal::{DeviceId, Error, ErrorKind};

/// The error of an option that a driver does not know. `known` says which ones it takes.
#[must_use]
pub fn unknown_option(device: &DeviceId, key: &str, value: &str, known: impl Into<String>) -> Error {
    Error::invalid_argument(format!("the option '{key}={value}' is unknown")).on(device.clone()).with_remedy(known)
}

/// What a vendor's status codes mean: for some codes the kind of failure and its remedy, for all of
/// them a name.
#[derive(Clone, Copy)]
pub struct Codes {
    /// Codes that mean more than that a call failed.
    pub known: &'static [(&'static [i64], ErrorKind, &'static str)],
    /// The remedy for all others.
    pub remedy: &'static str,
    /// A code's name in the vendor's own words.
    pub name: fn(i64) -> String,
}

impl Codes {
    /// The error of a call that answered with this code.
    #[must_use]
    pub fn error(&self, call: &str, code: i64) -> Error {
        let known = self.known.iter().find(|(codes, ..)| codes.contains(&code));
        let (kind, remedy) = known.map_or((ErrorKind::Execution, self.remedy), |&(_, kind, remedy)| (kind, remedy));
        Error::new(kind, format!("{call} failed: {}", (self.name)(code))).with_code(code).with_remedy(remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_kinds_and_names() {
        let codes = Codes {
            known: &[(&[-5, -6], ErrorKind::OutOfMemory, "bind smaller shapes")],
            remedy: "look the code up",
            name: |code| format!("CODE_{}", -code),
        };
        let memory = codes.error("clCreateBuffer", -6);
        assert_eq!((memory.kind(), memory.vendor_code()), (ErrorKind::OutOfMemory, Some(-6)));
        assert_eq!(
            codes.error("clFinish", -36).to_string(),
            "execution failed: clFinish failed: CODE_36 [driver code -36]; look the code up"
        );
    }
}
