//! What an Envoy's node asks for: which services, where it listens, and for which app ports. Under `weir.dev` in
//! `node.metadata`; other metadata is for others and is not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use weir_policy::model::AppProtocol;
use weir_policy::names::{Label, ListenerName, ServiceName};

use crate::meaning::METADATA_KEY;

/// What an Envoy asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvoyNode {
    /// Where its app sends its calls; default: 127.0.0.1:15001. Port 0: any free one.
    pub outbound: SocketAddr,
    /// The services it calls; `None`: all of the mesh. None at all: its app calls nobody, and has no listener for it.
    pub services: Option<BTreeSet<ServiceName>>,
    /// Where others reach its app's ports; none twice.
    pub inbound: BTreeMap<SocketAddr, InboundPort>,
}

/// An app port behind an inbound port of an Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InboundPort {
    /// The app's port, on loopback.
    pub app: NonZeroU16,
    /// What the app speaks.
    pub protocol: InboundProtocol,
}

/// What an app behind an Envoy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InboundProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in cleartext.
    Http2,
    /// gRPC.
    Grpc,
}

impl InboundProtocol {
    /// The same in the model.
    pub fn app_protocol(self) -> AppProtocol {
        match self {
            InboundProtocol::Http1 => AppProtocol::Http1,
            InboundProtocol::Http2 => AppProtocol::Http2,
            InboundProtocol::Grpc => AppProtocol::Grpc,
        }
    }
}

/// What is wrong with what an Envoy asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node.metadata[\"weir.dev\"]{path}: {problem}")]
pub struct EnvoyNodeError {
    /// Where: `.inbound[0].port`.
    pub path: String,
    /// What is wrong there, and what would be right.
    pub problem: &'static str,
}

impl Default for EnvoyNode {
    fn default() -> Self {
        EnvoyNode {
            outbound: SocketAddr::from(([127, 0, 0, 1], OUTBOUND_PORT)),
            services: None,
            inbound: BTreeMap::new(),
        }
    }
}

impl EnvoyNode {
    /// Reads a node's metadata; short names of services are of namespace `own`.
    ///
    /// # Errors
    /// The first thing that is wrong; a key that is not known is wrong.
    pub fn read(metadata: Option<&Struct>, own: &Label) -> Result<EnvoyNode, EnvoyNodeError> {
        let mut node = EnvoyNode::default();
        let Some(value) = metadata.and_then(|metadata| metadata.fields.get(METADATA_KEY)) else {
            return Ok(node);
        };
        let mut fields = Fields::of(value, String::new())?;
        if let Some((outbound, path)) = fields.take("outbound") {
            node.outbound = address(&outbound, &path)?;
        }
        if let Some((services, path)) = fields.take("services") {
            let names = list(&services, &path)?.iter().enumerate();
            let names = names.map(|(at, name)| service(name, &format!("{path}[{at}]"), own));
            node.services = Some(names.collect::<Result<_, _>>()?);
        }
        if let Some((inbound, path)) = fields.take("inbound") {
            for (at, port) in list(&inbound, &path)?.iter().enumerate() {
                let path = format!("{path}[{at}]");
                let (at, port) = inbound_port(port, path.clone())?;
                if node.inbound.insert(at, port).is_some() {
                    return Err(wrong(&path, "its address is there already"));
                }
            }
        }
        fields.end()?;
        Ok(node)
    }
}

fn inbound_port(value: &Value, path: String) -> Result<(SocketAddr, InboundPort), EnvoyNodeError> {
    let mut fields = Fields::of(value, path.clone())?;
    let mut needed = |name| {
        fields
            .take(name)
            .ok_or_else(|| wrong(&path, "needs listen, app and protocol"))
    };
    let (listen, at) = needed("listen")?;
    let listen = address(&listen, &at)?;
    let (app, at) = needed("app")?;
    let app = match &app.kind {
        Some(Kind::NumberValue(number)) => number.to_string().parse().ok(),
        _ => None,
    };
    let app = app.ok_or_else(|| wrong(&at, "is no port; a number from 1 to 65535 is right"))?;
    let (protocol, at) = needed("protocol")?;
    let protocol = match text(&protocol, &at)? {
        "http" => InboundProtocol::Http1,
        "http2" => InboundProtocol::Http2,
        "grpc" => InboundProtocol::Grpc,
        _ => return Err(wrong(&at, "is none of http, http2, grpc")),
    };
    fields.end()?;
    Ok((listen, InboundPort { app, protocol }))
}

/// The fields of a map that were not read yet.
struct Fields {
    path: String,
    left: BTreeMap<String, Value>,
}

impl Fields {
    fn of(value: &Value, path: String) -> Result<Fields, EnvoyNodeError> {
        match &value.kind {
            Some(Kind::StructValue(map)) => Ok(Fields {
                path,
                left: map.fields.clone().into_iter().collect(),
            }),
            _ => Err(wrong(&path, "is no map")),
        }
    }

    /// A field with its place.
    fn take(&mut self, name: &str) -> Option<(Value, String)> {
        let value = self.left.remove(name)?;
        Some((value, format!("{}.{name}", self.path)))
    }

