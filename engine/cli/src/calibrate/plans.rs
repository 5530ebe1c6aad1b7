//! The times of whole plans beside what a profile predicts: the plan that the engine makes of all
//! devices, each device alone, and plans that are cut at random.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero::comm::{Profile, Spread};
use hetero::hal::DeviceInfo;
use hetero::{HeteroEngine, Model, Placement, Plan, Session, Tensor};
use serde_json::{Value, json};

use crate::arguments::{DeviceChoice, DeviceOptions};
use crate::devices;
use crate::failure::Result;
use crate::output::note;
use crate::tensors::{self, SplitMix};

/// The number of runs of a plan, at least and at most.
const RUNS: (usize, usize) = (3, 300);
/// The number of sessions in which a plan is compared with the best device alone: the place where
/// their memory happens to lie makes a difference of some percent.
const SESSIONS: usize = 6;
/// The number of pieces that a model is cut into for a plan that nobody would make, at least and at
/// most.
const PIECES: (u64, u64) = (2, 6);

/// A plan with the session that runs it.
struct Contender {
    plan: Plan,
    session: Arc<Session>,
    inputs: Vec<Tensor>,
    /// The time of each run.
    times: Vec<Duration>,
}

impl Contender {
    fn new(engine: &HeteroEngine, model: &Model) -> Result<Contender> {
        let plan = engine.analyze_model(model)?;
        let session = engine.session(&plan)?;
        let inputs = tensors::inputs(&session, super::SEED)?;
        super::warm_up(|| super::timed(&session, &inputs, None))?;
        Ok(Contender { plan, session, inputs, times: Vec::new() })
    }

    fn run(&mut self) -> Result<Duration> {
        let took = super::timed(&self.session, &self.inputs, None)?;
        self.times.push(took);
        Ok(took)
    }

    fn row(&self, kind: String) -> Row {
        let partitioning = self.plan.partitioning();
        let mut devices: Vec<String> =
            partitioning.partitions.iter().map(|partition| partition.device.clone()).collect();
        devices.sort_unstable();
        devices.dedup();
        Row {
            kind,
            devices,
            partitions: partitioning.partitions.len(),
            predicted: partitioning.estimated_makespan,
            measured: Spread::of(&self.times).map_or(0.0, |spread| spread.median),
        }
    }
}

/// A plan's latency, predicted and measured.
struct Row {
    kind: String,
    devices: Vec<String>,
    partitions: usize,
    predicted: f64,
    measured: f64,
}

impl Row {
    /// Returns the error as a share; it is positive where the prediction was too long.
    fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }
}

/// The plans of a model.
pub(super) struct Plans {
    model: String,
    rows: Vec<Row>,
    /// The device that is fastest alone, and the median of the ratios of its runs to the runs of
    /// the engine's plan beside them.
    best: Option<(String, f64)>,
}

/// The comparison of a profile's predictions with whole plans.
pub(super) struct Comparison<'a> {
    /// The devices, of which there are at least two.
    pub(super) devices: Vec<&'a DeviceInfo>,
    pub(super) options: &'a DeviceOptions,
    pub(super) profile: &'a Profile,
    /// The number of plans that are cut at random.
    pub(super) cuts: u32,
    pub(super) seed: u64,
    /// The time for each plan.
    pub(super) seconds: Duration,
}

impl Comparison<'_> {
    fn engine(&self, ids: &[String], placement: Option<Placement>) -> Result<HeteroEngine> {
        let mut builder = devices::builder(self.options.unexamined, &[]).profile(self.profile.clone());
        if let Some(bytes) = self.options.memory_limit {
            builder = builder.memory_limit(bytes);
        }
        if let Some(placement) = placement {
            builder = builder.place(placement);
        }
        let mut engine = builder.build();
        let choice = |id: &String| Ok(DeviceChoice { id: id.parse().map_err(hetero::Error::from)?, policy: None });
        let devices = ids.iter().map(choice).collect::<Result<_>>()?;
        let options = DeviceOptions { devices, ..self.options.clone() };
        devices::open(&mut engine, &options, |_| vec![])?;
        Ok(engine)
    }

    /// Runs plans of a model.
    pub(super) fn of(&self, path: &Path) -> Result<Plans> {
        let model = hetero::read_model(path).map_err(hetero::Error::from)?;
        let ids: Vec<String> = self.devices.iter().map(|device| device.id.to_string()).collect();
        let (mut rows, best) = self.alone(&ids, &model)?;
        let all = self.engine(&ids, None)?;
        let (planned, ratio) = match best {
            Some(id) => self.beside(&all, id, &model)?,
            None => {
                let mut planned = Contender::new(&all, &model)?;
                self.repeat(&mut [&mut planned])?;
                (planned, None)
            }
        };
        rows.push(planned.row("planned".to_owned()));
        let mut random = SplitMix(self.seed);
        for number in 1..=self.cuts {
            let placement = cut(&planned.plan, &ids, &mut random)?;
            match self.engine(&ids, Some(placement)).and_then(|engine| Contender::new(&engine, &model)) {
                Ok(mut contender) => {
                    self.repeat(&mut [&mut contender])?;
                    rows.push(contender.row(format!("cut {number}")));
                }
                Err(error) => note!("{}: cut {number} is left out: {error}", path.display()),
            }
        }
        Ok(Plans { model: super::models::name(path), rows, best: best.cloned().zip(ratio) })
    }

    /// Runs each device alone that takes all of a model, and tells which of them is the fastest.
    fn alone<'a>(&self, ids: &'a [String], model: &Model) -> Result<(Vec<Row>, Option<&'a String>)> {
        let mut rows = Vec::new();
        let mut best: Option<(f64, &String)> = None;
        for id in ids {
            let made = self.engine(std::slice::from_ref(id), None).and_then(|engine| Contender::new(&engine, model));
            let Ok(mut alone) = made else { continue };
            self.repeat(&mut [&mut alone])?;
            let row = alone.row(format!("{id} alone"));
            if best.is_none_or(|(seconds, _)| row.measured < seconds) {
                best = Some((row.measured, id));
            }
            rows.push(row);
        }
        Ok((rows, best.map(|(_, id)| id)))
    }

    /// Runs the plan of all devices by turns with one of them alone, in several sessions.
    /// Returns the plan with all its times, and the median of the ratios.
    fn beside(&self, all: &HeteroEngine, id: &String, model: &Model) -> Result<(Contender, Option<f64>)> {
        let one = std::slice::from_ref(id);
        let (mut ratios, mut times, mut last) = (Vec::new(), Vec::new(), None);
        for session in 0..SESSIONS {
            // The plan is made first or second, by turns.
            let early = (session % 2 > 0).then(|| Contender::new(all, model)).transpose()?;
            let mut alone = Contender::new(&self.engine(one, None)?, model)?;
            let mut planned = early.map_or_else(|| Contender::new(all, model), Ok)?;
            self.repeat(&mut [&mut alone, &mut planned])?;
            let pairs = alone.times.iter().zip(&planned.times);
            ratios.extend(pairs.map(|(alone, planned)| alone.as_secs_f64() / planned.as_secs_f64()));
            times.append(&mut planned.times);
            last = Some(planned);
        }
        let mut planned = last.map_or_else(|| Contender::new(all, model), Ok)?;
        planned.times = times;
        Ok((planned, super::median(&mut ratios)))
    }

    /// Runs plans by turns, so that other load of the machine hits all of them.
    fn repeat(&self, contenders: &mut [&mut Contender]) -> Result<()> {
        let began = Instant::now();
        let budget = self.seconds * u32::try_from(contenders.len()).unwrap_or(1);
        for round in 0..RUNS.1 {
            if round >= RUNS.0 && began.elapsed() >= budget {
                break;
            }
            // No contender always runs behind the same one.
            let first = round % contenders.len().max(1);
            let (late, early) = contenders.split_at_mut(first);
            for contender in early.iter_mut().chain(late) {
                contender.run()?;
            }
        }
        Ok(())
    }
}

