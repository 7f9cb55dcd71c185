//! A ship core on a ring of its own, with sockets and segment files.

use std::cell::RefCell;
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;
use walhub_engine::buffer::SlabPool;
use walhub_engine::mailbox::{Receiver, mailbox};
use walhub_engine::published::set_before_load;
use walhub_engine::uring::{Uring, UringConfig};
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{SystemIdentifier, TimelineId};
use walhub_proto::segment::{SegNo, SegmentSize};
use walhub_proto::time::Timestamp;
use walhub_proto::walsender::WalSenderState;
use walhub_proto::wire::copy::{COPY_DONE_MESSAGE, HotStandbyFeedback, StandbyStatusUpdate};

use super::*;
use crate::api::stream::{Client, StartStreaming};
use crate::api::tls::TlsRecords;
use crate::core_loop::now;
use crate::serve::moves::{ShipAddress, connect_ships};
use crate::store::tail::{SLAB_LEN, Tail};

const SIZE: SegmentSize = SegmentSize::MIN;
const WAIT: Duration = Duration::from_secs(10);

struct Bench {
    io: Uring,
    ship: ShipCore<OwnedFd>,
    to_ship: Sender<ToShip<OwnedFd>>,
    from_ship: Receiver<ToWal<OwnedFd>>,
    shared: Arc<Shared>,
    /// Goes last: what is under way reads there.
    dir: TempDir,
}

impl Bench {
    /// With segments 1 to 3 on disk, each filled with its number, and a tail that begins after them.
    fn new(settings: HubSettings) -> (Self, Tail) {
        let dir = tempfile::tempdir().unwrap();
        for segno in 1..=3_u8 {
            let file = SegNo(u64::from(segno)).file_name(TimelineId::FIRST, SIZE);
            std::fs::write(dir.path().join(file), vec![segno; SLAB_LEN]).unwrap();
        }
        let io = Uring::new(UringConfig::default()).unwrap();
        let (to_ship, peers) = connect_ships(&[io.waker()], 1).remove(0);
        let (to_wal, from_ship) = mailbox(64, io.waker());
        let (shared, standbys) = (Arc::<Shared>::default(), Arc::new(StandbyTable::new(4)));
        let ship = ShipCore::new(ShipConfig {
            shared: Arc::clone(&shared),
            standbys,
            peers,
            to_wal,
            wal_dir: dir.path().to_owned(),
            slabs_max: 8,
            settings: Arc::new(settings),
            direct: true,
        });
        let timelines = Timelines {
            system_identifier: SystemIdentifier(1),
            segment_size: SIZE,
            current: TimelineId::FIRST,
            history: TimelineHistory::single(TimelineId::FIRST),
        };
        let (tail, slab) = Tail::new(SlabPool::new(SLAB_LEN, 12), 8, SegNo(4).start(SIZE), &[]);
        to_ship.send(ToShip::Begin(Arc::new(timelines))).unwrap();
        to_ship.send(ToShip::Slab(slab)).unwrap();
        shared.oldest_lsn.store(SegNo(1).start(SIZE));
        shared.received_lsn.store(tail.end());
        (Self { io, ship, to_ship, from_ship, shared, dir }, tail)
    }

