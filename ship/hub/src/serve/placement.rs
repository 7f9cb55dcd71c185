//! On which ship core a walsender is, and to which it goes.
//!
//! Not here: how it goes (`moves`), when (`walsender`).

/// Which standbys a ship core serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serves {
    /// Those that have nearly everything. It is woken by each new position.
    Live,
    /// Those that are behind the tail cache. It always has something to send, and is not woken.
    Catchup,
}

/// To which core a walsender goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Any core for standbys that are behind.
    Catchup,
    /// The core for live standbys that it belongs to.
    Home,
}

/// What a session must know of its core to tell whether it stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Which standbys the core serves.
    pub serves: Serves,
    /// Its number among those that serve the same.
    pub number: usize,
    /// Whether there are cores for those that are behind.
    pub has_catchup: bool,
}
