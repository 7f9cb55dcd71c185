//! One connection to the source.

use std::collections::VecDeque;
use std::io::{self, BufReader, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::{Column, ColumnType, Encoder, Report};
use walhub_proto::wire::copy::{
    COPY_DATA, COPY_DONE, COPY_DONE_MESSAGE, StandbyStatusUpdate, XLogData,
};

use super::wal::Wal;
use super::{Outcome, Shared};

/// Requests for encryption, answered with no. PostgreSQL: `NEGOTIATE_SSL_CODE`, `NEGOTIATE_GSS_CODE`.
const ENCRYPTION_REQUESTS: [u32; 2] = [80_877_103, 80_877_104];
/// The longest message taken from a receiver.
const MESSAGE_LEN_MAX: usize = 64 << 10;
/// Latencies up to a minute are kept apart.
const LATENCY_US_MAX: u64 = 60_000_000;

/// A message, its type and its body.
type Message = (u8, Vec<u8>);

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

#[derive(Debug)]
pub(super) struct Session<'a> {
    reader: BufReader<TcpStream>,
    stream: TcpStream,
    shared: &'a Shared,
}

impl<'a> Session<'a> {
    pub(super) fn serve(
        stream: TcpStream,
        shared: &'a Shared,
        go: &Mutex<Receiver<()>>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut session = Self { reader: BufReader::new(stream.try_clone()?), stream, shared };
        session.start_up()?;
        loop {
            let (kind, body) = session.message()?;
            match kind {
                b'Q' => {
                    let text = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
                    session.command(&text, go)?;
                }
                b'X' => return Ok(()),
                other => return Err(invalid(format!("unexpected message type {other}"))),
            }
        }
    }

    fn start_up(&mut self) -> io::Result<()> {
        loop {
            let packet = self.packet()?;
            let code = packet.first_chunk().map_or(0, |word| u32::from_be_bytes(*word));
            if !ENCRYPTION_REQUESTS.contains(&code) {
                break;
            }
            self.stream.write_all(b"N")?;
        }
        let mut out = Encoder::new();
        out.authentication_ok();
        let major = self.shared.wal.version().major().unwrap_or(15);
        let server_version = format!("{major}.0 (walhub-bench)");
        for (name, value) in [
            ("server_version", server_version.as_str()),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ] {
            out.parameter_status(name, value);
        }
        out.backend_key_data(1, 1).ready_for_query(b'I');
        self.stream.write_all(out.bytes())
    }

    fn command(&mut self, text: &str, go: &Mutex<Receiver<()>>) -> io::Result<()> {
        let upper = text.to_ascii_uppercase();
        let wal = &self.shared.wal;
        let row = |names: &[&str], values: &[Option<String>]| {
            let mut out = Encoder::new();
            let columns: Vec<Column> =
                names.iter().map(|name| Column::text(name, ColumnType::TEXT)).collect();
            out.row_description(&columns).data_row(values).command_complete("SELECT");
            out
        };
        let mut out = if upper.starts_with("START_REPLICATION") {
            let start =
                text.split_whitespace().find_map(|word| word.trim_end_matches(';').parse().ok());
            let start: Lsn = start.ok_or_else(|| invalid(format!("no position in {text}")))?;
            self.stream_from(start, go)?;
            let mut out = Encoder::new();
            out.command_complete("START_STREAMING");
            out
        } else if upper.starts_with("IDENTIFY_SYSTEM") {
            let flush_lsn = Lsn(self.shared.flush_lsn.load(Ordering::Acquire));
            let values = [
                Some(wal.system_identifier().to_string()),
                Some("1".to_owned()),
                Some(flush_lsn.to_string()),
                None,
            ];
            row(&["systemid", "timeline", "xlogpos", "dbname"], &values)
        } else if upper.starts_with("SHOW WAL_SEGMENT_SIZE") {
            row(&["wal_segment_size"], &[Some(format!("{}MB", wal.segment_size().bytes() >> 20))])
        } else if upper.starts_with("SHOW DATA_DIRECTORY_MODE") {
            row(&["data_directory_mode"], &[Some("0700".to_owned())])
        } else if upper.starts_with("READ_REPLICATION_SLOT") {
            row(&["slot_type", "restart_lsn", "restart_tli"], &[None, None, None])
        } else {
            let mut out = Encoder::new();
            out.report(&Report::error(SqlState::SYNTAX_ERROR, format!("not known here: {text}")));
            out
        };
        out.ready_for_query(b'I');
        self.stream.write_all(out.bytes())
    }