    fn start(&self, start: Lsn) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        self.start_on(theirs.into(), start);
        ours
    }

    fn start_on(&self, conn: OwnedFd, start: Lsn) {
        self.start_with(conn, None, start);
    }

    fn start_with(&self, conn: OwnedFd, tls: Option<Box<dyn TlsRecords>>, start: Lsn) {
        let client = Client {
            pid: 1,
            user: "u".into(),
            application_name: "a".into(),
            address: None,
            backend_start: Timestamp(0),
        };
        let start = StartStreaming {
            conn,
            tls,
            unread: Vec::new(),
            logical: false,
            slot: None,
            start,
            timeline: TimelineId::FIRST,
            client,
        };
        let (reply, _) = oneshot::channel();
        let session = NewWalsender { start: Box::new(start), standby: 0, reply };
        self.to_ship.send(ToShip::Start(session)).unwrap();
    }

    fn turn(&mut self) {
        let now = now(&self.io);
        self.ship.turn(&mut self.io, now);
    }

    fn wait(&mut self) -> Vec<Completion> {
        let mut completions = Vec::new();
        let soon = self.io.now_ns() + 10_000_000;
        self.io.wait(Some(soon), &mut completions).unwrap();
        completions
    }

    /// Runs the core until `done` gives something.
    fn run<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let until = std::time::Instant::now() + WAIT;
        while std::time::Instant::now() < until {
            self.turn();
            for completion in self.wait() {
                let now = now(&self.io);
                self.ship.handle(&mut self.io, now, completion);
            }
            if let Some(done) = done(self) {
                return done;
            }
        }
        panic!("nothing came of it");
    }

    /// Reads messages until one is of `kind`; gives all WAL that came before.
    fn read_until(&mut self, socket: &mut impl Read, mut done: impl FnMut(u8, &[u8]) -> bool) {
        let mut bytes = Vec::new();
        self.run(|_| {
            let mut piece = [0; 1 << 16];
            if let Ok(count) = socket.read(&mut piece) {
                bytes.extend_from_slice(&piece[..count]);
            }
            while bytes.len() >= 5 {
                let len = usize::try_from(u32::from_be_bytes(bytes[1..5].try_into().unwrap()));
                let end = 1 + len.unwrap();
                if bytes.len() < end {
                    break;
                }
                let message: Vec<u8> = bytes.drain(..end).collect();
                if done(message[0], &message[5..]) {
                    return Some(());
                }
            }
            None
        });
    }
}

#[test]
fn catch_up_goes_on_from_segment_to_segment() {
    let (mut bench, tail) = Bench::new(crate::api::settings::for_tests());
    let mut socket = bench.start(SegNo(1).start(SIZE) + 100);
    let mut got = Vec::new();
    let want = usize::try_from(tail.end() - SegNo(1).start(SIZE) - 100).unwrap();
    bench.read_until(&mut socket, |kind, body| {
        if kind == b'd' && body[0] == b'w' {
            got.extend_from_slice(&body[25..]);
        }
        got.len() >= want
    });
    let segments = got.chunk_by(|a, b| a == b).map(|run| (run[0], run.len()));
    let (first, whole) = (SLAB_LEN - 100, SLAB_LEN);
    assert_eq!(segments.collect::<Vec<_>>(), [(1, first), (2, whole), (3, whole)]);
}

#[test]
fn a_client_that_ends_the_stream_gets_its_connection_back() {
    let (mut bench, tail) = Bench::new(crate::api::settings::for_tests());
    let mut socket = bench.start(tail.end());
    bench.read_until(&mut socket, |kind, _| kind == b'W');
    socket.write_all(&COPY_DONE_MESSAGE).unwrap();
    bench.read_until(&mut socket, |kind, _| kind == b'c');
    let end = bench.run(|bench| match bench.from_ship.recv()? {
        ToWal::Ended { end, .. } => Some(end),
        other => panic!("{other:?}"),
    });
    assert!(matches!(end, StreamEnd::Finished { next: None, .. }), "{end:?}");
}

#[test]
fn a_position_is_not_used_before_the_mail_with_its_slabs_is_read() {
    let (mut bench, mut tail) = Bench::new(crate::api::settings::for_tests());
    let mut socket = bench.start(tail.end());
    bench.read_until(&mut socket, |kind, _| kind == b'W');
    socket.write_all(&StandbyStatusUpdate::default().encode()).unwrap();
    let reply = loop {
        if let Some(completion) = bench.wait().pop() {
            break completion;
        }
    };
    // The wal core opens a slab and publishes a position in it while this core is awake.
    let mut rest = &vec![4; SLAB_LEN + 1][..];
    while !rest.is_empty() {
        let (count, slab) = tail.append(rest).unwrap();
        rest = &rest[count..];
        slab.into_iter().for_each(|slab| bench.to_ship.send(ToShip::Slab(slab)).unwrap());
    }
    bench.shared.received_lsn.store(tail.end());
    let now = now(&bench.io);
    bench.ship.handle(&mut bench.io, now, reply);
    let mut left = SLAB_LEN + 1;
    bench.read_until(&mut socket, |_, body| {
        left -= body[25..].len();
        left == 0
    });
}

