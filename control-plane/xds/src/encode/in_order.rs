//! Route configurations with the maps of routes in the order of their keys, so that equal values give equal bytes: a
//! map of the standard library is written in an order that chance gives it.
//!
//! What follows in bytes is the same message put together from parts, each a message with some fields of the whole
//! (protobuf, "Encoding": fields come in any order, and repeated ones in the order of their elements).

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

/// A route configuration.
pub(super) fn pack_routes(message: RouteConfiguration) -> Any {
    Any {
        type_url: RouteConfiguration::type_url(),
        value: configuration(message),
    }
}

/// A connection manager, which may hold a route configuration.
pub(super) fn pack_manager(mut message: HttpConnectionManager) -> Any {
    let inline = match message.route_specifier.take() {
        Some(RouteSpecifier::RouteConfig(inline)) => Some(configuration(inline)),
        other => {
            message.route_specifier = other;
            None
        }
    };
    Any {
        type_url: HttpConnectionManager::type_url(),
        value: together(&message, &PartOfManager { route_config: inline }),
    }
}

fn configuration(mut message: RouteConfiguration) -> Vec<u8> {
    let hosts = std::mem::take(&mut message.virtual_hosts).into_iter();
    let part = PartOfConfiguration {
        virtual_hosts: hosts.map(virtual_host).collect(),
    };
    together(&message, &part)
}

fn virtual_host(mut message: VirtualHost) -> Vec<u8> {
    let routes = std::mem::take(&mut message.routes).into_iter();
    let part = PartOfHost {
        routes: routes.map(route).collect(),
    };
    together(&message, &part)
}

fn route(mut message: Route) -> Vec<u8> {
    let configs = std::mem::take(&mut message.typed_per_filter_config).into_iter();
    let part = PartOfRoute {
        typed_per_filter_config: configs.collect(),
    };
    together(&message, &part)
}

fn together(message: &impl Message, part: &impl Message) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    bytes.extend(part.encode_to_vec());
    bytes
}

// On the wire a message in a field is its bytes.

#[derive(Message)]
struct PartOfManager {
    #[prost(bytes = "vec", optional, tag = "4")]
    route_config: Option<Vec<u8>>,
}

#[derive(Message)]
struct PartOfConfiguration {
    #[prost(bytes = "vec", repeated, tag = "2")]
    virtual_hosts: Vec<Vec<u8>>,
}

#[derive(Message)]
struct PartOfHost {
    #[prost(bytes = "vec", repeated, tag = "3")]
    routes: Vec<Vec<u8>>,
}

#[derive(Message)]
struct PartOfRoute {
    #[prost(btree_map = "string, message", tag = "13")]
    typed_per_filter_config: BTreeMap<String, Any>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// With a map that was made anew, and so may have another order.
    fn made() -> RouteConfiguration {
        let config = |value: u8| Any {
            type_url: "x".to_owned(),
            value: vec![value],
        };
        let route = |name: &str| Route {
            name: name.to_owned(),
            typed_per_filter_config: (0..9).map(|n| (n.to_string(), config(n))).collect::<HashMap<_, _>>(),
            ..Route::default()
        };
        let host = |name: &str| VirtualHost {
            name: name.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route("a"), Route::default(), route("b")],
            ..VirtualHost::default()
        };
        RouteConfiguration {
            name: "routes".to_owned(),
            virtual_hosts: vec![host("a"), VirtualHost::default(), host("b")],
            ..RouteConfiguration::default()
        }
    }

    #[track_caller]
    fn check<M>(made: impl Fn() -> M, pack: fn(M) -> Any)
    where
        M: Message + Name + Default + PartialEq + std::fmt::Debug,
    {
        let any = pack(made());
        assert_eq!(any.type_url, M::type_url());
        assert_eq!(M::decode(any.value.as_slice()), Ok(made()), "it is the message");
        for _ in 0..20 {
            assert_eq!(pack(made()), any, "equal values give equal bytes");
        }
    }

    #[test]
    fn equal_values_give_equal_bytes_and_are_what_they_were() {
        check(made, pack_routes);
        check(RouteConfiguration::default, pack_routes);
        let manager = |routes: fn() -> Option<RouteSpecifier>| {
            move || HttpConnectionManager {
                stat_prefix: "x".to_owned(),
                route_specifier: routes(),
                ..HttpConnectionManager::default()
            }
        };
        check(manager(|| Some(RouteSpecifier::RouteConfig(made()))), pack_manager);
        let empty = || Some(RouteSpecifier::RouteConfig(RouteConfiguration::default()));
        check(manager(empty), pack_manager);
        check(manager(|| Some(super::super::rds("r".to_owned()))), pack_manager);
    }
}
