//! Timeline history files: parse, print, switchpoints.
//!
//! A history file lists the timelines that lead to the one it is named after, each with the
//! position where it was left. PostgreSQL copies the parent's file verbatim and adds a line, so the
//! bytes are kept beside what they mean.
//!
//! PostgreSQL: `readTimeLineHistory`, `writeTimeLineHistory`, `tliOfPointInHistory`,
//! `tliSwitchPoint` (src/backend/access/transam/timeline.c).

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::lsn::{Lsn, TimelineId};

/// One timeline's part in a history: from `begin`, inclusive, to `end`, exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryEntry {
    /// The timeline that has this piece of WAL.
    pub tli: TimelineId,
    /// Where it began; [`Lsn::INVALID`] for the first.
    pub begin: Lsn,
    /// Where it was left; `None` for the last.
    pub end: Option<Lsn>,
}

/// The timelines that lead to one timeline, oldest first, itself last.
///
/// Invariants:
/// - There is at least one entry, and timelines increase.
/// - The first begins at [`Lsn::INVALID`], each other one where the one before was left, and only
///   the last has no end: every position is on exactly one timeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineHistory {
    entries: Vec<HistoryEntry>,
    content: Vec<u8>,
}

impl TimelineHistory {
    /// The history of a timeline without parents: timeline 1, or one whose file is lost.
    #[must_use]
    pub fn single(tli: TimelineId) -> Self {
        let entries = vec![HistoryEntry { tli, begin: Lsn::INVALID, end: None }];
        Self { entries, content: Vec::new() }
    }

    /// Parses the history file of `tli`.
    ///
    /// Blank lines and lines that begin with `#` are passed over, and so is what follows the
    /// switchpoint on a line. PostgreSQL: `readTimeLineHistory`.
    ///
    /// # Errors
    /// The first line that is none, or is out of order.
    pub fn parse(content: impl AsRef<[u8]>, tli: TimelineId) -> Result<Self, HistoryError> {
        let content = content.as_ref();
        let mut entries: Vec<HistoryEntry> = Vec::new();
        let mut begin = Lsn::INVALID;
        for (number, line) in content.split(|&byte| byte == b'\n').enumerate() {
            if matches!(line.trim_ascii_start().first(), None | Some(b'#')) {
                continue;
            }
            let error = |rule| HistoryError {
                tli,
                line: number + 1,
                text: String::from_utf8_lossy(line).into_owned(),
                rule,
            };
            let (parent, end) = parse_line(line).map_err(error)?;
            if entries.last().is_some_and(|last| parent <= last.tli) {
                return Err(error(HistoryRule::TimelinesIncrease));
            }
            if parent >= tli {
                return Err(error(HistoryRule::ParentsBeforeChild));
            }
            if end < begin {
                return Err(error(HistoryRule::SwitchpointsIncrease));
            }
            entries.push(HistoryEntry { tli: parent, begin, end: Some(end) });
            begin = end;
        }
        entries.push(HistoryEntry { tli, begin, end: None });
        Ok(Self { entries, content: content.to_vec() })
    }

    /// The history of `tli`, which leaves this one's timeline at `switchpoint`.
    ///
    /// `reason` is for people to read: `no recovery target specified` is PostgreSQL's at a
    /// promotion. PostgreSQL: `writeTimeLineHistory`.
    ///
    /// # Panics
    /// If `tli` is not greater than this timeline, or this one began after `switchpoint`.
    #[must_use]
    pub fn extend(&self, tli: TimelineId, switchpoint: Lsn, reason: &str) -> Self {
        let parent = self.tip();
        assert!(tli > parent.tli, "timeline {tli} after {}", parent.tli);
        assert!(switchpoint >= parent.begin, "switchpoint {switchpoint} before {}", parent.begin);

        let mut content = self.content.clone();
        if !content.is_empty() {
            // The file might not end with a newline; PostgreSQL adds one in any case.
            content.push(b'\n');
        }
        let line = format!("{}\t{switchpoint}\t{reason}\n", parent.tli);
        content.extend_from_slice(line.as_bytes());

        let mut entries = self.entries.clone();
        if let Some(parent) = entries.last_mut() {
            parent.end = Some(switchpoint);
        }
        entries.push(HistoryEntry { tli, begin: switchpoint, end: None });
        Self { entries, content }
    }

