//! Standbys whose streams are encrypted. The cipher is a toy: what is real is which bytes go through it, in which order,
//! and that all of them do.

use std::io;
use std::sync::Mutex;

use super::*;
use crate::api::tls::{RECORD_BYTES_MAX, TlsRecords};
use crate::serve::walsender::SEALED_BUFFER_LEN;

/// A record: its kind, its length, and its bytes, each changed by the record's number.
const HEADER_LEN: usize = 4;
const DATA: u8 = b'd';
/// Asks the other for an answer of its connection, with no data.
const ASK: u8 = b'?';
const ANSWER: u8 = b'!';
const CLOSE: u8 = b'.';

/// Either side of such a connection.
#[derive(Default, Debug)]
struct Toy {
    incoming: Vec<u8>,
    words: Vec<u8>,
    sealed: u8,
    opened: u8,
    answers: usize,
    closed: bool,
    closed_by_peer: bool,
}

impl Toy {
    fn record(&mut self, kind: u8, plain: &[u8]) -> Vec<u8> {
        let len = u16::try_from(plain.len()).unwrap().to_be_bytes();
        let key = self.sealed;
        self.sealed = self.sealed.wrapping_add(1);
        [kind, key, len[0], len[1]].into_iter().chain(plain.iter().map(|byte| byte ^ key)).collect()
    }

    fn seal_all(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut room = vec![0; SEALED_BUFFER_LEN];
        let len = self.seal(&[plain], &mut room).unwrap();
        room.truncate(len);
        room
    }
}

impl TlsRecords for Toy {
    fn seal(&mut self, pieces: &[&[u8]], room: &mut [u8]) -> io::Result<usize> {
        let mut out = std::mem::take(&mut self.words);
        for piece in pieces.iter().flat_map(|piece| piece.chunks(RECORD_BYTES_MAX)) {
            assert!(!self.closed, "something is said after the last word");
            out.extend(self.record(DATA, piece));
        }
        room[..out.len()].copy_from_slice(&out);
        Ok(out.len())
    }

    fn open(&mut self, received: &mut [u8], plain: &mut Vec<u8>) -> io::Result<()> {
        self.incoming.extend_from_slice(received);
        while self.incoming.len() >= HEADER_LEN {
            let len = usize::from(u16::from_be_bytes([self.incoming[2], self.incoming[3]]));
            if self.incoming.len() < HEADER_LEN + len {
                break;
            }
            let record: Vec<u8> = self.incoming.drain(..HEADER_LEN + len).collect();
            let (kind, key) = (record[0], record[1]);
            if key != self.opened {
                return Err(io::Error::other("a record is missing"));
            }
            self.opened = self.opened.wrapping_add(1);
            match kind {
                DATA => plain.extend(record[HEADER_LEN..].iter().map(|byte| byte ^ key)),
                ASK => {
                    let answer = self.record(ANSWER, b"");
                    self.words.extend(answer);
                }
                ANSWER => self.answers += 1,
                CLOSE => self.closed_by_peer = true,
                _ => return Err(io::Error::other("no record")),
            }
        }
        Ok(())
    }

    fn is_closed_by_peer(&self) -> bool {
        self.closed_by_peer
    }

    fn has_words(&self) -> bool {
        !self.words.is_empty()
    }

    fn close(&mut self) {
        self.closed = true;
        let record = self.record(CLOSE, b"");
        self.words.extend(record);
    }
}

/// The standby's end: a socket that decrypts what is read, and encrypts what is written.
struct Standby {
    socket: UnixStream,
    toy: Mutex<Toy>,
    plain: Vec<u8>,
}

impl Read for Standby {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut piece = [0; 1 << 16];
        let count = self.socket.read(&mut piece)?;
        self.toy.get_mut().unwrap().open(&mut piece[..count], &mut self.plain)?;
        let count = self.plain.len().min(buf.len());
        buf[..count].copy_from_slice(&self.plain[..count]);
        self.plain.drain(..count);
        Ok(count)
    }
}

impl Standby {
    fn say(&mut self, plain: &[u8]) {
        let sealed = self.toy.get_mut().unwrap().seal_all(plain);
        self.socket.write_all(&sealed).unwrap();
    }
}

fn start(bench: &Bench, start: Lsn) -> Standby {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    bench.start_with(theirs.into(), Some(Box::<Toy>::default()), start);
    Standby { socket: ours, toy: Mutex::default(), plain: Vec::new() }
}

fn bytes_by_path(bench: &Bench) -> [u64; 4] {
    let row = bench.ship.config.peers.stats.row(0);
    [row.tail_bytes, row.sendfile_bytes, row.read_bytes, row.tls_bytes]
}

