//! What travels with a request between sidecars, and what comes back with the answer.
//!
//! `weir-context: 1;i=<16 hex>;d=<ms left>;p=<0–7>;r=<retry tokens>;a=<attempt>` and
//! `weir-verdict: 1;f=<fault>;s=<service>;r=<reason>`, in one grammar: a version, then `;key=value` pairs in any order.
//! A key that isn't known is skipped, so that keys may be added; one that occurs twice, and anything else that is not
//! of the grammar, refuses the whole: half a context is worse than none.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

/// The header field of a [`Context`].
pub const CONTEXT_HEADER: HeaderName = HeaderName::from_static("weir-context");
/// The header field, and trailer, of a [`Verdict`].
pub const VERDICT_HEADER: HeaderName = HeaderName::from_static("weir-verdict");

/// Which request of a citizen or client it is about, over all services. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(pub u64);

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ContextId {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self, GrammarError> {
        let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let whole = text.len() == 16 && text.bytes().all(lower_hex);
        let number = u64::from_str_radix(text, 16).ok().filter(|_| whole);
        number.map(ContextId).ok_or(GrammarError::Value { key: "i" })
    }
}

/// How much a request matters, as the mesh sees it. Written as RFC 9218 writes urgency: 0 matters most, 7 least, and 3
/// is what nobody said anything about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Priority(u8);

impl Priority {
    /// Matters most.
    pub const HIGHEST: Priority = Priority(0);
    /// Matters least.
    pub const LOWEST: Priority = Priority(7);

    /// From its number, 0 (most) to 7 (least); `None` beyond.
    pub fn from_level(level: u8) -> Option<Self> {
        (level <= Self::LOWEST.0).then_some(Priority(level))
    }

    /// Its number.
    pub fn level(self) -> u8 {
        self.0
    }

    /// The one of both that matters less.
    #[must_use]
    pub fn lower(self, other: Priority) -> Priority {
        Priority(self.0.max(other.0))
    }
}

impl Default for Priority {
    fn default() -> Self {
        Priority(3)
    }
}

/// What travels with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// Which request.
    pub id: ContextId,
    /// How long its caller waits yet, to the millisecond; `None`: for ever.
    pub deadline_left: Option<Duration>,
    /// How much it matters; `None`: nobody has said, and it matters as much as is usual.
    pub priority: Option<Priority>,
    /// How many retries may yet be made for it, by all services together; `None`: as each one's own budget says.
    pub retry_tokens: Option<u32>,
    /// Which attempt of the hop it is, from 1.
    pub attempt: u32,
}

impl Context {
    /// The context of a request that enters the mesh: no deadline, no priority, first attempt.
    pub fn new(id: ContextId) -> Self {
        Context {
            id,
            deadline_left: None,
            priority: None,
            retry_tokens: None,
            attempt: 1,
        }
    }

    /// This context under what else is known: the shorter deadline, the lower priority, the fewer tokens. Id and
    /// attempt stay. Nothing that is given can make it longer, higher or more.
    #[must_use]
    pub fn restricted(self, limit: &Restriction) -> Self {
        Context {
            deadline_left: least(self.deadline_left, limit.deadline_left),
            priority: match limit.priority {
                Some(limit) => Some(self.priority.unwrap_or_default().lower(limit)),
                None => self.priority,
            },
            retry_tokens: least(self.retry_tokens, limit.retry_tokens),
            ..self
        }
    }

    /// This context on a route whose requests matter so much: one that somebody has said is only lowered.
    #[must_use]
    pub fn on_route(self, priority: Priority) -> Self {
        let held = self.priority.map_or(priority, |held| held.lower(priority));
        Context {
            priority: Some(held),
            ..self
        }
    }

    /// This context after `elapsed`: its deadline is nearer by that.
    #[must_use]
    pub fn aged(self, elapsed: Duration) -> Self {
        Context {
            deadline_left: self.deadline_left.map(|left| left.saturating_sub(elapsed)),
            ..self
        }
    }

