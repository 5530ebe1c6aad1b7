//! A calibration as checked and opened: the devices, and the file of the profile.

use std::path::PathBuf;

use hetero::HeteroEngine;
use hetero::comm::Profile;

use crate::arguments::CalibrateOptions;
use crate::devices;
use crate::failure::{Failure, Result};

/// The devices that are measured, and the file that keeps what is found.
pub(super) struct Job {
    pub(super) path: PathBuf,
    pub(super) engine: HeteroEngine,
}

impl Job {
    pub(super) fn new(options: &CalibrateOptions) -> Result<Job> {
        let named = options
            .out
            .clone()
            .map(Into::into)
            .or_else(|| options.devices.profile.clone())
            .or_else(Profile::default_path);
        let Some(path) = named else {
            return Err(Failure::usage("there is no cache folder for the profile", "name a file with `--out FILE`"));
        };
        let mut engine = devices::builder(options.devices.unexamined, &[]).build();
        devices::add_all(&mut engine, &options.devices)?;
        Ok(Job { path, engine })
    }
}
