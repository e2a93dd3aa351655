//! `lamina daemon` as a process: killed, stopped, reloaded, and programmed by processes that come and go.

mod controllers;
mod devices;
mod kill;
mod misses;
mod python;
mod random;
mod rig;
mod signals;
