//! The network: connections with latency, bandwidth and bounded buffers.
//!
//! Faults: delays that differ per connection (so connections overtake each other, but never the
//! bytes of one), partitions (bytes wait, new connections fail), resets, hosts that vanish without a
//! word, short sends and short receives, readers that stall, sends without a copy that are refused.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use walhub_engine::buffer::Buffer;
use walhub_engine::io::{Done, Scatter, Token, ZeroCopy};

use crate::rng::{Rng, bytes};
use crate::unacked::Unreleased;
use crate::world::{Actor, CoreKey};

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct End {
    pub(crate) conn: u64,
    /// 0 connected, 1 accepted.
    pub(crate) side: usize,
}

impl End {
    pub(crate) fn other(self) -> Self {
        Self { side: 1 - self.side, ..self }
    }
}

/// Ends that were dropped without being closed; a socket closes itself.
pub(crate) type Dropped = Arc<Mutex<Vec<End>>>;

/// A socket on its way between the threads of one process.
#[derive(Debug)]
pub(crate) struct SimConn {
    end: Option<End>,
    dropped: Dropped,
}

impl SimConn {
    pub(crate) fn new(end: End, dropped: &Dropped) -> Self {
        Self { end: Some(end), dropped: Arc::clone(dropped) }
    }

    pub(crate) fn into_end(mut self) -> End {
        self.end.take().expect("a socket has an end")
    }
}

impl Drop for SimConn {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(end);
        }
    }
}

/// Who reads and writes at an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    Core(CoreKey),
    Actor(Actor),
}

#[derive(Debug)]
pub(crate) struct SendOp {
    pub(crate) token: Token,
    pub(crate) data: VecDeque<Bytes>,
    /// All of it, when it is sent without a copy.
    pub(crate) memory: Option<Vec<Bytes>>,
}

/// Where received bytes go.
#[derive(Debug)]
pub(crate) enum RecvInto {
    Buffer(Buffer),
    Slab(Scatter),
}

impl RecvInto {
    fn capacity(&self) -> usize {
        match self {
            Self::Buffer(buf) => buf.capacity(),
            Self::Slab(scatter) => scatter.capacity(),
        }
    }

    fn fill(self, data: &[u8]) -> Done {
        match self {
            Self::Buffer(mut buf) => {
                buf.fill(data);
                Done::Received(buf)
            }
            Self::Slab(mut scatter) => {
                scatter.fill(data);
                Done::Scattered(scatter.into_parts(data.len()))
            }
        }
    }
}

#[derive(Debug)]
struct Endpoint {
    owner: Owner,
    machine: usize,
    inbox: VecDeque<Bytes>,
    inbox_len: usize,
    wire: VecDeque<(u64, Bytes)>,
    wire_len: usize,
    arrives_last: u64,
    /// The other end has closed or shut down: after the inbox there is no more.
    fin: bool,
    reset: bool,
    /// This end is closed.
    closed: bool,
    recv: Option<(Token, RecvInto)>,
    send: Option<SendOp>,
    stalled_until: u64,
    unreleased: Unreleased,
}

#[derive(Debug)]
struct Conn {
    ends: [Endpoint; 2],
    zero_copy: ZeroCopy,
    latency: u64,
    ns_per_kib: u64,
    window: usize,
}

/// Something that happens because bytes moved.
#[derive(Debug)]
pub(crate) enum Effect {
    /// A core's operation is done.
    Complete(CoreKey, Token, io::Result<Done>),
    /// The same, at a time.
    Later(u64, CoreKey, Token, io::Result<Done>),
    /// Somebody may look at an end.
    Notify(Actor, End),
    /// Bytes will arrive at an end.
    Arrival(u64, End),
}

