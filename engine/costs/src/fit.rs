//! Rooflines that fit measurements.

/// A run of an operator: its work, and the time that it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) flops: f64,
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
}

/// The roofline of a family on a device, which gives seconds: an overhead, and the longer of
/// operations at a rate and bytes at a bandwidth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fit {
    pub(crate) overhead: f64,
    pub(crate) per_flop: f64,
    pub(crate) per_byte: f64,
}

/// The most runs that a fit looks at; of more runs, it takes a selection.
/// The steps of the search below grow with the fifth power of this number.
const MOST_RUNS: usize = 16;
/// The logarithm of the largest ratio that counts, 4.
const MOST_OFF: f64 = 2.0 * std::f64::consts::LN_2;

impl Fit {
    pub(crate) fn seconds(&self, flops: f64, bytes: f64) -> f64 {
        self.overhead + (self.per_flop * flops).max(self.per_byte * bytes)
    }

    /// Returns how badly the roofline fits: the sum of the absolute logarithms of the ratios, so
    /// that small runs count as much as large ones.
    /// A run that is more than four times off counts as four times off: how wild a wild run is says
    /// nothing.
    fn loss(&self, runs: &[Run]) -> f64 {
        let off = |run: &Run| (self.seconds(run.flops, run.bytes) / run.seconds).ln().abs();
        runs.iter().map(off).map(|off| if off.is_finite() { off.min(MOST_OFF) } else { f64::INFINITY }).sum()
    }

    /// Returns the fit with the least loss among those that go through some of the runs, as the
    /// best fit by absolute deviations does.
    /// Returns `None` where there is no run.
    pub(crate) fn of(runs: &[Run]) -> Option<Fit> {
        let step = runs.len().div_ceil(MOST_RUNS).max(1);
        let sound = |run: &&Run| [run.flops, run.bytes, run.seconds].iter().all(|x| x.is_finite()) && run.seconds > 0.0;
        let runs: Vec<Run> = runs.iter().step_by(step).filter(sound).copied().collect();
        if runs.is_empty() {
            return None;
        }
        let mut overheads = vec![0.0];
        for (index, a) in runs.iter().enumerate() {
            overheads.push(a.seconds);
            for b in &runs[index + 1..] {
                // The time at which the line through both runs meets no work at all.
                for (x, y) in [(a.flops, b.flops), (a.bytes, b.bytes)] {
                    let meets = (a.seconds * y - b.seconds * x) / (y - x);
                    if meets.is_finite() && meets > 0.0 {
                        overheads.push(meets);
                    }
                }
            }
        }
        let fits = overheads.into_iter().flat_map(|overhead| {
            let none = Fit { overhead, ..Fit::default() };
            // The two slopes are found in turn, from either side.
            let by_flops = none.with_rate(&runs).with_bandwidth(&runs).with_rate(&runs);
            [by_flops, none.with_bandwidth(&runs).with_rate(&runs).with_bandwidth(&runs)]
        });
        // The loss is infinite where a fit gives no time at all.
        fits.map(|fit| (fit.loss(&runs), fit))
            .filter(|(loss, _)| loss.is_finite())
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, fit)| fit)
    }

    fn with_rate(self, runs: &[Run]) -> Fit {
        self.best(runs, |run| run.flops, |slope| Fit { per_flop: slope, ..self })
    }

    fn with_bandwidth(self, runs: &[Run]) -> Fit {
        self.best(runs, |run| run.bytes, |slope| Fit { per_byte: slope, ..self })
    }

    /// Returns the best of the fits with a slope of 0, or with one that goes through a run.
    fn best(self, runs: &[Run], work: impl Fn(&Run) -> f64, with: impl Fn(f64) -> Fit) -> Fit {
        let slopes = runs.iter().map(|run| (run.seconds - self.overhead) / work(run));
        let slopes = std::iter::once(0.0).chain(slopes.filter(|slope| slope.is_finite() && *slope > 0.0));
        let loss = |fit: &Fit| if fit.seconds(1.0, 1.0) > 0.0 { fit.loss(runs) } else { f64::INFINITY };
        slopes
            .map(with)
            .map(|fit| (loss(&fit), fit))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
            .map_or(self, |(_, fit)| fit)
    }
}

/// A roofline, corrected by the runs near a size.
#[derive(Clone, Debug)]
pub(crate) struct Corrected {
    fit: Fit,
    /// The logarithms of operations, of bytes, and of the ratio of each run's time to the
    /// roofline's.
    runs: Vec<(f64, f64, f64)>,
}

/// The number of runs that correct the time for a size.
const NEAREST: usize = 5;
/// The square of a distance, in powers of e, within which runs count alike.
const NEAR: f64 = 0.05;

impl Corrected {
    /// Fits the runs; returns `None` where there is no run.
    pub(crate) fn of(runs: &[Run]) -> Option<Corrected> {
        let fit = Fit::of(runs)?;
        let against = |run: &Run| {
            let ratio = (run.seconds / fit.seconds(run.flops, run.bytes)).ln();
            (run.flops.ln_1p(), run.bytes.ln_1p(), ratio.clamp(-MOST_OFF, MOST_OFF))
        };
        Some(Corrected { fit, runs: runs.iter().map(against).filter(|run| run.2.is_finite()).collect() })
    }

