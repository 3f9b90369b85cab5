//! Kubernetes' protobuf: how kubectl and client-go send objects of core kinds that they create.
//!
//! It is read by tables into the JSON that the same object would be: what the kind's own reader says of a field holds
//! for both. All fields of a message stand in its table, those too that are refused afterwards, so that they are
//! refused by name. A field that stands in no table may mean anything, and one that comes twice has two readings:
//! refused here.
//!
//! Sources: `generated.proto` of core/v1 and discovery/v1 (kubernetes/api, revision 10b39a39), of meta/v1, util/intstr
//! and runtime (kubernetes/apimachinery); for the envelope "Kubernetes API Concepts", section "Kubernetes Protobuf
//! encoding"; for the wire protobuf.dev, "Encoding".

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};
use weir_api::Kind;

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Why bytes are no object.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}{problem}")]
pub(crate) struct Unreadable {
    /// Where, as in `spec.ports[0].name: `; empty: the whole.
    at: String,
    problem: String,
}

/// Whether objects of a kind come in protobuf: as in Kubernetes those of its own kinds, and no others.
pub(crate) fn is_taken(kind: Kind) -> bool {
    message(kind.api_version(), kind.kind()).is_some()
}

/// Reads an object or `DeleteOptions` in its envelope.
///
/// # Errors
/// What can't be read, and where.
pub(crate) fn read(body: &[u8]) -> Result<Value, Unreadable> {
    let Envelope { api_version, kind, raw } = Envelope::read(body)?;
    let at = Place::Whole;
    let message = message(api_version, kind).ok_or_else(|| {
        let named = format!("is of kind {kind:?} in {api_version:?}, which does not come in protobuf");
        at.wrong(format!("{named}; {KINDS} do"))
    })?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    object.extend(message.read(raw, &at)?);
    Ok(Value::Object(object))
}

/// What is around each object: `runtime.Unknown`, after four bytes.
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(body: &'a [u8]) -> Result<Envelope<'a>, Unreadable> {
        let at = Place::Whole;
        let rest = body
            .strip_prefix(MAGIC)
            .ok_or_else(|| at.wrong("does not begin with \"k8s\" and a zero byte"))?;
        let mut envelope = Envelope {
            api_version: "",
            kind: "",
            raw: &[],
        };
        let mut fields = Fields::of(rest, &at);
        while let Some((number, held)) = fields.next()? {
            match number {
                1 => {
                    let mut named = Fields::of(held.bytes(&at)?, &at);
                    while let Some((number, held)) = named.next()? {
                        match number {
                            1 => envelope.api_version = held.text(&at)?,
                            2 => envelope.kind = held.text(&at)?,
                            number => return Err(at.wrong(format!("has a field {number} in its typeMeta"))),
                        }
                    }
                }
                2 => envelope.raw = held.bytes(&at)?,
                // contentEncoding and contentType: other things than protobuf are in their own media type.
                3 | 4 => match held.text(&at)? {
                    "" | MEDIA_TYPE => {}
                    other => return Err(at.wrong(format!("holds {other:?}; {MEDIA_TYPE} is right"))),
                },
                number => return Err(at.wrong(format!("has a field {number} in its envelope"))),
            }
        }
        Ok(envelope)
    }
}

/// A message: its fields by number.
struct Message {
    name: &'static str,
    fields: &'static [Field],
}

struct Field {
    number: u32,
    /// As in JSON.
    name: &'static str,
    what: What,
    times: Times,
}

#[derive(Clone, Copy)]
enum Times {
    One,
    Many,
    /// Entries of a map, each a message of a key and a value.
    Entries,
}

