//! Sessions over a pipe, with a hub that holds still.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::roles::{BOOTSTRAP_SUPERUSER, Roles};
use walhub_proto::segment::SegmentSize;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::reader::{Reader, decode_frame};

use super::{BackendParams, Served, Sessions, SettingRow, SettingsView, serve};
use crate::roles::RoleStore;
use walhub_hub::api::hub::{
    Client, Hub, Identity, Positions, SlotRow, Snapshot, WalReceiverRow, WalSenderRow,
};

mod append;
mod copy;
mod live;
mod memory;
mod primary;
mod promote;
mod protocol;
mod roles;
mod sql;

/// A hub that shows one snapshot and does nothing.
pub(super) struct StillHub(pub(super) Snapshot);

impl Hub<OwnedFd> for StillHub {
    quiet!(views streams end_stream append wait cancel_wait promote);

    fn identity(&self) -> Option<Identity> {
        self.0.identity.clone()
    }

    fn positions(&self) -> Option<Positions> {
        self.0.positions
    }

    fn in_recovery(&self) -> bool {
        self.0.in_recovery
    }

    fn snapshot(&self) -> Snapshot {
        self.0.clone()
    }
}

/// Two settings.
pub(super) struct TwoSettings;

impl SettingsView for TwoSettings {
    fn show(&self, name: &str) -> Option<String> {
        match name {
            "wal_keep_size" => Some("1GB".to_owned()),
            "port" => Some("5432".to_owned()),
            _ => None,
        }
    }

    fn all(&self) -> Vec<SettingRow> {
        let row = |name: &str, setting: &str, context: &str| SettingRow {
            name: name.to_owned(),
            setting: Some(setting.to_owned()),
            context: context.to_owned(),
            ..SettingRow::default()
        };
        vec![row("wal_keep_size", "1024", "sighup"), row("port", "5432", "postmaster")]
    }
}

fn client(name: &str, pid: u32) -> Client {
    Client {
        pid,
        user: "monitor".to_owned(),
        application_name: name.to_owned(),
        address: Some(([127, 0, 0, 1], 40_000).into()),
        backend_start: Timestamp(0),
    }
}

fn sender(name: &str, pid: u32, state: &'static str, at: u64) -> WalSenderRow {
    let lsn = Some(Lsn(at));
    WalSenderRow {
        client: client(name, pid),
        state,
        backend_xmin: None,
        sent_lsn: lsn,
        write_lsn: lsn,
        flush_lsn: lsn,
        replay_lsn: None,
        write_lag_us: Some(123),
        flush_lag_us: Some(1_500_000),
        replay_lag_us: None,
        sync_priority: 0,
        sync_state: "async",
        reply_time: Some(Timestamp(1_000_000)),
    }
}

/// Three standbys, a walreceiver and a slot.
pub(super) fn snapshot(in_recovery: bool) -> Snapshot {
    let timeline = TimelineId::FIRST;
    let end = Lsn(0x0300_0100);
    Snapshot {
        identity: Some(Identity {
            system_identifier: SystemIdentifier(7),
            segment_size: SegmentSize::DEFAULT,
            server_version: "15.18".to_owned(),
            server_version_num: 150_018,
        }),
        positions: Some(Positions {
            timeline,
            oldest_lsn: Lsn(0x0100_0000),
            received_lsn: Lsn(0x0300_0200),
            sendable_lsn: end,
            write_lsn: Lsn(0x0300_0180),
            flush_lsn: end,
        }),
        in_recovery,
        wal_senders: vec![
            sender("b", 12, "streaming", 0x0300_0100),
            sender("a", 11, "streaming", 0x0300_0000),
            sender("c", 13, "catchup", 0x0200_0000),
        ],
        wal_receiver: Some(WalReceiverRow {
            pid: 10,
            status: "streaming",
            receive_start_lsn: Some(Lsn(0x0200_0000)),
            receive_start_tli: Some(timeline),
            written_lsn: Some(end),
            flushed_lsn: Some(end),
            received_tli: Some(timeline),
            last_msg_send_time: None,
            last_msg_receipt_time: None,
            latest_end_lsn: Some(end),
            latest_end_time: None,
            slot_name: None,
            sender_host: Some("primary".to_owned()),
            sender_port: Some(5432),
            conninfo: "host=primary".to_owned(),
        }),
        slots: vec![SlotRow {
            slot_name: "s1".to_owned(),
            temporary: false,
            active_pid: Some(12),
            xmin: None,
            catalog_xmin: None,
            restart_lsn: Some(Lsn(0x0300_0000)),
            restart_tli: Some(timeline),
            wal_status: Some("reserved"),
            safe_wal_size: None,
            logical: None,
        }],
        sync_waits: Vec::new(),
    }
}

/// The parameters of a session over that snapshot.
pub(super) fn params(snapshot: Snapshot) -> BackendParams<TwoSettings> {
    params_of(Arc::new(StillHub(snapshot)), &watch::Sender::new(false))
}

