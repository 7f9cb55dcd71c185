//! The hub as the control plane sees it: published positions, mail to the wal core, rows of views.
//!
//! Lives on the control plane's thread; its locks are never taken by a core.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use walhub_engine::io::Fs;
use walhub_engine::mailbox::Sender;
use walhub_proto::history::{self, TimelineHistory};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::{ModeLsns, SyncRepConfig, SyncStandbys, WaitLevel};
use walhub_proto::time::Timestamp;
use walhub_proto::walsender::WalSenderState;
use walhub_proto::wire::backend::Report;

use crate::api::append::{Append, AppendAnswer, SyncWaitRow, Waited, WalRequest};
use crate::api::hub::Hub;
use crate::api::rows::{
    CoreStatsRow, Identity, Positions, SlotRow, Snapshot, WalReceiverRow, WalSenderRow,
};
use crate::api::settings::HubSettings;
use crate::api::stream::{Client, SlotRequest, StartStreaming, StreamEnd};
use crate::mail::{ConnectAnswer, NewWalsender, StopMode, ToWal};
use crate::publish::commits::Commits;
use crate::publish::latency::{LatencyRow, Stage};
use crate::publish::positions::{LAG_UNKNOWN, Shared, StandbyTable};
use crate::store::wal_reader::WalReader;

/// Rows of `pg_replication_slots`, replaced whole by the wal core.
pub type PublishedSlots = Arc<ArcSwap<Vec<SlotRow>>>;

/// Where the walreceiver is connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SenderAddress {
    /// Host or socket directory.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Connection string, passwords hidden.
    pub conninfo: String,
}

/// Who has an entry of the standby table, and which timeline it streams.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Session {
    client: Client,
    timeline: TimelineId,
}

/// The wall clock of the control plane. Cores are told the time by their `Io`.
pub struct Clock(pub Box<dyn Fn() -> Timestamp + Send + Sync>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// What a [`Handle`] is made of.
pub(crate) struct HandleParts<C: Send> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) standbys: Arc<StandbyTable>,
    pub(crate) slots: PublishedSlots,
    pub(crate) to_wal: Sender<ToWal<C>>,
    pub(crate) commits: Commits,
    pub(crate) wal_dir: PathBuf,
    pub(crate) fs: Box<dyn Fs>,
    pub(crate) settings: Arc<HubSettings>,
    pub(crate) clock: Arc<Clock>,
}

/// The hub, for the control plane.
pub struct Handle<C: Send> {
    shared: Arc<Shared>,
    standbys: Arc<StandbyTable>,
    slots: PublishedSlots,
    to_wal: Sender<ToWal<C>>,
    wal_dir: PathBuf,
    fs: Box<dyn Fs>,
    settings: ArcSwap<HubSettings>,
    clock: Arc<Clock>,
    sessions: Mutex<BTreeMap<usize, Session>>,
    sender: Mutex<Option<SenderAddress>>,
    commits: Mutex<Commits>,
}

impl<C: Send> fmt::Debug for Handle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("wal_dir", &self.wal_dir).finish_non_exhaustive()
    }
}

