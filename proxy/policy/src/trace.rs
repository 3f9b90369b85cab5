//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): `traceparent`, and our member of `tracestate`.

use std::fmt;
use std::str::FromStr;

use http::{HeaderName, HeaderValue};

use crate::context::ContextId;

/// The header field of a [`TraceParent`].
pub const TRACEPARENT_HEADER: HeaderName = HeaderName::from_static("traceparent");
/// The header field of vendors' own state.
pub const TRACESTATE_HEADER: HeaderName = HeaderName::from_static("tracestate");

/// Which trace a request is part of, and which span sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace; not all zero.
    pub trace_id: [u8; 16],
    /// The sender's span; not all zero.
    pub parent_id: [u8; 8],
    /// Whether the sender records it.
    pub sampled: bool,
}

impl TraceParent {
    /// The field's value, in version 00. Flags other than `sampled` are not of that version and are written as 0.
    pub fn to_header_value(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.to_bytes()).unwrap_or(HeaderValue::from_static(""))
    }

    /// Reads the field's value.
    ///
    /// # Errors
    /// When it is not of the grammar: the caller begins a new trace (section 4.3).
    pub fn from_header_value(value: &HeaderValue) -> Result<Self, TraceParentError> {
        TraceParent::from_bytes(value.as_bytes())
    }

    fn to_bytes(self) -> [u8; LENGTH] {
        let mut text = *b"00-................................-................-00";
        put_hex(&mut text, 3, &self.trace_id);
        put_hex(&mut text, 36, &self.parent_id);
        put_hex(&mut text, 53, &[u8::from(self.sampled)]);
        text
    }

    /// Section 3.2.2. A version above 00 may be longer and is read by what it has in common with 00 (section 3.2.4).
    fn from_bytes(text: &[u8]) -> Result<Self, TraceParentError> {
        let (known, rest) = text.split_at_checked(LENGTH).ok_or(TraceParentError::Length)?;
        let mut fields = known.split(|b| *b == b'-');
        let mut field = || fields.next().unwrap_or_default();
        let [version] = hex(field())?;
        let trace_id = hex(field())?;
        let parent_id = hex(field())?;
        let [flags] = hex(field())?;
        match version {
            0xff => return Err(TraceParentError::Version),
            0 if !rest.is_empty() => return Err(TraceParentError::Length),
            _ if !matches!(rest, [] | [b'-', ..]) => return Err(TraceParentError::Length),
            _ => {}
        }
        if trace_id == [0; 16] || parent_id == [0; 8] {
            return Err(TraceParentError::Zero);
        }
        Ok(TraceParent {
            trace_id,
            parent_id,
            sampled: flags & SAMPLED != 0,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes()
            .iter()
            .try_for_each(|&b| fmt::Write::write_char(f, char::from(b)))
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        TraceParent::from_bytes(text.as_bytes())
    }
}

/// Why a text is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TraceParentError {
    /// Too short, or too long for its version.
    #[error("has not the length of its version")]
    Length,
    /// Version ff.
    #[error("is of version ff, which is forbidden")]
    Version,
    /// A field that is not lower-case hexadecimal of its length.
    #[error("has a field that is not hexadecimal in lower case of the right length")]
    Field,
    /// An id of zeros.
    #[error("has an id that is all zero")]
    Zero,
}

/// The `tracestate` to send on: `weir=<id>` first, then the members of `existing` but an older one of ours, each key
/// once, at most 32 members in at most 512 characters (section 3.3.1.5: when it gets too long, members of more than 128
/// characters go first, then the last). An `existing` that is not of the grammar is dropped whole (section 4.3).
///
/// Several fields are joined with `,` by the caller first.
pub fn with_weir(existing: Option<&str>, id: ContextId) -> String {
    let mut members = existing.and_then(members).unwrap_or_default();
    members.retain(|member| member.key != WEIR_KEY);
    members.truncate(MEMBERS_MAX - 1);
    let own = format!("{WEIR_KEY}={id}");
    let length = |members: &[Member<'_>]| members.iter().map(|member| member.text.len() + 1).sum::<usize>() + own.len();
    while length(&members) > STATE_LENGTH_MAX {
        let long = members.iter().rposition(|member| member.text.len() > MEMBER_LONG);
        match long {
            Some(index) => drop(members.remove(index)),
            None => drop(members.pop()),
        }
    }
    let mut state = String::with_capacity(length(&members));
    state.push_str(&own);
    for member in members {
        state.push(',');
        state.push_str(member.text);
    }
    state
}

/// The `tracestate` to send on where the mesh ends: the members of `existing` but ours. `None`: there are none, or it
/// is not of the grammar.
pub fn without_weir(existing: &str) -> Option<String> {
    let mut members = members(existing)?;
    members.retain(|member| member.key != WEIR_KEY);
    let texts: Vec<&str> = members.iter().map(|member| member.text).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

/// The id in our member of a `tracestate`; `None` where there is none, or it or the whole is not of the grammar.
pub fn weir_id(tracestate: &str) -> Option<ContextId> {
    let members = members(tracestate)?;
    let own = members.iter().find(|member| member.key == WEIR_KEY)?;
    own.value.parse().ok()
}

struct Member<'a> {
    text: &'a str,
    key: &'a str,
    value: &'a str,
}

/// The members of a `tracestate` (section 3.3.1), the first of each key; `None` if one is not of the grammar.
fn members(state: &str) -> Option<Vec<Member<'_>>> {
    if state.len() > READ_LENGTH_MAX {
        return None;
    }
    let mut members: Vec<Member<'_>> = Vec::new();
    for text in state.split(',') {
        let text = text.trim_matches([' ', '\t']);
        if text.is_empty() {
            continue;
        }
        let (key, value) = text.split_once('=')?;
        if !is_key(key) || !is_value(value) {
            return None;
        }
        if members.len() < MEMBERS_MAX && members.iter().all(|member| member.key != key) {
            members.push(Member { text, key, value });
        }
    }
    Some(members)
}

