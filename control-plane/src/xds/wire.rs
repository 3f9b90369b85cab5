//! The two variants of the protocol as messages: requests are taken apart, answers put together.

use tonic::Status;
use weir_xds::ResourceType;
use weir_xds::envoy::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node, Resource as Enveloped,
};

use super::model::Told;
use super::stream::{Asked, Names, Variant};
use crate::store::Revision;

/// A variant's messages.
pub(crate) trait Wire: Send + 'static {
    /// What the client sends.
    type Request: Send + 'static;
    /// What it is sent.
    type Response: Send + 'static;
    /// Which variant.
    const VARIANT: Variant;

    /// Who sends a request, where it says so.
    fn node(request: &Self::Request) -> Option<&Node>;

    /// Takes a request apart, whole: what would be ignored is refused.
    ///
    /// # Errors
    /// The status that ends the stream.
    fn read(request: Self::Request) -> Result<(ResourceType, Asked), Status>;

    /// An answer; `revision` is what the store held when it was made.
    fn response(told: Told, revision: Revision) -> Self::Response;
}

/// Incremental.
#[derive(Debug)]
pub(crate) enum Delta {}

/// State of the world.
#[derive(Debug)]
pub(crate) enum World {}

impl Wire for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn node(request: &DeltaDiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    fn read(request: DeltaDiscoveryRequest) -> Result<(ResourceType, Asked), Status> {
        let DeltaDiscoveryRequest {
            node: _,
            type_url,
            resource_names_subscribe,
            resource_names_unsubscribe,
            resource_locators_subscribe,
            resource_locators_unsubscribe,
            initial_resource_versions,
            response_nonce,
            error_detail,
        } = request;
        no_locators(resource_locators_subscribe.is_empty() && resource_locators_unsubscribe.is_empty())?;
        short_enough(&resource_names_subscribe)?;
        let asked = Asked {
            names: Names::Delta {
                subscribe: resource_names_subscribe,
                unsubscribe: resource_names_unsubscribe,
                initial_versions: initial_resource_versions.into_iter().collect(),
            },
            response_nonce,
            error: error_detail.map(|status| shortened(status.message)),
        };
        Ok((known(&type_url)?, asked))
    }

    fn response(told: Told, revision: Revision) -> DeltaDiscoveryResponse {
        let mut response = DeltaDiscoveryResponse {
            system_version_info: revision.to_string(),
            type_url: told.of.url().to_owned(),
            nonce: told.nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        };
        for item in told.items {
            match item.resource {
                Some((message, version)) => response.resources.push(Enveloped {
                    name: item.name,
                    version: version.to_string(),
                    resource: Some(message),
                    ..Enveloped::default()
                }),
                None => response.removed_resources.push(item.name),
            }
        }
        response
    }
}

impl Wire for World {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const VARIANT: Variant = Variant::StateOfTheWorld;

    fn node(request: &DiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    fn read(request: DiscoveryRequest) -> Result<(ResourceType, Asked), Status> {
        let DiscoveryRequest {
            // What the client has from before: it is sent everything anew, so that nothing depends on it.
            version_info: _,
            node: _,
            resource_names,
            resource_locators,
            type_url,
            response_nonce,
            error_detail,
        } = request;
        no_locators(resource_locators.is_empty())?;
        short_enough(&resource_names)?;
        let asked = Asked {
            names: Names::All(resource_names),
            response_nonce,
            error: error_detail.map(|status| shortened(status.message)),
        };
        Ok((known(&type_url)?, asked))
    }

    fn response(told: Told, revision: Revision) -> DiscoveryResponse {
        // What is gone of listeners and clusters is not listed; of other types it is not told at all.
        let messages = told.items.into_iter().filter_map(|item| item.resource);
        DiscoveryResponse {
            version_info: revision.to_string(),
            resources: messages.map(|(message, _)| message).collect(),
            type_url: told.of.url().to_owned(),
            nonce: told.nonce.to_string(),
            ..DiscoveryResponse::default()
        }
    }
}

fn known(type_url: &str) -> Result<ResourceType, Status> {
    ResourceType::from_url(type_url)
        .ok_or_else(|| Status::invalid_argument(format!("type_url {type_url:?} is none that is served here")))
}

fn no_locators(none: bool) -> Result<(), Status> {
    if none {
        return Ok(());
    }
    Err(Status::invalid_argument(
        "resource locators are not supported: subscribe by names",
    ))
}

fn short_enough(names: &[String]) -> Result<(), Status> {
    let Some(name) = names.iter().find(|name| name.len() > NAME_BYTES_MAX) else {
        return Ok(());
    };
    let start: String = name.chars().take(64).collect();
    Err(Status::invalid_argument(format!(
        "the name {start:?}… is longer than {NAME_BYTES_MAX} bytes"
    )))
}

fn shortened(mut reason: String) -> String {
    if reason.is_empty() {
        return "no reason given".to_owned();
    }
    if reason.len() > REASON_BYTES_MAX {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        reason.push('…');
    }
    reason
}

/// The longest name there can be has less: four labels, a suffix, a port.
const NAME_BYTES_MAX: usize = 512;
/// Of a rejection's text, as it is kept and shown.
const REASON_BYTES_MAX: usize = 2_048;
