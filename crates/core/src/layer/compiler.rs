//! From policy to program, off the packet path (§7, §11).
//!
//! A [`Compiler`] is plain data that may live on another thread than the switch that runs its programs: what it
//! makes is handed over as an `Arc` and installed ([`crate::switch::Switch::install`]). It must never change what
//! it has handed out.
//!
//! It compiles what is new. A program is made as the successor of the port's newest one that somebody else holds:
//! what both have in common is shared, and a switch that runs that one installs this one in a time that does not
//! depend on how many rules there are. So a program that is not to be installed (a dry run) should be dropped before
//! the next one is compiled; if it is not, nothing goes wrong, but the next install carries all counts by name.
//!
//! Compiling frees nothing: what is no longer used may be large, and somebody waits for what is new. Whoever compiles takes
//! it when there is time ([`Compiler::collect`]).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use hashbrown::HashMap;

use super::base_cache::{BaseCache, BaseCode};
use super::{Policy, Program, RuleList, Selection};
use crate::resource::Resources;
use crate::switch::PortId;

/// Compiles the policies of ports.
#[derive(Debug, Default)]
pub struct Compiler {
    cache: BaseCache,
    /// Programs of each port, oldest first. They are held so that they are freed here and not by who runs packets.
    programs: HashMap<PortId, Vec<Arc<Program>>, crate::hash::TableHasher>,
}

/// Why a policy does not compile: the text names the layer, group and rule, and says what is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompileError(pub String);

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for CompileError {}

/// A list whose edits were folded into a new base, compiled. See [`Compiler::rebuild`].
#[derive(Debug)]
pub struct Rebuilt {
    from: RuleList,
    list: RuleList,
    selection: Selection,
    code: Arc<BaseCode>,
}

impl Compiler {
    /// A compiler that knows nothing yet.
    pub fn new() -> Compiler {
        Compiler::default()
    }

    /// Compiles the policy of `port`. When it fails, nothing has changed.
    ///
    /// Takes as long as what differs from the port's program before: rules that are shared with it are not looked at.
    pub fn compile(&mut self, port: PortId, policy: &Policy) -> Result<Arc<Program>, CompileError> {
        let programs = self.programs.entry(port).or_default();
        let predecessor = programs.iter().rev().find(|program| Arc::strong_count(program) > 1);
        let program = Program::compile(policy, predecessor, &mut self.cache).map_err(CompileError)?;
        let program = Arc::new(program);
        programs.push(program.clone());
        Ok(program)
    }

    /// Hands out the programs that nothing else holds any more: dropping them frees them, which takes as long as what
    /// nobody shares with them is large. To be called after programs were replaced, else they pile up.
    pub fn collect(&mut self) -> Vec<Arc<Program>> {
        let mut unused = Vec::new();
        self.programs.retain(|_, programs| {
            unused.extend(programs.extract_if(.., |program| Arc::strong_count(program) == 1));
            !programs.is_empty()
        });
        unused
    }

    /// Folds the edits of `list`, the rules of a group with `selection`, into a new base and compiles that: the long
    /// part of a change, to be done on another thread when [`RuleList::should_rebuild`] says so. Then
    /// [`Compiler::adopt`] it.
    pub fn rebuild(list: &RuleList, selection: Selection) -> Rebuilt {
        let rebuilt = list.rebuilt();
        let code = Arc::new(BaseCode::build(&rebuilt, selection, &Resources::default()));
        Rebuilt { from: list.clone(), list: rebuilt, selection, code }
    }

    /// Makes use of a rebuilt list: what `current`, the group's rules by now, are on the new base. To be compiled
    /// while `rebuilt` is held. `None` when the group has another base by now, so that the rebuild was in vain.
    pub fn adopt(&mut self, rebuilt: &Rebuilt, current: &RuleList) -> Option<RuleList> {
        let list = current.rebased(&rebuilt.from, &rebuilt.list)?;
        self.cache.insert(&rebuilt.list, rebuilt.selection, &rebuilt.code);
        Some(list)
    }
}