#[derive(Clone, Copy)]
enum What {
    Text(Zero),
    Integer(Zero),
    Flag(Zero),
    /// In base64, as JSON has bytes.
    Bytes,
    Time,
    IntOrText,
    Message(&'static Message),
    /// An object that JSON's reader takes or refuses whatever is in it.
    Opaque,
}

/// What the zero of a field says: Go always writes the fields that have no pointer.
#[derive(Clone, Copy)]
enum Zero {
    /// That nothing was said.
    Unsaid,
    /// Zero.
    Said,
}

impl Message {
    fn read(&self, bytes: &[u8], at: &Place<'_>) -> Result<Map<String, Value>, Unreadable> {
        let mut read = Map::new();
        let mut seen = BTreeSet::new();
        let mut fields = Fields::of(bytes, at);
        while let Some((number, held)) = fields.next()? {
            let known = self.fields.iter().find(|field| field.number == number);
            let field = known.ok_or_else(|| at.wrong(format!("has a field {number}, which {} has not", self.name)))?;
            let at = Place::Field(at, field.name);
            match field.times {
                Times::One => {
                    if !seen.insert(number) {
                        return Err(at.wrong("is given twice"));
                    }
                    if let Some(value) = field.what.read(held, &at)? {
                        read.insert(field.name.to_owned(), value);
                    }
                }
                Times::Many => {
                    let items = read.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                    let Value::Array(items) = items else { continue };
                    let at = Place::Item(&at, items.len());
                    items.extend(field.what.read(held, &at)?);
                }
                Times::Entries => {
                    let entries = read.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                    let Value::Object(entries) = entries else { continue };
                    let Some(Value::Object(mut entry)) = field.what.read(held, &at)? else {
                        continue;
                    };
                    // Both are there even if they are empty.
                    let key = match entry.remove("key") {
                        Some(Value::String(key)) => key,
                        Some(_) | None => String::new(),
                    };
                    let value = entry.remove("value").unwrap_or_else(|| "".into());
                    if entries.insert(key.clone(), value).is_some() {
                        return Err(at.wrong(format!("has {key:?} twice")));
                    }
                }
            }
        }
        Ok(read)
    }
}

impl What {
    /// The value in JSON; `None`: nothing was said.
    fn read(self, held: Held<'_>, at: &Place<'_>) -> Result<Option<Value>, Unreadable> {
        Ok(match self {
            What::Text(zero) => {
                let text = held.text(at)?;
                zero.unless(text.is_empty(), text)
            }
            What::Integer(zero) => {
                let number = held.integer(at)?;
                zero.unless(number == 0, number)
            }
            What::Flag(zero) => {
                let flag = match held.integer(at)? {
                    0 => false,
                    1 => true,
                    other => return Err(at.wrong(format!("is {other}; 0 or 1 is right for a flag"))),
                };
                zero.unless(!flag, flag)
            }
            What::Bytes => Some(STANDARD.encode(held.bytes(at)?).into()),
            What::Time => time(&TIME.read(held.bytes(at)?, at)?, at)?,
            What::IntOrText => int_or_text(INT_OR_STRING.read(held.bytes(at)?, at)?, at)?,
            What::Message(message) => Some(message.read(held.bytes(at)?, at)?.into()),
            What::Opaque => Some(Map::new().into()),
        })
    }
}

impl Zero {
    fn unless(self, is_zero: bool, value: impl Into<Value>) -> Option<Value> {
        match self {
            Zero::Unsaid if is_zero => None,
            Zero::Unsaid | Zero::Said => Some(value.into()),
        }
    }
}

/// A `Time`. One of no seconds is Go's zero: none.
fn time(held: &Map<String, Value>, at: &Place<'_>) -> Result<Option<Value>, Unreadable> {
    let number = |name| held.get(name).and_then(Value::as_i64).unwrap_or_default();
    let (seconds, nanos) = (number("seconds"), number("nanos"));
    if (seconds, nanos) == (0, 0) {
        return Ok(None);
    }
    let time = i32::try_from(nanos)
        .ok()
        .and_then(|nanos| Timestamp::new(seconds, nanos).ok());
    let time = time.ok_or_else(|| at.wrong(format!("is {seconds} s and {nanos} ns after 1970, which is no time")))?;
    Ok(Some(time.to_string().into()))
}

/// An `IntOrString`. The integer 0 is Go's zero: none.
fn int_or_text(mut held: Map<String, Value>, at: &Place<'_>) -> Result<Option<Value>, Unreadable> {
    match held.get("type").and_then(Value::as_i64).unwrap_or_default() {
        0 => Ok(held.remove("intVal")),
        1 => Ok(Some(held.remove("strVal").unwrap_or_else(|| "".into()))),
        other => Err(at.wrong(format!("is of type {other}; 0 or 1 is right"))),
    }
}

/// The fields of a message as they stand on the wire.
struct Fields<'a, 'p> {
    rest: &'a [u8],
    at: &'p Place<'p>,
}

/// Of the wire's types Kubernetes' messages have these two.
#[derive(Clone, Copy)]
enum Held<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a, 'p> Fields<'a, 'p> {
    fn of(bytes: &'a [u8], at: &'p Place<'p>) -> Fields<'a, 'p> {
        Fields { rest: bytes, at }
    }

