//! The places of the values that lie only inside a running program, and of the kernels' workspaces.
//!
//! A value lives from the step that writes it to the last step that reads it.
//! A value that is only concatenated with others is written where it will lie in the whole, so that
//! nothing is left to copy.
//! The whole then lives from the first of its parts on.
//! The arena can become much larger by this, where the parts of a network come long before their
//! whole.
//! Each value then has a place of its own instead.

use foldhash::{HashMap, HashMapExt, HashSet};
use hetero_arena::{Layout as Planned, Request, plan};
use hetero_hal::{Error, Program, Result};

use crate::image::{Image, Layout};
use crate::kernels::Kernel;
use crate::lower::{Draft, Form};
use crate::memory::ALIGNMENT;
use crate::simd::Isa;

/// A range of bytes of the arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

pub(crate) struct Arena {
    /// The size in bytes.
    pub(crate) bytes: usize,
    pub(crate) values: HashMap<Form, Range>,
    /// The workspace of each step.
    pub(crate) workspaces: Vec<Option<Range>>,
}

/// The steps of a program, with their kernels.
pub(crate) struct Steps<'a> {
    pub(crate) program: &'a Program,
    pub(crate) isa: Isa,
    pub(crate) drafts: &'a [Draft],
    pub(crate) kernels: &'a [Box<dyn Kernel>],
    pub(crate) threads: usize,
}

/// The owner of a request.
enum Owner {
    Value(Form),
    Workspace(usize),
}

/// For each part, the outermost whole that it belongs to, and how many bytes of the whole lie
/// before it.
type Wholes = HashMap<Form, (Form, usize)>;

/// The requests, their owners, and the layout.
type Plan = (Vec<Request>, Vec<Owner>, Planned);

impl Arena {
    /// Lays out all values but those that lie elsewhere.
    pub(crate) fn plan(steps: &Steps<'_>, elsewhere: impl Fn(&Form) -> bool) -> Result<Self> {
        let wholes = steps.wholes(&elsewhere)?;
        let apart = steps.lay_out(&Wholes::new(), &elsewhere)?;
        let joined = if wholes.is_empty() { None } else { Some(steps.lay_out(&wholes, &elsewhere)?) };
        let (wholes, (requests, owners, planned)) = match joined {
            Some(joined) if joined.2.bytes <= apart.2.bytes.saturating_add(apart.2.bytes / 4) => (wholes, joined),
            _ => (Wholes::new(), apart),
        };
        let mut values = HashMap::new();
        let mut workspaces = vec![None; steps.kernels.len()];
        for ((owner, request), &offset) in owners.into_iter().zip(&requests).zip(&planned.offsets) {
            let range = Range { offset, bytes: request.bytes };
            match owner {
                Owner::Value(form) => {
                    values.insert(form, range);
                }
                Owner::Workspace(step) => workspaces[step] = Some(range),
            }
        }
        for (&part, &(whole, before)) in &wholes {
            let whole = values.get(&whole).ok_or_else(|| Error::internal("the whole of a part has no place"))?;
            let range = Range { offset: whole.offset + before, bytes: steps.bytes(part)? };
            values.insert(part, range);
        }
        Ok(Arena { bytes: planned.bytes, values, workspaces })
    }
}

