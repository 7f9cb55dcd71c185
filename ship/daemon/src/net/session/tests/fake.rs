//! A hub without WAL, and a client that shows messages as text.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::roles::Roles;
use walhub_proto::segment::SegmentSize;
use walhub_proto::syncrep::WaitLevel;
use walhub_proto::wire::backend::Encoder;
use walhub_proto::wire::reader::decode_frame;

use super::*;
use crate::limits::Connections;
use crate::net::access::Access;
use crate::net::authenticate::Everybody;
use crate::net::tls::Acceptor;
use crate::roles::RoleStore;
use crate::server::serve;
use walhub_hub::api::append::Waited;
use walhub_hub::api::hub::{
    Identity, Positions, SlotRequest, SlotRow, Snapshot, StartStreaming, StreamEnd,
};

#[derive(Default)]
pub(super) struct FakeHub {
    pub(super) identity: Option<Identity>,
    pub(super) stopping: Mutex<bool>,
    /// How each stream was asked for.
    pub(super) started: Mutex<Vec<String>>,
    /// What the next stream ends with.
    pub(super) next: Mutex<Option<(TimelineId, Lsn)>>,
    pub(super) refusal: Mutex<Option<Report>>,
    slots: Mutex<Vec<(u32, SlotRow)>>,
    /// Whether it writes WAL of its own.
    pub(super) primary: bool,
    /// Who waits for a position.
    pub(super) readers: Mutex<Vec<oneshot::Sender<Waited>>>,
}

impl FakeHub {
    pub(super) fn ready() -> Self {
        let identity = Identity {
            system_identifier: SystemIdentifier(7_000_000_000_000_000_001),
            segment_size: SegmentSize::DEFAULT,
            server_version: "15.18 (Debian 15.18-0+deb12u1)".into(),
            server_version_num: 150_018,
        };
        Self { identity: Some(identity), ..Self::default() }
    }

    pub(super) fn slot_names(&self) -> Vec<String> {
        self.slots.lock().unwrap().iter().map(|(_, slot)| slot.slot_name.clone()).collect()
    }

    fn change_slots(&self, request: SlotRequest) -> Result<Option<SlotRow>, Report> {
        let mut slots = self.slots.lock().unwrap();
        let at = |name: &str, slots: &[(u32, SlotRow)]| {
            slots.iter().position(|(_, slot)| slot.slot_name == name)
        };
        match request {
            SlotRequest::Create { name, temporary, reserve_wal, owner } => {
                if at(&name, &slots).is_some() {
                    let message = format!("replication slot \"{name}\" already exists");
                    return Err(Report::error(SqlState::DUPLICATE_OBJECT, message));
                }
                let row = SlotRow {
                    slot_name: name,
                    temporary,
                    active_pid: None,
                    xmin: None,
                    catalog_xmin: None,
                    restart_lsn: reserve_wal.then_some(Lsn(0x300_0000)),
                    restart_tli: reserve_wal.then_some(TimelineId::new(2).unwrap()),
                    wal_status: None,
                    safe_wal_size: None,
                    logical: None,
                };
                slots.push((owner, row.clone()));
                Ok(Some(row))
            }
            SlotRequest::Drop { name, .. } => match at(&name, &slots) {
                Some(at) => {
                    slots.remove(at);
                    Ok(None)
                }
                None => {
                    let message = format!("replication slot \"{name}\" does not exist");
                    Err(Report::error(SqlState::UNDEFINED_OBJECT, message))
                }
            },
            SlotRequest::CreateLogical { .. } | SlotRequest::Confirm { .. } => {
                unreachable!("a hub without WAL of its own")
            }
            SlotRequest::DropTemporary { owner } => {
                slots.retain(|(of, slot)| !(slot.temporary && *of == owner));
                Ok(None)
            }
        }
    }
}

impl Hub<OwnedFd> for FakeHub {
    quiet!(views end_stream append cancel_wait promote);

    fn identity(&self) -> Option<Identity> {
        self.identity.clone()
    }

    fn positions(&self) -> Option<Positions> {
        let end = Lsn(0x300_0100);
        self.identity.as_ref().map(|_| Positions {
            timeline: TimelineId::new(2).unwrap(),
            oldest_lsn: Lsn(0x100_0000),
            received_lsn: end,
            sendable_lsn: end,
            write_lsn: end,
            flush_lsn: end,
        })
    }

