//! Real files, real sockets, the real ring.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use smallvec::smallvec;

use super::*;
use crate::buffer::{Buffer, BufferPool, SlabPool};
use crate::io::{BLOCK_LEN, Gather, Head, OpenMode, Scatter, Scattered, Waker};
use crate::mailbox::mailbox;

const RW: OpenMode = OpenMode { create: true, direct: false };

fn ring() -> Uring {
    Uring::new(UringConfig::default()).unwrap()
}

fn wait_some(ring: &mut Uring) -> Vec<Completion> {
    let mut completions = Vec::new();
    while completions.is_empty() {
        ring.wait(None, &mut completions).unwrap();
    }
    completions
}

/// Runs one operation to its end.
fn run(ring: &mut Uring, op: Op) -> io::Result<Done> {
    ring.submit(Token(77), op);
    let mut completions = wait_some(ring);
    assert_eq!(completions.len(), 1);
    let completion = completions.pop().unwrap();
    assert_eq!(completion.token, Token(77));
    completion.result
}

fn open(ring: &mut Uring, path: PathBuf, mode: OpenMode) -> io::Result<FileId> {
    match run(ring, Op::Open { path, mode })? {
        Done::Opened(file) => Ok(file),
        other => panic!("{other:?}"),
    }
}

fn write(ring: &mut Uring, file: FileId, offset: u64, data: Gather, durable: bool) -> usize {
    match run(ring, Op::Write { file, offset, data, durable }).unwrap() {
        Done::Wrote(count) => count,
        other => panic!("{other:?}"),
    }
}

fn read(ring: &mut Uring, file: FileId, offset: u64, capacity: usize) -> Buffer {
    match run(ring, Op::Read { file, offset, buf: Buffer::with_capacity(capacity) }).unwrap() {
        Done::Read(buf) => buf,
        other => panic!("{other:?}"),
    }
}

/// A socket of the ring, and its far end.
fn connect(ring: &mut Uring) -> (SocketId, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    (ring.adopt(near.into()), far)
}

fn recv(ring: &mut Uring, socket: SocketId, capacity: usize) -> Buffer {
    match run(ring, Op::Recv { socket, buf: Buffer::with_capacity(capacity) }).unwrap() {
        Done::Received(buf) => buf,
        other => panic!("{other:?}"),
    }
}

fn land(ring: &mut Uring, socket: SocketId, scatter: Scatter) -> Scattered {
    match run(ring, Op::RecvScatter { socket, scatter }).unwrap() {
        Done::Scattered(scattered) => scattered,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_receive_into_a_slab_puts_the_header_aside() {
    let ring = &mut ring();
    let (socket, mut far) = connect(ring);
    let mut writer = SlabPool::new(16, 1).take().unwrap();
    writer.append(b"ab");
    far.write_all(b"cdHEADefgh").unwrap();
    let scattered = land(ring, socket, Scatter::new(writer.lend(6), 2, 4));
    assert_eq!(
        (scattered.before, scattered.header.as_slice(), scattered.after),
        (2, &b"HEAD"[..], 4)
    );
    let mut room = scattered.room;
    writer.keep(&mut room, 6);
    drop(room);
    // Shorter than foreseen, ending in each of the three.
    for (sent, before, header, after) in
        [(&b"i"[..], 1, &b""[..], 0), (b"jkHE", 2, b"HE", 0), (b"lmHEADn", 2, b"HEAD", 1)]
    {
        far.write_all(sent).unwrap();
        let scattered = land(ring, socket, Scatter::new(writer.lend(4), 2, 4));
        assert_eq!(
            (scattered.before, scattered.header.as_slice(), scattered.after),
            (before, header, after)
        );
        let mut room = scattered.room;
        writer.keep(&mut room, before + after);
    }
    assert_eq!(&writer.slab().slice(0..14)[..], b"abcdefghijklmn");
    drop(far);
    assert!(land(ring, socket, Scatter::new(writer.lend(2), 0, 4)).is_empty());
    assert!(!writer.is_lent());
    ring.close_socket(socket);
}

#[test]
fn a_ring_that_is_dropped_gives_back_what_a_receive_was_to_fill() {
    let mut writer = SlabPool::new(16, 1).take().unwrap();
    let mut ring = ring();
    let (socket, far) = connect(&mut ring);
    let scatter = Scatter::new(writer.lend(6), 2, 4);
    ring.submit(Token(1), Op::RecvScatter { socket, scatter });
    ring.wait(Some(ring.now_ns()), &mut Vec::new()).unwrap();
    assert!(writer.is_lent());
    drop(ring);
    assert!(!writer.is_lent());
    drop(far);
}

#[test]
fn writes_and_reads_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let ring = &mut ring();
    let file = open(ring, dir.path().join("file"), RW).unwrap();
    let data: Gather = smallvec![Bytes::from("hello"), Bytes::new(), Bytes::from(" world")];
    assert_eq!(write(ring, file, 3, data, false), 11);
    assert!(matches!(run(ring, Op::Sync { file }), Ok(Done::Synced)));
    assert_eq!(&*read(ring, file, 0, 100), b"\0\0\0hello world");
    assert_eq!(&*read(ring, file, 5, 4), b"llo ");
    assert!(read(ring, file, 50, 4).is_empty());
    assert!(matches!(run(ring, Op::Close { file }), Ok(Done::Closed)));
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"\0\0\0hello world");
}