/// What another core does.
type Act = Box<dyn FnOnce()>;

thread_local! {
    /// Loads of published positions in this thread, and what another core does before the second.
    static BEFORE_SECOND_LOAD: RefCell<(u32, Option<Act>)> = const { RefCell::new((0, None)) };
}

fn count_load() {
    let act = BEFORE_SECOND_LOAD.with_borrow_mut(|(loads, act)| {
        *loads += 1;
        act.take_if(|_| *loads == 2)
    });
    if let Some(act) = act {
        act();
    }
}

#[test]
fn what_is_published_after_the_mail_was_read_waits_for_the_next_turn() {
    let (mut bench, mut tail) = Bench::new(crate::api::settings::for_tests());
    let mut socket = bench.start(tail.end());
    bench.read_until(&mut socket, |kind, _| kind == b'W');
    // What is published next begins in a slab that this core knows, and one send goes beyond it.
    let (count, opened) = tail.append(&vec![4; SLAB_LEN - 10]).unwrap();
    assert!(count == SLAB_LEN - 10 && opened.is_none());
    bench.shared.received_lsn.store(tail.end());
    let mut left = count;
    bench.read_until(&mut socket, |_, body| {
        left -= body[25..].len();
        left == 0
    });
    let mut slabs = Vec::new();
    let mut rest = &[4; 20][..];
    while !rest.is_empty() {
        let (count, slab) = tail.append(rest).unwrap();
        rest = &rest[count..];
        slabs.extend(slab);
    }
    let (to_ship, shared, end) = (bench.to_ship.clone(), Arc::clone(&bench.shared), tail.end());
    let publish = move || {
        slabs.into_iter().for_each(|slab| to_ship.send(ToShip::Slab(slab)).unwrap());
        shared.received_lsn.store(end);
    };
    // One load comes before the mail; at any other the wal core has just published.
    BEFORE_SECOND_LOAD.set((0, Some(Box::new(publish))));
    set_before_load(Some(count_load));
    bench.turn();
    set_before_load(None);
    let (_, publish) = BEFORE_SECOND_LOAD.take();
    publish.into_iter().for_each(|publish| publish());
    let mut left = 20;
    bench.read_until(&mut socket, |_, body| {
        left -= body[25..].len();
        left == 0
    });
}

#[test]
fn a_reply_is_one_mark_and_news_only_while_somebody_waits_for_standbys() {
    let (mut bench, tail) = Bench::new(crate::api::settings::for_tests());
    let standbys = Arc::clone(&bench.ship.config.standbys);
    let marked = || {
        let mut marked = Vec::new();
        standbys.drain(|index, _| marked.push(index));
        marked
    };
    let mut socket = bench.start(tail.end());
    bench.read_until(&mut socket, |kind, _| kind == b'W');
    // That it streams is news, too.
    bench.run(|_| (standbys.standby(0).state() == WalSenderState::Streaming).then_some(()));
    assert_eq!(marked(), [0]);
    assert!(!bench.ship.take_news());
    let reply = |bench: &mut Bench, socket: &mut UnixStream, flush| {
        let status = StandbyStatusUpdate { flush, ..StandbyStatusUpdate::default() };
        socket.write_all(&status.encode()).unwrap();
        bench.run(|_| (standbys.standby(0).mode_lsns().flush == Some(flush)).then_some(()));
    };
    reply(&mut bench, &mut socket, Lsn(7));
    assert_eq!(marked(), [0]);
    assert!(!bench.ship.take_news());
    bench.shared.synced.restart(true);
    // A turn in which nothing is said marks nothing.
    bench.turn();
    assert_eq!((marked(), bench.ship.take_news()), (vec![], false));
    reply(&mut bench, &mut socket, Lsn(9));
    reply(&mut bench, &mut socket, Lsn(11));
    assert_eq!(marked(), [0]);
    assert!(bench.ship.take_news());
    assert!(!bench.ship.take_news());
}

