//! Running plans: the session of a plan, and what becomes of both when a device fails.
//!
//! A run that fails because its device is gone fails for good.
//! The plan keeps its program, so that the engine divides that again among the devices that are
//! left.
//! [`replan`] says what is done about which failure.

use std::borrow::Cow;
use std::sync::Arc;

use hetero_hal::{DeviceId, Error as HalError, Tensor};
use hetero_scheduler::Partitioning;

use crate::engine::HeteroEngine;
use crate::join::{self, Joined};
use crate::plan::Plan;
use crate::planner::{Planned, uses};
use crate::replan::{self, Action, Setback, State};
use crate::session::{History, OutputBuffer, Outputs, Session};
use crate::share::PlacementShares;
use crate::{Error, Result};

/// A plan on its way to a session.
struct Attempt<'a> {
    partitioning: Cow<'a, Partitioning>,
    /// The lines that tell which nodes moved, and why.
    moved: Vec<String>,
    /// Whether products may run in place of their tiles.
    joins: bool,
    state: State,
}

impl HeteroEngine {
    /// Runs a plan once.
    /// The first run compiles it.
    ///
    /// Where a device is lost in the run, the plan is divided again without it and run again;
    /// [`Session::report`] says so.
    ///
    /// # Errors
    /// `Input` where the inputs are not the model's.
    /// `Device` where a device fails, or is lost and no other takes its nodes.
    pub fn run(&self, inputs: &[(&str, Tensor)], plan: &Plan) -> Result<Outputs> {
        self.with_session(plan, |session| session.run(inputs))
    }

    /// Runs a plan into memory of the caller's; see [`Session::run_into`].
    ///
    /// # Errors
    /// The errors of [`HeteroEngine::run`].
    pub fn run_into(&self, inputs: &[Tensor], outputs: &mut [OutputBuffer], plan: &Plan) -> Result<()> {
        self.with_session(plan, |session| session.run_into(inputs, outputs))
    }

    /// Calls `run` with the session of a plan.
    /// Where a device is lost in it, calls `run` again with the session that does without the
    /// device.
    ///
    /// # Errors
    /// The error of `run`, unless it tells of a lost device that others take over for.
    /// Otherwise the errors of [`HeteroEngine::session`].
    pub fn with_session<T>(&self, plan: &Plan, run: impl FnMut(&Arc<Session>) -> Result<T>) -> Result<T> {
        self.carry_on(plan, &mut self.session(plan)?, run)
    }

    /// Calls `run` with a session of the plan, as [`HeteroEngine::with_session`] does.
    /// Where a device is lost in it, `session` becomes the session that does without the device.
    ///
    /// # Errors
    /// The errors of [`HeteroEngine::with_session`].
    pub fn carry_on<T>(
        &self,
        plan: &Plan,
        session: &mut Arc<Session>,
        mut run: impl FnMut(&Arc<Session>) -> Result<T>,
    ) -> Result<T> {
        loop {
            let error = match run(session) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            *session = self.recover(plan, session, error)?;
        }
    }

    /// Recovers from a run of `session` that failed with `error`.
    /// Where the error tells of a lost device, returns the session of the plan without it, from now
    /// on the session that [`HeteroEngine::session`] returns.
    /// No plan of this engine uses the device again.
    ///
    /// # Errors
    /// `error`, where it tells of no lost device or the session did without the device already.
    /// Where no other device takes the lost device's nodes, an error of the same kind that says
    /// what stands in the way.
    pub fn recover(&self, plan: &Plan, session: &Arc<Session>, error: Error) -> Result<Arc<Session>> {
        if !self.fleet.lose(&error) {
            return Err(error);
        }
        let next = self.session(plan)?;
        if Arc::ptr_eq(&next, session) { Err(error) } else { Ok(next) }
    }

    /// Returns the session of a plan: its partitions, compiled.
    /// It is made once, shared by all threads, and made again where a device was lost.
    ///
    /// A node that its device claimed but turns down at compile time is given to another device,
    /// unless it was pinned there; [`Session::report`] says so.
    ///
    /// # Errors
    /// `Device` where a device cannot compile what it was given and no other takes it.
    /// `Plan` where a device was lost and no other takes its nodes.
    pub fn session(&self, plan: &Plan) -> Result<Arc<Session>> {
        let mut slot = plan.session();
        let sound =
            |session: &&Arc<Session>| !session.devices().iter().any(|device| self.fleet.is_lost(&device.info().id));
        if let Some(session) = slot.as_ref().filter(sound) {
            return Ok(session.clone());
        }
        // The memory of a lost device is let go even where there is no session without it.
        *slot = None;
        let session = Arc::new(self.make_session(plan.planned())?);
        *slot = Some(session.clone());
        Ok(session)
    }

