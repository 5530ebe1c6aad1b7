//! Runs a model whose sizes change from run to run, and tells what each run took.

use std::time::Instant;

use hetero::{DType, DeviceOptions, HeteroEngine, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let mut engine = HeteroEngine::builder().build();
    engine.add_device("cpu:0", DeviceOptions::default())?;
    let model = hetero::read_model(&arguments[1])?;
    let loaded = engine.load(&model)?;
    let sizes: Vec<usize> = arguments[2].split(',').map(|s| s.parse().unwrap()).collect();
    for &size in &sizes {
        let mut inputs = Vec::new();
        for &id in &model.graph.inputs {
            let value = model.graph.value(id)?;
            let shape: Vec<usize> = value.ty.dims.as_ref().unwrap().iter().map(|dim| match dim {
                hetero::hal::Dim::Known(n) => *n,
                hetero::hal::Dim::Symbol(s) if &**s == "seq" && arguments[3] == "seq" => size,
                hetero::hal::Dim::Symbol(s) if &**s == "past" => size,
                _ => 1,
            }).collect();
            let count = shape.iter().product();
            let tensor = match value.ty.dtype {
                Some(DType::I64) => Tensor::from_vec(&shape, (0..count).map(|i| if value.name.contains("mask") { 1 } else { i as i64 % 900 }).collect())?,
                _ => Tensor::from_vec(&shape, (0..count).map(|i| (i as f32 * 0.37).sin()).collect())?,
            };
            inputs.push((value.name.to_string(), tensor));
        }
        let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let began = Instant::now();
        let first = loaded.run(&inputs)?;
        let first_time = began.elapsed();
        let mut best = f64::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            loaded.run(&inputs)?;
            best = best.min(began.elapsed().as_secs_f64());
        }
        let plan = engine.analyze_with_inputs(&model, &Default::default(), &inputs)?;
        let exact = engine.run(&inputs, &plan)?;
        let mut alone = f64::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            engine.run(&inputs, &plan)?;
            alone = alone.min(began.elapsed().as_secs_f64());
        }
        let mut worst = 0f32;
        for ((_, a), (_, b)) in first.iter().zip(exact.iter()) {
            assert_eq!(a.shape(), b.shape());
            if a.dtype() == DType::F32 {
                for (x, y) in a.view::<f32>()?.iter().zip(b.view::<f32>()?.iter()) { worst = worst.max((x - y).abs()); }
            }
        }
        println!("{size}: first {:.2} ms, then {:.2} ms, alone {:.2} ms, difference {worst:e}; {} plans made, {} kept {:?}", first_time.as_secs_f64() * 1e3, best * 1e3, alone * 1e3, loaded.plans_made(), loaded.plans_kept(), loaded.notes());
    }
    Ok(())
}
