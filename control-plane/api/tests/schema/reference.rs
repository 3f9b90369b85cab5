//! docs/reference.md, made of the schemas and the examples.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;
use weir_api::{Access, Kind, Scope, duration, schema};

use crate::rules::rules;
use crate::walk::{Components, is_open, resolved};

/// The whole page. `example`: the text of a kind's example.
pub(crate) fn page(example: impl Fn(Kind) -> String) -> String {
    let mut page = String::from(HEAD);
    for &kind in Kind::ALL {
        let purpose = prose(description(schema::of(kind)));
        let first = sentence(&purpose);
        let (name, group) = (kind.kind(), kind.api_version());
        writeln!(page, "| [{name}](#{}) | `{group}` | {first} |", name.to_lowercase()).expect("to memory");
    }
    page.push_str(CONVENTIONS);
    page.push_str("\n## Every resource\n\nWhat stands in `metadata`, whatever the kind.\n\n");
    let components = schema::components("");
    let mut table = Table::new(components, REQUIRED);
    table.object("metadata", &components[&schema::meta_name("ObjectMeta")]);
    page.push_str(&table.text());
    for &kind in Kind::ALL {
        page.push_str(&section(kind, &example(kind)));
    }
    page.push_str(FORMS);
    for (form, pattern) in forms() {
        let pattern = pattern.replace('|', "\\|");
        // A backtick within code asks for two around it.
        let quote = if pattern.contains('`') { "``" } else { "`" };
        writeln!(page, "| {form} | {quote}{pattern}{quote} |").expect("to memory");
    }
    page
}

fn section(kind: Kind, example: &str) -> String {
    let component = schema::of(kind);
    let scope = match kind.scope() {
        Scope::Cluster => "of the whole mesh",
        Scope::Namespaced => "in a namespace",
    };
    let mut facts = vec![format!("`{}`, {scope}", kind.api_version())];
    if let [_, others @ ..] = kind.versions() {
        facts.extend(others.iter().map(|version| format!("also read as `{version}`")));
    }
    let names: Vec<String> = kind.short_names().iter().map(|name| format!("`{name}`")).collect();
    if !names.is_empty() {
        facts.push(format!("short: {}", names.join(", ")));
    }
    if kind.access() == Access::ReadOnly {
        facts.push("written by the control plane alone".to_owned());
    }
    let mut table = Table::new(schema::components(kind.group()), REQUIRED);
    table.resource(component);
    let mut section = format!(
        "\n## {kind}\n\n{}\n\n{}.\n\n```yaml\n{example}```\n\n{}",
        prose(description(component)),
        facts.join("; "),
        table.text(),
    );
    let status = resolved(table.components, &component["properties"]["status"]);
    if !is_open(status) {
        let mut table = Table::new(table.components, ALWAYS);
        table.object("status", status);
        write!(section, "\nWhat became of it:\n\n{}", table.text()).expect("to memory");
    }
    section
}

/// Whether a field has to be there.
enum Need {
    Required,
    Optional,
}

impl Need {
    fn of(object: &Value, name: &str) -> Need {
        let required = object["required"].as_array().into_iter().flatten();
        match required.into_iter().any(|needed| needed == name) {
            true => Need::Required,
            false => Need::Optional,
        }
    }
}

/// The fields of a kind, one in a row, and the rules that hold for them.
struct Table {
    components: &'static Components,
    /// What stands in the place of a default where a field has to be there.
    needed: &'static str,
    rows: String,
    rules: String,
    /// Where each type stands for the first time: later ones point there.
    seen: BTreeMap<*const Value, String>,
}

impl Table {
    fn new(components: &'static Components, needed: &'static str) -> Table {
        Table {
            components,
            needed,
            rows: String::new(),
            rules: String::new(),
            seen: BTreeMap::new(),
        }
    }

    fn text(&self) -> String {
        let rules = if self.rules.is_empty() {
            String::new()
        } else {
            format!("\nRules:\n\n{}", self.rules)
        };
        format!(
            "| field | holds | default | what it does |\n| --- | --- | --- | --- |\n{}{rules}",
            self.rows
        )
    }

    /// What is in a resource of a kind, but for what is the same for every kind.
    fn resource(&mut self, component: &'static Value) {
        for rule in rules(component) {
            writeln!(self.rules, "- {rule}").expect("to memory");
        }
        for (name, property) in component["properties"].as_object().into_iter().flatten() {
            match name.as_str() {
                "apiVersion" | "kind" | "metadata" | "status" => {}
                // What is said of the kind is said of its spec.
                "spec" => self.fields("spec", resolved(self.components, property)),
                _ => self.field(name, property, Need::of(component, name), ""),
            }
        }
    }

