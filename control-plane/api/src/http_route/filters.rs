//! Reading filters: of a rule, and of one of its backends.

use super::read::{TWIN, TWIN_REMEDY, read_header_name, read_path, read_precise_hostname};
use super::*;
use crate::decode::{Errors, Node, port};
use crate::names;

/// Which kind of route filters are of.
#[derive(Clone, Copy)]
pub(crate) enum FilterOf {
    /// It has all of them.
    HttpRoute,
    /// It has those that change headers, and mirrors.
    GrpcRoute,
}

/// Reads a list of filters.
pub(crate) fn read_filters(node: &Node<'_>, of: FilterOf, errors: &mut Errors) -> Option<Vec<HttpRouteFilter>> {
    let filters = node.list(errors, FILTERS_MAX, |node, errors| read_filter(node, of, errors))?;
    node.refuse_twins(
        errors,
        &filters,
        // Several may mirror, each to its own backend.
        |a, b| a.type_name() == b.type_name() && !matches!(a, HttpRouteFilter::RequestMirror(_)),
        TWIN,
        TWIN_REMEDY,
    );
    let redirect = filters
        .iter()
        .any(|filter| matches!(filter, HttpRouteFilter::RequestRedirect(_)));
    let rewrite = filters
        .iter()
        .position(|filter| matches!(filter, HttpRouteFilter::UrlRewrite(_)));
    if let (true, Some(rewrite)) = (redirect, rewrite) {
        node.refuse_item(
            errors,
            &filters,
            rewrite,
            "stands beside a RequestRedirect",
            "leave one of the two out",
        );
    }
    Some(filters)
}

/// The types of filter that are supported.
#[derive(Clone, Copy)]
enum FilterType {
    RequestHeader,
    ResponseHeader,
    Redirect,
    Rewrite,
    Mirror,
    Cors,
}

fn read_filter(node: &Node<'_>, of: FilterOf, errors: &mut Errors) -> Option<HttpRouteFilter> {
    let mut fields = node.fields(errors)?;
    let filter_type = fields.required("type", errors, |node, errors| read_filter_type(node, of, errors));
    let Some(filter_type) = filter_type else {
        // Its other fields belong to a type that is wrong or missing: one error says enough.
        return None;
    };
    let filter = match filter_type {
        FilterType::RequestHeader => fields
            .required("requestHeaderModifier", errors, read_header_modifier)
            .map(HttpRouteFilter::RequestHeaderModifier),
        FilterType::ResponseHeader => fields
            .required("responseHeaderModifier", errors, read_header_modifier)
            .map(HttpRouteFilter::ResponseHeaderModifier),
        FilterType::Redirect => fields
            .required("requestRedirect", errors, read_redirect)
            .map(HttpRouteFilter::RequestRedirect),
        FilterType::Rewrite => fields
            .required("urlRewrite", errors, read_rewrite)
            .map(HttpRouteFilter::UrlRewrite),
        FilterType::Mirror => fields
            .required("requestMirror", errors, mirror::read)
            .map(HttpRouteFilter::RequestMirror),
        FilterType::Cors => fields.required("cors", errors, cors::read).map(HttpRouteFilter::Cors),
    };
    fields.finish(errors);
    filter
}

fn read_filter_type(node: &Node<'_>, of: FilterOf, errors: &mut Errors) -> Option<FilterType> {
    let supported = match of {
        FilterOf::HttpRoute => HTTP_FILTERS,
        FilterOf::GrpcRoute => GRPC_FILTERS,
    };
    match (node.text(errors)?, of) {
        ("RequestHeaderModifier", _) => return Some(FilterType::RequestHeader),
        ("ResponseHeaderModifier", _) => return Some(FilterType::ResponseHeader),
        ("RequestMirror", _) => return Some(FilterType::Mirror),
        ("RequestRedirect", FilterOf::HttpRoute) => return Some(FilterType::Redirect),
        ("URLRewrite", FilterOf::HttpRoute) => return Some(FilterType::Rewrite),
        ("CORS", FilterOf::HttpRoute) => return Some(FilterType::Cors),
        ("ExternalAuth", FilterOf::HttpRoute) | ("ExtensionRef", _) => {
            node.refuse(errors, "is not supported yet", format!("supported are {supported}"));
        }
        (_, FilterOf::HttpRoute) => node.refuse(errors, "is no type of filter", format!("supported are {supported}")),
        (_, FilterOf::GrpcRoute) => {
            node.refuse(
                errors,
                "is no type of a GRPCRoute's filter",
                format!("supported are {supported}"),
            );
        }
    }
    None
}

fn read_header_modifier(node: &Node<'_>, errors: &mut Errors) -> Option<HeaderModifier> {
    let mut fields = node.fields(errors)?;
    let mut given = |name, errors: &mut Errors| {
        fields.optional(name, errors, |node, errors| {
            let list = node.list(errors, CHANGES_MAX, read_header_field)?;
            node.refuse_twins(
                errors,
                &list,
                |a, b| a.name.eq_ignore_ascii_case(&b.name),
                TWIN,
                TWIN_REMEDY,
            );
            Some(list)
        })
    };
    let set = given("set", errors);
    let add = given("add", errors);
    let remove = fields.optional("remove", errors, |node, errors| {
        let list = node.list(errors, CHANGES_MAX, read_changeable_name)?;
        node.refuse_twins(
            errors,
            &list,
            |a: &String, b| a.eq_ignore_ascii_case(b),
            TWIN,
            TWIN_REMEDY,
        );
        Some(list)
    });
    fields.finish(errors);
    Some(HeaderModifier {
        set: set.unwrap_or_default(),
        add: add.unwrap_or_default(),
        remove: remove.unwrap_or_default(),
    })
}

