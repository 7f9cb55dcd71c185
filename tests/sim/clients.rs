//! Simulated sessions that append to a hub with WAL of its own, and what they were promised.
//!
//! The hub's WAL is the truth here, as far as the hub has called it durable: every piece of it is read
//! once by a record reader of our own, which says what was appended, where, and by whom. A session that
//! is told "committed" at a level must find its records wherever that level promised them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use walhub_engine::crc::crc32c;
use walhub_hub::api::append::{Append, AppendAnswer, Appended, NewRecord, Waited, WalRequest};
use walhub_hub::api::hub::Hub as _;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::record::{RM_XLOG, RMGR_INFO_MASK, RecordHeader, RecordReader, RecordSink};
use walhub_proto::rmgr::message::LogicalMessage;
use walhub_proto::rmgr::standby::RunningXacts;
use walhub_proto::rmgr::xact::XLOG_XACT_COMMIT;
use walhub_proto::rmgr::xlog::{Checkpoint, XLOG_CHECKPOINT_ONLINE};
use walhub_proto::rmgr::{FIRST_NORMAL_XID, RM_LOGICALMSG, RM_STANDBY, RM_XACT, main_data};
use walhub_proto::segment::SegmentSize;
use walhub_proto::syncrep::{SyncRepConfig, WaitLevel, WaitMode};
use walhub_proto::wire::backend::Report;

use crate::hub::HubMachine;
use crate::io::now;
use crate::rng::{Rng, bytes, size};
use crate::source::{PREPARED_SUBXID, PREPARED_XIDS};
use crate::world::{Actor, Event, World};

const MS: u64 = 1_000_000;
/// Messages of these clients, for who reads the WAL.
const PREFIX: &str = "sim";

/// How the sessions work.
#[derive(Clone, Debug)]
pub(crate) struct OwnPlan {
    pub(crate) clients: usize,
    /// Nanoseconds between an answer and the next request.
    pub(crate) think_ns: (u64, u64),
    /// Bytes of content that are appended, at most.
    pub(crate) total: u64,
    pub(crate) content_max: u64,
    /// All content has the length of `content_max`, and there are no commits.
    pub(crate) one_size: bool,
    /// Levels of `synchronous_commit`, as what they wait for.
    pub(crate) levels: Vec<Option<WaitLevel>>,
    /// Waits that are cancelled, checkpoints and switches, in requests of a thousand.
    pub(crate) cancel: u64,
    pub(crate) requests: u64,
    /// `synchronous_standby_names`.
    pub(crate) names: String,
}

impl OwnPlan {
    /// `synchronous_standby_names`, parsed.
    pub(crate) fn sync(&self) -> Option<SyncRepConfig> {
        SyncRepConfig::parse(&self.names).expect("a valid list")
    }
}

#[derive(Debug)]
enum Busy {
    Append { answer: AppendAnswer, ids: Vec<u64>, wait: Option<WaitLevel> },
    Wait { answer: oneshot::Receiver<Waited>, lsn: Lsn, level: WaitLevel },
    Wal { answer: oneshot::Receiver<Result<Lsn, Report>>, request: WalRequest },
}

#[derive(Debug)]
struct Client {
    rng: Rng,
    /// What it waits for, and in which life of the hub.
    busy: Option<(u32, Busy)>,
    canceled: bool,
    last_end: Lsn,
    /// When it asked.
    since: u64,
}

/// A message that was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    len: usize,
    refused: bool,
    /// The hub has begun a life without it.
    lost: bool,
    /// One past its record in the WAL.
    found: Option<Lsn>,
}

/// All sessions of one hub, and everything they ever asked for.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) plan: OwnPlan,
    clients: Vec<Client>,
    ledger: Ledger,
    reader: RecordReader,
    next_id: u64,
    made: u64,
    /// Nothing more is asked for.
    pub(crate) quiet: bool,
    /// Requests that were answered as they wanted.
    pub(crate) answered: u64,
    /// How long the slowest of them took, in nanoseconds.
    pub(crate) slowest: u64,
}

/// What enough standbys have: how many have this position in this mode.
pub(crate) type Reached<'a> = &'a dyn Fn(WaitMode, Lsn) -> usize;

impl Clients {
    pub(crate) fn new(plan: OwnPlan, seed: u64, segment_size: SegmentSize) -> Self {
        let client = |number| Client {
            rng: Rng::new(seed, &format!("client {number}")),
            busy: None,
            canceled: false,
            last_end: Lsn::INVALID,
            since: 0,
        };
        let reader = RecordReader::new(Lsn(segment_size.bytes()), segment_size, crc32c)
            .with_timeline(TimelineId::FIRST)
            .with_system_identifier(crate::source::SYSTEM);
        Self {
            clients: (0..plan.clients).map(client).collect(),
            plan,
            ledger: Ledger::default(),
            reader,
            next_id: 1,
            made: 0,
            quiet: false,
            answered: 0,
            slowest: 0,
        }
    }

