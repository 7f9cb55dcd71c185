//! A ship core: the standby sessions of one thread.
//!
//! Wakes once per flush or receipt, not once per record: it reads the published position, gives it
//! to every session that is not busy sending, and submits all their sends in one go: a round. A
//! session whose send is under way takes everything that came meanwhile in one piece when it
//! completes. Rounds that come thick and fast are put off to go together (`pace`).
//!
//! With other cores beside it, a core keeps the sessions that it is for and gives the others away
//! (`moves`).
//!
//! Not here: one session's stream (`session`), who may have one (`wal_core`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use walhub_engine::buffer::BufferPool;
use walhub_engine::io::{Completion, Done, Io, Op, Token};
use walhub_engine::mailbox::Sender;
use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::{Instant, Now};
use walhub_proto::walsender::{WalSender, WalSenderConfig};
use walhub_proto::wire::backend::Report;

use crate::api::settings::{CatchupPath, HubSettings};
use crate::api::stream::{StartStreaming, StreamEnd};
use crate::mail::{NewWalsender, ToShip, ToWal};
use crate::publish::in_transit::Reservation;
use crate::publish::positions::{Shared, ShipStats, StandbyTable};
use crate::serve::moves::ShipPeers;
use crate::serve::pace::Pace;
use crate::serve::placement::{Destination, Placement, Serves};
use crate::serve::walsender::{
    Context, Moved, REPLY_BUFFER_LEN, SEALED_BUFFER_LEN, Walsender, WalsenderOp, WalsenderStart,
};
use crate::store::tail::TailView;
use crate::store::timelines::Timelines;

/// Upper bits of a ship core's tokens.
pub const SHIP_TAG: u64 = 1 << 62;
/// Closes of files that no session waits for.
const STRAY_CLOSE: u64 = SHIP_TAG | 1 << 61;
/// When to look again for a place at another core.
const BERTH_RETRY: Duration = Duration::from_millis(1);
/// Idle reply buffers kept per core.
const REPLY_BUFFERS_MAX: usize = 1024;
/// Idle read buffers kept per core.
const READ_BUFFERS_MAX: usize = 64;
/// Idle buffers for records kept per core.
const SEALED_BUFFERS_MAX: usize = 16;

/// What a ship core is made of.
#[derive(Debug)]
pub struct ShipConfig<C: Send> {
    /// Positions.
    pub shared: Arc<Shared>,
    /// All standbys.
    pub standbys: Arc<StandbyTable>,
    /// What it is among the others.
    pub peers: ShipPeers<C>,
    /// The wal core's.
    pub to_wal: Sender<ToWal<C>>,
    /// Where segments are.
    pub wal_dir: PathBuf,
    /// Slabs of the tail.
    pub slabs_max: usize,
    /// Settings.
    pub settings: Arc<HubSettings>,
    /// Whether segments are written past the page cache. Only then are pages of a segment that is
    /// used again replaced and not overwritten, and may be on their way to a standby.
    pub direct: bool,
}

/// The standby sessions of one thread.
#[derive(Debug)]
pub struct ShipCore<C: Send> {
    config: ShipConfig<C>,
    tail: TailView,
    timelines: Option<Arc<Timelines>>,
    sessions: BTreeMap<u64, Walsender<C>>,
    next_number: u64,
    /// End of what may be sent, read before the mail that has its slabs was.
    seen_lsn: Lsn,
    /// When sessions must be looked at; each is here once at most, at its `timer`.
    timers: BTreeSet<(Instant, u64)>,
    pace: Pace,
    /// Sessions that came from another core in this turn.
    arrived: Vec<u64>,
    /// Scratch memory of a round.
    numbers: Vec<u64>,
    /// Entries were marked since the wal core was last told.
    has_news: bool,
    /// Whether sessions may still go to other cores.
    may_give_away: bool,
    stop_at: Option<Lsn>,
    drained: bool,
    reads: BufferPool,
    replies: BufferPool,
    sealed: BufferPool,
}

