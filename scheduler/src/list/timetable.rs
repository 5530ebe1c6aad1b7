//! The spans of time in which a device is free.

/// The idle spans of a device, the last of which has no end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timetable {
    /// The idle spans between two tasks, longer than nothing, by ascending time.
    gaps: Vec<(f64, f64)>,
    /// The time at which the last task finishes.
    end: f64,
}

impl Timetable {
    /// Returns the earliest start, at `ready` or later, of a task that takes `seconds`.
    pub(crate) fn earliest(&self, ready: f64, seconds: f64) -> f64 {
        let first = self.gaps.partition_point(|&(_, to)| to < ready);
        self.gaps[first..]
            .iter()
            .map(|&(from, to)| (from.max(ready), to))
            .find(|&(start, to)| start + seconds <= to)
            .map_or(self.end.max(ready), |(start, _)| start)
    }

    /// Occupies a span that [`Timetable::earliest`] has found.
    pub(crate) fn occupy(&mut self, start: f64, finish: f64) {
        if start >= self.end {
            if start > self.end {
                self.gaps.push((self.end, start));
            }
            self.end = finish;
            return;
        }
        let index = self.gaps.partition_point(|&(_, to)| to < finish);
        let Some(&(from, to)) = self.gaps.get(index) else { return };
        let rest = [(from, start), (finish, to)].into_iter().filter(|(from, to)| from < to);
        self.gaps.splice(index..=index, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_go_into_the_first_gap_that_is_long_enough() {
        let mut device = Timetable::default();
        assert_eq!(device.earliest(0.0, 9.0), 0.0);
        for (start, finish) in [(0.0, 2.0), (5.0, 6.0), (10.0, 12.0)] {
            device.occupy(start, finish);
        }
        assert_eq!(device.gaps, [(2.0, 5.0), (6.0, 10.0)]);
        assert_eq!(device.earliest(0.0, 3.0), 2.0);
        assert_eq!(device.earliest(3.0, 3.0), 6.0);
        assert_eq!(device.earliest(0.0, 5.0), 12.0);
        assert_eq!(device.earliest(20.0, 5.0), 20.0);
        device.occupy(7.0, 8.0);
        assert_eq!(device.gaps, [(2.0, 5.0), (6.0, 7.0), (8.0, 10.0)]);
        device.occupy(2.0, 5.0);
        device.occupy(8.0, 9.0);
        assert_eq!(device.gaps, [(6.0, 7.0), (9.0, 10.0)]);
    }

    #[test]
    fn tasks_that_take_no_time_leave_gaps_whole() {
        let mut device = Timetable::default();
        device.occupy(4.0, 6.0);
        device.occupy(4.0, 4.0);
        assert_eq!(device.gaps, [(0.0, 4.0)]);
        assert_eq!(device.earliest(2.0, 0.0), 2.0);
        device.occupy(2.0, 2.0);
        assert_eq!(device.gaps, [(0.0, 2.0), (2.0, 4.0)]);
    }
}