    fn timeline_history(&self, timeline: TimelineId) -> io::Result<Option<Vec<u8>>> {
        let content = b"1\t0/3000000\tno recovery target specified\n";
        Ok((timeline.to_u32() == 2).then(|| content.to_vec()))
    }

    fn history(&self) -> Option<TimelineHistory> {
        None
    }

    fn slot(&self, request: SlotRequest) -> oneshot::Receiver<Result<Option<SlotRow>, Report>> {
        let (answer, answered) = oneshot::channel();
        answer.send(self.change_slots(request)).unwrap();
        answered
    }

    fn start(&self, start: Box<StartStreaming<OwnedFd>>) -> oneshot::Receiver<StreamEnd<OwnedFd>> {
        let StartStreaming { conn, tls, unread, slot, start, timeline, .. } = *start;
        let (answer, answered) = oneshot::channel();
        let end = if let Some(report) = self.refusal.lock().unwrap().take() {
            StreamEnd::Refused { conn, tls, unread, report }
        } else {
            // O_NONBLOCK is 04000 in the flags that the kernel shows.
            let info = std::fs::read_to_string(format!(
                "/proc/self/fdinfo/{}",
                std::os::fd::AsRawFd::as_raw_fd(&conn)
            ))
            .unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            let nonblocking = u32::from_str_radix(flags, 8).unwrap() & 0o4000 != 0;
            self.started.lock().unwrap().push(format!(
                "{} {start} {timeline} {}",
                slot.as_deref().unwrap_or("-"),
                if nonblocking { "nonblocking" } else { "blocking" }
            ));
            StreamEnd::Finished { conn, tls, unread, next: self.next.lock().unwrap().take() }
        };
        answer.send(end).unwrap();
        answered
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.lock().unwrap()
    }

    fn in_recovery(&self) -> bool {
        !self.primary
    }

    fn wait(&self, _: Lsn, _: WaitLevel, _: u32) -> oneshot::Receiver<Waited> {
        let (reply, answer) = oneshot::channel();
        self.readers.lock().unwrap().push(reply);
        answer
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            identity: self.identity.clone(),
            positions: self.positions(),
            in_recovery: true,
            wal_senders: Vec::new(),
            wal_receiver: None,
            slots: self.slots.lock().unwrap().iter().map(|(_, slot)| slot.clone()).collect(),
            sync_waits: Vec::new(),
        }
    }
}

fn guard(access: Arc<Access>) -> Guard {
    Guard {
        access,
        directory: Arc::new(Everybody),
        mock_nonce: [7; 32],
        tls: watch::channel(None).1,
    }
}

pub(super) struct Harness {
    pub(super) hub: Arc<FakeHub>,
    pub(super) services: Arc<Services>,
    pub(super) terminate: watch::Sender<bool>,
    /// Keeps the settings channel open.
    _settings: watch::Sender<Arc<Settings>>,
}

impl Harness {
    pub(super) fn new(hub: FakeHub) -> Self {
        Self::with_settings(hub, |_| ())
    }

    pub(super) fn with_settings(hub: FakeHub, change: impl FnOnce(&mut Settings)) -> Self {
        Self::guarded(hub, guard(Access::trusting()), change)
    }

    pub(super) fn with_access(hub: FakeHub, access: Arc<Access>) -> Self {
        Self::guarded(hub, guard(access), |_| ())
    }

    pub(super) fn guarded(hub: FakeHub, guard: Guard, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        Self::with(hub, guard, settings, None)
    }

    /// One that speaks TLS.
    pub(super) fn with_tls(hub: FakeHub, acceptor: Acceptor) -> Self {
        Self::with(hub, guard(Access::trusting()), Settings::default(), Some(Arc::new(acceptor)))
    }

    fn with(
        hub: FakeHub,
        guard: Guard,
        settings: Settings,
        acceptor: Option<Arc<Acceptor>>,
    ) -> Self {
        let hub = Arc::new(hub);
        let (settings, settings_read) = watch::channel(Arc::new(settings));
        let (terminate, terminate_read) = watch::channel(false);
        let shared: Arc<dyn Hub<OwnedFd>> = Arc::<FakeHub>::clone(&hub);
        let connections = Connections::of(&settings_read.borrow(), None).unwrap();
        let roles = RoleStore::new("/nowhere/walhub.roles".into(), Roles::new("postgres"));
        let guard = Guard { tls: watch::channel(acceptor).1, ..guard };
        let terminated = terminate_read;
        let services =
            Services::new(shared, settings_read, roles, terminated, connections, guard, serve);
        Self { hub, services, terminate, _settings: settings }
    }

