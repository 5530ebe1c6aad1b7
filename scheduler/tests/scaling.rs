//! Planning for several devices takes effort in proportion to the tasks, however graphs are large.

#![allow(clippy::unwrap_used)]

use hetero_scheduler::{
    Cautious, Cpop, DeviceSpec, Devices, Effort, Explanation, Heft, LatencyAware, Link, Partitioner, Partitioning,
    Peft, Problem, Schedule, Task, TaskGraph, TaskId, Throughput,
};
use hetero_testkit::SplitMix64;

/// Makes a graph of so many tasks: the tasks that feed each task, by number.
type Family = fn(usize, &mut SplitMix64) -> Vec<Vec<usize>>;

const FAMILIES: [(&str, Family); 6] = [
    ("chain", |count, _| (0..count).map(|task| task.checked_sub(1).into_iter().collect()).collect()),
    ("apart", |count, _| vec![Vec::new(); count]),
    // A task reads two of the eight before it.
    ("mesh", |count, random| {
        (0..count).map(|task| (0..task.min(2)).map(|_| task - 1 - random.below(task.min(8))).collect()).collect()
    }),
    // Rows of sixteen chains, so that all devices have work and wait for each other.
    ("chains", |count, _| (0..count).map(|task| task.checked_sub(16).into_iter().collect()).collect()),
    // Half of the tasks feed one, which feeds the other half.
    ("hub", |count, _| {
        let hub = count / 2;
        let feeding = |task: usize| match task.cmp(&hub) {
            std::cmp::Ordering::Less => vec![],
            std::cmp::Ordering::Equal => (0..hub).collect(),
            std::cmp::Ordering::Greater => vec![hub],
        };
        (0..count).map(feeding).collect()
    }),
    // A long task in front of all others leaves gaps on devices that others fill.
    ("gaps", |count, random| {
        let feeding = |task: usize| if task > 0 && random.below(2) == 0 { vec![random.below(task)] } else { vec![] };
        (0..count).map(feeding).collect()
    }),
];

/// Returns a problem of three devices, each of which is the fastest for some tasks.
fn problem(feeding: &[Vec<usize>], random: &mut SplitMix64) -> Problem {
    let devices =
        Devices::uniform(["a", "b", "c"].map(DeviceSpec::new), Link { latency: 0.3, bandwidth: 1e3 }).unwrap();
    let mut graph = TaskGraph::builder(3);
    for task in 0..feeding.len() {
        let seconds = [(); 3].map(|()| Some(0.05 + random.below(1000) as f64 / 500.0));
        graph.task(Task::new(format!("task{task}"), seconds)).unwrap();
    }
    for (task, feeding) in feeding.iter().enumerate() {
        for &other in feeding {
            graph.edge(TaskId(other), TaskId(task), 1 + random.below(400) as u64).unwrap();
        }
    }
    Problem::new(graph.build().unwrap(), devices).unwrap()
}

/// Returns the nanoseconds that this thread has computed, where the system tells.
fn computed() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}

/// The phases, in order.
const PHASES: [&str; 9] = ["problem", "heft", "peft", "cpop", "latency", "throughput", "cut", "text", "explain"];

/// Returns the nanoseconds of each phase.
fn measure(family: fn(usize, &mut SplitMix64) -> Vec<Vec<usize>>, count: usize) -> [u64; PHASES.len()] {
    let mut random = SplitMix64::new(7);
    let feeding = family(count, &mut random);
    let mut times = Vec::new();
    let mut now = computed().unwrap();
    let mut lap = || {
        let before = std::mem::replace(&mut now, computed().unwrap());
        times.push(now - before);
    };
    let problem = problem(&feeding, &mut random);
    lap();
    // A search that is limited by steps makes as many of them for any number of tasks.
    let effort = Effort::steps(100);
    let caution = Cautious { strategy: LatencyAware { effort, seed: 1 }, margin: 0.1 };
    let strategies: [&dyn Partitioner; 5] = [&Heft, &Peft, &Cpop, &caution, &Throughput { effort, seed: 1 }];
    let schedules: Vec<Schedule> = strategies
        .map(|strategy| {
            let schedule = strategy.partition(&problem).unwrap();
            lap();
            schedule
        })
        .into();
    let plan = Partitioning::from_schedule(&problem, &schedules[0], "model", "heft").unwrap();
    lap();
    assert_eq!(Partitioning::from_json(&plan.to_json().unwrap()).unwrap(), plan);
    lap();
    plan.replay(&problem).unwrap();
    if std::env::var("EX").is_ok() {
        Explanation::new(&problem, &plan, Effort::steps(0)).unwrap();
    }
    lap();
    times.try_into().unwrap()
}

/// The sizes that are compared: a phase that is linear takes 8 times as much for the larger, and
/// one that goes through all pairs 64 times.
const SIZES: [usize; 2] = [2000, 16_000];
/// The most that the larger may take more.
const MOST_TIMES: u64 = 24;
/// The nanoseconds up to which a phase is too short to be compared.
const LITTLE: u64 = 100_000_000;

/// This is no test of speed: it finds loops through all pairs of tasks.
#[test]
fn no_phase_of_planning_goes_through_all_pairs_of_tasks() {
    if computed().is_none() {
        eprintln!("skipped: the system does not tell for how long a thread has computed");
        return;
    }
    for (family, feeding) in FAMILIES {
        // The least of three tells of the work, and not of what else the machine does.
        let mut least = [[u64::MAX; PHASES.len()]; 2];
        let too_long = |least: &[[u64; PHASES.len()]; 2]| {
            let long = |phase: &usize| least[1][*phase] > LITTLE.max(MOST_TIMES * least[0][*phase]);
            (0..PHASES.len()).find(long)
        };
        for _ in 0..3 {
            for (least, count) in least.iter_mut().zip(SIZES) {
                let times = measure(feeding, count);
                least.iter_mut().zip(times).for_each(|(least, time)| *least = time.min(*least));
            }
            if too_long(&least).is_none() {
                break;
            }
        }
        if let Some(phase) = too_long(&least) {
            let [small, large] = least.map(|times| times[phase]);
            panic!("{family} {}: {small} ns become {large} ns with 8 times the tasks", PHASES[phase]);
        }
    }
}
