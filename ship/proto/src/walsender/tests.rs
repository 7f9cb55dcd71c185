//! Tests of the walsender.
