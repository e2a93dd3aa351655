//! Policy as written: the documents that people and controllers hand to Lamina.
//!
//! [`parse`] reads a YAML (or JSON, which is YAML too) document into a [`Document`]: typed values that each know
//! their place in the text. Mistakes come back as a [`Report`], all that can be found at once, each underlined at
//! its place with what to do. Nothing here knows the switch: what a document means is decided where it is
//! converted, and converters report through the same [`Diagnostic`].
//!
//! The reference page of the format is `docs/reference/policy.md`.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod decode;
pub mod diagnostic;
pub mod document;
pub mod pcapng;
pub mod source;
pub mod suggest;
pub mod topology;
mod tree;
mod value;
pub mod wire;

pub use diagnostic::{Code, Diagnostic, Label, Report, Severity};
pub use document::{Document, parse};
pub use source::{At, Source, Span};
pub use value::{BadMac, Mac, Name};
