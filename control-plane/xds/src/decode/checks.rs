//! Values that occur in several resources.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{AggregatedConfigSource, ApiVersion, ConfigSource, Metadata};
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Percent};
use envoy_types::pb::google::protobuf;
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use http::StatusCode;
use prost::{Message, Name};
use weir_policy::names::NameError;

use super::at::{At, Fault, take};
use crate::meaning::{DURATION_MAX, METADATA_KEY, WHOLE_PARTS};
use crate::rejection::Problem;

/// The longest text of a condition, path or name, in characters: the Gateway API's longest is 4096.
const TEXT_CHARS_MAX: usize = 4096;

/// The message in an `Any`, which must be of this type and hold no field unknown to it.
///
/// prost skips unknown fields, so they are seen by what is missing when the message is written again. A writer that
/// does not pack numbers would be refused as well; the known ones (C++, Go, prost) all pack.
pub(super) fn unpack<M: Message + Name + Default>(at: &At<'_>, any: &Any, expected: &'static str) -> Result<M, Fault> {
    let Any { type_url, value } = any;
    if *type_url != M::type_url() {
        return Err(at.fault(format_args!("{type_url:?}"), Problem::UnknownType { expected }));
    }
    let size = format_args!("{} bytes", value.len()).to_string();
    let message = M::decode(value.as_slice()).map_err(|_| at.fault(&size, Problem::Undecodable))?;
    if message.encoded_len() < value.len() {
        return Err(at.fault(&size, Problem::UnknownField));
    }
    Ok(message)
}

/// Weir's own part of a metadata, of which nothing else has an effect.
pub(super) fn own_metadata<M: Message + Name + Default>(
    at: &At<'_>,
    metadata: Option<Metadata>,
    expected: &'static str,
) -> Result<Option<M>, Fault> {
    let Some(metadata) = metadata else { return Ok(None) };
    take!(at, metadata, Metadata { typed_filter_metadata; filter_metadata });
    let at = at.field("typed_filter_metadata");
    let mut own = None;
    for (key, any) in typed_filter_metadata {
        if key != METADATA_KEY {
            return Err(at.fault(format_args!("{key:?}"), Problem::WithoutEffect));
        }
        own = Some(unpack(&at.key(METADATA_KEY), &any, expected)?);
    }
    Ok(own)
}

/// Weir's own part of the configuration of filters, which others may skip; nothing else in it has an effect.
pub(super) fn own_filter_config<M: Message + Name + Default>(
    at: &At<'_>,
    configs: HashMap<String, Any>,
    expected: &'static str,
) -> Result<Option<M>, Fault> {
    let mut own = None;
    for (key, any) in configs {
        if key != METADATA_KEY {
            return Err(at.fault(format_args!("{key:?}"), Problem::WithoutEffect));
        }
        let at = at.key(METADATA_KEY);
        take!(at, unpack(&at, &any, "a FilterConfig")?, FilterConfig { config, is_optional; disabled });
        if !is_optional {
            let expected = "true: others than Weir don't know it";
            return Err(at
                .field("is_optional")
                .fault("false", Problem::Unsupported { expected }));
        }
        let at = at.field("config");
        own = Some(unpack(&at, &at.need(config)?, expected)?);
    }
    Ok(own)
}

/// The one source of further resources that there is: the stream on which this one came.
pub(super) fn from_ads(at: &At<'_>, source: Option<ConfigSource>) -> Result<(), Fault> {
    take!(at, at.need(source)?, ConfigSource {
        config_source_specifier, resource_api_version;
        authorities, initial_fetch_timeout
    });
    let at_version = at.field("resource_api_version");
    match at_version.known(resource_api_version)? {
        ApiVersion::V3 => {}
        other @ (ApiVersion::Auto | ApiVersion::V2) => {
            return Err(at_version.fault(other.as_str_name(), Problem::Unsupported { expected: "V3" }));
        }
    }
    match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})) => Ok(()),
        None => Err(at.field("ads").fault("", Problem::Missing)),
        Some(
            ConfigSourceSpecifier::Path(_)
            | ConfigSourceSpecifier::PathConfigSource(_)
            | ConfigSourceSpecifier::ApiConfigSource(_)
            | ConfigSourceSpecifier::Self_(_),
        ) => Err(at.fault("another source", Problem::Unsupported { expected: "ads" })),
    }
}

