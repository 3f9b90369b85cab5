//! From the JSON schemas that derives make (draft 2020-12) to those of Kubernetes' OpenAPI 3.0.
//!
//! `kubectl explain` and most tools look for fields in `properties` alone. So an enum with data becomes one object with
//! the fields of all its variants, in which `oneOf` says which of them go together.

use serde_json::{Map, Value, json};

use super::{REFERENCE, reference};

/// The definitions that references of raw schemas point to.
pub(super) struct Plain<'a> {
    definitions: &'a Map<String, Value>,
    /// What stands before the names of components, but for those that bring their own.
    prefix: &'a str,
}

impl<'a> Plain<'a> {
    pub(super) fn new(definitions: &'a Map<String, Value>, prefix: &'a str) -> Plain<'a> {
        Plain { definitions, prefix }
    }

    /// The definitions that stay by themselves.
    pub(super) fn components(&self) -> Map<String, Value> {
        let named = self.definitions.iter().filter_map(|(name, raw)| {
            let plain = self.schema(raw);
            is_component(name, &plain).then(|| (self.component(name), plain))
        });
        named.collect()
    }

    /// A schema as it stands in components.
    pub(super) fn schema(&self, raw: &Value) -> Value {
        let Value::Object(raw) = raw else {
            // `true` and `false` are schemas, too; OpenAPI 3.0 knows them only in additionalProperties.
            return json!({});
        };
        let mut schema = raw.clone();
        drop_null(&mut schema);
        if let Some(Value::String(target)) = schema.remove("$ref") {
            return self.referred(&target, schema);
        }
        schema.remove("title");
        let overlay = schema.remove("x-properties");
        if let Some(closed) = schema.remove("unevaluatedProperties") {
            schema.entry("additionalProperties").or_insert(closed);
        }
        // Kubernetes has its own word for it.
        if schema.remove("uniqueItems") == Some(true.into()) {
            schema.insert("x-kubernetes-list-type".to_owned(), "set".into());
        }
        if let Some(word) = schema.remove("const") {
            schema.insert("enum".to_owned(), json!([word]));
        }
        if schema.get("type") == Some(&"integer".into()) {
            name_integer(&mut schema);
        }
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = unwrapped(text);
        }
        match schema.remove("oneOf") {
            Some(Value::Array(branches)) if branches.iter().all(is_choice) => choose(&mut schema, &branches),
            Some(Value::Array(branches)) => self.unite(&mut schema, &branches, overlay.as_ref()),
            _ => {
                self.children(&mut schema);
                lay_over(&mut schema, overlay.as_ref());
            }
        }
        if schema.contains_key("properties") {
            schema.entry("type").or_insert("object".into());
            if !schema.contains_key("x-kubernetes-preserve-unknown-fields") {
                schema.entry("additionalProperties").or_insert(false.into());
            }
        }
        Value::Object(schema)
    }

    /// What a reference with something beside it becomes: objects stay by themselves, as Kubernetes has them; what
    /// is small comes in its place.
    fn referred(&self, target: &str, mut beside: Map<String, Value>) -> Value {
        let name = target.strip_prefix(REFERENCE).unwrap_or(target);
        let Some(Value::Object(definition)) = self.definitions.get(name) else {
            return refer(target.to_owned(), beside);
        };
        if is_component(name, &self.schema(&Value::Object(definition.clone()))) {
            if let Some(Value::String(text)) = beside.get_mut("description") {
                *text = unwrapped(text);
            }
            return refer(reference(&self.component(name)), beside);
        }
        let mut merged = definition.clone();
        merged.extend(beside);
        self.schema(&Value::Object(merged))
    }

    fn component(&self, name: &str) -> String {
        if name.contains('.') {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }

    fn children(&self, schema: &mut Map<String, Value>) {
        for (key, value) in schema.iter_mut() {
            match (key.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    for property in properties.values_mut() {
                        *property = self.schema(property);
                    }
                }
                ("items" | "not", child) => *child = self.schema(child),
                ("additionalProperties", child @ Value::Object(_)) => *child = self.schema(child),
                ("anyOf" | "allOf", Value::Array(children)) => {
                    for child in children {
                        *child = self.schema(child);
                    }
                }
                _ => {}
            }
        }
    }

    /// Makes one object of the variants of an enum with data, beside what is in `schema` already.
    fn unite(&self, schema: &mut Map<String, Value>, branches: &[Value], overlay: Option<&Value>) {
        self.children(schema);
        let variants: Vec<Variant> = branches.iter().filter_map(|branch| self.variant(branch)).collect();
        let Some(tag) = variants.first().map(|variant| variant.tag.clone()) else {
            return;
        };
        let mut properties = match schema.remove("properties") {
            Some(Value::Object(properties)) => properties,
            _ => Map::new(),
        };
        let words = variants
            .iter()
            .map(|variant| (variant.word.as_str(), variant.description.as_str()));
        properties.insert(tag.clone(), choice(json!({"description": WHICH}), words));
        for variant in &variants {
            for name in variant.properties.keys() {
                if !properties.contains_key(name) {
                    let mut property = shared(&variants, name);
                    tell_default(variant, name, &mut property);
                    properties.insert(name.clone(), Value::Object(property));
                }
            }
        }
        schema.insert("properties".to_owned(), Value::Object(properties));
        lay_over(schema, overlay);
        let defaults = |name: &str| schema.get("properties").and_then(|all| all.get(name)?.get("default"));
        let mut required: Vec<Value> = match schema.get("required") {
            Some(Value::Array(required)) => required.clone(),
            _ => Vec::new(),
        };
        // Fields that each variant needs are needed.
        let everywhere = |name: &&String| variants.iter().all(|variant| variant.required.contains(*name));
        let shared_needs: Vec<&String> = match variants.first() {
            Some(first) => first.required.iter().filter(everywhere).collect(),
            None => Vec::new(),
        };
        let default_word = defaults(&tag).and_then(Value::as_str).map(str::to_owned);
        if default_word.is_none() {
            required.push(tag.as_str().into());
        }
        let needs = shared_needs.into_iter().filter(|name| defaults(name).is_none());
        required.extend(needs.map(|name| name.as_str().into()));
        let rules: Vec<Value> = variants
            .iter()
            .map(|variant| variant.rule(&variants, &required, default_word.as_deref()))
            .collect();
        if !required.is_empty() {
            schema.insert("required".to_owned(), Value::Array(required));
        }
        schema.insert("type".to_owned(), "object".into());
        if variants.iter().any(|variant| variant.has_rule(&variants)) {
            schema.insert("oneOf".to_owned(), Value::Array(rules));
        }
    }

    /// Reads a variant of an enum: one whose tag is a field (`{type: A, …}`), or one that stands under its name
    /// (`{A: …}`), which Kubernetes writes as `{type: A, a: …}`.
    fn variant(&self, raw: &Value) -> Option<Variant> {
        let description = raw.get("description").and_then(Value::as_str).unwrap_or_default();
        let description = unwrapped(description);
        let properties = raw.get("properties").and_then(Value::as_object)?;
        let tag = properties.iter().find(|(_, property)| property.get("const").is_some());
        if let Some((tag, word)) = tag {
            let others = properties.iter().filter(|(name, _)| *name != tag);
            let others = others.map(|(name, property)| (name.clone(), self.schema(property)));
            let required = raw.get("required").and_then(Value::as_array).into_iter().flatten();
            let required = required
                .filter_map(Value::as_str)
                .filter(|name| name != tag)
                .map(str::to_owned);
            return Some(Variant {
                tag: tag.clone(),
                word: word.get("const")?.as_str()?.to_owned(),
                description,
                properties: others.collect(),
                required: required.collect(),
            });
        }
        let (word, content) = properties.iter().next()?;
        let mut content = content.clone();
        if let Some(content) = content.as_object_mut() {
            content.insert("description".to_owned(), description.as_str().into());
        }
        let field = lower_camel(word);
        Some(Variant {
            tag: "type".to_owned(),
            word: word.clone(),
            description,
            properties: Map::from_iter([(field.clone(), self.schema(&content))]),
            required: vec![field],
        })
    }
}

