//! Durations as the Gateway API writes them (GEP-2257): `1h30m`, `500ms`.

use std::time::Duration;

use serde::Serializer;

/// Reads `1h30m`, `10s`, `1500ms`: one to four numbers of at most five digits, each with `h`, `m`, `s` or `ms`, which
/// are added up (GEP-2257).
///
/// # Errors
/// When the text is of another shape.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text;
    let mut millis: u64 = 0;
    for _ in 0..4 {
        let (digits, behind) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        if digits.is_empty() || digits.len() > 5 {
            return Err(DurationError);
        }
        let number: u64 = digits.parse().map_err(|_| DurationError)?;
        let unit = behind.split_at(behind.bytes().take_while(u8::is_ascii_lowercase).count());
        let unit_millis = match unit.0 {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return Err(DurationError),
        };
        // At most 4 x 99999 h: far from overflow.
        millis += number * unit_millis;
        rest = unit.1;
        if rest.is_empty() {
            return Ok(Duration::from_millis(millis));
        }
    }
    Err(DurationError)
}

/// Writes a duration with the largest units first: `1h30m`, `1s500ms`, `0s`. Less than a millisecond is dropped, and
/// what is over [`MAX`] is written as `MAX`.
pub fn format(duration: Duration) -> String {
    let millis = u64::try_from(duration.min(MAX).as_millis()).unwrap_or(u64::MAX);
    let parts = [
        (millis / 3_600_000, "h"),
        (millis / 60_000 % 60, "m"),
        (millis / 1_000 % 60, "s"),
        (millis % 1_000, "ms"),
    ];
    let text: String = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The longest duration that can be written: `99999h59m59s999ms`.
pub const MAX: Duration = Duration::from_millis(MAX_MILLIS);

/// [`MAX`] in milliseconds.
pub(crate) const MAX_MILLIS: u64 = 99_999 * 3_600_000 + 59 * 60_000 + 59_999;

/// A text that is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a duration like 1h30m, 10s or 500ms")]
pub struct DurationError;

pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

pub(crate) fn serialize_option<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serialize(duration, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_gep_shows_reads_and_reads_back() {
        let cases = [
            ("0s", 0, "0s"),
            ("0h", 0, "0s"),
            ("1h", 3_600_000, "1h"),
            ("1h30m", 5_400_000, "1h30m"),
            ("30m1h", 5_400_000, "1h30m"),
            ("90m", 5_400_000, "1h30m"),
            ("10s", 10_000, "10s"),
            ("1500ms", 1_500, "1s500ms"),
            ("100ms200ms300ms", 600, "600ms"),
            ("1h2m3s4ms", 3_723_004, "1h2m3s4ms"),
            ("99999h", 359_996_400_000, "99999h"),
        ];
        for (text, millis, canonical) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(format(Duration::from_millis(millis)), canonical, "{text}");
        }
        assert_eq!(format(Duration::from_micros(1_999)), "1ms");
        assert_eq!(format(Duration::MAX), "99999h59m59s999ms");
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in [
            "",
            "1",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1us",
            "1d",
            "1S",
            " 1s",
            "1s ",
            "100000s",
            "1s1s1s1s1s",
            "1h30",
            "1m1",
            "١s",
            "1msm",
        ] {
            assert_eq!(parse(text), Err(DurationError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis in 0..=u64::try_from(MAX.as_millis()).expect("fits")) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn nothing_panics(text in ".{0,24}") {
            let _ = parse(&text);
        }
    }
}