#[test]
fn what_is_allocated_reads_as_zeros_and_takes_room() {
    // A tmpfs allocates, too.
    let dir = tempfile::tempdir().unwrap();
    let ring = &mut ring();
    let file = open(ring, dir.path().join("file"), RW).unwrap();
    assert!(matches!(run(ring, Op::Allocate { file, len: 64 << 10 }), Ok(Done::Allocated)));
    assert_eq!(&*read(ring, file, 0, 100 << 10), [0; 64 << 10]);
    let metadata = std::fs::metadata(dir.path().join("file")).unwrap();
    assert!(metadata.blocks() * 512 >= 64 << 10);
}

#[test]
fn gather_of_the_most_pieces_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let ring = &mut ring();
    let file = open(ring, dir.path().join("file"), RW).unwrap();
    let pieces = (0..64_u8).map(|byte| Bytes::from(vec![byte; 3]));
    assert_eq!(write(ring, file, 0, pieces.collect(), true), 192);
    let buf = read(ring, file, 0, 256);
    assert!(buf.iter().zip(0_u8..).all(|(&byte, index)| byte == index / 3));
}

#[test]
fn direct_and_durable_writes_from_pooled_memory() {
    // Where tests run may be a tmpfs; the source directory is not.
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let ring = &mut ring();
    let path = dir.path().join("file");
    let mode = OpenMode { create: true, direct: true };
    let file = match open(ring, path.clone(), mode) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
        Err(error) => panic!("{error}"),
    };
    let pool = BufferPool::new(BLOCK_LEN, 1);
    let slabs = SlabPool::new(2 * BLOCK_LEN, 1);
    let mut slab = slabs.take().unwrap();
    slab.append(&[b'a'; 2 * BLOCK_LEN]);
    let mut tail = pool.take().unwrap();
    tail.fill(b"tail");
    tail.zero_pad_to(BLOCK_LEN);
    let data: Gather = smallvec![slab.slab().slice(0..2 * BLOCK_LEN), tail.freeze()];
    drop(slab);
    assert_eq!(write(ring, file, 4096, data, true), 3 * BLOCK_LEN);
    assert!(pool.take().is_some() && slabs.take().is_some());
    let buf = read(ring, file, 8192, 4 * BLOCK_LEN);
    assert_eq!(buf.len(), 2 * BLOCK_LEN);
    assert_eq!((&buf[..2], &buf[BLOCK_LEN..BLOCK_LEN + 5]), (&b"aa"[..], &b"tail\0"[..]));
    assert_eq!(std::fs::metadata(path).unwrap().len(), 4 * 4096);
    let misaligned = smallvec![Bytes::from(vec![0; BLOCK_LEN])];
    ring.submit(Token(1), Op::Write { file, offset: 100, data: misaligned, durable: false });
    let error = wait_some(ring).pop().unwrap().result.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn renames_unlinks_and_syncs_directories() {
    let dir = tempfile::tempdir().unwrap();
    let ring = &mut ring();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let file = open(ring, from.clone(), RW).unwrap();
    run(ring, Op::Close { file }).unwrap();
    let rename = Op::Rename { from: from.clone(), to: to.clone() };
    assert!(matches!(run(ring, rename), Ok(Done::Renamed)));
    assert!(to.exists() && !from.exists());
    let sync = Op::SyncDir { path: dir.path().to_owned() };
    assert!(matches!(run(ring, sync), Ok(Done::Synced)));
    assert!(matches!(run(ring, Op::Unlink { path: to.clone() }), Ok(Done::Unlinked)));
    assert!(!to.exists());
    let not_there = run(ring, Op::Unlink { path: to.clone() }).unwrap_err();
    assert_eq!(not_there.kind(), io::ErrorKind::NotFound);
    let no_dir = run(ring, Op::SyncDir { path: to.clone() }).unwrap_err();
    assert_eq!(no_dir.kind(), io::ErrorKind::NotFound);
    let no_file = open(ring, to, OpenMode { create: false, direct: false }).unwrap_err();
    assert_eq!(no_file.kind(), io::ErrorKind::NotFound);
    let bad = run(ring, Op::Unlink { path: PathBuf::from("a\0b") }).unwrap_err();
    assert_eq!(bad.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn sends_and_receives() {
    let ring = &mut ring();
    let (socket, mut far) = connect(ring);
    let body: Gather = smallvec![Bytes::from("lo "), Bytes::from("world")];
    let send = Op::Send { socket, head: Head::new(b"hel"), body };
    assert!(matches!(run(ring, send), Ok(Done::Sent(11))));
    let mut got = [0; 11];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello world");
    far.write_all(b"answer").unwrap();
    assert_eq!(&*recv(ring, socket, 4), b"answ");
    assert_eq!(&*recv(ring, socket, 4), b"er");
    drop(far);
    assert!(recv(ring, socket, 4).is_empty());
    ring.close_socket(socket);
}

#[test]
fn large_send_to_a_slow_reader_arrives_whole() {
    let ring = &mut ring();
    let (socket, mut far) = connect(ring);
    let piece: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let body: Gather = (0..20).map(|_| Bytes::from(piece.clone())).collect();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        let mut chunk = [0; 10_000];
        loop {
            let count = far.read(&mut chunk).unwrap();
            if count == 0 {
                return all;
            }
            all.extend_from_slice(&chunk[..count]);
            thread::yield_now();
        }
    });
    let sent = run(ring, Op::Send { socket, head: Head::new(b"x"), body }).unwrap();
    assert!(matches!(sent, Done::Sent(6_000_001)), "{sent:?}");
    ring.close_socket(socket);
    let all = reader.join().unwrap();
    assert_eq!(all.len(), 6_000_001);
    assert!(all[1..].chunks(300_000).all(|chunk| chunk == piece));
}

