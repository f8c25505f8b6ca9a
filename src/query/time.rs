//! Dates as queries write them: absolute, or relative to the time of asking.

use std::fmt;

use crate::model::time::{MICROS_PER_SECOND, Timestamp, YEAR_9999_END, YEAR_ONE, add_months};

const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// A date of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Moment {
    /// An instant.
    At(Timestamp),
    /// A whole UTC day, by its first instant.
    Day(Timestamp),
    /// The time of asking.
    Now,
    /// So many units after (before, if negative) the time of asking.
    Shifted(i64, Unit),
    /// The UTC day of asking, or so many days after it.
    DayShifted(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Moment {
    /// Reads `2024-05-01`, `2024-05-01T08:30:00 +0200`, `7 days ago`, `an hour ago`, `in 2 weeks`, `3 days from now`,
    /// `now`, `today`, `yesterday`, `tomorrow`, in any case.
    pub(super) fn parse(text: &str) -> Option<Moment> {
        let text = text.trim();
        Self::parse_absolute(text).or_else(|| Self::parse_relative(text))
    }

    /// Only what does not depend on the time of asking.
    pub(super) fn parse_absolute(text: &str) -> Option<Moment> {
        // Cheap refusal, since this also runs on values of records.
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let at = Timestamp::parse(text).ok()?;
        Some(if text.len() == 10 { Moment::Day(at) } else { Moment::At(at) })
    }

    fn parse_relative(text: &str) -> Option<Moment> {
        // Nothing relative is longer, and values of any length come by.
        if text.len() > 64 {
            return None;
        }
        let lower = text.to_ascii_lowercase();
        let words: Vec<&str> = lower.split_whitespace().collect();
        let (amount, unit, sign) = match words.as_slice() {
            ["now"] => return Some(Moment::Now),
            ["today"] => return Some(Moment::DayShifted(0)),
            ["yesterday"] => return Some(Moment::DayShifted(-1)),
            ["tomorrow"] => return Some(Moment::DayShifted(1)),
            [amount, unit, "ago"] => (amount, unit, -1),
            [amount, unit, "from", "now"] | ["in", amount, unit] => (amount, unit, 1),
            _ => return None,
        };
        let amount = match *amount {
            "a" | "an" | "one" => 1,
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => i64::from(digits.parse::<u32>().ok()?),
            _ => return None,
        };
        let unit = match unit.strip_suffix('s').unwrap_or(unit) {
            "second" | "sec" => Unit::Second,
            "minute" | "min" => Unit::Minute,
            "hour" | "hr" => Unit::Hour,
            "day" => Unit::Day,
            "week" => Unit::Week,
            "month" => Unit::Month,
            "year" => Unit::Year,
            _ => return None,
        };
        Some(Moment::Shifted(sign * amount, unit))
    }

    /// Whether it moves with the time of asking.
    pub(super) fn is_relative(self) -> bool {
        !matches!(self, Moment::At(_) | Moment::Day(_))
    }

    /// The same moment with the time of asking filled in: `At` or `Day`.
    pub(super) fn fixed(self, now: Timestamp) -> Moment {
        let shift = |from: Timestamp, micros: i64| clamp(from.0.saturating_add(micros));
        match self {
            Moment::At(_) | Moment::Day(_) => self,
            Moment::Now => Moment::At(now),
            Moment::DayShifted(days) => {
                let midnight = Timestamp(now.0.div_euclid(MICROS_PER_DAY) * MICROS_PER_DAY);
                Moment::Day(shift(midnight, days.saturating_mul(MICROS_PER_DAY)))
            }
            Moment::Shifted(amount, unit) => {
                let seconds = |count: i64| shift(now, amount.saturating_mul(count).saturating_mul(MICROS_PER_SECOND));
                let months = |count: i64| {
                    // Beyond the calendar either way; `add_months` itself has no limits.
                    let months = amount.saturating_mul(count).clamp(-12 * 10_000, 12 * 10_000);
                    clamp(add_months(now, i32::try_from(months).unwrap_or_default()).0)
                };
                Moment::At(match unit {
                    Unit::Second => seconds(1),
                    Unit::Minute => seconds(60),
                    Unit::Hour => seconds(3_600),
                    Unit::Day => seconds(86_400),
                    Unit::Week => seconds(7 * 86_400),
                    Unit::Month => months(1),
                    Unit::Year => months(12),
                })
            }
        }
    }

    /// First instant and the first one after, at the given time of asking.
    pub(super) fn window(self, now: Timestamp) -> (Timestamp, Timestamp) {
        match self.fixed(now) {
            Moment::Day(start) => (start, Timestamp(start.0.saturating_add(MICROS_PER_DAY))),
            Moment::At(at) => (at, Timestamp(at.0.saturating_add(1))),
            _ => (now, now),
        }
    }
}

fn clamp(micros: i64) -> Timestamp {
    Timestamp(micros.clamp(YEAR_ONE.0, YEAR_9999_END.0))
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::At(at) => at.fmt(f),
            Moment::Day(at) => f.write_str(at.to_string().get(..10).unwrap_or_default()),
            Moment::Now => f.write_str("now"),
            Moment::DayShifted(-1) => f.write_str("yesterday"),
            Moment::DayShifted(1) => f.write_str("tomorrow"),
            Moment::DayShifted(_) => f.write_str("today"),
            Moment::Shifted(amount, unit) => {
                let name = format!("{unit:?}").to_ascii_lowercase();
                let plural = if amount.abs() == 1 { "" } else { "s" };
                let direction = if *amount <= 0 { "ago" } else { "from now" };
                write!(f, "{} {name}{plural} {direction}", amount.abs())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_dates_read_and_resolve() {
        let now = Timestamp::parse("2024-03-31T10:20:30Z").unwrap();
        let cases = [
            ("7 days ago", "2024-03-24T10:20:30.000000Z"),
            ("1 Day Ago", "2024-03-30T10:20:30.000000Z"),
            ("a week ago", "2024-03-24T10:20:30.000000Z"),
            ("an hour ago", "2024-03-31T09:20:30.000000Z"),
            ("90 minutes ago", "2024-03-31T08:50:30.000000Z"),
            ("30 seconds ago", "2024-03-31T10:20:00.000000Z"),
            ("1 month ago", "2024-02-29T10:20:30.000000Z"),
            ("2 years ago", "2022-03-31T10:20:30.000000Z"),
            ("in 7 days", "2024-04-07T10:20:30.000000Z"),
            ("3 days from now", "2024-04-03T10:20:30.000000Z"),
            ("now", "2024-03-31T10:20:30.000000Z"),
            ("today", "2024-03-31"),
            ("yesterday", "2024-03-30"),
            ("tomorrow", "2024-04-01"),
            ("2022-02-16T16:20:00 +0200", "2022-02-16T14:20:00.000000Z"),
            ("2022-02-16", "2022-02-16"),
            ("4294967295 years ago", "0001-01-01T00:00:00.000000Z"),
            ("4294967295 weeks ago", "0001-01-01T00:00:00.000000Z"),
        ];
        for (text, expected) in cases {
            let moment = Moment::parse(text).map(|moment| moment.fixed(now).to_string());
            assert_eq!(moment.as_deref(), Some(expected), "{text}");
        }
        for text in ["", "ago", "7 days", "x days ago", "7 parsecs ago", "days ago 7", "-1 days ago", "<date>"] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_day_is_a_window() {
        let (start, end) = Moment::parse("2024-02-28").unwrap().window(Timestamp(0));
        assert_eq!((start.to_string(), end.0 - start.0), ("2024-02-28T00:00:00.000000Z".to_owned(), MICROS_PER_DAY));
    }
}
