//! Time and memory of each phase, from a model's file to its first run, against the number of nodes.
//! `scaling [FAMILY|all] [MOST]` runs each size in a process of its own, from 1 000 nodes to MOST.
//! It prints milliseconds, the most megabytes alive, and the allocations for each node of each phase,
//! and the slopes of time and memory: the logarithm of what a size takes more than the one before
//! it, over that of the sizes.
//! A slope of 1 is linear.
//! Planning binds the model and runs the passes once more, as it does in a run.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/counting/mod.rs"]
mod counting;
#[path = "../tests/grown/mod.rs"]
mod grown;

use std::process::Command;

use counting::{Counting, Effort, PHASES, measure};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The size from which on a family is measured with two sizes only where it is asked for by name.
const MOST: usize = 100_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, family, count] = &*arguments
        && flag == "--one"
    {
        return one(family, count.parse().unwrap());
    }
    let wanted = arguments.first().map_or("all", String::as_str);
    let most: usize = arguments.get(1).map_or(MOST, |text| text.parse().unwrap());
    print!("{:<14} {:>8}", "family", "nodes");
    PHASES.iter().chain(&["all"]).for_each(|phase| print!(" {phase:>20}"));
    println!("  ms/MB/allocations");
    for family in grown::FAMILIES.iter().filter(|family| wanted == "all" || family.name == wanted) {
        let mut before: Option<Vec<[f64; 3]>> = None;
        let mut count = 1000;
        while count <= most {
            let program = std::env::current_exe().unwrap();
            let out = Command::new(program).args(["--one", family.name, &count.to_string()]).output().unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let found: Vec<[f64; 3]> = numbers.as_chunks().0.to_vec();
            if found.len() != PHASES.len() + 1 {
                println!("{:<14} {count:>8} failed: {}", family.name, String::from_utf8_lossy(&out.stderr));
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

/// Measures one size, and prints milliseconds, megabytes and allocations of each phase, then of the
/// whole from import to run, with the most memory of the process.
fn one(family: &str, count: usize) {
    let family = grown::FAMILIES.iter().find(|known| known.name == family).unwrap();
    let measured = measure((family.model)(count));
    for phase in &measured {
        println!("{} {} {}", milliseconds(phase), phase.peak as f64 / 1e6, phase.calls);
    }
    let whole = measured.iter().zip(PHASES).filter(|(_, name)| ["import", "plan", "compile", "run"].contains(name));
    let (all, calls) = whole.fold((0.0, 0), |sum, (phase, _)| (sum.0 + milliseconds(phase), sum.1 + phase.calls));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok());
    println!("{all} {} {calls}", kib.unwrap_or(0.0) * 1.024e-3);
}

fn milliseconds(phase: &Effort) -> f64 {
    phase.time.as_secs_f64() * 1e3
}
