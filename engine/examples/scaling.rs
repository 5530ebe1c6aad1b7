//! Time and memory of each phase, from a model's file to its first run, against the number of nodes.
//! `scaling [FAMILY|all] [MOST]` runs each size in a process of its own, from 1 000 nodes to MOST.
//! It prints milliseconds and the most bytes alive in each phase, and the slopes: the logarithm of
//! what a size takes more than the one before it, over that of the sizes.
//! A slope of 1 is linear.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/counting/mod.rs"]
mod counting;
#[path = "../tests/grown/mod.rs"]
mod grown;

use std::process::Command;

use counting::{Counting, PHASES, measure};

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
    PHASES.iter().for_each(|phase| print!(" {phase:>17}"));
    println!(" {:>17}  ms/MB", "all, VmHWM");
    for family in grown::FAMILIES.iter().filter(|family| wanted == "all" || family.name == wanted) {
        let mut before: Option<Vec<(f64, f64)>> = None;
        let mut count = 1000;
        while count <= most {
            let program = std::env::current_exe().unwrap();
            let out = Command::new(program).args(["--one", family.name, &count.to_string()]).output().unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let found: Vec<(f64, f64)> = numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect();
            if found.len() != PHASES.len() + 1 {
                println!("{:<14} {count:>8} failed: {}", family.name, String::from_utf8_lossy(&out.stderr));
                break;
            }
            print!("{:<14} {count:>8}", family.name);
            found.iter().for_each(|(time, bytes)| print!(" {:>17}", format!("{time:.1}/{bytes:.1}")));
            println!();
            if let Some(before) = before {
                let slope = |now: f64, then: f64| if then > 0.0 { (now / then).log10() } else { 0.0 };
                print!("{:<14} {:>8}", "", "slope");
                for (now, then) in found.iter().zip(&before) {
                    print!(" {:>17}", format!("{:.2}/{:.2}", slope(now.0, then.0), slope(now.1, then.1)));
                }
                println!();
            }
            before = Some(found);
            count *= 10;
        }
    }
}

/// Measures one size, and prints milliseconds and megabytes of each phase, then of the process.
fn one(family: &str, count: usize) {
    let family = grown::FAMILIES.iter().find(|known| known.name == family).unwrap();
    let measured = measure((family.model)(count));
    let all: f64 = measured.iter().skip(1).map(|phase| phase.time.as_secs_f64() * 1e3).sum();
    for phase in &measured {
        println!("{} {}", phase.time.as_secs_f64() * 1e3, phase.peak as f64 / 1e6);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok());
    println!("{all} {}", kib.unwrap_or(0.0) / 1e3);
}
