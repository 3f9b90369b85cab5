use std::num::NonZeroU16;

use weir_api::namespace::NamespaceSpec;
use weir_api::service::{ServicePort, ServiceSpec, TransportProtocol};
use weir_api::{Key, Kind, Object, Spec};

pub(crate) fn key(kind: Kind, namespace: &str, name: &str) -> Key {
    Key {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

pub(crate) fn namespace(name: &str) -> Object {
    Object::new("", name, Spec::Namespace(NamespaceSpec::default()))
}

pub(crate) fn service(namespace: &str, name: &str, port: u16) -> Object {
    let port = ServicePort {
        name: None,
        protocol: TransportProtocol::Tcp,
        port: NonZeroU16::new(port).expect("a port"),
        target_port: None,
        app_protocol: None,
    };
    let spec = ServiceSpec {
        ports: vec![port],
        ..ServiceSpec::default()
    };
    Object::new(namespace, name, Spec::Service(spec))
}