/// A file of `len` bytes that the page cache holds, or does not.
fn file_of(ring: &mut Uring, name: &str, len: usize, cached: bool) -> (FileId, Vec<u8>) {
    // Not in the directory for temporary files: what is in memory only is always cached.
    let program = std::env::current_exe().unwrap();
    let path = program.with_file_name(format!("walhub-sendfile-{name}-{}", std::process::id()));
    let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    if !cached {
        // SAFETY: the call takes no memory.
        let result =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(result, 0);
    }
    let id = open(ring, path.clone(), OpenMode { create: false, direct: false }).unwrap();
    std::fs::remove_file(path).unwrap();
    (id, bytes)
}

#[test]
fn a_cached_file_arrives_whole_at_a_slow_reader() {
    let ring = &mut ring();
    let (socket, mut far) = connect(ring);
    let (file, bytes) = file_of(ring, "slow", 3_000_000, true);
    // Receiving goes on meanwhile.
    ring.submit(Token(1), Op::Recv { socket, buf: Buffer::with_capacity(8) });
    let reader = thread::spawn(move || {
        let mut all = vec![0; 1 + 2_999_990];
        for chunk in all.chunks_mut(100_000) {
            far.read_exact(chunk).unwrap();
            thread::yield_now();
        }
        far.write_all(b"reply").unwrap();
        (all, far)
    });
    let send = Op::SendFile { socket, head: Head::new(b"x"), file, offset: 10, len: 2_999_990 };
    let sent = run(ring, send).unwrap();
    assert!(matches!(sent, Done::Sent(2_999_991)), "{sent:?}");
    let (all, _far) = reader.join().unwrap();
    assert_eq!((all[0], &all[1..]), (b'x', &bytes[10..]));
    let reply = wait_some(ring).pop().unwrap();
    assert!(matches!(&reply.result, Ok(Done::Received(buf)) if &buf[..] == b"reply"));
}

