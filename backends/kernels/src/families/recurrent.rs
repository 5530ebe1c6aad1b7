//! Recurrent networks: one product for the inputs of all steps, then a launch for each step.

use hetero_hal::{DType, ValueId};

use crate::draft::{Draft, Drafts, Operand};
use crate::families::product::Tiling;
use crate::site::{Answer, Output, Site};

/// The largest number of steps, counted over directions, because each step is a launch.
const MOST_STEPS: usize = 4096;

/// The sizes of a recurrent network.
struct Network {
    steps: usize,
    batch: usize,
    inputs: usize,
    hidden: usize,
    /// Whether each direction runs backwards.
    directions: Vec<bool>,
    gates: usize,
}

impl Network {
    fn new(site: &Site<'_>, gates: usize, activations: &[&str]) -> Answer<Network> {
        for index in 0..site.node.inputs.len() {
            // The lengths of sequences are no floats, and are not supported either.
            if site.input(index).is_some_and(|value| value.dtype != DType::F32) {
                return Err(if index == 4 { "lengths of sequences" } else { "elements that are not f32" }.to_owned());
            }
        }
        if site.int("layout", 0)? != 0 {
            return Err("batches before steps".to_owned());
        }
        if site.operator().attribute("clip").is_some() || site.int("input_forget", 0)? != 0 {
            return Err("clipped or coupled gates".to_owned());
        }
        let directions = match site.text("direction")?.unwrap_or("forward") {
            "forward" => vec![false],
            "reverse" => vec![true],
            _ => vec![false, true],
        };
        let named = match site.operator().attribute("activations") {
            Some(hetero_hal::Attribute::Strings(names)) => {
                names.iter().map(|name| String::from_utf8_lossy(name).to_lowercase()).collect()
            }
            Some(_) => return Err("activations that are no texts".to_owned()),
            None => vec![],
        };
        if !named.is_empty() && named.chunks(activations.len()).any(|chunk| chunk != activations) {
            return Err(format!("the activations {named:?}"));
        }
        let ([steps, batch, inputs], [_, _, hidden]) = (&site.need(0)?.shape[..], &site.need(2)?.shape[..]) else {
            return Err("its shapes".to_owned());
        };
        if steps * directions.len() > MOST_STEPS {
            return Err(format!("{steps} steps are more than {MOST_STEPS} launches"));
        }
        Ok(Network { steps: *steps, batch: *batch, inputs: *inputs, hidden: *hidden, directions, gates })
    }

    /// Makes the launch that computes the inputs' part of the gates, for all steps of one
    /// direction.
    fn inputs(&self, site: &Site<'_>, direction: usize, to: Operand) -> Answer<Draft> {
        let (rows, columns) = (self.steps * self.batch, self.gates * self.hidden);
        let filled = |body: &str| {
            let body = body.replace("$A_BASE", "0u").replace("$B_BASE", "direction * columns * depth");
            body.replace("RESULT(at, $VALUE)", "STORE(y, at, sum)")
        };
        let draft = if site.target.tiles {
            let draft = Draft::new("product", filled(include_str!("../sources/product.c")));
            Tiling::of(rows, columns).describe(draft, rows, columns, 1).flag("A_DEPTH_FIRST", true)
        } else {
            let draft = Draft::new("product", filled(include_str!("../sources/product_lanes.c")));
            Tiling::lanes(draft, [rows, columns, self.inputs], 1, site)
        };
        let draft = draft
            .number("direction", direction)
            .number("rows", rows)
            .number("columns", columns)
            .number("depth", self.inputs)
            .number("a_row", self.inputs)
            .number("a_column", 1)
            .number("b_row", 1)
            .number("b_column", self.inputs);
        let draft = site.reads(site.reads(draft, "a", 0)?, "b", 1)?;
        Ok(draft.write("y", DType::F32, rows * columns, to))
    }

    /// Adds the arguments and numbers that all launches of a step have.
    fn step(&self, site: &Site<'_>, draft: Draft, direction: usize, step: usize, gates: &Operand) -> Answer<Draft> {
        let (hidden, batch) = (self.hidden, self.batch);
        let back = self.directions[direction];
        let at = |step: usize| if back { self.steps - 1 - step } else { step };
        let draft = draft
            .number("n", batch * hidden)
            .number("hidden", hidden)
            .number("batch", batch)
            .number("direction", direction)
            .number("directions", self.directions.len())
            .number("step", at(step))
            .number("before", at(step.saturating_sub(1)))
            .flag("FIRST", step == 0)
            .flag("LAST", step + 1 == self.steps)
            .flag("BIASED", site.input(3).is_some())
            .flag("STARTED", site.input(5).is_some())
            .line(batch * hidden, 64, site.target.groups)
            .read("g", DType::F32, self.steps * batch * self.gates * hidden, gates.clone());
        let draft = site.reads(draft, "w", 2)?;
        let draft = if site.input(3).is_some() { site.reads(draft, "bias", 3)? } else { draft };
        if step == 0 && site.input(5).is_some() { site.reads(draft, "h_start", 5) } else { Ok(draft) }
    }

