//! The facade: devices, plans and runs.

use std::collections::HashSet;
use std::sync::Arc;

use hetero_comm::Profile;
use hetero_examine::{Examination, Verdict};
use hetero_hal::{
    DType, Device, DeviceId, DeviceInfo, Driver, Error as HalError, ErrorKind, OpenOptions, Tensor, Topology,
    Unavailable,
};
use hetero_onnx::Binding;
use hetero_scheduler::{Effort, Explanation};

use crate::config::Config;
use crate::fleet::{AbsentDevice, Fleet};
use crate::loaded::LoadedModel;
use crate::plan::Plan;
use crate::planner::Planner;
use crate::policy::Policy;
use crate::slow::SlowNodes;
use crate::{Error, Model, Result};

/// The most elements that an input may have to become a constant.
const LARGEST_CONSTANT: usize = 64;

/// Returns why a device is unavailable, and a remedy, for those who know which device it is.
fn why_unavailable(error: &HalError) -> String {
    [Some(error.message()), error.remedy()].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The engine: devices, and the planner that places models on them and runs them.
/// Plans and sessions may be used from any thread.
pub struct HeteroEngine {
    pub(crate) drivers: Vec<Arc<dyn Driver>>,
    /// The number of drivers in front that are not the build's own.
    pub(crate) registered: usize,
    pub(crate) examination: Examination,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) planner: Arc<Planner>,
}

impl HeteroEngine {
    /// Returns the registered drivers.
    #[must_use]
    pub fn drivers(&self) -> &[Arc<dyn Driver>] {
        &self.drivers
    }