/// A variant of an enum with data.
struct Variant {
    /// The field that says which one it is.
    tag: String,
    /// What that field holds.
    word: String,
    description: String,
    /// Its other fields, and those that have to be there.
    properties: Map<String, Value>,
    required: Vec<String>,
}

impl Variant {
    /// What holds for this one alone. `required`: fields that are needed anyway. `default`: the variant that is meant
    /// where the tag is left out.
    fn rule(&self, all: &[Variant], required: &[Value], default: Option<&str>) -> Value {
        let mut properties = Map::from_iter([(self.tag.clone(), json!({"enum": [self.word]}))]);
        for (name, property) in &self.properties {
            let own = own(property, &shared(all, name));
            if !own.is_empty() {
                properties.insert(name.clone(), Value::Object(own));
            }
        }
        let mut rule = Map::from_iter([("properties".to_owned(), Value::Object(properties))]);
        let tag = (default.is_some() && default != Some(&self.word)).then_some(&self.tag);
        let own_needs = self.required.iter().filter(|name| !is_everywhere(all, name));
        let needs: Vec<Value> = tag
            .into_iter()
            .chain(own_needs)
            .map(|name| name.as_str().into())
            .collect();
        let needs: Vec<Value> = needs.into_iter().filter(|name| !required.contains(name)).collect();
        if !needs.is_empty() {
            rule.insert("required".to_owned(), Value::Array(needs));
        }
        let mut foreign: Vec<Value> = self.foreign(all).map(|name| json!({"required": [name]})).collect();
        match foreign.len() {
            0 => {}
            1 => drop(rule.insert("not".to_owned(), foreign.remove(0))),
            _ => drop(rule.insert("not".to_owned(), json!({"anyOf": foreign}))),
        }
        Value::Object(rule)
    }

