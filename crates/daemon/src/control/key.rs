//! Where an object stands in the store: its kind, then the names that lead to it.
//!
//! Keys sort by kind, then by name, so that everything in a layer or group is one range. Names never contain control
//! characters, so a zero byte separates them.

use std::io::Write as _;

use lamina_api::wire::{read, v1};
use lamina_core::flow::Direction;
use lamina_core::resource::MappingKey;

use super::mapping::EntryName;
use super::mistake::{Mistakes, mistake};

/// The key of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(Vec<u8>);

/// The kinds whose objects are in another object, each with a place for the names that lead there.
const PARTS: [(v1::Kind, &[Part]); 14] = [
    (v1::Kind::Port, &[Part::Name]),
    (v1::Kind::Layer, &[Part::Port, Part::Name]),
    (v1::Kind::Group, &[Part::Port, Part::Layer, Part::Direction, Part::Name]),
    (v1::Kind::Rule, &[Part::Port, Part::Layer, Part::Direction, Part::Group, Part::Name]),
    (v1::Kind::Mapping, &[Part::Name]),
    (v1::Kind::MappingEntry, &[Part::Mapping, Part::Name]),
    (v1::Kind::Targets, &[Part::Name]),
    (v1::Kind::Prefixes, &[Part::Name]),
    (v1::Kind::Meter, &[Part::Name]),
    (v1::Kind::Limit, &[Part::Name]),
    (v1::Kind::Leases, &[Part::Name]),
    (v1::Kind::Dns, &[Part::Name]),
    (v1::Kind::Metadata, &[Part::Name]),
    (v1::Kind::Multicast, &[]),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Port,
    Layer,
    Direction,
    Group,
    Mapping,
    Name,
}

fn parts(kind: v1::Kind) -> &'static [Part] {
    PARTS.iter().find(|(other, _)| *other == kind).map_or(&[], |(_, parts)| parts)
}

/// The direction as the API names it.
pub fn written(direction: Direction) -> v1::Direction {
    match direction {
        Direction::Inbound => v1::Direction::Inbound,
        Direction::Outbound => v1::Direction::Outbound,
    }
}

/// The direction that the API names; `None` when it names none.
pub fn direction(number: i32) -> Option<Direction> {
    match v1::Direction::try_from(number) {
        Ok(v1::Direction::Inbound) => Some(Direction::Inbound),
        Ok(v1::Direction::Outbound) => Some(Direction::Outbound),
        _ => None,
    }
}

impl Key {
    /// The key of the one object that `reference` names.
    pub fn of(reference: &v1::Ref) -> Result<Key, Mistakes> {
        let kind = reference.kind();
        if kind == v1::Kind::Unspecified {
            return Err(mistake("missing-field", "the reference has no kind", "set `kind`").into());
        }
        let mut bytes = vec![kind as u8];
        for part in parts(kind) {
            let text = match part {
                Part::Port => &reference.port,
                Part::Layer => &reference.layer,
                Part::Group => &reference.group,
                Part::Mapping => &reference.mapping,
                Part::Name => &reference.name,
                Part::Direction => {
                    let direction = direction(reference.direction).ok_or_else(|| {
                        mistake("missing-field", "the reference has no direction", "set `direction`")
                    })?;
                    bytes.push(b'0' + written(direction) as u8);
                    bytes.push(0);
                    continue;
                }
            };
            let name = read::name(text).map_err(Mistakes::from)?;
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
        }
        Ok(Key(bytes))
    }

    /// The key of the entry for `entry` of the mapping table `table`, whose name was checked.
    pub fn of_entry(table: &str, entry: &MappingKey) -> Key {
        let mut bytes = Vec::with_capacity(table.len() + 24);
        bytes.push(v1::Kind::MappingEntry as u8);
        bytes.extend_from_slice(table.as_bytes());
        bytes.push(0);
        // Writing to memory does not fail.
        let _ = write!(bytes, "{}", EntryName(entry));
        bytes.push(0);
        Key(bytes)
    }

    /// The key that the store holds.
    pub fn from_bytes(bytes: &[u8]) -> Key {
        Key(bytes.to_vec())
    }

    /// As the store holds it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The reference that the key was made from.
    pub fn reference(&self) -> v1::Ref {
        let kind = self.0.first().and_then(|byte| v1::Kind::try_from(i32::from(*byte)).ok());
        let kind = kind.unwrap_or_default();
        let mut reference = v1::Ref { kind: kind as i32, ..v1::Ref::default() };
        let texts = self.0.get(1..).unwrap_or_default().split(|byte| *byte == 0);
        for (part, text) in parts(kind).iter().zip(texts) {
            let text = String::from_utf8_lossy(text).into_owned();
            match part {
                Part::Port => reference.port = text,
                Part::Layer => reference.layer = text,
                Part::Group => reference.group = text,
                Part::Mapping => reference.mapping = text,
                Part::Name => reference.name = text,
                Part::Direction => reference.direction = text.parse().unwrap_or_default(),
            }
        }
        reference
    }

    /// Prefixes of the keys of everything that is in this object.
    pub fn inside(&self) -> Vec<Vec<u8>> {
        let kinds: &[v1::Kind] = match self.0.first().copied().map(i32::from) {
            Some(1) => &[v1::Kind::Layer, v1::Kind::Group, v1::Kind::Rule],
            Some(2) => &[v1::Kind::Group, v1::Kind::Rule],
            Some(3) => &[v1::Kind::Rule],
            Some(5) => &[v1::Kind::MappingEntry],
            _ => &[],
        };
        kinds.iter().map(|kind| [&[*kind as u8], &self.0[1..]].concat()).collect()
    }