    /// The context of one more attempt, for which a token is spent; `None` when none is left.
    #[must_use]
    pub fn next_attempt(self) -> Option<Self> {
        let retry_tokens = match self.retry_tokens {
            Some(tokens) => Some(tokens.checked_sub(1)?),
            None => None,
        };
        Some(Context {
            retry_tokens,
            attempt: self.attempt.saturating_add(1),
            ..self
        })
    }

    /// The field's value.
    pub fn to_header_value(&self) -> HeaderValue {
        visible(&self.to_string())
    }

    /// Reads the field's value.
    ///
    /// # Errors
    /// When it is not of the grammar or without an id.
    pub fn from_header_value(value: &HeaderValue) -> Result<Self, GrammarError> {
        value.to_str().map_err(|_| GrammarError::Malformed)?.parse()
    }
}

/// What may only make a [`Context`] stricter; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restriction {
    /// Wait no longer than this.
    pub deadline_left: Option<Duration>,
    /// Matter no more than this.
    pub priority: Option<Priority>,
    /// Retry no more than this.
    pub retry_tokens: Option<u32>,
}

/// `1;i=…;d=…;p=…;r=…;a=…`, without `d`, `p` and `r` where there is none. The deadline is rounded down.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION};i={}", self.id)?;
        if let Some(left) = self.deadline_left {
            write!(f, ";d={}", u64::try_from(left.as_millis()).unwrap_or(u64::MAX))?;
        }
        if let Some(priority) = self.priority {
            write!(f, ";p={}", priority.0)?;
        }
        if let Some(tokens) = self.retry_tokens {
            write!(f, ";r={tokens}")?;
        }
        write!(f, ";a={}", self.attempt)
    }
}

impl FromStr for Context {
    type Err = GrammarError;

    /// Without `a` it is the first attempt.
    fn from_str(text: &str) -> Result<Self, GrammarError> {
        let mut id = None;
        let mut context = Context::new(ContextId(0));
        for pair in pairs(text)? {
            let (key, value) = pair?;
            match key {
                "i" => id = Some(value.parse()?),
                "d" => context.deadline_left = Some(Duration::from_millis(number(value, "d")?)),
                "p" => {
                    let priority = number(value, "p").map(Priority::from_level)?;
                    context.priority = Some(priority.ok_or(GrammarError::Value { key: "p" })?);
                }
                "r" => context.retry_tokens = Some(number(value, "r")?),
                "a" => {
                    context.attempt = number(value, "a")?;
                    if context.attempt == 0 {
                        return Err(GrammarError::Value { key: "a" });
                    }
                }
                _ => {}
            }
        }
        let id = id.ok_or(GrammarError::Missing { key: "i" })?;
        Ok(Context { id, ..context })
    }
}

/// Whose fault it is that a request did not go well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Who called: a bad request, or gone before the answer.
    Downstream,
    /// The service called, or what it calls in turn.
    Upstream,
    /// A policy somebody wrote.
    Policy,
    /// The control plane: nothing told, or something that can't be.
    ControlPlane,
    /// The proxy itself.
    Internal,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 5] = [
        Fault::Downstream,
        Fault::Upstream,
        Fault::Policy,
        Fault::ControlPlane,
        Fault::Internal,
    ];

    /// Its token: `downstream`, `upstream`, `policy`, `control-plane` or `internal`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fault::Downstream => "downstream",
            Fault::Upstream => "upstream",
            Fault::Policy => "policy",
            Fault::ControlPlane => "control-plane",
            Fault::Internal => "internal",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Fault {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self, GrammarError> {
        let mut all = Fault::ALL.into_iter();
        all.find(|fault| fault.as_str() == text)
            .ok_or(GrammarError::Value { key: "f" })
    }
}

/// What a sidecar says of a request that did not go well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    fault: Fault,
    service: Option<Box<str>>,
    reason: Box<str>,
}

