//! What Lamina's tests share.

pub mod fuzz;
