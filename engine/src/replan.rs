//! Re-planning: what the engine does when a plan cannot be run as it is.
//!
//! | setback | where products run in place of their tiles | where tiles are tiles, or there are none |
//! |---|---|---|
//! | a required device was lost | give up | give up |
//! | another device was lost | divide again without it | the same |
//! | a device turned down a node | keep the tiles | divide again without that node on it, at most three times |
//! | a device turned down no node in particular | keep the tiles | give up |
//! | memory does not suffice | keep the tiles | give up |
//! | a device failed otherwise | keep the tiles | give up |
//! | it is no device's doing | give up | give up |

use std::collections::HashSet;

use hetero_hal::{DeviceId, Error as HalError, ErrorKind, NodeId};

use crate::Error;

/// The number of times that devices may turn down a node at compile time before the engine gives
/// up.
const MOST_DENIED: usize = 3;

/// The progress of the engine in making a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Whether products run in place of their tiles, where these are one device's.
    pub(crate) joined: bool,
    /// The nodes that a device turned down, each with the device's position.
    pub(crate) denied: HashSet<(usize, NodeId)>,
}

/// The reason why a plan cannot be run as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setback {
    /// A device was lost in a run.
    LostRunning,
    /// A device was lost while it compiled.
    LostCompiling,
    /// A required device was lost, in a run or while it compiled: no other may take over for it.
    LostRequired,
    /// A device turned down a node that it had claimed.
    /// The node and the device's position are there where the error tells them.
    Refused(Option<(usize, NodeId)>),
    /// The memory of a device does not suffice.
    OutOfMemory,
    /// A device failed in another way.
    Failed,
    /// The error is no device's doing.
    Unfit,
}

/// The engine's answer to a setback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Divide the program again, without the devices that were lost.
    Divide,
    /// Divide the program again, with the node denied to the device.
    Deny(usize, NodeId),
    /// Run tiles as tiles, not as the products that they were cut from.
    KeepTiles,
    /// Give up, and return the error.
    GiveUp,
}

impl Setback {
    /// Returns the setback that stands behind an error which kept a session from being made.
    /// `uses` tells whether the plan uses a device, `requires` whether the caller requires it, and
    /// `position` where it stands.
    pub(crate) fn of(
        error: &Error,
        uses: impl Fn(&DeviceId) -> bool,
        requires: impl Fn(&DeviceId) -> bool,
        position: impl Fn(&DeviceId) -> Option<usize>,
    ) -> Setback {
        let Error::Device(error) = error else { return Setback::Unfit };
        match error.kind() {
            ErrorKind::DeviceLost if error.device().is_some_and(|id| uses(id) && requires(id)) => Setback::LostRequired,
            ErrorKind::DeviceLost if error.device().is_some_and(uses) => Setback::LostCompiling,
            ErrorKind::Unsupported | ErrorKind::Compile => {
                let place = |error: &HalError| Some((position(error.device()?)?, error.node()?));
                Setback::Refused(place(error))
            }
            ErrorKind::OutOfMemory => Setback::OutOfMemory,
            _ => Setback::Failed,
        }
    }
}

