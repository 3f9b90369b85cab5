//! Strategic merge patch, as `kubectl apply` sends it for the kinds that are built into Kubernetes: objects are merged,
//! and lists that have a merge key item by item (Kubernetes, "Update API objects in place using kubectl patch", and
//! the API conventions' patch strategies).

use serde_json::{Map, Value};

use super::PatchError;
use crate::kind::Kind;

type Fields = Map<String, Value>;

/// How a list is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merging {
    /// It is replaced as a whole.
    Replace,
    /// Its items are plain values, each at most once.
    Values,
    /// Its items are objects that this field tells apart.
    Keyed(&'static str),
}

/// How the list at `path`, is merged, as Kubernetes' types have it (`patchStrategy`, `patchMergeKey`).
fn merging(kind: Kind, path: &str) -> Merging {
    match (kind, path) {
        (_, "metadata.finalizers") => Merging::Values,
        (_, "metadata.ownerReferences") => Merging::Keyed("uid"),
        (Kind::Service, "spec.ports") => Merging::Keyed("port"),
        (Kind::Namespace | Kind::Service, "status.conditions") => Merging::Keyed("type"),
        _ => Merging::Replace,
    }
}

pub(super) fn apply(kind: Kind, target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(PatchError::Shape("a merge patch is an object".to_owned()));
    };
    Merge { kind }.fields("", target, patch)
}

/// The changes to one list.
#[derive(Clone, Copy, Default)]
struct ListChanges<'p> {
    /// Items to be merged, or all there is.
    items: Option<&'p [Value]>,
    /// Values to be taken out.
    deleted: Option<&'p [Value]>,
    /// The order of those that the writer knows.
    order: Option<&'p [Value]>,
}

#[derive(Clone, Copy)]
struct Merge {
    kind: Kind,
}

