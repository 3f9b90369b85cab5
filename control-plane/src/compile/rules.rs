//! What the rules of HTTPRoute and GRPCRoute have in common: names, filters, backends.

use http::{HeaderName, HeaderValue, StatusCode};
use weir_api::FieldError;
use weir_api::http_route::{
    BackendRef, HeaderField, HeaderMatch, HeaderModifier, HttpRouteFilter, PathModifier, RETRY_ATTEMPTS, RETRY_BACKOFF,
    RedirectScheme, RequestMirror, RequestRedirect, Retry, RouteTimeouts, ValueMatch,
};
use weir_api::route_policy::{RetryBackoff, RetryMethods, RetryOn, RouteFault, RoutePolicySpec, RouteRetry};
use weir_policy::context::Priority;
use weir_policy::model;

use super::cors::cors;
use super::index::Of;
use super::references::References;

/// Where a rule stands.
pub(super) struct Place {
    /// Its path in the resource: `spec.rules[0]`.
    pub(super) path: String,
    /// What the names of its routes begin with: `HTTPRoute/citizen/portal#rules[0]`, and with a rule that has a name
    /// `HTTPRoute/citizen/portal#rules[0:search]`.
    name: String,
}

impl Place {
    pub(super) fn new(references: &References<'_>, number: usize, name: Option<&str>) -> Place {
        let name = name.map(|name| format!(":{name}")).unwrap_or_default();
        Place {
            path: format!("spec.rules[{number}]"),
            name: format!("{}#rules[{number}{name}]", references.key()),
        }
    }

    /// The name of the rule.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The name of the route of one of its matches.
    pub(super) fn route_name(&self, of_match: usize) -> String {
        format!("{}.matches[{of_match}]", self.name)
    }
}

/// A rule without its matches.
pub(super) struct RuleParts<'a> {
    pub(super) filters: &'a [HttpRouteFilter],
    pub(super) backends: &'a [BackendRef],
    pub(super) timeouts: Option<RouteTimeouts>,
    pub(super) retry: Option<&'a Retry>,
    /// The policy that holds for it.
    pub(super) policy: Option<&'a Of<'a, RoutePolicySpec>>,
    /// What the limit of its requests is called.
    pub(super) limit: String,
}

/// What a rule does, whichever of its matches takes a request.
pub(super) struct Done {
    request_headers: model::HeaderChanges,
    response_headers: model::HeaderChanges,
    cors: Option<model::Cors>,
    rate_limit: Option<model::RateLimit>,
    fault: Option<model::Fault>,
    priority: Option<Priority>,
    policy: Option<model::HeldPolicy>,
    action: model::Action,
}

impl Done {
    /// No more than this.
    pub(super) fn only(action: model::Action) -> Done {
        Done {
            request_headers: model::HeaderChanges::default(),
            response_headers: model::HeaderChanges::default(),
            cors: None,
            rate_limit: None,
            fault: None,
            priority: None,
            policy: None,
            action,
        }
    }

    /// With what a policy says, in place of what the rule says itself. `references`: the policy's. `limit`: what the
    /// limit of its requests is called.
    pub(super) fn under(
        mut self,
        policy: &RoutePolicySpec,
        references: &References<'_>,
        limit: &str,
    ) -> Result<Done, FieldError> {
        let RoutePolicySpec {
            target_refs: _,
            retry,
            rate_limit,
            fault,
            priority,
            mirror: mirrors,
        } = policy;
        if let model::Action::Forward(forward) = &mut self.action {
            if let Some(over) = retry {
                forward.timeouts.backend_request = over.per_try_timeout.or(forward.timeouts.backend_request);
                forward.retry = overridden_retry(forward.retry.take(), over)?;
            }
            if let Some(mirrors) = mirrors {
                forward.mirrors = mirrors.iter().map(|one| mirror(references, one)).collect();
                for backend in &mut forward.backends {
                    backend.filters.mirrors.clear();
                }
            }
        }
        self.rate_limit = rate_limit.map(|given| model::RateLimit {
            name: limit.to_owned(),
            requests: given.requests,
            per: given.per,
            burst: given.burst.unwrap_or(given.requests),
        });
        self.fault = fault.as_ref().map(injected).transpose()?;
        self.priority = priority.and_then(Priority::from_level);
        self.policy = Some(model::HeldPolicy {
            name: references.key().to_string(),
            fields: policy.given().map(str::to_owned).collect(),
        });
        Ok(self)
    }

