//! From policy to program, off the packet path (§7, §11).
//!
//! A [`Compiler`] is plain data that may live on another thread than the switch that runs its programs: what it
//! makes is handed over as an `Arc` and installed ([`crate::switch::Switch::install`]). It must never change what
//! it has handed out.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use super::program::ClassifierCache;
use super::{Policy, Program};
use crate::switch::PortId;

/// Compiles the policies of ports.
#[derive(Debug, Default)]
pub struct Compiler {
    cache: ClassifierCache,
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

impl Compiler {
    /// A compiler that knows nothing yet.
    pub fn new() -> Compiler {
        Compiler::default()
    }

    /// Compiles the policy of `port`. When it fails, nothing has changed.
    pub fn compile(&mut self, port: PortId, policy: &Policy) -> Result<Arc<Program>, CompileError> {
        let _ = port;
        Program::compile(policy.clone(), &mut self.cache).map(Arc::new).map_err(CompileError)
    }
}
