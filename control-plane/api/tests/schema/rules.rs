//! What the reader refuses and a schema can't: each such rule is told in the description, in a paragraph that begins
//! with `Rule:`.

use serde_json::Value;
use weir_api::{FieldError, Kind, schema};

use crate::walk::resolved;

/// The reader's problem, and words of the rule that has to stand where it occurs, or around that.
const RULES: &[(&str, &str)] = &[
    ("is there already", "once"),
    ("is there already", "twice"),
    ("is no name", "its name is a DNS label"),
    ("ends in a number", "its last part is no number"),
    ("is not the mesh's", "named `mesh`"),
    ("is in no namespace", "a kind of the whole cluster has none"),
    ("stands under a key that is no label's", "keys"),
    ("stands under a key that is no annotation's", "keys"),
    ("has the number of an earlier port", "numbers and names occur once"),
    ("has the name of an earlier port", "once"),
    ("holds a port without a name", "each of several ports has a name"),
    ("is not of the slice's addressType", "`addressType`"),
    ("is no address of an endpoint", "can be connected to"),
    ("names an app port again", "each `appPort` occurs once"),
    (
        "names a Service that an earlier reference names",
        "name different ports",
    ),
    ("has the name of an earlier rule", "names occur once"),
    ("matches in all", "at most 128 matches"),
    ("stands beside others", "`*` stands alone"),
    ("the CORS filter's to say", "no ResponseHeaderModifier names"),
    ("stands beside a RequestRedirect", "with a RequestRedirect it has no"),
    ("replaces a prefix that is not one", "exactly one match"),
    ("redirects to the request's own URL", "at least one of"),
    ("changes nothing", "is given"),
    ("takes every call", "`service` or `method` is given"),
    ("is no such name", "a name as in a .proto file"),
    ("is a condition on the field", "none is Content-Type"),
    ("is shorter than baseEjectionTime", "not shorter than baseEjectionTime"),
    ("is shorter than base", "not shorter than base"),
    ("holds no fault", "`delay` or `abort` is given"),
    ("stands beside status", "exactly one of"),
    ("answers with nothing", "exactly one of"),
    ("is not the group of", "the group is empty for a Service"),
    ("is not the group of", "the group is weir.dev for a RoutePolicy"),
    ("would be without effect for a Service", "a Service has none"),
    (
        "with or without a sectionName",
        "with `sectionName` is not there without",
    ),
    ("stands beside caCertificateRefs", "exactly one of"),
    ("is missing", "exactly one of"),
    ("stands under a name that is none", "names are of"),
    ("which data holds as well", "only once"),
    ("would be without effect", "it is there exactly for type Http"),
    ("would be without effect", "it is there for type Grpc only"),
    ("is missing", "it is there exactly for type Http"),
    ("is missing", "`port` is given"),
    ("stands beside percent", "only one of"),
    ("is more than the whole", "at most `denominator`"),
    ("is longer than the whole request may take", "is at most `request`"),
    ("can't be changed", "can't be changed"),
    ("is no host name", "IP address"),
    ("asks for nothing", "is given"),
    ("holds no label", "there is at least one"),
    ("takes every port of every workload", "is given"),
    ("takes nothing that", "no earlier override takes all"),
    ("holds a private key", "holds no private key"),
    ("has more than two decimals", "at most two decimals"),
    ("is a name of the proxy's own", "the proxy's own"),
    ("is a credential", "none is Authorization"),
    ("holds '//'", "no empty segment"),
    ("holds a segment '.' or '..'", "no empty segment"),
    ("holds an escaped slash", "no escaped slash"),
];

/// Whether what the reader says is a rule that the description tells.
pub(crate) fn is_told(kind: Kind, error: &FieldError) -> bool {
    let told = rules_around(kind, &error.path);
    let is_told = |(problem, words): &(&str, &str)| {
        error.problem.contains(problem) && told.iter().any(|rule| rule.contains(words))
    };
    RULES.iter().any(is_told)
}

/// The rules of the value at a path, and of all that it is in.
fn rules_around(kind: Kind, path: &str) -> Vec<String> {
    let components = schema::components(kind.group());
    let mut told = Vec::new();
    let mut schema = schema::of(kind);
    told.extend(rules(schema));
    let steps = path.replace('[', ".[");
    for step in steps.split('.').filter(|step| !step.is_empty()) {
        let child = if step.starts_with('[') {
            &schema["items"]
        } else {
            &schema["properties"][step]
        };
        if child.is_null() {
            break;
        }
        told.extend(rules(child));
        schema = resolved(components, child);
        told.extend(rules(schema));
    }
    told
}

/// The rules in a schema's description.
pub(crate) fn rules(schema: &Value) -> Vec<String> {
    let description = schema["description"].as_str().unwrap_or_default();
    let paragraphs = description.split("\n\n");
    paragraphs
        .filter_map(|text| text.strip_prefix("Rule: "))
        .map(str::to_owned)
        .collect()
}
