//! The search for a first assignment within the capacities.

use super::core_problem::Core;
use super::table::Table;
use crate::random::Random;

/// Finds an assignment within the capacities.
/// It places each job where it costs least at the core's prices, then mends overload by the shifts
/// and swaps that cost least; the weight of an overload grows while it lasts (breakout method;
/// Morris, AAAI 1993).
/// It returns `None` where `steps` steps did not lead to an assignment within the capacities, which
/// does not prove that there is none.
pub(super) fn start(
    gap: &Table<1>,
    priced: &Core<1>,
    steps: usize,
    seed: u64,
    stop: &mut dyn FnMut() -> bool,
) -> Option<Vec<usize>> {
    let mut random = Random::new(seed);
    let mut of: Vec<usize> =
        (0..gap.jobs).map(|job| priced.of(job).first().map(|choice| choice.device)).collect::<Option<_>>()?;
    let mut room = gap.capacities.iter().map(|capacity| capacity[0]).collect::<Vec<f64>>();
    of.iter().enumerate().for_each(|(job, &device)| room[device] -= gap.weights(job, device)[0]);
    // At first, an overload of a whole capacity weighs as much as the mean cost of a job.
    let mean = priced.bound().abs() / gap.jobs as f64 + f64::MIN_POSITIVE;
    let mut heavy = vec![mean; gap.devices];
    let mut barred = vec![0; gap.jobs];
    for step in 1..=steps {
        let over: Vec<usize> = (0..gap.devices).filter(|&device| room[device] < 0.0).collect();
        if over.is_empty() {
            return Some(of);
        }
        if step % 64 == 0 && stop() {
            return None;
        }
        let from = over[random.below(over.len())];
        let penalty = |device: usize, change: f64| {
            let before = (-room[device]).max(0.0);
            let after = (change - room[device]).max(0.0);
            heavy[device] * (after - before) / gap.capacities[device][0].max(1.0)
        };
        let mut best = (f64::INFINITY, None);
        for job in (0..gap.jobs).filter(|&job| of[job] == from && barred[job] < step) {
            for choice in priced.of(job).iter().filter(|choice| choice.device != from) {
                let to = choice.device;
                let (leaves, enters) = (gap.weights(job, from)[0], choice.weights[0]);
                let cost = choice.cost - gap.cost(job, from);
                let value = cost + penalty(from, -leaves) + penalty(to, enters);
                if value < best.0 {
                    best = (value, Some((job, to, None)));
                }
                // Where the device is full, the job may be exchanged for a job of that device.
                if room[to] >= enters {
                    continue;
                }
                for other in (0..gap.jobs).filter(|&other| of[other] == to && gap.cost(other, from).is_finite()) {
                    let cost = cost + gap.cost(other, from) - gap.cost(other, to);
                    let value = cost
                        + penalty(from, gap.weights(other, from)[0] - leaves)
                        + penalty(to, enters - gap.weights(other, to)[0]);
                    if value < best.0 {
                        best = (value, Some((job, to, Some(other))));
                    }
                }
            }
        }
        for device in over {
            heavy[device] *= 1.05;
        }
        let Some((job, to, other)) = best.1 else { continue };
        for (job, to) in [(job, to)].into_iter().chain(other.map(|other| (other, from))) {
            room[of[job]] += gap.weights(job, of[job])[0];
            room[to] -= gap.weights(job, to)[0];
            of[job] = to;
            barred[job] = step + 2 + random.below(8);
        }
    }
    None
}