/// Section 3.3.1.3.1; the tenant form is within it.
fn is_key(key: &str) -> bool {
    let taken = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let first = key
        .bytes()
        .next()
        .is_some_and(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'));
    first && key.len() <= 256 && key.bytes().all(taken)
}

/// Section 3.3.1.3.2.
fn is_value(value: &str) -> bool {
    let taken = |b: u8| matches!(b, b' '..=b'~') && !matches!(b, b',' | b'=');
    (1..=256).contains(&value.len()) && value.bytes().all(taken)
}

fn put_hex(text: &mut [u8], at: usize, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let places = text.get_mut(at..).unwrap_or_default();
    for (place, byte) in places.chunks_exact_mut(2).zip(bytes) {
        place.copy_from_slice(&[byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]));
    }
}

/// Lower-case hexadecimal of exactly `N` bytes.
fn hex<const N: usize>(text: &[u8]) -> Result<[u8; N], TraceParentError> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Ok(b - b'0'),
        b'a'..=b'f' => Ok(b - b'a' + 10),
        _ => Err(TraceParentError::Field),
    };
    let mut bytes = [0; N];
    let (pairs, []) = text.as_chunks::<2>() else {
        return Err(TraceParentError::Field);
    };
    if pairs.len() != N {
        return Err(TraceParentError::Field);
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(bytes)
}