impl Verdict {
    /// A verdict. `service` is where it was found (`service.namespace:port` or any name of `A-Z a-z 0-9 . : / _ -`, at
    /// most 253 characters); `reason` a token of `a-z 0-9 _ -`, at most 64.
    ///
    /// # Errors
    /// When one of them is of another form.
    pub fn new(fault: Fault, service: Option<&str>, reason: &str) -> Result<Self, GrammarError> {
        let in_service = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'/' | b'_' | b'-');
        let in_reason = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let service_fits = |service: &str| (1..=253).contains(&service.len()) && service.bytes().all(in_service);
        if !service.is_none_or(service_fits) {
            return Err(GrammarError::Value { key: "s" });
        }
        if !(1..=64).contains(&reason.len()) || !reason.bytes().all(in_reason) {
            return Err(GrammarError::Value { key: "r" });
        }
        Ok(Verdict {
            fault,
            service: service.map(Into::into),
            reason: reason.into(),
        })
    }

    /// Whose fault.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// At which service; `None`: unknown.
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// Why, as a token.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The field's value.
    pub fn to_header_value(&self) -> HeaderValue {
        visible(&self.to_string())
    }

    /// Reads the field's value.
    ///
    /// # Errors
    /// When it is not of the grammar or lacks fault or reason.
    pub fn from_header_value(value: &HeaderValue) -> Result<Self, GrammarError> {
        value.to_str().map_err(|_| GrammarError::Malformed)?.parse()
    }
}

/// `1;f=…;s=…;r=…`, without `s` where it is unknown.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION};f={}", self.fault)?;
        if let Some(service) = &self.service {
            write!(f, ";s={service}")?;
        }
        write!(f, ";r={}", self.reason)
    }
}

impl FromStr for Verdict {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self, GrammarError> {
        let (mut fault, mut service, mut reason) = (None, None, None);
        for pair in pairs(text)? {
            let (key, value) = pair?;
            match key {
                "f" => fault = Some(value.parse()?),
                "s" => service = Some(value),
                "r" => reason = Some(value),
                _ => {}
            }
        }
        let fault = fault.ok_or(GrammarError::Missing { key: "f" })?;
        let reason = reason.ok_or(GrammarError::Missing { key: "r" })?;
        Verdict::new(fault, service, reason)
    }
}

/// Why a text is no context or verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum GrammarError {
    /// Longer than 512 bytes or of more than 16 pairs.
    #[error("is longer than a peer would write it")]
    TooLong,
    /// Of another version.
    #[error("is not of version 1")]
    Version,
    /// Not `;key=value` after the version.
    #[error("is not a version and ';key=value' pairs")]
    Malformed,
    /// A key occurs twice.
    #[error("has a key twice")]
    Duplicate,
    /// A key that must be there is not.
    #[error("lacks the key '{key}'")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value is not what its key takes.
    #[error("has a wrong value for the key '{key}'")]
    Value {
        /// The key.
        key: &'static str,
    },
}

/// The pairs after the version, each checked when it comes.
fn pairs(text: &str) -> Result<impl Iterator<Item = Result<(&str, &str), GrammarError>>, GrammarError> {
    if text.len() > LENGTH_MAX {
        return Err(GrammarError::TooLong);
    }
    let mut parts = text.split(';');
    if parts.next() != Some(VERSION) {
        return Err(GrammarError::Version);
    }
    let mut seen = [""; PAIRS_MAX];
    let mut slots = 0;
    Ok(parts.map(move |part| {
        let (key, value) = part.split_once('=').ok_or(GrammarError::Malformed)?;
        let in_key = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if key.is_empty() || !key.bytes().all(in_key) || !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(GrammarError::Malformed);
        }
        if seen.contains(&key) {
            return Err(GrammarError::Duplicate);
        }
        *seen.get_mut(slots).ok_or(GrammarError::TooLong)? = key;
        slots += 1;
        Ok((key, value))
    }))
}

/// A decimal number as we write it: digits only, no needless zero in front.
fn number<T: FromStr>(text: &str, key: &'static str) -> Result<T, GrammarError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(GrammarError::Value { key })
}

/// The lesser where both are given.
fn least<T: Ord>(one: Option<T>, two: Option<T>) -> Option<T> {
    match (one, two) {
        (Some(one), Some(two)) => Some(one.min(two)),
        (one, two) => one.or(two),
    }
}

