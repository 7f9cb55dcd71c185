//! When a session goes to another core, and what it must end before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use walhub_engine::io::{FileId, Io, Op, SocketId};
use walhub_proto::lsn::Lsn;
use walhub_proto::time::Now;
use walhub_proto::walsender::WalSenderConfig;

use super::{Context, Phase, Walsender, WalsenderOp};
use crate::serve::placement::{Destination, Serves};
use crate::store::timelines::Timelines;

/// A session between two cores.
#[derive(Debug)]
pub struct Moved<C> {
    /// The session; it has no socket and no file.
    pub session: Walsender<C>,
    /// Its socket.
    pub conn: C,
    /// The timelines that it knows of.
    pub timelines: Arc<Timelines>,
}

impl<C> Walsender<C> {
    /// Whether it goes to another core: then nothing is begun here any more, and the receive, which
    /// would wait for the standby, is cancelled.
    pub(super) fn must_leave<I: Io>(&mut self, context: &mut Context<'_, I>) -> bool {
        if self.phase != Phase::Streaming || context.placement.is_none() {
            self.leaving = None;
        } else if self.leaving.is_none() {
            self.leaving = self.destination(context);
            if self.leaving.is_some() && self.receiving {
                (self.cancelling, self.receive_cancelled) = (true, true);
                let op = Op::CancelRecv { socket: self.socket };
                context.io.submit(WalsenderOp::Cancel.token(self.tag, self.number), op);
            }
        }
        self.leaving.is_some()
    }

    /// Where it would go now, if it would.
    fn destination<I: Io>(&self, context: &Context<'_, I>) -> Option<Destination> {
        // A slow standby may take long to acknowledge; until then it is served here.
        let busy = self.sending.is_some()
            || self.reading.is_some()
            || self.file_busy
            || !self.is_released();
        if busy || self.cancelling || !self.sender.takes_messages() {
            return None;
        }
        let placement = context.placement?;
        let next = self.sender.sent_lsn();
        match placement.serves {
            Serves::Live => {
                let start = context.tail.start();
                let is_late = next < context.sendable && start.is_some_and(|start| next < start);
                if placement.has_catchup && is_late {
                    return Some(Destination::Catchup);
                }
                let home = context.standby.home.load(Ordering::Relaxed);
                (home != placement.number).then_some(Destination::Home)
            }
            Serves::Catchup => {
                let has_everything = next >= context.sendable && self.queued.is_empty();
                has_everything.then_some(Destination::Home)
            }
        }
    }

    /// Whether it goes to another core and nothing is under way any more.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.leaving_to().is_some() && self.is_idle()
    }

    /// Where it goes, while it does.
    #[must_use]
    pub fn leaving_to(&self) -> Option<Destination> {
        self.leaving.filter(|_| self.phase == Phase::Streaming)
    }

    /// Stays after all.
    pub fn stay(&mut self) {
        self.leaving = None;
    }

    /// Takes the session off its core, once [`Walsender::has_left`]. Its file is to be closed.
    ///
    /// # Panics
    /// If something is under way.
    pub fn detach<I: Io<Conn = C>>(
        mut self,
        io: &mut I,
        timelines: Arc<Timelines>,
    ) -> (Box<Moved<C>>, Option<FileId>) {
        assert!(self.has_left() && self.reading.is_none(), "a session leaves in the middle");
        self.leaving = None;
        self.timer = None;
        let file = self.file.take().map(|(_, file)| file);
        let conn = io.release(self.socket);
        (Box::new(Moved { session: self, conn, timelines }), file)
    }

    /// Puts the session on a core, under a number there.
    pub fn attach(&mut self, number: u64, socket: SocketId, config: WalSenderConfig) {
        (self.number, self.socket) = (number, socket);
        self.sender.set_config(config);
    }

    /// Tells the machine what happened while the session was on its way.
    pub fn catch_up_with(&mut self, now: Now, switchpoint: Option<Lsn>, stop_at: Option<Lsn>) {
        if let Some(switchpoint) = switchpoint {
            self.end_timeline(now, switchpoint);
        }
        if let Some(end) = stop_at {
            self.begin_stop(now, end);
        }
    }
}