const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
const WEIR_KEY: &str = "weir";
const MEMBERS_MAX: usize = 32;
const MEMBER_LONG: usize = 128;
const STATE_LENGTH_MAX: usize = 512;
/// Beyond what 32 members of the longest key and value take, nothing is read.
const READ_LENGTH_MAX: usize = MEMBERS_MAX * 520;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of section 3.2.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const ID: ContextId = ContextId(0xc0ffee);
    const OWN: &str = "weir=0000000000c0ffee";

    #[test]
    fn the_example_reads_back_as_written() {
        let parent: TraceParent = EXAMPLE.parse().expect("the standard's own example");
        assert_eq!(parent.trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(parent.parent_id[6..], [0x02, 0xb7]);
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), EXAMPLE);
        assert_eq!(parent.to_header_value(), EXAMPLE);
    }

    #[test]
    fn only_the_flag_sampled_is_read_and_written() {
        for (flags, sampled) in [
            ("00", false),
            ("01", true),
            ("02", false),
            ("03", true),
            ("ff", true),
            ("fe", false),
        ] {
            let text = format!("{}{flags}", &EXAMPLE[..53]);
            let parent: TraceParent = text.parse().expect(&text);
            assert_eq!(parent.sampled, sampled, "{flags}");
            assert_eq!(&parent.to_string()[53..], if sampled { "01" } else { "00" });
        }
    }

    #[test]
    fn later_versions_are_read_by_what_is_known() {
        let known = &EXAMPLE[2..];
        for text in [
            format!("01{known}"),
            format!("fe{known}-what-comes-later"),
            format!("cc{known}-"),
        ] {
            let parent: TraceParent = text.parse().expect(&text);
            assert_eq!(parent.to_string(), EXAMPLE);
        }
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        let known = &EXAMPLE[2..];
        for (text, expect) in [
            (String::new(), TraceParentError::Length),
            ("00".to_owned(), TraceParentError::Length),
            (EXAMPLE[..54].to_owned(), TraceParentError::Length),
            (format!("{EXAMPLE}-"), TraceParentError::Length),
            (format!("{EXAMPLE}0"), TraceParentError::Length),
            (format!("01{known}0"), TraceParentError::Length),
            (format!("ff{known}"), TraceParentError::Version),
            (EXAMPLE.to_uppercase(), TraceParentError::Field),
            (EXAMPLE.replace('f', "g"), TraceParentError::Field),
            (EXAMPLE.replace('-', "_"), TraceParentError::Field),
            (EXAMPLE.replace("-00f", "00-f"), TraceParentError::Field),
            (
                format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
                TraceParentError::Zero,
            ),
            (
                format!("{}{}-01", &EXAMPLE[..36], "0".repeat(16)),
                TraceParentError::Zero,
            ),
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(expect), "{text}");
        }
    }

    #[track_caller]
    fn sent_on(existing: &str, expect: &str) {
        assert_eq!(with_weir(Some(existing), ID), expect, "{existing}");
    }

    #[test]
    fn our_member_comes_first_and_once() {
        assert_eq!(with_weir(None, ID), OWN);
        sent_on("", OWN);
        sent_on("congo=t61rcWkgMzE", &format!("{OWN},congo=t61rcWkgMzE"));
        sent_on("rojo=1,weir=00000000000000aa,congo=2", &format!("{OWN},rojo=1,congo=2"));
        sent_on("weir=x", OWN);
        sent_on(" rojo=1 ,\t, congo=a b ,", &format!("{OWN},rojo=1,congo=a b"));
        sent_on("a@b=1,a=2,a=3", &format!("{OWN},a@b=1,a=2"));
    }

    #[test]
    fn what_is_no_tracestate_is_dropped() {
        for wrong in [
            "a",
            "a=",
            "=1",
            "A=1",
            "a=1,b",
            "a=b=c",
            "a=\u{e9}",
            "a b=1",
            "-a=1",
            "rojo=1,a=\u{7f}",
        ] {
            sent_on(wrong, OWN);
        }
        sent_on(&format!("{}=1", "a".repeat(257)), OWN);
        sent_on(&format!("a={}", "1".repeat(257)), OWN);
    }

    #[test]
    fn it_stays_within_members_and_length() {
        let many: Vec<_> = (0..40).map(|n| format!("k{n}=1")).collect();
        sent_on(&many.join(","), &format!("{OWN},{}", many[..31].join(",")));
        // Long members go first, then the last ones.
        let long = format!("long={}", "x".repeat(200));
        let short: Vec<_> = (0..5).map(|n| format!("k{n}={}", "y".repeat(90))).collect();
        sent_on(
            &format!("{long},{}", short.join(",")),
            &format!("{OWN},{}", short.join(",")),
        );
        let short: Vec<_> = (0..8).map(|n| format!("k{n}={}", "y".repeat(90))).collect();
        sent_on(&short.join(","), &format!("{OWN},{}", short[..5].join(",")));
        sent_on(&"a=1,".repeat(10_000), OWN);
    }

    #[test]
    fn our_id_does_not_leave_the_mesh() {
        for (state, expect) in [
            ("weir=0000000000c0ffee", None),
            ("rojo=1, weir=0000000000c0ffee ,congo=2", Some("rojo=1,congo=2")),
            ("rojo=1", Some("rojo=1")),
            ("", None),
            ("rojo=1,broken", None),
        ] {
            assert_eq!(without_weir(state).as_deref(), expect, "{state}");
        }
    }

    #[test]
    fn our_id_is_found() {
        for (state, expect) in [
            ("weir=0000000000c0ffee", Some(ID)),
            ("rojo=1, weir=0000000000c0ffee ,congo=2", Some(ID)),
            ("weir=c0ffee", None),
            ("weir=0000000000C0FFEE", None),
            ("rojo=1", None),
            ("", None),
            ("weir=0000000000c0ffee,broken", None),
            ("myweir=0000000000c0ffee", None),
        ] {
            assert_eq!(weir_id(state), expect, "{state}");
        }
    }

    proptest! {
        #[test]
        fn traceparents_read_back_as_written(trace_id: [u8; 16], parent_id: [u8; 8], sampled: bool) {
            prop_assume!(trace_id != [0; 16] && parent_id != [0; 8]);
            let parent = TraceParent { trace_id, parent_id, sampled };
            prop_assert_eq!(TraceParent::from_header_value(&parent.to_header_value()), Ok(parent));
        }

        #[test]
        fn garbage_never_panics(text in ".{0,80}", cut in 0_usize..56, byte: u8) {
            let _ = text.parse::<TraceParent>();
            let mut near = EXAMPLE.as_bytes().to_vec();
            if let Some(place) = near.get_mut(cut) {
                *place = byte;
            }
            let _ = TraceParent::from_bytes(&near);
            let _ = TraceParent::from_bytes(&near[..cut.min(near.len())]);
            let _ = weir_id(&text);
        }

        /// Whatever comes in, what goes out is a tracestate within the bounds, with our member first.
        #[test]
        fn what_is_sent_on_is_always_right(
            existing in prop_oneof!["([a-z@=, 0-9]{0,8},){0,40}", "([a-z]{1,3}=[a-z]{1,150},){0,12}", ".{0,60}"],
            id: u64,
        ) {
            let state = with_weir(Some(&existing), ContextId(id));
            prop_assert!(state.len() <= 512);
            prop_assert_eq!(weir_id(&state), Some(ContextId(id)));
            let members = members(&state).expect("of the grammar");
            prop_assert!(members.len() <= 32);
            prop_assert_eq!(members.len(), state.split(',').count(), "no key twice");
            prop_assert_eq!(members.first().map(|member| member.key), Some("weir"));
        }
    }
}
