//! The fields of a line, written straight into a worker's buffer. Every request has a line: by serde's traits it took
//! a quarter of a request's instructions, most of them to format numbers and addresses and to look for what must be
//! escaped in names that are known.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use weir_policy::names::WorkloadName;
use weir_policy::spiffe::SpiffeId;

use crate::record::{AttemptEvent, AttemptOutcome};

/// A field's name as it stands in a line. Names are ours, and have nothing to escape.
macro_rules! name {
    ($name:literal) => {
        concat!("\"", $name, "\":")
    };
}
pub(super) use name;

/// The fields of one object, in the order in which they are written. A name comes from [`name!`].
pub(super) struct Fields<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Fields<'a> {
    /// Begins a line, whose first field is its time.
    pub(super) fn begin(out: &'a mut Vec<u8>, seconds: &mut Seconds, time: SystemTime) -> Fields<'a> {
        out.push(b'{');
        let fields = Fields { out };
        fields.out.extend_from_slice(name!("timestamp").as_bytes());
        seconds.write(fields.out, time);
        fields.out.push(b',');
        fields
    }

    /// Ends the line.
    pub(super) fn end(self) {
        if let Some(comma) = self.out.last_mut() {
            *comma = b'}';
        }
        self.out.push(b'\n');
    }

    /// A text that a peer may have chosen.
    pub(super) fn text(&mut self, name: &'static str, value: &str) {
        self.name(name);
        self.string(value);
        self.out.push(b',');
    }

    /// The same, where there is one.
    pub(super) fn text_if(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// One of the words that a field may have: ours, without anything to escape.
    pub(super) fn word(&mut self, name: &'static str, value: &'static str) {
        debug_assert!(is_plain(value.as_bytes()), "{value}");
        self.quoted(name, |out| out.extend_from_slice(value.as_bytes()));
    }

    pub(super) fn number(&mut self, name: &'static str, value: impl itoa::Integer) {
        self.name(name);
        decimal(self.out, value);
        self.out.push(b',');
    }

    pub(super) fn truth(&mut self, name: &'static str, value: bool) {
        self.name(name);
        let text: &[u8] = if value { b"true," } else { b"false," };
        self.out.extend_from_slice(text);
    }

    /// A time in milliseconds, to the microsecond. It has always a fraction: a reader that takes a field's type from
    /// the first value that it sees would take `3` for an integer.
    pub(super) fn millis(&mut self, name: &'static str, value: Duration) {
        self.name(name);
        let micros = nanos(value).saturating_add(500) / 1_000;
        decimal(self.out, micros / 1_000);
        let [hundreds, tens, ones] = [micros / 100 % 10, micros / 10 % 10, micros % 10].map(digit);
        let digits = [b'.', hundreds, tens, ones, b','];
        let digits: &[u8] = match (tens, ones) {
            (b'0', b'0') => &[b'.', hundreds, b','],
            (_, b'0') => &[b'.', hundreds, tens, b','],
            _ => &digits,
        };
        self.out.extend_from_slice(digits);
    }

    /// An id in lower-case hexadecimal.
    pub(super) fn id<const N: usize>(&mut self, name: &'static str, value: [u8; N]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let nibble = |nibble: u8| DIGITS[usize::from(nibble & 0xf)];
        self.quoted(name, |out| {
            for byte in value {
                out.extend_from_slice(&[nibble(byte >> 4), nibble(byte)]);
            }
        });
    }

    pub(super) fn ip(&mut self, name: &'static str, value: IpAddr) {
        self.quoted(name, |out| write_ip(out, value));
    }

    pub(super) fn address(&mut self, name: &'static str, value: SocketAddr) {
        self.quoted(name, |out| write_address(out, value));
    }

    /// `NAMESPACE/NAME`; labels have nothing to escape.
    pub(super) fn workload(&mut self, name: &'static str, value: &WorkloadName) {
        self.quoted(name, |out| {
            for part in [value.namespace.as_str(), "/", value.name.as_str()] {
                out.extend_from_slice(part.as_bytes());
            }
        });
    }

    /// A SPIFFE id, whose parts have nothing to escape.
    pub(super) fn identity(&mut self, name: &'static str, value: &SpiffeId) {
        self.quoted(name, |out| {
            for part in value.parts() {
                out.extend_from_slice(part.as_bytes());
            }
        });
    }

    /// One text for each attempt, `10.0.0.1:15006 answered 503 at 12.3ms`: people read it, and each line stays one
    /// object. Nothing where there was none.
    pub(super) fn attempts(&mut self, name: &'static str, attempts: &[AttemptEvent]) {
        let Some((first, others)) = attempts.split_first() else {
            return;
        };
        self.name(name);
        self.out.push(b'[');
        self.attempt(first);
        for other in others {
            self.out.push(b',');
            self.attempt(other);
        }
        self.out.extend_from_slice(b"],");
    }

    fn attempt(&mut self, attempt: &AttemptEvent) {
        let out = &mut *self.out;
        out.push(b'"');
        write_address(out, attempt.endpoint);
        out.push(b' ');
        out.extend_from_slice(attempt.outcome.as_str().as_bytes());
        match attempt.outcome {
            AttemptOutcome::Answered(status) => {
                out.push(b' ');
                decimal(out, status);
            }
            AttemptOutcome::ConnectFailed
            | AttemptOutcome::Unprocessed
            | AttemptOutcome::Reset
            | AttemptOutcome::TimedOut
            | AttemptOutcome::Abandoned => {}
        }
        out.extend_from_slice(b" at ");
        let tenths = nanos(attempt.at).saturating_add(50_000) / 100_000;
        decimal(out, tenths / 10);
        out.extend_from_slice(&[b'.', digit(tenths % 10)]);
        out.extend_from_slice(b"ms\"");
    }

    fn name(&mut self, name: &'static str) {
        debug_assert!(name.starts_with('"') && name.ends_with("\":"), "{name} is not of name!");
        self.out.extend_from_slice(name.as_bytes());
    }

    fn quoted(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        self.name(name);
        self.out.push(b'"');
        write(self.out);
        self.out.extend_from_slice(b"\",");
    }

    fn string(&mut self, value: &str) {
        if is_plain(value.as_bytes()) {
            self.out.push(b'"');
            self.out.extend_from_slice(value.as_bytes());
            self.out.push(b'"');
            return;
        }
        // A `Vec` takes all that is written into it.
        let _ = serde_json::to_writer(&mut *self.out, value);
    }
}

/// Whether a text has nothing that JSON escapes (RFC 8259 section 7). Without an early end, so that it is done for many
/// bytes at a time.
fn is_plain(text: &[u8]) -> bool {
    let escaped = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    !text.iter().fold(false, |found, byte| found | escaped(*byte))
}

fn decimal(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// At most 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The last digit of a number.
fn digit(number: u64) -> u8 {
    const DIGITS: &[u8; 10] = b"0123456789";
    DIGITS[(number % 10) as usize]
}

fn write_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(address) => write_ipv4(out, *address.ip()),
        SocketAddr::V6(address) => {
            // A `Vec` takes all that is written into it.
            let _ = write!(out, "[{}", address.ip());
            if address.scope_id() != 0 {
                let _ = write!(out, "%{}", address.scope_id());
            }
            out.push(b']');
        }
    }
    out.push(b':');
    decimal(out, address.port());
}

fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => write_ipv4(out, ip),
        IpAddr::V6(ip) => {
            // A `Vec` takes all that is written into it.
            let _ = write!(out, "{ip}");
        }
    }
}

fn write_ipv4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    let [a, b, c, d] = ip.octets();
    decimal(out, a);
    for octet in [b, c, d] {
        out.push(b'.');
        decimal(out, octet);
    }
}

/// The last second that was written, and how: many lines begin in one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seconds {
    second: Option<u64>,
    /// `2026-01-02T03:04:05`.
    text: [u8; 19],
}

impl Default for Seconds {
    fn default() -> Seconds {
        Seconds {
            second: None,
            text: [b'0'; 19],
        }
    }
}

impl Seconds {
    /// A time as RFC 3339 has it, in UTC, to the microsecond; `null` for one outside of the calendar.
    fn write(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let Ok(since) = time.duration_since(SystemTime::UNIX_EPOCH) else {
            out.extend_from_slice(b"null");
            return;
        };
        if self.second != Some(since.as_secs()) {
            let text = i64::try_from(since.as_secs())
                .ok()
                .and_then(|second| jiff::Timestamp::from_second(second).ok())
                .map(|second| format!("{second:.0}"));
            let text = text.as_deref().and_then(|text| text.strip_suffix('Z'));
            let Some(text) = text.and_then(|text| text.as_bytes().try_into().ok()) else {
                out.extend_from_slice(b"null");
                return;
            };
            (self.second, self.text) = (Some(since.as_secs()), text);
        }
        out.push(b'"');
        out.extend_from_slice(&self.text);
        let mut micros = u64::from(since.subsec_micros());
        let mut fraction = *b".000000Z\"";
        for place in fraction[1..7].iter_mut().rev() {
            *place = digit(micros);
            micros /= 10;
        }
        out.extend_from_slice(&fraction);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use proptest::prelude::*;

    use super::*;

    /// One field as it stands in a line.
    fn field(write: impl FnOnce(&mut Fields<'_>)) -> String {
        let mut out = Vec::new();
        let mut fields = Fields { out: &mut out };
        write(&mut fields);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn times_have_a_fraction_and_no_more_than_they_need() {
        for (nanos, expect) in [
            (0, "0.0"),
            (499, "0.0"),
            (500, "0.001"),
            (999_500, "1.0"),
            (3_000_000, "3.0"),
            (3_200_000, "3.2"),
            (3_250_000, "3.25"),
            (3_251_000, "3.251"),
            (3_001_000, "3.001"),
            (86_400_000_000_000, "86400000.0"),
        ] {
            let written = field(|fields| fields.millis(name!("t"), Duration::from_nanos(nanos)));
            assert_eq!(written, format!("\"t\":{expect},"), "{nanos}");
        }
    }

    #[test]
    fn attempts_are_told_in_words() {
        let attempt = |outcome, micros| AttemptEvent {
            endpoint: "10.0.0.7:15006".parse().expect("an address"),
            outcome,
            at: Duration::from_micros(micros),
        };
        let several = [
            attempt(AttemptOutcome::ConnectFailed, 49),
            attempt(AttemptOutcome::Reset, 50),
            attempt(AttemptOutcome::Answered(503), 12_345),
        ];
        assert_eq!(
            field(|fields| fields.attempts(name!("a"), &several)),
            concat!(
                r#""a":["10.0.0.7:15006 connect failed at 0.0ms","10.0.0.7:15006 reset at 0.1ms","#,
                r#""10.0.0.7:15006 answered 503 at 12.3ms"],"#
            )
        );
        assert_eq!(field(|fields| fields.attempts(name!("a"), &[])), "");
    }

    #[test]
    fn a_second_is_formatted_once_and_again_when_it_changes() {
        let mut seconds = Seconds::default();
        for (micros, expect) in [
            (1_767_323_045_678_901, r#""2026-01-02T03:04:05.678901Z""#),
            (1_767_323_045_000_009, r#""2026-01-02T03:04:05.000009Z""#),
            (1_767_323_046_000_000, r#""2026-01-02T03:04:06.000000Z""#),
            (0, r#""1970-01-01T00:00:00.000000Z""#),
            (253_402_207_200_000_000, r#""9999-12-30T22:00:00.000000Z""#),
            // Beyond what a calendar of four digits has.
            (300_000_000_000_000_000, "null"),
            (1_767_323_045_000_000, r#""2026-01-02T03:04:05.000000Z""#),
        ] {
            let mut out = Vec::new();
            seconds.write(&mut out, SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
            assert_eq!(String::from_utf8_lossy(&out), expect, "{micros}");
        }
        let mut out = Vec::new();
        seconds.write(&mut out, SystemTime::UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(out, b"null");
    }

    proptest! {
        #[test]
        fn texts_are_as_serde_has_them(value in any::<String>()) {
            let expect = serde_json::to_string(&value).expect("a text");
            prop_assert_eq!(field(|fields| fields.text(name!("x"), &value)), format!("\"x\":{expect},"));
        }

        #[test]
        fn addresses_are_as_their_display(ip: IpAddr, port: u16, scope: u32) {
            let address = match ip {
                IpAddr::V4(ip) => SocketAddr::from((ip, port)),
                IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)),
            };
            prop_assert_eq!(field(|fields| fields.address(name!("a"), address)), format!("\"a\":\"{address}\","));
            prop_assert_eq!(field(|fields| fields.ip(name!("a"), ip)), format!("\"a\":\"{ip}\","));
        }

        #[test]
        fn times_are_as_floats_round_them(micros in 0_u64..1 << 50) {
            let written = field(|fields| fields.millis(name!("t"), Duration::from_micros(micros)));
            let read: f64 = written.trim_start_matches("\"t\":").trim_end_matches(',').parse().expect("a number");
            prop_assert_eq!((read * 1e3).round() as u64, micros);
        }
    }
}
