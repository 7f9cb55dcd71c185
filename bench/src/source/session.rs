//! The stream of a source: full speed is the point, so WAL and messages are made before.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use walhub_peers::connection::Connection;
use walhub_peers::walsender::{Description, WalSource};
use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::time::Timestamp;
use walhub_proto::wire::copy::{COPY_DATA, COPY_DONE, StandbyStatusUpdate, XLogData};

use super::wal::Wal;
use super::{Outcome, Shared};

/// Latencies up to a minute are kept apart.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What the sending and the receiving half of a stream share.
#[derive(Debug, Default)]
struct Flow {
    /// What the receiver flushed.
    acked: u64,
    /// End and time of messages sent and not acknowledged; only with a window.
    in_flight: VecDeque<(u64, Instant)>,
    /// The receiver has hung up.
    closed: bool,
}

impl WalSource for Shared {
    fn describe(&self) -> Description {
        Description {
            system_identifier: self.wal.system_identifier(),
            timeline: TimelineId::FIRST,
            segment_size: self.wal.segment_size(),
            version: self.wal.version(),
            flush_lsn: Lsn(self.flush_lsn.load(Ordering::Acquire)),
        }
    }

    fn has(&self, start: Lsn) -> bool {
        (self.wal.start()..=self.wal.end()).contains(&start)
    }

    /// Streams to the end of the WAL and stays until the receiver ends the stream.
    fn send(&self, connection: &mut Connection, start: Lsn) -> io::Result<()> {
        // The owner may have given up.
        let _ = self.asked.try_send(());
        // One session streams; the word to go stays said for one that connects again.
        let go = self.go.lock().unwrap_or_else(PoisonError::into_inner);
        if self.describe().flush_lsn == self.wal.start() && go.recv().is_err() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        drop(go);
        let flow = (Mutex::new(Flow::default()), Condvar::new());
        let mut sending = connection.socket().try_clone()?;
        std::thread::scope(|scope| {
            let receiving = scope.spawn(|| receive(connection, self, &flow));
            let sent = send(&mut sending, self, start, &flow);
            let received = receiving.join().map_err(|_| io::Error::other("a thread panicked"))?;
            sent.and(received)
        })
    }
}

fn send(
    stream: &mut TcpStream,
    shared: &Shared,
    start: Lsn,
    (flow, moved): &(Mutex<Flow>, Condvar),
) -> io::Result<()> {
    let wal: &Wal = &shared.wal;
    let mut offset = to_usize(start - wal.start());
    let first = wal.message_ends.partition_point(|&end| end <= offset);
    for &end in wal.message_ends.get(first..).unwrap_or_default() {
        if let Some(window) = shared.window {
            let mut flow = flow.lock().unwrap_or_else(PoisonError::into_inner);
            let acked = |flow: &Flow| Lsn(flow.acked.max(start.0));
            while !flow.closed
                && wal.lsn(end).saturating_bytes_since(acked(&flow))
                    > window.max(to_u64(end - offset))
            {
                flow = moved.wait(flow).unwrap_or_else(PoisonError::into_inner);
            }
            if flow.closed {
                return Ok(());
            }
            flow.in_flight.push_back((wal.lsn(end).0, Instant::now()));
        }
        let payload = wal.bytes.get(offset..end).unwrap_or_default();
        let header = XLogData { start: wal.lsn(offset), end: wal.lsn(end), sent: Timestamp(0) };
        shared.flush_lsn.store(wal.lsn(end).0, Ordering::Release);
        write_both(stream, &header.encode_header(to_u64(payload.len())), payload)?;
        offset = end;
    }
    Ok(())
}

fn write_both(stream: &mut TcpStream, header: &[u8], payload: &[u8]) -> io::Result<()> {
    let sent = stream.write_vectored(&[IoSlice::new(header), IoSlice::new(payload)])?;
    match sent.checked_sub(header.len()) {
        Some(sent) => stream.write_all(payload.get(sent..).unwrap_or_default()),
        None => {
            stream.write_all(header.get(sent..).unwrap_or_default())?;
            stream.write_all(payload)
        }
    }
}

/// Takes replies until the receiver ends the stream.
fn receive(
    connection: &mut Connection,
    shared: &Shared,
    (flow, moved): &(Mutex<Flow>, Condvar),
) -> io::Result<()> {
    let mut flushes = 0;
    let mut latency_us = histogram();
    let (mut done, mut body) = (false, Vec::new());
    let result = loop {
        let kind = match connection.receive(&mut body) {
            Ok(kind) => kind,
            Err(error) => break Err(error),
        };
        if kind == COPY_DONE || kind == b'X' {
            break Ok(());
        }
        let status = StandbyStatusUpdate::decode(&body);
        let (COPY_DATA, Ok(status)) = (kind, status) else { continue };
        let now = Instant::now();
        let mut flow = flow.lock().unwrap_or_else(PoisonError::into_inner);
        if status.flush.0 <= flow.acked {
            continue;
        }
        flow.acked = status.flush.0;
        shared.acked.store(status.flush.0, Ordering::Release);
        flushes += 1;
        while let Some(&(end, sent)) = flow.in_flight.front() {
            if end > status.flush.0 {
                break;
            }
            flow.in_flight.pop_front();
            let micros =
                u64::try_from(now.duration_since(sent).as_micros()).expect("no run is so long");
            latency_us.saturating_record(micros);
        }
        drop(flow);
        moved.notify_one();
        if status.flush >= shared.wal.end() && !done {
            done = true;
            let latency_us = latency_us.clone();
            // The owner may have given up.
            drop(shared.done.try_send(Outcome { ended: now, flushes, latency_us }));
        }
    };
    flow.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
    moved.notify_one();
    result
}

/// Three digits are kept.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).unwrap_or_else(|error| panic!("{error}"))
}
