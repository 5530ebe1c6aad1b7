//! The memory and threads of a process, and the work that is repeated to see whether they grow.

#![allow(clippy::unwrap_used, dead_code)]

use hetero::{HeteroEngine, Model, Tensor};

/// Returns the resident bytes of this process, or 0 where the system does not tell.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Returns the number of entries of a folder, or 0 where it is not there.
pub(crate) fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

pub(crate) fn threads() -> usize {
    entries("/proc/self/task")
}

/// Plans, compiles, streams and gives up, `count` times.
pub(crate) fn sessions(engine: &HeteroEngine, model: &Model, x: &Tensor, count: usize) {
    for _ in 0..count {
        let plan = engine.analyze_model(model).unwrap();
        let session = engine.session(&plan).unwrap();
        let mut stream = session.stream(2);
        for _ in 0..3 {
            stream.push(std::slice::from_ref(x)).unwrap();
        }
        while stream.pull().unwrap().is_some() {}
        drop(session.start(std::slice::from_ref(x)).unwrap());
    }
}