    pub(super) fn route(&self, name: String, matches: model::RouteMatch) -> model::Route {
        model::Route {
            name,
            matches,
            request_headers: self.request_headers.clone(),
            response_headers: self.response_headers.clone(),
            cors: self.cors.clone(),
            rate_limit: self.rate_limit.clone(),
            fault: self.fault,
            priority: self.priority,
            policy: self.policy.clone(),
            action: self.action.clone(),
        }
    }
}

pub(super) fn done(references: &References<'_>, at: &Place, rule: &RuleParts<'_>) -> Result<Done, FieldError> {
    let path = &at.path;
    let mut filters = filters(references, path, rule.filters)?;
    let mut backends = Vec::with_capacity(rule.backends.len());
    for (at, backend) in rule.backends.iter().enumerate() {
        let path = format!("{path}.backendRefs[{at}]");
        backends.push(weighted_backend(references, &path, backend)?);
    }
    rule_before_backend(&mut filters, &mut backends);
    let timeouts = rule.timeouts.unwrap_or_default();
    let action = match filters.redirect {
        Some(redirect) => model::Action::Redirect(redirect),
        None => model::Action::Forward(model::Forward {
            backends,
            mirrors: filters.mirrors,
            rewrite: filters.rewrite,
            timeouts: model::Timeouts {
                request: timeouts.request,
                backend_request: timeouts.backend_request,
            },
            retry: rule.retry.map(|retry| retry_policy(path, retry)).transpose()?,
        }),
    };
    let own = Done {
        request_headers: filters.request,
        response_headers: filters.response,
        cors: filters.cors,
        ..Done::only(action)
    };
    match rule.policy {
        Some(policy) => own.under(policy.spec, &references.of_another(policy.object), &rule.limit),
        None => Ok(own),
    }
}

pub(super) fn header_matches(path: &str, given: &[HeaderMatch]) -> Result<Vec<model::HeaderMatch>, FieldError> {
    let given = given.iter().enumerate();
    let read = given.map(|(at, header)| {
        Ok(model::HeaderMatch {
            name: header_name(&format!("{path}.headers[{at}].name"), &header.name)?,
            value: value_match(&header.value),
        })
    });
    read.collect()
}

pub(super) fn value_match(given: &ValueMatch) -> model::ValueMatch {
    match given {
        ValueMatch::Exact(value) => model::ValueMatch::Exact(value.clone()),
        ValueMatch::RegularExpression(pattern) => model::ValueMatch::Regex(pattern.clone()),
    }
}

pub(super) fn wrong(path: String, held: &str, problem: &str) -> FieldError {
    FieldError::new(path, &held.into(), problem, "")
}

#[derive(Default)]
struct Filters {
    request: model::HeaderChanges,
    response: model::HeaderChanges,
    redirect: Option<model::Redirect>,
    rewrite: model::Rewrite,
    mirrors: Vec<model::Mirror>,
    cors: Option<model::Cors>,
}

fn weighted_backend(
    references: &References<'_>,
    path: &str,
    backend: &BackendRef,
) -> Result<model::WeightedBackend, FieldError> {
    let filters = filters(references, path, &backend.filters)?;
    Ok(model::WeightedBackend {
        cluster: references.cluster(backend.reference()),
        weight: backend.weight,
        filters: model::BackendFilters {
            request_headers: filters.request,
            response_headers: filters.response,
            rewrite: filters.rewrite,
            redirect: filters.redirect,
            mirrors: filters.mirrors,
            cors: filters.cors,
        },
    })
}