    /// Returns the devices with all that is known of them.
    #[must_use]
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Returns the opened devices, in the order in which they were added.
    #[must_use]
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        self.fleet.devices()
    }

    /// Returns the measurements that the engine plans with, where it has any.
    #[must_use]
    pub fn profile(&self) -> Option<&Profile> {
        self.fleet.profile()
    }

    /// Returns the edges between the devices: what the devices say of themselves, and what was
    /// measured.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        self.fleet.topology()
    }

    /// Returns the devices that were lost, each with the error that told of the loss; see
    /// [`HeteroEngine::recover`].
    #[must_use]
    pub fn lost(&self) -> Vec<(DeviceId, HalError)> {
        self.fleet.lost()
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.planner.config
    }

    /// Returns all devices that the drivers offer now, each once.
    /// Of several devices with the same id, the one whose driver stands in front counts.
    #[must_use]
    pub fn found(&self) -> Vec<DeviceInfo> {
        self.found_by(|_| true)
    }

    /// Lists the devices of some of the drivers.
    fn found_by(&self, asks: impl Fn(&dyn Driver) -> bool) -> Vec<DeviceInfo> {
        let mut found: Vec<DeviceInfo> = Vec::new();
        let drivers = self.drivers.iter().filter(|driver| asks(&***driver));
        for info in drivers.filter_map(|driver| driver.probe().ok()).flatten() {
            if !found.iter().any(|known| known.id == info.id) {
                found.push(info);
            }
        }
        found
    }

    /// Returns the devices to use where nobody names any: those of the configuration, or all found
    /// that are chips of their own.
    /// An emulator is none, nor is the host's processor under another driver's name than `cpu`:
    /// either would take its time from `cpu:0`.
    ///
    /// A driver that has no such chip for sure ([`Driver::may_have_chips`]) is not probed, as that
    /// would load the vendor's libraries for nothing.
    #[must_use]
    pub fn default_devices(&self) -> Vec<DeviceId> {
        if !self.config().devices.is_empty() {
            return self.config().devices.keys().cloned().collect();
        }
        let own_chip = |info: &DeviceInfo| !info.runs_on_host() || info.id.driver() == "cpu";
        let found = self.found_by(|driver| driver.name() == "cpu" || driver.may_have_chips());
        found.into_iter().filter(own_chip).map(|info| info.id).collect()
    }

    /// Returns how much the configuration wants a device.
    #[must_use]
    pub fn configured_policy(&self, device: &DeviceId) -> Policy {
        self.config().devices.get(device).copied().unwrap_or_default()
    }

    /// Opens the devices of [`HeteroEngine::default_devices`] with the configuration's policies.
    /// Returns the ids of those that are there.
    ///
    /// # Errors
    /// The errors of [`HeteroEngine::add_default_device`].
    pub fn add_default_devices(&mut self, options: &OpenOptions) -> Result<Vec<DeviceId>> {
        let mut added = Vec::new();
        for id in self.default_devices() {
            added.extend(self.add_default_device(&id, options.clone())?);
        }
        Ok(added)
    }

    /// Opens one of [`HeteroEngine::default_devices`] with the configuration's policy.
    /// Returns `None` where a device is unavailable that the configuration does not name:
    /// [`Fleet::absent`] and the notes of plans have the reason.
    ///
    /// # Errors
    /// The errors of [`HeteroEngine::add_device_with`].
    pub fn add_default_device(&mut self, id: &DeviceId, options: OpenOptions) -> Result<Option<DeviceId>> {
        if self.config().devices.contains_key(id) {
            return self.add_device_with(&id.to_string(), options, self.configured_policy(id));
        }
        match self.open(id, &options, Policy::Allow) {
            Ok(()) => Ok(Some(id.clone())),
            Err(Error::Device(error)) if error.kind() == ErrorKind::Unavailable => {
                let absent = AbsentDevice { device: id.clone(), reason: why_unavailable(&error) };
                Arc::make_mut(&mut self.fleet).miss(absent);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns how devices are examined before they are used.
    #[must_use]
    pub fn examination(&self) -> &Examination {
        &self.examination
    }

    /// Examines a device as it would be before it is opened with these options, or returns an
    /// earlier verdict that still holds; with [`Examination::anew`], it examines in any case.
    /// Returns `None` where there is nothing to examine: examinations are off, there is no such
    /// device, or it is the processor by hetero's own code.
    #[must_use]
    pub fn examine(&self, examination: &Examination, id: &DeviceId, options: &OpenOptions) -> Option<Verdict> {
        let position = self.drivers.iter().position(|driver| driver.name() == id.driver())?;
        let driver = self.drivers.get(position)?;
        let info = driver.probe().ok()?.into_iter().find(|info| info.id == *id)?;
        self.verdict(examination, position, &info, options)
    }

    fn verdict(
        &self,
        examination: &Examination,
        position: usize,
        info: &DeviceInfo,
        options: &OpenOptions,
    ) -> Option<Verdict> {
        let driver = self.drivers.get(position).filter(|_| examination.is_on())?;
        if position < self.registered {
            return Some(examination.examine_own(driver, info, options));
        }
        // The device of the processor has no driver but hetero.
        (driver.name() != "cpu").then(|| examination.examine(driver, info, options))
    }

    /// Opens a device, such as `CPU:0`, that the planner may use.
    ///
    /// # Errors
    /// `UnknownDevice` where no driver of that name is registered or it has no such device, with
    /// the reason and a remedy.
    /// `Device` where the device cannot be opened, or does not pass its [examination](Examination).
    pub fn add_device(&mut self, id: &str, options: OpenOptions) -> Result<DeviceId> {
        let id: DeviceId = id.parse()?;
        self.open(&id, &options, Policy::Allow)?;
        Ok(id)
    }

    /// Opens a device and records how much it is wanted.
    /// Returns `None` where a preferred device is not there; [`Fleet::absent`] and the notes of
    /// plans have the reason.
    ///
    /// # Errors
    /// The errors of [`HeteroEngine::add_device`].
    pub fn add_device_with(&mut self, id: &str, options: OpenOptions, policy: Policy) -> Result<Option<DeviceId>> {
        let id: DeviceId = id.parse()?;
        let reason = match (self.open(&id, &options, policy), policy) {
            (Ok(()), _) => return Ok(Some(id)),
            (Err(Error::UnknownDevice { reason, .. }), Policy::Prefer) if self.fleet.position(&id).is_none() => reason,
            (Err(Error::Device(error)), Policy::Prefer) if error.kind() == ErrorKind::Unavailable => {
                why_unavailable(&error)
            }
            (Err(Error::UnknownDevice { device, reason }), Policy::Require) => {
                return Err(Error::UnknownDevice { device, reason: format!("it is required, and {reason}") });
            }
            (Err(error), _) => return Err(error),
        };
        Arc::make_mut(&mut self.fleet).miss(AbsentDevice { device: id, reason });
        Ok(None)
    }

    fn open(&mut self, id: &DeviceId, options: &OpenOptions, policy: Policy) -> Result<()> {
        let unknown = |reason: String| Error::UnknownDevice { device: id.to_string(), reason };
        let position = self.drivers.iter().position(|driver| driver.name() == id.driver());
        let Some((position, driver)) = position.and_then(|position| Some((position, self.drivers.get(position)?)))
        else {
            let names: Vec<&str> = self.drivers.iter().map(|driver| driver.name()).collect();
            return Err(unknown(format!(
                "no driver '{}' in this build; there are: {}; build with the feature of that name or register a driver",
                id.driver(),
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            )));
        };
        let infos = driver.probe().map_err(|why: Unavailable| unknown(why.to_string()))?;
        let Some(info) = infos.iter().find(|info| info.id == *id) else {
            let names: Vec<String> = infos.iter().map(|info| info.id.to_string()).collect();
            return Err(unknown(format!("there is no such device; there are: {}", names.join(", "))));
        };
        if self.fleet.position(id).is_some() {
            return Err(unknown("it has been added already".to_owned()));
        }
        let verdict = self.verdict(&self.examination, position, info, options);
        if let Some(why) = verdict.and_then(|verdict| verdict.unavailable(info)) {
            return Err(why.into_error(id.clone()).into());
        }
        let device = driver.open(id.ordinal(), options)?;
        // Sessions keep the fleet as it was: it is shared, and changed only in a copy.
        Arc::make_mut(&mut self.fleet).add(device, policy);
        Ok(())
    }

    /// Returns an engine with the devices of this one, as they are now.
    pub(crate) fn again(&self) -> HeteroEngine {
        HeteroEngine {
            drivers: self.drivers.clone(),
            registered: self.registered,
            examination: self.examination.clone(),
            fleet: self.fleet.clone(),
            planner: self.planner.clone(),
        }
    }

    /// Loads a model to be run with inputs of any shapes that it allows.
    /// Devices that are added later take no part.
    ///
    /// # Errors
    /// `Model` where the model uses operators that nobody defines; one report names them all.
    pub fn load(&self, model: &Model) -> Result<LoadedModel> {
        hetero_onnx::check_operators(model, &*self.planner.operators).map_err(hetero_onnx::Error::Missing)?;
        Ok(LoadedModel::new(self.again(), model.clone()))
    }

    /// Plans a model as it stands; open dimensions are taken as 1 and listed in [`Plan::assumed`].
    ///
    /// # Errors
    /// The errors of [`HeteroEngine::analyze`].
    pub fn analyze_model(&self, model: &Model) -> Result<Plan> {
        self.analyze(model, &Binding { default_size: Some(1), ..Binding::default() })
    }

    /// Plans a model for given shapes: binds it, runs the passes, and divides it among the devices.
    ///
    /// # Errors
    /// `Model` where the model is invalid, uses operators that nobody defines (one report names
    /// them all) or does not fit the shapes.
    /// `Plan` where there is no device or none takes a node.
    pub fn analyze(&self, model: &Model, binding: &Binding) -> Result<Plan> {
        Ok(Plan::new(self.planner.plan(&self.fleet, model, binding)?))
    }

    /// Plans a model for the inputs of a run: for their shapes, beside the shapes of the binding.
    /// Where these leave a size without a bound, small inputs of integers (a target shape, a rate)
    /// become constants, as shapes may depend on them.
    /// [`Plan::fixed`] has the names of these inputs, and runs take them no more.
    ///
    /// # Errors
    /// `Input` where the binding says another shape.
    /// Otherwise the errors of [`HeteroEngine::analyze`], about the model as it was given.
    pub fn analyze_with_inputs(&self, model: &Model, binding: &Binding, inputs: &[(&str, Tensor)]) -> Result<Plan> {
        let mut binding = binding.clone();
        for (name, tensor) in inputs {
            let shape = tensor.shape().to_vec();
            if let Some(other) =
                binding.shapes.insert((*name).to_owned(), shape.clone()).filter(|other| *other != shape)
            {
                let reason =
                    format!("its content has the shape {shape:?}, and the binding says {other:?}; leave one out");
                return Err(Error::Input { name: (*name).to_owned(), reason });
            }
        }
        let open = self.analyze(model, &binding);
        if open.as_ref().is_ok_and(|plan| plan.program().lates() == 0) {
            return open;
        }
        let small = inputs.iter().filter(|(_, tensor)| {
            tensor.len() <= LARGEST_CONSTANT && (tensor.dtype().is_integer() || tensor.dtype() == DType::Bool)
        });
        let mut fixed = 0;
        for (name, tensor) in small {
            binding.shapes.remove(*name);
            binding.constants.insert((*name).to_owned(), tensor.clone());
            fixed += 1;
        }
        if fixed == 0 {
            return open;
        }
        match (self.analyze(model, &binding), open) {
            // Contents that decide no more sizes stay inputs.
            (Ok(plan), Ok(open)) if plan.program().lates() >= open.program().lates() => Ok(open),
            (Ok(plan), _) => Ok(plan),
            (Err(_), open) => open,
        }
    }

    /// Returns the nodes of a plan that their devices execute slowly, as their claims say: by plain
    /// code, for want of a kernel.
    /// [`Scheduling::deny_slow`](crate::Scheduling::deny_slow) makes such plans an error.
    #[must_use]
    pub fn slow_nodes(&self, plan: &Plan) -> SlowNodes {
        SlowNodes::of(plan.program(), plan.partitioning(), &self.fleet, &*self.planner.costs)
    }

    /// Reads a plan that was made for this model, and checks that it still fits.
    ///
    /// # Errors
    /// `Plan` where the text is no plan, is for another model, or names a device that was not
    /// added.
    /// Otherwise the errors of [`HeteroEngine::analyze`].
    pub fn load_plan(&self, model: &Model, json: &str) -> Result<Plan> {
        Ok(Plan::new(self.planner.load(&self.fleet, model, json)?))
    }

    /// Explains why a plan is as it is, by what its parts cost now: the reasons of each partition,
    /// the critical path, transfers, and other placements.
    /// `effort` bounds the work that goes into the lower bound.
    ///
    /// # Errors
    /// `Plan` where a device of the plan is lost, or does not take a node any more.
    pub fn explain(&self, plan: &Plan, effort: Effort) -> Result<Explanation> {
        let problem = self.planner.problem(&self.fleet, &plan.planned().annotated, &HashSet::new())?;
        Ok(Explanation::new(&problem, plan.partitioning(), effort)?)
    }
}