#[test]
fn a_file_that_is_not_cached_is_not_waited_for() {
    let ring = &mut ring();
    let (socket, _far) = connect(ring);
    let (file, _) = file_of(ring, "cold", 1 << 20, false);
    let send = Op::SendFile { socket, head: Head::new(b"x"), file, offset: 0, len: 1 << 20 };
    let sent = run(ring, send).unwrap();
    assert!(matches!(sent, Done::Sent(0)), "{sent:?}");
}

#[test]
fn a_pending_send_of_a_file_ends_with_its_socket_and_with_its_ring() {
    let ring = &mut ring();
    let (socket, far) = connect(ring);
    let (other, _far) = connect(ring);
    let (file, _) = file_of(ring, "pending", 4 << 20, true);
    for (token, socket) in [(1, socket), (2, other)] {
        let head = Head::new(b"x");
        ring.submit(Token(token), Op::SendFile { socket, head, file, offset: 0, len: 4 << 20 });
    }
    let mut completions = Vec::new();
    ring.wait(Some(ring.now_ns() + 10_000_000), &mut completions).unwrap();
    assert!(completions.is_empty(), "{completions:?}");
    drop(far);
    let completion = wait_some(ring).pop().unwrap();
    assert_eq!(completion.token, Token(1));
    assert_eq!(completion.result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    ring.close_socket(socket);
}

#[test]
fn shutdown_ends_a_pending_receive_and_a_pending_send() {
    let ring = &mut ring();
    let (socket, _far) = connect(ring);
    ring.submit(Token(1), Op::Recv { socket, buf: Buffer::with_capacity(8) });
    let body: Gather = smallvec![Bytes::from(vec![0; 8_000_000])];
    ring.submit(Token(2), Op::Send { socket, head: Head::new(b""), body });
    let mut completions = Vec::new();
    ring.wait(Some(ring.now_ns() + 10_000_000), &mut completions).unwrap();
    assert!(completions.is_empty(), "{completions:?}");
    ring.shutdown(socket);
    while completions.len() < 2 {
        ring.wait(None, &mut completions).unwrap();
    }
    completions.sort_by_key(|completion| completion.token);
    assert!(matches!(&completions[0].result, Ok(Done::Received(buf)) if buf.is_empty()));
    match &completions[1].result {
        Ok(Done::Sent(count)) => assert!(*count < 8_000_000),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPIPE)),
        Ok(other) => panic!("{other:?}"),
    }
    ring.close_socket(socket);
}

#[test]
fn send_to_a_gone_peer_is_an_error_and_no_signal() {
    let ring = &mut ring();
    let (socket, far) = connect(ring);
    drop(far);
    let send = Op::Send { socket, head: Head::new(b"x"), body: Gather::new() };
    assert_eq!(run(ring, send).unwrap_err().raw_os_error(), Some(libc::EPIPE));
}

#[test]
fn a_socket_moves_from_ring_to_ring() {
    let first = &mut ring();
    let (socket, mut far) = connect(first);
    let conn = first.release(socket);
    let second = thread::spawn(move || {
        let ring = &mut ring();
        let socket = ring.adopt(conn);
        let got = recv(ring, socket, 16).to_vec();
        (got, ring.release(socket))
    });
    far.write_all(b"moved").unwrap();
    let (got, conn) = second.join().unwrap();
    assert_eq!(got, b"moved");
    let mut near = UnixStream::from(conn);
    let error = near.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn deadline_ends_a_wait() {
    let ring = &mut ring();
    let mut completions = Vec::new();
    let deadline = ring.now_ns() + 20_000_000;
    ring.wait(Some(deadline), &mut completions).unwrap();
    assert!(ring.now_ns() >= deadline && completions.is_empty());
    ring.wait(Some(0), &mut completions).unwrap();
    assert!(completions.is_empty());
}

#[test]
fn a_wake_ends_a_wait() {
    let ring = &mut ring();
    let waker = ring.waker();
    waker.wake();
    let mut completions = Vec::new();
    ring.wait(None, &mut completions).unwrap();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        waker.wake();
    });
    ring.wait(None, &mut completions).unwrap();
    thread.join().unwrap();
    assert!(completions.is_empty());
}