/// A rule's changes to headers come before those of its backends. The wire has it the other way round, as Envoy does
/// it: where a backend has changes of its own, those of the rule become part of each backend's.
fn rule_before_backend(rule: &mut Filters, backends: &mut [model::WeightedBackend]) {
    if backends
        .iter()
        .any(|backend| !backend.filters.request_headers.is_empty())
    {
        for model::WeightedBackend { filters, .. } in backends.iter_mut() {
            filters.request_headers = rule.request.then(&filters.request_headers);
        }
        rule.request = model::HeaderChanges::default();
    }
    if backends
        .iter()
        .any(|backend| !backend.filters.response_headers.is_empty())
    {
        for model::WeightedBackend { filters, .. } in backends {
            filters.response_headers = rule.response.then(&filters.response_headers);
        }
        rule.response = model::HeaderChanges::default();
    }
}

fn filters(references: &References<'_>, path: &str, given: &[HttpRouteFilter]) -> Result<Filters, FieldError> {
    let mut filters = Filters::default();
    for (at, filter) in given.iter().enumerate() {
        let path = format!("{path}.filters[{at}]");
        match filter {
            HttpRouteFilter::RequestHeaderModifier(modifier) => {
                filters.request = header_changes(&format!("{path}.requestHeaderModifier"), modifier)?;
            }
            HttpRouteFilter::ResponseHeaderModifier(modifier) => {
                filters.response = header_changes(&format!("{path}.responseHeaderModifier"), modifier)?;
            }
            HttpRouteFilter::RequestRedirect(given) => {
                filters.redirect = Some(redirect(&format!("{path}.requestRedirect"), given)?);
            }
            HttpRouteFilter::UrlRewrite(rewrite) => {
                filters.rewrite = model::Rewrite {
                    host: rewrite.hostname.clone(),
                    path: rewrite.path.as_ref().map(path_rewrite),
                };
            }
            HttpRouteFilter::RequestMirror(given) => filters.mirrors.push(mirror(references, given)),
            HttpRouteFilter::Cors(given) => filters.cors = Some(cors(&format!("{path}.cors"), given)?),
        }
    }
    Ok(filters)
}

fn mirror(references: &References<'_>, given: &RequestMirror) -> model::Mirror {
    model::Mirror {
        cluster: references.cluster(given.backend_ref.reference()),
        parts_per_million: given.parts_per_million(),
    }
}

fn header_changes(path: &str, modifier: &HeaderModifier) -> Result<model::HeaderChanges, FieldError> {
    let fields = |list: &str, fields: &[HeaderField]| {
        let fields = fields.iter().enumerate();
        let read = fields.map(|(at, field)| {
            let name = header_name(&format!("{path}.{list}[{at}].name"), &field.name)?;
            let value = HeaderValue::from_str(&field.value);
            let value = value.map_err(|_| wrong(format!("{path}.{list}[{at}].value"), &field.value, "is no value"))?;
            Ok((name, value))
        });
        read.collect::<Result<Vec<_>, FieldError>>()
    };
    let remove = modifier.remove.iter().enumerate();
    let remove = remove.map(|(at, name)| header_name(&format!("{path}.remove[{at}]"), name));
    Ok(model::HeaderChanges {
        remove: remove.collect::<Result<_, _>>()?,
        set: fields("set", &modifier.set)?,
        add: fields("add", &modifier.add)?,
    })
}

fn redirect(path: &str, given: &RequestRedirect) -> Result<model::Redirect, FieldError> {
    Ok(model::Redirect {
        scheme: given.scheme.map(|scheme| match scheme {
            RedirectScheme::Http => model::Scheme::Http,
            RedirectScheme::Https => model::Scheme::Https,
        }),
        host: given.hostname.clone(),
        port: given.port,
        path: given.path.as_ref().map(path_rewrite),
        status: status(&format!("{path}.statusCode"), given.status_code)?,
    })
}

fn path_rewrite(given: &PathModifier) -> model::PathRewrite {
    match given {
        PathModifier::ReplaceFullPath(path) => model::PathRewrite::Full(path.clone()),
        PathModifier::ReplacePrefixMatch(prefix) => model::PathRewrite::Prefix(prefix.clone()),
    }
}

fn retry_policy(path: &str, retry: &Retry) -> Result<model::RetryPolicy, FieldError> {
    let codes = retry.codes.iter().enumerate();
    let codes = codes.map(|(at, code)| status(&format!("{path}.retry.codes[{at}]"), *code));
    Ok(model::RetryPolicy {
        attempts: retry.attempts.unwrap_or(RETRY_ATTEMPTS),
        on: model::RetryOn::no_answer(),
        codes: codes.collect::<Result<_, _>>()?,
        backoff: model::Backoff::tenfold(retry.backoff.unwrap_or(RETRY_BACKOFF)),
        methods: model::RetryMethods::Idempotent,
    })
}

