//! The builder: an engine made of parts of your own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hetero_comm::{Profile, Transport, standard_transports};
use hetero_costs::{Calibrated, CostModel, Roofline};
use hetero_examine::Examination;
use hetero_hal::{Driver, OperatorSet};
use hetero_reference::Standard;
use hetero_scheduler::{Cautious, Effort, LatencyAware, Partitioner, Throughput};

use crate::Result;
use crate::cache::{self, ProgramCache};
use crate::config::{Config, Strategy};
use crate::engine::HeteroEngine;
use crate::fleet::{Fleet, Limits};
use crate::passes::{self, Pass};
use crate::place::Placement;
use crate::planner::Planner;

/// The time that a strategy may take for a plan, unless the configuration says otherwise.
/// Where a bound proves a plan to be the best, the strategy takes less.
const PLANNING: Duration = Duration::from_millis(300);
/// The longest that a run may take, unless the builder says otherwise.
const DEADLINE: Duration = Duration::from_secs(3600);
/// The longest limit of a run, which clocks can represent whatever they began with.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Returns the drivers that this build contains.
#[must_use]
pub fn builtin_drivers() -> Vec<Arc<dyn Driver>> {
    vec![
        #[cfg(feature = "cpu")]
        Arc::new(hetero_cpu::CpuDriver),
        #[cfg(feature = "opencl")]
        Arc::new(hetero_opencl::OpenClDriver::processors()),
        #[cfg(feature = "fpga")]
        Arc::new(hetero_opencl::OpenClDriver::accelerators()),
        #[cfg(feature = "wgpu")]
        Arc::new(hetero_wgpu::WgpuDriver),
    ]
}

/// Returns the partitioner of a configuration, for costs that may be off by a share.
/// It is called several times for a plan, so each call gets a part of the deadline only.
fn strategy(config: &Config, deadline: Duration, uncertainty: f64) -> Arc<dyn Partitioner> {
    let effort = Effort::time(config.scheduling.time_limit.unwrap_or(PLANNING).min(deadline / 8));
    match config.scheduling.strategy {
        Strategy::LatencyAware => {
            Arc::new(Cautious { strategy: LatencyAware { effort, ..LatencyAware::default() }, margin: uncertainty })
        }
        Strategy::Throughput => Arc::new(Throughput { effort, ..Throughput::default() }),
    }
}

/// Makes a [`HeteroEngine`] out of parts of your own.
pub struct Builder {
    drivers: Vec<Arc<dyn Driver>>,
    /// The number of drivers that were registered, which stand in front of the build's own.
    registered: usize,
    examination: Examination,
    partitioner: Option<Arc<dyn Partitioner>>,
    costs: Option<Arc<dyn CostModel>>,
    profile: Option<Arc<Profile>>,
    transports: Vec<Arc<dyn Transport>>,
    operators: Arc<dyn OperatorSet>,
    passes: Vec<Box<dyn Pass>>,
    placement: Placement,
    config: Config,
    memory_limit: Option<u64>,
    deadline: Duration,
    cache: Option<PathBuf>,
    cache_limit: u64,
}

impl Builder {
    /// Registers a driver, in front of the drivers with the same name.
    #[must_use]
    pub fn driver(mut self, driver: Arc<dyn Driver>) -> Self {
        self.drivers.insert(0, driver);
        self.registered += 1;
        self
    }

    /// Sets how devices are examined before they are used for the first time; without it, the
    /// [environment](Examination::default) says so.
    ///
    /// A driver that computes wrongly, crashes or hangs is found by an examination, and its device
    /// cannot be opened.
    /// With a program for it, that happens in a process of its own.
    /// `hetero` is such a program, and so is one that calls
    /// [`answer_examination`](hetero_examine::answer_examination) first thing:
    ///
    /// ```no_run
    /// use hetero::{Examination, HeteroEngine};
    /// use hetero::{answer_examination, builtin_drivers, is_examination};
    ///
    /// fn main() -> std::process::ExitCode {
    ///     if is_examination() {
    ///         return answer_examination(&builtin_drivers());
    ///     }
    ///     let nothing: [&str; 0] = [];
    ///     let examination = match std::env::current_exe() {
    ///         Ok(program) => Examination::default().by(program, nothing),
    ///         Err(_) => Examination::default(),
    ///     };
    ///     let engine = HeteroEngine::builder().examination(examination).build();
    ///     // …
    /// #   drop(engine);
    ///     std::process::ExitCode::SUCCESS
    /// }
    /// ```
    #[must_use]
    pub fn examination(mut self, examination: Examination) -> Self {
        self.examination = examination;
        self
    }