#[test]
fn mailboxes_wake_a_ring_and_lose_nothing() {
    const MESSAGES: u32 = 20_000;
    let ring = &mut ring();
    let (there, inbox) = mailbox(4, ring.waker());
    let (back, answers) = mpsc::channel();
    let sender = thread::spawn(move || {
        for number in 0..MESSAGES {
            there.send(number).unwrap();
            // Ping-pong: were one wake lost, both sides would wait for ever.
            assert_eq!(answers.recv(), Ok(number));
        }
    });
    let mut next = 0;
    let mut completions = Vec::new();
    while next < MESSAGES {
        ring.wait(None, &mut completions).unwrap();
        while let Some(number) = inbox.recv() {
            assert_eq!(number, next);
            next += 1;
            back.send(number).unwrap();
        }
    }
    sender.join().unwrap();
}

#[test]
fn more_operations_than_the_queues_have_room() {
    const OPS: u64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let ring = &mut Uring::new(UringConfig { entries: 8, ..UringConfig::default() }).unwrap();
    let file = open(ring, dir.path().join("file"), RW).unwrap();
    write(ring, file, 0, smallvec![Bytes::from(vec![7; 100])], false);
    let sockets: Vec<_> = (0..200).map(|_| connect(ring)).collect();
    for (token, (socket, _)) in (OPS..).zip(&sockets) {
        ring.submit(Token(token), Op::Recv { socket: *socket, buf: Buffer::with_capacity(8) });
    }
    for token in 0..OPS {
        let buf = Buffer::with_capacity(16);
        ring.submit(Token(token), Op::Read { file, offset: 0, buf });
    }
    for (_, far) in &sockets {
        (&mut &*far).write_all(b"ready").unwrap();
    }
    let mut completions = Vec::new();
    while completions.len() < 5_200 {
        ring.wait(None, &mut completions).unwrap();
    }
    completions.sort_by_key(|completion| completion.token);
    for (completion, token) in completions.iter().zip(0..) {
        assert_eq!(completion.token, Token(token));
        match &completion.result {
            Ok(Done::Read(buf)) => assert_eq!(&**buf, &[7; 16]),
            Ok(Done::Received(buf)) => assert_eq!(&**buf, b"ready"),
            other => panic!("{other:?}"),
        }
    }
    assert!(ring.operations.under_way() == 0);
}

#[test]
fn a_receive_is_cancelled_and_the_socket_goes_to_another_ring_with_every_byte() {
    let (here, there) = (&mut ring(), &mut ring());
    let (socket, far) = connect(here);
    let pool = BufferPool::new(8, 1);
    for waits_in_kernel in [true, false] {
        here.submit(Token(1), Op::Recv { socket, buf: pool.take().unwrap() });
        if waits_in_kernel {
            here.wait(Some(here.now_ns() + 1_000_000), &mut Vec::new()).unwrap();
        }
        here.submit(Token(2), Op::CancelRecv { socket });
        let mut completions = Vec::new();
        while completions.len() < 2 {
            here.wait(None, &mut completions).unwrap();
        }
        completions.sort_by_key(|completion| completion.token);
        let error = completions[0].result.as_ref().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
        assert!(matches!(completions[1].result, Ok(Done::Cancelled)));
    }
    // Nothing to cancel is as well.
    assert!(matches!(run(here, Op::CancelRecv { socket }), Ok(Done::Cancelled)));
    (&mut &far).write_all(b"bytes").unwrap();
    let socket = there.adopt(here.release(socket));
    assert_eq!(&*recv(there, socket, 8), b"bytes");
}

#[test]
fn buffers_come_back_when_a_ring_is_dropped_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let pool = BufferPool::new(64, 3);
    let mut ring = ring();
    let (socket, _far) = connect(&mut ring);
    let file = open(&mut ring, dir.path().join("file"), RW).unwrap();
    ring.submit(Token(1), Op::Recv { socket, buf: pool.take().unwrap() });
    // Let the receive and the eventfd's read be under way in the kernel, the rest only queued.
    ring.wait(Some(ring.now_ns() + 1_000_000), &mut Vec::new()).unwrap();
    let mut data = pool.take().unwrap();
    data.fill(b"written");
    let data = smallvec![data.freeze()];
    ring.submit(Token(2), Op::Write { file, offset: 0, data, durable: true });
    ring.submit(Token(3), Op::Read { file, offset: 0, buf: pool.take().unwrap() });
    ring.submit(Token(4), Op::Sync { file });
    assert!(pool.take().is_none());
    drop(ring);
    let all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(all.len(), 3);
}

