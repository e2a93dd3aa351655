//! Where in a YAML text the thing stands that a daemon complains about.
//!
//! A mistake in a transaction is told by the object's reference and a path within it (`when.ip.src.1`). A person wrote
//! a file. Theory: both are ways through the same tree, because messages and documents have the same shape. The
//! reference gives the steps down to the object (`ports`, `vm1`, `layers`, the one called `acl`, ...), the path gives the
//! rest; where the text is shorter than the message (a bare word for a choice, one value for a list) the way ends early,
//! at the right place.

use std::net::IpAddr;

use super::v1::{Direction, Kind, Ref};
use crate::decode::first_line;
use crate::source::{Source, Span};
use crate::tree::{Node, Tree};

/// A step from a node to one below it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// The value of this key.
    Key(String),
    /// The item of a list whose field has this value.
    Item(&'static str, String),
    /// The item of a list that is this text.
    Text(String),
    /// The entry of a mapping table: address and tenant.
    Entry(String, u32),
}

/// A YAML text in which places are looked for.
#[derive(Debug)]
pub struct Places<'s> {
    source: &'s Source,
    tree: Tree<'s>,
    root: Vec<Step>,
}

impl<'s> Places<'s> {
    /// The places of the policy document in `source`; `None` when it is not YAML.
    pub fn of_document(source: &'s Source) -> Option<Self> {
        Some(Places { source, tree: Tree::read(source).ok()?, root: Vec::new() })
    }

    /// The places of the one object `object` whose YAML form is in `source`.
    pub fn of_object(source: &'s Source, object: &Ref) -> Option<Self> {
        Some(Places { source, tree: Tree::read(source).ok()?, root: steps(object)? })
    }

    /// The text.
    pub fn source(&self) -> &Source {
        self.source
    }

    /// The place of the field with the path `field` in `object`; where the text does not name the field, that of the
    /// object's name. `None` when the object is not in the text.
    pub fn find(&self, object: &Ref, field: &str) -> Option<Span> {
        let steps = steps(object)?;
        let below = steps.strip_prefix(&*self.root)?;
        let mut name = head(&self.tree);
        let mut tree = &self.tree;
        for step in below {
            (name, tree) = descend(tree, step)?;
        }
        Some(first_line(self.source, walk(tree, field).unwrap_or(name)))
    }
}

/// The way from a document's root to `object`; `None` when it names none.
fn steps(object: &Ref) -> Option<Vec<Step>> {
    let key = |text: &str| Step::Key(text.to_string());
    let resource = |kind: &str, name: &str| vec![key("resources"), key(kind), key(name)];
    let mut steps = match object.kind() {
        Kind::Unspecified => return None,
        Kind::Port => return Some(vec![key("ports"), key(&object.name)]),
        Kind::Mapping => return Some(resource("mappings", &object.name)),
        Kind::Targets => return Some(resource("targets", &object.name)),
        Kind::Prefixes => return Some(resource("prefixes", &object.name)),
        Kind::Meter => return Some(resource("meters", &object.name)),
        Kind::Limit => return Some(resource("limits", &object.name)),
        Kind::Leases => return Some(resource("leases", &object.name)),
        Kind::Dns => return Some(resource("dns", &object.name)),
        Kind::Metadata => return Some(vec![key("metadata"), Step::Text(object.name.clone())]),
        Kind::Multicast => return Some(vec![key("multicast")]),
        Kind::MappingEntry => {
            let (address, tenant) = object.name.split_once('@').unwrap_or((&object.name, "0"));
            let mut steps = resource("mappings", &object.mapping);
            steps.extend([key("entries"), Step::Entry(address.into(), tenant.parse().ok()?)]);
            return Some(steps);
        }
        Kind::Layer | Kind::Group | Kind::Rule => vec![key("ports"), key(&object.port), key("layers")],
    };
    let (layer, group) = match object.kind() {
        Kind::Layer => (&object.name, None),
        Kind::Group => (&object.layer, Some(&object.name)),
        _ => (&object.layer, Some(&object.group)),
    };
    steps.push(Step::Item("name", layer.clone()));
    if let Some(group) = group {
        steps.push(key(match object.direction() {
            Direction::Unspecified => return None,
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }));
        steps.push(Step::Item("group", group.clone()));
    }
    if object.kind() == Kind::Rule {
        steps.extend([key("rules"), Step::Item("name", object.name.clone())]);
    }
    Some(steps)
}

fn text<'t>(tree: &'t Tree<'_>) -> Option<&'t str> {
    match &tree.node {
        Node::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// The entry `key` of the map `tree`.
fn entry<'t>(tree: &'t Tree<'t>, key: &str) -> Option<(Span, &'t Tree<'t>)> {
    let Node::Map(entries) = &tree.node else { return None };
    entries.iter().find(|(found, _)| text(found) == Some(key)).map(|(found, value)| (found.span, value))
}

/// The node that `step` leads to, and the place of its name.
fn descend<'t>(tree: &'t Tree<'t>, step: &Step) -> Option<(Span, &'t Tree<'t>)> {
    let items = || match &tree.node {
        Node::List(items) => items.as_slice(),
        _ => std::slice::from_ref(tree),
    };
    match step {
        Step::Key(key) => entry(tree, key),
        Step::Item(key, wanted) => items().iter().find_map(|item| {
            let (_, name) = entry(item, key)?;
            (text(name) == Some(wanted)).then_some((name.span, item))
        }),
        Step::Text(wanted) => {
            items().iter().find(|item| text(item) == Some(wanted)).map(|item| (item.span, item))
        }
        Step::Entry(address, tenant) => items().iter().find_map(|item| {
            let (_, found) = entry(item, "address")?;
            let found_tenant = entry(item, "tenant").and_then(|(_, tree)| text(tree));
            let is_it = same_address(text(found)?, address)
                && found_tenant.map_or(Some(0), |text| text.parse().ok()) == Some(*tenant);
            is_it.then_some((found.span, item))
        }),
    }
}