    /// Makes a session of a plan, or of the plan that takes its place.
    fn make_session(&self, planned: &Planned) -> Result<Session> {
        let partitioning = Cow::Borrowed(&planned.partitioning);
        let mut attempt = Attempt { partitioning, moved: Vec::new(), joins: true, state: State::default() };
        loop {
            let (setback, error) = match self.loss(&attempt.partitioning) {
                Some(loss) => loss,
                None => match self.compile(planned, &mut attempt) {
                    Ok(session) => return Ok(session),
                    Err(error) => {
                        let uses = |id: &DeviceId| uses(&attempt.partitioning, id);
                        let (requires, position) =
                            (|id: &DeviceId| self.fleet.requires(id), |id: &DeviceId| self.fleet.position(id));
                        (Setback::of(&error, uses, requires, position), error)
                    }
                },
            };
            self.fleet.lose(&error);
            match (replan::next(&attempt.state, setback), error) {
                (Action::Divide, Error::Device(error)) => self.divide_without_lost(planned, &mut attempt, &error)?,
                (Action::Deny(device, node), Error::Device(error)) => {
                    attempt.state.denied.insert((device, node));
                    self.divide_without_denied(planned, &mut attempt, node, error)?;
                }
                (Action::KeepTiles, _) => attempt.joins = false,
                (Action::GiveUp, Error::Device(error)) if setback == Setback::LostRequired => {
                    let remedy = "it is required, so no other device takes over; prefer it where others may";
                    return Err(error.with_remedy(remedy).into());
                }
                (Action::Divide | Action::Deny(..) | Action::GiveUp, error) => return Err(error),
            }
        }
    }

    /// Returns a loss that a plan has to do without: that of a required device, or else the last
    /// one, which is news.
    fn loss(&self, plan: &Partitioning) -> Option<(Setback, Error)> {
        let mut lost = self.fleet.lost();
        lost.retain(|(id, _)| uses(plan, id));
        let required = lost.iter().find(|(id, _)| self.fleet.requires(id));
        match (required, lost.last()) {
            (Some((_, error)), _) => Some((Setback::LostRequired, error.clone().into())),
            (None, Some((_, error))) => Some((Setback::LostRunning, error.clone().into())),
            (None, None) => None,
        }
    }

    /// Compiles the plan that the attempt has come to.
    fn compile(&self, planned: &Planned, attempt: &mut Attempt<'_>) -> Result<Session> {
        let Attempt { partitioning, moved, joins, state } = attempt;
        let moved = moved.clone();
        let shares = PlacementShares::of(&planned.annotated.program, partitioning);
        let joined = if *joins { join::joined(&self.planner, &self.fleet, planned, partitioning)? } else { None };
        state.joined = joined.is_some();
        match joined {
            Some(Joined { program, partitioning, tiles }) => {
                Session::new(&self.fleet, program, &partitioning, History { moved, tiles, shares, held: planned.held })
            }
            None => {
                let history = History { moved, tiles: vec![], shares, held: planned.held };
                Session::new(&self.fleet, planned.annotated.program.clone(), partitioning, history)
            }
        }
    }

    /// Divides the program again after a loss, of which `error` tells.
    fn divide_without_lost(&self, planned: &Planned, attempt: &mut Attempt<'_>, error: &HalError) -> Result<()> {
        let now = self.planner.divide(&self.fleet, &planned.annotated, &attempt.state.denied);
        let now = now.map_err(|obstacle| match obstacle {
            obstacle @ (Error::Plan(_) | Error::Unclaimed { .. }) => {
                error.clone().with_remedy(format!("no other device can take over: {obstacle}")).into()
            }
            other => other,
        })?;
        let lost = self.fleet.lost();
        attempt.moved.extend(lost.iter().filter_map(|(id, error)| takeover(id, error, &attempt.partitioning, &now)));
        attempt.partitioning = Cow::Owned(now);
        Ok(())
    }

    /// Divides the program again after a device turned down a node, as `refused` says.
    fn divide_without_denied(
        &self,
        planned: &Planned,
        attempt: &mut Attempt<'_>,
        node: hetero_hal::NodeId,
        refused: HalError,
    ) -> Result<()> {
        let program = &planned.annotated.program;
        attempt.partitioning = match self.planner.divide(&self.fleet, &planned.annotated, &attempt.state.denied) {
            // The compiler's reason says more than the fact that no other device may take the node.
            Err(Error::Placement { .. }) => return Err(refused.into()),
            Err(obstacle @ (Error::Plan(_) | Error::Unclaimed { .. })) => {
                let remedy = refused.remedy().map_or_else(String::new, |remedy| format!("{remedy}; "));
                return Err(refused.with_remedy(format!("{remedy}no other device can take over: {obstacle}")).into());
            }
            divided => Cow::Owned(divided?),
        };
        let Some(node) = program.nodes().get(node.index()) else { return Err(refused.into()) };
        let now = attempt.partitioning.placement().get(&*node.name).map_or_else(String::new, ToString::to_string);
        attempt.moved.push(format!("{node} moved to {now}: {refused}"));
        Ok(())
    }
}

/// Returns the line that tells what became of a lost device's nodes, or `None` where it had none.
fn takeover(id: &DeviceId, error: &HalError, before: &Partitioning, now: &Partitioning) -> Option<String> {
    let own =
        before.partitions.iter().filter(|partition| partition.device.parse().is_ok_and(|named: DeviceId| named == *id));
    let nodes: Vec<&str> = own.flat_map(|partition| partition.tasks.iter().map(String::as_str)).collect();
    let now = now.placement();
    let mut takers: Vec<&str> = nodes.iter().filter_map(|node| now.get(node).copied()).collect();
    takers.sort_unstable();
    takers.dedup();
    let plural = if nodes.len() == 1 { "node" } else { "nodes" };
    let line = format!("{} {plural} of {id} moved to {}, as it was lost: {error}", nodes.len(), takers.join(", "));
    (!nodes.is_empty()).then_some(line)
}