#[test]
fn rings_come_and_go_on_one_thread() {
    // A thread may have 16 registered rings: each must be given back.
    for _ in 0..40 {
        let ring = &mut ring();
        assert_eq!(ring.enter_fd.1, ENTER_REGISTERED_RING);
        ring.waker().wake();
        ring.wait(None, &mut Vec::new()).unwrap();
    }
}

#[test]
#[should_panic(expected = "socket 0 has operations under way")]
fn closing_a_busy_socket_is_a_mistake_of_ours() {
    let ring = &mut ring();
    let (socket, _far) = connect(ring);
    ring.submit(Token(1), Op::Recv { socket, buf: Buffer::with_capacity(8) });
    ring.close_socket(socket);
}

/// Polls until something completed; between the polls it sleeps as an event loop does.
fn poll_some(ring: &mut Uring, deadline_ns: Option<u64>) -> Vec<Completion> {
    let mut completions = Vec::new();
    loop {
        if ring.poll(deadline_ns, &mut completions).unwrap() && !completions.is_empty() {
            return completions;
        }
        if deadline_ns.is_some_and(|deadline| deadline <= clock::monotonic_ns()) {
            return completions;
        }
        let fd = ring.completed().as_raw_fd();
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let begun = clock::monotonic_ns();
        // SAFETY: the kernel writes one pollfd, into a local that outlives the call.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1, "nobody woke the poll");
        assert!(clock::monotonic_ns() - begun < 9_000_000_000, "only the end of the poll found it");
        let mut count = [0; 8];
        // SAFETY: the kernel writes eight bytes, into a local that outlives the call.
        assert_eq!(unsafe { libc::read(fd, count.as_mut_ptr().cast(), 8) }, 8);
    }
}

#[test]
fn a_polled_ring_becomes_readable_when_something_completes_or_is_due() {
    let waker = UringWaker::calling(|| ());
    let mut ring = Uring::polled(UringConfig::default(), waker).unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let socket = ring.adopt(near.into());
    ring.submit(Token(1), Op::Recv { socket, buf: Buffer::with_capacity(100) });
    let soon = clock::monotonic_ns() + 300_000;
    assert!(poll_some(&mut ring, Some(soon)).is_empty());
    assert!(clock::monotonic_ns() >= soon);
    let later = clock::monotonic_ns() + 60_000_000_000;
    let writer = thread::spawn(move || far.write_all(b"abc").map(|()| far));
    let completions = poll_some(&mut ring, Some(later));
    let far = writer.join().unwrap().unwrap();
    assert!(matches!(
        &completions[..],
        [Completion { token: Token(1), result: Ok(Done::Received(_)) }]
    ));
    // The timeout that is still counted is no second one.
    assert!(!ring.poll(Some(later), &mut Vec::new()).unwrap());
    drop((ring, far));
}

#[test]
fn a_wake_of_a_polled_ring_is_not_lost_whenever_it_comes() {
    let (sender, called) = mpsc::channel();
    let waker = UringWaker::calling(move || sender.send(()).unwrap());
    let mut ring = Uring::polled(UringConfig::default(), waker.clone()).unwrap();
    let mut completions = Vec::new();
    waker.wake();
    assert!(ring.poll(None, &mut completions).unwrap(), "it came before");
    assert!(called.try_recv().is_err());
    assert!(!ring.poll(None, &mut completions).unwrap());
    waker.wake();
    called.try_recv().unwrap();
    assert!(ring.poll(None, &mut completions).unwrap());
}

#[test]
fn a_file_that_asks_to_be_tried_again_is_not_tried_for_ever() {
    let mut operations = Operations::new();
    let mut repeats_of = |work: Work| {
        let index = operations.begin(Token(1), -1, work);
        let repeats = (0..1000).take_while(|_| operations.operation(index).may_repeat()).count();
        operations.end(index);
        repeats
    };
    let data: Gather = smallvec![Bytes::from_static(b"x")];
    let write = || Work::Write { file: FileId(0), offset: 0, data: data.clone(), durable: false };
    // Each operation has as many tries, also in a box whose last one has used them up.
    assert_eq!((repeats_of(write()), repeats_of(write())), (16, 16));
    assert_eq!(repeats_of(Work::Sync { file: FileId(0) }), 16);
    // A socket waits in the kernel; a descriptor that was to be closed is gone.
    assert_eq!(repeats_of(Work::CancelRecv { socket: SocketId(0) }), 1000);
    assert_eq!(repeats_of(Work::Close), 0);
}
