//! `hetero plan --timing`: measures what planning takes, step by step.

use std::time::{Duration, Instant};

use hetero::{Binding, HeteroEngine, Model};
use serde_json::json;

use crate::failure::Result;
use crate::output::{self, say};
use crate::planning::milliseconds;
use crate::progress::Spinner;

/// The number of plans that are made; the first asks devices for their claims, the others remember
/// them.
const PLANS: usize = 9;

/// Plans a model several times and compiles the last plan.
pub(super) fn timing(
    engine: &HeteroEngine,
    model: &Model,
    binding: &Binding,
    spinner: Spinner,
    as_json: bool,
) -> Result<()> {
    let mut all = Vec::with_capacity(PLANS);
    let mut plan = engine.analyze(model, binding)?;
    all.push(plan.timing());
    for _ in 1..PLANS {
        plan = engine.analyze(model, binding)?;
        all.push(plan.timing());
    }
    let began = Instant::now();
    engine.session(&plan)?;
    let session = began.elapsed();
    drop(spinner);
    let first = all[0];
    let least = |step: fn(&hetero::PlanTiming) -> Duration| all.iter().map(step).min().unwrap_or_default();
    let rows = [
        ("bind", first.bind, least(|timing| timing.bind)),
        ("passes", first.passes, least(|timing| timing.passes)),
        ("divide", first.divide, least(|timing| timing.divide)),
    ];
    let nodes = plan.program().nodes().len();
    if as_json {
        let steps = rows.map(|(step, first, least)| {
            (step.to_owned(), json!({ "first_ms": milliseconds(first), "least_ms": milliseconds(least) }))
        });
        let mut document = json!(steps.into_iter().collect::<serde_json::Map<_, _>>());
        document["session_ms"] = json!(milliseconds(session));
        document["nodes"] = json!(nodes);
        document["plans"] = json!(PLANS);
        output::document(&document)?;
        return Ok(());
    }
    say!("{nodes} nodes; of {PLANS} plans, milliseconds of the first and the least")?;
    for (step, first, least) in rows {
        say!("    {step:<8} {:>9.3} {:>9.3}", milliseconds(first), milliseconds(least))?;
    }
    say!("    {:<8} {:>9.3}", "session", milliseconds(session))?;
    Ok(())
}