    /// A connection over TCP that has said nothing.
    pub(super) async fn open_tcp(&self) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let theirs = listener.accept().await.unwrap().0;
        tokio::task::spawn_local(serve_connection(
            Stream::tcp(theirs),
            self.services.unadmitted.enter(Origin::User(None)),
            Arc::clone(&self.services),
        ));
        ours
    }

    /// A connection that has said nothing.
    pub(super) async fn open(&self) -> RawClient {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::task::spawn_local(serve_connection(
            Stream::unix(theirs),
            self.services.unadmitted.enter(Origin::User(Some(0))),
            Arc::clone(&self.services),
        ));
        RawClient { stream: ours, read: Vec::new() }
    }

    /// A connection that has asked for a session.
    pub(super) async fn connect(&self, parameters: &[(&str, &str)]) -> RawClient {
        let mut client = self.open().await;
        client.send(&startup_packet(3 << 16, parameters)).await;
        client
    }
}

pub(super) fn startup_packet(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = startup::encode(parameters);
    packet[4..8].copy_from_slice(&version.to_be_bytes());
    packet
}

pub(super) struct RawClient<S = UnixStream> {
    pub(super) stream: S,
    read: Vec<u8>,
}

impl RawClient {
    /// Connected when the kernel has taken it; nobody need have accepted it.
    pub(super) fn connect(socket: &Path) -> Self {
        let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream: UnixStream::from_std(stream).unwrap(), read: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawClient<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(super) async fn query(&mut self, text: &str) {
        let mut encoder = Encoder::new();
        encoder.frame(b'Q', |buf| buf.extend([text.as_bytes(), b"\0"].concat()));
        self.send(encoder.bytes()).await;
    }

    /// The next message; `None` at the end of the connection.
    pub(super) async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = decode_frame(&self.read, 1 << 20).unwrap() {
                let message = (frame.kind, frame.body.to_vec());
                let len = frame.len;
                self.read.drain(..len);
                return Some(message);
            }
            if self.stream.read_buf(&mut self.read).await.is_ok_and(|len| len > 0) {
                continue;
            }
            return None;
        }
    }

    /// Answers a request for authentication.
    pub(super) async fn respond(&mut self, body: &[u8]) {
        let mut encoder = Encoder::new();
        encoder.frame(b'p', |buf| buf.extend_from_slice(body));
        self.send(encoder.bytes()).await;
    }

    /// Messages up to ReadyForQuery or the end of the connection.
    pub(super) async fn answer(&mut self) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            while let Some(frame) = decode_frame(&self.read, 1 << 20).unwrap() {
                messages.push(show_message(frame.kind, frame.body));
                let (kind, len) = (frame.kind, frame.len);
                self.read.drain(..len);
                if kind == b'Z' {
                    return messages;
                }
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) => return messages,
                Ok(_) => {}
                // A server that closes with bytes unread resets the connection.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return messages,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

pub(super) fn show_message(kind: u8, body: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let body_text = text(body);
    let mut fields = body_text.split_terminator('\0');
    let shown = match kind {
        b'S' => fields.collect::<Vec<_>>().join("="),
        b'C' | b'Z' => body_text.trim_end_matches('\0').to_owned(),
        b'E' => {
            let mut field =
                |code| fields.find_map(|field| field.strip_prefix(code).map(str::to_owned));
            let mut shown = [field('S'), field('C'), field('M')].map(Option::unwrap).join(" ");
            if let Some(detail) = field('D') {
                write!(shown, " ({detail})").unwrap();
            }
            shown
        }
        b'T' => {
            let mut reader = walhub_proto::wire::reader::Reader::new(body);
            let columns = (0..reader.u16().unwrap()).map(|_| {
                let name = reader.cstr().unwrap();
                reader.take(6).unwrap();
                let oid = reader.u32().unwrap();
                reader.take(8).unwrap();
                format!("{name}:{oid}")
            });
            columns.collect::<Vec<_>>().join(" ")
        }
        b'D' => {
            let mut reader = walhub_proto::wire::reader::Reader::new(body);
            let values = (0..reader.u16().unwrap()).map(|_| {
                let len = reader.i32().unwrap();
                usize::try_from(len).map_or("-".into(), |len| text(reader.take(len).unwrap()))
            });
            values.collect::<Vec<_>>().join("|")
        }
        _ => body.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        }),
    };
    format!("{} {shown}", char::from(kind)).replace("R 00000000", "R 0000")
}