    fn end(self) -> Result<(), EnvoyNodeError> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                Err(wrong(&format!("{}.{name}", self.path), "is not known here"))
            }
        }
    }
}

fn list<'a>(value: &'a Value, path: &str) -> Result<&'a [Value], EnvoyNodeError> {
    match &value.kind {
        Some(Kind::ListValue(list)) if list.values.len() <= LIST_MAX => Ok(&list.values),
        Some(Kind::ListValue(_)) => Err(wrong(path, "has more than 1000 entries")),
        _ => Err(wrong(path, "is no list")),
    }
}

fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, EnvoyNodeError> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Ok(text),
        _ => Err(wrong(path, "is no text")),
    }
}

fn service(value: &Value, path: &str, own: &Label) -> Result<ServiceName, EnvoyNodeError> {
    match ListenerName::from_authority(text(value, path)?, own) {
        Ok(ListenerName { service, port: None }) => Ok(service),
        Ok(_) => Err(wrong(path, "has a port; the name alone is right")),
        Err(_) => Err(wrong(path, "is no service's name, as portal or portal.citizen is")),
    }
}

fn address(value: &Value, path: &str) -> Result<SocketAddr, EnvoyNodeError> {
    let address = text(value, path)?.parse();
    address.map_err(|_| wrong(path, "is no address with a port, as 127.0.0.1:15001 is"))
}

fn wrong(path: &str, problem: &'static str) -> EnvoyNodeError {
    EnvoyNodeError {
        path: path.to_owned(),
        problem,
    }
}

const OUTBOUND_PORT: u16 = 15001;
/// Of services that are named, and of inbound ports.
const LIST_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn map<const N: usize>(fields: [(&str, Value); N]) -> Value {
        let fields = fields.map(|(name, value)| (name.to_owned(), value)).into();
        Value {
            kind: Some(Kind::StructValue(Struct { fields })),
        }
    }

    fn string(text: &str) -> Value {
        Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        }
    }

    fn number(number: f64) -> Value {
        Value {
            kind: Some(Kind::NumberValue(number)),
        }
    }

    fn values<const N: usize>(values: [Value; N]) -> Value {
        let values = values.into();
        Value {
            kind: Some(Kind::ListValue(envoy_types::pb::google::protobuf::ListValue { values })),
        }
    }

    fn own() -> Label {
        "citizen".parse().expect("a label")
    }

    fn read(settings: Value) -> Result<EnvoyNode, EnvoyNodeError> {
        let fields = [("weir.dev".to_owned(), settings), ("others".to_owned(), number(1.0))].into();
        EnvoyNode::read(Some(&Struct { fields }), &own())
    }

    fn port(listen: &str, app: Value, protocol: &str) -> Value {
        map([("listen", string(listen)), ("app", app), ("protocol", string(protocol))])
    }

    #[test]
    fn an_envoy_gets_what_it_asks_for_and_else_the_defaults() {
        assert_eq!(EnvoyNode::read(None, &own()), Ok(EnvoyNode::default()));
        assert_eq!(read(map([])), Ok(EnvoyNode::default()));
        let node = read(map([
            ("outbound", string("127.0.0.1:0")),
            ("services", values([string("portal"), string("identity.police")])),
            ("inbound", values([port("0.0.0.0:15006", number(8080.0), "grpc")])),
        ]));
        let node = node.expect("all is right");
        assert_eq!(node.outbound.to_string(), "127.0.0.1:0");
        let services = node.services.expect("named");
        let services: Vec<String> = services.iter().map(ToString::to_string).collect();
        let expect = ["portal.citizen.svc.cluster.local", "identity.police.svc.cluster.local"];
        assert_eq!(services, expect);
        let (listen, inbound) = node.inbound.first_key_value().expect("one");
        assert_eq!(
            (listen.to_string().as_str(), inbound.app.get()),
            ("0.0.0.0:15006", 8080)
        );
        assert_eq!(inbound.protocol, InboundProtocol::Grpc);
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_place() {
        let right = || port("0.0.0.0:15006", number(8080.0), "http");
        for (settings, path) in [
            (string("portal"), ""),
            (map([("service", values([]))]), ".service"),
            (map([("services", string("portal"))]), ".services"),
            (map([("services", values([number(1.0)]))]), ".services[0]"),
            (map([("services", values([string("portal:80")]))]), ".services[0]"),
            (map([("services", values([string("10.0.0.1")]))]), ".services[0]"),
            (map([("outbound", string("15001"))]), ".outbound"),
            (map([("inbound", values([map([])]))]), ".inbound[0]"),
            (map([("inbound", values([right(), right()]))]), ".inbound[1]"),
            (
                map([("inbound", values([port("0.0.0.0:1", number(0.5), "http")]))]),
                ".inbound[0].app",
            ),
            (
                map([("inbound", values([port("0.0.0.0:1", number(80.0), "tcp")]))]),
                ".inbound[0].protocol",
            ),
        ] {
            assert_eq!(read(settings).expect_err(path).path, path);
        }
    }
}
