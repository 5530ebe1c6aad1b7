//! One weight: what a device keeps of constants, and how it is made again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hetero_hal::{Buffer, DeviceId, ErrorKind, Result, Tensor, Weight};

/// What a device keeps of a constant.
pub trait Resident: Send + Sync + 'static {
    /// Bytes of the device's memory that it takes.
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

/// A weight of a device, of [`Weights::get`](crate::Weights::get).
///
/// It keeps the constants that it was made of, which the model's program shares, so that it can be
/// made again after it was evicted.
pub struct Held<T: Resident> {
    device: DeviceId,
    name: Box<str>,
    layout: Box<str>,
    sources: Vec<Tensor>,
    bytes: usize,
    make: Box<Make<T>>,
    value: Mutex<Option<Arc<T>>>,
    /// Held by the one that makes the value again.
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

    /// The value, which a run keeps while it uses it.
    /// Made again where it was evicted.
    /// Allocates nothing where it is resident.
    ///
    /// # Errors
    /// As [`Weight::restore`].
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

    /// The constants that it was made of.
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
        // Freed outside the lock: a driver may take its time.
        drop(value);
    }

    fn restore(&self) -> Result<()> {
        self.value().map(drop)
    }
}