    /// Replaces the partitioner; without it, the configuration's strategy names the partitioner.
    #[must_use]
    pub fn partitioner(mut self, partitioner: Arc<dyn Partitioner>) -> Self {
        self.partitioner = Some(partitioner);
        self
    }

    /// Replaces the cost model.
    #[must_use]
    pub fn cost_model(mut self, costs: Arc<dyn CostModel>) -> Self {
        self.costs = Some(costs);
        self
    }

    /// Plans with the measurements of a profile: those of the edges between devices, and, where no
    /// cost model is set, those of operators.
    /// Measurements of another product or driver version than a device's are not used for it; see
    /// [`Profile::usability`].
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(Arc::new(profile));
        self
    }

    /// Registers a transport, in front of those registered before and of the standard ones.
    ///
    /// A session brings a value from one device to another by the first transport that
    /// [applies](Transport::applies) to the pair, unless the profile says that another one is
    /// quicker for that size.
    /// [`Traffic::transports`](crate::Traffic::transports) says which one it was.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transports.insert(0, transport);
        self
    }

    /// Replaces the definitions of operators, for inference and folding.
    #[must_use]
    pub fn operators(mut self, operators: Arc<dyn OperatorSet>) -> Self {
        self.operators = operators;
        self
    }

    /// Adds a pass behind the others.
    #[must_use]
    pub fn pass(mut self, pass: Box<dyn Pass>) -> Self {
        self.passes.push(pass);
        self
    }

    /// Pins nodes to devices; the partitioner places the others.
    #[must_use]
    pub fn place(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets the configuration.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Limits the bytes that planning and running may take besides the model itself.
    /// These are folded constants, the weights, inputs, outputs and intermediate values that a
    /// device keeps, and what operators of the oracle need on their way.
    /// On the host they count together; any other device has as much again.
    /// Without it, the devices' memory is the limit.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Limits the time of a run; without it, the limit is an hour.
    /// A limit of more than a hundred years is one of a hundred years, which clocks can represent.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(LONGEST);
        self
    }

    /// Keeps compiled programs in this folder, and takes them from it, so that a later process
    /// makes its sessions faster.
    /// Without it, every process compiles anew, and so it does where the folder cannot be written:
    /// that is no error, and [`Fleet::cache_trouble`](crate::Fleet::cache_trouble) tells why.
    ///
    /// A device takes from the folder only what is undamaged and fits the model, the device and its
    /// driver; it does not protect itself from files that somebody forges, so nobody else should be
    /// able to write the folder.
    #[must_use]
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// Limits the bytes of the folder of [`Builder::cache`]; without it, the limit is 4 GiB.
    /// The files that were written first are removed first.
    #[must_use]
    pub fn cache_limit(mut self, bytes: u64) -> Self {
        self.cache_limit = bytes;
        self
    }

    /// Returns the engine, without devices yet.
    #[must_use]
    pub fn build(self) -> HeteroEngine {
        let operators = self.operators.clone();
        let costs = self.costs.unwrap_or_else(|| match &self.profile {
            Some(profile) => Arc::new(Calibrated::new(profile.clone(), operators)),
            None => Arc::new(Roofline { operators }),
        });
        let limits = Limits {
            memory: self.memory_limit,
            memory_share: self.config.device_params.gpu_mem_threshold.unwrap_or(1.0),
            deadline: self.deadline,
            max_in_flight: self.config.scheduling.max_in_flight,
            cache: self.cache.map(|folder| ProgramCache::new(folder, self.cache_limit)),
        };
        let planner = Arc::new(Planner {
            standard: self.partitioner.is_none(),
            partitioner: self.partitioner.unwrap_or_else(|| strategy(&self.config, self.deadline, costs.uncertainty())),
            costs,
            operators: self.operators,
            passes: self.passes,
            placement: self.placement,
            config: self.config,
        });
        HeteroEngine {
            drivers: self.drivers,
            registered: self.registered,
            examination: self.examination,
            fleet: Arc::new(Fleet::new(self.profile, self.transports, limits)),
            planner,
        }
    }
}

impl HeteroEngine {
    /// Makes an engine with the drivers of this build.
    ///
    /// # Errors
    /// There is none today; drivers that must be loaded may fail here.
    pub fn new() -> Result<Self> {
        Ok(HeteroEngine::builder().build())
    }

    /// Returns the builder of an engine that is made of parts of your own.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            drivers: builtin_drivers(),
            registered: 0,
            examination: Examination::default(),
            partitioner: None,
            costs: None,
            profile: None,
            transports: standard_transports(),
            operators: Arc::new(Standard),
            passes: passes::standard(),
            placement: Placement::default(),
            config: Config::default(),
            memory_limit: None,
            deadline: DEADLINE,
            cache: None,
            cache_limit: cache::LIMIT,
        }
    }
}
