//! `hetero run --stream N`: runs the same inputs one by one, then as a pipeline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero::{OutputBuffer, Outputs, Session, Tensor};
use serde_json::json;

use super::Prepared;
use super::outputs::{self, Written};
use crate::arguments::RunOptions;
use crate::failure::Result;
use crate::output::{document, say};
use crate::progress::Spinner;
use crate::report::{edges, placement, print_report, print_slow, shares_json, summary};
use crate::tensors;

/// The number of different inputs that a stream goes round in, where they are made up.
const VARIETY: usize = 8;

/// One way to run all inputs: how long it took, and how long each device of the session worked
/// meanwhile, where the device tells.
struct Pass {
    took: Duration,
    busy: Vec<(String, Option<Duration>)>,
    last: Option<Outputs>,
}

impl Pass {
    /// Times `run` on a session; where a device is lost in it, times it again from the beginning.
    fn time(
        prepared: &mut Prepared,
        mut run: impl FnMut(&Arc<Session>) -> hetero::Result<Option<Outputs>>,
    ) -> Result<Pass> {
        prepared.with_session(|session| {
            let busy = |session: &Session| -> Vec<Option<Duration>> {
                session.devices().iter().map(|device| device.telemetry().busy).collect()
            };
            let (before, began) = (busy(session), Instant::now());
            let last = run(session)?;
            let took = began.elapsed();
            let worked =
                before.into_iter().zip(busy(session)).map(|(before, after)| Some(after?.saturating_sub(before?)));
            let ids = session.devices().iter().map(|device| device.info().id.to_string());
            Ok(Pass { took, busy: ids.zip(worked).collect(), last })
        })
    }

    fn per_second(&self, count: usize) -> f64 {
        count as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Returns the share of the time that each device worked.
    fn shares(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        let whole = self.took.as_secs_f64().max(1e-9);
        self.busy.iter().map(move |(id, busy)| (id.as_str(), busy.map(|busy| busy.as_secs_f64() / whole)))
    }
}

/// Returns the inputs of each run: the given ones, and made-up ones that differ from run to run.
fn inputs(options: &RunOptions, prepared: &Prepared) -> Result<Vec<Vec<Tensor>>> {
    let first = prepared.ordered()?;
    let mut all = vec![first.clone()];
    let Some(seed) = options.job.random else { return Ok(all) };
    for round in 1..VARIETY as u64 {
        let mut next = first.clone();
        for (index, (port, tensor)) in prepared.session.inputs().iter().zip(&mut next).enumerate() {
            if !options.job.inputs.iter().any(|(name, _)| **name == *port.name) {
                let seed = seed.wrapping_add((round << 32 | index as u64).wrapping_mul(0x9e37_79b9));
                *tensor = tensors::random(port.dtype, &port.shape, seed)?;
            }
        }
        all.push(next);
    }
    Ok(all)
}

pub(super) fn stream(options: &RunOptions, prepared: &mut Prepared, spinner: Spinner, count: usize) -> Result<()> {
    let inputs = inputs(options, prepared)?;
    let input = |number: usize| &inputs[number % inputs.len()][..];
    let depth = options.depth.map_or(0, |depth| depth as usize);
    let streamed = |session: &Arc<Session>, count: usize| {
        let mut stream = session.stream(depth);
        for number in 0..count {
            stream.push(input(number))?;
        }
        let mut last = None;
        while let Some(outputs) = stream.pull()? {
            last = Some(outputs);
        }
        Ok(last)
    };
    let one_by_one = |session: &Arc<Session>, count: usize| {
        let mut outputs = vec![OutputBuffer::default(); session.outputs().len()];
        (0..count).try_for_each(|number| session.run_into(input(number), &mut outputs))?;
        Ok(None)
    };
    // The memory of all runs that will be under way is made before time is taken.
    spinner.say("warming up");
    let warmup = (options.job.warmup as usize).max(prepared.session.stream(depth).depth() + 1);
    prepared.with_session(|session| streamed(session, warmup))?;
    spinner.say("running one by one");
    let sequential = Pass::time(prepared, |session| one_by_one(session, count))?;
    spinner.say("streaming");
    let pipeline = Pass::time(prepared, |session| streamed(session, count))?;
    drop(spinner);
    let written = match (&options.out, &pipeline.last) {
        (Some(folder), Some(results)) => outputs::write(folder, results)?,
        _ => vec![],
    };
    let depth = prepared.session.stream(depth).depth();
    let report = prepared.session.report();
    let (slow, fast) = (sequential.per_second(count), pipeline.per_second(count));
    if options.output.json {
        let shares = |pass: &Pass| -> serde_json::Map<String, serde_json::Value> {
            pass.shares().map(|(id, share)| (id.to_owned(), json!(share))).collect()
        };
        document(json!({
            "runs": count,
            "depth": depth,
            "sequential_per_s": slow,
            "stream_per_s": fast,
            "ratio": fast / slow,
            "busy": { "sequential": shares(&sequential), "stream": shares(&pipeline) },
            "placement": placement(&report),
            "shares": shares_json(prepared.session.placement()),
            "moved": report.moved,
            "edges": edges(&report),
            "outputs": written.iter().map(Written::json).collect::<Vec<_>>(),
        }))?;
        return Ok(());
    }
    summary(&prepared.plan)?;
    say!("{}", prepared.session.placement())?;
    print_slow(&prepared.engine.slow_nodes(&prepared.plan))?;
    print_report(&report)?;
    say!("{count} inputs one by one: {slow:.1} per second; {}", busy(&sequential))?;
    say!("{count} inputs, {depth} under way at once: {fast:.1} per second; {}", busy(&pipeline))?;
    say!("ratio {:.2}", fast / slow)?;
    outputs::print_renamed(&written)
}

/// Returns how busy each device was, in words.
fn busy(pass: &Pass) -> String {
    let share = |(id, share): (&str, Option<f64>)| match share {
        Some(share) => format!("{id} worked {:.0} % of the time", share * 100.0),
        None => format!("{id} does not tell how long it worked"),
    };
    pass.shares().map(share).collect::<Vec<_>>().join(", ")
}
