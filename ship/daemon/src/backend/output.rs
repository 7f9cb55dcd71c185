//! The answers of a session in their order: frames that can be sent, and rows that wait.
//!
//! A row that shows where a message lies is known when the message is appended, which is when its transaction
//! commits. What is answered after it waits behind it.
//!
//! Not here: what the rows wait for (`commit`), writing to the client (`session`).

use std::ops::{Deref, DerefMut};

use walhub_proto::wire::backend::{Encoder, Report};

use super::pending::Waiting;

/// Pieces for which there is room without an allocation, once there were so many.
const PIECES_KEPT_MAX: usize = 64;

/// Some of the answers.
pub(super) enum Piece {
    /// So many bytes of the frames, the next ones.
    Frames(usize),
    /// Something to tell before the rows that follow.
    Report(Box<Report>),
    Rows(Waiting),
}

/// The answers. Frames are encoded at its end.
#[derive(Default)]
pub(super) struct Output {
    /// The frames of all pieces one after the other, and those that come after the last piece.
    frames: Encoder,
    /// Empty when nothing waits.
    queue: Vec<Piece>,
    /// Bytes of the frames that belong to pieces.
    queued: usize,
}

impl Deref for Output {
    type Target = Encoder;

    fn deref(&self) -> &Encoder {
        &self.frames
    }
}

impl DerefMut for Output {
    fn deref_mut(&mut self) -> &mut Encoder {
        &mut self.frames
    }
}

impl Output {
    /// Whether rows wait: nothing can be sent before them that is not sent already.
    pub(super) const fn waits(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Bytes of memory that the answers take while they wait and are put together.
    pub(super) fn held_bytes(&self) -> usize {
        2 * self.frames.bytes().len() + self.queue.capacity() * size_of::<Piece>()
    }

    /// Puts rows behind what was answered so far.
    pub(super) fn push(&mut self, rows: Waiting) {
        let len = self.frames.bytes().len() - self.queued;
        if len > 0 {
            self.queued += len;
            self.queue.push(Piece::Frames(len));
        }
        self.queue.push(Piece::Rows(rows));
    }

    /// Tells the client something before the rows that wait.
    pub(super) fn report_first(&mut self, report: &Report) {
        match self.queue.iter().position(|piece| matches!(piece, Piece::Rows(_))) {
            Some(first) => self.queue.insert(first, Piece::Report(Box::new(report.clone()))),
            None => {
                self.frames.report(report);
            }
        }
    }

    /// Takes the pieces and their frames out. What comes behind the last piece is at the end of the frames.
    pub(super) fn take_pieces(&mut self) -> (Vec<Piece>, Vec<u8>) {
        self.queued = 0;
        (std::mem::take(&mut self.queue), self.frames.take())
    }

    /// Gives the room of pieces back that were taken out.
    pub(super) fn give_back(&mut self, mut pieces: Vec<Piece>) {
        pieces.clear();
        if self.queue.is_empty() && pieces.capacity() <= PIECES_KEPT_MAX {
            self.queue = pieces;
        }
    }

    /// Forgets the rows that wait, and everything after the first of them.
    pub(super) fn forget_waiting(&mut self) {
        if !self.waits() {
            return;
        }
        let (pieces, frames) = self.take_pieces();
        let mut rest = &frames[..];
        for piece in pieces {
            match piece {
                Piece::Frames(len) => {
                    let (piece, after) = rest.split_at(len);
                    self.frames.raw(piece);
                    rest = after;
                }
                Piece::Report(report) => {
                    self.frames.report(&report);
                }
                Piece::Rows(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use walhub_proto::lsn::Lsn;
    use walhub_proto::sqlstate::SqlState;
    use walhub_proto::wire::backend::Severity;

    use super::super::pending::Position;
    use super::*;

    fn row() -> Waiting {
        let position = Position::Known(Lsn(1));
        Waiting::Row { position, format: 0, suspends: false, describes: None }
    }

    fn shown(pieces: &[Piece]) -> String {
        let show = |piece: &Piece| match piece {
            Piece::Frames(len) => format!("{len}"),
            Piece::Report(report) => report.message.clone(),
            Piece::Rows(_) => "row".to_owned(),
        };
        pieces.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pieces_come_in_their_order_and_a_report_comes_before_the_rows() {
        let mut output = Output::default();
        assert!(!output.waits());
        output.empty(b'2');
        output.push(row());
        output.push(row());
        output.empty(b'1').empty(b'2');
        output.push(row());
        output.empty(b'Z');
        output.report_first(&Report::new(Severity::Warning, SqlState::WARNING, "first"));
        let (pieces, frames) = output.take_pieces();
        assert_eq!(shown(&pieces), "5 first row row 10 row");
        assert_eq!(frames.len(), 20);
        assert!(!output.waits() && output.bytes().is_empty());
    }

    #[test]
    fn what_is_forgotten_begins_with_the_first_row() {
        let mut output = Output::default();
        let report = Report::new(Severity::Warning, SqlState::WARNING, "first");
        output.empty(b'2');
        output.push(row());
        output.empty(b'1');
        output.report_first(&report);
        output.forget_waiting();
        let mut want = Encoder::new();
        want.empty(b'2').report(&report);
        assert_eq!(output.bytes(), want.bytes());
        assert!(!output.waits());
    }
}
