//! A hub that has WAL of its own: it notes what is appended, and answers when it is told to.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::rmgr::message::LogicalMessage;
use walhub_proto::syncrep::WaitLevel;
use walhub_proto::wire::backend::Report;

use super::snapshot;
use walhub_hub::api::append::{Append, AppendAnswer, Appended, Waited, WalRequest};
use walhub_hub::api::hub::{Hub, Identity, Positions, Snapshot};

/// Bytes that the fake hub counts for any record.
const RECORD_LEN: u64 = 0x10;

type Reply = oneshot::Sender<Result<Appended, Report>>;

#[derive(Default)]
struct OwnState {
    end: u64,
    log: Vec<String>,
    /// Answers that wait for standbys, and for whom.
    waiting: Vec<(u32, Reply, Appended)>,
    readers: Vec<(Lsn, oneshot::Sender<Waited>)>,
    refusal: Option<Report>,
}

/// Appends at 0/1000 and after; each record is 16 bytes.
pub(super) struct OwnHub {
    state: Mutex<OwnState>,
    /// Whether nothing that waits for standbys is answered before it is canceled.
    pub(super) stuck: bool,
}

impl OwnHub {
    pub(super) fn new(stuck: bool) -> Arc<Self> {
        let state = OwnState { end: 0x1000, ..OwnState::default() };
        Arc::new(Self { state: Mutex::new(state), stuck })
    }

    /// What was appended: a line a request.
    pub(super) fn log(&self) -> Vec<String> {
        self.state.lock().unwrap().log.clone()
    }

    pub(super) fn is_waiting(&self) -> bool {
        let state = self.state.lock().unwrap();
        !state.waiting.is_empty() || !state.readers.is_empty()
    }

    /// The next append is refused.
    pub(super) fn refuse(&self, report: Report) {
        self.state.lock().unwrap().refusal = Some(report);
    }

    /// Everything up to there is durable.
    pub(super) fn flush(&self, lsn: Lsn) {
        let mut state = self.state.lock().unwrap();
        state.end = state.end.max(lsn.0);
        for (wanted, reader) in std::mem::take(&mut state.readers) {
            if wanted <= lsn {
                reader.send(Waited::Reached).unwrap();
            } else {
                state.readers.push((wanted, reader));
            }
        }
    }
}

fn level(level: Option<WaitLevel>) -> String {
    match level {
        None => "nothing".to_owned(),
        Some(WaitLevel::LocalFlush) => "local".to_owned(),
        Some(WaitLevel::Standbys(mode)) => format!("{mode:?}").to_lowercase(),
    }
}

impl Hub<OwnedFd> for OwnHub {
    quiet!(views streams end_stream promote);

    fn identity(&self) -> Option<Identity> {
        snapshot(false).identity
    }

    fn positions(&self) -> Option<Positions> {
        let end = Lsn(self.state.lock().unwrap().end);
        Some(Positions {
            timeline: TimelineId::FIRST,
            oldest_lsn: Lsn(0x1000),
            received_lsn: end,
            sendable_lsn: end,
            write_lsn: end,
            flush_lsn: end,
        })
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { positions: self.positions(), ..snapshot(false) }
    }

    fn in_recovery(&self) -> bool {
        false
    }

    fn append(&self, append: Append) -> AppendAnswer {
        let mut state = self.state.lock().unwrap();
        let (reply, answer) = oneshot::channel();
        if let Some(report) = state.refusal.take() {
            drop(reply.send(Err(report)));
            return answer;
        }
        let mut line = String::new();
        let mut ends = Vec::new();
        for record in &append.records {
            let body = [&record.body[..], &record.rest].concat();
            assert_eq!(record.crc, walhub_engine::crc::crc32c(0, &body));
            let message = LogicalMessage::decode(&body).unwrap();
            assert_eq!(message.transactional, record.transactional);
            let shown = String::from_utf8_lossy(message.content);
            let shown =
                if shown.len() > 20 { format!("{} bytes", shown.len()) } else { shown.into() };
            line.push_str(&format!("{}:{shown} ", String::from_utf8_lossy(message.prefix)));
            state.end += RECORD_LEN;
            ends.push(Lsn(state.end));
        }
        if append.commit.is_some() {
            state.end += RECORD_LEN;
            line.push_str("commit ");
        }
        line.push_str(&level(append.wait));
        state.log.push(line);
        let waited = Waited::Reached;
        let appended = Appended { ends, xid: None, end: Lsn(state.end), waited, warning: None };
        if self.stuck && matches!(append.wait, Some(WaitLevel::Standbys(_))) {
            state.waiting.push((append.owner, reply, appended));
        } else {
            drop(reply.send(Ok(appended)));
        }
        answer
    }

    fn wait(&self, lsn: Lsn, _: WaitLevel, _: u32) -> oneshot::Receiver<Waited> {
        let (reply, answer) = oneshot::channel();
        self.state.lock().unwrap().readers.push((lsn, reply));
        answer
    }

    fn cancel_wait(&self, owner: u32) {
        let mut state = self.state.lock().unwrap();
        state.readers.clear();
        for (of, reply, appended) in std::mem::take(&mut state.waiting) {
            assert_eq!(of, owner);
            drop(reply.send(Ok(Appended { waited: Waited::Canceled, ..appended })));
        }
    }

    fn wal(&self, request: WalRequest) -> oneshot::Receiver<Result<Lsn, Report>> {
        let mut state = self.state.lock().unwrap();
        state.log.push(format!("{request:?}"));
        let (reply, answer) = oneshot::channel();
        drop(reply.send(Ok(Lsn(state.end))));
        answer
    }
}