    /// Of a hub that was promoted: its own WAL begins at `start`, after the record that starts there.
    pub(crate) fn of_promoted(
        plan: OwnPlan,
        seed: u64,
        segment_size: SegmentSize,
        tli: TimelineId,
        (start, last_record): (Lsn, Option<Lsn>),
    ) -> Self {
        let mut reader = RecordReader::new(start, segment_size, crc32c)
            .with_timeline(tli)
            .with_system_identifier(crate::source::SYSTEM);
        if let Some(last_record) = last_record {
            reader = reader.with_prev(last_record);
        }
        let ledger = Ledger { prepared: &PREPARED_XIDS, ..Ledger::default() };
        Self { reader, ledger, ..Self::new(plan, seed, segment_size) }
    }

    /// The hub has come back in an earlier state, in which this is all of its WAL: what was appended after is
    /// never to be seen again, and ids that were given out then may be given out again.
    pub(crate) fn forget_after(
        &mut self,
        wal: &[u8],
        segment_size: SegmentSize,
    ) -> Result<(), String> {
        self.reader = Self::new(self.plan.clone(), 0, segment_size).reader;
        let asked = std::mem::take(&mut self.ledger.asked);
        let asked = asked.into_iter().map(|(id, asked)| (id, Asked { found: None, ..asked }));
        self.ledger = Ledger { asked: asked.collect(), ..Ledger::default() };
        self.found(wal)?;
        for asked in self.ledger.asked.values_mut() {
            asked.refused |= asked.found.is_none();
        }
        for client in &mut self.clients {
            client.last_end = Lsn::INVALID;
        }
        Ok(())
    }

    /// The session that still waits, if any does. One that waits for a position beyond the `end` of
    /// the WAL, which was lost before it was durable, waits rightly.
    pub(crate) fn waiting(&self, end: Lsn) -> Option<String> {
        let is_due = |client: &Client| match &client.busy {
            Some((_, Busy::Wait { lsn, .. })) => *lsn <= end,
            busy => busy.is_some(),
        };
        let (number, client) =
            self.clients.iter().enumerate().find(|(_, client)| is_due(client))?;
        Some(format!("client {number} waits: {:?}", client.busy))
    }

