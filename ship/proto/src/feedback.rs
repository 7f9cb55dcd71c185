//! Hot standby feedback of many standbys, as one.
