//! How objects are named: on the command line, in tables and in JSON.
//!
//! An object that is inside others is named by its way there, `vm1/acl/inbound/web/open`, or by its own name with the rest
//! given by flags. With a flag the name is taken as a whole, so a name that has a slash in it can be said too.

use clap::{Args, ValueEnum};
use lamina_api::wire::v1::{self, Direction, Kind, Ref};
use serde_json::{Value, json};

use super::{DirectionArg, Usage, direction};

/// A kind of objects on the command line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum KindArg {
    /// Every kind.
    All,
    /// Virtual NICs: NAME.
    #[value(alias = "ports")]
    Port,
    /// Layers: PORT/NAME.
    #[value(alias = "layers")]
    Layer,
    /// Groups: PORT/LAYER/DIRECTION/NAME.
    #[value(alias = "groups")]
    Group,
    /// Rules: PORT/LAYER/DIRECTION/GROUP/NAME.
    #[value(alias = "rules")]
    Rule,
    /// Mapping tables: NAME.
    #[value(alias = "mappings")]
    Mapping,
    /// Entries of mapping tables: MAPPING/ADDRESS or MAPPING/ADDRESS@TENANT.
    #[value(aliases = ["mapping-entries", "entry", "entries"])]
    MappingEntry,
    /// Target sets: NAME.
    #[value(aliases = ["target-set", "target-sets"])]
    Targets,
    /// Prefix sets: NAME.
    #[value(aliases = ["prefix-set", "prefix-sets"])]
    Prefixes,
    /// Meters: NAME.
    #[value(alias = "meters")]
    Meter,
    /// Limits of rates: NAME.
    Limit,
    /// Lease tables: NAME.
    Leases,
    /// Tables of domain names: NAME.
    Dns,
    /// Metadata keys: NAME.
    Metadata,
    /// The multicast set, which has no name.
    Multicast,
}

/// The kinds of objects, in the order in which they are listed.
pub const KINDS: [Kind; 14] = [
    Kind::Port,
    Kind::Layer,
    Kind::Group,
    Kind::Rule,
    Kind::Mapping,
    Kind::MappingEntry,
    Kind::Targets,
    Kind::Prefixes,
    Kind::Meter,
    Kind::Limit,
    Kind::Leases,
    Kind::Dns,
    Kind::Metadata,
    Kind::Multicast,
];

impl KindArg {
    /// The contract's kind; unspecified for all.
    pub fn kind(self) -> Kind {
        match self {
            KindArg::All => Kind::Unspecified,
            KindArg::Port => Kind::Port,
            KindArg::Layer => Kind::Layer,
            KindArg::Group => Kind::Group,
            KindArg::Rule => Kind::Rule,
            KindArg::Mapping => Kind::Mapping,
            KindArg::MappingEntry => Kind::MappingEntry,
            KindArg::Targets => Kind::Targets,
            KindArg::Prefixes => Kind::Prefixes,
            KindArg::Meter => Kind::Meter,
            KindArg::Limit => Kind::Limit,
            KindArg::Leases => Kind::Leases,
            KindArg::Dns => Kind::Dns,
            KindArg::Metadata => Kind::Metadata,
            KindArg::Multicast => Kind::Multicast,
        }
    }
}

/// Where objects are.
#[derive(Clone, Debug, Default, Args)]
pub struct Within {
    /// The port that they are on.
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// The layer that they are in.
    #[arg(long, value_name = "NAME")]
    pub layer: Option<String>,
    /// The direction of their group.
    #[arg(long, value_enum)]
    pub direction: Option<DirectionArg>,
    /// The group that they are in.
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// The mapping table that they are in.
    #[arg(long, value_name = "NAME")]
    pub mapping: Option<String>,
}

impl Within {
    fn is_empty(&self) -> bool {
        let Within { port, layer, direction, group, mapping } = self;
        [port, layer, group, mapping].iter().all(|field| field.is_none()) && direction.is_none()
    }

    /// All objects of `kind` in these.
    pub fn selector(&self, kind: Kind) -> Ref {
        Ref {
            kind: kind.into(),
            port: self.port.clone().unwrap_or_default(),
            layer: self.layer.clone().unwrap_or_default(),
            direction: direction(self.direction),
            group: self.group.clone().unwrap_or_default(),
            mapping: self.mapping.clone().unwrap_or_default(),
            name: String::new(),
        }
    }

    /// The objects of `kind` called `name` in these.
    pub fn named(&self, kind: Kind, name: &str) -> Result<Ref, Usage> {
        let mut object = self.selector(kind);
        let parents = parents(kind);
        if !self.is_empty() || parents.is_empty() || !name.contains('/') {
            object.name = name.into();
            return Ok(object);
        }
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() != parents.len() + 1 {
            return Err(Usage(format!("`{name}` does not name a {}: write {}", word(kind), pattern(kind))));
        }
        for (parent, part) in parents.iter().zip(&parts) {
            match *parent {
                Parent::Port => object.port = (*part).into(),
                Parent::Layer => object.layer = (*part).into(),
                Parent::Group => object.group = (*part).into(),
                Parent::Mapping => object.mapping = (*part).into(),
                Parent::Direction => {
                    let parsed = match *part {
                        "inbound" | "in" => Direction::Inbound,
                        "outbound" | "out" => Direction::Outbound,
                        _ => {
                            return Err(Usage(format!(
                                "`{part}` in `{name}` is neither inbound nor outbound"
                            )));
                        }
                    };
                    object.direction = parsed.into();
                }
            }
        }
        object.name = parts[parents.len()].into();
        Ok(object)
    }