    /// Takes over what the hub has called durable since the last time.
    pub(crate) fn found(&mut self, wal: &[u8]) -> Result<(), String> {
        let fed = self.reader.feed_to(wal, &mut self.ledger);
        fed.map_err(|violation| format!("the hub called invalid WAL durable: {violation:?}"))?;
        match self.ledger.wrong.take() {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }

    /// The hub begins a life with what was found: what was not is lost for good.
    pub(crate) fn lose_unfound(&mut self) {
        let asked = self.ledger.asked.values_mut();
        asked.filter(|asked| asked.found.is_none()).for_each(|asked| asked.lost = true);
    }

    /// A session does the next thing.
    pub(crate) fn wake(&mut self, world: &mut World, number: usize, hub: &HubMachine) {
        let owner = u32::try_from(number).expect("few");
        let client = &mut self.clients[number];
        if client.busy.is_some() {
            client.canceled = true;
            return hub.cancel(owner);
        }
        if self.quiet || self.made >= self.plan.total {
            return;
        }
        let Some(life) = hub.life.as_ref().map(|life| life.number) else {
            return world.after(100 * MS, Event::Wake(Actor::Client(number), None));
        };
        client.canceled = false;
        let rng = &mut client.rng;
        let time = now(world).wall;
        let level = rng.pick(&self.plan.levels);
        let busy = if rng.chance(self.plan.requests) {
            let request = rng.pick(&[WalRequest::Checkpoint, WalRequest::SwitchSegment]);
            // A switch costs the rest of a segment.
            self.made += if request == WalRequest::SwitchSegment { 200_000 } else { 0 };
            Busy::Wal { answer: hub.front(time).wal(request), request }
        } else if let (Some(level), true) = (level, client.last_end.is_valid() && rng.chance(100)) {
            let lsn = client.last_end;
            Busy::Wait { answer: hub.front(time).wait(lsn, level, owner), lsn, level }
        } else {
            let commit = rng.chance(700) && !self.plan.one_size;
            let count = if commit { rng.below(4) } else { rng.range(1, 3) };
            let (mut ids, mut records) = (Vec::new(), Vec::new());
            for _ in 0..count {
                let content_min = if self.plan.one_size { self.plan.content_max } else { 8 };
                let len = size(rng.log_range(content_min, self.plan.content_max));
                records.push(self.ledger.ask(self.next_id, len, commit));
                ids.push(self.next_id);
                self.next_id += 1;
                self.made += bytes(len);
            }
            let append = Append { records, commit: commit.then_some(time), wait: level, owner };
            Busy::Append { answer: hub.front(time).append(append), ids, wait: level }
        };
        if rng.chance(self.plan.cancel) {
            let patience = rng.log_range(1, 2_000 * MS);
            world.after(patience, Event::Wake(Actor::Client(number), None));
        }
        client.busy = Some((life, busy));
        client.since = world.now;
    }

    /// Takes answers, and checks what they promise. `life` is the hub's, if it has one.
    pub(crate) fn take_answers(
        &mut self,
        world: &mut World,
        life: Option<u32>,
        durable: Lsn,
        reached: Reached<'_>,
    ) -> Result<(), String> {
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            let Some((asked_in, busy)) = &mut client.busy else { continue };
            let outcome = match busy {
                Busy::Append { answer, ids, wait } => answer.try_recv().map(|answer| {
                    self.ledger.check_append(answer, ids, *wait, durable).map(|appended| {
                        client.last_end = appended.end;
                        Some((appended.end, *wait, appended.waited))
                    })
                }),
                Busy::Wait { answer, lsn, level } => {
                    answer.try_recv().map(|waited| Ok(Some((*lsn, Some(*level), waited))))
                }
                Busy::Wal { answer, request } => {
                    let wait =
                        (*request == WalRequest::Checkpoint).then_some(WaitLevel::LocalFlush);
                    let answer = answer.try_recv();
                    answer.map(|end| Ok(end.ok().map(|end| (end, wait, Waited::Reached))))
                }
            };
            match outcome {
                Err(TryRecvError::Empty) => continue,
                Err(TryRecvError::Closed) if life == Some(*asked_in) => {
                    return Err(format!("client {number} was forgotten: {busy:?}"));
                }
                // The process is gone: nobody knows.
                Err(TryRecvError::Closed) | Ok(Ok(None)) => {}
                Ok(Err(wrong)) => return Err(format!("client {number}: {wrong}")),
                Ok(Ok(Some((end, wait, waited)))) => {
                    if waited == Waited::Canceled && !client.canceled {
                        return Err(format!("client {number} was cancelled by nobody: {busy:?}"));
                    }
                    let wait = wait.filter(|_| waited == Waited::Reached);
                    check_wait(wait, end, durable, reached, self.plan.sync())
                        .map_err(|wrong| format!("client {number}: {wrong}"))?;
                    self.answered += 1;
                    self.slowest = self.slowest.max(world.now - client.since);
                }
            }
            client.busy = None;
            let think = client.rng.log_range(self.plan.think_ns.0, self.plan.think_ns.1);
            world.after(think, Event::Wake(Actor::Client(number), None));
        }
        Ok(())
    }

    /// The server stops: all waits for standbys end.
    pub(crate) fn cancel_all(&mut self, hub: &HubMachine) {
        for (number, client) in self.clients.iter_mut().enumerate() {
            client.canceled = true;
            hub.cancel(u32::try_from(number).expect("few"));
        }
    }
}

/// A wait that has ended was for something that is so.
fn check_wait(
    wait: Option<WaitLevel>,
    end: Lsn,
    durable: Lsn,
    reached: Reached<'_>,
    sync: Option<SyncRepConfig>,
) -> Result<(), String> {
    let Some(level) = wait.filter(|_| end.is_valid()) else { return Ok(()) };
    if end > durable {
        return Err(format!("{level:?} up to {end} was answered, but only {durable} is durable"));
    }
    if let (WaitLevel::Standbys(mode), Some(sync)) = (level, sync) {
        let count = reached(mode, end);
        if count < sync.num_sync {
            return Err(format!(
                "{mode:?} up to {end} was answered, but only {count} of {} standbys have that",
                sync.num_sync
            ));
        }
    }
    Ok(())
}

/// Everything that was asked for, and what of it is in the WAL.
#[derive(Debug, Default)]
struct Ledger {
    asked: BTreeMap<u64, Asked>,
    xids: BTreeSet<u32>,
    committed: BTreeMap<u32, Lsn>,
    /// The transaction whose records are being read.
    current_xid: u32,
    body: Vec<u8>,
    wrong: Option<String>,
    /// What the primary has left prepared.
    prepared: &'static [u32],
}