    /// Returns the roofline's seconds, times the median of the ratios of the nearest runs, weighted
    /// by their distance.
    /// A single wild run does not move the median.
    pub(crate) fn seconds(&self, flops: f64, bytes: f64) -> f64 {
        let (x, y) = (flops.ln_1p(), bytes.ln_1p());
        let distance = |run: &(f64, f64, f64)| (run.0 - x).powi(2) + (run.1 - y).powi(2);
        let mut nearest: Vec<(f64, f64)> = self.runs.iter().map(|run| (distance(run), run.2)).collect();
        nearest.sort_by(|a, b| a.0.total_cmp(&b.0));
        nearest.truncate(NEAREST);
        let weight = |distance: f64| 1.0 / (distance + NEAR);
        let half: f64 = nearest.iter().map(|(distance, _)| weight(*distance)).sum::<f64>() / 2.0;
        nearest.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut sum = 0.0;
        let median = nearest.iter().find(|(distance, _)| {
            sum += weight(*distance);
            sum >= half
        });
        self.fit.seconds(flops, bytes) * median.map_or(0.0, |(_, ratio)| *ratio).exp()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRUE: Fit = Fit { overhead: 5e-6, per_flop: 1e-11, per_byte: 2e-10 };

    /// Returns runs of several sizes, half of them bound by operations.
    fn runs(fit: Fit) -> Vec<Run> {
        let work = (0..6).flat_map(|step| {
            let size = 4f64.powi(step) * 1e4;
            [(size * 100.0, size), (size, size)]
        });
        work.map(|(flops, bytes)| Run { flops, bytes, seconds: fit.seconds(flops, bytes) }).collect()
    }

    #[test]
    fn the_fit_finds_the_roofline() {
        let fit = Fit::of(&runs(TRUE)).unwrap();
        for run in runs(TRUE) {
            assert!((fit.seconds(run.flops, run.bytes) / run.seconds - 1.0).abs() < 0.05, "{fit:?}");
        }
        assert_eq!(Fit::of(&[]), None);
        // There is only one size, and no operation at all.
        let single = Fit::of(&[Run { flops: 0.0, bytes: 1e6, seconds: 1e-3 }]).unwrap();
        assert!((single.seconds(0.0, 1e6) - 1e-3).abs() < 1e-9);
    }

    /// The runs of small sizes are twice as long as any roofline says, and one run is wild.
    #[test]
    fn runs_near_a_size_correct_the_roofline() {
        let mut runs = runs(TRUE);
        let small = |run: &Run| run.bytes < 1e5;
        runs.iter_mut().filter(|run| small(run)).for_each(|run| run.seconds *= 2.0);
        let expected = runs.clone();
        runs.push(Run { flops: 1.1e6, bytes: 1.1e4, seconds: 5.0 });
        let corrected = Corrected::of(&runs).unwrap();
        for run in &expected {
            let ratio = corrected.seconds(run.flops, run.bytes) / run.seconds;
            assert!((0.7..1.4).contains(&ratio), "{run:?} {ratio}");
        }
    }

    proptest! {
        #[test]
        fn a_wild_run_moves_no_other_size(
            wild in 0usize..12,
            factor in prop::sample::select(vec![1e-4, 1e-2, 0.2, 5.0, 1e2, 1e4]),
            noise in prop::collection::vec(0.95f64..1.05, 12),
        ) {
            let mut measured = runs(TRUE);
            measured.iter_mut().zip(noise).for_each(|(run, noise)| run.seconds *= noise);
            measured[wild].seconds *= factor;
            let fit = Fit::of(&measured).unwrap();
            // For the wild run's own size there is no better evidence.
            for (_, run) in runs(TRUE).into_iter().enumerate().filter(|(index, _)| *index != wild) {
                let ratio = fit.seconds(run.flops, run.bytes) / run.seconds;
                prop_assert!((0.5..2.0).contains(&ratio), "{fit:?}: {ratio} at {run:?}");
            }
        }

        #[test]
        fn costs_are_times_and_grow_with_work(
            measured in prop::collection::vec((0u64..1 << 45, 0u64..1 << 40, 1e-9f64..1e6), 1..40),
            a in (0u64..1 << 50, 0u64..1 << 50),
            more in (0u64..1 << 50, 0u64..1 << 50),
        ) {
            let run = |&(flops, bytes, seconds): &(u64, u64, f64)| Run { flops: flops as f64, bytes: bytes as f64, seconds };
            let fit = Fit::of(&measured.iter().map(run).collect::<Vec<_>>()).unwrap();
            let less = fit.seconds(a.0 as f64, a.1 as f64);
            let greater = fit.seconds((a.0 + more.0) as f64, (a.1 + more.1) as f64);
            prop_assert!(less.is_finite() && less >= 0.0 && less <= greater && greater.is_finite());
        }
    }
}
