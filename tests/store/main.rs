//! The checkpoint store: what it promises, and what the disk may do to it.

mod contract;
mod corruption;
mod crash;
mod full_disk;
mod ordering;
mod power_cut;
mod refusals;
mod speed;
mod support;