    /// A field, and what is in it. `only`: the variants that have it, if others have not.
    fn field(&mut self, place: &str, raw: &'static Value, need: Need, only: &str) {
        let target = resolved(self.components, raw);
        let own = description(raw);
        let text = if own.is_empty() { description(target) } else { own };
        let (text, told) = split_default(text);
        let default = match (need, raw.get("default").or_else(|| target.get("default"))) {
            (Need::Required, _) => self.needed.to_owned(),
            // Words say more than the JSON of what is large.
            (Need::Optional, Some(Value::Object(_) | Value::Array(_))) if !told.is_empty() => told,
            (Need::Optional, Some(default)) => default_text(default),
            (Need::Optional, None) => told,
        };
        let inner = if target["items"].is_object() {
            resolved(self.components, &target["items"])
        } else {
            target
        };
        let place_inside = if target["items"].is_object() {
            format!("{place}[]")
        } else {
            place.to_owned()
        };
        let is_object = inner["properties"].is_object();
        let before = self.seen.get(&std::ptr::from_ref(inner)).filter(|_| is_object).cloned();
        let mut what = cell(&prose(&text));
        if !only.is_empty() {
            what = format!("{only} {what}");
        }
        if let Some(before) = &before {
            write!(what, " Fields as in `{before}`.").expect("to memory");
        }
        writeln!(
            self.rows,
            "| `{place}` | {} | {} | {} |",
            holds(self.components, target),
            cell(&default),
            what.trim()
        )
        .expect("to memory");
        self.tell(place, raw);
        if is_object && before.is_none() {
            self.seen.insert(std::ptr::from_ref(inner), place_inside.clone());
            self.object(&place_inside, inner);
        }
    }

    /// The rules and the fields of an object: first those that have to be there.
    fn object(&mut self, place: &str, schema: &'static Value) {
        self.tell(place, schema);
        self.fields(place, schema);
    }

    fn fields(&mut self, place: &str, schema: &'static Value) {
        let fields = schema["properties"].as_object().into_iter().flatten();
        let (needed, others): (Vec<_>, Vec<_>) =
            fields.partition(|(name, _)| matches!(Need::of(schema, name), Need::Required));
        for (name, property) in needed.into_iter().chain(others) {
            let only = variants_with(schema, name);
            self.field(&format!("{place}.{name}"), property, Need::of(schema, name), &only);
        }
    }

    fn tell(&mut self, place: &str, schema: &Value) {
        for rule in rules(schema) {
            writeln!(self.rules, "- `{place}`: {rule}").expect("to memory");
        }
    }
}

/// `With type X.` for a field that not every variant has.
fn variants_with(schema: &Value, name: &str) -> String {
    let variants: Vec<&Value> = schema["oneOf"].as_array().into_iter().flatten().collect();
    let forbids = |variant: &&&Value| {
        let not = &variant["not"];
        let alternatives = not["anyOf"].as_array().into_iter().flatten().chain([not]);
        let mut names = alternatives.flat_map(|part| part["required"].as_array().into_iter().flatten());
        names.any(|forbidden| forbidden == name)
    };
    let words = |variant: &&Value| {
        variant["properties"]["type"]["enum"][0]
            .as_str()
            .map(|word| format!("`{word}`"))
    };
    let having = variants.iter().filter(|variant| !forbids(variant));
    let having: Vec<String> = having.filter_map(words).collect();
    if having.len() == variants.len() {
        String::new()
    } else {
        format!("With {} only.", having.join(", "))
    }
}

