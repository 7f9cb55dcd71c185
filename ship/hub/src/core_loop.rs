//! One core's loop: completions in, turns, wait.
//!
//! There is no decision here and nothing about PostgreSQL: whatever a core hosts is told the time
//! and its completions, and says when it wants to be called again.

use std::io;

use walhub_engine::io::{Completion, Io, Waker};
use walhub_proto::time::{Instant, Now, Timestamp};

use crate::serve::ship_core::{SHIP_TAG, ShipCore};
use crate::wal_core::{WAL_TAG, WalCore};

/// What runs on one core.
pub struct Core<C: Send, W> {
    /// On core 0.
    pub wal: Option<WalCore<C, W>>,
    /// On every ship core; core 0 may be one too.
    pub ship: Option<ShipCore<C>>,
}

/// Both clocks of an `Io`.
pub fn now<I: Io>(io: &I) -> Now {
    Now { instant: Instant(io.now_ns()), wall: Timestamp::from_unix_micros(io.unix_micros()) }
}

impl<C: Send + 'static, W: Waker> Core<C, W> {
    /// Does everything that can be done now; false when there is nothing left to do at all.
    pub fn turn<I: Io<Conn = C>>(&mut self, io: &mut I) -> bool {
        let now = now(io);
        if let Some(wal) = &mut self.wal {
            wal.turn(io, now);
        }
        if let Some(ship) = &mut self.ship {
            ship.turn(io, now);
            if ship.take_news() {
                match &mut self.wal {
                    Some(wal) => wal.take_replies(io, now),
                    None => ship.wake_wal_core(),
                }
            }
        }
        match (&self.wal, &self.ship) {
            (Some(wal), _) => !wal.is_stopped(),
            (None, Some(ship)) => !ship.is_drained(),
            (None, None) => false,
        }
    }

    /// When [`Core::turn`] must be called next, in nanoseconds.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        let wal = self.wal.as_ref().and_then(WalCore::deadline);
        let ship = self.ship.as_ref().and_then(ShipCore::deadline);
        wal.into_iter().chain(ship).min().map(|instant| instant.0)
    }

    /// Takes one completion.
    pub fn handle<I: Io<Conn = C>>(&mut self, io: &mut I, completion: Completion) {
        let now = now(io);
        if completion.token.0 & WAL_TAG != 0 {
            if let Some(wal) = &mut self.wal {
                wal.handle(io, now, completion);
            }
        } else if completion.token.0 & SHIP_TAG != 0
            && let Some(ship) = &mut self.ship
        {
            ship.handle(io, now, completion);
        }
    }

    /// Runs until the hub is stopped.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn run<I: Io<Conn = C>>(&mut self, io: &mut I) -> io::Result<()> {
        let mut completions = Vec::new();
        while self.turn(io) {
            io.wait(self.deadline_ns(), &mut completions)?;
            for completion in completions.drain(..) {
                self.handle(io, completion);
            }
        }
        Ok(())
    }
}