/// A name in its canonical form.
pub(super) fn name<N: FromStr<Err = NameError>>(at: &At<'_>, text: &str) -> Result<N, Fault> {
    text.parse()
        .map_err(|error: NameError| at.malformed(text, error.problem))
}

/// A duration that is not negative.
pub(super) fn duration(at: &At<'_>, wire: protobuf::Duration) -> Result<Duration, Fault> {
    let protobuf::Duration { seconds, nanos } = wire;
    let read = match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Some(Duration::new(seconds, nanos)),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => None,
    };
    read.filter(|duration| *duration <= DURATION_MAX).ok_or_else(|| {
        let allowed = "0 s to 9000000000 s, with 0 to 999999999 ns";
        at.fault(format_args!("{seconds} s {nanos} ns"), Problem::OutOfRange { allowed })
    })
}

/// A duration that is longer than 0.
pub(super) fn positive(at: &At<'_>, wire: protobuf::Duration) -> Result<Duration, Fault> {
    let duration = duration(at, wire)?;
    if duration.is_zero() {
        let allowed = "longer than 0 s";
        return Err(at.fault("0 s", Problem::OutOfRange { allowed }));
    }
    Ok(duration)
}

/// The number in a wrapper, or the published default.
pub(super) fn number_or(wire: Option<UInt32Value>, default: u32) -> u32 {
    match wire {
        Some(UInt32Value { value }) => value,
        None => default,
    }
}

/// A share in parts of a million.
pub(super) fn parts_per_million(at: &At<'_>, wire: FractionalPercent) -> Result<u32, Fault> {
    take!(at, wire, FractionalPercent { numerator, denominator; });
    let whole: u32 = match at.field("denominator").known(denominator)? {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => WHOLE_PARTS,
    };
    if numerator > whole {
        let allowed = "at most the denominator";
        return Err(at.field("numerator").fault(numerator, Problem::OutOfRange { allowed }));
    }
    Ok(numerator * (WHOLE_PARTS / whole))
}

/// A share in percent that is not 0.
pub(super) fn percent(at: &At<'_>, value: u32) -> Result<u8, Fault> {
    let narrow = u8::try_from(value).ok().filter(|percent| (1..=100).contains(percent));
    narrow.ok_or_else(|| at.fault(value, Problem::OutOfRange { allowed: "1 to 100" }))
}

/// A share in percent that is not 0. Envoy cuts it to whole percents; one that is cut would not be what was said.
pub(super) fn whole_percent(at: &At<'_>, wire: &Percent) -> Result<u8, Fault> {
    let Percent { value } = wire;
    let whole = (1..=100_u8).find(|percent| f64::from(*percent) == *value);
    whole.ok_or_else(|| {
        let allowed = "1 to 100, whole";
        at.fault(value, Problem::OutOfRange { allowed })
    })
}

/// A text that is not empty and of bounded length.
pub(super) fn text(at: &At<'_>, text: String) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(at.fault("", Problem::Missing));
    }
    bounded(at, text)
}

/// Texts that are not empty and of bounded length.
pub(super) fn texts(at: &At<'_>, texts: Vec<String>) -> Result<Vec<String>, Fault> {
    let texts = texts.into_iter().enumerate();
    texts.map(|(i, one)| text(&at.index(i), one)).collect()
}

/// A text of bounded length.
pub(super) fn bounded(at: &At<'_>, text: String) -> Result<String, Fault> {
    if text.chars().nth(TEXT_CHARS_MAX).is_some() {
        return Err(at.malformed(&text, "is longer than 4096 characters"));
    }
    Ok(text)
}

/// A text that stands there for people, or for other clients, and must be what it always is.
pub(super) fn equal(at: &At<'_>, held: &str, expected: &str) -> Result<(), Fault> {
    if held == expected {
        return Ok(());
    }
    let expected = expected.to_owned();
    Err(at.fault(format_args!("{held:?}"), Problem::Mismatch { expected }))
}

/// A status in this range.
pub(super) fn status(
    at: &At<'_>,
    code: u32,
    range: RangeInclusive<u16>,
    allowed: &'static str,
) -> Result<StatusCode, Fault> {
    let narrow = u16::try_from(code).ok().filter(|code| range.contains(code));
    let status = narrow.and_then(|code| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| at.fault(code, Problem::OutOfRange { allowed }))
}
