//! One weight: the form in which a device keeps constants, and how that form is made again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hetero_hal::{Buffer, DeviceId, ErrorKind, Result, Tensor, Weight};

/// The form in which a device keeps a constant.
pub trait Resident: Send + Sync + 'static {
    /// Returns how many bytes of the device's memory it takes.
    fn bytes(&self) -> usize;
}

impl Resident for Vec<f32> {
    fn bytes(&self) -> usize {
        size_of_val(&self[..])
    }
}

impl Resident for Tensor {
    fn bytes(&self) -> usize {
        self.bytes().len()
    }
}

impl Resident for Buffer {
    fn bytes(&self) -> usize {
        self.len()
    }
}

type Make<T> = dyn Fn(&[Tensor]) -> Result<T> + Send + Sync;

/// A weight of a device, which [`Weights::get`](crate::Weights::get) returns.
///
/// It keeps the constants that it was made of, so that it can be made again after it was evicted.
/// The model's program shares these constants.
pub struct Held<T: Resident> {
    device: DeviceId,
    name: Box<str>,
    layout: Box<str>,
    sources: Vec<Tensor>,
    bytes: usize,
    make: Box<Make<T>>,
    value: Mutex<Option<Arc<T>>>,
    /// The lock of the caller that makes the value again.
    restoring: Mutex<()>,
}

impl<T: Resident> Held<T> {
    pub(super) fn new(
        device: &DeviceId,
        name: &str,
        sources: &[Tensor],
        layout: &str,
        (ready, make): (Option<T>, Box<Make<T>>),
    ) -> Result<Self> {
        let value = match ready {
            Some(value) => value,
            None => make(sources)?,
        };
        Ok(Held {
            device: device.clone(),
            name: name.into(),
            layout: layout.into(),
            sources: sources.to_vec(),
            bytes: value.bytes(),
            make,
            value: Mutex::new(Some(Arc::new(value))),
            restoring: Mutex::new(()),
        })
    }

    /// Returns the value; a run keeps it while it uses it.
    /// A value that was evicted is made again.
    /// The call allocates nothing where the value is resident.
    ///
    /// # Errors
    /// The same errors as [`Weight::restore`].
    pub fn value(&self) -> Result<Arc<T>> {
        if let Some(value) = &*self.lock() {
            return Ok(value.clone());
        }
        let _alone = self.restoring.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &*self.lock() {
            return Ok(value.clone());
        }
        let made = (self.make)(&self.sources).map_err(|error| {
            let error = match (error.kind(), error.sizes()) {
                (ErrorKind::OutOfMemory, None) => error.with_sizes(self.bytes as u64, None),
                _ => error,
            };
            error.at(format!("the weight '{}' ({})", self.name, self.layout)).or_on(&self.device)
        });
        let made = Arc::new(made?);
        *self.lock() = Some(made.clone());
        Ok(made)
    }

    /// Returns the constants that the weight was made of.
    #[must_use]
    pub fn sources(&self) -> &[Tensor] {
        &self.sources
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<T>>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Resident> Weight for Held<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn layout(&self) -> &str {
        &self.layout
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_resident(&self) -> bool {
        self.lock().is_some()
    }

    fn evict(&self) {
        let value = self.lock().take();
        // The value is freed outside the lock, because a driver may take long to free it.
        drop(value);
    }

    fn restore(&self) -> Result<()> {
        self.value().map(drop)
    }
}