    /// The next field's number and what it holds; `None`: the message ends.
    fn next(&mut self) -> Result<Option<(u32, Held<'a>)>, Unreadable> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| self.at.wrong("has a field with too large a number"))?;
        let held = match tag & 7 {
            0 => Held::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let (bytes, rest) = self
                    .rest
                    .split_at_checked(length)
                    .ok_or_else(|| self.at.wrong(format!("ends within its field {number}")))?;
                self.rest = rest;
                Held::Bytes(bytes)
            }
            other => return Err(self.at.wrong(format!("has a field {number} of wire type {other}"))),
        };
        Ok(Some((number, held)))
    }

    fn varint(&mut self) -> Result<u64, Unreadable> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self
                .rest
                .split_first()
                .ok_or_else(|| self.at.wrong("ends within a number"))?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has one bit left.
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.at.wrong("has a number of more than 64 bits"))
    }
}

impl<'a> Held<'a> {
    fn bytes(self, at: &Place<'_>) -> Result<&'a [u8], Unreadable> {
        match self {
            Held::Bytes(bytes) => Ok(bytes),
            Held::Number(number) => Err(at.wrong(format!("is a number, {number}"))),
        }
    }

    fn text(self, at: &Place<'_>) -> Result<&'a str, Unreadable> {
        std::str::from_utf8(self.bytes(at)?).map_err(|error| at.wrong(format!("is not UTF-8: {error}")))
    }

    /// Negative ones are in two's complement of 64 bits, those of 32 bits too.
    fn integer(self, at: &Place<'_>) -> Result<i64, Unreadable> {
        match self {
            Held::Number(number) => Ok(number.cast_signed()),
            Held::Bytes(_) => Err(at.wrong("is no number")),
        }
    }
}

/// A place in an object.
enum Place<'a> {
    Whole,
    Field(&'a Place<'a>, &'static str),
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn wrong(&self, problem: impl Into<String>) -> Unreadable {
        let at = match self {
            Place::Whole => "it ".to_owned(),
            Place::Field(..) | Place::Item(..) => format!("{self} "),
        };
        let problem = problem.into();
        Unreadable { at, problem }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Whole => Ok(()),
            Place::Field(Place::Whole, name) => f.write_str(name),
            Place::Field(place, name) => write!(f, "{place}.{name}"),
            Place::Item(place, index) => write!(f, "{place}[{index}]"),
        }
    }
}

const MAGIC: &[u8] = b"k8s\0";

const KINDS: &str = "Namespace, Service, ConfigMap, EndpointSlice, DeleteOptions";

fn message(api_version: &str, kind: &str) -> Option<&'static Message> {
    match (api_version, kind) {
        ("v1", "Namespace") => Some(&NAMESPACE),
        ("v1", "Service") => Some(&SERVICE),
        ("v1", "ConfigMap") => Some(&CONFIG_MAP),
        ("discovery.k8s.io/v1", "EndpointSlice") => Some(&ENDPOINT_SLICE),
        // Sent in the version of the kind that is deleted, or in that of all.
        ("v1" | "meta.k8s.io/v1" | "discovery.k8s.io/v1", "DeleteOptions") => Some(&DELETE_OPTIONS),
        _ => None,
    }
}

const fn one(number: u32, name: &'static str, what: What) -> Field {
    let times = Times::One;
    Field {
        number,
        name,
        what,
        times,
    }
}

const fn many(number: u32, name: &'static str, what: What) -> Field {
    let times = Times::Many;
    Field {
        number,
        name,
        what,
        times,
    }
}

