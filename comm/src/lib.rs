//! The ways of bytes from one device to another, their times, and the profile that keeps these.
//!
//! A [`Transport`] is a way to bring bytes from one device's buffer to another's: it makes the work
//! that a queue does, for whoever has the buffers.
//! [`ZeroCopy`] is for two ends that use the same pages, and [`PeerCopy`] for a device that reaches
//! the other's memory.
//! [`Staged`] goes through the host, and always works.
//! [`measure()`] times each of them over each ordered pair of devices, and between devices and
//! host.
//! A [`Profile`] holds the results with their date and the drivers' versions, beside the times of
//! operators.
//! It says which transport is the cheapest for a size, and fills in the edges of a
//! [`Topology`](hetero_hal::Topology).
//!
//! ```
//! use std::time::Duration;
//! use hetero_comm::{MeasureOptions, Profile, DeviceProfile, host_id, measure, standard_transports};
//! use hetero_hal::{Driver, OpenOptions};
//!
//! let device = hetero_cpu::CpuDriver.open(0, &OpenOptions { threads: Some(1), ..OpenOptions::default() })?;
//! let cpu = device.info().clone();
//! let options = MeasureOptions {
//!     sizes: vec![4 << 10, 64 << 10, 1 << 20],
//!     per_link: Duration::from_millis(100),
//!     ..MeasureOptions::default()
//! };
//! let mut profile = Profile::new();
//! profile.devices.push(DeviceProfile::new(&cpu));
//! profile.links = measure(&[device], &standard_transports(), &options, &mut |_| ());
//!
//! let way = profile.cheapest(&host_id(), &cpu.id, 256 << 10).expect("the CPU reaches host memory");
//! assert!(way.seconds > 0.0 && ["zero-copy", "staged"].contains(&way.transport));
//! assert_eq!(Profile::from_json(&profile.to_json()?)?, profile);
//! # Ok::<(), hetero_hal::Error>(())
//! ```
//!
//! `unsafe` is in the host's end of shared pages and in pages of results only: they are read and
//! written through their address.

mod channel;
mod cost;
mod date;
mod host;
mod local;
mod measure;
mod profile;
mod results;
mod transport;

pub use channel::Channel;
pub use cost::Choice;
pub use host::{host_buffer, host_id};
pub use local::{PeerCopy, Staged, ZeroCopy};
pub use measure::{MeasureOptions, measure};
pub use profile::{
    Absent, DeviceProfile, HostDescription, LinkProfile, NodeProfile, OperatorProfile, Profile, Sample, Spread,
    Usability,
};
pub use results::ResultPages;
pub use transport::{Carriage, Endpoint, Inapplicable, Transport, standard_transports};