/// What a policy says of sending again, field by field in place of what the rule says. `None`: on nothing.
fn overridden_retry(
    own: Option<model::RetryPolicy>,
    over: &RouteRetry,
) -> Result<Option<model::RetryPolicy>, FieldError> {
    let own = own.unwrap_or_else(|| model::RetryPolicy {
        attempts: RETRY_ATTEMPTS,
        on: model::RetryOn::no_answer(),
        codes: Vec::new(),
        backoff: model::Backoff::tenfold(RETRY_BACKOFF),
        methods: model::RetryMethods::Idempotent,
    });
    let codes = match &over.codes {
        Some(codes) => {
            let codes = codes.iter().enumerate();
            let codes = codes.map(|(at, code)| status(&format!("spec.retry.codes[{at}]"), *code));
            codes.collect::<Result<_, _>>()?
        }
        None => own.codes,
    };
    let backoff = over.backoff.map(|RetryBackoff { base, max }| {
        let tenfold = model::Backoff::tenfold(base);
        max.map_or(tenfold, |max| model::Backoff { base, max })
    });
    let retry = model::RetryPolicy {
        attempts: over.attempts.unwrap_or(own.attempts),
        on: match &over.on {
            Some(words) => words.iter().map(|word| retry_on(*word)).collect(),
            None => own.on,
        },
        codes,
        backoff: backoff.unwrap_or(own.backoff),
        methods: over.methods.map_or(own.methods, |methods| match methods {
            RetryMethods::Idempotent => model::RetryMethods::Idempotent,
            RetryMethods::Any => model::RetryMethods::Any,
        }),
    };
    Ok((!retry.on.is_empty() || !retry.codes.is_empty()).then_some(retry))
}

fn injected(fault: &RouteFault) -> Result<model::Fault, FieldError> {
    let parts_per_million = |percent: u8| u32::from(percent) * 10_000;
    let abort = fault.abort.map(|abort| {
        let answer = match (abort.status, abort.grpc_status) {
            (Some(code), _) => model::AbortAnswer::Http(status("spec.fault.abort.status", code)?),
            (None, Some(code)) => model::AbortAnswer::Grpc(code.into()),
            (None, None) => {
                return Err(FieldError::missing(
                    "spec.fault.abort.status",
                    "status or grpcStatus is right",
                ));
            }
        };
        Ok(model::FaultAbort {
            parts_per_million: parts_per_million(abort.percent),
            answer,
        })
    });
    Ok(model::Fault {
        delay: fault.delay.map(|delay| model::FaultDelay {
            parts_per_million: parts_per_million(delay.percent),
            duration: delay.duration,
        }),
        abort: abort.transpose()?,
    })
}

fn retry_on(word: RetryOn) -> model::RetryOn {
    match word {
        RetryOn::ServerError => model::RetryOn::ServerError,
        RetryOn::GatewayError => model::RetryOn::GatewayError,
        RetryOn::Reset => model::RetryOn::Reset,
        RetryOn::ConnectFailure => model::RetryOn::ConnectFailure,
        RetryOn::RefusedStream => model::RetryOn::RefusedStream,
        RetryOn::Cancelled => model::RetryOn::Cancelled,
        RetryOn::DeadlineExceeded => model::RetryOn::DeadlineExceeded,
        RetryOn::Internal => model::RetryOn::Internal,
        RetryOn::ResourceExhausted => model::RetryOn::ResourceExhausted,
        RetryOn::Unavailable => model::RetryOn::Unavailable,
    }
}

pub(super) fn header_name(path: &str, name: &str) -> Result<HeaderName, FieldError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(path.to_owned(), name, "is no field name"))
}

fn status(path: &str, code: u16) -> Result<StatusCode, FieldError> {
    StatusCode::from_u16(code).map_err(|_| FieldError::new(path, &code.into(), "is no status", ""))
}
