//! `lamina daemon` as a process: killed, stopped, reloaded, programmed by processes that come
//! and go; and its uplinks, against the kernel.

mod controllers;
mod devices;
mod full_disk;
mod kill;
mod misses;
mod next_hops;
mod python;
mod random;
mod rig;
mod signals;
mod tunnelled;
mod uplink;