impl Ledger {
    /// Nothing ends what the primary has left prepared, so it is named whenever it is said what runs.
    fn check_prepared(&self, header: &RecordHeader) -> Result<(), String> {
        let want = self.prepared;
        let (listed, oldest) = match (header.rmid, header.info & RMGR_INFO_MASK) {
            (RM_STANDBY, _) => {
                let Some(running) = RunningXacts::decode(header.info, &self.body) else {
                    return Ok(());
                };
                let subxids = if want.is_empty() { vec![] } else { vec![PREPARED_SUBXID] };
                let oldest = want.first().copied().unwrap_or(running.next_xid);
                let oldest = running.oldest_running_xid == oldest;
                (running.xids == want && running.subxids == subxids, oldest)
            }
            (RM_XLOG, XLOG_CHECKPOINT_ONLINE) => {
                let main = main_data(&self.body);
                let checkpoint = main.and_then(|main| Checkpoint::decode(main.data));
                let oldest = checkpoint.map(|checkpoint| checkpoint.oldest_active_xid);
                (true, want.is_empty() || oldest == want.first().copied())
            }
            _ => return Ok(()),
        };
        if listed && oldest {
            return Ok(());
        }
        let (at, body) = (header.start, &self.body);
        Err(format!("the record at {at} does not say that {want:?} are prepared: {body:?}"))
    }

    fn ask(&mut self, id: u64, len: usize, transactional: bool) -> NewRecord {
        self.asked.insert(id, Asked { len, refused: false, lost: false, found: None });
        NewRecord::message(transactional, PREFIX, &content(id, len)).expect("short")
    }

    /// What an answer to an append says is in the WAL as far as that is durable.
    fn check_append(
        &mut self,
        answer: Result<Appended, Report>,
        ids: &[u64],
        wait: Option<WaitLevel>,
        durable: Lsn,
    ) -> Result<Appended, String> {
        let appended = match answer {
            Ok(appended) => appended,
            Err(report) => {
                for id in ids {
                    self.asked.get_mut(id).expect("asked for").refused = true;
                }
                // Nothing was waited for, and nothing was promised.
                let end = Lsn::INVALID;
                assert_eq!(report.message, "the database system is shutting down");
                return Ok(Appended {
                    ends: Vec::new(),
                    xid: None,
                    end,
                    waited: Waited::Reached,
                    warning: None,
                });
            }
        };
        if appended.ends.len() != ids.len() || wait.is_some() && appended.end > durable {
            return Err(format!("{appended:?} for {ids:?} at {wait:?}, durable is {durable}"));
        }
        for (id, end) in ids.iter().zip(&appended.ends) {
            let found = self.asked.get(id).and_then(|asked| asked.found);
            if *end <= durable && found != Some(*end) {
                return Err(format!("message {id} is said to end at {end}, but is at {found:?}"));
            }
        }
        if let Some(xid) = appended.xid
            && appended.end <= durable
            && self.committed.get(&xid) != Some(&appended.end)
        {
            return Err(format!("transaction {xid} has no commit record at {}", appended.end));
        }
        Ok(appended)
    }

    fn note(&mut self, header: &RecordHeader) -> Result<(), String> {
        let xid = header.xid;
        if xid >= FIRST_NORMAL_XID && xid != self.current_xid && !self.xids.insert(xid) {
            return Err(format!("transaction id {xid} at {} was given before", header.start));
        }
        self.current_xid = xid;
        if header.rmid == RM_XACT && header.info & 0x70 == XLOG_XACT_COMMIT {
            self.committed.insert(xid, header.end);
            // Whatever comes next is another transaction.
            self.current_xid = 0;
        }
        if header.rmid != RM_LOGICALMSG {
            return self.check_prepared(header);
        }
        let message = LogicalMessage::decode(&self.body)
            .ok_or_else(|| format!("no message at {}", header.start))?;
        let (head, _) = message
            .content
            .split_first_chunk::<8>()
            .ok_or_else(|| format!("a message without an id at {}", header.start))?;
        let id = u64::from_le_bytes(*head);
        let at = header.start;
        let Some(asked) = self.asked.get_mut(&id) else {
            return Err(format!("message {id} at {at} was never asked for"));
        };
        if asked.refused {
            return Err(format!("message {id} at {at} was refused"));
        }
        if asked.lost {
            return Err(format!("message {id} at {at} was lost before, and is back"));
        }
        if message.content != content(id, asked.len) {
            return Err(format!("message {id} at {at} is not what was asked for"));
        }
        if let Some(before) = asked.found.replace(header.end) {
            return Err(format!("message {id} at {at} is there a second time, after {before}"));
        }
        Ok(())
    }
}

impl RecordSink for Ledger {
    fn begin(&mut self, _: &RecordHeader) {
        self.body.clear();
    }

    fn body(&mut self, _: &RecordHeader, piece: &[u8]) {
        self.body.extend_from_slice(piece);
    }

    fn record(&mut self, header: &RecordHeader) {
        if let Err(wrong) = self.note(header) {
            self.wrong.get_or_insert(wrong);
        }
    }
}

/// The content of a message: its id, and noise that only it has.
fn content(id: u64, len: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(len + 8);
    let mut word = id;
    while content.len() < len {
        content.extend_from_slice(&word.to_le_bytes());
        word = word.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(id);
    }
    content.truncate(len.max(8));
    content
}