#[test]
fn feedback_of_transactions_that_are_not_in_the_recent_past_is_dropped() {
    let (mut bench, tail) = Bench::new(crate::api::settings::for_tests());
    let standbys = Arc::clone(&bench.ship.config.standbys);
    let mut socket = bench.start(tail.end());
    bench.read_until(&mut socket, |kind, _| kind == b'W');
    let mut flush = 0;
    let mut heard = |bench: &mut Bench,
                     (epoch, xmin): (u32, u32),
                     (catalog_epoch, catalog): (u32, u32)| {
        let feedback = HotStandbyFeedback {
            sent: Timestamp(0),
            xmin,
            xmin_epoch: epoch,
            catalog_xmin: catalog,
            catalog_xmin_epoch: catalog_epoch,
        };
        flush += 8;
        let status = StandbyStatusUpdate { flush: Lsn(flush), ..StandbyStatusUpdate::default() };
        socket.write_all(&[feedback.encode().as_slice(), &status.encode()].concat()).unwrap();
        let standby = standbys.standby(0);
        bench.run(|_| (standby.mode_lsns().flush == Some(Lsn(flush))).then_some(()));
        let xids = [&standby.xmin, &standby.catalog_xmin].map(|xid| xid.load(Ordering::Relaxed));
        xids.map(|xid| (xid >> 32, xid & 0xFFFF_FFFF))
    };
    // While no checkpoint was seen nobody knows what comes next.
    assert_eq!(heard(&mut bench, (9, 700), (0, 0)), [(9, 700), (0, 0)]);
    bench.shared.next_xid.store((3 << 32) + 1_000, Ordering::Release);
    let said = [(3, 900), (2, 4_000_000_000)];
    assert_eq!(heard(&mut bench, (3, 900), (2, 4_000_000_000)), said);
    // Of the next epoch, of the one before, not given out yet, and one of two that is fine.
    assert_eq!(heard(&mut bench, (4, 950), (0, 0)), said);
    assert_eq!(heard(&mut bench, (2, 950), (0, 0)), said);
    assert_eq!(heard(&mut bench, (3, 1_001), (0, 0)), said);
    assert_eq!(heard(&mut bench, (3, 950), (3, 4_000_000_000)), said);
    // The next one itself may be named, and an end to all need.
    assert_eq!(heard(&mut bench, (3, 1_000), (0, 0)), [(3, 1_000), (0, 0)]);
    assert_eq!(heard(&mut bench, (0, 0), (0, 0)), [(0, 0), (0, 0)]);
}

/// A core for live standbys and one for those that are behind, each with a ring.
struct Pair {
    live: Bench,
    catchup: Bench,
}

impl Pair {
    fn new() -> (Self, Tail) {
        let (mut live, tail) = Bench::new(crate::api::settings::for_tests());
        let (mut catchup, other) = Bench::new(crate::api::settings::for_tests());
        drop(other);
        // Both are cores of one hub.
        catchup.ship.config.shared = Arc::clone(&live.shared);
        catchup.ship.config.standbys = Arc::clone(&live.ship.config.standbys);
        catchup.ship.config.peers.serves = Serves::Catchup;
        let address = |bench: &Bench| ShipAddress {
            mail: bench.to_ship.clone(),
            in_transit: Arc::clone(&bench.ship.config.peers.in_transit),
            stats: Arc::clone(&bench.ship.config.peers.stats),
        };
        let (for_live, for_catchup) = (vec![address(&live)], vec![address(&catchup)]);
        for bench in [&mut live, &mut catchup] {
            bench.ship.config.peers.live = for_live.clone();
            bench.ship.config.peers.catchup = for_catchup.clone();
        }
        (live.ship.may_give_away, catchup.ship.may_give_away) = (true, true);
        (Self { live, catchup }, tail)
    }

