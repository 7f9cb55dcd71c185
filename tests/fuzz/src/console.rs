//! A whole session of the SQL console: everything that a client may send after its connection is ready.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{oneshot, watch};
use walhub::backend::{BackendParams, Sessions, serve};
use walhub::roles::RoleStore;
use walhub::settings::Settings;
use walhub_hub::api::append::{Append, AppendAnswer, Appended, Waited, WalRequest};
use walhub_hub::api::hub::{
    Client, CoreStatsRow, Hub, Identity, Positions, SlotRequest, SlotRow, Snapshot, StartStreaming,
    StreamEnd,
};
use walhub_hub::publish::latency::LatencyRow;
use walhub_hub::store::wal_reader::WalReader;
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::roles::{BOOTSTRAP_SUPERUSER, Roles};
use walhub_proto::segment::SegmentSize;
use walhub_proto::syncrep::WaitLevel;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::Report;
use walhub_proto::wire::reader::decode_frame;

/// WAL of its own, durable at once.
struct Primary(AtomicU64);

impl Primary {
    fn end(&self) -> Lsn {
        Lsn(self.0.load(Ordering::Relaxed))
    }
}

fn answered<T>(answer: T) -> oneshot::Receiver<T> {
    let (reply, receiver) = oneshot::channel();
    drop(reply.send(answer));
    receiver
}

impl Hub<OwnedFd> for Primary {
    fn identity(&self) -> Option<Identity> {
        Some(Identity {
            system_identifier: SystemIdentifier(7),
            segment_size: SegmentSize::DEFAULT,
            server_version: "15.18".to_owned(),
            server_version_num: 150_018,
        })
    }

    fn positions(&self) -> Option<Positions> {
        let end = self.end();
        Some(Positions {
            timeline: TimelineId::FIRST,
            oldest_lsn: Lsn(0x0100_0000),
            received_lsn: end,
            sendable_lsn: end,
            write_lsn: end,
            flush_lsn: end,
        })
    }

    fn timeline_history(&self, _: TimelineId) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn history(&self) -> Option<TimelineHistory> {
        Some(TimelineHistory::single(TimelineId::FIRST))
    }

    fn slot(&self, _: SlotRequest) -> oneshot::Receiver<Result<Option<SlotRow>, Report>> {
        answered(Ok(None))
    }

    fn start(&self, _: Box<StartStreaming<OwnedFd>>) -> oneshot::Receiver<StreamEnd<OwnedFd>> {
        oneshot::channel().1
    }

    fn is_stopping(&self) -> bool {
        false
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            identity: self.identity(),
            positions: self.positions(),
            in_recovery: false,
            wal_senders: Vec::new(),
            wal_receiver: None,
            slots: Vec::new(),
            sync_waits: Vec::new(),
        }
    }

    fn in_recovery(&self) -> bool {
        false
    }

    fn append(&self, append: Append) -> AppendAnswer {
        let records = append.records.iter().map(|_| {
            let end = self.0.fetch_add(0x40, Ordering::Relaxed) + 0x40;
            Lsn(end)
        });
        let ends: Vec<Lsn> = records.collect();
        let (end, waited) = (self.end(), Waited::Reached);
        let xid = append.commit.map(|_| 800);
        answered(Ok(Appended { ends, xid, end, waited, warning: None }))
    }

    fn wait(&self, _: Lsn, _: WaitLevel, _: u32) -> oneshot::Receiver<Waited> {
        answered(Waited::Reached)
    }

    fn wal(&self, _: WalRequest) -> oneshot::Receiver<Result<Lsn, Report>> {
        answered(Ok(self.end()))
    }

    fn promote(&self) -> oneshot::Receiver<Result<(), Report>> {
        answered(Ok(()))
    }

    fn end_stream(&self, _: u32, _: Report) {}

    fn cancel_wait(&self, _: u32) {}

    fn commit_latency(&self) -> Vec<LatencyRow> {
        Vec::new()
    }

    fn reset_commit_latency(&self) {}

    fn core_stats(&self) -> Vec<CoreStatsRow> {
        Vec::new()
    }

    fn wal_reader(&self) -> Option<WalReader> {
        None
    }
}

/// What the client sends: messages as they are, or, where the first byte is a letter of none, one query.
fn input(bytes: &[u8]) -> Vec<u8> {
    match bytes.split_first() {
        Some((0, text)) => {
            let text: Vec<u8> = text.iter().copied().filter(|&byte| byte != 0).collect();
            let len = u32::try_from(text.len() + 5).expect("a short text");
            [b"Q", &len.to_be_bytes()[..], &text, b"\0"].concat()
        }
        _ => bytes.to_vec(),
    }
}

/// A session: what comes back are whole messages, however it ends.
pub(crate) fn console(bytes: &[u8]) {
    let input = input(bytes);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let output = runtime.expect("a runtime").block_on(async {
        let sessions = Arc::new(Sessions::default());
        let stopping = watch::channel(false);
        let params = BackendParams::<Settings> {
            client: Client {
                pid: 1,
                user: "postgres".to_owned(),
                application_name: "fuzz".to_owned(),
                address: None,
                backend_start: Timestamp(0),
            },
            database: "postgres".to_owned(),
            startup_options: BTreeMap::new(),
            member: Arc::new(sessions.enter(1, 4, stopping.1)),
            sessions: Arc::clone(&sessions),
            hub: Arc::new(Primary(AtomicU64::new(0x0200_0000))),
            settings: watch::channel(Arc::new(Settings::default())).1,
            roles: RoleStore::new("/nowhere/walhub.roles".into(), Roles::new("postgres")),
            authenticated: BOOTSTRAP_SUPERUSER,
            system_user: None,
        };
        let (near, far) = tokio::io::duplex(1 << 16);
        let (mut read, mut write) = tokio::io::split(near);
        let send = async move {
            // The session may end before it has read everything.
            let _ = write.write_all(&input).await;
            let _ = write.shutdown().await;
        };
        let receive = async move {
            let mut output = Vec::new();
            let _ = read.read_to_end(&mut output).await;
            output
        };
        let ((), output, _) = tokio::join!(send, receive, serve(far, Vec::new(), params));
        output
    });
    let mut rest = &output[..];
    while let Some(frame) =
        decode_frame(rest, usize::MAX >> 1).expect("what comes back is a message")
    {
        rest = &rest[frame.len..];
    }
    assert!(rest.is_empty(), "a message was cut");
}