/// A field value from text that is visible ASCII by construction.
fn visible(text: &str) -> HeaderValue {
    debug_assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text:?}");
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

const VERSION: &str = "1";
const LENGTH_MAX: usize = 512;
const PAIRS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FULL: &str = "1;i=00c0ffee00c0ffee;d=1500;p=5;r=2;a=3";

    fn full() -> Context {
        Context {
            id: ContextId(0x00c0_ffee_00c0_ffee),
            deadline_left: Some(Duration::from_millis(1500)),
            priority: Some(Priority(5)),
            retry_tokens: Some(2),
            attempt: 3,
        }
    }

    #[test]
    fn a_context_is_written_as_the_grammar_says() {
        assert_eq!(full().to_string(), FULL);
        assert_eq!(full().to_header_value(), FULL);
        assert_eq!(Context::new(ContextId(1)).to_string(), "1;i=0000000000000001;a=1");
        let rounded = Context {
            deadline_left: Some(Duration::from_micros(1_999)),
            ..full()
        };
        assert_eq!(rounded.to_string(), "1;i=00c0ffee00c0ffee;d=1;p=5;r=2;a=3");
    }

    #[test]
    fn contexts_are_read() {
        #[track_caller]
        fn check(text: &str, expect: Context) {
            assert_eq!(text.parse(), Ok(expect), "{text}");
        }
        check(FULL, full());
        check("1;a=3;r=2;p=5;d=1500;i=00c0ffee00c0ffee", full());
        check("1;i=00c0ffee00c0ffee", Context::new(full().id));
        check("1;i=00c0ffee00c0ffee;new-key=a.b/c:d=e;z9=", Context::new(full().id));
        let zero = Context {
            deadline_left: Some(Duration::ZERO),
            retry_tokens: Some(0),
            priority: Some(Priority::HIGHEST),
            ..Context::new(full().id)
        };
        check("1;i=00c0ffee00c0ffee;d=0;r=0;p=0", zero);
    }

    #[test]
    fn what_is_not_of_the_grammar_is_refused() {
        #[track_caller]
        fn check(text: &str, expect: GrammarError) {
            assert_eq!(text.parse::<Context>(), Err(expect), "{text}");
        }
        let value = |key| GrammarError::Value { key };
        check("", GrammarError::Version);
        check("2;i=00c0ffee00c0ffee", GrammarError::Version);
        check("10;i=00c0ffee00c0ffee", GrammarError::Version);
        check(" 1;i=00c0ffee00c0ffee", GrammarError::Version);
        check("1", GrammarError::Missing { key: "i" });
        check("1;d=5", GrammarError::Missing { key: "i" });
        check("1;", GrammarError::Malformed);
        check("1;i", GrammarError::Malformed);
        check("1;=5", GrammarError::Malformed);
        check("1;i=00c0ffee00c0ffee;", GrammarError::Malformed);
        check("1;i=00c0ffee00c0ffee; d=5", GrammarError::Malformed);
        check("1;i=00c0ffee00c0ffee;d=5 ", GrammarError::Malformed);
        check("1;i=00c0ffee00c0ffee;D=5", GrammarError::Malformed);
        check("1;i=00c0ffee00c0ffee;x=\u{e9}", GrammarError::Malformed);
        check("1;i=00c0ffee00c0ffee;i=00c0ffee00c0ffee", GrammarError::Duplicate);
        check("1;i=00c0ffee00c0ffee;new=1;new=1", GrammarError::Duplicate);
        check("1;i=", value("i"));
        check("1;i=c0ffee", value("i"));
        check("1;i=00C0FFEE00C0FFEE", value("i"));
        check("1;i=+0c0ffee00c0ffee", value("i"));
        check("1;i=00c0ffee00c0ffee0", value("i"));
        for wrong in ["", "-1", "+1", "1.5", "01", "0x1", "99999999999999999999999"] {
            for key in ["d", "p", "r", "a"] {
                check(&format!("1;i=00c0ffee00c0ffee;{key}={wrong}"), value(key));
            }
        }
        check("1;i=00c0ffee00c0ffee;p=8", value("p"));
        check("1;i=00c0ffee00c0ffee;p=256", value("p"));
        check("1;i=00c0ffee00c0ffee;a=0", value("a"));
        check("1;i=00c0ffee00c0ffee;r=4294967296", value("r"));
        let long = format!("1;i=00c0ffee00c0ffee;x={}", "x".repeat(512));
        check(&long, GrammarError::TooLong);
        let many: String = (0..16).map(|n| format!(";k{n}=1")).collect();
        check(&format!("1;i=00c0ffee00c0ffee{many}"), GrammarError::TooLong);
        let opaque = HeaderValue::from_bytes(b"1;i=\xff").expect("opaque bytes are a field value");
        assert_eq!(Context::from_header_value(&opaque), Err(GrammarError::Malformed));
    }

    #[test]
    fn a_restriction_only_makes_stricter() {
        let restricted = full().restricted(&Restriction {
            deadline_left: Some(Duration::from_secs(1)),
            priority: Some(Priority(6)),
            retry_tokens: Some(1),
        });
        assert_eq!(restricted.to_string(), "1;i=00c0ffee00c0ffee;d=1000;p=6;r=1;a=3");
        let looser = Restriction {
            deadline_left: Some(Duration::from_secs(9)),
            priority: Some(Priority::HIGHEST),
            retry_tokens: Some(9),
        };
        assert_eq!(full().restricted(&looser), full());
        assert_eq!(full().restricted(&Restriction::default()), full());
        let open = Context::new(ContextId(1)).restricted(&looser);
        assert_eq!(
            (open.deadline_left, open.retry_tokens),
            (looser.deadline_left, looser.retry_tokens)
        );
    }

    #[test]
    fn time_and_tokens_are_spent() {
        assert_eq!(
            full().aged(Duration::from_millis(400)).deadline_left,
            Some(Duration::from_millis(1100))
        );
        assert_eq!(full().aged(Duration::from_secs(9)).deadline_left, Some(Duration::ZERO));
        let next = full().next_attempt().expect("two tokens are left");
        assert_eq!((next.retry_tokens, next.attempt), (Some(1), 4));
        assert_eq!(next.next_attempt().and_then(Context::next_attempt), None);
        let free = Context::new(ContextId(1)).next_attempt().expect("nobody counts");
        assert_eq!((free.retry_tokens, free.attempt), (None, 2));
    }

    #[test]
    fn verdicts_are_written_and_read() {
        let service = Some("identity.police:80");
        for (fault, service, reason, text) in [
            (
                Fault::Upstream,
                service,
                "timeout",
                "1;f=upstream;s=identity.police:80;r=timeout",
            ),
            (Fault::ControlPlane, None, "config", "1;f=control-plane;r=config"),
        ] {
            let verdict = Verdict::new(fault, service, reason).expect(text);
            assert_eq!(verdict.to_string(), text);
            assert_eq!(verdict.to_header_value(), text);
            assert_eq!(text.parse(), Ok(verdict));
        }
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        let read: Verdict = "1;new=1;r=reset;f=policy".parse().expect("an unknown key is skipped");
        assert_eq!(
            (read.fault(), read.service(), read.reason()),
            (Fault::Policy, None, "reset")
        );
    }

    #[test]
    fn what_is_no_verdict_is_refused() {
        let value = |key| GrammarError::Value { key };
        for (text, expect) in [
            ("1;r=x", GrammarError::Missing { key: "f" }),
            ("1;f=policy", GrammarError::Missing { key: "r" }),
            ("1;f=nobody;r=x", value("f")),
            ("1;f=policy;r=", value("r")),
            ("1;f=policy;r=A", value("r")),
            ("1;f=policy;r=x;s=", value("s")),
            ("1;f=policy;r=x;s=a,b", value("s")),
            ("1;f=policy;f=policy;r=x", GrammarError::Duplicate),
            ("0;f=policy;r=x", GrammarError::Version),
        ] {
            assert_eq!(text.parse::<Verdict>(), Err(expect), "{text}");
        }
        assert_eq!(Verdict::new(Fault::Policy, Some("a\r\nb"), "x"), Err(value("s")));
        assert_eq!(Verdict::new(Fault::Policy, None, &"x".repeat(65)), Err(value("r")));
        let longest =
            Verdict::new(Fault::ControlPlane, Some(&"s".repeat(253)), &"r".repeat(64)).expect("at the limits");
        assert_eq!(longest.to_string().parse(), Ok(longest));
    }

    #[test]
    fn a_route_sets_a_priority_or_lowers_it() {
        let on_route = |held: Option<u8>, route: u8| {
            let context = Context {
                priority: held.map(Priority),
                ..full()
            };
            context.on_route(Priority(route)).priority.map(Priority::level)
        };
        for (held, route, expect) in [
            (None, 0, 0),
            (None, 7, 7),
            (Some(3), 0, 3),
            (Some(3), 5, 5),
            (Some(0), 0, 0),
        ] {
            assert_eq!(on_route(held, route), Some(expect), "{held:?} {route}");
        }
    }

    prop_compose! {
        fn a_context()(
            id: u64,
            millis: Option<u64>,
            level in prop::option::of(0_u8..8),
            retry_tokens: Option<u32>,
            attempt in 1_u32..,
        ) -> Context {
            Context {
                id: ContextId(id),
                deadline_left: millis.map(Duration::from_millis),
                priority: level.map(Priority),
                retry_tokens,
                attempt,
            }
        }
    }

    /// Near the grammar: what it is made of, in any order.
    fn near_text() -> impl Strategy<Value = String> {
        let parts = vec![
            "1",
            ";",
            "i=",
            "00c0ffee00c0ffee",
            "d=",
            "p=",
            "a=",
            "f=policy",
            "r=x",
            "=",
            "9",
            " ",
            "é",
            "\0",
        ];
        prop::collection::vec(prop::sample::select(parts), 0..20).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn contexts_read_back_as_written(context in a_context()) {
            prop_assert_eq!(Context::from_header_value(&context.to_header_value()), Ok(context));
        }

        #[test]
        fn restricting_never_loosens_and_has_no_order(
            context in a_context(),
            limits in prop::collection::vec((any::<Option<u32>>(), prop::option::of(0_u8..8), any::<Option<u32>>()), 2),
        ) {
            let limits: Vec<_> = limits.into_iter().map(|(millis, level, retry_tokens)| Restriction {
                deadline_left: millis.map(|millis| Duration::from_millis(millis.into())),
                priority: level.and_then(Priority::from_level),
                retry_tokens,
            }).collect();
            let once = context.restricted(&limits[0]);
            prop_assert!(once.deadline_left.unwrap_or(Duration::MAX) <= context.deadline_left.unwrap_or(Duration::MAX));
            prop_assert!(once.retry_tokens.unwrap_or(u32::MAX) <= context.retry_tokens.unwrap_or(u32::MAX));
            let level = |context: &Context| context.priority.unwrap_or_default().level();
            prop_assert!(level(&once) >= level(&context));
            prop_assert_eq!(once.restricted(&limits[0]), once);
            prop_assert_eq!(once.restricted(&limits[1]), context.restricted(&limits[1]).restricted(&limits[0]));
        }

        #[test]
        fn garbage_is_refused_or_read_to_what_writes_back(text in prop_oneof![near_text(), ".{0,60}"]) {
            if let Ok(context) = text.parse::<Context>() {
                prop_assert_eq!(context.to_string().parse(), Ok(context));
            }
            if let Ok(verdict) = text.parse::<Verdict>() {
                prop_assert_eq!(verdict.to_string().parse(), Ok(verdict));
            }
        }

        #[test]
        fn bytes_of_a_field_never_panic(bytes in prop::collection::vec(32_u8.., 0..80)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = (Context::from_header_value(&value), Verdict::from_header_value(&value));
            }
        }
    }
}