const fn entries(number: u32, name: &'static str, entry: &'static Message) -> Field {
    let (what, times) = (What::Message(entry), Times::Entries);
    Field {
        number,
        name,
        what,
        times,
    }
}

// In Go without a pointer, and with one.
const TEXT: What = What::Text(Zero::Unsaid);
const TEXT_POINTER: What = What::Text(Zero::Said);
const INTEGER: What = What::Integer(Zero::Unsaid);
const INTEGER_POINTER: What = What::Integer(Zero::Said);
const FLAG: What = What::Flag(Zero::Unsaid);
const FLAG_POINTER: What = What::Flag(Zero::Said);

/// Items of lists: an empty one is one.
const TEXT_ITEM: What = TEXT_POINTER;

static TEXT_ENTRY: Message = Message {
    name: "an entry",
    fields: &[one(1, "key", TEXT), one(2, "value", TEXT)],
};

static BYTES_ENTRY: Message = Message {
    name: "an entry",
    fields: &[one(1, "key", TEXT), one(2, "value", What::Bytes)],
};

static TIME: Message = Message {
    name: "Time",
    fields: &[one(1, "seconds", INTEGER), one(2, "nanos", INTEGER)],
};

static INT_OR_STRING: Message = Message {
    name: "IntOrString",
    fields: &[
        one(1, "type", INTEGER),
        one(2, "intVal", INTEGER),
        one(3, "strVal", TEXT),
    ],
};

static OBJECT_META: Message = Message {
    name: "ObjectMeta",
    fields: &[
        one(1, "name", TEXT),
        one(2, "generateName", TEXT),
        one(3, "namespace", TEXT),
        one(4, "selfLink", TEXT),
        one(5, "uid", TEXT),
        one(6, "resourceVersion", TEXT),
        one(7, "generation", INTEGER),
        one(8, "creationTimestamp", What::Time),
        one(9, "deletionTimestamp", What::Time),
        one(10, "deletionGracePeriodSeconds", INTEGER_POINTER),
        entries(11, "labels", &TEXT_ENTRY),
        entries(12, "annotations", &TEXT_ENTRY),
        many(13, "ownerReferences", What::Opaque),
        many(14, "finalizers", TEXT_ITEM),
        many(17, "managedFields", What::Opaque),
    ],
};

static NAMESPACE: Message = Message {
    name: "Namespace",
    fields: &[
        one(1, "metadata", What::Message(&OBJECT_META)),
        one(2, "spec", What::Message(&NAMESPACE_SPEC)),
        one(3, "status", What::Opaque),
    ],
};

static NAMESPACE_SPEC: Message = Message {
    name: "NamespaceSpec",
    fields: &[many(1, "finalizers", TEXT_ITEM)],
};

static SERVICE: Message = Message {
    name: "Service",
    fields: &[
        one(1, "metadata", What::Message(&OBJECT_META)),
        one(2, "spec", What::Message(&SERVICE_SPEC)),
        one(3, "status", What::Opaque),
    ],
};

static SERVICE_SPEC: Message = Message {
    name: "ServiceSpec",
    fields: &[
        many(1, "ports", What::Message(&SERVICE_PORT)),
        entries(2, "selector", &TEXT_ENTRY),
        one(3, "clusterIP", TEXT),
        one(4, "type", TEXT),
        many(5, "externalIPs", TEXT_ITEM),
        one(7, "sessionAffinity", TEXT),
        one(8, "loadBalancerIP", TEXT),
        many(9, "loadBalancerSourceRanges", TEXT_ITEM),
        one(10, "externalName", TEXT),
        one(11, "externalTrafficPolicy", TEXT),
        one(12, "healthCheckNodePort", INTEGER),
        one(13, "publishNotReadyAddresses", FLAG),
        one(14, "sessionAffinityConfig", What::Opaque),
        one(17, "ipFamilyPolicy", TEXT_POINTER),
        many(18, "clusterIPs", TEXT_ITEM),
        many(19, "ipFamilies", TEXT_ITEM),
        one(20, "allocateLoadBalancerNodePorts", FLAG_POINTER),
        one(21, "loadBalancerClass", TEXT_POINTER),
        one(22, "internalTrafficPolicy", TEXT_POINTER),
        one(23, "trafficDistribution", TEXT_POINTER),
    ],
};