    /// Returns the memory of all states, and their number: the first output, or a workspace in its
    /// place.
    fn states(&self, site: &Site<'_>, drafts: &mut Drafts) -> (Operand, usize) {
        let count = self.steps * self.directions.len() * self.batch * self.hidden;
        match site.output_id(0) {
            Some(id) => (Operand::Value(id), count),
            None => (drafts.workspace(count * 4), count),
        }
    }

    fn state(&self, draft: Draft, name: &str, id: Option<ValueId>) -> Draft {
        match id {
            Some(id) => {
                draft.write(name, DType::F32, self.directions.len() * self.batch * self.hidden, Operand::Value(id))
            }
            None => draft,
        }
    }
}

pub(super) fn lstm(site: Site<'_>, _: Output<'_>) -> Answer<Drafts> {
    let network = Network::new(&site, 4, &["sigmoid", "tanh", "tanh"])?;
    let mut drafts = Drafts::default();
    let (states, count) = network.states(&site, &mut drafts);
    for direction in 0..network.directions.len() {
        let gates = drafts.workspace(network.steps * network.batch * 4 * network.hidden * 4);
        let cells = drafts.workspace(network.batch * network.hidden * 4);
        drafts.launches.push(network.inputs(&site, direction, gates.clone())?);
        for step in 0..network.steps {
            let last = step + 1 == network.steps;
            let draft = Draft::new("lstm", include_str!("../sources/lstm.c"))
                .flag("CELLS", site.input(6).is_some())
                .flag("PEEPHOLES", site.input(7).is_some())
                .flag("STATE_OUT", last && site.output_id(1).is_some())
                .flag("CELL_OUT", last && site.output_id(2).is_some());
            let mut draft = network.step(&site, draft, direction, step, &gates)?;
            if step == 0 && site.input(6).is_some() {
                draft = site.reads(draft, "c_start", 6)?;
            }
            if site.input(7).is_some() {
                draft = site.reads(draft, "p", 7)?;
            }
            draft = draft.write("y", DType::F32, count, states.clone());
            draft = draft.write("cell", DType::F32, network.batch * network.hidden, cells.clone());
            if last {
                draft = network.state(draft, "h_out", site.output_id(1));
                draft = network.state(draft, "c_out", site.output_id(2));
            }
            drafts.launches.push(draft);
        }
    }
    Ok(drafts)
}

pub(super) fn gru(site: Site<'_>, _: Output<'_>) -> Answer<Drafts> {
    let network = Network::new(&site, 3, &["sigmoid", "tanh"])?;
    let linear = site.int("linear_before_reset", 0)? != 0;
    let mut drafts = Drafts::default();
    let (states, count) = network.states(&site, &mut drafts);
    for direction in 0..network.directions.len() {
        let gates = drafts.workspace(network.steps * network.batch * 3 * network.hidden * 4);
        // One workspace holds the state that the reset gate leaves, the other the update gate.
        let width = network.batch * network.hidden;
        let (reset, update) = (drafts.workspace(width * 4), drafts.workspace(width * 4));
        drafts.launches.push(network.inputs(&site, direction, gates.clone())?);
        for step in 0..network.steps {
            let last = step + 1 == network.steps;
            for stage in ["GATES", "STATE"] {
                let out = stage == "STATE" && last && site.output_id(1).is_some();
                let draft = Draft::new("gru", include_str!("../sources/gru.c"))
                    .flag(stage, true)
                    .flag("LINEAR", linear)
                    .flag("STATE_OUT", out);
                let mut draft = network.step(&site, draft, direction, step, &gates)?;
                draft = draft.write("y", DType::F32, count, states.clone());
                draft = draft.write("kept", DType::F32, width, reset.clone());
                draft = draft.write("update", DType::F32, width, update.clone());
                if out {
                    draft = network.state(draft, "h_out", site.output_id(1));
                }
                drafts.launches.push(draft);
            }
        }
    }
    Ok(drafts)
}

pub(super) fn rnn(site: Site<'_>, _: Output<'_>) -> Answer<Drafts> {
    let network = Network::new(&site, 1, &["tanh"])?;
    let mut drafts = Drafts::default();
    let (states, count) = network.states(&site, &mut drafts);
    for direction in 0..network.directions.len() {
        let gates = drafts.workspace(network.steps * network.batch * network.hidden * 4);
        drafts.launches.push(network.inputs(&site, direction, gates.clone())?);
        for step in 0..network.steps {
            let out = step + 1 == network.steps && site.output_id(1).is_some();
            let draft = Draft::new("rnn", include_str!("../sources/rnn.c")).flag("STATE_OUT", out);
            let mut draft = network.step(&site, draft, direction, step, &gates)?;
            draft = draft.write("y", DType::F32, count, states.clone());
            if out {
                draft = network.state(draft, "h_out", site.output_id(1));
            }
            drafts.launches.push(draft);
        }
    }
    Ok(drafts)
}
