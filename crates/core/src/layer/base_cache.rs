//! What was compiled of the bases of rule lists, so that everything that carries one shares it (§3.8).

use alloc::sync::{Arc, Weak};

use hashbrown::HashMap;

use super::Selection;
use super::facts::Facts;
use super::rule_list::{RuleBase, RuleList};
use crate::classify::BaseClassifier;
use crate::flow::Field;
use crate::resource::Resources;

/// What is compiled of a base, apart from any port.
#[derive(Debug)]
pub(crate) struct BaseCode {
    pub(crate) classifier: BaseClassifier,
    pub(crate) facts: Arc<Facts>,
}

/// The code of every base that is in use. It keeps nothing alive.
#[derive(Debug, Default)]
pub(crate) struct BaseCache {
    entries: HashMap<(usize, Option<Field>), Entry, crate::hash::TableHasher>,
    /// With so many entries, those that are over are looked for.
    clean_at: usize,
}

#[derive(Debug)]
struct Entry {
    /// While it is held, no other base has its address.
    _base: Weak<RuleBase>,
    code: Weak<BaseCode>,
}

impl BaseCode {
    pub(crate) fn build(list: &RuleList, selection: Selection, resources: &Resources) -> BaseCode {
        let rules = &list.base.rules;
        BaseCode {
            classifier: BaseClassifier::build(rules, selection, resources),
            facts: Arc::new(Facts::of(rules)),
        }
    }
}

impl BaseCache {
    /// The code of the base of `list`, compiled now if nobody has it.
    pub(crate) fn code(
        &mut self,
        list: &RuleList,
        selection: Selection,
        resources: &Resources,
    ) -> Arc<BaseCode> {
        let known = self.entries.get(&key(list, selection));
        if let Some(code) = known.and_then(|entry| entry.code.upgrade()) {
            return code;
        }
        let code = Arc::new(BaseCode::build(list, selection, resources));
        self.insert(list, selection, &code);
        code
    }

    /// Remembers `code` while somebody holds it.
    pub(crate) fn insert(&mut self, list: &RuleList, selection: Selection, code: &Arc<BaseCode>) {
        if self.entries.len() >= self.clean_at {
            self.entries.retain(|_, entry| entry.code.strong_count() > 0);
            self.clean_at = self.entries.len() * 2 + 16;
        }
        let entry = Entry { _base: Arc::downgrade(&list.base), code: Arc::downgrade(code) };
        self.entries.insert(key(list, selection), entry);
    }
}

fn key(list: &RuleList, selection: Selection) -> (usize, Option<Field>) {
    let field = match selection {
        Selection::Priority => None,
        Selection::LongestPrefix(field) => Some(field),
    };
    (Arc::as_ptr(&list.base).addr(), field)
}
