//! Dates in the form in which profiles write them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns a moment in UTC as RFC 3339 writes it, to the second: `2026-11-25T18:55:46Z`.
/// Moments before 1970 count as its beginning.
///
/// The calendar is Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day
/// is their last.
pub(crate) fn rfc3339(moment: SystemTime) -> String {
    let seconds = moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // This is the last second of the year 9999, the largest that the standard writes.
    let seconds = seconds.min(253_402_300_799);
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

/// Tells whether a text looks like a date.
/// The text is shown to people, so that it must not hold anything else.
pub(crate) fn plausible(text: &str) -> bool {
    (10..=40).contains(&text.len()) && text.chars().all(|c| c.is_ascii_digit() || "-:.+TZ".contains(c))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_moments() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_764_096_946), "2025-11-25T18:55:46Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(at(u64::MAX / 4), "9999-12-31T23:59:59Z");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00Z");
        assert!(plausible(&rfc3339(SystemTime::now())) && !plausible("2025-\x1b[31m-01") && !plausible(""));
    }
}
