//! The facade: devices, plans, runs.

use std::collections::HashSet;
use std::sync::Arc;

use hetero_comm::Profile;
use hetero_hal::{Device, DeviceId, Driver, Error as HalError, OpenOptions, Topology, Unavailable};
use hetero_onnx::Binding;
use hetero_scheduler::{Effort, Explanation};

use crate::config::Config;
use crate::fleet::Fleet;
use crate::plan::Plan;
use crate::planner::Planner;
use crate::{Error, Model, Result};

/// Devices, and what plans and runs models on them. Plans and sessions may be used from any thread.
pub struct HeteroEngine {
    pub(crate) drivers: Vec<Arc<dyn Driver>>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) planner: Planner,
}

impl HeteroEngine {
    /// The registered drivers.
    #[must_use]
    pub fn drivers(&self) -> &[Arc<dyn Driver>] {
        &self.drivers
    }

    /// The devices with all that is known of them.
    #[must_use]
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// The opened devices, in the order of adding.
    #[must_use]
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        self.fleet.devices()
    }

    /// What was measured, where the engine plans with it.
    #[must_use]
    pub fn profile(&self) -> Option<&Profile> {
        self.fleet.profile()
    }

    /// The edges between the devices: what they say of themselves, and what was measured.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        self.fleet.topology()
    }

    /// The devices that were lost, each with the error that told; see [`HeteroEngine::recover`].
    #[must_use]
    pub fn lost(&self) -> Vec<(DeviceId, HalError)> {
        self.fleet.lost()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.planner.config
    }

    /// Opens a device, such as `CPU:0`.
    ///
    /// # Errors
    /// `UnknownDevice` where no driver of that name is registered or it has no such device, with the reason and a remedy; `Device` where it
    /// cannot be opened.
    pub fn add_device(&mut self, id: &str, options: OpenOptions) -> Result<DeviceId> {
        let id: DeviceId = id.parse()?;
        let unknown = |reason: String| Error::UnknownDevice { device: id.to_string(), reason };
        let Some(driver) = self.drivers.iter().find(|driver| driver.name() == id.driver()) else {
            let names: Vec<&str> = self.drivers.iter().map(|driver| driver.name()).collect();
            return Err(unknown(format!(
                "no driver '{}' in this build; there are: {}; build with the feature of that name or register a driver",
                id.driver(),
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            )));
        };
        let infos = driver.probe().map_err(|why: Unavailable| unknown(why.to_string()))?;
        if !infos.iter().any(|info| info.id == id) {
            let names: Vec<String> = infos.iter().map(|info| info.id.to_string()).collect();
            return Err(unknown(format!("there is no such device; there are: {}", names.join(", "))));
        }
        if self.fleet.position(&id).is_some() {
            return Err(unknown("it has been added already".to_owned()));
        }
        let device = driver.open(id.ordinal(), &options)?;
        // Sessions keep the fleet as it was.
        Arc::make_mut(&mut self.fleet).add(device);
        Ok(id)
    }

    /// Plans a model as it stands; open dimensions are taken as 1 and listed in [`Plan::assumed`].
    ///
    /// # Errors
    /// See [`HeteroEngine::analyze`].
    pub fn analyze_model(&self, model: &Model) -> Result<Plan> {
        self.analyze(model, &Binding { default_size: Some(1), ..Binding::default() })
    }

    /// Plans a model for given shapes: binds it, runs the passes, and divides it among the devices.
    ///
    /// # Errors
    /// `Model` where the model is invalid, uses operators that nobody defines (one report names them all) or does not fit the shapes;
    /// `Plan` where there is no device or none takes a node.
    pub fn analyze(&self, model: &Model, binding: &Binding) -> Result<Plan> {
        Ok(Plan::new(self.planner.plan(&self.fleet, model, binding)?))
    }

    /// Reads a plan that was made for this model, and checks that it still fits.
    ///
    /// # Errors
    /// `Plan` where the text is no plan, is for another model, or names a device that was not added; else as [`HeteroEngine::analyze`].
    pub fn load_plan(&self, model: &Model, json: &str) -> Result<Plan> {
        Ok(Plan::new(self.planner.load(&self.fleet, model, json)?))
    }

    /// Why a plan is as it is, by what things cost now: the reasons of each partition, the critical path, transfers, and other placements. `effort` is what
    /// the lower bound may take.
    ///
    /// # Errors
    /// `Plan` where a device of the plan is lost, or does not take a node any more.
    pub fn explain(&self, plan: &Plan, effort: Effort) -> Result<Explanation> {
        let problem = self.planner.problem(&self.fleet, &plan.planned().annotated, &HashSet::new())?;
        Ok(Explanation::new(&problem, plan.partitioning(), effort)?)
    }
}
