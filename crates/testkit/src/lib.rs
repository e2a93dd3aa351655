//! What tests of Lamina share: packets and the oracle.
//!
//! - [`wire`] is a naive codec: a frame as a plain list of headers, decoded and encoded byte by byte, every length
//!   and checksum worked out from nothing. It is slow on purpose and shares no code with the core.
//! - [`builder`] writes packets on top of it.
//! - [`fabric`] joins several switches by a simulated network on fake time; what it carries it judges by [`wire`].
//! - [`fuzz`] holds the bodies of the fuzz targets, as plain functions that ordinary tests replay.
//! - [`oracle`] is the slow switch: it walks every layer for every packet and caches nothing.
//! - [`spread`] is several switches that share the ports, as the workers of a host do.
//! - [`strategy`] makes random policies, packets and policy changes, and [`compare`] runs them through both;
//!   [`campaign`] does so many times.
//!
//! Nothing here may call the core's parser, transpositions, edits, classifiers or checksums: what shares code
//! shares its mistakes. The core's plain data (policies, fields, resources) is read, and its types for
//! addresses, time and drop reasons are used.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod builder;
pub mod campaign;
pub mod compare;
pub mod fabric;
pub mod fuzz;
pub mod message;
pub mod oracle;
pub mod spread;
pub mod strategy;
pub mod wire;
