//! What is decided about WAL that is here: who may stream it, how long it stays, which standbys commits wait
//! for, on which timeline it goes on.

pub(crate) mod admit;
pub(crate) mod attached;
pub(crate) mod histories;
pub(crate) mod promotion;
pub(crate) mod retention;
pub(crate) mod slot_files;
pub(crate) mod slots;
pub(crate) mod switch;
pub(crate) mod sync;