impl<C: Send + 'static> ShipCore<C> {
    /// Without sessions.
    #[must_use]
    pub fn new(config: ShipConfig<C>) -> Self {
        let may_give_away = config.peers.live.len() + config.peers.catchup.len() > 1;
        let read_len = to_usize(config.settings.wal_sender_message_size);
        Self {
            config,
            tail: TailView::default(),
            timelines: None,
            sessions: BTreeMap::new(),
            next_number: 0,
            seen_lsn: Lsn::INVALID,
            timers: BTreeSet::new(),
            pace: Pace::default(),
            arrived: Vec::new(),
            numbers: Vec::new(),
            has_news: false,
            may_give_away,
            stop_at: None,
            drained: false,
            reads: BufferPool::new(read_len, READ_BUFFERS_MAX),
            replies: BufferPool::new(REPLY_BUFFER_LEN, REPLY_BUFFERS_MAX),
            sealed: BufferPool::new(SEALED_BUFFER_LEN, SEALED_BUFFERS_MAX),
        }
    }

    /// When [`ShipCore::turn`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|&(at, _)| at);
        timer.into_iter().chain(self.pace.put_off_until()).min()
    }

    /// Whether the wal core should look at the standbys' entries: one was marked since the last call,
    /// and somebody waits for standbys.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news) && self.config.shared.is_sync_defined()
    }

    /// Wakes the wal core, which runs on another thread.
    pub fn wake_wal_core(&self) {
        self.config.to_wal.wake();
    }

    /// Does everything that can be done now.
    pub fn turn<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        // The position first, the mail second: slabs are mailed before positions in them are
        // published. Sessions never look at the published position themselves: between two turns it
        // moves into slabs whose mail is not read yet.
        let sendable = self.config.shared.sendable_lsn();
        while let Some(mail) = self.config.peers.mail.recv() {
            self.handle_mail(io, now, mail);
        }
        if self.config.peers.serves == Serves::Catchup {
            // Its sessions look when their sends complete: there are no rounds.
            self.seen_lsn = sendable;
        }
        let stats = self.config.peers.stats.counts();
        self.pace.handle_turn(now.instant, stats.sends.load(Ordering::Relaxed));
        if sendable != self.seen_lsn {
            // A commit that waits for standbys is not put off.
            let delay_max = match self.config.shared.is_sync_defined() || self.stop_at.is_some() {
                true => Duration::ZERO,
                false => self.config.settings.coalesce_us,
            };
            let was_put_off = self.pace.put_off_until().is_some();
            if self.pace.may_begin(now.instant, delay_max) {
                self.seen_lsn = sendable;
                self.pump_all(io, now);
            } else if !was_put_off {
                ShipStats::add(&stats.rounds_put_off, 1);
            }
        }
        let mut arrived = std::mem::take(&mut self.arrived);
        for number in arrived.drain(..) {
            self.with_session(io, now, number, Walsender::pump);
        }
        self.arrived = arrived;
        self.run_timers(io, now);
        self.tell_when_drained();
    }

    /// Takes a completion whose token carries [`SHIP_TAG`].
    pub fn handle<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, completion: Completion) {
        if completion.token.0 & STRAY_CLOSE == STRAY_CLOSE {
            return;
        }
        let bits = completion.token.0 & !SHIP_TAG;
        let Some(op) = WalsenderOp::from_number(bits & 7) else { return };
        if let Ok(Done::Released(released)) = completion.result {
            // Its session may have ended before.
            self.config.peers.stats.count_released(released);
        }
        self.with_session(io, now, bits >> 3, |session, context| {
            session.handle(context, op, completion.result);
        });
        self.tell_when_drained();
    }

    fn handle_mail<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, mail: ToShip<C>) {
        match mail {
            ToShip::Slab(slab) => self.tail.push(slab, self.config.slabs_max),
            ToShip::Begin(timelines) => self.timelines = Some(timelines),
            ToShip::Timelines(timelines) => self.switch_timeline(io, now, timelines),
            ToShip::Start(session) => self.begin(io, now, session),
            ToShip::Move(moved) => self.take_over(io, now, *moved),
            ToShip::End { standby, report } => {
                let mut sessions = self.sessions.iter();
                let Some((&number, _)) = sessions.find(|(_, session)| session.standby == standby)
                else {
                    return;
                };
                self.with_session(io, now, number, |session, context| session.end(context, report));
            }
            ToShip::Settings(settings) => {
                self.config.settings = settings;
                let config = self.sender_config();
                for session in self.sessions.values_mut() {
                    session.set_config(config);
                }
                // Deadlines may be nearer now.
                self.pump_all(io, now);
            }
            ToShip::Stop { end } => {
                self.stop_at = Some(end);
                self.may_give_away = false;
                for session in self.sessions.values_mut() {
                    session.begin_stop(now, end);
                }
                self.pump_all(io, now);
            }
        }
    }

    fn switch_timeline<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        timelines: Arc<Timelines>,
    ) {
        for session in self.sessions.values_mut() {
            if let Some((switchpoint, _)) = timelines.history.switchpoint(session.timeline) {
                session.end_timeline(now, switchpoint);
            }
        }
        self.timelines = Some(timelines);
        self.pump_all(io, now);
    }

    fn begin<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, new: NewWalsender<C>) {
        let NewWalsender { start, standby, reply } = new;
        let Some(timelines) = self.timelines.clone() else {
            let report =
                Report::fatal(SqlState::CANNOT_CONNECT_NOW, "the database system is starting up");
            let StartStreaming { conn, tls, unread, .. } = *start;
            let end = StreamEnd::Refused { conn, tls, unread, report };
            return self.mail_end(standby, reply, end);
        };
        let config = self.sender_config();
        let end_of_timeline =
            timelines.history.switchpoint(start.timeline).map(|(switchpoint, _)| switchpoint);
        let mut sender = WalSender::new(config, now, start.start, end_of_timeline);
        if let Some(end) = self.stop_at {
            sender.begin_stop(now, end);
        }
        let number = self.next_number;
        self.next_number += 1;
        let socket = io.adopt(start.conn);
        if let Err(error) = io.tune(socket, &self.config.settings.tcp_tuning()) {
            tracing::warn!(
                detail = "The settings are tcp_congestion_control, wal_sender_sndbuf and tcp_notsent_lowat.",
                "could not set options of the connection of standby \"{}\": {error}",
                start.client.application_name
            );
        }
        let session = Walsender::new(WalsenderStart {
            number,
            tag: SHIP_TAG,
            standby,
            client: start.client,
            reply,
            timeline: start.timeline,
            socket,
            zero_copy: io.zero_copy(socket),
            tls: start.tls,
            logical: start.logical,
            sender,
            unread: start.unread,
        });
        self.sessions.insert(number, session);
        self.count_sessions();
        self.with_session(io, now, number, |session, context| {
            session.take_replies(context);
            session.pump(context);
        });
    }

    /// Takes a session that another core gave away. It is looked at once the rest of the mail is read.
    fn take_over<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, moved: Moved<C>) {
        self.config.peers.in_transit.arrive();
        let Moved { mut session, conn, timelines } = moved;
        // The core that it comes from may have heard of a new timeline first.
        let own = self.timelines.as_ref().map(|own| own.current);
        if own.is_none_or(|own| own < timelines.current) {
            self.switch_timeline(io, now, timelines);
        }
        let number = self.next_number;
        self.next_number += 1;
        session.attach(number, io.adopt(conn), self.sender_config());
        let history = self.timelines.as_ref().map(|timelines| &timelines.history);
        let end = history.and_then(|history| history.switchpoint(session.timeline));
        session.catch_up_with(now, end.map(|(switchpoint, _)| switchpoint), self.stop_at);
        if self.config.standbys.standby(session.standby).must_end.load(Ordering::Acquire) {
            session.close(io);
        }
        self.sessions.insert(number, session);
        self.count_sessions();
        ShipStats::add(&self.config.peers.stats.counts().moved_in, 1);
        self.arrived.push(number);
    }

    /// Gives a session that has left to the core that it is to go to.
    fn give_away<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, number: u64) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let place = &self.config.peers;
        let home = self.config.standbys.standby(session.standby).home.load(Ordering::Relaxed);
        let other = match session.leaving_to() {
            Some(Destination::Catchup) => place.catchup.iter().min_by_key(|other| other.load()),
            Some(Destination::Home) if place.serves == Serves::Live && home == place.number => None,
            Some(Destination::Home) => place.live.get(home),
            None => None,
        };
        let Some(other) = other else {
            // It belongs here after all.
            session.stay();
            return self.with_session(io, now, number, Walsender::pump);
        };
        let place = other.in_transit.reserve();
        let (Reservation::Booked, Some(timelines)) = (place, &self.timelines) else {
            if place == Reservation::Closed {
                // The hub stops: every session ends where it is.
                self.may_give_away = false;
                session.stay();
                return self.with_session(io, now, number, Walsender::pump);
            }
            let at = now.instant + BERTH_RETRY;
            let old = session.timer.replace(at);
            self.timers.insert((at, number));
            old.filter(|&old| old != at).map(|old| self.timers.remove(&(old, number)));
            return;
        };
        let Some(session) = self.sessions.remove(&number) else { return };
        session.timer.map(|timer| self.timers.remove(&(timer, number)));
        let (moved, file) = session.detach(io, Arc::clone(timelines));
        let sent = other.mail.send(ToShip::Move(moved));
        assert!(sent.is_ok(), "a ship core does not read its mail");
        if let Some(file) = file {
            io.submit(Token(STRAY_CLOSE), Op::Close { file });
        }
        self.count_sessions();
    }

    fn placement(&self) -> Placement {
        let ShipPeers { serves, number, catchup, .. } = &self.config.peers;
        Placement { serves: *serves, number: *number, has_catchup: !catchup.is_empty() }
    }

    fn sender_config(&self) -> WalSenderConfig {
        WalSenderConfig {
            timeout: self.config.settings.wal_sender_timeout,
            message_bytes_max: self.config.settings.wal_sender_message_size,
        }
    }

    fn pump_all<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let stats = self.config.peers.stats.counts();
        ShipStats::add(&stats.rounds, 1);
        self.pace.begin(now.instant, stats.sends.load(Ordering::Relaxed));
        let mut numbers = std::mem::take(&mut self.numbers);
        numbers.extend(self.sessions.keys());
        for number in numbers.drain(..) {
            self.with_session(io, now, number, Walsender::pump);
        }
        self.numbers = numbers;
    }

    /// Looks at the sessions that are due.
    fn run_timers<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        while let Some(&(at, number)) = self.timers.first() {
            if at > now.instant {
                return;
            }
            self.timers.pop_first();
            if let Some(session) = self.sessions.get_mut(&number) {
                session.timer = None;
            }
            self.with_session(io, now, number, Walsender::pump);
        }
    }

    /// Runs `act` on a session, notes when it is due next, and ends it when it is over.
    fn with_session<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        number: u64,
        act: impl FnOnce(&mut Walsender<C>, &mut Context<'_, I>),
    ) {
        let placement = self.may_give_away.then(|| self.placement());
        let Some(timelines) = &self.timelines else { return };
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let standby = session.standby;
        let mut context = Context {
            io,
            now,
            tail: &self.tail,
            shared: &self.config.shared,
            sendable: self.seen_lsn,
            standby: self.config.standbys.standby(standby),
            has_news: false,
            timelines,
            wal_dir: &self.config.wal_dir,
            reads: &self.reads,
            replies: &self.replies,
            sealed: &self.sealed,
            placement,
            sendfile: self.config.direct && self.config.settings.catchup_path != CatchupPath::Read,
            zerocopy_send: self.config.settings.zerocopy_send,
            stats: &self.config.peers.stats,
        };
        act(session, &mut context);
        if context.has_news {
            self.config.standbys.mark(standby);
            self.has_news = true;
        }
        if session.has_left() {
            return self.give_away(io, now, number);
        }
        if !session.is_over(now.instant) {
            // A timer that fires early finds nothing to do and is set anew: that is far rarer than
            // replies, each of which moves the session's deadline away.
            if let Some(at) = session.deadline()
                && session.timer.is_none_or(|timer| at < timer)
            {
                let old = session.timer.replace(at);
                self.timers.insert((at, number));
                old.map(|old| self.timers.remove(&(old, number)));
            }
            return;
        }
        let Some(mut session) = self.sessions.remove(&number) else { return };
        session.timer.map(|timer| self.timers.remove(&(timer, number)));
        self.count_sessions();
        let Some(timelines) = &self.timelines else { return };
        let Some(reply) = session.reply.take() else { return };
        let (end, file) = session.finish(io, timelines);
        if let Some(file) = file {
            io.submit(Token(STRAY_CLOSE), Op::Close { file });
        }
        self.mail_end(standby, reply, end);
    }

    fn count_sessions(&self) {
        let count = to_u64(self.sessions.len());
        self.config.peers.stats.counts().sessions.store(count, Ordering::Relaxed);
    }

    fn mail_end(
        &self,
        standby: usize,
        reply: tokio::sync::oneshot::Sender<StreamEnd<C>>,
        end: StreamEnd<C>,
    ) {
        let mail = ToWal::Ended { standby, reply, end };
        assert!(self.config.to_wal.send(mail).is_ok(), "the wal core does not read its mail");
    }

    /// Whether the hub stops and every session has ended.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    fn tell_when_drained(&mut self) {
        let is_empty = self.sessions.is_empty();
        if self.stop_at.is_some()
            && is_empty
            && !self.drained
            && self.config.peers.in_transit.close()
        {
            self.drained = true;
            assert!(
                self.config.to_wal.send(ToWal::Drained).is_ok(),
                "the wal core does not read its mail"
            );
        }
    }
}

#[cfg(test)]
mod tests;