    /// Streams to the end of the WAL and stays until the receiver ends the stream.
    fn stream_from(&mut self, start: Lsn, go: &Mutex<Receiver<()>>) -> io::Result<()> {
        let wal = &self.shared.wal;
        if start < wal.start() || start > wal.end() {
            return Err(invalid(format!("there is no WAL at {start}")));
        }
        let mut out = Encoder::new();
        out.copy_both_response();
        self.stream.write_all(out.bytes())?;
        // The owner may have given up.
        let _ = self.shared.asked.try_send(());
        // One session streams; the word to go stays said for one that connects again.
        let go = go.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.flush_lsn.load(Ordering::Acquire) == wal.start().0 && go.recv().is_err() {
            return Ok(());
        }
        drop(go);
        let flow = (Mutex::new(Flow::default()), Condvar::new());
        let (shared, sending, reader) = (self.shared, &mut self.stream, &mut self.reader);
        std::thread::scope(|scope| {
            let receiving = scope.spawn(|| receive(reader, shared, &flow));
            let sent = send(sending, shared, start, &flow);
            let received =
                receiving.join().map_err(|_| invalid("the receiving half panicked".to_owned()))?;
            sent.and(received)
        })?;
        self.stream.write_all(&COPY_DONE_MESSAGE)
    }

    fn message(&mut self) -> io::Result<Message> {
        message(&mut self.reader)
    }

    /// A start-up packet: as a message, without a type.
    fn packet(&mut self) -> io::Result<Vec<u8>> {
        body(&mut self.reader)
    }
}

fn send(
    stream: &mut TcpStream,
    shared: &Shared,
    start: Lsn,
    (flow, moved): &(Mutex<Flow>, Condvar),
) -> io::Result<()> {
    let wal: &Wal = &shared.wal;
    let mut offset = usize::try_from(start - wal.start()).unwrap_or(usize::MAX);
    let first = wal.message_ends.partition_point(|&end| end <= offset);
    for &end in wal.message_ends.get(first..).unwrap_or_default() {
        if let Some(window) = shared.window {
            let mut flow = flow.lock().unwrap_or_else(PoisonError::into_inner);
            let acked = |flow: &Flow| Lsn(flow.acked.max(start.0));
            while !flow.closed
                && wal.lsn(end).saturating_bytes_since(acked(&flow))
                    > window.max(u64::try_from(end - offset).unwrap_or(0))
            {
                flow = moved.wait(flow).unwrap_or_else(PoisonError::into_inner);
            }
            if flow.closed {
                return Ok(());
            }
            flow.in_flight.push_back((wal.lsn(end).0, Instant::now()));
        }
        let payload = wal.bytes.get(offset..end).unwrap_or_default();
        let length = u64::try_from(payload.len()).unwrap_or(0);
        let header = XLogData { start: wal.lsn(offset), end: wal.lsn(end), sent: Timestamp(0) };
        shared.flush_lsn.store(wal.lsn(end).0, Ordering::Release);
        write_both(stream, &header.encode_header(length), payload)?;
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
    reader: &mut BufReader<TcpStream>,
    shared: &Shared,
    (flow, moved): &(Mutex<Flow>, Condvar),
) -> io::Result<()> {
    let mut flushes = 0;
    let mut latency_us = histogram();
    let mut done = false;
    let result = loop {
        let (kind, body) = match message(reader) {
            Ok(message) => message,
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
            let micros = u64::try_from(now.duration_since(sent).as_micros()).unwrap_or(u64::MAX);
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

fn message(reader: &mut BufReader<TcpStream>) -> io::Result<Message> {
    let mut kind = [0];
    reader.read_exact(&mut kind)?;
    Ok((kind[0], body(reader)?))
}

fn body(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut word = [0; 4];
    reader.read_exact(&mut word)?;
    let length = usize::try_from(u32::from_be_bytes(word)).unwrap_or(usize::MAX);
    let length = length.checked_sub(4).filter(|&length| length <= MESSAGE_LEN_MAX);
    let length =
        length.ok_or_else(|| invalid("a message of a length that cannot be".to_owned()))?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