    /// Runs both until `done` gives something.
    fn run<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let until = std::time::Instant::now() + WAIT;
        while std::time::Instant::now() < until {
            for bench in [&mut self.live, &mut self.catchup] {
                bench.turn();
                let mut completions = Vec::new();
                let soon = bench.io.now_ns() + 1_000_000;
                bench.io.wait(Some(soon), &mut completions).unwrap();
                for completion in completions {
                    let now = now(&bench.io);
                    bench.ship.handle(&mut bench.io, now, completion);
                }
            }
            if let Some(done) = done(self) {
                return done;
            }
        }
        panic!("nothing came of it");
    }

    fn moved_in(&self) -> [u64; 2] {
        [&self.live, &self.catchup]
            .map(|bench| bench.ship.config.peers.stats.counts().moved_in.load(Ordering::Relaxed))
    }
}

/// Takes WAL out of what was read, and leaves what is not complete.
fn take_wal(bytes: &mut Vec<u8>, wal: &mut Vec<u8>) {
    while bytes.len() >= 5 {
        let len = usize::try_from(u32::from_be_bytes(bytes[1..5].try_into().unwrap())).unwrap();
        if bytes.len() <= len {
            return;
        }
        let message: Vec<u8> = bytes.drain(..=len).collect();
        if message[0] == b'd' && message[5] == b'w' {
            wal.extend_from_slice(&message[30..]);
        }
    }
}

/// Reads what has come, if anything has, and takes WAL out of it.
fn read_wal(socket: &mut UnixStream, bytes: &mut Vec<u8>, wal: &mut Vec<u8>) {
    let mut piece = [0; 1 << 16];
    if let Ok(count) = socket.read(&mut piece) {
        bytes.extend_from_slice(&piece[..count]);
    }
    take_wal(bytes, wal);
}

#[test]
fn a_standby_that_is_behind_is_served_elsewhere_and_comes_back_once_it_has_everything() {
    let (mut pair, mut tail) = Pair::new();
    let mut socket = pair.live.start(SegNo(1).start(SIZE) + 100);
    // Half a reply: the rest is read on another core.
    let reply = StandbyStatusUpdate { flush: Lsn(7), ..StandbyStatusUpdate::default() }.encode();
    socket.write_all(&reply[..9]).unwrap();
    let (mut bytes, mut wal) = (Vec::new(), Vec::new());
    let want = 3 * SLAB_LEN - 100;
    pair.run(|_| {
        read_wal(&mut socket, &mut bytes, &mut wal);
        (wal.len() >= want).then_some(())
    });
    pair.run(|pair| (pair.moved_in() == [1, 1]).then_some(()));
    let segments: Vec<_> = wal.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
    assert_eq!(segments, [(1, SLAB_LEN - 100), (2, SLAB_LEN), (3, SLAB_LEN)]);
    let sent = |bench: &Bench| {
        let counts = bench.ship.config.peers.stats.counts();
        let file = [&counts.sendfile_bytes, &counts.read_bytes];
        file.map(|bytes| bytes.load(Ordering::Relaxed)).iter().sum::<u64>()
    };
    assert_eq!(sent(&pair.live), 0);
    assert!(sent(&pair.catchup) > u64::try_from(want).unwrap());
    // It is live: what is new, and its own replies, go through the first core again.
    socket.write_all(&reply[9..]).unwrap();
    let standbys = Arc::clone(&pair.live.ship.config.standbys);
    pair.run(|_| (standbys.standby(0).mode_lsns().flush == Some(Lsn(7))).then_some(()));
    tail.append(b"new").unwrap();
    pair.live.shared.received_lsn.store(tail.end());
    pair.run(|_| {
        read_wal(&mut socket, &mut bytes, &mut wal);
        wal.ends_with(b"new").then_some(())
    });
    assert_eq!(pair.moved_in(), [1, 1]);
}

