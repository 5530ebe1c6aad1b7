//! The network: a trained model with the preparation of photographs put in front, planned for three
//! devices.

use std::path::Path;
use std::sync::Arc;

use hetero::hal::{Attribute, DType, DeviceId, Node, Operator, TensorType, Value, ValueId};
use hetero::{DeviceOptions, HeteroEngine, Model, Placement, Session, Tensor};

use crate::Result;
use crate::photographs::Frame;

/// The device for each part of the work.
#[derive(Clone, Debug)]
pub(crate) struct Roles {
    pub(crate) resize: DeviceId,
    pub(crate) features: DeviceId,
    pub(crate) classifier: DeviceId,
}

impl Roles {
    /// Returns the cuts, by names of nodes: the part put in front, the dense layer with the
    /// softmax, and everything between.
    fn placement(&self) -> Placement {
        Placement::default()
            .pin("photograph/*", self.resize.clone())
            .pin("fc_nsfw/*", self.classifier.clone())
            .pin("predictions", self.classifier.clone())
            .pin("*", self.features.clone())
    }
}

/// Reads the network and makes it ready on the devices.
///
/// # Errors
/// An error where a device is missing or does not take its part, or where the file is not the
/// network.
pub(crate) fn session(path: &Path, frame: Frame, roles: &Roles) -> Result<Arc<Session>> {
    let mut engine = HeteroEngine::builder().place(roles.placement()).build();
    for (role, device) in [("resize", &roles.resize), ("features", &roles.features), ("classifier", &roles.classifier)]
    {
        if engine.devices().iter().all(|added| added.info().id != *device) {
            engine.add_device(&device.to_string(), DeviceOptions::default()).map_err(|error| {
                format!("{error}\n`hetero devices` lists what there is; --{role} ID chooses another device")
            })?;
        }
    }
    let model = prepared(hetero::read_model(path)?, frame).map_err(|error| format!("{}: {error}", path.display()))?;
    let plan = engine.analyze_model(&model)?;
    // A pin that matches no node would leave a stage to another device.
    if let Some(pattern) = roles.placement().unmatched(plan.program()).first() {
        return Err(format!("{} has no node '{pattern}': it is not the network open-nsfw", path.display()).into());
    }
    Ok(engine.session(&plan)?)
}

/// The side of the square that the network was trained on.
/// [`RESIZED`] is the side to which photographs are resized before the middle is cut out.
const SIDE: i64 = 224;
const RESIZED: i64 = 256;
/// The means that are subtracted from blue, green and red.
const MEANS: [f32; 3] = [104.0, 117.0, 123.0];

/// Returns the model with frames of bytes as its input, `[1, rows, columns, red-green-blue]`,
/// instead of floats that the caller has prepared.
fn prepared(mut model: Model, frame: Frame) -> Result<Model> {
    let graph = &mut model.graph;
    let [input] = graph.inputs[..] else { return Err("the network has one input".into()) };
    let mut add = |name: &str, ty: TensorType, constant: Option<Tensor>| {
        graph.values.push(Value { name: format!("photograph/{name}").into(), ty, constant });
        ValueId(graph.values.len() as u32 - 1)
    };
    let mut constant =
        |name: &str, tensor: Tensor| add(name, TensorType::exact(tensor.dtype(), tensor.shape()), Some(tensor));
    let mut numbers = |name: &str, numbers: &[i64]| -> Result<ValueId> {
        Ok(constant(name, Tensor::from_vec(&[numbers.len()], numbers.to_vec())?))
    };
    let margin = (RESIZED - SIDE) / 2;
    let sizes = numbers("sizes", &[1, RESIZED, RESIZED, 3])?;
    // These cut out the middle of rows and columns, and reverse the colours.
    let starts = numbers("starts", &[margin, margin, -1])?;
    let ends = numbers("ends", &[margin + SIDE, margin + SIDE, i64::MIN])?;
    let axes = numbers("axes", &[1, 2, 3])?;
    let steps = numbers("steps", &[1, 1, -1])?;
    let means = constant("means", Tensor::from_vec(&[3], MEANS.to_vec())?);
    let pixels = add("pixels", TensorType::exact(DType::U8, &frame.shape()), None);
    let [floats, resized, cut] = ["floats", "resized", "cut"].map(|name| add(name, TensorType::default(), None));

    let cast = Operator::new("Cast", 13).with("to", Attribute::Int(DType::F32.onnx_code().into()));
    let resize = Operator::new("Resize", 19)
        .with("mode", Attribute::String(Arc::from(&b"linear"[..])))
        .with("antialias", Attribute::Int(1));
    let steps_of = [
        ("cast", cast, vec![Some(pixels)], floats),
        ("resize", resize, vec![Some(floats), None, None, Some(sizes)], resized),
        ("cut", Operator::new("Slice", 13), [resized, starts, ends, axes, steps].map(Some).to_vec(), cut),
        ("centre", Operator::new("Sub", 14), vec![Some(cut), Some(means)], input),
    ];
    let front = steps_of.map(|(name, operator, inputs, output)| Node {
        name: format!("photograph/{name}").into(),
        operator,
        inputs,
        outputs: vec![Some(output)],
    });
    graph.nodes.splice(0..0, front);
    graph.inputs = vec![pixels];
    model.check()?;
    Ok(model)
}