/// How connections behave.
#[derive(Clone, Debug)]
pub(crate) struct NetShape {
    pub(crate) latency_ns: (u64, u64),
    pub(crate) ns_per_kib: (u64, u64),
    pub(crate) window: (u64, u64),
    /// Transfers cut short, in cases of a thousand.
    pub(crate) short: u64,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Net {
    rng: Rng,
    shape: NetShape,
    conns: BTreeMap<u64, Conn>,
    next: u64,
    /// Pairs of machines that do not reach each other, and until when.
    partitions: BTreeMap<(usize, usize), u64>,
    pub(crate) effects: Vec<Effect>,
    /// Transfers from a core to an actor with a wrong bit, in cases of a thousand.
    pub(crate) damage: u64,
    pub(crate) dropped: Dropped,
    /// For sends without a copy.
    zero_copy: Rng,
    /// How many of those have ended.
    pub(crate) released: u64,
    /// Bytes received into slabs, headers apart.
    pub(crate) landed: u64,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Net {
    pub(crate) fn new(rng: Rng, shape: NetShape) -> Self {
        let zero_copy = Rng::new(rng.clone().next(), "zero copy");
        Self {
            zero_copy,
            released: 0,
            landed: 0,
            rng,
            shape,
            conns: BTreeMap::new(),
            next: 0,
            partitions: BTreeMap::new(),
            effects: Vec::new(),
            damage: 0,
            dropped: Dropped::default(),
        }
    }

    /// Connects two machines; the first end is the caller's.
    pub(crate) fn connect(&mut self, from: (Owner, usize), to: (Owner, usize)) -> End {
        let conn = self.next;
        self.next += 1;
        let endpoint = |(owner, machine)| Endpoint {
            owner,
            machine,
            inbox: VecDeque::new(),
            inbox_len: 0,
            wire: VecDeque::new(),
            wire_len: 0,
            arrives_last: 0,
            fin: false,
            reset: false,
            closed: false,
            recv: None,
            send: None,
            stalled_until: 0,
            unreleased: Unreleased::default(),
        };
        let reaches = [ZeroCopy::Remote, ZeroCopy::Remote, ZeroCopy::Local, ZeroCopy::Unsupported];
        let zero_copy = self.zero_copy.pick(&reaches);
        let rng = &mut self.rng;
        let shape = &self.shape;
        let value = Conn {
            ends: [endpoint(from), endpoint(to)],
            zero_copy,
            latency: rng.log_range(shape.latency_ns.0, shape.latency_ns.1),
            ns_per_kib: rng.log_range(shape.ns_per_kib.0, shape.ns_per_kib.1),
            window: crate::rng::size(rng.log_range(shape.window.0, shape.window.1)),
        };
        self.conns.insert(conn, value);
        End { conn, side: 0 }
    }

    fn endpoint(&mut self, end: End) -> Option<&mut Endpoint> {
        Some(&mut self.conns.get_mut(&end.conn)?.ends[end.side])
    }

    /// Whether an end can send without a copy.
    pub(crate) fn zero_copy(&self, end: End) -> ZeroCopy {
        self.conns.get(&end.conn).map_or(ZeroCopy::Unsupported, |conn| conn.zero_copy)
    }

    /// Tells what an end has sent from memory that is free by now.
    fn tell_released(&mut self, now: u64, end: End) {
        let Some(conn) = self.conns.get_mut(&end.conn) else { return };
        let (at, unreleased) = (now + conn.latency, &mut conn.ends[end.side].unreleased);
        self.effects.extend(unreleased.released(at, &mut self.zero_copy));
    }

    /// Forgets a connection whose ends are closed.
    fn remove(&mut self, now: u64, conn: u64) {
        for side in 0..2 {
            self.give_up(now, End { conn, side });
        }
        self.conns.remove(&conn);
    }

    /// What an end has sent will never be acknowledged.
    fn give_up(&mut self, now: u64, end: End) {
        if let Some(endpoint) = self.endpoint(end) {
            endpoint.unreleased.give_up();
        }
        self.tell_released(now, end);
    }

    /// Closes an end and throws away what the other one has not acknowledged.
    pub(crate) fn abort(&mut self, now: u64, end: End) {
        self.give_up(now, end);
        self.break_end(now, end.other());
        self.close(now, end);
    }

    /// Hands an end to another owner.
    pub(crate) fn set_owner(&mut self, end: End, owner: Owner) {
        if let Some(endpoint) = self.endpoint(end) {
            endpoint.owner = owner;
            assert!(
                endpoint.recv.is_none() && endpoint.send.is_none(),
                "a socket changes hands with operations under way"
            );
        }
    }

    pub(crate) fn partition(&mut self, a: usize, b: usize, until: u64) {
        self.partitions.insert(pair(a, b), until);
    }

    pub(crate) fn heal(&mut self) {
        self.partitions.clear();
        for conn in self.conns.values_mut() {
            for end in &mut conn.ends {
                end.stalled_until = 0;
            }
        }
        self.shape.short /= 4;
    }

    /// Until when two machines do not reach each other.
    pub(crate) fn parted_until(&self, a: usize, b: usize, now: u64) -> Option<u64> {
        self.partitions.get(&pair(a, b)).copied().filter(|&until| until > now)
    }

    /// Takes as many bytes as the other end has room for. `None` when the connection is broken.
    pub(crate) fn send(&mut self, now: u64, end: End, data: &[u8]) -> Option<usize> {
        let short = self.rng.chance(self.shape.short);
        let part = self.rng.below(1000);
        let conn = self.conns.get_mut(&end.conn)?;
        if conn.ends[end.side].reset || conn.ends[end.side].closed {
            return None;
        }
        let (latency, ns_per_kib, window) = (conn.latency, conn.ns_per_kib, conn.window);
        let from_core = matches!(conn.ends[end.side].owner, Owner::Core(_));
        let damaged = from_core && self.damage > 0 && self.rng.chance(self.damage);
        let closed = conn.ends[1 - end.side].closed;
        if closed {
            conn.ends[end.side].unreleased.handle_sent(data.len());
            conn.ends[end.side].unreleased.handle_acked(data.len());
            return Some(data.len());
        }
        let to = &mut conn.ends[1 - end.side];
        let mut count = data.len().min(window.saturating_sub(to.inbox_len + to.wire_len));
        if short && count > 1 {
            count = (crate::rng::size(bytes(count) * part / 1000)).max(1);
        }
        if count == 0 {
            return Some(0);
        }
        let at = (now + latency).max(to.arrives_last) + bytes(count) * ns_per_kib / 1024;
        to.arrives_last = at;
        let mut chunk = data[..count].to_vec();
        if damaged && count > 1000 {
            chunk[count / 2] ^= 1;
        }
        to.wire.push_back((at, Bytes::from(chunk)));
        to.wire_len += count;
        conn.ends[end.side].unreleased.handle_sent(count);
        self.effects.push(Effect::Arrival(at, end.other()));
        Some(count)
    }

    /// The first bytes on the way to `end` have arrived, unless something keeps them.
    pub(crate) fn arrive(&mut self, now: u64, end: End) {
        let Some(conn) = self.conns.get(&end.conn) else { return };
        let machines = (conn.ends[0].machine, conn.ends[1].machine);
        let parted = self.parted_until(machines.0, machines.1, now);
        let Some(to) = self.endpoint(end) else { return };
        let Some(&(at, _)) = to.wire.front() else { return };
        if let Some(until) = parted {
            return self.effects.push(Effect::Arrival(until, end));
        }
        // These have an arrival of their own: this one was for bytes that another has taken along, or for the
        // end of a stall.
        if at > now {
            return;
        }
        let Some((_, chunk)) = to.wire.pop_front() else { return };
        to.wire_len -= chunk.len();
        let closed = to.closed;
        if let Some(from) = self.endpoint(end.other()) {
            from.unreleased.handle_acked(chunk.len());
        }
        self.tell_released(now, end.other());
        let Some(to) = self.endpoint(end).filter(|_| !closed) else { return };
        if chunk.is_empty() {
            to.fin = true;
        } else {
            to.inbox_len += chunk.len();
            to.inbox.push_back(chunk);
        }
        self.poke(now, end);
    }

    /// Lets the owner of `end` go on.
    pub(crate) fn poke(&mut self, now: u64, end: End) {
        let Some(endpoint) = self.endpoint(end) else { return };
        match endpoint.owner {
            Owner::Actor(actor) => self.effects.push(Effect::Notify(actor, end)),
            Owner::Core(key) => {
                self.try_recv(now, key, end);
                self.try_send(now, key, end);
            }
        }
    }

    /// Takes received bytes: `None` when there are none yet, empty at the end.
    pub(crate) fn take(&mut self, now: u64, end: End, max: usize) -> Option<io::Result<Vec<u8>>> {
        let short = self.rng.chance(self.shape.short);
        let Some(endpoint) = self.endpoint(end) else { return Some(Ok(Vec::new())) };
        if endpoint.reset {
            return Some(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
        if endpoint.closed {
            return Some(Ok(Vec::new()));
        }
        if endpoint.stalled_until > now {
            let until = endpoint.stalled_until;
            self.effects.push(Effect::Arrival(until, end));
            return None;
        }
        let mut out = Vec::with_capacity(max.min(endpoint.inbox_len));
        while out.len() < max {
            let Some(front) = endpoint.inbox.front_mut() else { break };
            let piece = front.split_to(front.len().min(max - out.len()));
            out.extend_from_slice(&piece);
            if front.is_empty() {
                endpoint.inbox.pop_front();
            }
            if short {
                break;
            }
        }
        endpoint.inbox_len -= out.len();
        if out.is_empty() {
            return endpoint.fin.then_some(Ok(out));
        }
        self.poke_sender(now, end.other());
        Some(Ok(out))
    }

    fn poke_sender(&mut self, now: u64, end: End) {
        let Some(endpoint) = self.endpoint(end) else { return };
        match endpoint.owner {
            Owner::Actor(actor) => self.effects.push(Effect::Notify(actor, end)),
            Owner::Core(key) => self.try_send(now, key, end),
        }
    }

    pub(crate) fn submit_recv(
        &mut self,
        now: u64,
        key: CoreKey,
        end: End,
        token: Token,
        into: RecvInto,
    ) {
        let Some(endpoint) = self.endpoint(end) else { return };
        assert!(endpoint.recv.is_none(), "two receives on one socket");
        endpoint.recv = Some((token, into));
        self.try_recv(now, key, end);
    }

    fn try_recv(&mut self, now: u64, key: CoreKey, end: End) {
        let Some(endpoint) = self.endpoint(end) else { return };
        let Some((token, into)) = endpoint.recv.take() else { return };
        let result = match self.take(now, end, into.capacity()) {
            None => {
                if let Some(endpoint) = self.endpoint(end) {
                    endpoint.recv = Some((token, into));
                }
                return;
            }
            Some(data) => data.map(|data| into.fill(&data)),
        };
        if let Ok(Done::Scattered(landed)) = &result {
            self.landed += bytes(landed.before + landed.after);
        }
        self.effects.push(Effect::Complete(key, token, result));
    }

    /// Ends a receive that waits. One that has completed stays as it is.
    pub(crate) fn cancel_recv(&mut self, key: CoreKey, end: End) {
        let Some(endpoint) = self.endpoint(end) else { return };
        let Some((token, _)) = endpoint.recv.take() else { return };
        let cancelled = Err(io::Error::from_raw_os_error(125));
        self.effects.push(Effect::Complete(key, token, cancelled));
    }

    pub(crate) fn submit_send(&mut self, now: u64, key: CoreKey, end: End, op: SendOp) {
        let Some(endpoint) = self.endpoint(end) else { return };
        assert!(endpoint.send.is_none(), "two sends on one socket");
        if op.memory.is_some() {
            assert_ne!(self.zero_copy(end), ZeroCopy::Unsupported);
            if self.zero_copy.chance(10) {
                let refused = Err(io::Error::from(io::ErrorKind::OutOfMemory));
                return self.effects.push(Effect::Complete(key, op.token, refused));
            }
        }
        if let Some(endpoint) = self.endpoint(end) {
            endpoint.send = Some(op);
        }
        self.try_send(now, key, end);
    }

    fn try_send(&mut self, now: u64, key: CoreKey, end: End) {
        let Some(endpoint) = self.endpoint(end) else { return };
        let Some(mut op) = endpoint.send.take() else { return };
        let mut sent = 0;
        let broken = loop {
            let Some(piece) = op.data.pop_front() else { break false };
            match self.send(now, end, &piece) {
                None => break true,
                Some(count) => {
                    sent += count;
                    if count < piece.len() {
                        op.data.push_front(piece.slice(count..));
                        break false;
                    }
                }
            }
        };
        let result = match (sent, broken) {
            (0, true) => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
            (0, false) if !op.data.is_empty() => {
                if let Some(endpoint) = self.endpoint(end) {
                    endpoint.send = Some(op);
                }
                return;
            }
            (sent, _) => Ok(Done::Sent(sent)),
        };
        let is_sent = result.is_ok();
        self.effects.push(Effect::Complete(key, op.token, result));
        if let Some(memory) = op.memory.filter(|_| is_sent) {
            if let Some(endpoint) = self.endpoint(end) {
                endpoint.unreleased.push(key, op.token, sent, memory);
            }
            self.tell_released(now, end);
        }
    }

    /// Ends both directions; what is under way completes.
    pub(crate) fn shutdown(&mut self, now: u64, end: End) {
        let Some(conn) = self.conns.get_mut(&end.conn) else { return };
        let at = (now + conn.latency).max(conn.ends[1 - end.side].arrives_last);
        let own = &mut conn.ends[end.side];
        if own.closed {
            return;
        }
        own.fin = true;
        own.reset |= own.send.is_some();
        own.stalled_until = 0;
        let to = &mut conn.ends[1 - end.side];
        to.wire.push_back((at, Bytes::new()));
        to.arrives_last = at;
        self.effects.push(Effect::Arrival(at, end.other()));
        self.poke(now, end);
    }

    /// Closes an end. The other one reads what was sent before, then the end.
    pub(crate) fn close(&mut self, now: u64, end: End) {
        self.shutdown(now, end);
        let Some(endpoint) = self.endpoint(end) else { return };
        endpoint.closed = true;
        endpoint.inbox.clear();
        endpoint.inbox_len = 0;
        endpoint.recv = None;
        endpoint.send = None;
        self.poke_sender(now, end.other());
        if self.conns.get(&end.conn).is_some_and(|conn| conn.ends.iter().all(|end| end.closed)) {
            self.remove(now, end.conn);
        }
    }

    /// Breaks a connection for both ends at once.
    pub(crate) fn reset(&mut self, now: u64, conn: u64) {
        for side in 0..2 {
            self.break_end(now, End { conn, side });
        }
    }

    fn break_end(&mut self, now: u64, end: End) {
        let Some(endpoint) = self.endpoint(end) else { return };
        endpoint.reset = true;
        endpoint.stalled_until = 0;
        endpoint.inbox.clear();
        endpoint.inbox_len = 0;
        self.give_up(now, end);
        self.poke(now, end);
    }

    /// A machine lost its power: its ends are gone. `silent`: the others are not told.
    pub(crate) fn vanish(&mut self, now: u64, machine: usize, silent: bool) {
        let ends: Vec<End> = self.ends_of(machine);
        for end in ends {
            let Some(endpoint) = self.endpoint(end) else { continue };
            endpoint.closed = true;
            endpoint.recv = None;
            endpoint.send = None;
            endpoint.inbox.clear();
            // A silent end keeps its window shut: what is sent to it is neither taken nor refused.
            endpoint.inbox_len = 0;
            if !silent {
                self.break_end(now, end.other());
            }
            if self.conns.get(&end.conn).is_some_and(|conn| conn.ends.iter().all(|end| end.closed))
            {
                self.remove(now, end.conn);
            }
        }
    }

    fn ends_of(&self, machine: usize) -> Vec<End> {
        let ends = self.conns.iter().flat_map(|(&conn, value)| {
            value
                .ends
                .iter()
                .enumerate()
                .filter(move |(_, end)| end.machine == machine)
                .map(move |(side, _)| End { conn, side })
        });
        ends.collect()
    }

    /// After a silent loss of power the machine is back and knows nothing of its old connections.
    pub(crate) fn refuse_old(&mut self, now: u64, machine: usize) {
        let ends: Vec<End> =
            self.ends_of(machine).into_iter().filter(|&end| self.endpoint_closed(end)).collect();
        for end in ends {
            self.break_end(now, end.other());
        }
    }

    fn endpoint_closed(&self, end: End) -> bool {
        self.conns.get(&end.conn).is_none_or(|conn| conn.ends[end.side].closed)
    }

    /// What waits at both ends, for a message.
    pub(crate) fn describe(&self, end: End) -> String {
        let Some(conn) = self.conns.get(&end.conn) else { return "no connection".to_owned() };
        let ends: Vec<String> = conn
            .ends
            .iter()
            .map(|end| {
                format!(
                    "{:?}: {} received, {} on the way, fin {}, reset {}, closed {}, receiving {}, sending {}",
                    end.owner, end.inbox_len, end.wire_len, end.fin, end.reset, end.closed, end.recv.is_some(), end.send.is_some()
                )
            })
            .collect();
        format!("{ends:?}, window {}", conn.window)
    }

    /// Numbers of the connections there are.
    pub(crate) fn open(&self) -> Vec<u64> {
        self.conns.keys().copied().collect()
    }

    /// The reader at an end takes nothing for a while.
    pub(crate) fn stall(&mut self, end: End, until: u64) {
        if let Some(endpoint) = self.endpoint(end) {
            endpoint.stalled_until = until;
        }
    }
}
