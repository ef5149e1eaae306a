//! The dates of SigV4: `YYYYMMDD'T'HHMMSS'Z'`, and the Date header as a second best.

use time::format_description::well_known::Rfc2822;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// Parses the basic form. Every request has one: a general parser would take longer than the HMAC.
pub(super) fn parse(text: &str) -> Option<OffsetDateTime> {
    let digits = text.as_bytes();
    if digits.len() != 16 || digits.get(8) != Some(&b'T') || digits.get(15) != Some(&b'Z') {
        return None;
    }
    let number = |from: usize, count: usize| {
        digits.get(from..from + count)?.iter().try_fold(0u16, |sum, digit| {
            digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0'))
        })
    };
    let small = |from: usize| u8::try_from(number(from, 2)?).ok();
    let month = Month::try_from(small(4)?).ok()?;
    let date = Date::from_calendar_date(number(0, 4)?.into(), month, small(6)?).ok()?;
    let time = Time::from_hms(small(9)?, small(11)?, small(13)?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc())
}

/// Parses a Date header (RFC 9110, IMF-fixdate), or the basic form, which some clients put there.
pub(super) fn parse_date_header(text: &str) -> Option<OffsetDateTime> {
    parse(text).or_else(|| OffsetDateTime::parse(text, &Rfc2822).ok())
}

/// The basic form, 16 characters; the first 8 are the scope's date. Years 0 to 9999.
pub(super) fn format(time: OffsetDateTime) -> String {
    let (date, clock) = (time.date(), time.time());
    let mut out = String::with_capacity(16);
    let mut two = |number: u8| {
        out.push(char::from(b'0' + number / 10 % 10));
        out.push(char::from(b'0' + number % 10));
    };
    let year = u32::try_from(date.year()).unwrap_or_default() % 10_000;
    two((year / 100) as u8);
    two((year % 100) as u8);
    two(date.month().into());
    two(date.day());
    out.push('T');
    for number in [clock.hour(), clock.minute(), clock.second()] {
        out.push(char::from(b'0' + number / 10));
        out.push(char::from(b'0' + number % 10));
    }
    out.push('Z');
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let time = parse("20130524T000000Z").unwrap();
        assert_eq!(format(time), "20130524T000000Z");
        assert_eq!(parse_date_header("Fri, 24 May 2013 00:00:00 GMT"), Some(time));
        for bad in
            ["", "2013-05-24T00:00:00Z", "20131324T000000Z", "20130524T000000", "20130524T0000000"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
