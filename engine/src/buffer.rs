//! Aligned memory for I/O.
/// An owned, aligned buffer.
#[derive(Debug)]
pub struct Buffer(());
