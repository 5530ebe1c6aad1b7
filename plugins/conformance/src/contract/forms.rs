//! Rules about serial forms: they compile to the same, and forms that do not fit are ignored.

use bytes::Bytes;
use hetero_hal::{CompileOptions, Device, ErrorKind, Source};

use super::tools::{Made, ensure};
use super::{Bench, Checked, Fault};
use crate::run_executable;

/// Makes a program that the device takes, if possible one with a large constant.
fn made(device: &dyn Device, seed: u64) -> Result<Made, Fault> {
    let product = Made::product(seed)?;
    Ok(if product.claimed(device) { product } else { Made::rectifiers(seed)? })
}

/// Returns the serial form of what a device compiles of a program.
/// The executable itself is dropped.
fn form(device: &dyn Device, made: &Made) -> Result<Vec<u8>, Fault> {
    made.compile(device)?.serialize().map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Fault::Unsupported(error.message().to_owned()),
        _ => Fault::from(error),
    })
}

/// Checks that the result is right where the device compiles with these bytes.
fn right_with(device: &dyn Device, made: &Made, form: Vec<u8>) -> Checked {
    let options = CompileOptions { cached: Some(Bytes::from(form)), ..CompileOptions::default() };
    let executable = device.compile(Source::Program(&made.program), &options)?;
    made.compare(&run_executable(device, &executable, &made.program, &made.inputs)?)
}

pub(super) fn round_trip(bench: &Bench<'_>) -> Checked {
    let device = bench.device;
    let made = made(device, 1)?;
    let form = form(device, &made)?;
    ensure(!form.is_empty(), || "the form is empty".to_owned())?;
    let options = CompileOptions { cached: Some(form.clone().into()), ..CompileOptions::default() };
    let executable = device.compile(Source::Program(&made.program), &options)?;
    made.compare(&run_executable(device, &executable, &made.program, &made.inputs)?)?;
    // An executable that was compiled with a form has a form itself, which serves as well.
    let again = executable.serialize()?;
    drop(executable);
    right_with(device, &made, again)
}

pub(super) fn damaged(bench: &Bench<'_>) -> Checked {
    let device = bench.device;
    let made = made(device, 2)?;
    let whole = form(device, &made)?;
    let half = whole.len() / 2;
    let flipped = |places: &mut dyn Iterator<Item = usize>| {
        let mut bytes = whole.clone();
        places.filter(|&at| at < whole.len()).for_each(|at| bytes[at] ^= 0x5a);
        bytes
    };
    let changes = [
        vec![],
        whole[..half].to_vec(),
        whole[..whole.len().min(20)].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        [&whole[..], b"more"].concat(),
        vec![0; whole.len()],
        flipped(&mut (0..8)),
        flipped(&mut (24..48)),
        flipped(&mut [half].into_iter()),
        flipped(&mut (0..whole.len()).step_by(97)),
        flipped(&mut [whole.len() - 1].into_iter()),
        whole[half..].iter().chain(&whole[..half]).copied().collect(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        right_with(device, &made, change).map_err(|fault| match fault {
            Fault::Broken(why) => Fault::Broken(format!("damage number {number}: {why}")),
            other => other,
        })?;
    }
    Ok(())
}

pub(super) fn of_another_program(bench: &Bench<'_>) -> Checked {
    let device = bench.device;
    let (own, other) = (made(device, 3)?, made(device, 4)?);
    // One other form differs in its constants alone, and one has nothing in common.
    right_with(device, &own, form(device, &other)?)?;
    match form(device, &Made::rectifiers(5)?) {
        Ok(form) => right_with(device, &own, form),
        Err(Fault::Unsupported(_)) => Ok(()),
        Err(fault) => Err(fault),
    }
}

pub(super) fn of_another_device(bench: &Bench<'_>) -> Checked {
    let device = bench.device;
    let own = made(device, 6)?;
    form(device, &own)?;
    let mut tried = 0;
    for peer in bench.peers.iter().filter(|peer| peer.info().id != device.info().id && own.claimed(&***peer)) {
        match form(&**peer, &own) {
            Ok(form) => right_with(device, &own, form)?,
            Err(Fault::Unsupported(_)) => continue,
            Err(fault) => return Err(fault),
        }
        tried += 1;
    }
    if tried == 0 {
        return Err(Fault::Unsupported("there is no other device with a serial form".to_owned()));
    }
    Ok(())
}
