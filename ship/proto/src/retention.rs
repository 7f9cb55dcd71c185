//! Which segments may be removed or recycled.
