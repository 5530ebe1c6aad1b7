//! Transports: ways to bring bytes from one device's buffer to another's.

use std::fmt;
use std::sync::Arc;

use hetero_hal::{Buffer, Device, DeviceId, Result, Work};

use crate::host::host_id;

/// The place where bytes come from or go to.
#[derive(Clone)]
#[non_exhaustive]
pub enum Endpoint {
    /// The program itself: memory that no device owns.
    Host,
    /// A device of this process.
    Device(Arc<dyn Device>),
}

impl Endpoint {
    /// Returns the endpoint's name: the device's, or `host:0`.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        match self {
            Endpoint::Host => host_id(),
            Endpoint::Device(device) => device.info().id.clone(),
        }
    }

    /// Returns the device, where the endpoint is one.
    #[must_use]
    pub fn device(&self) -> Option<&Arc<dyn Device>> {
        match self {
            Endpoint::Host => None,
            Endpoint::Device(device) => Some(device),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.id())
    }
}

/// The reason why a transport does not serve a pair of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Inapplicable {
    /// Nothing has to be moved.
    #[error("both ends are {0}")]
    SameEnd(DeviceId),
    /// A device cannot use host memory in place.
    #[error("{0} does not import host memory")]
    NoImport(DeviceId),
    /// Neither device copies from or to the other's memory.
    #[error("neither {from} nor {to} reaches the other's memory")]
    NoPeerAccess {
        /// The sender.
        from: DeviceId,
        /// The receiver.
        to: DeviceId,
    },
    /// The host has no queue that could copy.
    #[error("the transport works between devices, and one end is the host")]
    Host,
    /// The endpoint is of a kind that the transport does not know.
    #[error("the transport does not serve {0}")]
    Endpoint(DeviceId),
}

/// How a transport serves a pair of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// Both ends use the same pages of host memory, which devices import: nothing is moved.
    InPlace,
    /// The sender's queue does the work that brings the bytes.
    BySender,
    /// The receiver's queue does the work that brings the bytes.
    ByReceiver,
}

impl Carriage {
    /// Returns the end whose queue does the work, of the two given; `None` where there is no work.
    ///
    /// ```
    /// use hetero_comm::Carriage;
    ///
    /// assert_eq!(Carriage::BySender.carrier("left", "right"), Some("left"));
    /// assert_eq!(Carriage::InPlace.carrier("left", "right"), None);
    /// ```
    #[must_use]
    pub fn carrier<End>(self, sender: End, receiver: End) -> Option<End> {
        match self {
            Carriage::InPlace => None,
            Carriage::BySender => Some(sender),
            Carriage::ByReceiver => Some(receiver),
        }
    }
}

/// A way to bring bytes from one endpoint to another.
/// Transports are registered like drivers, and all methods may be called from any thread.
///
/// A transport makes the *work* that brings bytes between two buffers, and owns neither memory nor
/// queue.
/// Whoever has the buffers submits the work to the queue of the end that [`Transport::applies`]
/// names: a session does so for its transfers, and [`measure`](crate::measure()) for what it times.
/// So what was measured is what is done.
///
/// A transport across processes or machines serves endpoints that only it understands: a rank's
/// device is a [`Device`] of a driver of its own, or a further variant of [`Endpoint`].
/// Three such transports are known to come, and fit as follows:
///
/// - **Shared memory between processes**: the peer's driver imports the pages of a memfd whose
///   descriptor came over a socket, and the transport is [`Carriage::InPlace`], as
///   [`ZeroCopy`](crate::ZeroCopy) is inside one process.
///   The peer's timelines pass on points, by counters in the same pages.
/// - **UCX**: [`Transport::carry`] registers the source's memory and exchanges remote keys.
///   The work is a host function that puts the bytes, and makes progress until they are there.
/// - **MPI**: as with UCX, but with persistent requests that [`Transport::carry`] makes and that
///   each run of the work starts again.
pub trait Transport: Send + Sync {
    /// Returns a short name, as it stands in profiles and reports: `zero-copy`, `staged`.
    fn name(&self) -> &str;

    /// Tells whether the transport serves this pair, and how.
    /// The call is cheap, nothing is allocated, and the answer for a pair is always the same.
    ///
    /// # Errors
    /// The reason why it does not.
    fn applies(&self, from: &Endpoint, to: &Endpoint) -> Result<Carriage, Inapplicable>;

    /// Makes the work that brings all bytes of `source`, which `from` has written, to `target`,
    /// which is as long and which `to` reads.
    /// The work is submitted again and again, to the queue of the end that [`Transport::applies`]
    /// names, and ordered by points as any work is; it allocates nothing after its first run.
    /// A session prepares its transfers by this, once for each of the runs under way at once.
    ///
    /// # Errors
    /// `InvalidArgument` where the transport does not serve the pair, where it serves the pair
    /// [in place](Carriage::InPlace), and where the lengths differ.
    /// Otherwise the errors of the devices, such as of registering memory.
    fn carry(&self, from: &Endpoint, to: &Endpoint, source: &Buffer, target: &Buffer) -> Result<Work>;
}

/// Returns the transports that there are now, as a rule the cheapest first:
/// [`ZeroCopy`](crate::ZeroCopy), [`PeerCopy`](crate::PeerCopy), [`Staged`](crate::Staged).
#[must_use]
pub fn standard_transports() -> Vec<Arc<dyn Transport>> {
    vec![Arc::new(crate::ZeroCopy), Arc::new(crate::PeerCopy), Arc::new(crate::Staged)]
}
