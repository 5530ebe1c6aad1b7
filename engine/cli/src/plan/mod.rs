//! `hetero plan`: divides a model among devices, without running it.

mod dot;
mod explain;
mod gantt;
pub(crate) mod options;
mod reasons;
mod timing;

use serde_json::json;

use crate::arguments::PlanOptions;
use crate::failure::Result;
use crate::output::{document, say};
use crate::planning::{binding, engine, load, warn_of_idle_pins};
use crate::progress::Spinner;
use crate::report::{print_slow, summary};

pub(crate) fn plan(options: &PlanOptions) -> Result<()> {
    let spinner = Spinner::start("opening devices");
    let engine =
        engine(&options.model, &options.devices, (&options.place, &options.cache), options.strategy.as_deref(), &[])?;
    spinner.say("reading the model");
    let (model, _) = load(&options.model, options.devices.memory_limit)?;
    spinner.say("planning");
    let binding = binding(&options.model);
    if options.timing {
        return timing::timing(&engine, &model, &binding, spinner, options.output.json);
    }
    let plan = engine.analyze(&model, &binding)?;
    drop(spinner);
    warn_of_idle_pins(&plan);
    let text = plan.to_json()?;
    if let Some(file) = &options.out {
        file.write(&text)?;
    }
    let asked = options.explain || options.html.is_some() || options.dot.is_some();
    let explanation = asked.then(|| explain::explain(&engine, &plan, options)).transpose()?;
    if options.output.json {
        match &explanation {
            Some(explanation) if options.explain => document(json!(explanation))?,
            _ => document(&text)?,
        }
    } else {
        summary(&plan)?;
        say!("{}", plan.shares())?;
        print_slow(&engine.slow_nodes(&plan))?;
        if let Some(explanation) = explanation.filter(|_| options.explain) {
            explain::print(&explanation)?;
        }
        if let Some(file) = &options.out {
            say!("written to {file}")?;
        }
    }
    Ok(())
}
