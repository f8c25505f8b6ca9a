//! One timestamp type: microseconds since the Unix epoch, UTC.
//!
//! TAXII writes exactly six fraction digits (2.1) and STIX at least three, so six digits serve both. Reading is lenient:
//! any RFC 3339 precision, `Z` or an offset, with or without a blank before the offset, or a bare date, since that
//! is what consumers and exports hold.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Datelike, Timelike};

/// An instant, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Microseconds in a second.
pub const MICROS_PER_SECOND: i64 = 1_000_000;

/// 0001-01-01T00:00:00Z, which XSOAR writes for "never".
pub const YEAR_ONE: Timestamp = Timestamp(-62_135_596_800 * MICROS_PER_SECOND);

/// 9999-12-31T23:59:59.999999Z, the last instant the four-digit form can write.
pub const YEAR_9999_END: Timestamp = Timestamp(253_402_300_800 * MICROS_PER_SECOND - 1);

/// Why a text is not a timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a timestamp; write it as 2024-05-01T08:30:00Z")]
pub struct BadTimestamp {
    /// The text as given, cut to 64 characters.
    pub text: String,
}

impl Timestamp {
    /// The system clock's now.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    /// Reads `2024-05-01`, `2024-05-01T08:30:00Z`, `…08:30:00.123456789+02:00`, `…08:30:00 +0200`; a fraction is cut to
    /// microseconds, not rounded; no offset means UTC.
    pub fn parse(text: &str) -> Result<Self, BadTimestamp> {
        parse_bytes(text.as_bytes())
            .filter(|t| (YEAR_ONE..=YEAR_9999_END).contains(t))
            .ok_or_else(|| BadTimestamp { text: text.chars().take(64).collect() })
    }