/// What a field holds, in a few words.
fn holds(components: &'static Components, schema: &Value) -> String {
    if let Some(parts) = schema["anyOf"].as_array() {
        let parts: Vec<String> = parts.iter().map(|part| holds(components, part)).collect();
        return parts.join(", or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(default_text).collect();
        return words.join(", ");
    }
    let range = |least: &str, most: &str| match (&schema[least], &schema[most]) {
        (Value::Null, Value::Null) => String::new(),
        (least, Value::Null) => format!(", at least {least}"),
        (Value::Null, most) => format!(", at most {most}"),
        (least, most) if least == 0 => format!(", at most {most}"),
        (least, most) => format!(", {least} to {most}"),
    };
    match schema["type"].as_str() {
        Some("integer") => format!("whole number{}", range("minimum", "maximum")),
        Some("number") => format!("number{}", range("minimum", "maximum")),
        Some("boolean") => "`true` or `false`".to_owned(),
        Some("string") => match (schema["x-weir-minimum"].as_str(), schema["x-weir-maximum"].as_str()) {
            (Some(least), Some(most)) if duration::parse(most) == Ok(duration::MAX) => {
                format!("duration, at least {least}")
            }
            (Some(least), Some(most)) => format!("duration, {least} to {most}"),
            _ => {
                let form = schema["x-weir-form"].as_str().unwrap_or(if schema["format"] == "ip" {
                    "IP address"
                } else {
                    "text"
                });
                let range = range("minLength", "maxLength");
                if range.is_empty() {
                    form.to_owned()
                } else {
                    format!("{form}{range} characters")
                }
            }
        },
        Some("array") => {
            let item = resolved(components, &schema["items"]);
            let items = match item["type"].as_str() {
                Some("object") => "objects".to_owned(),
                _ => holds(components, item),
            };
            format!("list{}: {items}", range("minItems", "maxItems"))
        }
        Some("object") if schema["additionalProperties"].is_object() => {
            format!(
                "map{}: {}",
                range("minProperties", "maxProperties"),
                holds(components, &schema["additionalProperties"])
            )
        }
        Some("object") if is_open(schema) => "any object".to_owned(),
        _ => "object".to_owned(),
    }
}

fn default_text(default: &Value) -> String {
    match default {
        Value::String(text) if text.is_empty() => "`\"\"`".to_owned(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// A description without its rules.
fn prose(text: &str) -> String {
    let paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.starts_with("Rule: "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// A description without `Default: …`, and what that says.
fn split_default(text: &str) -> (String, String) {
    let Some((before, rest)) = text.split_once("Default: ") else {
        return (text.to_owned(), String::new());
    };
    let end = [". ", ".\n"].iter().filter_map(|end| rest.find(end)).min();
    let (default, behind) = match end {
        Some(end) => (&rest[..end], rest[end + 1..].trim_start_matches(' ')),
        None => (rest.trim_end_matches('.'), ""),
    };
    (format!("{before}{behind}").trim().to_owned(), default.to_owned())
}

fn sentence(text: &str) -> &str {
    text.find(". ").map_or(text.trim_end_matches('.'), |end| &text[..end])
}

/// A text as it can stand in a table.
fn cell(text: &str) -> String {
    text.replace("\n\n", "\n")
        .replace("\n- ", "\n")
        .replace('\n', "<br>")
        .replace('|', "\\|")
}

/// Every form of text that a field names, with its pattern.
fn forms() -> BTreeSet<(String, String)> {
    fn go(schema: &Value, found: &mut BTreeSet<(String, String)>) {
        if let (Some(form), Some(pattern)) = (schema["x-weir-form"].as_str(), schema["pattern"].as_str()) {
            found.insert((form.to_owned(), pattern.to_owned()));
        }
        for (_, child) in crate::walk::children(schema) {
            go(child, found);
        }
    }
    let mut found = BTreeSet::new();
    for group in Kind::ALL.iter().map(|kind| kind.group()) {
        for component in schema::components(group).values() {
            go(component, &mut found);
        }
    }
    found
}

/// Who writes the resource has to give it.
const REQUIRED: &str = "**required**";

/// Who reads the status finds it.
const ALWAYS: &str = "always there";

const HEAD: &str = "\
# Reference

Every kind of resource, every field; `kubectl explain` says the same. This page is made of the types by `./dev docs`, as are
the API's OpenAPI schemas. What it says is what weir-control and weirctl check, and the tests read each example.

| kind | apiVersion | what for |
| --- | --- | --- |
";

const CONVENTIONS: &str = "
A resource is read whole or refused whole, with the path of all that is wrong. A field that is not here is refused. What is
left out has its default; `null` is as good as left out. `list[]` is any item of a list.

- **Durations** are one to four numbers with `h`, `m`, `s` or `ms`, added up: `1h30m`, `500ms` (GEP-2257).
- **Forms of text**, such as *DNS label*, are [at the end](#forms-of-text).
- **Rules** are what holds between fields, or can't be said by a range.
- `status` is written by the control plane alone.
";

const FORMS: &str = "
## Forms of text

| form | as a regular expression |
| --- | --- |
";