#[test]
fn wal_of_segments_and_of_the_tail_arrives_and_all_of_it_was_encrypted() {
    let (mut bench, mut tail) = Bench::new(crate::api::settings::for_tests());
    let mut standby = start(&bench, SegNo(1).start(SIZE) + 100);
    let mut got = Vec::new();
    let want = usize::try_from(tail.end() - SegNo(1).start(SIZE) - 100).unwrap();
    let take = |body: &[u8], got: &mut Vec<u8>| {
        if body.first() == Some(&b'w') {
            got.extend_from_slice(&body[25..]);
        }
    };
    bench.read_until(&mut standby, |_, body| {
        take(body, &mut got);
        got.len() >= want
    });
    let segments = got.chunk_by(|a, b| a == b).map(|run| (run[0], run.len()));
    let (first, whole) = (SLAB_LEN - 100, SLAB_LEN);
    assert_eq!(segments.collect::<Vec<_>>(), [(1, first), (2, whole), (3, whole)]);
    let [_, by_sendfile, read, encrypted] = bytes_by_path(&bench);
    assert_eq!(by_sendfile, 0, "nothing goes past the cipher");
    assert!(read > u64::try_from(want).unwrap() && encrypted >= read);
    // And live: a message and the answer to a question of the connection itself.
    let question = standby.toy.get_mut().unwrap().record(ASK, b"");
    standby.socket.write_all(&question).unwrap();
    tail.append(b"new").unwrap();
    bench.shared.received_lsn.store(tail.end());
    got.clear();
    bench.read_until(&mut standby, |_, body| {
        take(body, &mut got);
        got == b"new"
    });
    if standby.toy.get_mut().unwrap().answers == 0 {
        // It comes with nothing else, then.
        bench.run(|_| {
            let _ = standby.read(&mut [0; 100]);
            (standby.toy.get_mut().unwrap().answers == 1).then_some(())
        });
    }
    let [_, _, _, now_encrypted] = bytes_by_path(&bench);
    assert!(now_encrypted > encrypted);
}

#[test]
fn replies_are_decrypted_and_the_connection_comes_back_with_its_cipher() {
    let (mut bench, tail) = Bench::new(crate::api::settings::for_tests());
    let standbys = Arc::clone(&bench.ship.config.standbys);
    let mut standby = start(&bench, tail.end());
    bench.read_until(&mut standby, |kind, _| kind == b'W');
    let reply = StandbyStatusUpdate { flush: Lsn(7), ..StandbyStatusUpdate::default() };
    let sealed = standby.toy.get_mut().unwrap().seal_all(&reply.encode());
    // It comes in two parts.
    standby.socket.write_all(&sealed[..9]).unwrap();
    bench.turn();
    standby.socket.write_all(&sealed[9..]).unwrap();
    bench.run(|_| (standbys.standby(0).mode_lsns().flush == Some(Lsn(7))).then_some(()));
    standby.say(&[&COPY_DONE_MESSAGE[..], b"next"].concat());
    bench.read_until(&mut standby, |kind, _| kind == b'c');
    let end = bench.run(|bench| match bench.from_ship.recv()? {
        ToWal::Ended { end, .. } => Some(end),
        other => panic!("{other:?}"),
    });
    let StreamEnd::Finished { tls: Some(mut tls), unread, .. } = end else { panic!("{end:?}") };
    assert_eq!(unread, b"next");
    // It goes on where it was.
    let mut room = [0; 4096];
    let len = tls.seal(&[b"answer"], &mut room).unwrap();
    let mut plain = Vec::new();
    standby.toy.get_mut().unwrap().open(&mut room[..len], &mut plain).unwrap();
    assert_eq!(plain, b"answer");
}

#[test]
fn a_standby_that_is_told_why_is_told_that_nothing_more_comes() {
    let (mut bench, tail) = Bench::new(crate::api::settings::for_tests());
    let mut standby = start(&bench, tail.end());
    bench.read_until(&mut standby, |kind, _| kind == b'W');
    let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, "that is all");
    bench.to_ship.send(ToShip::End { standby: 0, report: Some(report) }).unwrap();
    bench.read_until(&mut standby, |kind, _| kind == b'E');
    bench.run(|_| {
        let _ = standby.read(&mut [0; 100]);
        standby.toy.get_mut().unwrap().closed_by_peer.then_some(())
    });
    standby.socket.shutdown(std::net::Shutdown::Both).unwrap();
    let end = bench.run(|bench| bench.from_ship.recv());
    assert!(matches!(end, ToWal::Ended { end: StreamEnd::Closed, .. }), "{end:?}");
}

#[test]
fn what_is_no_record_ends_the_session_after_what_came_before() {
    let (mut bench, tail) = Bench::new(crate::api::settings::for_tests());
    let standbys = Arc::clone(&bench.ship.config.standbys);
    let mut standby = start(&bench, tail.end());
    bench.read_until(&mut standby, |kind, _| kind == b'W');
    let reply = StandbyStatusUpdate { flush: Lsn(7), ..StandbyStatusUpdate::default() };
    let mut sealed = standby.toy.get_mut().unwrap().seal_all(&reply.encode());
    sealed.extend([b'x', 1, 0, 0]);
    standby.socket.write_all(&sealed).unwrap();
    let end = bench.run(|bench| bench.from_ship.recv());
    assert!(matches!(end, ToWal::Ended { end: StreamEnd::Closed, .. }), "{end:?}");
    assert_eq!(standbys.standby(0).mode_lsns().flush, Some(Lsn(7)));
}

#[test]
fn an_encrypted_session_goes_from_core_to_core() {
    let (mut pair, mut tail) = Pair::new();
    let mut standby = start(&pair.live, SegNo(1).start(SIZE));
    let (mut bytes, mut wal) = (Vec::new(), Vec::new());
    let mut read = |wal: &mut Vec<u8>| {
        let mut piece = [0; 1 << 16];
        if let Ok(count) = standby.read(&mut piece) {
            bytes.extend_from_slice(&piece[..count]);
        }
        take_wal(&mut bytes, wal);
    };
    pair.run(|_| {
        read(&mut wal);
        (wal.len() >= 3 * SLAB_LEN).then_some(())
    });
    pair.run(|pair| (pair.moved_in() == [1, 1]).then_some(()));
    tail.append(b"new").unwrap();
    pair.live.shared.received_lsn.store(tail.end());
    pair.run(|_| {
        read(&mut wal);
        wal.ends_with(b"new").then_some(())
    });
    assert!(bytes_by_path(&pair.catchup)[3] > bytes_by_path(&pair.live)[3]);
}
