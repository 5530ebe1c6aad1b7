//! The device that the tests run on.

use std::sync::Arc;

use hetero_hal::{Device, Driver, OpenOptions};
use hetero_wgpu::WgpuDriver;

/// The first adapter; `None`, with the reason printed, where there is none. With `HETERO_REQUIRE_DRIVERS=1` there has to be one.
pub(crate) fn device(extra: &[(&str, &str)]) -> Option<Arc<dyn Device>> {
    if let Err(why) = WgpuDriver.probe() {
        assert!(std::env::var_os("HETERO_REQUIRE_DRIVERS").is_none_or(|value| value != "1"), "{why}");
        println!("skipped: {why}");
        return None;
    }
    let extra = extra.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    Some(WgpuDriver.open(0, &OpenOptions { extra, ..OpenOptions::default() }).unwrap())
}