    /// Whether anything holds for this one that does not for all.
    fn has_rule(&self, all: &[Variant]) -> bool {
        let differs = |(name, property): (&String, &Value)| !own(property, &shared(all, name)).is_empty();
        self.foreign(all).next().is_some()
            || self.required.iter().any(|name| !is_everywhere(all, name))
            || self.properties.iter().any(differs)
    }

    /// Fields of others that it has not.
    fn foreign<'a>(&'a self, all: &'a [Variant]) -> impl Iterator<Item = &'a String> {
        let mut names: Vec<&String> = all.iter().flat_map(|variant| variant.properties.keys()).collect();
        names.sort();
        names.dedup();
        names.into_iter().filter(|name| !self.properties.contains_key(*name))
    }
}

/// Whether each variant needs a field.
fn is_everywhere(all: &[Variant], name: &str) -> bool {
    all.iter()
        .all(|variant| variant.required.iter().any(|needed| needed == name))
}

/// What the variants that have a field say of it alike. A field that some have not has no default for all: it would be
/// filled in where it is wrong.
fn shared(all: &[Variant], name: &str) -> Map<String, Value> {
    let mut having = all
        .iter()
        .filter_map(|variant| variant.properties.get(name)?.as_object());
    let mut shared = having.next().cloned().unwrap_or_default();
    for property in having {
        shared.retain(|key, value| property.get(key) == Some(value));
    }
    if !all.iter().all(|variant| variant.properties.contains_key(name)) {
        shared.remove("default");
    }
    shared
}

/// Says in words what a field is by default where a variant alone knows it.
fn tell_default(variant: &Variant, name: &str, property: &mut Map<String, Value>) {
    let default = variant.properties.get(name).and_then(|own| own.get("default"));
    if let (Some(default), None) = (default, property.get("default"))
        && let Some(Value::String(text)) = property.get_mut("description")
    {
        let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
        text.push_str(&format!(" Default: {default}."));
    }
}

