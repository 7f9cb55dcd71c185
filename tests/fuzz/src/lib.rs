//! One function for each decoder that reads what a peer, a client or a disk gave.
//!
//! Each takes any bytes and ends in assertions: nothing panics, a message that is cut is not taken for
//! another one, what was decoded can be encoded to the same. `tests/fuzz/run` looks for inputs with
//! libFuzzer; the inputs it has found before are in `corpus/`, and the test suite runs all of them.
//!
//! Checksums are not in the way: what checks one is given a function that says the same for everything.

mod access;
mod client;
mod console;
mod disk;
mod text;
mod upstream;
mod wal;

/// A decoder under test.
pub type Target = fn(&[u8]);

/// Every target, by name.
pub const TARGETS: [(&str, Target); 20] = [
    ("command", client::command),
    ("conninfo", text::conninfo),
    ("console", console::console),
    ("control_file", disk::control_file),
    ("decoder", wal::decoder),
    ("end_of_wal", wal::end_of_wal),
    ("error_response", upstream::error_response),
    ("frontend", client::frontend),
    ("hba", access::hba),
    ("history", disk::history),
    ("passfile", text::passfile),
    ("pid_file", disk::pid_file),
    ("records", wal::records),
    ("sasl", client::sasl),
    ("secret", text::secret),
    ("settings", text::settings),
    ("slot_file", disk::slot_file),
    ("standby_names", text::standby_names),
    ("walreceiver", upstream::walreceiver),
    ("walsender", client::walsender),
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|&(_, target)| target)
}

/// Cuts pieces off the front of `bytes`; how long each is, the first byte says.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (len, rest) = match bytes.split_first() {
        Some((&first, rest)) => (usize::from(first) + 1, rest),
        None => (1, bytes),
    };
    rest.chunks(len)
}

/// A checksum that says the same of everything: damage is found by what is in the bytes.
fn no_crc(_: u32, _: &[u8]) -> u32 {
    0
}