    /// Content of the history file, as parsed or extended; empty for a timeline without parents,
    /// which has no file.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// What a standby is told that asks for the history of an earlier timeline of which there is no file;
    /// `None` for the first, which has none anywhere, and for later ones.
    ///
    /// An ancestor's file is the beginning of its descendants', verbatim (PostgreSQL:
    /// `writeTimeLineHistory`). A number that this history skips gets a comment: a timeline without parents,
    /// which no standby follows. A standby needs a file for every number, for it looks for the newest timeline
    /// number by number; without one it asks again and again and receives nothing. PostgreSQL:
    /// `findNewestTimeLine`, `WalRcvFetchTimeLineHistoryFiles`.
    #[must_use]
    pub fn stand_in(&self, tli: TimelineId) -> Option<Vec<u8>> {
        if tli == TimelineId::FIRST || tli >= self.tli() {
            return None;
        }
        if !self.contains(tli) {
            let text = format!(
                "# Timeline {tli} is not in the history of timeline {}, and its history file is not here.\n",
                self.tli()
            );
            return Some(text.into_bytes());
        }
        let before = |line: &&[u8]| {
            matches!(line.trim_ascii_start().first(), None | Some(b'#'))
                || parse_line(line).is_ok_and(|(parent, _)| parent < tli)
        };
        let lines = self.content.split_inclusive(|&byte| byte == b'\n').take_while(before);
        let mut content: Vec<u8> = lines.flatten().copied().collect();
        // The empty line is the child's.
        if content.ends_with(b"\n\n") {
            content.pop();
        }
        Some(content)
    }

    /// All timelines, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The timeline whose history this is.
    #[must_use]
    pub fn tli(&self) -> TimelineId {
        self.tip().tli
    }

    fn tip(&self) -> HistoryEntry {
        let first = HistoryEntry { tli: TimelineId::FIRST, begin: Lsn::INVALID, end: None };
        self.entries.last().copied().unwrap_or(first)
    }

    /// This timeline's part, when it has one. PostgreSQL: `tliInHistory`.
    #[must_use]
    pub fn entry(&self, tli: TimelineId) -> Option<HistoryEntry> {
        self.entries.iter().find(|entry| entry.tli == tli).copied()
    }

    /// Whether `tli` is in the history. PostgreSQL: `tliInHistory`.
    #[must_use]
    pub fn contains(&self, tli: TimelineId) -> bool {
        self.entry(tli).is_some()
    }

    /// Where `tli` was left, and for which timeline; `None` when it was not left or is not in the
    /// history. PostgreSQL: `tliSwitchPoint`.
    #[must_use]
    pub fn switchpoint(&self, tli: TimelineId) -> Option<(Lsn, TimelineId)> {
        let next = self.entries.iter().skip_while(|entry| entry.tli != tli).nth(1)?;
        Some((next.begin, next.tli))
    }

    /// The timeline that the byte at `lsn` belongs to. PostgreSQL: `tliOfPointInHistory`.
    #[must_use]
    pub fn timeline_of(&self, lsn: Lsn) -> TimelineId {
        let holds =
            |entry: &&HistoryEntry| entry.begin <= lsn && entry.end.is_none_or(|end| lsn < end);
        self.entries.iter().find(holds).map_or(self.tli(), |entry| entry.tli)
    }
}

impl fmt::Display for TimelineHistory {
    /// The content of the file; bytes that are not UTF-8 are replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.content))
    }
}

/// Name of the history file of `tli`. PostgreSQL: `TLHistoryFileName`.
#[must_use]
pub fn file_name(tli: TimelineId) -> String {
    format!("{:08X}.history", tli.to_u32())
}

