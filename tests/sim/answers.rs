//! The walsender's side of a connection before and after streaming: commands in, results out.
//!
//! A simulated primary and a hub's simulated control plane answer with the same words.

use std::io;

use walhub_proto::command::{Command, parse};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Column, ColumnType, Encoder, Report};
use walhub_proto::wire::reader::decode_frame;

use crate::net::{End, Net};

/// A connection in command mode.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    pub(crate) input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
}

/// What a client asked.
#[derive(Debug)]
pub(crate) enum Asked {
    Command(Command),
    Goodbye,
}

impl Talk {
    /// The next complete request.
    pub(crate) fn next(&mut self) -> Option<Asked> {
        loop {
            let frame = decode_frame(&self.input, 1 << 20)
                .expect("our own clients keep to the protocol")?;
            let (kind, body, len) = (frame.kind, frame.body.to_vec(), frame.len);
            self.input.drain(..len);
            match kind {
                b'Q' => {
                    let text = String::from_utf8(body).expect("text");
                    let text = text.trim_end_matches('\0');
                    let command =
                        parse(text).expect("a valid command").expect("a replication command");
                    return Some(Asked::Command(command));
                }
                b'X' => return Some(Asked::Goodbye),
                // What was on its way when the stream ended: status updates, CopyDone.
                b'd' | b'c' => {}
                other => panic!("unexpected message {other} in command mode"),
            }
        }
    }

    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    pub(crate) fn answer(&mut self, act: impl FnOnce(&mut Encoder)) {
        let mut encoder = Encoder::new();
        act(&mut encoder);
        self.output.extend(encoder.take());
    }

    /// Sends what is queued. `None` when the connection is broken, else whether all is sent.
    pub(crate) fn flush(&mut self, now: u64, net: &mut Net, end: End) -> Option<bool> {
        while self.sent < self.output.len() {
            match net.send(now, end, &self.output[self.sent..])? {
                0 => return Some(false),
                count => self.sent += count,
            }
        }
        self.output.clear();
        self.sent = 0;
        Some(true)
    }

    /// Bytes that the other end has not taken.
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }
}

pub(crate) fn identify(out: &mut Encoder, timeline: TimelineId, lsn: Lsn) {
    out.row_description(&[
        Column::text("systemid", ColumnType::TEXT),
        Column::text("timeline", ColumnType::INT8),
        Column::text("xlogpos", ColumnType::TEXT),
        Column::text("dbname", ColumnType::TEXT),
    ]);
    let system = crate::source::SYSTEM.to_string();
    out.data_row(&[Some(system), Some(timeline.to_string()), Some(lsn.to_string()), None]);
    out.command_complete("IDENTIFY_SYSTEM").ready_for_query(b'I');
}

pub(crate) fn show(out: &mut Encoder, name: &str, value: &str) {
    out.row_description(&[Column::text(name, ColumnType::TEXT)]);
    out.data_row(&[Some(value)]);
    out.command_complete("SHOW").ready_for_query(b'I');
}

pub(crate) fn history(
    out: &mut Encoder,
    timeline: TimelineId,
    content: &io::Result<Option<Vec<u8>>>,
) {
    let name = walhub_proto::history::file_name(timeline);
    let content = match content {
        Ok(Some(content)) => content,
        other => {
            let (sqlstate, error) = match other {
                Err(error) => (SqlState::IO_ERROR, error.to_string()),
                Ok(_) => (SqlState::UNDEFINED_FILE, "No such file or directory".to_owned()),
            };
            let text = format!("could not open file \"pg_wal/{name}\": {error}");
            out.report(&Report::error(sqlstate, text)).ready_for_query(b'I');
            return;
        }
    };
    out.row_description(&[
        Column::text("filename", ColumnType::TEXT),
        Column::text("content", ColumnType::TEXT),
    ]);
    out.data_row(&[Some(name.as_bytes()), Some(&content[..])]);
    out.command_complete("TIMELINE_HISTORY").ready_for_query(b'I');
}

pub(crate) fn read_slot(out: &mut Encoder, slot: Option<(Option<Lsn>, Option<TimelineId>)>) {
    out.row_description(&[
        Column::text("slot_type", ColumnType::TEXT),
        Column::text("restart_lsn", ColumnType::TEXT),
        Column::text("restart_tli", ColumnType::INT8),
    ]);
    let kind = slot.map(|_| "physical".to_owned());
    let (lsn, tli) = slot.unwrap_or_default();
    out.data_row(&[kind, lsn.map(|lsn| lsn.to_string()), tli.map(|tli| tli.to_string())]);
    out.command_complete("READ_REPLICATION_SLOT").ready_for_query(b'I');
}

pub(crate) fn created_slot(out: &mut Encoder, name: &str) {
    out.row_description(&[
        Column::text("slot_name", ColumnType::TEXT),
        Column::text("consistent_point", ColumnType::TEXT),
        Column::text("snapshot_name", ColumnType::TEXT),
        Column::text("output_plugin", ColumnType::TEXT),
    ]);
    out.data_row(&[Some(name), Some("0/0"), None, None]);
    out.command_complete("CREATE_REPLICATION_SLOT").ready_for_query(b'I');
}

/// The results that end START_REPLICATION.
pub(crate) fn stream_ended(out: &mut Encoder, next: Option<(TimelineId, Lsn)>) {
    if let Some((timeline, start)) = next {
        out.row_description(&[
            Column::text("next_tli", ColumnType::INT8),
            Column::text("next_tli_startpos", ColumnType::TEXT),
        ]);
        out.data_row(&[Some(timeline.to_string()), Some(start.to_string())]);
    }
    out.command_complete("START_STREAMING")
        .command_complete("START_REPLICATION")
        .ready_for_query(b'I');
}