impl Steps<'_> {
    /// Returns the bytes of a value in a layout.
    fn bytes(&self, form: Form) -> Result<usize> {
        let value = self.program.value(form.value)?;
        let elements = match form.layout {
            // Bytes that lie in another order are as many.
            Layout::Plain | Layout::Moved | Layout::Last => return Ok(value.bytes()),
            Layout::Wide => hetero_hal::element_count(&value.shape),
            Layout::Blocked(halo) => Image::of(&value.shape, halo, self.isa.lanes()).and_then(|image| image.elements()),
        };
        let bytes = elements.and_then(|count| count.checked_mul(size_of::<f32>()));
        bytes.ok_or_else(|| Error::internal(format!("the size of '{}' overflows", value.name)))
    }

    /// Returns the values that can be written where a concatenation puts them: those that a step
    /// writes, once each, at multiples of a vector.
    fn wholes(&self, elsewhere: &impl Fn(&Form) -> bool) -> Result<Wholes> {
        let mut wholes = Wholes::new();
        let mut joined = Vec::new();
        let vector = self.isa.lanes() * size_of::<f32>();
        let mut written: HashSet<Form> = HashSet::default();
        for (draft, kernel) in self.drafts.iter().zip(self.kernels) {
            let output = draft.outputs.first().copied().flatten().filter(|form| !elsewhere(form));
            if let (Some(parts), Some(output)) = (kernel.joins(), output) {
                let mut before = 0;
                for (form, &bytes) in draft.inputs.iter().zip(parts) {
                    let own = form.filter(|form| written.contains(form) && !wholes.contains_key(form));
                    if let Some(form) = own
                        && before % vector == 0
                        && self.bytes(form)? == bytes
                    {
                        wholes.insert(form, (output, before));
                        joined.push(form);
                    }
                    before += bytes;
                }
            }
            written.extend(draft.outputs.iter().flatten().filter(|form| !elsewhere(form)));
        }
        // A whole becomes a part itself only behind its own parts.
        // So from the last part on, each whole is known by its outermost one already.
        for part in joined.into_iter().rev() {
            let outer = wholes.get(&part).and_then(|&(whole, before)| Some((wholes.get(&whole).copied()?, before)));
            if let Some(((whole, more), before)) = outer {
                wholes.insert(part, (whole, before + more));
            }
        }
        Ok(wholes)
    }

    fn lay_out(&self, wholes: &Wholes, elsewhere: &impl Fn(&Form) -> bool) -> Result<Plan> {
        let own = |form: Form| wholes.get(&form).map_or(form, |&(whole, _)| whole);
        let mut last_use: HashMap<Form, usize> = HashMap::new();
        for (step, draft) in self.drafts.iter().enumerate() {
            for &form in draft.inputs.iter().chain(&draft.outputs).flatten() {
                last_use.insert(own(form), step);
            }
        }
        let (mut requests, mut owners): (Vec<Request>, Vec<Owner>) = (Vec::new(), Vec::new());
        let mut request_of: HashMap<Form, usize> = HashMap::new();
        for (step, (draft, kernel)) in self.drafts.iter().zip(self.kernels).enumerate() {
            for (position, &form) in draft.outputs.iter().enumerate() {
                let Some(form) = form.filter(|form| !elsewhere(form)) else { continue };
                let whole = own(form);
                if request_of.contains_key(&whole) {
                    continue;
                }
                let size = self.bytes(whole)?;
                let last = last_use.get(&whole).copied().unwrap_or(step);
                let mut request = Request::new(size, step, last).aligned_to(ALIGNMENT);
                if position == 0 && whole == form {
                    // The output may take over the memory of these inputs: they have the same size,
                    // and are read once by this step and by no later one.
                    let once = |input: Form| draft.inputs.iter().filter(|&&other| other == Some(input)).count() == 1;
                    let inputs = kernel.in_place().iter().filter_map(|&index| draft.inputs.get(index).copied());
                    let inputs = inputs.flatten().filter(|&input| once(input));
                    let candidates = inputs.filter_map(|input| request_of.get(&input).copied());
                    let fits = |&index: &usize| {
                        let input: &Request = &requests[index];
                        input.bytes == size && input.last == step
                    };
                    request.in_place_of = candidates.filter(fits).collect();
                }
                request_of.insert(whole, requests.len());
                requests.push(request);
                owners.push(Owner::Value(whole));
            }
            let bytes = kernel.workspace(self.threads);
            if bytes > 0 {
                requests.push(Request::new(bytes, step, step).aligned_to(ALIGNMENT));
                owners.push(Owner::Workspace(step));
            }
        }
        let planned =
            plan(&requests).map_err(|error| Error::internal("the arena cannot be planned").caused_by(error))?;
        Ok((requests, owners, planned))
    }
}