/// The timeline whose history file has this name; `None` when it is no such name.
/// PostgreSQL: `IsTLHistoryFileName`.
#[must_use]
pub fn parse_file_name(name: &str) -> Option<TimelineId> {
    let digits = name.strip_suffix(".history")?;
    let upper_hex = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    if digits.len() != 8 || !digits.bytes().all(upper_hex) {
        return None;
    }
    TimelineId::new(u32::from_str_radix(digits, 16).ok()?)
}

/// Reads `parentTLI switchpoint`, as `sscanf("%u\t%X/%X")` does: any white space, or none, between.
fn parse_line(line: &[u8]) -> Result<(TimelineId, Lsn), HistoryRule> {
    let (tli, rest) = number(line, 10).ok_or(HistoryRule::NumericTimeline)?;
    let tli = TimelineId::new(tli).ok_or(HistoryRule::NumericTimeline)?;
    let (high, rest) = number(rest, 16).ok_or(HistoryRule::Switchpoint)?;
    let rest = rest.strip_prefix(b"/").ok_or(HistoryRule::Switchpoint)?;
    let (low, _) = number(rest, 16).ok_or(HistoryRule::Switchpoint)?;
    Ok((tli, Lsn(u64::from(high) << 32 | u64::from(low))))
}

fn number(text: &[u8], radix: u32) -> Option<(u32, &[u8])> {
    let text = text.trim_ascii_start();
    let is_digit = |byte: &u8| char::from(*byte).is_digit(radix);
    let (digits, rest) = text.split_at(text.iter().take_while(|byte| is_digit(byte)).count());
    let digits = core::str::from_utf8(digits).ok()?;
    Some((u32::from_str_radix(digits, radix).ok()?, rest))
}

/// A history file that breaks a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryError {
    /// The timeline that the history file is of.
    pub tli: TimelineId,
    /// Which line, from one.
    pub line: usize,
    /// The line that broke it, as it stands in the file.
    pub text: String,
    /// What is wrong with it.
    pub rule: HistoryRule,
}

/// The rules for history files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HistoryRule {
    /// A line begins with a timeline.
    NumericTimeline,
    /// Then comes the position where it was left.
    Switchpoint,
    /// Each timeline is greater than its parent.
    TimelinesIncrease,
    /// So is the one whose history this is.
    ParentsBeforeChild,
    /// No timeline was left before it began.
    SwitchpointsIncrease,
}

