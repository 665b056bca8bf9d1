//! Times as text: RFC 3339 in UTC with nanoseconds. Pure; it knows no clock and no time zone but UTC.

use super::Time;

/// Days since 1970 as year, month, day of the proleptic Gregorian calendar.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = (if shifted < 10 { shifted + 3 } else { shifted - 9 }) as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The inverse of [`civil`]: `days_from_civil`.
fn days(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let day_of_year = (153 * shifted + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// `2026-11-22T16:50:02.000000001Z`.
pub fn format(time: Time) -> String {
    // Years of four digits; nothing on disk is outside, and garbage must not overflow.
    let secs = time.secs.clamp(days(0, 1, 1) * 86_400, days(10_000, 1, 1) * 86_400 - 1);
    let (year, month, day) = civil(secs.div_euclid(86_400));
    let rest = secs.rem_euclid(86_400);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", time.nanos)
}

/// Reads RFC 3339: a date, `T` or a space, a time with an optional fraction, and `Z` or an offset. A date alone is its midnight in UTC.
pub fn parse_rfc3339(text: &str) -> Option<Time> {
    let (date, rest) = match text.split_at_checked(10) {
        Some((date, rest)) => (date, rest),
        None => return None,
    };
    let mut fields = date.split('-').map(number);
    let (year, month, day) = (fields.next()??, fields.next()??, fields.next()??);
    let (month, day) = (u32::try_from(month).ok()?, u32::try_from(day).ok()?);
    let midnight = days(year, month, day);
    // A day that the month does not have comes back as another.
    if fields.next().is_some() || civil(midnight) != (year, month, day) {
        return None;
    }
    if rest.is_empty() {
        return Some(Time::new(midnight * 86_400, 0));
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, offset) = match rest.find(['Z', 'z', '+', '-']) {
        Some(at) => rest.split_at(at),
        None => (rest, "Z"),
    };
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut fields = whole.split(':').map(number);
    let (hour, minute) = (fields.next()??, fields.next()??);
    let second = fields.next().unwrap_or(Some(0))?;
    if fields.next().is_some() || hour > 23 || minute > 59 || second > 60 || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let nanos = number(fraction)? * 10_i64.pow(9 - fraction.len() as u32);
    let shift = match offset.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign, hhmm) => {
            let (h, m) = hhmm.split_once(':').or_else(|| hhmm.split_at_checked(2))?;
            let (h, m) = (number(h)?, number(m)?);
            let shift = (h * 60 + m) * 60;
            if h > 23 || m > 59 {
                return None;
            }
            if sign == "-" { -shift } else { shift }
        }
    };
    Some(Time::new(midnight * 86_400 + hour * 3600 + minute * 60 + second - shift, nanos as u32))
}

/// Decimal digits only.
pub(crate) fn number(text: &str) -> Option<i64> {
    if text.is_empty() || text.len() > 9 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_known_times() {
        for (secs, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
            (951_782_400, 5, "2000-02-29T00:00:00.000000005Z"),
            (1_700_000_000, 123_456_789, "2023-11-14T22:13:20.123456789Z"),
            (4_102_444_799, 0, "2099-12-31T23:59:59.000000000Z"),
        ] {
            assert_eq!(format(Time::new(secs, nanos)), text);
            assert_eq!(parse_rfc3339(text), Some(Time::new(secs, nanos)), "{text}");
        }
        assert_eq!(format(Time::new(i64::MAX, 0)), "9999-12-31T23:59:59.000000000Z");
        format(Time::new(i64::MIN, 0));
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in -146_097..146_097 {
            let (y, m, d) = civil(day);
            assert_eq!(days(y, m, d), day);
        }
    }
}
