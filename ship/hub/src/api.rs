//! What may be asked of the hub, and what it tells about itself: the room that others import.

pub mod append;
pub mod hub;
pub mod report;
pub mod rows;
pub mod settings;
pub mod stream;
pub mod tls;
