//! Tests of the walreceiver.