/// True when both are the same address, however they are written.
fn same_address(a: &str, b: &str) -> bool {
    match (a.parse::<IpAddr>(), b.parse::<IpAddr>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// A place that stands for a whole node: its first key.
fn head(tree: &Tree<'_>) -> Span {
    match &tree.node {
        Node::Map(entries) => entries.first().map_or(tree.span, |(key, _)| key.span),
        _ => tree.span,
    }
}

/// The place of the path `path` below `tree`; `None` when not even its first part is there.
fn walk(tree: &Tree<'_>, path: &str) -> Option<Span> {
    let mut found = None;
    let mut tree = tree;
    let mut path = path;
    while !path.is_empty() {
        match &tree.node {
            Node::Map(entries) => {
                // Keys may have dots themselves: the longest that fits is meant.
                let fitting = entries.iter().filter_map(|(key, value)| {
                    let rest = path.strip_prefix(text(key)?)?;
                    (rest.is_empty() || rest.starts_with('.')).then_some((key, value, rest))
                });
                let Some((key, value, rest)) = fitting.min_by_key(|(_, _, rest)| rest.len()) else { break };
                let is_leaf = matches!(value.node, Node::Scalar { .. } | Node::List(_));
                found = Some(if is_leaf { value.span } else { key.span });
                (tree, path) = (value, rest.trim_start_matches('.'));
            }
            Node::List(items) => {
                let (index, rest) = path.split_once('.').unwrap_or((path, ""));
                let Some(item) = index.parse().ok().and_then(|index: usize| items.get(index)) else { break };
                found = Some(head(item));
                (tree, path) = (item, rest);
            }
            Node::Scalar { .. } | Node::Empty => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"version: 1
metadata: [zone]
resources:
  mappings:
    blue: { entries: [ { address: "fd00:0::1", mac: x }, { address: 10.0.0.1, tenant: 7, mac: y } ] }
ports:
  vm1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: acl
        inbound:
          - group: in
            rules:
              - name: web
                when: { ip.src: [10.0.0.0/8, 11.0.0.0/8], ip: 4, ip.proto: tcp }
                action: allow
              - name: meters
                action: { meter: none-such }
"#;

    fn rule(name: &str) -> Ref {
        Ref {
            kind: Kind::Rule.into(),
            port: "vm1".into(),
            layer: "acl".into(),
            direction: Direction::Inbound.into(),
            group: "in".into(),
            name: name.into(),
            ..Ref::default()
        }
    }

    #[test]
    fn references_and_paths_lead_to_places() {
        let source = Source::new("t", TEXT);
        let places = Places::of_document(&source).unwrap();
        let find = |object: &Ref, field: &str| places.find(object, field).map(|span| source.slice(span));
        assert_eq!(find(&rule("web"), ""), Some("web"));
        assert_eq!(find(&rule("web"), "when.ip.src.1"), Some("11.0.0.0/8"));
        assert_eq!(find(&rule("web"), "when.ip.proto.0"), Some("tcp"), "one value stands for a list");
        assert_eq!(find(&rule("web"), "action.allow"), Some("allow"), "a bare word stands for a choice");
        assert_eq!(find(&rule("meters"), "action.meter"), Some("none-such"));
        assert_eq!(find(&rule("meters"), "stateful.ttl"), Some("meters"), "what is not said is at the name");
        assert_eq!(find(&rule("other"), ""), None);
        let object = |kind: Kind, name: &str| Ref { kind: kind.into(), name: name.into(), ..Ref::default() };
        assert_eq!(find(&object(Kind::Port, "vm1"), "mac"), Some("\"02:00:00:00:00:01\""));
        assert_eq!(find(&object(Kind::Metadata, "zone"), ""), Some("zone"));
        assert_eq!(find(&object(Kind::Multicast, ""), ""), None);
        let entry = |name: &str| Ref { mapping: "blue".into(), ..object(Kind::MappingEntry, name) };
        assert_eq!(find(&entry("10.0.0.1@7"), "mac"), Some("y"));
        assert_eq!(find(&entry("10.0.0.1"), "mac"), None, "another tenant's");
        assert_eq!(find(&entry("fd00::1"), ""), Some("\"fd00:0::1\""));
    }

    #[test]
    fn an_object_alone_has_the_same_places() {
        let source = Source::new("t", "name: web\nwhen: { ip.src: 10.0.0.0/8 }\naction: allow\n");
        let places = Places::of_object(&source, &rule("web")).unwrap();
        let span = places.find(&rule("web"), "when.ip.src.0").unwrap();
        assert_eq!(source.slice(span), "10.0.0.0/8");
        assert_eq!(places.find(&rule("other"), ""), None);
    }
}