/// Returns what to do about a setback.
pub(crate) fn next(state: &State, setback: Setback) -> Action {
    match setback {
        Setback::LostRunning | Setback::LostCompiling => Action::Divide,
        Setback::LostRequired | Setback::Unfit => Action::GiveUp,
        // A program that is too large for the device as a whole may fit it in parts.
        Setback::Refused(_) | Setback::OutOfMemory | Setback::Failed if state.joined => Action::KeepTiles,
        // A node that is refused again would be refused for ever.
        Setback::Refused(Some(pair)) if state.denied.len() < MOST_DENIED && !state.denied.contains(&pair) => {
            Action::Deny(pair.0, pair.1)
        }
        Setback::Refused(_) | Setback::OutOfMemory | Setback::Failed => Action::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(7);

    #[test]
    fn each_setback_has_its_action() {
        let denied = |count: u32| (0..count).map(|node| (0, NodeId(node))).collect();
        let joined = State { joined: true, ..State::default() };
        let whole = State::default();
        let tired = State { joined: false, denied: denied(3) };
        for (setback, in_joined, in_whole, in_tired) in [
            (Setback::LostRunning, Action::Divide, Action::Divide, Action::Divide),
            (Setback::LostCompiling, Action::Divide, Action::Divide, Action::Divide),
            (Setback::LostRequired, Action::GiveUp, Action::GiveUp, Action::GiveUp),
            (Setback::Refused(Some((1, NODE))), Action::KeepTiles, Action::Deny(1, NODE), Action::GiveUp),
            (Setback::Refused(None), Action::KeepTiles, Action::GiveUp, Action::GiveUp),
            (Setback::OutOfMemory, Action::KeepTiles, Action::GiveUp, Action::GiveUp),
            (Setback::Failed, Action::KeepTiles, Action::GiveUp, Action::GiveUp),
            (Setback::Unfit, Action::GiveUp, Action::GiveUp, Action::GiveUp),
        ] {
            let found = [&joined, &whole, &tired].map(|state| next(state, setback));
            assert_eq!(found, [in_joined, in_whole, in_tired], "{setback:?}");
        }
    }

    #[test]
    fn a_node_that_was_denied_and_is_refused_again_ends_the_attempts() {
        let state = State { joined: false, denied: [(1, NODE)].into() };
        assert_eq!(next(&state, Setback::Refused(Some((1, NODE)))), Action::GiveUp);
        assert_eq!(next(&state, Setback::Refused(Some((0, NODE)))), Action::Deny(0, NODE));
    }

    #[test]
    fn errors_are_told_apart_by_what_they_carry() {
        let id = DeviceId::new("chip", 1);
        let of = |error: HalError| {
            let is = |known: &DeviceId| *known == id;
            Setback::of(&error.into(), is, |known| known.driver() == "needed", |known| is(known).then_some(4))
        };
        let error = |kind: ErrorKind| HalError::new(kind, "it happened").on(id.clone());
        assert_eq!(of(error(ErrorKind::DeviceLost)), Setback::LostCompiling);
        assert_eq!(of(HalError::new(ErrorKind::DeviceLost, "another")), Setback::Failed);
        let lost = HalError::new(ErrorKind::DeviceLost, "it is gone").on(id.clone());
        assert_eq!(Setback::of(&lost.into(), |_| true, |_| true, |_| None), Setback::LostRequired);
        for kind in [ErrorKind::Unsupported, ErrorKind::Compile] {
            assert_eq!(of(error(kind).at_node(NODE, "conv (Conv)")), Setback::Refused(Some((4, NODE))));
            assert_eq!(of(error(kind).at("conv (Conv)")), Setback::Refused(None), "a text is for people");
        }
        assert_eq!(of(error(ErrorKind::OutOfMemory)), Setback::OutOfMemory);
        assert_eq!(of(error(ErrorKind::Internal)), Setback::Failed);
        let unfit = Error::Plan(hetero_scheduler::Error::NoDevice);
        assert_eq!(Setback::of(&unfit, |_| true, |_| true, |_| None), Setback::Unfit);
    }

    /// Whatever errors come, the engine makes no more attempts than it has ways to change the plan.
    #[test]
    fn refusals_end() {
        let mut state = State { joined: true, ..State::default() };
        let mut attempts = 0;
        loop {
            attempts += 1;
            match next(&state, Setback::Refused(Some((0, NodeId(attempts))))) {
                Action::KeepTiles => state.joined = false,
                Action::Deny(device, node) => drop(state.denied.insert((device, node))),
                Action::Divide | Action::GiveUp => break,
            }
        }
        assert_eq!(attempts, 5);
    }
}
