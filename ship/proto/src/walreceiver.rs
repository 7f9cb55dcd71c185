//! One upstream session: identify, start, stream, end of timeline.
