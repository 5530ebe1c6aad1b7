//! Helpers that the tests of OpenCL devices share.

#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;

use bytes::Bytes;
use hetero_hal::{
    BindingInfo, Buffer, BufferLayout, CompileOptions, DType, Device, Direction, Driver, Executable, KernelFormat,
    KernelSignature, OpenOptions, Result, Source,
};
use hetero_opencl::OpenClDriver;

/// Opens every device that is there anew with these options.
/// Fails where drivers are required and there are none.
pub(crate) fn opened(options: &OpenOptions) -> Vec<Arc<dyn Device>> {
    let mut opened = Vec::new();
    for driver in [OpenClDriver::processors(), OpenClDriver::accelerators()] {
        match driver.probe() {
            Ok(infos) => opened.extend(infos.iter().map(|info| driver.open(info.id.ordinal(), options).unwrap())),
            Err(why) => {
                assert!(std::env::var("HETERO_REQUIRE_DRIVERS").as_deref() != Ok("1"), "{}: {why}", driver.name());
                eprintln!("skipped: {}: {why}", driver.name());
            }
        }
    }
    opened
}

/// Compiles a kernel `add` whose one argument is a buffer of `count` elements `f32`, one for each
/// work item.
pub(crate) fn compile(
    device: &dyn Device,
    code: &str,
    count: usize,
    cached: Option<Bytes>,
) -> Result<Arc<dyn Executable>> {
    let binding = BindingInfo {
        name: "y".into(),
        direction: Direction::Output,
        dtype: DType::F32,
        shape: vec![count],
        extents: vec![],
        bytes: count * 4,
    };
    let signature =
        KernelSignature { entry: "add".into(), bindings: vec![binding], global: [count as u32, 1, 1], local: None };
    let source = Source::Kernel { format: KernelFormat::OpenClC, code: code.as_bytes(), signature: &signature };
    device.compile(source, &CompileOptions { cached, ..CompileOptions::default() })
}

/// Makes a buffer of `count` elements `f32`, all zero.
pub(crate) fn zeros(device: &dyn Device, count: usize) -> Buffer {
    let buffer = device.allocate(BufferLayout::new(count * 4)).unwrap();
    buffer.write(0, &vec![0; count * 4]).unwrap();
    buffer
}