#[test]
fn a_live_session_goes_to_the_core_that_it_belongs_to_once_there_is_something_to_send() {
    let (mut pair, mut tail) = Pair::new();
    // Both serve live standbys.
    let peers = &pair.live.ship.config.peers;
    let (first, second) = (peers.live[0].clone(), peers.catchup[0].clone());
    for (number, bench) in [&mut pair.live, &mut pair.catchup].into_iter().enumerate() {
        let peers = &mut bench.ship.config.peers;
        (peers.serves, peers.number) = (Serves::Live, number);
        (peers.live, peers.catchup) = (vec![first.clone(), second.clone()], Vec::new());
    }
    // The second core has a tail of its own: give both the same.
    let slab = tail.truncate(tail.end(), None).unwrap();
    for bench in [&pair.live, &pair.catchup] {
        bench.to_ship.send(ToShip::Slab(slab.clone())).unwrap();
    }
    let mut socket = pair.live.start(tail.end());
    pair.run(|pair| (pair.live.ship.sessions.len() == 1).then_some(()));
    let standbys = Arc::clone(&pair.live.ship.config.standbys);
    standbys.standby(0).home.store(1, Ordering::Relaxed);
    let (mut bytes, mut wal) = (Vec::new(), Vec::new());
    for word in [b"one", b"two"] {
        let opened = tail.append(word).unwrap().1;
        for bench in [&pair.live, &pair.catchup] {
            opened.iter().for_each(|slab| bench.to_ship.send(ToShip::Slab(slab.clone())).unwrap());
        }
        pair.live.shared.received_lsn.store(tail.end());
        pair.run(|_| {
            read_wal(&mut socket, &mut bytes, &mut wal);
            wal.ends_with(word).then_some(())
        });
    }
    assert_eq!((wal, pair.moved_in()), (b"onetwo".to_vec(), [0, 1]));
    assert_eq!([&pair.live, &pair.catchup].map(|bench| bench.ship.sessions.len()), [0, 1]);
}

#[test]
fn a_session_on_its_way_is_ended_where_it_arrives() {
    let (mut pair, _tail) = Pair::new();
    // Knows what may be sent before the session comes.
    pair.live.turn();
    let _socket = pair.live.start(SegNo(1).start(SIZE));
    pair.live.turn();
    // It is in the mail. The wal core tells both, and only the mark is found.
    let standbys = Arc::clone(&pair.live.ship.config.standbys);
    standbys.standby(0).must_end.store(true, Ordering::Release);
    pair.live.to_ship.send(ToShip::End { standby: 0, report: None }).unwrap();
    let end = pair.run(|pair| pair.catchup.from_ship.recv());
    assert!(matches!(end, ToWal::Ended { end: StreamEnd::Closed, .. }), "{end:?}");
}

#[test]
fn a_core_that_stops_serves_the_session_in_its_mail_to_its_end() {
    let (mut pair, tail) = Pair::new();
    // Knows what may be sent before the session comes.
    pair.live.turn();
    let mut socket = pair.live.start(SegNo(1).start(SIZE));
    pair.live.turn();
    pair.catchup.to_ship.send(ToShip::Stop { end: tail.end() }).unwrap();
    pair.live.to_ship.send(ToShip::Stop { end: tail.end() }).unwrap();
    pair.live.turn();
    assert!(pair.live.ship.is_drained());
    let (mut bytes, mut wal) = (Vec::new(), Vec::new());
    pair.run(|pair| {
        assert!(!pair.catchup.ship.is_drained());
        read_wal(&mut socket, &mut bytes, &mut wal);
        (wal.len() == 3 * SLAB_LEN).then_some(())
    });
    let flush = tail.end();
    let done = StandbyStatusUpdate { write: flush, flush, apply: flush, ..Default::default() };
    socket.write_all(&done.encode()).unwrap();
    pair.run(|pair| {
        let mut piece = [0; 1 << 16];
        while matches!(socket.read(&mut piece), Ok(1..)) {}
        pair.catchup.ship.is_drained().then_some(())
    });
    assert_eq!(pair.moved_in(), [0, 1]);
}

mod tls;
mod zero_copy;
