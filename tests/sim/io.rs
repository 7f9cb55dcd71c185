//! The engine's `Io` over the simulated world: what the production code runs on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use walhub_engine::io::{
    BLOCK_LEN, Completion, Done, FileId, Gather, Head, Io, Op, SocketId, Token, Waker, ZeroCopy,
};

use crate::disk::{EIO, EMFILE, SECTOR, SimFs};
use crate::net::{Net, Owner, RecvInto, SendOp, SimConn};
use crate::world::{CoreKey, CoreState, DiskOp, Event, FileSend, Shared, World};

/// Microseconds since the Unix epoch at virtual time zero.
const EPOCH_MICROS: i64 = 1_700_000_000_000_000;

/// Wakes a core.
#[derive(Clone, Debug)]
pub(crate) struct SimWaker(Arc<AtomicBool>);

impl Waker for SimWaker {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Disk and network of one simulated core.
#[derive(Debug)]
pub(crate) struct SimIo {
    world: Shared,
    key: CoreKey,
    fs: SimFs,
    wake: SimWaker,
}

impl SimIo {
    pub(crate) fn new(world: &Shared, key: CoreKey, fs: &SimFs) -> Self {
        let wake = Arc::new(AtomicBool::new(false));
        let state = CoreState {
            fs: fs.clone(),
            wake: Arc::clone(&wake),
            ready: std::collections::VecDeque::new(),
            scheduled: None,
            files: std::collections::BTreeMap::new(),
            sockets: std::collections::BTreeMap::new(),
            next_id: 0,
        };
        world.borrow_mut().cores.insert(key, state);
        Self { world: std::rc::Rc::clone(world), key, fs: fs.clone(), wake: SimWaker(wake) }
    }

    /// Whether the power is off.
    pub(crate) fn is_dead(&self) -> bool {
        self.fs.disk().dead
    }

    /// Its core is to run at `deadline` at the latest.
    pub(crate) fn run_at(&self, deadline: u64) {
        let mut world = self.world.borrow_mut();
        let at = deadline.max(world.now + 1_000);
        world.run_at(self.key, at);
    }

    fn state<T>(&self, act: impl FnOnce(&mut CoreState) -> T) -> T {
        act(self.world.borrow_mut().cores.get_mut(&self.key).expect("a live core"))
    }

    fn file(&self, file: FileId) -> (u64, bool) {
        self.state(|state| *state.files.get(&file.0).expect("the file is open"))
    }

    /// Has the network do something, and what follows from it.
    fn on_net(&self, act: impl FnOnce(&mut Net, u64)) {
        let mut world = self.world.borrow_mut();
        let now = world.now;
        act(&mut world.net, now);
        world.settle();
    }

    fn submit_recv(&mut self, token: Token, socket: SocketId, into: RecvInto) {
        let end = self.state(|state| state.sockets[&socket.0]);
        self.on_net(|net, now| net.submit_recv(now, self.key, end, token, into));
    }

    fn submit_send(
        &mut self,
        token: Token,
        socket: SocketId,
        head: Head,
        body: Gather,
        zero_copy: bool,
    ) {
        let end = self.state(|state| state.sockets[&socket.0]);
        let memory = zero_copy.then(|| body.to_vec());
        let head = bytes::Bytes::copy_from_slice(head.as_slice());
        let data = std::iter::once(head).chain(body).filter(|piece| !piece.is_empty()).collect();
        let op = SendOp { token, data, memory };
        self.on_net(|net, now| net.submit_send(now, self.key, end, op));
    }

    fn submit_disk(&mut self, token: Token, op: Op) {
        let mut disk = self.fs.disk();
        let flush =
            matches!(op, Op::Sync { .. } | Op::SyncDir { .. } | Op::Write { durable: true, .. });
        let len = match &op {
            Op::Write { data, .. } => data.iter().map(bytes::Bytes::len).sum(),
            Op::Read { buf, .. } => buf.capacity(),
            _ => 0,
        };
        let delay = disk.latency(flush, len);
        let op = match op {
            Op::Write { file, offset, data, durable } => {
                let (file, direct) = self.file(file);
                if direct && !is_aligned(offset, &data) {
                    drop(disk);
                    let result = Err(io::Error::from_raw_os_error(22));
                    return self
                        .world
                        .borrow_mut()
                        .complete(self.key, Completion { token, result });
                }
                let write = disk.begin_write(file, offset, data.into_iter().collect());
                DiskOp::Write { write, durable, unit: if direct { SECTOR } else { 1 } }
            }
            Op::Sync { file } => DiskOp::Flush(disk.begin_flush(self.file(file).0)),
            Op::SyncDir { path } => DiskOp::DirFlush { up_to: disk.begin_dir_flush(), path },
            other => DiskOp::Other(other),
        };
        drop(disk);
        self.world.borrow_mut().after(delay, Event::Disk(self.key, token, op));
    }
}

/// Whether the kernel would take this for direct I/O: offset, lengths and memory in whole blocks.
fn is_aligned(offset: u64, data: &Gather) -> bool {
    let whole = |number: usize| number.is_multiple_of(BLOCK_LEN);
    whole(crate::rng::size(offset))
        && data.iter().all(|piece| whole(piece.len()) && whole(piece.as_ptr().addr()))
}

impl Io for SimIo {
    type Conn = SimConn;
    type Waker = SimWaker;

