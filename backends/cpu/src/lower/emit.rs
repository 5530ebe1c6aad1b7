//! The second pass: it emits the steps in order, and a reordering wherever a value is needed in a
//! layout in which it does not exist yet.

use foldhash::HashMap;
use hetero_hal::{Error, NodeId, Program, Result, ValueId};

use super::regions::Regions;
use super::wide::Width;
use super::{Chain, ChainKind, Draft, Form, Lowering, Recipe};
use crate::image::{Halo, Layout};
use crate::kernels::affine::Affine;
use crate::kernels::channelwise::Channelwise;
use crate::kernels::elementwise;
use crate::kernels::recipe::{Convolution, PooledConvolution, Quantised};
use crate::kernels::reorder::Reorder;

impl Lowering<'_> {
    /// Returns the halo that all readers of a value want together; there is none unless all of them
    /// are convolutions that read the value blocked.
    fn halo_of(&mut self, value: ValueId) -> Halo {
        // Each of the readers asks, and the answer stays the same.
        if let Some(&halo) = self.wanted.get(&value) {
            return halo;
        }
        let wanted =
            |reader: &NodeId| self.halos.get(&reader.index()).filter(|_| self.input(reader.index(), 0) == Some(value));
        let mut all = self.consumers[value.index()].iter().map(wanted);
        let all = all.try_fold(Halo::NONE, |halo, wanted| Some(halo.union(*wanted?)));
        let halo = all.filter(|_| !self.is_output[value.index()]).unwrap_or(Halo::NONE);
        self.wanted.insert(value, halo);
        halo
    }

    /// Returns the value in a layout, and emits a step that makes this layout where it does not
    /// exist yet.
    pub(super) fn want(&mut self, node: usize, value: ValueId, layout: Layout) -> Result<Form> {
        let there = self.there.get(&value).map_or(&[Layout::Plain][..], |there| there);
        if there.contains(&layout) {
            return Ok(Form { value, layout });
        }
        if let Layout::Blocked(wanted) = layout {
            let wide =
                there.iter().find(|layout| matches!(layout, Layout::Blocked(halo) if halo.union(wanted) == *halo));
            if let (Some(&layout), true) = (wide, wanted != Halo::NONE) {
                return Ok(Form { value, layout });
            }
        }
        if layout == Layout::Wide && self.program.values()[value.index()].constant.is_some() {
            // The executable has such a constant in f32.
            self.there.entry(value).or_insert_with(|| vec![Layout::Plain]).push(layout);
            return Ok(Form { value, layout });
        }
        let from = self.source_of(node, value, layout)?;
        let image = |layout: Layout| match layout {
            Layout::Blocked(halo) => Ok::<_, Error>((self.image(value, halo)?, true)),
            _ => Ok((self.image(value, Halo::NONE)?, false)),
        };
        let recipe = match (self.turn(value, from, layout), self.half(value), from, layout) {
            (Some(turn), ..) => Recipe::Quantised(Box::new(Quantised::Turn(turn))),
            (_, Some(half), Layout::Plain, Layout::Wide) => Recipe::Widen(half),
            (_, Some(half), Layout::Wide, Layout::Plain) => Recipe::Narrow(half),
            _ => Recipe::Reorder(Box::new(Reorder::new(self.isa, image(from)?, image(layout)?))),
        };
        self.drafts.push(Draft {
            node,
            nodes: vec![],
            recipe,
            inputs: vec![Some(Form { value, layout: from })],
            outputs: vec![Some(Form { value, layout })],
        });
        self.there.entry(value).or_insert_with(|| vec![Layout::Plain]).push(layout);
        Ok(Form { value, layout })
    }

    pub(super) fn made(&mut self, form: Form) {
        if form.layout != Layout::Plain {
            self.there.insert(form.value, vec![form.layout]);
        }
    }

    pub(super) fn emit(&mut self, node: usize) -> Result<()> {
        if let Some(chain) = self.chains.remove(&node) {
            return self.emit_chain(node, chain);
        }
        if let Some(product) = self.products.remove(&node) {
            return self.emit_product(node, product);
        }
        if let Some(group) = self.groups.remove(&node) {
            return self.emit_group(node, group);
        }
        if let Some(parts) = self.attentions.remove(&node) {
            return self.emit_attention(node, parts);
        }
        if let Some(members) = self.clusters.remove(&node) {
            return self.emit_cluster(node, &members);
        }
        if self.absorbed[node] {
            return Ok(());
        }
        let output = self.node(node).outputs.first().copied().flatten();
        if let Some(output) = output.filter(|id| self.blocked[id.index()]) {
            return self.emit_blocked(node, output);
        }
        if let (Some(output), true) = (output, self.functions.contains_key(&node)) {
            let unary = elementwise::unary(self.site(node))?;
            let function = unary.ok_or_else(|| Error::internal("several nodes are no function"))?;
            let input = self.input(node, 0).ok_or_else(|| Error::internal("a function has no input"))?;
            let input = self.want(node, input, self.rows(input))?;
            let form = Form { value: output, layout: self.rows(output) };
            self.made(form);
            let (inputs, outputs) = (vec![Some(input)], vec![Some(form)]);
            self.drafts.push(Draft { node, nodes: vec![node], recipe: Recipe::Unary(function), inputs, outputs });
            return Ok(());
        }
        // Behind the inputs stand the values that subgraphs capture; see `kernels::oracle`.
        let width = self.width(node)?;
        let layout = |lowering: &Self, id: ValueId| match width {
            Width::Narrow => Layout::Plain,
            Width::Wide => lowering.rows(id),
        };
        let operands = self.node(node).inputs.clone();
        let captured: Vec<_> = self.node(node).uses().skip(operands.iter().flatten().count()).map(Some).collect();
        let mut inputs = Vec::with_capacity(operands.len() + captured.len());
        for id in operands.into_iter().chain(captured) {
            inputs.push(id.map(|id| self.want(node, id, layout(self, id))).transpose()?);
        }
        let form = |value: ValueId| Form { value, layout: layout(self, value) };
        let outputs: Vec<_> = self.node(node).outputs.iter().map(|id| id.map(form)).collect();
        for form in outputs.iter().flatten() {
            self.made(*form);
        }
        let recipe = match width {
            Width::Narrow => Recipe::Node,
            Width::Wide => Recipe::Wide,
        };
        self.drafts.push(Draft { node, nodes: vec![node], recipe, inputs, outputs });
        Ok(())
    }

    /// Emits all steps of a program with regions, stage by stage.
    pub(super) fn emit_stages(&mut self, regions: &Regions) -> Result<()> {
        let id = |&node: &usize| u32::try_from(node).map(NodeId).map_err(|_| Error::unsupported("2³² nodes"));
        let named = |(number, nodes): (usize, &Vec<usize>)| {
            Ok((format!("region {number}"), nodes.iter().map(id).collect::<Result<Vec<_>>>()?))
        };
        let parts = regions.parts.iter().enumerate().map(named).collect::<Result<Vec<_>>>()?;
        let mut programs: Vec<Option<Program>> = self.original.divide(&parts)?.into_iter().map(Some).collect();
        let values = self.original.values();
        let names: HashMap<&str, ValueId> = (0u32..).map(ValueId).zip(values).map(|(id, v)| (&*v.name, id)).collect();
        for &node in &regions.order {
            let Some(region) = regions.of[node] else {
                self.emit(node)?;
                continue;
            };
            // The region is one step, in the place of its first node.
            let Some(part) = programs[region].take() else { continue };
            let outer = |id: &ValueId| {
                let value = part.value(*id)?;
                names.get(&*value.name).copied().ok_or_else(|| Error::internal("a region has a value of its own"))
            };
            let mut inputs = Vec::with_capacity(part.inputs().len());
            for id in part.inputs() {
                inputs.push(Some(self.want(node, outer(id)?, Layout::Plain)?));
            }
            let outputs: Vec<Form> =
                part.outputs().iter().map(|id| outer(id).map(Form::plain)).collect::<Result<_>>()?;
            outputs.iter().for_each(|form| self.made(*form));
            let (nodes, outputs) = (regions.parts[region].clone(), outputs.into_iter().map(Some).collect());
            self.drafts.push(Draft { node, nodes, recipe: Recipe::Region(Box::new(part)), inputs, outputs });
        }
        Ok(())
    }

    fn emit_chain(&mut self, node: usize, chain: Chain) -> Result<()> {
        let blocked = self.blocked[chain.output.index()];
        let halo = if blocked && chain.addend.is_none() { self.halo_of(chain.output) } else { Halo::NONE };
        let layout = if blocked { Layout::Blocked(halo) } else { self.rows(chain.output) };
        let output = Form { value: chain.output, layout };
        let source = match chain.kind {
            ChainKind::Conv { .. } => self.input(chain.head, 0),
            ChainKind::Affine { .. } => {
                let inputs = self.node(chain.head).inputs.iter().flatten().copied();
                inputs.into_iter().find(|id| self.program.values()[id.index()].constant.is_none())
            }
        };
        let source = source.ok_or_else(|| Error::internal("a chain has no input"))?;
        let (recipe, mut inputs) = match chain.kind {
            ChainKind::Conv { geometry, weights, finish, pooled } => {
                let wanted = self.halos.get(&chain.head).copied();
                let input = match wanted {
                    Some(halo) => {
                        // A plain value is reordered once for all its readers.
                        let all = self.halo_of(source);
                        let halo = if halo.union(all) == all { all } else { halo };
                        self.want(node, source, Layout::Blocked(halo))?
                    }
                    None => self.want(node, source, self.rows(source))?,
                };
                let of = |layout: Layout| match layout {
                    Layout::Blocked(halo) => Some(halo),
                    _ => None,
                };
                let (from, to) = (of(input.layout), of(layout));
                if let (Some(between), Some(halo)) = (pooled, to) {
                    let (between, output) = (self.image(between, Halo::NONE)?, self.image(chain.output, halo)?);
                    let geometry = *geometry;
                    let recipe = PooledConvolution { geometry, input: from, between, output, weights, finish };
                    (Recipe::ConvPool(Box::new(recipe)), vec![Some(input)])
                } else {
                    let recipe = Convolution {
                        geometry: *geometry,
                        input: from,
                        output: to,
                        weights,
                        finish,
                        filters: self.filters,
                    };
                    (Recipe::Conv(Box::new(recipe)), vec![Some(input)])
                }
            }
            ChainKind::Affine { scale, shift, clamp } => {
                let from = if blocked { Layout::Blocked(Halo::NONE) } else { self.rows(source) };
                let input = self.want(node, source, from)?;
                let halo = |layout: Layout| match layout {
                    Layout::Blocked(halo) => halo,
                    _ => Halo::NONE,
                };
                let images = (self.image(source, halo(input.layout))?, self.image(chain.output, halo(layout))?);
                let affine = Affine::new(self.isa, images, blocked, scale, shift, clamp);
                (Recipe::Affine(Box::new(affine)), vec![Some(input)])
            }
        };
        if let Some(addend) = chain.addend {
            let layout = if blocked { layout } else { self.rows(addend) };
            inputs.push(Some(self.want(node, addend, layout)?));
        }
        self.made(output);
        self.drafts.push(Draft { node, nodes: chain.nodes, recipe, inputs, outputs: vec![Some(output)] });
        Ok(())
    }

    fn emit_blocked(&mut self, node: usize, output: ValueId) -> Result<()> {
        let site = self.site(node);
        let flat = Layout::Blocked(Halo::NONE);
        let name = &*site.operator().name;
        let pool = matches!(name, "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool");
        let unary = if pool { None } else { elementwise::unary(site)? };
        let count = if pool || unary.is_some() { 1 } else { self.node(node).inputs.len() };
        let mut inputs = Vec::with_capacity(count);
        for id in self.node(node).inputs.iter().take(count).flatten() {
            inputs.push(Some(self.want(node, *id, flat)?));
        }
        let same = inputs.iter().flatten().all(|form| self.shape(form.value) == self.shape(output));
        let elements = if pool || same || name == "Concat" { None } else { self.channelwise(node, output) };
        let halo = if pool || elements.is_some() { self.halo_of(output) } else { Halo::NONE };
        let form = Form { value: output, layout: Layout::Blocked(halo) };
        let recipe = if pool {
            let source = self.input(node, 0).ok_or_else(|| Error::internal("a pooling has no input"))?;
            Recipe::Pool(Box::new((self.image(source, Halo::NONE)?, self.image(output, halo)?)))
        } else if let Some(function) = unary {
            Recipe::Unary(function)
        } else if name == "Concat" {
            let mut blocks = Vec::with_capacity(count);
            for form in inputs.iter().flatten() {
                let image = self.image(form.value, Halo::NONE)?;
                blocks.push(image.blocks() * image.plane() * size_of::<f32>());
            }
            let rows = self.image(output, Halo::NONE)?.batch;
            Recipe::Concat { rows, blocks }
        } else {
            let function = elementwise::binary(site).ok_or_else(|| Error::internal("no function of two operands"))?;
            match (elements, inputs.as_mut_slice()) {
                (Some(position), [Some(first), Some(second)]) => {
                    let exchanged = position == 1;
                    if exchanged {
                        std::mem::swap(first, second);
                    }
                    let (input, output) = (self.image(first.value, Halo::NONE)?, self.image(output, halo)?);
                    let (isa, shared) = (self.isa, self.shape(second.value)[0] == 1);
                    Recipe::Channelwise(Box::new(Channelwise { isa, function, exchanged, shared, input, output }))
                }
                _ => Recipe::Pairwise(function),
            }
        };
        self.made(form);
        self.drafts.push(Draft { node, nodes: vec![node], recipe, inputs, outputs: vec![Some(form)] });
        Ok(())
    }
}