    /// Appends `2024-05-01T08:30:00.000000Z`: always 27 bytes. Instants outside the years 1–9999 are clamped.
    pub fn write_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.text());
    }

    /// Appends `2024-05-01T08:30:00.000Z`, as STIX 2.0 wants it: always 24 bytes, the fraction cut.
    pub fn write_millis_to(self, out: &mut Vec<u8>) {
        let [millis @ .., _, _, _, _] = self.text();
        out.extend_from_slice(&millis);
        out.push(b'Z');
    }

    fn text(self) -> [u8; 27] {
        let clamped = self.0.clamp(YEAR_ONE.0, YEAR_9999_END.0);
        let seconds = clamped.div_euclid(MICROS_PER_SECOND);
        let micros = clamped.rem_euclid(MICROS_PER_SECOND) as u32;
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400) as u32;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        put_digits(&mut text[0..4], year);
        put_digits(&mut text[5..7], month);
        put_digits(&mut text[8..10], day);
        put_digits(&mut text[11..13], of_day / 3_600);
        put_digits(&mut text[14..16], of_day / 60 % 60);
        put_digits(&mut text[17..19], of_day % 60);
        put_digits(&mut text[20..26], micros);
        text
    }

    /// Start of the millisecond this instant lies in.
    pub fn floor_milli(self) -> Self {
        Timestamp(self.0.div_euclid(1_000) * 1_000)
    }

    /// Start of the second this instant lies in.
    pub fn floor_second(self) -> Self {
        Timestamp(self.0.div_euclid(MICROS_PER_SECOND) * MICROS_PER_SECOND)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(27);
        self.write_to(&mut text);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Days since 1970-01-01 to (year, month, day), proleptic Gregorian; exact for the years 1–9999.
fn civil_from_days(days: i64) -> (u32, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn put_digits(slot: &mut [u8], mut number: u32) {
    for byte in slot.iter_mut().rev() {
        *byte = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn number(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

/// The number of two digits at `at`; seven of them are most of a timestamp, and records hold many timestamps.
fn two_digits(text: &[u8], at: usize) -> Option<i64> {
    let (tens, ones) = (text.get(at)?.wrapping_sub(b'0'), text.get(at + 1)?.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens * 10 + ones))
}

fn parse_bytes(text: &[u8]) -> Option<Timestamp> {
    if text.len() < 10 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let year = two_digits(text, 0)? * 100 + two_digits(text, 2)?;
    let (month, day) = (two_digits(text, 5)?, two_digits(text, 8)?);
    let month_ok = (1..=12).contains(&month);
    if !month_ok || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let midnight = days_from_civil(year, month, day) * 86_400 * MICROS_PER_SECOND;
    let rest = &text[10..];
    if rest.is_empty() {
        return Some(Timestamp(midnight));
    }
    if rest.len() < 9 || !matches!(rest[0], b'T' | b't' | b' ') || rest[3] != b':' || rest[6] != b':' {
        return None;
    }
    let (hour, minute, second) = (two_digits(rest, 1)?, two_digits(rest, 4)?, two_digits(rest, 7)?);
    // 60 is a leap second: it counts as the last one of its minute.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut micros = midnight + (hour * 3_600 + minute * 60 + second.min(59)) * MICROS_PER_SECOND;
    let mut rest = &rest[9..];
    if let Some((b'.' | b',', fraction)) = rest.split_first() {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let kept = &fraction[..digits.min(6)];
        micros += number(kept)? * 10i64.pow(6 - kept.len() as u32);
        rest = &fraction[digits..];
    }
    let offset = parse_offset(rest.strip_prefix(b" ").unwrap_or(rest))?;
    Some(Timestamp(micros - offset * 60 * MICROS_PER_SECOND))
}

/// Minutes east of UTC.
fn parse_offset(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [] | b"Z" | b"z" | b"UTC" => return Some(0),
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits {
        [_, _] => (number(digits)?, 0),
        [_, _, b':', _, _] => (number(&digits[..2])?, number(&digits[3..])?),
        [_, _, _, _] => (number(&digits[..2])?, number(&digits[2..])?),
        _ => return None,
    };
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Adds calendar months (negative to go back), keeping the time of day and clamping to the last day of the month.
pub fn add_months(at: Timestamp, months: i32) -> Timestamp {
    let Some(date) = DateTime::from_timestamp_micros(at.0) else { return at };
    let total = i64::from(date.year()) * 12 + i64::from(date.month0()) + i64::from(months);
    let (year, month) = (total.div_euclid(12), total.rem_euclid(12) + 1);
    let day = i64::from(date.day()).min(days_in_month(year, month));
    let of_day = i64::from(date.num_seconds_from_midnight());
    let micros = at.0.rem_euclid(MICROS_PER_SECOND);
    Timestamp((days_from_civil(year, month, day) * 86_400 + of_day) * MICROS_PER_SECOND + micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_exports_and_consumers_write() {
        // spec/xsoar-taxii2-server.md §4.3 and §8.1 note 13.
        let cases = [
            ("2023-03-27T11:05:02.105210559Z", "2023-03-27T11:05:02.105210Z"),
            ("2021-12-08T09:32:24.102219+02:00", "2021-12-08T07:32:24.102219Z"),
            ("2022-02-16T16:20:00 +0200", "2022-02-16T14:20:00.000000Z"),
            ("2000-02-29", "2000-02-29T00:00:00.000000Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500000Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000000Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(Timestamp::parse(text).map(|t| t.to_string()), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_timestamp() {
        for text in [
            "",
            "2024",
            "2024-13-01",
            "2023-02-29",
            "2024-01-01T25:00:00Z",
            "2024-01-01T00:00:00.Z",
            "today",
            "２０２４-01-01",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn months_clamp_to_the_last_day() {
        let at = Timestamp::parse("2024-03-31T10:00:00Z").map(|t| add_months(t, -1).to_string());
        assert_eq!(at, Ok("2024-02-29T10:00:00.000000Z".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn written_text_reads_back(micros in YEAR_ONE.0..YEAR_9999_END.0) {
            let at = Timestamp(micros);
            proptest::prop_assert_eq!(Timestamp::parse(&at.to_string()), Ok(at));
            let by_chrono = DateTime::from_timestamp_micros(micros).map(|d| d.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
            proptest::prop_assert_eq!(by_chrono, Some(at.to_string()));
            let mut millis = Vec::new();
            at.write_millis_to(&mut millis);
            let read = std::str::from_utf8(&millis).ok().and_then(|text| Timestamp::parse(text).ok());
            proptest::prop_assert_eq!((millis.len(), read), (24, Some(at.floor_milli())));
        }
    }
}
