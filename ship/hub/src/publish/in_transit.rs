//! How many sessions are on their way to a ship core, and whether it still takes any.
//!
//! A core that stops must not end while a session is in its mail. Who sends one books a place first;
//! a core closes its in_transit before it ends, which works only while none is booked. `interleavings`
//! tries all orders.

use super::atomics::{AtomicUsize, Ordering};
use walhub_proto::convert::to_u64;

/// InTransit of a core that takes no more sessions.
const CLOSED: usize = usize::MAX;

/// Sessions that may be on their way to one core: far fewer than its mailbox holds.
pub const IN_TRANSIT_MAX: usize = 256;

/// Whether a session may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reservation {
    /// It may, and must.
    Booked,
    /// Not now.
    Full,
    /// Never again.
    Closed,
}

/// Sessions on their way to one core.
#[derive(Debug)]
pub struct InTransit {
    booked: AtomicUsize,
}

impl InTransit {
    /// Nobody is on the way.
    #[must_use]
    pub fn new() -> Self {
        Self { booked: AtomicUsize::new(0) }
    }

    /// Books a place for a session that is then sent.
    #[must_use]
    pub fn reserve(&self) -> Reservation {
        let mut booked = self.booked.load(Ordering::Relaxed);
        loop {
            match booked {
                CLOSED => return Reservation::Closed,
                IN_TRANSIT_MAX.. => return Reservation::Full,
                _ => {}
            }
            let next = booked + 1;
            match self.booked.compare_exchange(booked, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Reservation::Booked,
                Err(now) => booked = now,
            }
        }
    }

    /// A session has arrived.
    pub fn arrive(&self) {
        self.booked.fetch_sub(1, Ordering::Release);
    }

    /// Takes no more sessions. False, and nothing has changed, while one is on its way.
    #[must_use]
    pub fn close(&self) -> bool {
        let closed = self.booked.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Relaxed);
        closed.is_ok()
    }

    /// How many are on the way.
    #[must_use]
    pub fn count(&self) -> u64 {
        let booked = self.booked.load(Ordering::Relaxed);
        if booked == CLOSED { 0 } else { to_u64(booked) }
    }
}

impl Default for InTransit {
    fn default() -> Self {
        Self::new()
    }
}
