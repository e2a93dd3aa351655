//! The host API over its socket: what a controller may rely on.

mod bounds;
mod durable;
mod events;
mod guards;
mod owners;
mod rig;
mod status;
mod transactions;
