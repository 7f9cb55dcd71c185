//! The end of the server in good order: everything durable is sent, slots and the control file are saved.
//!
//! PostgreSQL: `ShutdownXLOG`.

use std::sync::atomic::Ordering;

use walhub_engine::io::{Io, Waker};
use walhub_proto::time::Now;

use crate::intake::own::OwnWal;
use crate::mail::{StopMode, ToControl};
use crate::policy::promotion;
use crate::store::control_file::ControlFileKeeper;
use crate::wal_core::duty::Duty;
use crate::wal_core::{Stopping, WalCore};

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    pub(super) fn handle_stop<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, mode: StopMode) {
        if self.stopping != Stopping::No || mode == StopMode::Immediate {
            return;
        }
        self.config.shared.stopping.store(true, Ordering::Release);
        self.stopping = Stopping::Flushing;
        // A promotion whose files are being made goes on: the next start may be a primary's already.
        if !self.is_switching() {
            self.end_promotion(&Err(promotion::shutting_down()));
        }
        self.link.stop(io, now);
    }

    pub(super) fn turn_stopping<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        match self.stopping {
            Stopping::No | Stopping::Done => {}
            Stopping::Flushing if self.is_switching() => {}
            Stopping::Flushing => {
                self.end_promotion(&Err(promotion::shutting_down()));
                if let (Duty::Write(own), Some(store)) = (&mut self.duty, &self.store) {
                    own.close(now, &store.local);
                }
                self.turn_own(now);
                self.pump(io);
                // What was durable last is not told before the control file says so, if it can.
                if self.control_file().is_some_and(ControlFileKeeper::is_awaited) {
                    return;
                }
                let is_stuck = self.switch.is_some();
                let settled = self.local().is_none_or(|local| {
                    local.is_flushed() || local.is_paused() || is_stuck && local.is_idle()
                });
                let has_ended = self.duty.own().is_none_or(OwnWal::has_ended);
                if !self.link.is_closed() || !has_ended || !settled {
                    return;
                }
                // Not what is durable but could not be vouched for on a full disk.
                let end = self.config.shared.flush_lsn.load();
                let ships = self.ships.stop(end);
                self.stopping = Stopping::Draining { ships };
            }
            Stopping::Draining { ships: 0 } => {
                if !self.jobs.is_idle() {
                    return;
                }
                self.housekeep(io, now);
                self.move_bound();
                self.save_control(io);
                self.stopping = Stopping::Closing;
                self.turn_stopping(io, now);
            }
            // If it could not be saved, the next start reads from the older bound.
            Stopping::Closing => {
                if self.jobs.is_idle() && !self.mark.is_busy() {
                    self.stopping = Stopping::Done;
                    (self.config.control)(ToControl::Stopped);
                }
            }
            Stopping::Draining { .. } => {}
        }
    }
}
