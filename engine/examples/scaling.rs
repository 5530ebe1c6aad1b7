//! Time and memory of each phase against the number of nodes, from a model's file to its first run.
//! `scaling [FAMILY|all] [MOST] [DEVICES]` runs each size in a process of its own, from 1 000 nodes
//! to MOST; with DEVICES, on so many synthetic devices of equal speed in place of the processor.
//! It prints milliseconds, the most megabytes alive, and the allocations for each node.
//! Below are the slopes of time and memory: the logarithm of what a size takes more than the one
//! before it, over that of the sizes.
//! A slope of 1 is linear.
//! Planning binds the model and runs the passes once more, as it does in a run.
//! The last column is a run of the model's file in a process that does nothing else, as by
//! `hetero run`: its time, and its most resident memory.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/counting/mod.rs"]
mod counting;
#[path = "../tests/grown/mod.rs"]
mod grown;
#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use std::process::{Command, Stdio};

use counting::{Counting, PHASES, measure, measure_on, run_file};
use hetero::Model;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The largest size, unless another is asked for.
const MOST: usize = 100_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, family, count, devices] = &*arguments
        && flag == "--one"
    {
        return one(family, count.parse().unwrap(), devices.parse().unwrap());
    }
    if let [flag, family, count, path] = &*arguments
        && flag == "--write"
    {
        return hetero_onnx::write(&model(family, count.parse().unwrap()), path).unwrap();
    }
    if let [flag, path] = &*arguments
        && flag == "--whole"
    {
        return whole(path);
    }
    let wanted = arguments.first().map_or("all", String::as_str);
    let most: usize = arguments.get(1).map_or(MOST, |text| text.parse().unwrap());
    let devices = arguments.get(2).map_or("0", String::as_str);
    print!("{:<14} {:>8}", "family", "nodes");
    PHASES.iter().chain(&["all"]).for_each(|phase| print!(" {phase:>20}"));
    println!("  ms/MB/allocations");
    for family in grown::FAMILIES.iter().filter(|family| wanted == "all" || family.name == wanted) {
        let mut before: Option<Vec<[f64; 3]>> = None;
        let mut count = 1000;
        while count <= most {
            let mut found = child(&["--one", family.name, &count.to_string(), devices]);
            let path = std::env::temp_dir().join(format!("{}-{}.onnx", family.name, std::process::id()));
            let path = path.to_string_lossy();
            child(&["--write", family.name, &count.to_string(), &path]);
            found.extend(child(&["--whole", &path]));
            std::fs::remove_file(&*path).unwrap();
            if found.len() != PHASES.len() + 1 {
                println!("{:<14} {count:>8} failed", family.name);
                break;
            }
            print!("{:<14} {count:>8}", family.name);
            let text = |[time, bytes, calls]: &[f64; 3]| format!("{time:.1}/{bytes:.1}/{:.1}", calls / count as f64);
            found.iter().for_each(|phase| print!(" {:>20}", text(phase)));
            println!();
            if let Some(before) = before {
                let slope = |now: f64, then: f64| if then > 0.0 { (now / then).log10() } else { 0.0 };
                print!("{:<14} {:>8}", "", "slope");
                for (now, then) in found.iter().zip(&before) {
                    print!(" {:>20}", format!("{:.2}/{:.2}", slope(now[0], then[0]), slope(now[1], then[1])));
                }
                println!();
            }
            before = Some(found);
            count *= 10;
        }
    }
}

/// Runs this program again, and returns the numbers that it prints, in threes.
fn child(arguments: &[&str]) -> Vec<[f64; 3]> {
    let program = std::env::current_exe().unwrap();
    let out = Command::new(program).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.as_chunks().0.to_vec()
}

fn model(family: &str, count: usize) -> Model {
    (grown::FAMILIES.iter().find(|known| known.name == family).unwrap().model)(count)
}

/// Measures one size, and prints milliseconds, megabytes and allocations of each phase.
/// Without synthetic devices, the processor runs it.
fn one(family: &str, count: usize, devices: usize) {
    let model = model(family, count);
    let efforts = match devices {
        0 => measure(model),
        _ => measure_on(model, || synthetic::equals(devices)),
    };
    for phase in efforts {
        println!("{} {} {}", phase.time.as_secs_f64() * 1e3, phase.peak as f64 / 1e6, phase.calls);
    }
}

/// Runs a file, and prints milliseconds, the most megabytes resident, and allocations.
fn whole(path: &str) {
    let effort = run_file(path);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok());
    println!("{} {} {}", effort.time.as_secs_f64() * 1e3, kib.unwrap_or(0.0) * 1.024e-3, effort.calls);
}