fn read_header_field(node: &Node<'_>, errors: &mut Errors) -> Option<HeaderField> {
    let mut fields = node.fields(errors)?;
    let name = fields.required("name", errors, read_changeable_name);
    let value = fields.required("value", errors, |node, errors| {
        let remedy = "1 to 4096 visible ASCII characters, spaces and tabs are right, no space first or last";
        names::checked(node, errors, names::is_header_value, "is no value of a field", remedy)
    });
    fields.finish(errors);
    Some(HeaderField {
        name: name?,
        value: value?,
    })
}

fn read_changeable_name(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    let name = read_header_name(node, errors)?;
    let lower = name.to_ascii_lowercase();
    if lower == "host" {
        node.refuse(errors, "can't be changed as a field", "use a URLRewrite with hostname");
        return None;
    }
    if FRAMING.contains(&lower.as_str()) {
        let problem = "can't be changed: how messages are framed depends on it (RFC 9110 section 7.6.1)";
        node.refuse(errors, problem, "leave it out");
        return None;
    }
    if lower.starts_with("weir-") {
        node.refuse(errors, "can't be changed: it is the mesh's own", "leave it out");
        return None;
    }
    Some(name)
}

fn read_redirect(node: &Node<'_>, errors: &mut Errors) -> Option<RequestRedirect> {
    let mut fields = node.fields(errors)?;
    let scheme = fields.optional("scheme", errors, |node, errors| {
        node.choice(
            errors,
            &[("http", RedirectScheme::Http), ("https", RedirectScheme::Https)],
        )
    });
    let hostname = fields.optional("hostname", errors, read_precise_hostname);
    let path = fields.optional("path", errors, read_path_modifier);
    let port = fields.optional("port", errors, port);
    let status_code = fields.optional("statusCode", errors, |node, errors| {
        let code = node.value().as_u64().and_then(|code| u16::try_from(code).ok());
        let code = code.filter(|code| REDIRECT_CODES.contains(code));
        if code.is_none() {
            node.refuse(
                errors,
                "is no status of a redirect",
                "301, 302, 303, 307 or 308 is right",
            );
        }
        code
    });
    let changes = ["scheme", "hostname", "path", "port"]
        .into_iter()
        .any(|name| fields.get(name).is_some());
    fields.finish(errors);
    if !changes {
        node.refuse(
            errors,
            "redirects to the request's own URL",
            "give scheme, hostname, path or port",
        );
    }
    Some(RequestRedirect {
        scheme,
        hostname,
        path,
        port,
        status_code: status_code.unwrap_or_else(redirect_code),
    })
}

fn read_rewrite(node: &Node<'_>, errors: &mut Errors) -> Option<UrlRewrite> {
    let mut fields = node.fields(errors)?;
    let hostname = fields.optional("hostname", errors, read_precise_hostname);
    let path = fields.optional("path", errors, read_path_modifier);
    let changes = ["hostname", "path"].into_iter().any(|name| fields.get(name).is_some());
    fields.finish(errors);
    if !changes {
        node.refuse(errors, "changes nothing", "give hostname or path");
    }
    Some(UrlRewrite { hostname, path })
}

fn read_path_modifier(node: &Node<'_>, errors: &mut Errors) -> Option<PathModifier> {
    /// Which part of the path is replaced.
    #[derive(Clone, Copy)]
    enum Part {
        Full,
        Prefix,
    }
    let mut fields = node.fields(errors)?;
    let part = fields.required("type", errors, |node, errors| {
        node.choice(
            errors,
            &[("ReplaceFullPath", Part::Full), ("ReplacePrefixMatch", Part::Prefix)],
        )
    });
    let modifier = match part? {
        Part::Full => fields
            .required("replaceFullPath", errors, read_path)
            .map(PathModifier::ReplaceFullPath),
        Part::Prefix => {
            let empty = |node: &Node<'_>| node.value().as_str() == Some("");
            let read = |node: &Node<'_>, errors: &mut Errors| {
                if empty(node) {
                    Some(String::new())
                } else {
                    read_path(node, errors)
                }
            };
            fields
                .required("replacePrefixMatch", errors, read)
                .map(PathModifier::ReplacePrefixMatch)
        }
    };
    fields.finish(errors);
    modifier
}

const HTTP_FILTERS: &str =
    "RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite, RequestMirror and CORS";
const GRPC_FILTERS: &str = "RequestHeaderModifier, ResponseHeaderModifier and RequestMirror";

/// Connection-specific fields (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2), and the body's length.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

pub(super) const REDIRECT_CODES: [u16; 5] = [301, 302, 303, 307, 308];

/// The CRD's limits.
pub(crate) const FILTERS_MAX: usize = 16;
pub(super) const CHANGES_MAX: usize = 16;
