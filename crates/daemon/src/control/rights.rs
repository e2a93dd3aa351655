//! Who may be which controller: by the peer credentials of the socket, as the configuration says (§12).

use std::collections::BTreeMap;
use std::sync::Arc;

use lamina_core::layer::Name;

use super::mistake::{Mistakes, mistake};

/// The owner of what a document that names no owner puts.
const DEFAULT_OWNER: &str = "local";

/// The user at the other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Its user id.
    pub uid: u32,
    /// Its main group id.
    pub gid: u32,
    /// Its further groups.
    pub groups: Arc<[u32]>,
}

impl Caller {
    fn is_in(&self, groups: &[u32]) -> bool {
        groups.iter().any(|group| *group == self.gid || self.groups.contains(group))
    }
}

/// What one controller may do, and who may be it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Controller {
    /// Users that may be it.
    pub uids: Vec<u32>,
    /// Groups whose members may be it.
    pub gids: Vec<u32>,
    /// Whether it may make and remove ports.
    pub may_ports: bool,
}

/// Everybody's rights.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// Controllers by name.
    pub controllers: BTreeMap<Name, Controller>,
    /// Users that may be every controller, also ones that are not listed: normally root and the daemon's own user.
    pub administrators: Vec<u32>,
    /// Users (and groups, below) that may read without being any controller. Empty together with the groups: everybody
    /// who can open the socket.
    pub reader_uids: Vec<u32>,
    /// Groups whose members may read.
    pub reader_gids: Vec<u32>,
}

impl Rights {
    /// True when `caller` may do everything.
    pub fn is_administrator(&self, caller: &Caller) -> bool {
        self.administrators.contains(&caller.uid)
    }

    fn may_be(&self, caller: &Caller, controller: &Controller) -> bool {
        controller.uids.contains(&caller.uid) || caller.is_in(&controller.gids)
    }

    /// The controllers that `caller` may be, of those that are listed. An administrator where none is listed: the owner of
    /// documents that name none.
    pub fn controllers_of(&self, caller: &Caller) -> Vec<Name> {
        let all = self.is_administrator(caller);
        if all && self.controllers.is_empty() {
            return vec![DEFAULT_OWNER.into()];
        }
        let mine = self.controllers.iter().filter(|(_, controller)| all || self.may_be(caller, controller));
        mine.map(|(name, _)| name.clone()).collect()
    }

    /// True when `caller` may ask what the switch does.
    pub fn may_read(&self, caller: &Caller) -> bool {
        let anybody = self.reader_uids.is_empty() && self.reader_gids.is_empty();
        anybody
            || self.is_administrator(caller)
            || self.reader_uids.contains(&caller.uid)
            || caller.is_in(&self.reader_gids)
            || !self.controllers_of(caller).is_empty()
    }

    /// The controller that `caller` acts as: the one that it asks for, or the only one that it may be.
    pub fn acting_as(&self, caller: &Caller, asked: &str) -> Result<Name, Mistakes> {
        if asked.is_empty() {
            let mine = self.controllers_of(caller);
            return match &mine[..] {
                [only] => Ok(only.clone()),
                [] => Err(mistake(
                    "not-a-controller",
                    format!("user {} may not be any controller", caller.uid),
                    "list the user under `controllers` in the daemon's configuration, or be another user",
                )
                .into()),
                several => Err(mistake(
                    "which-controller",
                    format!("user {} may be {}", caller.uid, several.join(", ")),
                    "say which one the request is from: `--as` of the command, `controller` of the API",
                )
                .into()),
            };
        }
        let name = lamina_api::wire::read::name(asked).map_err(Mistakes::from)?;
        let listed = self.controllers.get(&name);
        if self.is_administrator(caller) || listed.is_some_and(|listed| self.may_be(caller, listed)) {
            return Ok(name);
        }
        let help = match listed {
            Some(_) => format!("list the user under `controllers.{asked}` in the daemon's configuration"),
            None => format!("add a controller `{asked}` to the daemon's configuration"),
        };
        let message = format!("user {} may not be the controller `{asked}`", caller.uid);
        Err(mistake("not-that-controller", message, help).into())
    }

    /// Refuses where `controller` may not make or remove ports.
    pub fn check_ports(&self, controller: &str) -> Result<(), Mistakes> {
        match self.controllers.get(controller) {
            Some(listed) if !listed.may_ports => Err(mistake(
                "no-ports",
                format!("the controller `{controller}` may not make or remove ports"),
                format!("set `controllers.{controller}.ports = true` in the daemon's configuration"),
            )
            .into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights() -> Rights {
        let controller = |uid, may_ports| Controller { uids: vec![uid], gids: vec![], may_ports };
        Rights {
            controllers: BTreeMap::from([
                ("acl".into(), controller(1001, false)),
                ("vnet".into(), controller(1002, true)),
                ("slb".into(), controller(1002, true)),
            ]),
            administrators: vec![0],
            reader_uids: vec![5],
            reader_gids: vec![],
        }
    }

    #[test]
    fn a_caller_is_what_the_configuration_says() {
        let rights = rights();
        let user = |uid| Caller { uid, gid: uid, groups: Arc::default() };
        assert_eq!(rights.acting_as(&user(1001), "").as_deref(), Ok("acl"));
        assert_eq!(rights.acting_as(&user(1001), "acl").as_deref(), Ok("acl"));
        assert_eq!(rights.acting_as(&user(0), "anything").as_deref(), Ok("anything"));
        let code = |result: Result<Name, Mistakes>| result.unwrap_err().0[0].code.clone();
        assert_eq!(code(rights.acting_as(&user(1001), "vnet")), "not-that-controller");
        assert_eq!(code(rights.acting_as(&user(1002), "")), "which-controller");
        assert_eq!(code(rights.acting_as(&user(7), "")), "not-a-controller");
        assert!(rights.may_read(&user(5)) && rights.may_read(&user(1001)) && !rights.may_read(&user(7)));
        assert!(rights.check_ports("acl").is_err() && rights.check_ports("vnet").is_ok());
    }

    #[test]
    fn where_no_controller_is_listed_an_administrator_is_the_default_owner() {
        let rights = Rights { controllers: BTreeMap::new(), ..rights() };
        let user = |uid| Caller { uid, gid: uid, groups: Arc::default() };
        assert_eq!(rights.acting_as(&user(0), "").as_deref(), Ok("local"));
        assert_eq!(rights.controllers_of(&user(0)), ["local".into()]);
        assert!(rights.acting_as(&user(1001), "").is_err() && rights.controllers_of(&user(1001)).is_empty());
    }

    #[test]
    fn groups_count_whether_they_are_the_main_one_or_not() {
        let mut rights = rights();
        rights.controllers.insert("dns".into(), Controller { gids: vec![50, 51], ..Controller::default() });
        rights.reader_gids = vec![60];
        let caller = |gid, groups: &[u32]| Caller { uid: 9, gid, groups: groups.into() };
        for member in [caller(50, &[]), caller(9, &[8, 51]), caller(51, &[50])] {
            assert_eq!(rights.acting_as(&member, "").as_deref(), Ok("dns"), "{member:?}");
            assert!(rights.may_read(&member));
        }
        assert!(rights.may_read(&caller(9, &[60])) && rights.may_read(&caller(60, &[])));
        let stranger = caller(9, &[8, 52]);
        assert!(rights.acting_as(&stranger, "dns").is_err() && !rights.may_read(&stranger));
    }
}
