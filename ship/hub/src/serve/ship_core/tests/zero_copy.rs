//! Standbys over TCP that are sent memory of the tail itself.

use std::net::{TcpListener, TcpStream};

use socket2::SockRef;

use super::*;
use crate::api::settings::ZerocopySend;
use crate::serve::walsender::ZEROCOPY_UNACKED_BYTES_MAX;

/// WAL that a standby is given before it reads any.
const BEHIND: usize = 24 * SLAB_LEN;
/// As many as the wal core has for one standby: the tail's, and what a message and what is not
/// acknowledged can pin.
const SLABS: usize = 8 + 2 + 3;
const _: () = assert!(ZEROCOPY_UNACKED_BYTES_MAX == 1 << 20);

fn bench(zerocopy_send: ZerocopySend) -> (Bench, Tail, SlabPool) {
    let mut settings = crate::api::settings::for_tests();
    settings.zerocopy_send = zerocopy_send;
    let (bench, _) = Bench::new(settings);
    let pool = SlabPool::new(SLAB_LEN, SLABS);
    let (tail, slab) = Tail::new(pool.clone(), 8, SegNo(4).start(SIZE), &[]);
    bench.to_ship.send(ToShip::Slab(slab)).unwrap();
    (bench, tail, pool)
}

/// A connection whose far end is read later.
fn connect(bench: &Bench, start: Lsn) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_recv_buffer_size(64 << 10).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    // Room for more slabs than there are.
    SockRef::from(&near).set_send_buffer_size(4 << 20).unwrap();
    let far = listener.accept().unwrap().0;
    far.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    bench.start_on(near.into(), start);
    far
}

/// Appends `len` bytes and publishes them; what was written is also in its segment.
fn append(bench: &mut Bench, tail: &mut Tail, len: usize) {
    for piece in vec![7; len].chunks(96 << 10) {
        let mut rest = piece;
        while !rest.is_empty() {
            let (count, slab) = tail.append(rest).expect("memory is pinned elsewhere");
            rest = &rest[count..];
            slab.into_iter().for_each(|slab| bench.to_ship.send(ToShip::Slab(slab)).unwrap());
        }
        bench.shared.received_lsn.store(tail.end());
        bench.turn();
        for completion in bench.wait_until_soon() {
            let now = now(&bench.io);
            bench.ship.handle(&mut bench.io, now, completion);
        }
    }
}

impl Bench {
    fn wait_until_soon(&mut self) -> Vec<Completion> {
        let mut completions = Vec::new();
        let soon = self.io.now_ns() + 100_000;
        self.io.wait(Some(soon), &mut completions).unwrap();
        completions
    }

    fn bytes(&self) -> [u64; 2] {
        let counts = self.ship.config.peers.stats.counts();
        [&counts.tail_bytes, &counts.zerocopy_bytes].map(|bytes| bytes.load(Ordering::Relaxed))
    }

    fn wal_until(&mut self, far: &mut TcpStream, want: usize) -> Vec<u8> {
        let mut wal = Vec::new();
        self.read_until(far, |kind, body| {
            if kind == b'd' && body[0] == b'w' {
                wal.extend_from_slice(&body[25..]);
            }
            wal.len() >= want
        });
        wal
    }
}

#[test]
fn a_standby_that_reads_nothing_pins_a_few_slabs_and_gets_every_byte() {
    let (mut bench, mut tail, pool) = bench(ZerocopySend::On);
    for segno in 4..40_u64 {
        let file = SegNo(segno).file_name(TimelineId::FIRST, SIZE);
        std::fs::write(bench.dir.path().join(file), vec![7; SLAB_LEN]).unwrap();
    }
    let mut far = connect(&bench, tail.end());
    // Far more than its socket holds: it is behind the tail by now, and appending never stopped.
    append(&mut bench, &mut tail, BEHIND);
    assert!(bench.ship.tail.start().unwrap() > SegNo(4).start(SIZE) + 12 * (1 << 20));
    let session = bench.ship.sessions.values().next().unwrap();
    assert!(!session.is_released(), "nothing is pinned");
    let pinned = SLABS - pool.available() - bench.ship.tail.len();
    assert!((1..=4).contains(&pinned), "{pinned} slabs");
    let wal = bench.wal_until(&mut far, BEHIND);
    assert!(wal.len() == BEHIND && wal.iter().all(|&byte| byte == 7));
    bench.run(|bench| bench.ship.sessions.values().all(Walsender::is_released).then_some(()));
    // On this machine the kernel copies; a setting that forces it is obeyed all the same.
    assert_eq!(bench.bytes()[1], 0);
    assert!(bench.bytes()[0] > 1 << 20);
}

#[test]
fn a_standby_that_is_ended_before_it_acknowledges_lets_go_of_the_tail() {
    let (mut bench, mut tail, _pool) = bench(ZerocopySend::On);
    let far = connect(&bench, tail.end());
    append(&mut bench, &mut tail, 2 * SLAB_LEN);
    assert!(!bench.ship.sessions.values().next().unwrap().is_released());
    bench.to_ship.send(ToShip::End { standby: 0, report: None }).unwrap();
    let begin = std::time::Instant::now();
    let end = bench.run(|bench| bench.from_ship.recv());
    assert!(matches!(end, ToWal::Ended { end: StreamEnd::Closed, .. }), "{end:?}");
    // It was given time to acknowledge.
    assert!(begin.elapsed() > Duration::from_millis(900));
    // What the ended session had sent is told nonetheless.
    bench.run(|bench| (bench.bytes()[1] > 1 << 19).then_some(()));
    drop(far);
}

#[test]
fn on_this_machine_nothing_is_tried_unless_it_is_forced() {
    for setting in [ZerocopySend::Auto, ZerocopySend::Off] {
        let (mut bench, mut tail, _pool) = bench(setting);
        let mut far = connect(&bench, tail.end());
        append(&mut bench, &mut tail, SLAB_LEN);
        bench.wal_until(&mut far, SLAB_LEN);
        assert!(bench.ship.sessions.values().all(|session| session.is_released()));
        assert!(bench.bytes()[0] > 1 << 20 && bench.bytes()[1] == 0);
    }
}