    fn submit(&mut self, token: Token, op: Op) {
        // From the moment of a crash on nothing reaches the disk or the network.
        if !self.fs.disk().step() {
            return;
        }
        match op {
            Op::Recv { socket, buf } => self.submit_recv(token, socket, RecvInto::Buffer(buf)),
            Op::RecvScatter { socket, scatter } => {
                self.submit_recv(token, socket, RecvInto::Slab(scatter));
            }
            Op::Send { socket, head, body } => self.submit_send(token, socket, head, body, false),
            Op::SendZeroCopy { socket, head, body } => {
                self.submit_send(token, socket, head, body, true);
            }
            Op::SendFile { socket, head, file, offset, len } => {
                let end = self.state(|state| state.sockets[&socket.0]);
                let (file, _) = self.file(file);
                let data = vec![bytes::Bytes::copy_from_slice(head.as_slice())];
                let op = FileSend { end, file, offset, len, data };
                let mut world = self.world.borrow_mut();
                let delay = world.file_step();
                world.after(delay, Event::Disk(self.key, token, DiskOp::SendFile(op)));
            }
            Op::CancelRecv { socket } => {
                let end = self.state(|state| state.sockets[&socket.0]);
                let mut world = self.world.borrow_mut();
                world.net.cancel_recv(self.key, end);
                world.settle();
                world.complete(self.key, Completion { token, result: Ok(Done::Cancelled) });
            }
            disk => self.submit_disk(token, disk),
        }
    }

    fn wait(
        &mut self,
        _deadline_ns: Option<u64>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        self.state(|state| completions.extend(state.ready.drain(..)));
        Ok(())
    }

    fn waker(&self) -> SimWaker {
        self.wake.clone()
    }

    fn adopt(&mut self, conn: SimConn) -> SocketId {
        let end = conn.into_end();
        self.world.borrow_mut().net.set_owner(end, Owner::Core(self.key));
        self.state(|state| {
            let id = state.next_id;
            state.next_id += 1;
            state.sockets.insert(id, end);
            SocketId(id)
        })
    }

    fn release(&mut self, socket: SocketId) -> SimConn {
        let end = self.state(|state| state.sockets.remove(&socket.0).expect("the socket is open"));
        let mut world = self.world.borrow_mut();
        world.net.set_owner(end, Owner::Actor(crate::world::Actor::Control(self.key.hub)));
        SimConn::new(end, &world.net.dropped)
    }

    fn shutdown(&mut self, socket: SocketId) {
        if self.fs.disk().dead {
            return;
        }
        let end = self.state(|state| state.sockets[&socket.0]);
        self.on_net(|net, now| net.shutdown(now, end));
    }

    fn close_socket(&mut self, socket: SocketId) {
        let end = self.state(|state| state.sockets.remove(&socket.0).expect("the socket is open"));
        self.on_net(|net, now| net.close(now, end));
    }

    fn abort_socket(&mut self, socket: SocketId) {
        let end = self.state(|state| state.sockets.remove(&socket.0).expect("the socket is open"));
        self.on_net(|net, now| net.abort(now, end));
    }

    fn zero_copy(&mut self, socket: SocketId) -> ZeroCopy {
        let end = self.state(|state| state.sockets[&socket.0]);
        self.world.borrow().net.zero_copy(end)
    }

    fn now_ns(&self) -> u64 {
        self.world.borrow().now
    }