/// What a field says beyond what all say of it.
fn own(property: &Value, shared: &Map<String, Value>) -> Map<String, Value> {
    let own = property.as_object().into_iter().flatten();
    let own = own.filter(|(key, value)| key.as_str() != "description" && shared.get(*key) != Some(value));
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Objects, and what has a whole name of its own.
fn is_component(name: &str, plain: &Value) -> bool {
    name.contains('.') || plain.get("properties").is_some()
}

fn refer(target: String, mut beside: Map<String, Value>) -> Value {
    if beside.is_empty() {
        return json!({"$ref": target});
    }
    beside.insert("allOf".to_owned(), json!([{"$ref": target}]));
    Value::Object(beside)
}

/// Takes `null` out: for a field it is as good as absent, which OpenAPI 3.0 does not say for each.
fn drop_null(schema: &mut Map<String, Value>) {
    let is_null = |value: &Value| value.get("type") == Some(&"null".into());
    if let Some(Value::Array(options)) = schema.get_mut("anyOf")
        && options.iter().any(is_null)
    {
        options.retain(|option| !is_null(option));
        if let [Value::Object(only)] = options.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            for (key, value) in only {
                schema.entry(key).or_insert(value);
            }
        }
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
}

/// Kubernetes knows `int32` and `int64` only. Where the numbers are listed, bounds say no more.
fn name_integer(schema: &mut Map<String, Value>) {
    if schema.contains_key("enum") {
        schema.retain(|key, _| !matches!(key.as_str(), "minimum" | "maximum"));
    }
    let format = match schema.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16" | "int8" | "int16" | "uint32" | "int32") => "int32",
        _ => "int64",
    };
    schema.insert("format".to_owned(), format.into());
}

/// Whether a branch of `oneOf` is a word, or several.
fn is_choice(branch: &Value) -> bool {
    branch.get("const").is_some() || branch.get("enum").is_some()
}

/// Makes one list of words of the variants of an enum without data.
fn choose(schema: &mut Map<String, Value>, branches: &[Value]) {
    let words = branches.iter().flat_map(|branch| {
        let description = branch.get("description").and_then(Value::as_str).unwrap_or_default();
        let several = branch.get("enum").and_then(Value::as_array).into_iter().flatten();
        let words = branch.get("const").into_iter().chain(several).filter_map(Value::as_str);
        words.map(move |word| (word, unwrapped(description)))
    });
    let words: Vec<(&str, String)> = words.collect();
    let made = choice(
        Value::Object(std::mem::take(schema)),
        words.iter().map(|(word, text)| (*word, text.as_str())),
    );
    if let Value::Object(made) = made {
        *schema = made;
    }
}

/// A text that is one of some words, each of which is explained behind the description.
fn choice<'a>(mut schema: Value, words: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let mut text = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let mut all = Vec::new();
    let mut is_first = true;
    for (word, description) in words {
        all.push(Value::from(word));
        if description.trim_matches(['`', '.']) == word || description.is_empty() {
            continue;
        }
        text.push_str(if is_first { "\n\n" } else { "\n" });
        is_first = false;
        let word = if word.is_empty() { "\"\"" } else { word };
        text.push_str(&format!("- `{word}`: {description}"));
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("type".to_owned(), "string".into());
        schema.insert("enum".to_owned(), Value::Array(all));
        schema.insert("description".to_owned(), text.trim().into());
    }
    schema
}

/// Puts what a type says of single properties over them.
fn lay_over(schema: &mut Map<String, Value>, overlay: Option<&Value>) {
    let Some(overlay) = overlay.and_then(Value::as_object) else {
        return;
    };
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    for (name, more) in overlay {
        let property = properties
            .as_object_mut()
            .map(|all| all.entry(name.as_str()).or_insert_with(|| json!({})));
        if let (Some(Value::Object(property)), Value::Object(more)) = (property, more) {
            property.extend(more.clone());
        }
    }
}

/// A doc comment as running text: lines of a paragraph are one, paragraphs and items of lists stay.
fn unwrapped(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            out.push_str("\n\n");
        } else if line.starts_with("- ") && !out.is_empty() {
            if !out.ends_with('\n') {
                out.push('\n');
            }
            out.push_str(line);
        } else {
            if !out.is_empty() && !out.ends_with('\n') {
                out.push(' ');
            }
            out.push_str(line);
        }
    }
    out
}

/// `urlRewrite` for `URLRewrite`, `cors` for `CORS`, `requestMirror` for `RequestMirror`.
fn lower_camel(word: &str) -> String {
    let capitals = word.chars().take_while(char::is_ascii_uppercase).count();
    let lowered = if capitals > 1 && capitals < word.len() {
        capitals - 1
    } else {
        capitals
    };
    let lower = |(index, letter): (usize, char)| {
        if index < lowered {
            letter.to_ascii_lowercase()
        } else {
            letter
        }
    };
    word.chars().enumerate().map(lower).collect()
}

/// What stands before the list of an enum's variants.
const WHICH: &str = "Which of these it is.";