/// The parameters of a session over any hub; `terminate` ends it.
pub(super) fn params_of(
    hub: Arc<dyn Hub<OwnedFd>>,
    terminate: &watch::Sender<bool>,
) -> BackendParams<TwoSettings> {
    let sessions: Arc<Sessions> = Arc::default();
    // A session whose server is gone would end: the channel stays open for the test's time.
    let keep: &'static watch::Sender<bool> = Box::leak(Box::new(terminate.clone()));
    BackendParams {
        member: Arc::new(sessions.enter(99, 4, keep.subscribe())),
        sessions,
        client: client("test", 99),
        database: "postgres".to_owned(),
        startup_options: BTreeMap::new(),
        hub,
        settings: watch::channel(Arc::new(TwoSettings)).1,
        roles: monitor_alone(),
        authenticated: BOOTSTRAP_SUPERUSER,
        system_user: None,
    }
}

/// The roles of a server whose superuser is `monitor`.
pub(super) fn monitor_alone() -> Arc<RoleStore> {
    RoleStore::new("/nowhere/walhub.roles".into(), Roles::new("monitor"))
}

/// A frontend message.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A simple query.
pub(super) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// Sends all of `input`, closes, and returns the messages that came back.
pub(super) fn talk(snapshot: Snapshot, input: &[u8]) -> Vec<(u8, Vec<u8>)> {
    talk_to(params(snapshot), input).0
}

/// As [`talk`], with any session; how the session ended comes with it.
pub(super) fn talk_to(
    params: BackendParams<TwoSettings>,
    input: &[u8],
) -> (Vec<(u8, Vec<u8>)>, Served) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (output, served) = runtime.block_on(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (mut read, mut write) = tokio::io::split(near);
        let send = async move {
            // The session may end before it has read everything.
            let _ = write.write_all(input).await;
            let _ = write.shutdown().await;
        };
        let receive = async move {
            let mut output = Vec::new();
            let _ = read.read_to_end(&mut output).await;
            output
        };
        let session = serve(far, Vec::new(), params);
        let ((), output, served) = tokio::join!(send, receive, session);
        (output, served.unwrap())
    });
    let mut rest = &output[..];
    let mut messages = Vec::new();
    while let Some(frame) = decode_frame(rest, usize::MAX >> 1).unwrap() {
        messages.push((frame.kind, frame.body.to_vec()));
        rest = &rest[frame.len..];
    }
    assert!(rest.is_empty(), "a message was cut");
    (messages, served)
}

/// One line a message: rows as `a|b`, NULL as `-`, errors as `ERROR 42601 message`.
pub(super) fn shown(messages: &[(u8, Vec<u8>)]) -> Vec<String> {
    messages.iter().map(|(kind, body)| show_message(*kind, body)).collect()
}

fn show_message(kind: u8, body: &[u8]) -> String {
    let mut reader = Reader::new(body);
    match kind {
        b'T' => {
            let count = reader.u16().unwrap();
            let names = (0..count).map(|_| {
                let name = reader.cstr().unwrap().to_owned();
                reader.take(6).unwrap();
                let oid = reader.u32().unwrap();
                reader.take(8).unwrap();
                format!("{name}:{oid}")
            });
            format!("T {}", names.collect::<Vec<_>>().join(" "))
        }
        b'D' => {
            let count = reader.u16().unwrap();
            let values = (0..count).map(|_| match usize::try_from(reader.i32().unwrap()) {
                Err(_) => "-".to_owned(),
                Ok(len) => String::from_utf8_lossy(reader.take(len).unwrap()).into_owned(),
            });
            values.collect::<Vec<_>>().join("|")
        }
        b'E' | b'N' => {
            let mut fields = BTreeMap::new();
            while let Ok(code) = reader.u8() {
                if code == 0 {
                    break;
                }
                fields.insert(code, reader.cstr().unwrap().to_owned());
            }
            let position = fields.get(&b'P').map(|at| format!(" @{at}")).unwrap_or_default();
            let context = fields.get(&b'W').map(|text| format!(" [{text}]")).unwrap_or_default();
            format!("{} {} {}{position}{context}", fields[&b'S'], fields[&b'C'], fields[&b'M'])
        }
        b'C' => format!("C {}", reader.cstr().unwrap()),
        b'Z' => format!("Z {}", char::from(body[0])),
        b'S' => format!("S {}={}", reader.cstr().unwrap(), reader.cstr().unwrap()),
        _ => char::from(kind).to_string(),
    }
}

/// The answer to one query of a standby's console, without its ReadyForQuery.
pub(super) fn answer(sql: &str) -> Vec<String> {
    answer_of(snapshot(true), sql)
}

/// As [`answer`], of any hub.
pub(super) fn answer_of(snapshot: Snapshot, sql: &str) -> Vec<String> {
    let mut lines = shown(&talk(snapshot, &query(sql)));
    assert!(lines.pop().is_some_and(|last| last.starts_with('Z')), "{sql}: {lines:?}");
    lines
}