/// Pins all nodes in pieces, in the order of a plan.
/// Neighbouring pieces are on different devices, and as many devices are used as there are pieces
/// for.
fn cut(plan: &Plan, devices: &[String], random: &mut SplitMix) -> Result<Placement> {
    let names: Vec<&str> = plan
        .partitioning()
        .partitions
        .iter()
        .flat_map(|partition| partition.tasks.iter().map(String::as_str))
        .collect();
    let mut below = |count: u64| random.next() % count.max(1);
    let pieces = PIECES.0 + below(PIECES.1 - PIECES.0 + 1);
    let mut ends: Vec<usize> = (1..pieces).map(|_| below(names.len() as u64) as usize).collect();
    ends.push(names.len());
    ends.sort_unstable();
    let (mut begin, mut device) = (0, below(devices.len() as u64) as usize);
    let mut pins: Vec<(&str, &String)> = Vec::new();
    for end in ends {
        pins.extend(names[begin..end].iter().map(|name| (*name, &devices[device])));
        begin = end;
        device = (device + 1 + below(devices.len() as u64 - 1) as usize) % devices.len();
    }
    // A pattern is matched with operators too, so a node that is named like an operator comes
    // behind the nodes that it would take along.
    let operators: HashSet<&str> = plan.program().nodes().iter().map(|node| &*node.operator.name).collect();
    pins.sort_by_key(|(name, _)| operators.contains(name));
    let pin = |placement: Placement, (name, device): (&str, &String)| {
        Ok(placement.pin(name, device.parse().map_err(hetero::Error::from)?))
    };
    pins.into_iter().try_fold(Placement::default(), pin)
}

impl Plans {
    pub(super) fn heading() -> String {
        format!(
            "{:<16} {:<16} {:>10} {:>13} {:>12} {:>8}   devices",
            "model", "plan", "partitions", "predicted, ms", "measured, ms", "error"
        )
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let line = |row: &Row| {
            format!(
                "{:<16} {:<16} {:>10} {:>13.3} {:>12.3} {:>7.1}%   {}",
                self.model,
                row.kind,
                row.partitions,
                row.predicted * 1e3,
                row.measured * 1e3,
                row.error() * 100.0,
                row.devices.join(", ")
            )
        };
        let best = self.best.iter().map(|(id, ratio)| {
            format!("{:<16} planned: {ratio:.3} times as fast as {id}, the best device alone, by turns", self.model)
        });
        self.rows.iter().map(line).chain(best).collect()
    }

    pub(super) fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "plan": row.kind, "devices": row.devices, "partitions": row.partitions, "predicted": row.predicted,
                "measured": row.measured, "error": row.error(),
            })
        };
        let best = self.best.as_ref().map(|(id, ratio)| json!({ "device": id, "ratio": ratio }));
        json!({ "model": self.model, "plans": self.rows.iter().map(row).collect::<Vec<_>>(), "best_alone": best })
    }

    /// Returns the number of split plans, the median of their absolute errors, and the largest of
    /// these.
    pub(super) fn summary(all: &[Plans]) -> Option<(usize, f64, f64)> {
        let rows = all.iter().flat_map(|plans| &plans.rows).filter(|row| row.devices.len() > 1);
        let mut errors: Vec<f64> = rows.map(|row| row.error().abs()).collect();
        let median = super::median(&mut errors)?;
        Some((errors.len(), median, *errors.last()?))
    }
}