impl HistoryError {
    /// What PostgreSQL says as HINT.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self.rule {
            HistoryRule::NumericTimeline => "Expected a numeric timeline ID.",
            HistoryRule::Switchpoint => "Expected a write-ahead log switchpoint location.",
            HistoryRule::TimelinesIncrease => "Timeline IDs must be in increasing sequence.",
            HistoryRule::ParentsBeforeChild => {
                "Timeline IDs must be less than child timeline's ID."
            }
            HistoryRule::SwitchpointsIncrease => "Switchpoints must be in increasing sequence.",
        }
    }
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            HistoryRule::NumericTimeline | HistoryRule::Switchpoint => {
                write!(f, "syntax error in history file: {}", self.text)
            }
            HistoryRule::TimelinesIncrease | HistoryRule::SwitchpointsIncrease => {
                write!(f, "invalid data in history file: {}", self.text)
            }
            HistoryRule::ParentsBeforeChild => {
                write!(f, "invalid data in history file \"{}\"", file_name(self.tli))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    #[test]
    fn history_files_parse_as_postgres_reads_them() {
        let text = "# a comment\n\n 1\t0/3000000\tno recovery target specified\n\t# one more\n\
                    \n2 1/A0 before 2000-01-01\n4\t1/a0\n";
        let history = TimelineHistory::parse(text, tli(7)).unwrap();
        let entries: Vec<_> =
            history.entries().iter().map(|e| (e.tli.to_u32(), e.begin.0, e.end)).collect();
        let fork = Lsn(0x1_0000_00A0);
        assert_eq!(
            entries,
            [
                (1, 0, Some(Lsn(0x0300_0000))),
                (2, 0x0300_0000, Some(fork)),
                (4, fork.0, Some(fork)),
                (7, fork.0, None)
            ]
        );
        assert_eq!(history.to_string(), text);
        assert_eq!(history.tli(), tli(7));
        assert_eq!(history.switchpoint(tli(1)), Some((Lsn(0x0300_0000), tli(2))));
        assert_eq!(history.switchpoint(tli(7)), None);
        assert_eq!(history.switchpoint(tli(3)), None);
        assert!(history.contains(tli(4)) && !history.contains(tli(3)));
        for (lsn, want) in
            [(0, 1), (0x02FF_FFFF, 1), (0x0300_0000, 2), (fork.0 - 1, 2), (fork.0, 7)]
        {
            assert_eq!(history.timeline_of(Lsn(lsn)), tli(want), "{}", Lsn(lsn));
        }
    }

    #[test]
    fn errors_name_the_line_and_say_what_postgres_says() {
        let cases = [
            ("x\t0/1", "syntax error in history file: x\t0/1", "Expected a numeric timeline ID."),
            ("0\t0/1", "syntax error in history file: 0\t0/1", "Expected a numeric timeline ID."),
            (
                "1\t0x",
                "syntax error in history file: 1\t0x",
                "Expected a write-ahead log switchpoint location.",
            ),
            (
                "1",
                "syntax error in history file: 1",
                "Expected a write-ahead log switchpoint location.",
            ),
            (
                "2\t0/1\n2\t0/2",
                "invalid data in history file: 2\t0/2",
                "Timeline IDs must be in increasing sequence.",
            ),
            (
                "5\t0/1",
                "invalid data in history file \"00000005.history\"",
                "Timeline IDs must be less than child timeline's ID.",
            ),
            (
                "1\t0/2\n2\t0/1",
                "invalid data in history file: 2\t0/1",
                "Switchpoints must be in increasing sequence.",
            ),
        ];
        for (text, message, hint) in cases {
            let error = TimelineHistory::parse(text, tli(5)).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.hint()), (message, hint));
            assert_eq!(error.line, text.lines().count());
        }
    }

    #[test]
    fn a_promotion_adds_a_line_as_postgres_does() {
        let reason = "no recovery target specified";
        let second = TimelineHistory::single(TimelineId::FIRST).extend(tli(2), Lsn(0x50), reason);
        assert_eq!(second.to_string(), "1\t0/50\tno recovery target specified\n");
        let third = second.extend(tli(3), Lsn(0x60), reason);
        assert_eq!(
            third.to_string(),
            "1\t0/50\tno recovery target specified\n\n2\t0/60\tno recovery target specified\n"
        );
        for history in [second, third] {
            let parsed = TimelineHistory::parse(history.content(), history.tli());
            assert_eq!(parsed, Ok(history));
        }
    }

    #[test]
    fn a_history_that_is_not_here_is_told_as_far_as_it_is_known() {
        let reason = "no recovery target specified";
        let second = TimelineHistory::single(TimelineId::FIRST).extend(tli(2), Lsn(0x50), reason);
        let third = second.extend(tli(3), Lsn(0x60), reason);
        let sixth = third.extend(tli(6), Lsn(0x70), reason);
        for ancestor in [&second, &third] {
            assert_eq!(sixth.stand_in(ancestor.tli()).as_deref(), Some(ancestor.content()));
        }
        for skipped in [tli(4), tli(5)] {
            let content = sixth.stand_in(skipped).unwrap();
            let parsed = TimelineHistory::parse(content, skipped).unwrap();
            assert_eq!(parsed.entries(), TimelineHistory::single(skipped).entries());
        }
        for none in [TimelineId::FIRST, tli(6), tli(7)] {
            assert_eq!(sixth.stand_in(none), None);
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_kept() {
        let content = b"1\t0/50\tat restore point \"\xE9t\xE9\"\n";
        let history = TimelineHistory::parse(content, tli(2)).unwrap();
        assert_eq!(history.content(), content);
    }

    #[test]
    fn file_names_round_trip() {
        assert_eq!(file_name(tli(0x1F)), "0000001F.history");
        assert_eq!(parse_file_name("0000001F.history"), Some(tli(0x1F)));
        for name in ["0000001f.history", "1F.history", "00000000.history", "0000001F.histor", ""] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
