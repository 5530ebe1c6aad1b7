//! Platforms: devices of one platform share a context, so that their queues wait for each other's
//! events.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use cl3::types::cl_platform_id;
use hetero_hal::{DeviceId, DeviceInfo, Result};

use crate::handle::{Context, DeviceHandle};
use crate::quirks::Quirks;

/// A device that was found.
pub(crate) struct Found {
    pub(crate) handle: DeviceHandle,
    pub(crate) info: DeviceInfo,
    pub(crate) quirks: Quirks,
    pub(crate) platform: Platform,
}

/// The platform of a device that was found.
#[derive(Clone)]
pub(crate) struct Platform {
    pub(crate) name: String,
    number: usize,
    /// The platform's devices of the same driver, the found one among them.
    devices: Vec<(DeviceId, DeviceHandle)>,
}

/// The contexts that several devices share, while one of the devices is open, and the first device
/// of each.
static CONTEXTS: Mutex<Vec<(DeviceHandle, Weak<Context>)>> = Mutex::new(Vec::new());

impl Platform {
    pub(crate) fn new(id: cl_platform_id, name: &str) -> Self {
        Platform { name: name.to_owned(), number: id as usize, devices: Vec::new() }
    }

    /// Returns the context for a device, and the devices that share it.
    ///
    /// # Errors
    /// The driver's error, where it makes no context of the device.
    pub(crate) fn context(&self, device: DeviceHandle) -> Result<(Arc<Context>, Vec<DeviceId>)> {
        let alone = || Ok((Arc::new(Context::new(&[device])?), Vec::new()));
        let siblings = || self.devices.iter().filter(|(_, other)| *other != device).map(|(id, _)| id.clone()).collect();
        let handles: Vec<DeviceHandle> = self.devices.iter().map(|(_, handle)| *handle).collect();
        let [first, _, ..] = handles[..] else { return alone() };
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        contexts.retain(|(_, context)| context.strong_count() > 0);
        let known = contexts.iter().find(|(other, _)| *other == first);
        if let Some(context) = known.and_then(|(_, context)| context.upgrade()) {
            return Ok((context, siblings()));
        }
        // Where no context can be made of all devices, each has a context of its own.
        let Ok(context) = Context::new(&handles).map(Arc::new) else { return alone() };
        contexts.push((first, Arc::downgrade(&context)));
        Ok((context, siblings()))
    }
}

/// Tells each found device which other devices belong to its platform.
pub(crate) fn introduce(found: &mut [Found]) {
    let all: Vec<(usize, (DeviceId, DeviceHandle))> =
        found.iter().map(|one| (one.platform.number, (one.info.id.clone(), one.handle))).collect();
    for one in found {
        let same = all.iter().filter(|(number, _)| *number == one.platform.number);
        one.platform.devices = same.map(|(_, device)| device.clone()).collect();
    }
}
