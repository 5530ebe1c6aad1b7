//! Words for options and status codes.

use hetero_hal::{DeviceId, Error, ErrorKind};

/// Returns the error for an option that a driver does not know.
/// `known` says which options the driver takes.
#[must_use]
pub fn unknown_option(device: &DeviceId, key: &str, value: &str, known: impl Into<String>) -> Error {
    Error::invalid_argument(format!("the option '{key}={value}' is unknown")).on(device.clone()).with_remedy(known)
}

/// The meaning of a vendor's status codes: the kind of failure and its remedy for some codes, and a
/// name for all of them.
#[derive(Clone, Copy)]
pub struct Codes {
    /// The codes that mean more than that a call failed, with the kind of failure and its remedy.
    pub known: &'static [(&'static [i64], ErrorKind, &'static str)],
    /// The remedy for all other codes.
    pub remedy: &'static str,
    /// The function that returns a code's name in the vendor's own words.
    pub name: fn(i64) -> String,
}

impl Codes {
    /// Returns the error of a call that answered with this code.
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
