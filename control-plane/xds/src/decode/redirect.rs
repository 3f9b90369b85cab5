//! Redirects.

use std::num::NonZeroU16;

use envoy_types::pb::envoy::config::route::v3::RedirectAction;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use http::StatusCode;
use weir_policy::model;
use weir_policy::model::{PathMatch, PathRewrite, Scheme};

use super::at::{At, Fault, take};
use super::hosts;
use super::matches::path_text;
use super::rewrite::{joined_prefix, new_prefix, substitution};
use crate::rejection::Problem;

pub(super) fn redirect(at: &At<'_>, path: &PathMatch, wire: RedirectAction) -> Result<model::Redirect, Fault> {
    take!(at, wire, RedirectAction {
        host_redirect, port_redirect, response_code, scheme_rewrite_specifier, path_rewrite_specifier;
        strip_query
    });
    let host = match host_redirect.as_str() {
        "" => None,
        host => {
            hosts::literal(&at.field("host_redirect"), host)?;
            Some(host_redirect)
        }
    };
    let port = u16::try_from(port_redirect).map_err(|_| {
        let allowed = "1 to 65535";
        at.field("port_redirect")
            .fault(port_redirect, Problem::OutOfRange { allowed })
    })?;
    let status = match at.field("response_code").known(response_code)? {
        RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
        RedirectResponseCode::Found => StatusCode::FOUND,
        RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
        RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
        RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
    };
    Ok(model::Redirect {
        scheme: scheme(at, scheme_rewrite_specifier)?,
        host,
        port: NonZeroU16::new(port),
        path: redirected_path(at, path, path_rewrite_specifier)?,
        status,
    })
}

fn scheme(at: &At<'_>, specifier: Option<SchemeRewriteSpecifier>) -> Result<Option<Scheme>, Fault> {
    match specifier {
        None => Ok(None),
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Ok(Some(Scheme::Https)),
        Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => {
            Err(at.field("https_redirect").fault("false", Problem::WithoutEffect))
        }
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => match scheme.as_str() {
            "http" => Ok(Some(Scheme::Http)),
            "https" => Ok(Some(Scheme::Https)),
            other => {
                let expected = "http or https";
                let held = format_args!("{other:?}");
                Err(at
                    .field("scheme_redirect")
                    .fault(held, Problem::Unsupported { expected }))
            }
        },
    }
}

fn redirected_path(
    at: &At<'_>,
    path: &PathMatch,
    specifier: Option<PathRewriteSpecifier>,
) -> Result<Option<PathRewrite>, Fault> {
    match specifier {
        None => Ok(None),
        Some(PathRewriteSpecifier::PathRedirect(whole)) => {
            path_text(&at.field("path_redirect"), &whole)?;
            Ok(Some(PathRewrite::Full(whole)))
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            new_prefix(&at.field("prefix_rewrite"), path, prefix).map(Some)
        }
        Some(PathRewriteSpecifier::RegexRewrite(wire)) => {
            let at = at.field("regex_rewrite");
            let (pattern, substitution) = substitution(&at, wire)?;
            joined_prefix(&at, path, pattern, substitution).map(Some)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => Err(at.field("path_rewrite").fault("", Problem::WithoutEffect)),
    }
}