static SERVICE_PORT: Message = Message {
    name: "ServicePort",
    fields: &[
        one(1, "name", TEXT),
        one(2, "protocol", TEXT),
        one(3, "port", INTEGER_POINTER),
        one(4, "targetPort", What::IntOrText),
        one(5, "nodePort", INTEGER),
        one(6, "appProtocol", TEXT_POINTER),
    ],
};

static CONFIG_MAP: Message = Message {
    name: "ConfigMap",
    fields: &[
        one(1, "metadata", What::Message(&OBJECT_META)),
        entries(2, "data", &TEXT_ENTRY),
        entries(3, "binaryData", &BYTES_ENTRY),
        one(4, "immutable", FLAG_POINTER),
    ],
};

static ENDPOINT_SLICE: Message = Message {
    name: "EndpointSlice",
    fields: &[
        one(1, "metadata", What::Message(&OBJECT_META)),
        many(2, "endpoints", What::Message(&ENDPOINT)),
        many(3, "ports", What::Message(&ENDPOINT_PORT)),
        one(4, "addressType", TEXT),
    ],
};

static ENDPOINT: Message = Message {
    name: "Endpoint",
    fields: &[
        many(1, "addresses", TEXT_ITEM),
        one(2, "conditions", What::Message(&ENDPOINT_CONDITIONS)),
        one(3, "hostname", TEXT_POINTER),
        one(4, "targetRef", What::Message(&OBJECT_REFERENCE)),
        entries(5, "deprecatedTopology", &TEXT_ENTRY),
        one(6, "nodeName", TEXT_POINTER),
        one(7, "zone", TEXT_POINTER),
        one(8, "hints", What::Message(&ENDPOINT_HINTS)),
    ],
};

static ENDPOINT_CONDITIONS: Message = Message {
    name: "EndpointConditions",
    fields: &[
        one(1, "ready", FLAG_POINTER),
        one(2, "serving", FLAG_POINTER),
        one(3, "terminating", FLAG_POINTER),
    ],
};

static ENDPOINT_HINTS: Message = Message {
    name: "EndpointHints",
    fields: &[
        many(1, "forZones", What::Message(&NAMED)),
        many(2, "forNodes", What::Message(&NAMED)),
    ],
};

/// `ForZone`, `ForNode`.
static NAMED: Message = Message {
    name: "a hint",
    fields: &[one(1, "name", TEXT_POINTER)],
};

static ENDPOINT_PORT: Message = Message {
    name: "EndpointPort",
    fields: &[
        one(1, "name", TEXT_POINTER),
        one(2, "protocol", TEXT_POINTER),
        one(3, "port", INTEGER_POINTER),
        one(4, "appProtocol", TEXT_POINTER),
    ],
};

static OBJECT_REFERENCE: Message = Message {
    name: "ObjectReference",
    fields: &[
        one(1, "kind", TEXT),
        one(2, "namespace", TEXT),
        one(3, "name", TEXT),
        one(4, "uid", TEXT),
        one(5, "apiVersion", TEXT),
        one(6, "resourceVersion", TEXT),
        one(7, "fieldPath", TEXT),
    ],
};

static DELETE_OPTIONS: Message = Message {
    name: "DeleteOptions",
    fields: &[
        one(1, "gracePeriodSeconds", INTEGER_POINTER),
        one(2, "preconditions", What::Message(&PRECONDITIONS)),
        one(3, "orphanDependents", FLAG_POINTER),
        one(4, "propagationPolicy", TEXT_POINTER),
        many(5, "dryRun", TEXT_ITEM),
        one(6, "ignoreStoreReadErrorWithClusterBreakingPotential", FLAG_POINTER),
    ],
};

static PRECONDITIONS: Message = Message {
    name: "Preconditions",
    fields: &[one(1, "uid", TEXT_POINTER), one(2, "resourceVersion", TEXT_POINTER)],
};

#[cfg(test)]
mod tests;