    /// The one object of `kind` called `name` in these: nothing may be left open.
    pub fn exactly(&self, kind: Kind, name: &str) -> Result<Ref, Usage> {
        let object = self.named(kind, name)?;
        let missing = parents(kind).iter().find(|parent| match parent {
            Parent::Port => object.port.is_empty(),
            Parent::Layer => object.layer.is_empty(),
            Parent::Direction => object.direction() == Direction::Unspecified,
            Parent::Group => object.group.is_empty(),
            Parent::Mapping => object.mapping.is_empty(),
        });
        match missing {
            Some(parent) => Err(Usage(format!(
                "`{name}` may be more than one {}: write {}, or add --{}",
                word(kind),
                pattern(kind),
                format!("{parent:?}").to_lowercase()
            ))),
            None => Ok(object),
        }
    }
}

/// What an object can be in.
#[derive(Clone, Copy, Debug)]
enum Parent {
    Port,
    Layer,
    Direction,
    Group,
    Mapping,
}

fn parents(kind: Kind) -> &'static [Parent] {
    use Parent::{Direction, Group, Layer, Mapping, Port};
    match kind {
        Kind::Layer => &[Port],
        Kind::Group => &[Port, Layer, Direction],
        Kind::Rule => &[Port, Layer, Direction, Group],
        Kind::MappingEntry => &[Mapping],
        _ => &[],
    }
}

/// How a whole name of `kind` is written.
fn pattern(kind: Kind) -> String {
    let parents: String =
        parents(kind).iter().map(|parent| format!("{}/", format!("{parent:?}").to_uppercase())).collect();
    format!("{parents}NAME")
}

/// The headings of the columns that name an object of `kind`.
pub fn headings(kind: Kind) -> Vec<String> {
    let parents = parents(kind).iter().map(|parent| format!("{parent:?}").to_uppercase());
    parents.chain(["NAME".to_string()]).collect()
}

/// What stands below them for `object`.
pub fn cells(object: &Ref) -> Vec<String> {
    let parents = parents(object.kind()).iter().map(|parent| match parent {
        Parent::Port => object.port.clone(),
        Parent::Layer => object.layer.clone(),
        Parent::Direction => way(object.direction).to_string(),
        Parent::Group => object.group.clone(),
        Parent::Mapping => object.mapping.clone(),
    });
    parents.chain([object.name.clone()]).collect()
}

/// `inbound`, `outbound`, or nothing, of the contract's number.
pub fn way(direction: i32) -> &'static str {
    match Direction::try_from(direction) {
        Ok(Direction::Inbound) => "inbound",
        Ok(Direction::Outbound) => "outbound",
        _ => "",
    }
}

/// The word for a kind.
pub fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "object",
        Kind::Port => "port",
        Kind::Layer => "layer",
        Kind::Group => "group",
        Kind::Rule => "rule",
        Kind::Mapping => "mapping",
        Kind::MappingEntry => "mapping-entry",
        Kind::Targets => "targets",
        Kind::Prefixes => "prefixes",
        Kind::Meter => "meter",
        Kind::Limit => "limit",
        Kind::Leases => "leases",
        Kind::Dns => "dns",
        Kind::Metadata => "metadata",
        Kind::Multicast => "multicast",
    }
}

/// The whole name of `object` without its kind: `vm1/acl`.
pub fn path(object: &Ref) -> String {
    cells(object).join("/")
}

/// The whole name of `object` with its kind: `layer vm1/acl`.
pub fn full(object: &Ref) -> String {
    super::output::printable(format!("{} {}", word(object.kind()), path(object)).trim_end())
}

/// `object` as JSON: its kind and what names it.
pub fn to_json(object: &Ref) -> Value {
    let mut value = json!({ "kind": word(object.kind()) });
    for parent in parents(object.kind()) {
        match parent {
            Parent::Port => value["port"] = json!(object.port),
            Parent::Layer => value["layer"] = json!(object.layer),
            Parent::Direction => value["direction"] = json!(way(object.direction)),
            Parent::Group => value["group"] = json!(object.group),
            Parent::Mapping => value["mapping"] = json!(object.mapping),
        }
    }
    if object.kind() != Kind::Multicast {
        value["name"] = json!(object.name);
    }
    value
}

/// A reference to a thing of `kind` called `name` that is in nothing.
pub fn plain(kind: Kind, name: &str) -> Ref {
    Ref { kind: kind.into(), name: name.into(), ..Ref::default() }
}

/// What names an entry in its table: `address`, or `address@tenant`.
pub fn entry(entry: &v1::MappingEntry) -> String {
    match entry.tenant() {
        0 => entry.address.clone(),
        tenant => format!("{}@{tenant}", entry.address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_or_completed_by_flags() {
        let nowhere = Within::default();
        let rule = nowhere.exactly(Kind::Rule, "vm1/acl/in/web/open").unwrap();
        assert_eq!(path(&rule), "vm1/acl/inbound/web/open");
        assert!(
            nowhere
                .exactly(Kind::Rule, "vm1/acl/open")
                .unwrap_err()
                .0
                .contains("PORT/LAYER/DIRECTION/GROUP/NAME")
        );
        assert!(nowhere.named(Kind::Rule, "vm1/acl/up/web/open").unwrap_err().0.contains("neither"));
        assert!(nowhere.exactly(Kind::Layer, "acl").unwrap_err().0.contains("--port"));
        let on = Within { port: Some("vm1".into()), ..Within::default() };
        assert_eq!(
            path(&on.exactly(Kind::Layer, "a/b").unwrap()),
            "vm1/a/b",
            "with a flag the name is whole"
        );
        assert_eq!(path(&nowhere.exactly(Kind::Meter, "a/b").unwrap()), "a/b");
    }
}