impl Merge {
    fn fields(self, path: &str, target: &mut Fields, patch: &Fields) -> Result<(), PatchError> {
        match patch.get(DIRECTIVE).map(Value::as_str) {
            None | Some(Some("merge")) => {}
            Some(Some("delete")) => {
                target.clear();
                return Ok(());
            }
            Some(Some("replace")) => target.clear(),
            Some(_) => return Err(wrong(path, DIRECTIVE, "merge, replace or delete is right")),
        }
        if let Some(retained) = patch.get(RETAIN_KEYS) {
            let right = "the names of all fields that stay are right";
            let retained = retained.as_array().ok_or_else(|| wrong(path, RETAIN_KEYS, right))?;
            let is_retained = |name: &str| retained.iter().any(|retained| retained.as_str() == Some(name));
            if let Some(left_out) = patch.keys().find(|name| !name.starts_with('$') && !is_retained(name)) {
                let problem = format!("leaves out {left_out}, which the patch sets; {right}");
                return Err(wrong(path, RETAIN_KEYS, &problem));
            }
            target.retain(|name, _| is_retained(name));
        }
        for (name, lists) in list_changes(path, patch)? {
            self.list(&join(path, name), name, target, lists)?;
        }
        for (name, change) in patch {
            let path = join(path, name);
            match change {
                _ if name.starts_with('$') => {}
                Value::Null => {
                    target.remove(name);
                }
                Value::Object(change) => {
                    let held = target.entry(name.as_str()).or_insert(Value::Null);
                    if !held.is_object() {
                        *held = Value::Object(Fields::new());
                    }
                    if let Value::Object(held) = held {
                        self.fields(&path, held, change)?;
                    }
                }
                // Done above, with what else is said about it.
                Value::Array(_) => {}
                Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                    target.insert(name.clone(), change.clone());
                }
            }
        }
        Ok(())
    }

    fn list(self, path: &str, name: &str, target: &mut Fields, changes: ListChanges<'_>) -> Result<(), PatchError> {
        let by = merging(self.kind, path);
        if by == Merging::Replace && (changes.deleted.is_some() || changes.order.is_some()) {
            return Err(PatchError::Directive {
                path: path.to_owned(),
                problem: "is replaced as a whole: give all of it, without directives".to_owned(),
            });
        }
        if changes.items.is_none() && !target.contains_key(name) {
            return Ok(());
        }
        let held = target.entry(name).or_insert(Value::Null);
        let before = match held.take() {
            Value::Array(items) => items,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Vec::new(),
        };
        let items = changes.items.unwrap_or_default();
        let merged = match by {
            Merging::Replace => return self.replaced(path, items).map(|items| *held = Value::Array(items)),
            Merging::Values => values(before.clone(), items, changes.deleted.unwrap_or_default()),
            Merging::Keyed(key) => self.keyed(path, key, before.clone(), items)?,
        };
        let identity = |item: &Value| match by {
            Merging::Keyed(key) => item.get(key).cloned().unwrap_or_default(),
            Merging::Values | Merging::Replace => item.clone(),
        };
        let given = changes.order.unwrap_or(items);
        let order: Vec<Value> = given.iter().map(identity).collect();
        if let Some(lost) = items
            .iter()
            .filter(|item| !is_deletion(item))
            .map(identity)
            .find(|id| !order.contains(id))
        {
            return Err(PatchError::Directive {
                path: path.to_owned(),
                problem: format!("{ORDER}{name} leaves out {lost}, which the patch sets; the order of all is right"),
            });
        }
        let before: Vec<Value> = before.iter().map(identity).collect();
        *held = Value::Array(ordered(merged, &order, &before, identity));
        Ok(())
    }

    /// The items of a list that is replaced; directives in them are done on nothing.
    fn replaced(self, path: &str, items: &[Value]) -> Result<Vec<Value>, PatchError> {
        let mut replaced = Vec::new();
        for item in items {
            replaced.push(self.anew(path, item)?);
        }
        Ok(replaced)
    }

    fn anew(self, path: &str, item: &Value) -> Result<Value, PatchError> {
        match item {
            Value::Object(fields) => {
                let mut anew = Fields::new();
                self.fields(path, &mut anew, fields)?;
                Ok(Value::Object(anew))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Ok(item.clone()),
        }
    }

    fn keyed(self, path: &str, key: &str, mut held: Vec<Value>, items: &[Value]) -> Result<Vec<Value>, PatchError> {
        let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
        if items.iter().any(|item| directive(item).as_deref() == Some("replace")) {
            held.clear();
        }
        for item in items {
            // Of a list that is replaced, the directive may stand alone.
            if directive(item).as_deref() == Some("replace") && item.as_object().is_some_and(|item| item.len() == 1) {
                continue;
            }
            let Some((fields, identity)) = item.as_object().and_then(|fields| Some((fields, fields.get(key)?))) else {
                return Err(PatchError::Directive {
                    path: path.to_owned(),
                    problem: format!("an item has no {key}, by which items of this list are told apart"),
                });
            };
            let same = |held: &Value| held.get(key) == Some(identity);
            if is_deletion(item) {
                held.retain(|held| !same(held));
                continue;
            }
            match held.iter_mut().find(|held| same(held)) {
                Some(Value::Object(held)) => self.fields(path, held, fields)?,
                Some(_) | None => held.push(self.anew(path, item)?),
            }
        }
        Ok(held)
    }
}