impl<C: Send + 'static> Handle<C> {
    fn read_history(&self, timeline: TimelineId) -> io::Result<Option<Vec<u8>>> {
        match self.fs.read(&self.wal_dir.join(history::file_name(timeline))) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Joins what the cores publish.
    pub(crate) fn new(parts: HandleParts<C>) -> Self {
        let HandleParts {
            shared,
            standbys,
            slots,
            to_wal,
            mut commits,
            wal_dir,
            fs,
            settings,
            clock,
        } = parts;
        let (latencies, release_clock) = (Arc::clone(&shared), Arc::clone(&clock));
        commits.tell_releases(move |since| {
            let now = (release_clock.0)();
            latencies.latencies.record(Stage::Release, micros_between(since, now));
        });
        let (sessions, sender, commits) = (Mutex::default(), Mutex::default(), Mutex::new(commits));
        let settings = ArcSwap::new(settings);
        Self {
            shared,
            standbys,
            slots,
            to_wal,
            wal_dir,
            fs,
            settings,
            clock,
            sessions,
            sender,
            commits,
        }
    }

    fn now(&self) -> Timestamp {
        (self.clock.0)()
    }

    /// The wal core reads its mail at each turn, so its mailbox is full only when it has stopped.
    fn mail(&self, mail: ToWal<C>) {
        assert!(self.to_wal.send(mail).is_ok(), "the wal core does not read its mail");
    }

    /// Has all cores use these settings. Unchanged ones have the upstream tried again.
    pub fn reload(&self, settings: Arc<HubSettings>) {
        self.settings.store(Arc::clone(&settings));
        self.mail(ToWal::Settings(settings));
    }

    /// The one answer to each [`ToControl::Connect`](crate::mail::ToControl::Connect).
    pub fn answer_connect(&self, answer: ConnectAnswer<C>) {
        self.mail(ToWal::Connect(answer));
    }

    /// Stops the hub.
    pub fn stop(&self, mode: StopMode) {
        self.mail(ToWal::Stop(mode));
    }

    /// Remembers where the walreceiver is connected.
    pub fn set_sender(&self, sender: SenderAddress) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    /// Positions.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// No new connection is served from now on.
    pub fn begin_stopping(&self) {
        self.shared.stopping.store(true, Ordering::Release);
    }

    /// Rows of `pg_replication_slots`.
    #[must_use]
    pub fn slots(&self) -> Arc<Vec<SlotRow>> {
        self.slots.load_full()
    }

    /// Number of standbys that are connected now.
    #[must_use]
    pub fn standbys(&self) -> usize {
        self.standbys.in_use().count()
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<usize, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connected standbys as `synchronous_standby_names` sees them now: their roles, and for whom a
    /// position waits.
    #[must_use]
    pub fn sync_standbys(&self) -> SyncStandbys {
        let config = self.settings.load().synchronous_standby_names.clone();
        let timeline = self.positions().map(|positions| positions.timeline);
        let sessions = self.sessions();
        let standbys = self.standbys.in_use().filter_map(|(index, standby)| {
            let session = sessions.get(&index)?;
            let counts = Some(session.timeline) == timeline;
            let lsns = if counts { standby.counted() } else { ModeLsns::default() };
            Some((index, session.client.application_name.as_str(), standby.state(), lsns))
        });
        sync_standbys(config, standbys)
    }

    fn wal_senders(&self, sync_standbys: &mut SyncStandbys) -> Vec<WalSenderRow> {
        let sessions = self.sessions();
        let rows = self.standbys.in_use().filter_map(|(index, standby)| {
            // One that came after the roles were worked out is shown next time.
            let is_known = sync_standbys.contains(index);
            let (sync_priority, sync_state) = is_known.then(|| sync_standbys.role(index))?;
            let lsn = |lsn: &std::sync::atomic::AtomicU64| Lsn(lsn.load(Ordering::Relaxed)).valid();
            let lag = |index: usize| {
                let lag = standby.lag_us.get(index)?.load(Ordering::Relaxed);
                (lag != LAG_UNKNOWN).then_some(lag)
            };
            let xmin = standby.xmin.load(Ordering::Relaxed);
            Some(WalSenderRow {
                client: sessions.get(&index)?.client.clone(),
                state: standby.state().as_str(),
                backend_xmin: u32::try_from(xmin & u64::from(u32::MAX))
                    .ok()
                    .filter(|&xid| xid != 0),
                sent_lsn: lsn(&standby.sent_lsn),
                write_lsn: lsn(&standby.write_lsn),
                flush_lsn: lsn(&standby.flush_lsn),
                replay_lsn: lsn(&standby.apply_lsn),
                write_lag_us: lag(0),
                flush_lag_us: lag(1),
                replay_lag_us: lag(2),
                sync_priority,
                sync_state: sync_state.as_str(),
                reply_time: standby.reply_time(),
            })
        });
        rows.collect()
    }

    /// Answers the sessions whose commits have got as far as they must.
    pub fn look(&self) {
        self.commits().look(|| self.shared.acknowledged());
    }

    /// The recovery has ended: who waits for a position of a standby waits in vain. Those that it has
    /// reached were answered.
    pub fn end_recovery(&self) {
        self.look();
        self.commits().cancel_waits();
    }

    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_waits(&self, sync_standbys: &mut SyncStandbys) -> Vec<SyncWaitRow> {
        let commits = self.commits();
        let rows = commits.waiters().filter_map(|(level, lsn, waiter)| {
            let gate = match level {
                WaitLevel::LocalFlush => None,
                WaitLevel::Standbys(mode) => sync_standbys.gate(mode, lsn),
            };
            Some(SyncWaitRow {
                pid: waiter.owner?,
                level: level.commit(),
                lsn,
                since: waiter.since,
                standby: gate.and_then(|gate| gate.standby().map(str::to_owned)),
            })
        });
        rows.collect()
    }

    fn wal_receiver(&self) -> Option<WalReceiverRow> {
        let receiver = &self.shared.receiver;
        let status = receiver.state_name();
        // PostgreSQL shows a row only while the process is there.
        if status == "stopped" {
            return None;
        }
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let time = |time: &std::sync::atomic::AtomicI64| {
            let time = time.load(Ordering::Relaxed);
            (time != 0).then_some(Timestamp(time))
        };
        let positions = self.positions();
        Some(WalReceiverRow {
            pid: std::process::id(),
            status,
            receive_start_lsn: Lsn(receiver.start_lsn.load(Ordering::Relaxed)).valid(),
            receive_start_tli: TimelineId::new(receiver.start_tli.load(Ordering::Relaxed)),
            written_lsn: positions.map(|positions| positions.write_lsn),
            flushed_lsn: positions.map(|positions| positions.flush_lsn),
            received_tli: positions.map(|positions| positions.timeline),
            last_msg_send_time: time(&receiver.last_send_time),
            last_msg_receipt_time: time(&receiver.last_receipt_time),
            latest_end_lsn: Lsn(receiver.latest_end_lsn.load(Ordering::Relaxed)).valid(),
            latest_end_time: time(&receiver.latest_end_time),
            slot_name: self.settings.load().primary_slot_name.clone(),
            sender_host: sender.as_ref().map(|sender| sender.host.clone()),
            sender_port: sender.as_ref().map(|sender| sender.port),
            conninfo: sender.map(|sender| sender.conninfo).unwrap_or_default(),
        })
    }
}

impl<C: Send + 'static> Hub<C> for Handle<C> {
    fn core_stats(&self) -> Vec<CoreStatsRow> {
        let ships = self.shared.ships.get().map_or(&[][..], Vec::as_slice);
        (0..).zip(ships).map(|(core, ship)| ship.row(core)).collect()
    }

    fn identity(&self) -> Option<Identity> {
        self.shared.identity.get().cloned()
    }

    fn positions(&self) -> Option<Positions> {
        self.shared.positions()
    }

    fn timeline_history(&self, timeline: TimelineId) -> io::Result<Option<Vec<u8>>> {
        match self.read_history(timeline)? {
            Some(content) => Ok(Some(content)),
            None => Ok(self.history().and_then(|history| history.stand_in(timeline))),
        }
    }

    fn history(&self) -> Option<TimelineHistory> {
        let timeline = self.positions()?.timeline;
        let content = self.read_history(timeline).ok()?;
        let Some(content) = content else { return Some(TimelineHistory::single(timeline)) };
        TimelineHistory::parse(content, timeline).ok()
    }

    fn slot(&self, request: SlotRequest) -> oneshot::Receiver<Result<Option<SlotRow>, Report>> {
        let (reply, answer) = oneshot::channel();
        if let Err(ToWal::Slot(_, reply)) = self.to_wal.send(ToWal::Slot(request, reply)) {
            drop(reply.send(Err(busy())));
        }
        answer
    }

    fn start(&self, start: Box<StartStreaming<C>>) -> oneshot::Receiver<StreamEnd<C>> {
        let (reply, answer) = oneshot::channel();
        let refuse = |start: Box<StartStreaming<C>>, reply: oneshot::Sender<_>, report| {
            let StartStreaming { conn, tls, unread, .. } = *start;
            drop(reply.send(StreamEnd::Refused { conn, tls, unread, report }));
        };
        let Some(standby) = self.standbys.claim() else {
            let text = format!(
                "number of requested standby connections exceeds max_wal_senders (currently {})",
                self.standbys.len()
            );
            refuse(start, reply, Report::fatal(SqlState::TOO_MANY_CONNECTIONS, text));
            return answer;
        };
        let session = Session { client: start.client.clone(), timeline: start.timeline };
        self.sessions().insert(standby, session);
        let mail = ToWal::Start(NewWalsender { start, standby, reply });
        if let Err(ToWal::Start(NewWalsender { start, standby, reply })) = self.to_wal.send(mail) {
            self.standbys.free(standby);
            refuse(start, reply, busy());
        }
        answer
    }

    fn end_stream(&self, pid: u32, report: Report) {
        // A wal core that is this far behind has stopped, and its streams with it.
        drop(self.to_wal.send(ToWal::EndStream { pid, report }));
    }

    fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    fn commit_latency(&self) -> Vec<LatencyRow> {
        self.shared.latencies.rows()
    }

    fn reset_commit_latency(&self) {
        self.shared.latencies.reset();
    }

    fn in_recovery(&self) -> bool {
        self.shared.role.load().in_recovery()
    }

    fn append(&self, append: Append) -> AppendAnswer {
        self.commits().append(append, self.now())
    }

    fn wait(&self, lsn: Lsn, level: WaitLevel, owner: u32) -> oneshot::Receiver<Waited> {
        self.commits().wait(lsn, level, owner, self.now(), || self.shared.acknowledged())
    }

    fn cancel_wait(&self, owner: u32) {
        self.commits().cancel(owner);
    }

    fn wal_reader(&self) -> Option<WalReader> {
        let (identity, history) = (self.identity()?, self.history()?);
        let shared = Arc::clone(&self.shared);
        Some(WalReader::new(self.wal_dir.clone(), identity.segment_size, history, shared))
    }

    fn promote(&self) -> oneshot::Receiver<Result<(), Report>> {
        let (reply, answer) = oneshot::channel();
        if let Err(ToWal::Promote(reply)) = self.to_wal.send(ToWal::Promote(reply)) {
            drop(reply.send(Err(busy())));
        }
        answer
    }

    fn wal(&self, request: WalRequest) -> oneshot::Receiver<Result<Lsn, Report>> {
        self.commits().wal(request, self.now())
    }

    fn snapshot(&self) -> Snapshot {
        let mut sync_standbys = self.sync_standbys();
        Snapshot {
            identity: self.identity(),
            positions: self.positions(),
            in_recovery: self.in_recovery(),
            wal_senders: self.wal_senders(&mut sync_standbys),
            wal_receiver: self.wal_receiver(),
            slots: self.slots.load().as_ref().clone(),
            sync_waits: self.sync_waits(&mut sync_standbys),
        }
    }
}

