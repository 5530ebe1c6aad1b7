//! `hetero demo`: classifies digits that the network has never seen.

mod data;
pub(crate) mod options;

use std::time::Instant;

use hetero::{Binding, Tensor};
use serde_json::json;

use crate::arguments::DemoOptions;
use crate::devices;
use crate::failure::Result;
use crate::output::{document, say};
use crate::report::{Latencies, placement, summary};

/// The network, trained by `examples/digits/train.py`.
const MODEL: &[u8] = include_bytes!("../../demo/digits.onnx");
const SIDE: usize = 28;
/// The number of digits in a run.
const BATCH: usize = 50;
/// The number of predictions that are shown.
const SHOWN: usize = 10;

pub(crate) fn demo(options: &DemoOptions) -> Result<()> {
    let (images, labels) = data::held_out(&data::data()?)?;
    let mut engine = devices::builder(options.devices.unexamined, &[]).build();
    devices::add(&mut engine, &options.devices)?;
    let model = hetero::read_model_bytes(MODEL.into()).map_err(hetero::Error::from)?;
    let binding = Binding { shapes: [("image".to_owned(), vec![BATCH, 1, SIDE, SIDE])].into(), ..Binding::default() };
    let plan = engine.analyze(&model, &binding)?;
    let session = engine.session(&plan)?;
    let mut predicted = Vec::with_capacity(labels.len());
    let mut times = Vec::new();
    for batch in images.chunks_exact(BATCH * SIDE * SIDE) {
        let tensor = Tensor::from_vec(&[BATCH, 1, SIDE, SIDE], batch.to_vec()).map_err(hetero::Error::from)?;
        let began = Instant::now();
        let outputs = session.run(&[("image", tensor)])?;
        times.push(began.elapsed());
        let logits = outputs.tensor("logits")?;
        for row in logits.view::<f32>().map_err(hetero::Error::from)?.chunks(10) {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(digit, _)| digit);
            predicted.push(best);
        }
    }
    let right = predicted.iter().zip(&labels).filter(|(a, b)| a == b).count();
    let accuracy = right as f64 / labels.len().max(1) as f64;
    let total: f64 = times.iter().map(std::time::Duration::as_secs_f64).sum();
    let report = session.report();
    if options.output.json {
        document(json!({
            "digits": labels.len(),
            "right": right,
            "accuracy": accuracy,
            "predictions": predicted,
            "labels": labels,
            "batch": BATCH,
            "latency_us": Latencies::new(times).json(),
            "placement": placement(&report),
            "moved": report.moved,
        }))?;
        return Ok(());
    }
    summary(&plan)?;
    say!("some predictions, of {} held-out digits:", labels.len())?;
    // The held-out digits are sorted by class: the shown digits are of all classes.
    for index in (0..labels.len()).step_by((labels.len() / SHOWN).max(1)).take(SHOWN) {
        let mark = if predicted[index] == labels[index] { "" } else { "  <- wrong" };
        say!("    digit {index:3}: predicted {}, is {}{mark}", predicted[index], labels[index])?;
    }
    say!("accuracy: {:.1} % ({right} of {})", accuracy * 100.0, labels.len())?;
    say!("time: {:.2} ms for all, {:.1} µs per digit", total * 1e3, total * 1e6 / labels.len() as f64)?;
    Ok(())
}