/// All that a patch says of lists, by the field's name.
fn list_changes<'p>(path: &str, patch: &'p Fields) -> Result<Vec<(&'p str, ListChanges<'p>)>, PatchError> {
    let mut lists: Vec<(&str, ListChanges<'_>)> = Vec::new();
    for (name, change) in patch {
        let (field, place): (&str, fn(&mut ListChanges<'p>, &'p [Value])) = match name.split_once('/') {
            Some(("$setElementOrder", field)) => (field, |list, order| list.order = Some(order)),
            Some(("$deleteFromPrimitiveList", field)) => (field, |list, deleted| list.deleted = Some(deleted)),
            _ if name == DIRECTIVE || name == RETAIN_KEYS => continue,
            _ if name.starts_with('$') => {
                let right = "$patch, $retainKeys, $setElementOrder/FIELD and $deleteFromPrimitiveList/FIELD are known";
                return Err(wrong(path, name, right));
            }
            _ if change.is_array() => (name, |list, items| list.items = Some(items)),
            _ => continue,
        };
        let Value::Array(change) = change else {
            return Err(wrong(path, name, "a list is right"));
        };
        let at = lists
            .iter()
            .position(|(known, _)| *known == field)
            .unwrap_or(lists.len());
        if at == lists.len() {
            lists.push((field, ListChanges::default()));
        }
        if let Some((_, list)) = lists.get_mut(at) {
            place(list, change);
        }
    }
    Ok(lists)
}

fn values(mut held: Vec<Value>, items: &[Value], deleted: &[Value]) -> Vec<Value> {
    held.retain(|value| !deleted.contains(value));
    for item in items {
        if !held.contains(item) {
            held.push(item.clone());
        }
    }
    held
}

fn is_deletion(item: &Value) -> bool {
    item.get(DIRECTIVE).and_then(Value::as_str) == Some("delete")
}

/// Items that stand in `order`, in that order, and the others where they were: before the first of the former that
/// they stood before.
fn ordered(items: Vec<Value>, order: &[Value], before: &[Value], identity: impl Fn(&Value) -> Value) -> Vec<Value> {
    let place = |list: &[Value], id: &Value| list.iter().position(|held| held == id);
    let tagged = items.into_iter().map(|item| (identity(&item), item));
    let (mut known, others): (Vec<_>, Vec<_>) = tagged.partition(|(id, _)| order.contains(id));
    known.sort_by_key(|(id, _)| place(order, id));
    let mut others = others.into_iter().peekable();
    let mut sorted = Vec::new();
    for (id, item) in known {
        let stands = place(before, &id);
        // One that is new has stood nowhere, so others go first, as they do in Kubernetes.
        while let Some((_, other)) =
            others.next_if(|(other, _)| stands.is_none_or(|at| place(before, other) < Some(at)))
        {
            sorted.push(other);
        }
        sorted.push(item);
    }
    sorted.extend(others.map(|(_, item)| item));
    sorted
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn wrong(path: &str, name: &str, problem: &str) -> PatchError {
    PatchError::Directive {
        path: join(path, name),
        problem: problem.to_owned(),
    }
}

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn patched(target: &Value, patch: &Value) -> Result<Value, String> {
        let mut target = target.clone();
        apply(Kind::Service, &mut target, patch).map_err(|error| error.to_string())?;
        Ok(target)
    }

    fn service() -> Value {
        json!({
            "metadata": {"name": "a", "labels": {"x": "1", "y": "2"}},
            "spec": {
                "selector": {"app": "a"}, "ipFamilies": ["IPv4", "IPv6"],
                "ports": [
                    {"name": "http", "port": 80, "targetPort": 8080}, {"name": "grpc", "port": 81}, {"name": "old", "port": 82},
                ],
            },
        })
    }

    /// `NAME=PORT` of each port after the patch.
    #[track_caller]
    fn ports(patch: Value, expect: &str) {
        let patched = patched(&service(), &json!({"spec": patch})).expect("it can be done");
        let ports = patched["spec"]["ports"].as_array().expect("ports");
        let shown: Vec<String> = ports
            .iter()
            .map(|port| format!("{}={}", port["name"].as_str().unwrap_or("-"), port["port"]))
            .collect();
        assert_eq!(shown.join(" "), expect, "{patch}");
    }

    #[test]
    fn ports_are_merged_by_their_number() {
        ports(json!({"ports": [{"port": 81, "name": "h2"}]}), "http=80 h2=81 old=82");
        ports(
            json!({"ports": [{"port": 90, "name": "new"}]}),
            "http=80 grpc=81 old=82 new=90",
        );
        ports(json!({"ports": [{"port": 81, "$patch": "delete"}]}), "http=80 old=82");
        ports(
            json!({"ports": [{"port": 99, "$patch": "delete"}]}),
            "http=80 grpc=81 old=82",
        );
        ports(
            json!({"ports": [{"$patch": "replace"}, {"port": 90, "name": "new"}]}),
            "new=90",
        );
        ports(json!({"ports": [{"$patch": "replace"}]}), "");
        ports(json!({"ports": [{"port": 80, "name": null}]}), "-=80 grpc=81 old=82");
        let order = json!([{"port": 82}, {"port": 80}]);
        ports(json!({"$setElementOrder/ports": order}), "grpc=81 old=82 http=80");
        let new =
            json!({"$setElementOrder/ports": [{"port": 90}, {"port": 80}], "ports": [{"port": 90, "name": "new"}]});
        ports(new, "grpc=81 old=82 new=90 http=80");
    }

    #[test]
    fn the_rest_is_merged_field_by_field() {
        for (patch, pointer, expect) in [
            (
                json!({"metadata": {"labels": {"x": null, "z": "3"}}}),
                "/metadata/labels",
                json!({"y": "2", "z": "3"}),
            ),
            (
                json!({"metadata": {"labels": {"$patch": "replace", "z": "3"}}}),
                "/metadata/labels",
                json!({"z": "3"}),
            ),
            (
                json!({"metadata": {"labels": {"$patch": "delete"}}}),
                "/metadata/labels",
                json!({}),
            ),
            (
                json!({"metadata": {"labels": {"$retainKeys": ["y"]}}}),
                "/metadata/labels",
                json!({"y": "2"}),
            ),
            (
                json!({"spec": {"ipFamilies": ["IPv6"]}}),
                "/spec/ipFamilies",
                json!(["IPv6"]),
            ),
            (json!({"spec": {"selector": "x"}}), "/spec/selector", json!("x")),
            (
                json!({"spec": {"new": {"a": null, "b": [{"$patch": "merge", "c": 1}]}}}),
                "/spec/new",
                json!({"b": [{"c": 1}]}),
            ),
            (
                json!({"metadata": {"finalizers": ["a", "b", "a"]}}),
                "/metadata/finalizers",
                json!(["a", "b"]),
            ),
            (
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
                "/metadata/name",
                json!("a"),
            ),
        ] {
            let patched = patched(&service(), &patch).expect("it can be done");
            assert_eq!(patched.pointer(pointer), Some(&expect), "{patch}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        for (patch, expect) in [
            (
                json!({"spec": {"$patch": "grow"}}),
                "spec.$patch: merge, replace or delete is right",
            ),
            (json!({"spec": {"$unknown": 1}}), "spec.$unknown: $patch, $retainKeys, "),
            (
                json!({"spec": {"$retainKeys": ["ports"], "selector": {}}}),
                "spec.$retainKeys: leaves out selector",
            ),
            (
                json!({"spec": {"ports": [{"name": "x"}]}}),
                "spec.ports: an item has no port, by which",
            ),
            (
                json!({"spec": {"ports": [1]}}),
                "spec.ports: an item has no port, by which",
            ),
            (
                json!({"spec": {"$setElementOrder/ports": 1}}),
                "spec.$setElementOrder/ports: a list is right",
            ),
            (
                json!({"spec": {"$setElementOrder/ports": [{"port": 80}], "ports": [{"port": 90}]}}),
                "spec.ports: $setElementOrder/ports leaves out 90",
            ),
            (
                json!({"spec": {"$setElementOrder/ipFamilies": []}}),
                "spec.ipFamilies: is replaced as a whole",
            ),
        ] {
            let error = patched(&service(), &patch).expect_err("refused");
            assert!(error.starts_with(expect), "{patch}: {error}");
        }
    }

    /// The patch from one resource to another, as `kubectl` makes it of two.
    fn difference(path: &str, from: &Value, to: &Value) -> Value {
        let (Value::Object(from), Value::Object(to)) = (from, to) else {
            return to.clone();
        };
        let mut patch = Fields::new();
        for name in from.keys().filter(|name| !to.contains_key(*name)) {
            patch.insert(name.clone(), Value::Null);
        }
        for (name, wanted) in to {
            let path = join(path, name);
            match (from.get(name), wanted) {
                (Some(held), wanted) if held == wanted => {}
                (Some(Value::Array(held)), Value::Array(wanted)) => {
                    list_difference(&path, name, held, wanted, &mut patch);
                }
                (Some(held @ Value::Object(_)), Value::Object(_)) => {
                    patch.insert(name.clone(), difference(&path, held, wanted));
                }
                (_, wanted) => {
                    patch.insert(name.clone(), wanted.clone());
                }
            }
        }
        Value::Object(patch)
    }

    fn list_difference(path: &str, name: &str, held: &[Value], wanted: &[Value], patch: &mut Fields) {
        let missing = |from: &[Value], to: &[Value]| -> Vec<Value> {
            from.iter().filter(|value| !to.contains(value)).cloned().collect()
        };
        match merging(Kind::Service, path) {
            Merging::Replace => {
                patch.insert(name.to_owned(), json!(wanted));
            }
            Merging::Values => {
                patch.insert(name.to_owned(), json!(missing(wanted, held)));
                patch.insert(format!("$deleteFromPrimitiveList/{name}"), json!(missing(held, wanted)));
                patch.insert(format!("$setElementOrder/{name}"), json!(wanted));
            }
            Merging::Keyed(key) => {
                let find = |list: &[Value], item: &Value| list.iter().find(|held| held[key] == item[key]).cloned();
                let mut items = Vec::new();
                for item in wanted {
                    match find(held, item) {
                        Some(same) if same == *item => {}
                        Some(other) => {
                            let mut change = difference(path, &other, item);
                            change[key] = item[key].clone();
                            items.push(change);
                        }
                        None => items.push(item.clone()),
                    }
                }
                for gone in held.iter().filter(|item| find(wanted, item).is_none()) {
                    items.push(json!({key: gone[key], "$patch": "delete"}));
                }
                let order: Vec<Value> = wanted.iter().map(|item| json!({key: item[key]})).collect();
                patch.insert(name.to_owned(), json!(items));
                patch.insert(format!("$setElementOrder/{name}"), json!(order));
            }
        }
    }

    fn any_service() -> impl Strategy<Value = Value> {
        let map = || prop::collection::btree_map("[a-c]", "[x-z]", 0..3);
        let port = (1u16..6, prop::option::of("[a-c]"), prop::option::of(1u16..4));
        let ports = prop::collection::vec(port, 0..5).prop_map(|ports| {
            let mut unique: Vec<Value> = Vec::new();
            for (port, name, target) in ports {
                let mut item = json!({"port": port});
                if let Some(name) = name {
                    item["name"] = name.into();
                }
                if let Some(target) = target {
                    item["targetPort"] = target.into();
                }
                if unique.iter().all(|held| held["port"] != item["port"]) {
                    unique.push(item);
                }
            }
            unique
        });
        let finalizers = prop::sample::subsequence(vec!["a", "b", "c", "d"], 0..4).prop_shuffle();
        let families = prop::collection::vec("IPv[46]", 0..3);
        (prop::option::of(map()), map(), ports, finalizers, families).prop_map(
            |(labels, selector, ports, finalizers, families)| {
                let mut service = json!({
                    "metadata": {"finalizers": finalizers},
                    "spec": {"selector": selector, "ports": ports, "ipFamilies": families},
                });
                if let Some(labels) = labels {
                    service["metadata"]["labels"] = json!(labels);
                }
                service
            },
        )
    }

    proptest! {
        /// The patch that leads from one resource to another leads there, and once there changes nothing more.
        #[test]
        fn the_difference_applied_is_what_was_wanted(from in any_service(), to in any_service()) {
            let patch = difference("", &from, &to);
            let patched = patched(&from, &patch);
            prop_assert_eq!(patched.as_ref(), Ok(&to), "{}", patch);
            let again = self::patched(&to, &patch);
            prop_assert_eq!(again, Ok(to), "{}", patch);
        }
    }
}
