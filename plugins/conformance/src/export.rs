//! Cases as files, so that other runtimes can run them.

use std::path::Path;

use hetero_hal::{Error, Result, Tensor};

use crate::{Case, single};

/// Writes a case in the standard's own layout: `model.onnx`, and `test_data_set_0` with
/// `input_N.pb` and, by the oracle, `output_N.pb`.
/// Constants of the case are initialisers of the model.
///
/// # Errors
/// An error where the oracle or inference turns the case down, or where a file cannot be written.
pub fn write_case(folder: &Path, case: &Case) -> Result<()> {
    let expected = hetero_reference::evaluate(&case.operator, &case.inputs, case.outputs)?;
    let (program, inputs) = single(case)?;
    let model = hetero_onnx::model_of(&program);
    let data = folder.join("test_data_set_0");
    let broken = |path: &Path, error: hetero_files::Error| {
        Error::invalid_argument(format!("cannot write {}: {error}", path.display()))
    };
    std::fs::create_dir_all(&data).map_err(|error| broken(&data, error.into()))?;
    hetero_onnx::write(&model, folder.join("model.onnx")).map_err(Error::from)?;
    let save = |kind: &str, index: usize, name: &str, tensor: &Tensor| {
        let path = data.join(format!("{kind}_{index}.pb"));
        hetero_files::replace(&path, hetero_onnx::value_to_bytes(name, tensor)).map_err(|error| broken(&path, error))
    };
    for (index, (id, tensor)) in program.inputs().iter().zip(&inputs).enumerate() {
        save("input", index, &program.value(*id)?.name, tensor)?;
    }
    for (index, (id, tensor)) in program.outputs().iter().zip(&expected).enumerate() {
        save("output", index, &program.value(*id)?.name, tensor)?;
    }
    Ok(())
}