/// Microseconds from `since` to `now`; a clock that was set back in between shows none.
#[must_use]
pub fn micros_between(since: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.0.saturating_sub(since.0)).unwrap_or(0)
}

/// What `config` makes of standbys, each with its entry's index, name, state and positions.
#[must_use]
pub fn sync_standbys<'a>(
    config: Option<SyncRepConfig>,
    standbys: impl IntoIterator<Item = (usize, &'a str, WalSenderState, ModeLsns)>,
) -> SyncStandbys {
    let mut sync_standbys = SyncStandbys::new(config);
    for (index, application_name, state, lsns) in standbys {
        sync_standbys.handle_connected(index, application_name);
        sync_standbys.handle_state(index, state);
        sync_standbys.handle_reply(index, lsns);
    }
    sync_standbys
}

fn busy() -> Report {
    Report::fatal(
        SqlState::CANNOT_CONNECT_NOW,
        "the database system is too busy to serve another request",
    )
}

#[cfg(test)]
mod tests {
    use walhub_proto::syncrep::{SyncState, WaitMode};

    use super::*;

    #[test]
    fn roles_are_those_of_the_moment() {
        let config = SyncRepConfig::parse("FIRST 1 (a, b)").unwrap();
        let at = |lsn| ModeLsns::of_wire(Lsn(lsn), Lsn(lsn), Lsn(0));
        let standbys = [
            (0, "c", WalSenderState::Streaming, at(30)),
            (2, "b", WalSenderState::Streaming, at(20)),
            (5, "a", WalSenderState::Catchup, at(10)),
        ];
        let mut roles = sync_standbys(config.clone(), standbys);
        assert_eq!(
            [0, 2, 5].map(|index| roles.role(index)),
            [(0, SyncState::Async), (2, SyncState::Sync), (1, SyncState::Potential)]
        );
        let gate = roles.gate(WaitMode::Flush, Lsn(25)).unwrap();
        assert_eq!(gate.standby(), Some("b"));
        assert_eq!(gate.to_string(), "\"b\"");
        let mut alone = sync_standbys(config, []);
        let gate = alone.gate(WaitMode::Flush, Lsn(25)).unwrap();
        assert_eq!(gate.to_string(), "1 of \"a\" (not connected), \"b\" (not connected)");
    }
}