    fn unix_micros(&self) -> i64 {
        EPOCH_MICROS + i64::try_from(self.now_ns() / 1000).expect("virtual time is short")
    }
}

/// Both clocks, for actors.
pub(crate) fn now(world: &World) -> walhub_proto::time::Now {
    let wall = EPOCH_MICROS + i64::try_from(world.now / 1000).expect("virtual time is short");
    walhub_proto::time::Now {
        instant: walhub_proto::time::Instant(world.now),
        wall: walhub_proto::time::Timestamp::from_unix_micros(wall),
    }
}

/// Takes the next piece of a file on its way to a socket: what the file has then. The socket gets all of
/// them together.
fn step_file_send(world: &mut World, key: CoreKey, token: Token, mut op: FileSend) {
    let Some(core) = world.cores.get(&key) else { return };
    let fs = core.fs.clone();
    let piece = crate::rng::size(world.rng.log_range(512, 1 << 20)).min(op.len);
    let cached = fs.disk().read_cached(op.file, op.offset, piece);
    let count = cached.len();
    op.offset += crate::rng::bytes(count);
    op.len -= count;
    op.data.push(cached.into());
    if count == piece && op.len > 0 {
        let delay = world.file_step();
        return world.after(delay, Event::Disk(key, token, DiskOp::SendFile(op)));
    }
    let data: std::collections::VecDeque<_> =
        op.data.into_iter().filter(|piece| !piece.is_empty()).collect();
    // The header alone is not sent.
    if count == 0 && data.len() < 2 {
        return world.complete(key, Completion { token, result: Ok(Done::Sent(0)) });
    }
    let now = world.now;
    world.net.submit_send(now, key, op.end, SendOp { token, data, memory: None });
    world.settle();
}

/// Ends a disk operation.
pub(crate) fn finish_disk(world: &mut World, key: CoreKey, token: Token, op: DiskOp) {
    let op = match op {
        DiskOp::SendFile(op) => return step_file_send(world, key, token, op),
        op => op,
    };
    let Some(core) = world.cores.get_mut(&key) else { return };
    let fs = core.fs.clone();
    let mut disk = fs.disk();
    let done = |result: io::Result<()>, done: Done| result.map(|()| done);
    let result = match op {
        DiskOp::Write { write, durable, unit } => {
            disk.finish_write(write, durable, unit).map(Done::Wrote)
        }
        DiskOp::Flush(flush) => disk.fail(EIO).map(|()| {
            disk.finish_flush(flush);
            Done::Synced
        }),
        DiskOp::DirFlush { path, up_to } => disk.fail(EIO).map(|()| {
            disk.finish_dir_flush(&path, up_to);
            Done::Synced
        }),
        DiskOp::SendFile(_) => unreachable!("goes step by step"),
        DiskOp::Other(op) => match op {
            Op::Open { path, mode } => {
                let opened = disk.fail(EMFILE).and_then(|()| disk.open(&path, mode.create));
                opened.map(|file| {
                    let id = core.next_id;
                    core.next_id += 1;
                    core.files.insert(id, (file, mode.direct));
                    Done::Opened(FileId(id))
                })
            }
            Op::Close { file } => {
                let (file, _) = core.files.remove(&file.0).expect("the file is open");
                disk.close(file);
                Ok(Done::Closed)
            }
            Op::Read { file, offset, mut buf } => {
                let (file, direct) = core.files[&file.0];
                let aligned = crate::rng::size(offset).is_multiple_of(BLOCK_LEN)
                    && buf.capacity().is_multiple_of(BLOCK_LEN);
                if direct && !aligned {
                    Err(io::Error::from_raw_os_error(22))
                } else {
                    let unit = if direct { BLOCK_LEN } else { 1 };
                    disk.fail(EIO).map(|()| {
                        buf.fill(&disk.read(file, offset, buf.capacity(), unit));
                        Done::Read(buf)
                    })
                }
            }
            Op::Allocate { file, len } => {
                let (file, _) = core.files[&file.0];
                done(disk.fail(EIO).and_then(|()| disk.allocate(file, len)), Done::Allocated)
            }
            Op::Rename { from, to } => {
                done(disk.fail(EIO).and_then(|()| disk.rename(&from, &to)), Done::Renamed)
            }
            Op::Unlink { path } => {
                done(disk.fail(EIO).and_then(|()| disk.unlink(&path)), Done::Unlinked)
            }
            Op::Write { .. }
            | Op::Sync { .. }
            | Op::SyncDir { .. }
            | Op::Recv { .. }
            | Op::RecvScatter { .. }
            | Op::CancelRecv { .. }
            | Op::Send { .. }
            | Op::SendZeroCopy { .. }
            | Op::SendFile { .. } => {
                unreachable!("begun elsewhere")
            }
        },
    };
    drop(disk);
    world.complete(key, Completion { token, result });
}