    /// The kind.
    pub fn kind(&self) -> v1::Kind {
        self.reference().kind()
    }
}

/// The prefix of the keys that can agree with `selector`: the kind and the names up to the first that is not set.
pub fn prefix(selector: &v1::Ref) -> Vec<u8> {
    let mut bytes = Vec::new();
    if selector.kind() == v1::Kind::Unspecified {
        return bytes;
    }
    bytes.push(selector.kind() as u8);
    for part in parts(selector.kind()) {
        let text = match part {
            Part::Port => &selector.port,
            Part::Layer => &selector.layer,
            Part::Group => &selector.group,
            Part::Mapping => &selector.mapping,
            Part::Name => &selector.name,
            Part::Direction => match direction(selector.direction) {
                Some(direction) => {
                    bytes.extend([b'0' + written(direction) as u8, 0]);
                    continue;
                }
                None => break,
            },
        };
        if text.is_empty() {
            break;
        }
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// True when `reference` agrees with every field of `selector` that is set. A port or layer named by itself agrees
/// with a selector that names it as the place.
pub fn agrees(selector: &v1::Ref, reference: &v1::Ref) -> bool {
    let same = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    let own = |kind: v1::Kind, place: &str| {
        if reference.kind() == kind { reference.name.clone() } else { place.to_string() }
    };
    (selector.kind() == v1::Kind::Unspecified || selector.kind() == reference.kind())
        && same(&selector.port, &own(v1::Kind::Port, &reference.port))
        && same(&selector.layer, &own(v1::Kind::Layer, &reference.layer))
        && (selector.direction == 0 || selector.direction == reference.direction)
        && same(&selector.group, &own(v1::Kind::Group, &reference.group))
        && same(&selector.mapping, &own(v1::Kind::Mapping, &reference.mapping))
        && same(&selector.name, &reference.name)
}

/// A reference to `reference` for people: `rule web1/acl/inbound/in/http`.
pub fn display(reference: &v1::Ref) -> String {
    let kind = match reference.kind() {
        v1::Kind::Unspecified => "object",
        v1::Kind::Port => "port",
        v1::Kind::Layer => "layer",
        v1::Kind::Group => "group",
        v1::Kind::Rule => "rule",
        v1::Kind::Mapping => "mapping table",
        v1::Kind::MappingEntry => "mapping entry",
        v1::Kind::Targets => "target set",
        v1::Kind::Prefixes => "prefix set",
        v1::Kind::Meter => "meter",
        v1::Kind::Limit => "limit",
        v1::Kind::Leases => "lease table",
        v1::Kind::Dns => "table of domain names",
        v1::Kind::Metadata => "metadata key",
        v1::Kind::Multicast => return "the multicast set".into(),
    };
    let direction = direction(reference.direction).map_or("", |direction| direction.name());
    let names: Vec<&str> = parts(reference.kind())
        .iter()
        .map(|part| match part {
            Part::Port => &*reference.port,
            Part::Layer => &*reference.layer,
            Part::Group => &*reference.group,
            Part::Mapping => &*reference.mapping,
            Part::Name => &*reference.name,
            Part::Direction => direction,
        })
        .collect();
    format!("{kind} {}", names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> v1::Ref {
        v1::Ref {
            kind: v1::Kind::Rule as i32,
            port: "web1".into(),
            layer: "acl".into(),
            direction: v1::Direction::Inbound as i32,
            group: "in".into(),
            name: "http".into(),
            ..v1::Ref::default()
        }
    }

    #[test]
    fn keys_and_references_are_one_thing() {
        let key = Key::of(&rule()).unwrap();
        assert_eq!(key.reference(), rule());
        assert_eq!(display(&rule()), "rule web1/acl/inbound/in/http");
        let multicast = v1::Ref { kind: v1::Kind::Multicast as i32, ..v1::Ref::default() };
        assert_eq!(Key::of(&multicast).unwrap().reference(), multicast);
        for bad in [
            v1::Ref::default(),
            v1::Ref { name: String::new(), ..rule() },
            v1::Ref { direction: 0, ..rule() },
        ] {
            assert!(Key::of(&bad).is_err(), "{bad:?}");
        }
        assert!(Key::of(&v1::Ref { name: "a\0b".into(), ..rule() }).is_err());
    }

    #[test]
    fn what_is_in_an_object_has_its_prefix() {
        let layer = v1::Ref {
            kind: v1::Kind::Layer as i32,
            port: "web1".into(),
            name: "acl".into(),
            ..v1::Ref::default()
        };
        let inside = Key::of(&layer).unwrap().inside();
        let rule_key = Key::of(&rule()).unwrap();
        assert!(inside.iter().any(|prefix| rule_key.bytes().starts_with(prefix)));
        let other = v1::Ref { layer: "acl2".into(), ..rule() };
        let other = Key::of(&other).unwrap();
        assert!(!inside.iter().any(|prefix| other.bytes().starts_with(prefix)));
    }

    #[test]
    fn selectors_agree_with_what_they_leave_open() {
        let selector = v1::Ref { port: "web1".into(), ..v1::Ref::default() };
        assert!(agrees(&selector, &rule()));
        let port = v1::Ref { kind: v1::Kind::Port as i32, name: "web1".into(), ..v1::Ref::default() };
        assert!(agrees(&selector, &port), "the port itself");
        assert!(!agrees(&v1::Ref { port: "web2".into(), ..v1::Ref::default() }, &rule()));
        let groups = v1::Ref { kind: v1::Kind::Rule as i32, port: "web1".into(), ..v1::Ref::default() };
        assert!(Key::of(&rule()).unwrap().bytes().starts_with(&prefix(&groups)));
    }
}
